"""What is shown once and has to be taken along: a link, a word, a command."""

import json

from nicegui import ui

from ruchu.web.visiting import Visit


def origin() -> str:
    """Return how the browser of this page calls the server: `https://backup.example.com:8443`."""
    request = ui.context.client.request
    return f"{request.scope['scheme']}://{request.headers.get('host', '')}"


def copied(visit: Visit, text: str, name: str, label: str) -> None:
    """Show a text with a button that copies it."""

    async def copy() -> None:
        # Without HTTPS a browser lets nobody at the clipboard; then the text is selected at least.
        call = f"return await ruchu.copy({json.dumps(text)}, {json.dumps(name)})"
        if await ui.run_javascript(call, timeout=10.0):
            ui.notify(visit.say("Copied."), type="positive", position="top")
        else:
            ui.notify(visit.say("Selected. Press Ctrl+C to copy it."), position="top")

    with ui.element("div").classes("r-copied"):
        shown = (
            ui.label(text)
            .classes("r-code")
            .props(f"data-test={name} tabindex=0 role=textbox aria-readonly=true")
        )
        shown.props(f'aria-label="{label}"')
        button = ui.button(icon="content_copy", on_click=copy, color=None)
        button.props(f'flat round data-test=copy-{name} aria-label="{visit.say("Copy")}"')
