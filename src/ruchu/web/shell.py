"""The frame of every page: navigation, header, language, theme, account; and the way in."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass

from nicegui import ui

from ruchu.errors import RuchuError
from ruchu.model.principals import Right
from ruchu.web import dressing
from ruchu.web.dressing import AUTO, DARK, LIGHT
from ruchu.web.language import LANGUAGES, later
from ruchu.web.parts import acting, empty
from ruchu.web.visiting import PageOf, Visit


@dataclass(frozen=True, slots=True)
class Entry:
    """A line of the navigation.

    Attributes:
        path: of the page.
        title: in English.
        icon: name of a Material icon.
        need: right that its page takes; None: any account.
    """

    path: str
    title: str
    icon: str
    need: Right | None = Right.VIEW


NAVIGATION: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    ("", (
        Entry("/", later("Dashboard"), "dashboard"),
        Entry("/wall", later("Wall view"), "tv"),
    )),
    (later("Protect"), (
        Entry("/policies", later("Policies"), "shield"),
        Entry("/machines", later("Machines"), "computer"),
        Entry("/runs", later("Jobs"), "sync"),
    )),
    (later("Recover"), (
        Entry("/restore", later("Restore"), "settings_backup_restore"),
        Entry("/instants", later("Instant restores"), "bolt"),
    )),
    (later("Infrastructure"), (
        Entry("/platforms", later("Platforms"), "dns"),
        Entry("/storages", later("Storages"), "storage"),
        Entry("/nodes", later("Nodes"), "hub"),
    )),
    (later("Watch"), (
        Entry("/alarms", later("Alarms"), "notifications"),
        Entry("/reports", later("Reports"), "bar_chart"),
        Entry("/audit", later("Audit"), "fact_check", Right.AUDIT),
        Entry("/approvals", later("Approvals"), "how_to_reg"),
    )),
    (later("Administer"), (
        Entry("/users", later("Users and roles"), "group", Right.ACCOUNTS),
        Entry("/settings", later("Settings"), "settings", Right.CONFIGURE),
    )),
)  # fmt: skip
_THEMES = {LIGHT: later("Light"), DARK: later("Dark"), AUTO: later("As the device")}
_THEME_ICONS = {LIGHT: "light_mode", DARK: "dark_mode", AUTO: "brightness_auto"}


@contextlib.contextmanager
def frame(visit: Visit, of: PageOf) -> Iterator[None]:
    """Make the frame of a page; what is made within is its content."""
    dressing.head()
    ui.link(visit.say("To the content"), "#content").classes("r-skip")
    drawer = ui.left_drawer(
        value=None, bordered=False, top_corner=True, bottom_corner=True
    ).classes("r-drawer")
    drawer.props("width=236 breakpoint=1023 show-if-above")
    with drawer:
        _navigation(visit, of)
    with ui.header(elevated=False).classes("r-header"):
        menu = ui.button(icon="menu", on_click=drawer.toggle, color=None)
        menu.props(f'flat round dense aria-label="{visit.say("Menu")}"').classes("r-menu")
        ui.label(visit.say(of.title)).classes("r-header-title")
        ui.space()
        _alarms(visit)
        _language(visit)
        _theme(visit)
        _account(visit)
    with ui.element("div").classes("r-content").props("id=content"):
        yield


@contextlib.contextmanager
def bare(visit: Visit, of: PageOf) -> Iterator[None]:
    """Make a page that comes without navigation, such as the wall."""
    del visit, of
    dressing.head()
    with ui.element("div").classes("r-bare"):
        yield


def _navigation(visit: Visit, of: PageOf) -> None:
    with ui.link(target="/").classes("r-brand"):
        ui.element("img").classes("r-mark").props('src="/_ruchu/mark.svg" alt=""')
        with ui.element("span").classes("r-brand-name"):
            ui.label("Ruchu")
            ui.label("如初").classes("r-brand-zh").props("translate=no")
    with ui.element("nav").props(f'aria-label="{visit.say("Pages")}"').classes("r-nav"):
        for heading, entries in NAVIGATION:
            shown = [each for each in entries if each.need is None or visit.may(each.need)]
            if heading and shown:
                ui.label(visit.say(heading)).classes("r-nav-heading")
            for each in shown:
                _entry(visit, each, of)


def _entry(visit: Visit, entry: Entry, of: PageOf) -> None:
    here = of.path == entry.path or (entry.path != "/" and of.path.startswith(f"{entry.path}/"))
    with ui.link(target=entry.path).classes("r-nav-entry") as link:
        ui.icon(entry.icon).props("aria-hidden=true")
        ui.label(visit.say(entry.title))
    if here:
        link.classes("r-here").props("aria-current=page")


def _alarms(visit: Visit) -> None:
    """Show how many alarms are open, and follow it."""
    with ui.link(target="/alarms").classes("r-header-link") as link:
        ui.icon("notifications").props("aria-hidden=true")
        badge = ui.label("").classes("r-badge")
    badge.set_visibility(False)

    async def refresh() -> None:
        if not visit.may(Right.VIEW):
            return
        count = (await visit.api.get("/alarms/count"))["open"]
        badge.set_text(str(count) if count < 100 else "99+")
        badge.set_visibility(count > 0)
        link.props(f'aria-label="{visit.say("Open alarms: {count}", count=count)}"')

    link.props(f'aria-label="{visit.say("Alarms")}"')
    ui.timer(0.05, lambda: visit.guarded(refresh), once=True)
    visit.live(refresh, "alarm", every_s=3.0)


def _language(visit: Visit) -> None:
    with ui.button(icon="translate", color=None).props("flat round dense") as button:
        button.props(f'aria-label="{visit.say("Language")}"')
        with ui.menu():
            for code, name in LANGUAGES.items():
                choice = ui.menu_item(
                    name, lambda code=code: dressing.choose(dressing.LANGUAGE_COOKIE, code)
                )
                choice.props(f"lang={code}").mark(f"language-{code}")
                if code == visit.language.code:
                    choice.classes("r-chosen")


def _theme(visit: Visit) -> None:
    with ui.button(icon=_THEME_ICONS[visit.theme], color=None).props("flat round dense") as button:
        button.props(f'aria-label="{visit.say("Appearance")}"')
        with ui.menu():
            for theme, name in _THEMES.items():
                choice = ui.menu_item(
                    visit.say(name),
                    lambda theme=theme: dressing.choose(dressing.THEME_COOKIE, theme),
                ).mark(f"theme-{theme}")
                if theme == visit.theme:
                    choice.classes("r-chosen")


def _account(visit: Visit) -> None:
    async def leave() -> None:
        await acting.act(visit, visit.api.delete("/sessions/current"))
        ui.navigate.to("/login")

    with ui.button(icon="account_circle", color=None).props("flat round dense") as button:
        button.props(f'aria-label="{visit.say("Account")}"').mark("account")
        with ui.menu():
            ui.label(visit.principal.name).classes("r-menu-name")
            ui.menu_item(visit.say("My account"), lambda: ui.navigate.to("/account"))
            ui.menu_item(visit.say("Sign out"), leave).mark("sign-out")


def not_allowed(visit: Visit, need: Right) -> None:
    """Show that the visitor may not see a page."""
    empty.empty(
        "lock", visit.say("Your role does not allow this."),
        visit.say("It takes the right “{right}”. Ask an administrator for it.",
                  right=visit.say(acting.RIGHTS[need])),
        level=1,
    )  # fmt: skip


def refused(visit: Visit, error: RuchuError) -> None:
    """Show what went wrong instead of the content of a page."""
    text, hint = visit.language.problem(error), visit.language.hint(error)
    empty.empty("error_outline", text, hint, level=1)
