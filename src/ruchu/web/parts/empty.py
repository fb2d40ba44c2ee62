"""What a page shows when there is nothing to show: why, and what to do next."""

from collections.abc import Callable
from typing import Any

from nicegui import ui


def empty(
    icon: str, title: str, text: str = "", *, action: str = "",
    target: str | Callable[[], Any] = "", level: int = 2,
) -> None:  # fmt: skip
    """Show that there is nothing, and what to do next.

    `target` is the address that the button leads to, or what it does; `level` is that of the title
    among the headings of the page: 1 where it stands instead of the page.
    """
    with ui.element("section").classes("r-empty"):
        ui.icon(icon).classes("r-empty-icon").props("aria-hidden=true")
        ui.label(title).classes("r-empty-title").props(f"role=heading aria-level={level}")
        if text:
            ui.label(text).classes("r-empty-text")
        if action:
            go = target if callable(target) else lambda: ui.navigate.to(target)
            ui.button(action, on_click=go).props("unelevated no-caps color=primary")
