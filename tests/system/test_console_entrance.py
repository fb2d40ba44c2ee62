"""The way into the console, by a browser, and what keeps others out."""

import http.client
import re
import subprocess
import time
from urllib.parse import quote, urlsplit

import pyotp
import pytest
from playwright.sync_api import expect

from ruchu.testing import browsers
from ruchu.testing.browsers import Account, Console
from ruchu.testing.servers import NAME, PASSWORD, Server

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
]
GUARDED = Account("li.na", "nine silver rivers meet the sea")
# What the browser writes into its console when an answer says no.
REFUSED = (r"answer 4\d\d: POST .*/api/v1/", r"console error: Failed to load resource.*4\d\d")


@pytest.fixture(scope="module")
def console(tmp_path_factory):
    with browsers.console(tmp_path_factory.mktemp("console"), "--no-node") as found:
        yield found


@pytest.fixture
def stranger(browser, console):
    """A window in which nobody is signed in."""
    with browsers.visitor(browser, console, account=None) as window:
        yield window


def fill(page, name, password, button="Sign in"):
    page.get_by_label("Name", exact=True).fill(name)
    page.get_by_label("Password", exact=True).fill(password)
    page.get_by_role("button", name=button).click()


def menu(page, name, item):
    page.get_by_role("button", name=name, exact=True).click()
    page.get_by_role("menu").get_by_text(item, exact=True).click()


def at(console, path):
    return f"{console.url}{path}"


def test_the_first_administrator_comes_in_by_the_printed_link(browser, tmp_path):
    server = Server(tmp_path, "--no-node")
    server.process.start()
    try:
        console = Console(server, str(server.process.line["url"]))
        with browsers.visitor(browser, console, account=None) as window:
            window.watch.forgive(*REFUSED)
            page = window.page
            page.goto(server.process.line["link"])
            page.get_by_label("Password again").fill("another one")
            fill(page, NAME, PASSWORD, "Go on")
            expect(page.get_by_role("alert")).to_have_text("The two passwords differ.")
            page.get_by_label("Password again").fill("short")
            fill(page, NAME, "short", "Go on")
            expect(page.get_by_role("alert")).not_to_have_text("The two passwords differ.")
            expect(page).to_have_url(re.compile("/first"))
            page.get_by_label("Password again").fill(PASSWORD)
            fill(page, NAME, PASSWORD, "Go on")
            expect(page).to_have_url(at(console, "/guide"))
            browsers.show(page, "/account")
            expect(page).to_have_url(at(console, "/account"))
            # The link is of no use to whoever finds it later.
            page.goto(server.process.line["link"])
            page.get_by_label("Password again").fill(PASSWORD)
            fill(page, "intruder", PASSWORD, "Go on")
            expect(page.get_by_role("alert")).to_be_visible()
            expect(page).to_have_url(re.compile("/first"))
        server.client.base_url = f"{console.url}/api/v1"
        server.sign_in()
        assert [each["name"] for each in server.get("/users")["items"]] == [NAME]
    finally:
        server.__exit__()


def test_in_and_out(console, stranger):
    stranger.watch.forgive(*REFUSED)
    page = stranger.page
    page.goto("/policies")
    expect(page).to_have_url(at(console, "/login?next=/policies"))
    fill(page, NAME, "not this one, I fear")
    expect(page.get_by_role("alert")).to_have_text("Name or password is not right.")
    assert not [each for each in stranger.context.cookies() if each["httpOnly"]]
    fill(page, NAME, PASSWORD)
    expect(page).to_have_url(at(console, "/policies"))
    browsers.settle(page)
    (session,) = [each for each in stranger.context.cookies() if each["httpOnly"]]
    assert session["sameSite"] == "Strict"
    menu(page, "Account", "Sign out")
    expect(page).to_have_url(at(console, "/login"))
    # Somebody else at the same browser does not come in, with the old cookie neither.
    stranger.context.add_cookies([session])
    page.goto("/policies")
    expect(page).to_have_url(at(console, "/login?next=/policies"))


def test_the_code_of_an_authenticator_is_asked_for(console, stranger):
    server, page = console.server, stranger.page
    stranger.watch.forgive(*REFUSED)
    made = server.post("/users", {"name": GUARDED.name, "grants": {"*": ["operator"]}})
    server.post("/password", {"link": made["link"], "password": GUARDED.password})
    server.sign_in(GUARDED.name, GUARDED.password)
    codes = pyotp.TOTP(server.post("/authenticator")["secret"])
    server.post("/authenticator/confirm", {"code": codes.now()})
    server.sign_in()
    page.goto("/login")
    asked = page.get_by_label("Code of the authenticator")
    expect(asked).to_be_hidden()
    fill(page, GUARDED.name, GUARDED.password)
    expect(asked).to_be_visible()
    # A code counts once, and the one of now was used to confirm; that of the next step is as good.
    asked.fill(codes.at(int(time.time()), counter_offset=1))
    asked.press("Enter")
    expect(page).to_have_url(at(console, "/"))


def test_an_authenticator_reads_the_picture(console, browser, tmp_path):
    """A reader of others sees in it what the server gave; its code turns the authenticator on."""
    server, name = console.server, "pictured"
    made = server.post("/users", {"name": name, "grants": {"*": ["operator"]}})
    server.post("/password", {"link": made["link"], "password": GUARDED.password})
    account = browsers.Account(name, GUARDED.password)
    with browsers.visitor(browser, console, theme="dark", account=account) as window:
        page = window.page
        browsers.show(page, "/account?tab=security")
        page.locator("[data-test=enrol]").click()
        picture = page.locator("[data-test=otp-picture]")
        picture.screenshot(path=tmp_path / "picture.png", animations="disabled")
        read = subprocess.run(["zbarimg", "--quiet", "--raw", tmp_path / "picture.png"],
                              capture_output=True, text=True, timeout=60, check=True)  # fmt: skip
        link = page.locator("[data-test=otp-link]").get_attribute("href")
        assert read.stdout.strip() == link
        page.locator("[data-test=code]").last.fill(pyotp.parse_uri(link).now())
        page.locator("[data-test=confirm]").click()
        expect(page.locator("[data-test=recovery-codes]")).to_be_visible()
        assert server.get(f"/users/{made['user']['id']}")["totp"]


def test_the_language_changes_at_run_time(console, stranger):
    page = stranger.page
    page.goto("/login")
    browsers.settle(page)
    page.get_by_role("button", name="中文").click()
    expect(page.get_by_role("heading", level=1)).to_have_text("登录")
    expect(page.locator("html")).to_have_attribute("lang", "zh-CN")
    browsers.settle(page)
    page.get_by_label("名称", exact=True).fill(NAME)
    page.get_by_label("密码", exact=True).fill(PASSWORD)
    page.get_by_role("button", name="登录").click()
    expect(page.get_by_role("navigation")).to_contain_text("策略")
    browsers.settle(page)
    menu(page, "语言", "English")
    expect(page.get_by_role("navigation")).to_contain_text("Policies")
    expect(page.locator("html")).to_have_attribute("lang", "en-US")


@pytest.mark.parametrize(
    ("wanted", "reached"),
    [
        ("/policies?text=a", "/policies?text=a"),
        ("https://evil.example/", "/"),
        ("//evil.example/", "/"),
        ("/\\evil.example/", "/"),
        ("/\t/evil.example/", "/"),
        ("javascript:document.title='had'", "/"),
    ],
)
def test_signing_in_leads_to_addresses_of_ours_only(console, stranger, wanted, reached):
    stranger.page.goto(f"/login?next={quote(wanted, safe='')}")
    fill(stranger.page, NAME, PASSWORD)
    expect(stranger.page).to_have_url(at(console, reached))


@pytest.mark.parametrize(
    ("origin", "status"),
    [("{url}", 101), ("https://evil.example", 403), ("null", 403), ("{url}.evil.example", 403)],
)
def test_no_other_site_opens_the_live_line(console, origin, status):
    host = urlsplit(console.url).netloc
    headers = {
        "Host": host, "Origin": origin.format(url=console.url), "Connection": "Upgrade",
        "Upgrade": "websocket", "Sec-WebSocket-Version": "13",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
    }  # fmt: skip
    connection = http.client.HTTPConnection(host, timeout=30)
    try:
        line = "/_nicegui_ws/socket.io/?EIO=4&transport=websocket"
        connection.request("GET", line, headers=headers)
        assert connection.getresponse().status == status
    finally:
        connection.close()
