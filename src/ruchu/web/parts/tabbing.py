"""Pages with tabs: each is made when it is looked at first, and has its own address."""

import contextlib
import json
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from ruchu.web.visiting import Visit

QUERY = "tab"


@dataclass(frozen=True, slots=True)
class View:
    """A tab.

    Attributes:
        name: in the address.
        title: translated.
        build: makes its content.
    """

    name: str
    title: str
    build: Callable[[], Awaitable[None]]


async def tabbed(visit: Visit, views: Sequence[View]) -> None:
    """Show tabs; the address says which, so that it can be linked to."""
    names = [view.name for view in views]
    wanted = visit.query.get(QUERY, "")
    first = wanted if wanted in names else names[0]
    built: set[str] = set()
    panels: dict[str, Any] = {}

    async def show(name: str) -> None:
        if name not in built:
            built.add(name)
            with panels[name]:
                await next(view.build for view in views if view.name == name)()

    async def changed(event: Any) -> None:
        address(visit, {QUERY: event.value})
        await visit.guarded(lambda: show(event.value))

    tabs = ui.tabs()
    tabs.props("align=left no-caps inline-label outside-arrows mobile-arrows")
    with tabs:
        for view in views:
            ui.tab(view.name, view.title).props(f"data-test=tab-{view.name}")
    with ui.tab_panels(tabs, value=first, animated=False).props("keep-alive").classes("r-wide"):
        for view in views:
            panels[view.name] = ui.tab_panel(view.name)
    tabs.on_value_change(changed)
    await show(first)


def address(visit: Visit, query: dict[str, str]) -> None:
    """Let the address of the browser say what is shown, without loading it anew."""
    kept = urlencode({key: value for key, value in query.items() if value})
    path = visit.path.partition("?")[0] + (f"?{kept}" if kept else "")
    _ = ui.run_javascript(f"history.replaceState(history.state, '', {json.dumps(path)})")


@contextlib.contextmanager
def head(title: str, lead: str = "") -> Iterator[None]:
    """Show the heading of a tab; what is made within are its acts."""
    with ui.element("div").classes("r-head r-tab-head"):
        with ui.element("div").classes("r-head-words"):
            ui.label(title).classes("r-section").props("role=heading aria-level=2")
            if lead:
                ui.label(lead).classes("r-lead")
        with ui.element("div").classes("r-actions"):
            yield
