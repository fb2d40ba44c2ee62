"""`ruchu restore`: bring back an image or a machine."""

from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, Point, group, mac_of, pairs_of, size_of
from ruchu.cli.watching import Watcher
from ruchu.units import format_duration, format_size

app = group("Restore images and machines.")
UNLEASED = "note: the storage takes no lease (full or read-only); nobody else may delete now"


@app.command()
def image(
    context: typer.Context,
    point: Point,
    target: Annotated[Path, typer.Argument(help="New file, or block device.")],
    disk: Annotated[str, typer.Option("--disk", help="Number or name of the disk.")] = "0",
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="The target may exist; devices always do.")
    ] = False,
    json: Json = False,
) -> None:
    """Restore a disk into a raw image, or onto a block device."""
    from ruchu.operations import restores
    from ruchu.recovery.running import Run

    here = session.of(context)
    with here.cancellation.polled(), Watcher() as watcher:
        run = Run(watch=watcher.watch, cancelled=here.cancellation)
        done = restores.restore_image(here.storages, point, disk, target, run, overwrite=overwrite)
    if not done["leased"]:
        output.note(UNLEASED)
    if json:
        output.document(done)
        return
    size, read = format_size(done["size"]), format_size(done["bytes"])
    output.line(f"{target}: {size} ({read} of data), {format_duration(done['seconds'])}")


@app.command()
def vm(
    context: typer.Context,
    point: Point,
    platform: Annotated[
        str | None, typer.Option("--platform", help="Not needed if only one is known.")
    ] = None,
    name: Annotated[str, typer.Option("--as", help="New name of the machine.")] = "",
    directory: Annotated[
        str, typer.Option("--directory", help="Where new images go, on the host.")
    ] = "",
    replace: Annotated[
        bool, typer.Option("--replace", help="Overwrite the machine of that name; it is off.")
    ] = False,
    vcpus: Annotated[int | None, typer.Option("--vcpus", min=1)] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Such as 4GiB.")] = None,
    network: Annotated[
        list[str] | None, typer.Option("--network", metavar="OLD=NEW", help="May be repeated.")
    ] = None,
    mac: Annotated[str, typer.Option("--mac", help="keep or new.")] = "keep",
    disk: Annotated[
        list[str] | None, typer.Option("--disk", help="This disk only; may be repeated.")
    ] = None,
    image_format: Annotated[
        str, typer.Option("--format", help="Format of the new images; else as it was.")
    ] = "",
    start: Annotated[bool, typer.Option("--start", help="Power it on afterwards.")] = False,
    json: Json = False,
) -> None:
    """Restore a machine, as it was or changed, on this or another host."""
    from ruchu.model.machines import Placement
    from ruchu.operations import restores
    from ruchu.recovery.running import Run

    placement = Placement(
        name=name, directory=directory, replace=replace, vcpus=vcpus,
        memory=size_of(memory) if memory else None,
        networks=pairs_of(network or []), macs=mac_of(mac),
        disks=tuple(disk or ()), format=image_format, start=start,
    )  # fmt: skip
    here = session.of(context)
    with here.cancellation.polled(), Watcher() as watcher:
        run = Run(watch=watcher.watch, cancelled=here.cancellation)
        done = restores.restore_machine(
            here.storages, here.platforms, point, platform, placement, run
        )
    _tell_machine(done, json=json)


def _tell_machine(done: dict[str, Any], *, json: bool) -> None:
    if not done["leased"]:
        output.note(UNLEASED)
    if json:
        output.document(done)
        return
    size, read = format_size(done["size"]), format_size(done["bytes"])
    took = format_duration(done["seconds"])
    output.line(f"machine {done['machine']}: {size} ({read} of data), {took}")
