"""Dialogs that ask for something, and fields as they look in all of them."""

import contextlib
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.web.language import ENGLISH, LANGUAGES
from ruchu.web.visiting import Visit


@contextlib.contextmanager
def dialog(title: str, *, lead: str = "", wide: bool = False) -> Iterator[Any]:
    """Make a dialog that opens at once; what is made within is its content."""
    # In the page itself: a dialog that another one opens must not go when that one does.
    with (
        ui.context.client.content,
        ui.dialog(value=True) as opened,
        ui.card().classes("r-dialog"),
    ):
        made: Any = opened
        made.on("hide", made.delete)
        made.props(f'aria-label="{title}"')
        if wide:
            made.props("full-width").classes("r-dialog-wide")
        ui.label(title).classes("r-dialog-title").props("role=heading aria-level=2")
        if lead:
            ui.label(lead).classes("r-help")
        yield made


def actions(
    visit: Visit, made: Any, name: str, go: Callable[[], Awaitable[bool]], *, tone: str = "primary"
) -> Any:
    """Make the buttons of a dialog; it closes once `go` says that it is done. Return the button."""

    async def act() -> None:
        button.props("loading")
        try:
            done = await go()
        finally:
            button.props(remove="loading")
        if done:
            made.close()

    with ui.element("div").classes("r-dialog-actions"):
        ui.button(visit.say("Cancel"), on_click=made.close).props("flat no-caps")
        button = ui.button(name, on_click=act).props(
            f"unelevated no-caps color={tone} data-test=confirm"
        )
    return button


def field(label: str, name: str, value: str = "", *, help_text: str = "", props: str = "") -> Any:
    """Make a line of text; `name` is what tests find it by."""
    made = ui.input(label, value=value).classes("r-wide")
    return _dressed(made, name, help_text, props)


def secret(label: str, name: str, *, help_text: str = "") -> Any:
    """Make a field whose content is not shown, and never filled in."""
    made = ui.input(label, password=True, password_toggle_button=True).classes("r-wide")
    return _dressed(made, name, help_text, 'autocomplete="new-password"')


def area(label: str, name: str, value: str = "", *, help_text: str = "") -> Any:
    """Make a field of several lines."""
    made = ui.textarea(label, value=value).classes("r-wide")
    return _dressed(made, name, help_text, "autogrow")


def number(
    label: str, name: str, value: float | None, *, least: int = 0, most: int | None = None,
    help_text: str = "",
) -> Any:  # fmt: skip
    """Make a field for a whole number."""
    made = ui.number(label, value=value, min=least, max=most, precision=0).classes("r-wide")
    return _dressed(made, name, help_text, "")


def choice(label: str, name: str, options: Mapping[str, str], value: str) -> Any:
    """Make a field that is one of some."""
    made = ui.select(dict(options), label=label, value=value).classes("r-wide")
    return _dressed(made, name, "", "options-dense")


def language(label: str, value: str) -> Any:
    """Make a field for a language; each goes by its own name, whatever the page speaks."""
    known = value[:2] if value[:2] in LANGUAGES else ENGLISH
    return choice(label, "language", LANGUAGES, known).props("translate=no")


def several(
    label: str, name: str, options: Mapping[str, str], value: Sequence[str], *, help_text: str = ""
) -> Any:
    """Make a field that is any of some."""
    known = [each for each in value if each in options]
    made = ui.select(dict(options), label=label, value=known, multiple=True).classes("r-wide")
    return _dressed(made, name, help_text, "use-chips options-dense")


def switch(label: str, name: str, *, value: bool, help_text: str = "") -> Any:
    """Make a switch, with what it means below."""
    with ui.element("div").classes("r-switch"):
        made = ui.switch(label, value=value).props(f"data-test={name}")
        if help_text:
            ui.label(help_text).classes("r-help")
    return made


def _dressed(made: Any, name: str, help_text: str, props: str) -> Any:
    made.props(f"outlined dense data-test={name} {props}")
    if help_text:
        with made.add_slot("hint"):
            ui.label(help_text)
        made.props("bottom-slots")
    return made.mark(name)


def lines(text: str | None) -> list[str]:
    """Return the lines and parts between commas of a field, without empty ones."""
    parts = (text or "").replace(",", "\n").splitlines()
    return [part.strip() for part in parts if part.strip()]
