"""Asks where files of a point shall go in a running machine, and starts the run that sends them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ruchu.web.language import Language
from ruchu.web.parts import acting, guest_files
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
MACHINES_MAX = 200
PLACE = "/root/ruchu"


@dataclass(frozen=True, slots=True)
class Wanted:
    """Where files shall go."""

    platform: str
    machine: str
    directory: str
    overwrite: bool


def losses(language: Language, wanted: Wanted, names: Sequence[str]) -> list[str]:
    """Return what is lost where files are replaced, in words."""
    say = language.say
    return [
        say("In {directory} of {machine}, files of these names are replaced, also in the folders:",
            directory=wanted.directory, machine=wanted.machine),
        *names,
        say("What the machine has there now cannot be brought back by this."),
    ]  # fmt: skip


async def send(
    visit: Visit, point: Found, keys: Sequence[str], names: Sequence[str], storage: str
) -> None:
    """Ask, and start it."""
    wanted = await _asked(visit, point, names)
    if wanted is None:
        return
    say = visit.say
    if wanted.overwrite and not await acting.confirmed_by_name(
        visit, say("Replace files in {machine}", machine=wanted.machine),
        losses(visit.language, wanted, names), say("Send and replace"), wanted.machine,
    ):  # fmt: skip
        return
    body = {
        "keys": list(keys), "machine": wanted.machine, "platform": wanted.platform,
        "directory": wanted.directory, "overwrite": wanted.overwrite, "storage": storage,
    }  # fmt: skip
    path = f"/points/{point['id']}/files/return"
    run = await acting.act(visit, visit.api.post(path, body))
    if run is not None:
        ui.navigate.to(f"/runs/{run['id']}")


async def _asked(visit: Visit, point: Found, names: Sequence[str]) -> Wanted | None:
    say = visit.say
    platforms = [each["name"] for each in await visit.api.get("/platforms")]
    if not platforms:
        ui.notify(say("There is no platform whose machine they could be sent to."),
                  type="warning", position="top")  # fmt: skip
        return None
    chosen = point["platform"] if point["platform"] in platforms else platforms[0]
    found = await visit.api.get("/machines", platform=chosen, limit=MACHINES_MAX)
    machines = sorted({each["name"] for each in found["items"]})
    with ui.dialog() as dialog, ui.card().classes("r-dialog"):
        title = say("Send back to the machine")
        _ = dialog.props(f'aria-label="{title}"')
        ui.label(title).classes("r-dialog-title").props("role=heading aria-level=2")
        ui.label(say("It must run, with the guest agent in it.")).classes("r-help")
        with ui.element("ul").classes("r-facts-list"):
            for name in names:
                with ui.element("li"):
                    ui.label(name)
        platform = ui.select(platforms, value=chosen, label=say("Platform"))
        platform.props("outlined dense").classes("r-wide")
        machine = ui.input(say("Machine"), value=point["name"], autocomplete=machines)
        machine.props("outlined dense data-test=machine").classes("r-wide")
        directory = ui.input(say("Folder in the machine"), value=PLACE)
        directory.props("outlined dense data-test=directory").classes("r-wide")
        overwrite = ui.checkbox(say("Replace files that exist")).props("data-test=overwrite")
        complaint = ui.label("").classes("r-complaint").props("role=alert")
        complaint.set_visibility(False)

        def go() -> None:
            where = (directory.value or "").strip()
            if not (machine.value or "").strip() or not guest_files.is_directory_of_guest(where):
                complaint.set_text(say("It takes a machine, and a folder that begins with /."))
                complaint.set_visibility(True)
                return
            dialog.submit(Wanted(platform.value, machine.value.strip(), where, overwrite.value))

        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Cancel"), on_click=lambda: dialog.submit(None)).props("flat no-caps")
            ui.button(say("Send"), icon="reply", on_click=go).props(
                "unelevated no-caps color=primary data-test=send"
            )
    answer = await dialog
    dialog.delete()
    return answer if isinstance(answer, Wanted) else None
