"""What a page shows while a node is asked: that something comes, and what."""

import contextlib
from collections.abc import Iterator

from nicegui import ui


@contextlib.contextmanager
def waiting(text: str) -> Iterator[None]:
    """Say what is waited for, until that is there."""
    with ui.element("div").classes("rt-waiting").props("role=status") as element:
        ui.spinner(size="1.6em")
        ui.label(text)
    try:
        yield
    finally:
        element.delete()
