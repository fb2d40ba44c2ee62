"""Doing things: calls that succeed or say why not, and acts that take a typed name."""

from collections.abc import Awaitable, Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.visiting import Visit

RIGHTS: Mapping[Right, str] = {
    Right.VIEW: later("see"),
    Right.OPERATE: later("operate: policies and jobs"),
    Right.RESTORE: later("restore"),
    Right.CONFIGURE: later("configure: platforms, storages, nodes, settings"),
    Right.ACCOUNTS: later("manage accounts"),
    Right.AUDIT: later("read the audit trail"),
    Right.APPROVE: later("approve requests"),
}
_FOREVER_MS = 0


async def act(visit: Visit, call: Awaitable[Any], done: str = "") -> Any | None:
    """Await a call; tell what it answered, or why it was refused.

    Returns its answer (True if that is empty), None if it was refused.
    """
    try:
        found = await call
    except Answered as error:
        tell_problem(visit, error)
        return None
    if done:
        ui.notify(done, type="positive", position="top")
    return True if found is None else found


def tell_problem(visit: Visit, error: Answered) -> None:
    """Tell why something was refused, and what to do about it."""
    if error.status == 401:
        ui.navigate.to("/login")
        return
    if error.reason == "needs-approval":
        ui.notify(
            visit.say("This takes a second person. The request waits under “Approvals”."),
            type="info", icon="how_to_reg", position="top", timeout=8000,
        )  # fmt: skip
        return
    _tell(visit, visit.language.problem(error), visit.language.hint(error))


def tell_failure(visit: Visit) -> None:
    """Tell that the console itself failed, where nobody foresaw it."""
    _tell(visit, visit.say("Something went wrong."), visit.say("The log of the server says what."))


def _tell(visit: Visit, text: str, hint: str) -> None:
    ui.notify(
        f"{text}\n{hint}" if hint else text, type="negative", position="top", multi_line=True,
        timeout=_FOREVER_MS, close_button=visit.say("Close"),
        classes="r-problem",
    )  # fmt: skip


async def confirmed(visit: Visit, title: str, losses: Sequence[str], act_name: str) -> bool:
    """Ask whether something shall be done that loses nothing; return the answer."""
    return await _asked(visit, title, losses, act_name, "")


async def confirmed_by_name(
    visit: Visit, title: str, losses: Sequence[str], act_name: str, name: str
) -> bool:
    """Say exactly what will be lost, and let the name of it be typed; return whether it was."""
    return await _asked(visit, title, losses, act_name, name)


async def _asked(visit: Visit, title: str, losses: Sequence[str], act_name: str, name: str) -> bool:
    dialog = ui.dialog()
    with dialog, ui.card().classes("r-dialog"):
        _ = dialog.props(f'aria-label="{title}"')
        ui.label(title).classes("r-dialog-title").props("role=heading aria-level=2")
        if losses:
            with ui.element("ul").classes("r-losses" if name else "r-facts-list"):
                for each in losses:
                    with ui.element("li"):
                        ui.label(each)
        typed = None
        if name:
            ui.label(visit.say("Type {name} to go on:", name=name))
            typed = ui.input(label=name).props("outlined dense autofocus autocomplete=off")
            typed.classes("w-full").mark("typed-name")
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(visit.say("Cancel"), on_click=lambda: dialog.submit(False)).props(
                "flat no-caps"
            )
            go = ui.button(act_name, on_click=lambda: dialog.submit(True)).mark("confirm")
            go.props("unelevated no-caps " + ("color=negative" if name else "color=primary"))
        if typed is not None:
            go.bind_enabled_from(typed, "value", backward=lambda value: value == name)
    answer = await dialog
    dialog.delete()
    return bool(answer)
