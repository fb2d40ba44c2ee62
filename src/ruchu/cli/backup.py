"""`ruchu backup`: save an image, a device, or machines."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import LEVEL_DEFAULT, Json, Level, StorageOption, group
from ruchu.cli.watching import Watcher
from ruchu.units import format_duration, format_size

LeaveOut = Annotated[
    str,
    typer.Option(
        "--leave-out",
        metavar="WHAT",
        help="What does not count: all, none, or some of free, swap, pagefile, hiberfil, "
        "swapfile, gaps, recycle-bin.",
    ),
]
DisksOption = Annotated[
    list[str] | None, typer.Option("--disk", help="This disk only; may be repeated.")
]
SnapshotOption = Annotated[
    str, typer.Option("--snapshot", help="serial, parallel, or barrier: all at one moment.")
]
app = group("Back up machines, images and devices.")
KindOption = Annotated[
    str, typer.Option("--kind", help="full, incremental or differential; the first is a full.")
]


@app.command()
def image(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Image or block device.")],
    storage: StorageOption,
    name: Annotated[str, typer.Option("--name", help="Object: later runs find it by this name.")],
    kind: KindOption = "incremental",
    changes: Annotated[
        Path | None,
        typer.Option("--changes", help="Changed ranges since the base: `start length` a line."),
    ] = None,
    raw: Annotated[
        bool, typer.Option("--raw", help="Take the bytes as they are, whatever the format.")
    ] = False,
    leave_out: LeaveOut = "none",
    level: Level = LEVEL_DEFAULT,
    json: Json = False,
) -> None:
    """Back up the disk in an image, or a block device; it is opened read-only."""
    from ruchu.operations import backups
    from ruchu.protection.running import Run

    here = session.of(context)
    request = (backups.kind_of(kind), changes)
    with here.cancellation.polled(), Watcher() as watcher:
        run = Run(
            level=level, watch=watcher.watch, cancelled=here.cancellation,
            leave_out=backups.left_out_of(leave_out),
        )  # fmt: skip
        done = backups.back_up_image(here.storages, storage, name, path, request, run, raw=raw)
    if done["format"] != "raw":
        output.note(f"note: {path} is a {done['format']} image; what was saved is the disk in it")
    if done["source_changed"]:
        output.note(f"warning: {path} changed while it was read; this point may be torn")
    for reason in done["reasons"]:
        output.note(f"note: {reason['code']}: {reason['text']}")
    if json:
        output.document(done)
    else:
        output.line(_summary(done))


def _summary(done: dict[str, Any]) -> str:
    read, stored = format_size(done["bytes_read"]), format_size(done["bytes_stored"])
    left_out = sum(_left_out(done).values())
    saved = f", {format_size(left_out)} left out" if left_out else ""
    return (
        f"{done['name']}: point {done['point'][:8]} ({done['kind']}), {read} read, "
        f"{stored} stored{saved}, {format_duration(done['seconds'])}"
    )


def _left_out(done: dict[str, Any]) -> dict[str, int]:
    """Return the bytes that were left out, by reason, over all disks."""
    sums: dict[str, int] = dict(done.get("left_out", {}))
    for disk in done.get("disks", ()):
        for reason, count in disk.get("left_out", {}).items():
            sums[reason] = sums.get(reason, 0) + count
    return sums


@app.command()
def vm(
    context: typer.Context,
    names: Annotated[list[str], typer.Argument(metavar="NAME...", help="Machines: name or id.")],
    storage: StorageOption,
    platform: Annotated[
        str | None, typer.Option("--platform", help="Not needed if only one is known.")
    ] = None,
    kind: KindOption = "incremental",
    disk: DisksOption = None,
    snapshot: SnapshotOption = "serial",
    no_quiesce: Annotated[
        bool, typer.Option("--no-quiesce", help="Do not freeze the guest's file systems.")
    ] = False,
    parallel: Annotated[
        int, typer.Option("--parallel", min=1, max=64, help="Machines copied at the same time.")
    ] = 2,
    leave_out: LeaveOut = "none",
    level: Level = LEVEL_DEFAULT,
    json: Json = False,
) -> None:
    """Back up machines; one that fails does not stop the others."""
    from ruchu.operations import backups, machine_backups
    from ruchu.protection.machine import Order
    from ruchu.protection.running import Run

    here = session.of(context)
    order = Order(
        names=tuple(names),
        kind=backups.kind_of(kind),
        disks=tuple(disk or ()),
        snapshots=machine_backups.snapshots_of(snapshot),
        quiesce=not no_quiesce,
        parallel=parallel,
    )
    places = (storage, platform)
    with here.cancellation.polled(), Watcher() as watcher:
        run = Run(
            level=level, watch=watcher.watch, cancelled=here.cancellation,
            leave_out=backups.left_out_of(leave_out),
        )  # fmt: skip
        results = machine_backups.back_up_machines(
            here.storages, here.platforms, places, order, run
        )
    found = [machine_backups.machine_fields(result, storage) for result in results]
    for each in found:
        tell_machine(each, quiet=json)
    if json:
        output.document(found)
    if status := machine_backups.exit_status(results):
        raise typer.Exit(status)


def tell_machine(done: dict[str, Any], *, quiet: bool) -> None:
    """Say how the backup of a machine went."""
    if not done["ok"]:
        output.note(f"ruchu: {done['machine']}: {done['error']['message']}")
        for key in ("hint", "traceback"):
            if done["error"].get(key):
                output.note(f"  {done['error'][key]}")
        return
    for reason in done["reasons"]:
        where = f"{done['machine']}/{reason['disk']}" if reason["disk"] else done["machine"]
        output.note(f"note: {where}: {reason['code']}: {reason['text']}")
    for text in done["cleaned"]:
        output.note(f"note: {done['machine']}: cleaned up: {text}")
    if not quiet:
        frozen = f", frozen {done['frozen_s']:.2f} s" if done["frozen_s"] else ""
        output.line(f"{_summary({'name': done['machine'], **done})}, {done['consistency']}{frozen}")
