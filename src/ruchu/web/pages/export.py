"""Disks of a point as image files for elsewhere."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.pages import files
from ruchu.web.parts import empty, guest_files, headings
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
FORMATS: Mapping[str, tuple[str, str]] = {
    "qcow2": ("qcow2", later("For QEMU, KVM, Proxmox and OpenStack.")),
    "raw": ("raw", later("The bytes of the disk; every product can read or convert it.")),
    "vmdk": ("VMDK", later("For VMware: a tar archive with the descriptor and the disk.")),
    "vhdx": ("VHDX", later("For Hyper-V.")),
    "vhd": ("VHD", later("For older Hyper-V, Azure and XenServer; up to 2 TiB.")),
}


@page("/restore/point/{point}/export", later("Export as an image"), need=Right.RESTORE)
async def export(visit: Visit, point: str) -> None:
    """Show the disks of a point, each with a download."""
    say, storage = visit.say, visit.query.get("storage", "")
    (first, *_) = await visit.api.get(f"/points/{point}")
    files.head(visit, first, say("Disks of {name} as images", name=first["name"]))
    if not first["disks"]:
        empty.empty("album", say("This point has no disks."), "")
        return
    chosen = visit.query.get("format", "")
    with headings.card(say("Format")):
        names = {key: f"{each[0]} — {say(each[1])}" for key, each in FORMATS.items()}
        form = ui.radio(names, value=chosen if chosen in FORMATS else "qcow2")
        form.props("data-test=format").classes("gf-formats")
    with headings.card(say("Disks")):
        for disk in first["disks"]:
            _disk(visit, first["id"], disk, form, storage)
    with ui.element("div").classes("r-note"):
        ui.label(say(
            "A download has the full size of the disk, with all that is empty. "
            "One that breaks off is shown as failed by the browser, and begins anew."
        ))  # fmt: skip


def _disk(visit: Visit, point: str, disk: Found, form: Any, storage: str) -> None:
    say, name = visit.say, str(disk["name"])
    with ui.element("div").classes("gf-disk"):
        ui.icon("album").props("aria-hidden=true")
        with ui.element("div").classes("gf-words"):
            ui.label(name).classes("gf-volume-name")
            ui.label(visit.language.size(disk.get("size"))).classes("r-sub")

        def fetch() -> None:
            ui.download.from_url(guest_files.image_address(point, name, form.value, storage))

        label = say("Download {name}", name=name)
        ui.button(say("Download"), icon="download", on_click=fetch).props(
            f'unelevated no-caps color=primary data-test=fetch-image aria-label="{label}"'
        )
