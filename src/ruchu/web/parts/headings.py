"""The head of a page and the pairs in which facts are shown."""

import contextlib
from collections.abc import Iterator, Mapping
from typing import Any

from nicegui import ui


@contextlib.contextmanager
def head(title: str, lead: str = "") -> Iterator[None]:
    """Show the title of a page and what it is for; what is made within are its actions."""
    with ui.element("div").classes("r-head"):
        with ui.element("div").classes("r-head-words"):
            ui.label(title).classes("r-title").props("role=heading aria-level=1")
            if lead:
                ui.label(lead).classes("r-lead")
        with ui.element("div").classes("r-actions"):
            yield


@contextlib.contextmanager
def card(title: str = "", classes: str = "") -> Iterator[Any]:
    """Make a card."""
    with ui.element("section").classes(f"r-card {classes}") as element:
        if title:
            ui.label(title).classes("r-card-title").props("role=heading aria-level=2")
        yield element


def facts(pairs: Mapping[str, Any]) -> None:
    """Show pairs of a name and a text; a callable makes its own elements."""
    with ui.element("dl").classes("r-facts"):
        for name, value in pairs.items():
            with ui.element("dt"):
                ui.label(name)
            with ui.element("dd"):
                if callable(value):
                    value()
                else:
                    ui.label(str(value))


def figure(name: str, value: str, more: str = "") -> tuple[Any, Any]:
    """Show a figure with its name; return the labels of the figure and of what is below it."""
    with ui.element("div").classes("r-figure"):
        ui.label(name).classes("r-figure-name")
        shown = ui.label(value).classes("r-figure-value")
        below = ui.label(more).classes("r-figure-more")
    return shown, below
