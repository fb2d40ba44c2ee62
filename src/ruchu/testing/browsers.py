"""The console as a person meets it: a real server, and Debian's Chromium that watches for faults.

    with browsers.console(tmp_path) as console, browsers.browser() as browser:
        with browsers.visitor(browser, console, size=browsers.PHONE, language="zh") as visitor:
            browsers.show(visitor.page, "/policies")
            browsers.no_horizontal_scroll(visitor.page)

`console` and `browser` belong into fixtures of a module: while Playwright runs, its event loop
does, so that it must have ended before another module's tests start loops of their own.
"""

import contextlib
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from playwright.sync_api import (
    Browser,
    BrowserContext,
    ConsoleMessage,
    Page,
    Request,
    Response,
    ViewportSize,
    WebError,
    expect,
    sync_playwright,
)
from playwright.sync_api import (
    TimeoutError as NotInTime,
)

from ruchu.testing import servers
from ruchu.testing.servers import Server

CHROMIUM = "/usr/bin/chromium"
DESKTOP = ViewportSize(width=1440, height=900)
TABLET = ViewportSize(width=820, height=1180)
PHONE = ViewportSize(width=390, height=844)
SIZES = {"desktop": DESKTOP, "tablet": TABLET, "phone": PHONE}
_LOCALES = {"en": "en-GB", "zh": "zh-CN"}
# CI shares two cores among tests; what is there sooner is not waited for.
WAIT_MS = 30_000
# A browser drops what it was fetching when it is led elsewhere; nobody misses it.
_DROPPED = "net::ERR_ABORTED"
# The line of a page is up: what it shows from here on is what the server says.
_CONNECTED = "() => window.did_handshake === true && window.socket.connected"
# Fonts are there, nothing has changed for a moment, so that what pages fetch after they were shown
# is in place, what moves has arrived, and every picture of the page has come or failed.
_DRAWN = """async () => {
    const limit = performance.now() + 10000;
    await document.fonts.ready;
    await new Promise((resolve) => {
        const done = () => { watching.disconnect(); resolve(); };
        let timer = setTimeout(done, 250);
        const watching = new MutationObserver(() => {
            clearTimeout(timer);
            timer = setTimeout(done, performance.now() < limit ? 250 : 0);
        });
        watching.observe(document.body, {subtree: true, childList: true, characterData: true});
    });
    const moving = document.getAnimations().filter(
        (each) => Number.isFinite(each.effect.getComputedTiming().endTime));
    await Promise.all(moving.map((each) => each.finished.catch(() => null)));
    await Promise.all([...document.images].filter((each) => !each.complete).map(
        (each) => new Promise((resolve) => { each.onload = each.onerror = resolve; })));
}"""

# A page that was made narrower needs a moment until its navigation is out of the way.
_FIT_MS = 3_000
_FITS = "() => document.documentElement.scrollWidth <= document.documentElement.clientWidth"
# The innermost elements that do.
_STANDS_OUT = """() => {
    const room = document.documentElement.clientWidth;
    const wide = [...document.querySelectorAll('body *')].filter(
        (each) => each.getBoundingClientRect().right > room + 1);
    return wide.filter((each) => !wide.some((other) => other !== each && each.contains(other)))
        .slice(0, 6)
        .map((each) => `${each.tagName}.${each.className} ${each.textContent.slice(0, 40)}`);
}"""


@dataclass(frozen=True, slots=True)
class Account:
    """Whom a browser signs in."""

    name: str = servers.NAME
    password: str = servers.PASSWORD


ADMINISTRATOR = Account()


@dataclass(frozen=True, slots=True)
class Console:
    """A server with the console: its address, and its administrator.

    Attributes:
        server: to ask and to fill it.
        url: such as `http://127.0.0.1:40001`, the same after `restart`.
    """

    server: Server
    url: str
    account: Account = ADMINISTRATOR

    def kill(self) -> None:
        """End the server as a power cut would."""
        self.server.process.kill()

    def start(self) -> None:
        """Start it again, at the same address; the session of `server` goes on."""
        self.server.process.start()


@contextlib.contextmanager
def console(home: Path, *options: str) -> Iterator[Console]:
    """Run a server with the console on a free port; its administrator is made.

    What the server said last is added to whatever fails meanwhile: a page tells only half of it.
    """
    with Server(home, *options) as server:
        url = str(server.process.line["url"])
        command = server.process.command
        command[command.index("--listen") + 1] = url.partition("://")[2]
        try:
            yield Console(server, url)
        except BaseException as error:
            error.add_note(f"The server said last:\n{server.said()}")
            raise


@contextlib.contextmanager
def browser() -> Iterator[Browser]:
    """Start Chromium."""
    os.environ["PLAYWRIGHT_SKIP_BROWSER_DOWNLOAD"] = "1"
    expect.set_options(timeout=WAIT_MS)
    with sync_playwright() as playwright:
        started = playwright.chromium.launch(
            executable_path=CHROMIUM, args=["--no-sandbox", "--font-render-hinting=none"]
        )
        try:
            yield started
        finally:
            started.close()


class Watch:
    """Collects what must not happen in a browser.

    Attributes:
        faults: what was seen, in words.
    """

    def __init__(self, context: BrowserContext, url: str) -> None:
        self.faults: list[str] = []
        self._host = urlsplit(url).netloc
        self._forgiven: list[re.Pattern[str]] = []
        context.on("console", self._console)
        context.on("weberror", self._error)
        context.on("request", self._request)
        context.on("requestfailed", self._failed)
        context.on("response", self._response)

    def forgive(self, *patterns: str) -> None:
        """Pass over faults that a test brings about itself."""
        self._forgiven += [re.compile(each) for each in patterns]

    def check(self) -> None:
        """Fail if anything was seen, and forget it."""
        seen, self.faults = self.faults, []
        assert not seen, "\n".join(seen)

    def _fault(self, text: str) -> None:
        if not any(each.search(text) for each in self._forgiven):
            self.faults.append(text)

    def _console(self, message: ConsoleMessage) -> None:
        if message.type in {"error", "warning"}:
            where = message.page.url if message.page else ""
            self._fault(f"{where}: console {message.type}: {message.text} {message.location}")

    def _error(self, error: WebError) -> None:
        where = error.page.url if error.page else ""
        self._fault(f"{where}: page error: {error.error}")

    def _request(self, request: Request) -> None:
        there = urlsplit(request.url)
        if there.scheme not in {"data", "blob"} and there.netloc != self._host:
            self._fault(f"request to another host: {request.url}")

    def _failed(self, request: Request) -> None:
        if request.failure != _DROPPED:
            self._fault(f"request failed: {request.method} {request.url}: {request.failure}")

    def _response(self, response: Response) -> None:
        if response.status >= 400:
            self._fault(f"answer {response.status}: {response.request.method} {response.url}")


@dataclass(frozen=True, slots=True)
class Visitor:
    """A browser window of somebody, with a first page, and what watches over all its pages."""

    page: Page
    context: BrowserContext
    watch: Watch


@contextlib.contextmanager
def visitor(
    started: Browser, of: Console, *, size: ViewportSize = DESKTOP, language: str = "en",
    theme: str = "light", account: Account | None = ADMINISTRATOR,
) -> Iterator[Visitor]:  # fmt: skip
    """Open a window in a size, a language and a theme; fail at the end if its watch saw a fault.

    The account is signed in; None: nobody is.
    """
    context = started.new_context(
        viewport=size, locale=_LOCALES[language], base_url=of.url, reduced_motion="reduce",
        has_touch=size != DESKTOP,
    )  # fmt: skip
    context.set_default_timeout(WAIT_MS)
    try:
        choose(context, of.url, language=language, theme=theme)
        if account is not None:
            sign_in(context, account)
        watch = Watch(context, of.url)
        try:
            yield Visitor(context.new_page(), context, watch)
        except BaseException as error:
            error.add_note("\n".join(["Its browser saw:", *watch.faults]))
            raise
        watch.check()
    finally:
        context.close()


def choose(context: BrowserContext, url: str, *, language: str = "", theme: str = "") -> None:
    """Keep a choice of language or theme, as the menus of the console do."""
    chosen = {"ruchu_language": language, "ruchu_theme": theme}
    context.add_cookies(
        [{"name": name, "value": value, "url": url} for name, value in chosen.items() if value]
    )


def sign_in(context: BrowserContext, account: Account) -> None:
    """Sign in, so that the context has the cookie of a session."""
    body = {"name": account.name, "password": account.password, "cookie": True}
    answer = context.request.post("/api/v1/sessions", data=body)
    assert answer.status == 201, answer.text()


def show(page: Page, path: str) -> None:
    """Open a page, and wait until its line to the server is up and all is drawn."""
    page.goto(path)
    settle(page)


def settle(page: Page) -> None:
    """Wait until a page's line to the server is up, and all is drawn."""
    page.wait_for_function(_CONNECTED)
    page.evaluate(_DRAWN)


def arrived(page: Page, address: str | re.Pattern[str]) -> None:
    """Wait until a page has come to an address, and answers who presses its buttons.

    What is pressed before its line to the server is up is lost.
    """
    page.wait_for_url(address)
    settle(page)


def no_horizontal_scroll(page: Page) -> None:
    """Fail if a page is wider than its window, and stays so; tell what stands out."""
    try:
        page.wait_for_function(_FITS, timeout=_FIT_MS)
    except NotInTime:
        wide = page.evaluate(_STANDS_OUT)
        raise AssertionError(f"{page.url} is wider than its window: {wide}") from None
