"""What is asked of a node takes a moment: pages show that, and then the answer or what is wrong."""

from collections.abc import Awaitable, Callable, Sequence
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web.parts.listing import Fetch, Row
from ruchu.web.visiting import Visit

_SOON_S = 0.05


async def tried(visit: Visit, call: Awaitable[Any]) -> tuple[Any, str]:
    """Await a call; return what it answered, or None and why it was refused.

    Raises:
        Answered: the session has ended.
    """
    try:
        return await call, ""
    except Answered as error:
        if error.status == 401:
            raise
        parts = visit.language.problem(error), visit.language.hint(error)
        return None, " ".join(filter(None, parts))


def later_in(
    visit: Visit, waiting: str, ask: Callable[[], Awaitable[Any]], show: Callable[[Any], None]
) -> Callable[[], Awaitable[None]]:
    """Make a place that says what it waits for, until it shows the answer; return what asks again.

    The page itself does not wait.
    """
    place = ui.element("div").classes("r-wide r-stack")

    async def load() -> None:
        place.clear()
        with place, ui.element("div").classes("r-waiting").props("role=status"):
            ui.spinner(size="1.2em")
            ui.label(waiting)
        found, problem = await tried(visit, ask())
        place.clear()
        with place:
            if problem:
                ui.label(problem).classes("r-note warn").props("role=alert")
            else:
                show(found)

    ui.timer(_SOON_S, lambda: visit.guarded(load), once=True)
    return load


def of_rows(rows: Sequence[Row]) -> Fetch:
    """Return what fetches rows that are known already."""

    async def fetch(after: str, limit: int) -> tuple[Sequence[Row], str | None]:
        begin = int(after or 0)
        following = begin + limit
        return rows[begin:following], str(following) if len(rows) > following else None

    return fetch


def problem(text: str) -> None:
    """Show what is wrong with a thing, in the words of whoever found it."""
    with ui.element("div").classes("r-note bad r-problem-note").props("role=alert"):
        ui.icon("error").props("aria-hidden=true")
        ui.label(text)
