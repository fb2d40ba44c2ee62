"""Every page of the console, on a server with a month behind it, in both languages and themes.

`make test` looks at each on a desktop and on a phone, `make long` in all twelve looks.
"""

import contextlib
import functools
import itertools
import os
import re
from importlib import resources

import pytest

from ruchu.testing import browsers, console_sample
from ruchu.testing.browsers import PHONE, SIZES
from ruchu.web import language, visiting
from ruchu.web.language import CHINESE, ENGLISH, Language

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
]
PAGES = console_sample.pages()
ENTRANCES = {"/login": "Sign in", "/first": "First administrator", "/password": "Choose a password"}
# Each page is looked at as these, and each must fit on a phone.
LOOKS = (
    list(itertools.product((ENGLISH, CHINESE), SIZES, ("light", "dark")))
    if os.environ.get("RUCHU_PROFILE") == "faults"
    else [(ENGLISH, "desktop", "light"), (CHINESE, "phone", "dark")]
)
_HAN = re.compile(r"[\u3400-\u9fff]")
# What a person reads or is read: texts and labels, without names of things and of languages.
_TEXTS = """() => {
    const apart = (element) => element.closest(
        'script, style, noscript, .q-icon, [translate=no], body [lang]');
    const shown = (element) => element.checkVisibility({visibilityProperty: true});
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const text = walker.currentNode.textContent.trim();
        if (text && !apart(element) && shown(element)) found.push(text);
    }
    for (const name of ['aria-label', 'placeholder', 'title', 'alt'])
        for (const element of document.querySelectorAll(`body [${name}]`))
            if (element.getAttribute(name).trim() && !apart(element) && shown(element))
                found.push(element.getAttribute(name).trim());
    return [...new Set(found)];
}"""
_HEADINGS = """() => [...document.querySelectorAll('h1, [role=heading][aria-level="1"]')]
    .filter((each) => each.checkVisibility({visibilityProperty: true}))
    .map((each) => each.textContent.trim())"""
_AXE = """async () => {
    const found = await axe.run(document, {resultTypes: ['violations']});
    return found.violations.filter((each) => ['serious', 'critical'].includes(each.impact)).map(
        (each) => `${each.impact}: ${each.id}: ` + each.nodes.slice(0, 4).map(
            (node) => `${node.target} ${node.failureSummary}`.replaceAll('\\n', ' ')).join(' | '));
}"""


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    with console_sample.sample(tmp_path_factory.mktemp("sample")) as found:
        yield found


@pytest.fixture(scope="module")
def windows(made, browser):
    """A window of each look, kept open from page to page."""
    with contextlib.ExitStack() as stack:
        yield {
            look: stack.enter_context(browsers.visitor(browser, made.console, **options(look)))
            for look in LOOKS
        }


def options(look):
    code, size, theme = look
    return {"size": SIZES[size], "theme": theme, "language": code}


@pytest.mark.parametrize("path", PAGES)
def test_a_page_is_whole(made, windows, path):
    title = visiting.PAGES[path].title
    address = made.address(path)
    wrong = [
        fault for look, window in windows.items() for fault in faults(window, address, title, look)
    ]
    assert not wrong, "\n".join(wrong)


@pytest.mark.parametrize("path", ["/runs/none", "/policies/none", "/machines/none/none"])
def test_what_is_not_there_is_said_under_a_heading(windows, path):
    for look, window in windows.items():
        window.watch.forgive(f"answer 404: GET .*{path}")
        browsers.show(window.page, path)
        (heading,) = window.page.evaluate(_HEADINGS)
        assert bool(_HAN.search(heading)) == (look[0] == CHINESE), heading


@pytest.mark.parametrize("path", ENTRANCES)
def test_an_entrance_is_whole(made, browser, path):
    wrong = []
    for look in LOOKS:
        with browsers.visitor(browser, made.console, **options(look), account=None) as window:
            wrong += faults(window, path, ENTRANCES[path], look)
    assert not wrong, "\n".join(wrong)


def faults(window, address, title, look):
    """Yield what is wrong with a page."""
    page, code = window.page, look[0]
    title = Language(code).say(title)
    where = f"{address} [{' '.join(look)}]"
    page.set_viewport_size(SIZES[look[1]])
    browsers.show(page, address)
    if page.title() != f"{title} · Ruchu":
        yield f"{where}: its title is {page.title()!r}, not {title!r}"
    # A page with a chart is drawn once the library of charts is there, which a busy machine delays.
    with contextlib.suppress(browsers.NotInTime):
        page.wait_for_function(f"({_HEADINGS})().length > 0")
    headings = page.evaluate(_HEADINGS)
    if len(headings) != 1:
        yield f"{where}: headings of the first level: {headings}"
    yield from (f"{where}: not translated: {text!r}" for text in foreign(page, code))
    page.evaluate(axe())
    yield from (f"{where}: {found}" for found in page.evaluate(_AXE))
    yield from too_wide(page, where)
    page.set_viewport_size(PHONE)
    yield from too_wide(page, where)
    yield from window.watch.faults
    window.watch.faults.clear()


def too_wide(page, where):
    try:
        browsers.no_horizontal_scroll(page)
    except AssertionError as error:
        yield f"{where}: {error}"


@functools.cache
def axe():
    return (resources.files("axe_playwright_python") / "axe.min.js").read_text("utf-8")


# ------------------------------------------------------------------------------------- languages


def foreign(page, code):
    """Return the texts of a page that are in the other language."""
    texts = page.evaluate(_TEXTS)
    if code == CHINESE:
        return [text for text in texts if is_english(text)]
    return [text for text in texts if _HAN.search(without_names(text))]


def without_names(text):
    for _, display, _, _ in console_sample._PEOPLE:
        text = text.replace(display, "")
    return text


def is_english(text):
    return any(pattern.fullmatch(text) for pattern in english()) or text in plain()


@functools.cache
def plain():
    """The English texts that read otherwise in Chinese."""
    known = language.catalogue(CHINESE)
    return {text for text, chinese in known.items() if chinese != text and "{" not in text}


@functools.cache
def english():
    """Patterns of the English texts with facts in them, as far as they have words of their own."""
    found = []
    for text, chinese in language.catalogue(CHINESE).items():
        words = re.split(r"{[^}]*}", text)
        if len(words) > 1 and chinese != text and re.search(r"[A-Za-z]{3}", "".join(words)):
            found.append(re.compile(".+".join(re.escape(word) for word in words), re.DOTALL))
    return found
