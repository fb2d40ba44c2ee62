"""`ruchu instant`: run a point within seconds, move it to production, or let it go."""

from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, Point, group, mac_of, pairs_of, size_of
from ruchu.cli.watching import Watcher
from ruchu.units import format_duration, format_size

app = group("Run points in place: instant restore, and migration to production.")
Name = Annotated[str, typer.Argument(help="Instant restore: name of its machine, or its id.")]
PlatformName = Annotated[str, typer.Option("--platform", help="Not needed if only one is known.")]
NewName = Annotated[str, typer.Option("--as", help="New name of the machine.")]
Protocol = Annotated[str, typer.Option("--protocol", help="nbd or nfs.")]
Address = Annotated[str, typer.Option("--address", help="NFS: address of this host to serve on.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="NETWORK", help="NFS: the hypervisor's addresses."),
]
Cache = Annotated[str, typer.Option("--cache", help="Directory for what the machine writes.")]
Memory = Annotated[str | None, typer.Option("--memory", help="Such as 4GiB.")]
Networks = Annotated[
    list[str] | None, typer.Option("--network", metavar="OLD=NEW", help="May be repeated.")
]
Isolated = Annotated[
    bool, typer.Option("--isolated", help="The links of its network cards are down.")
]
Disks = Annotated[list[str] | None, typer.Option("--disk", help="This disk only; may be repeated.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when the guest agent answers.")]
AGENT_LIMIT_S = 180


@app.command()
def start(
    context: typer.Context,
    point: Point,
    platform: PlatformName = "",
    name: NewName = "",
    protocol: Protocol = "nbd",
    address: Address = "",
    allow: Allow = None,
    cache: Cache = "",
    vcpus: Annotated[int | None, typer.Option("--vcpus", min=1)] = None,
    memory: Memory = None,
    network: Networks = None,
    isolated: Isolated = False,
    mac: Annotated[str, typer.Option("--mac", help="keep or new.")] = "keep",
    disk: Disks = None,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Run a machine of a point from its storage; what it writes goes into a cache."""
    from ruchu.model.ids import new_id
    from ruchu.operations.standby import Standby

    here = session.of(context)
    # Before all else is imported: the export does the same meanwhile.
    standby = Standby(here.directory, point, new_id())

    from ruchu.model.machines import Placement
    from ruchu.operations import instants as service
    from ruchu.recovery.instants import Order

    placement = Placement(
        name=name, vcpus=vcpus, memory=size_of(memory) if memory else None,
        networks=pairs_of(network or []), macs=mac_of(mac), disks=tuple(disk or ()),
        start=True, isolated=isolated,
    )  # fmt: skip
    limit_s = AGENT_LIMIT_S if wait else 0
    order = Order("", platform, placement, protocol, address, tuple(allow or ()), cache, limit_s)
    services = service.Services(here.storages, here.platforms)
    with standby:
        done = service.start(services, point, order, standby)
    if json:
        output.document(done)
        return
    text = f"{done['name']}: served after {format_duration(done['seconds_served'])}, "
    text += f"started after {format_duration(done['seconds_started'])}"
    if done["seconds_agent"] is not None:
        text += f", guest agent after {format_duration(done['seconds_agent'])}"
    elif wait:
        output.note(f"note: no guest agent answered within {AGENT_LIMIT_S} s")
    output.line(f"{text} (instant restore {done['instant'][:8]})")


@app.command("list")
def list_(context: typer.Context, json: Json = False) -> None:
    """List the instant restores of this host."""
    from ruchu.operations import instants as service

    here = session.of(context)
    found = service.listed(service.Services(here.storages, here.platforms))
    if json:
        output.document(found)
        return
    rows = [
        (
            each["instant"][:8], each["name"], each["state"], each["export"], each["point"][:8],
            each["platform"], each["protocol"], _size(each["cache_bytes"]), each["since"][:19],
        )
        for each in found
    ]  # fmt: skip
    headings = ("INSTANT", "NAME", "STATE", "EXPORT", "POINT", "PLATFORM", "PROTOCOL", "WRITTEN")
    output.table((*headings, "SINCE"), rows)


@app.command()
def resume(
    context: typer.Context,
    name: Annotated[str | None, typer.Argument(help="Else all of them.")] = None,
    json: Json = False,
) -> None:
    """Start exports and machines again that do not run, such as after a restart of this host."""
    from ruchu.operations import instants as service

    here = session.of(context)
    found = service.resume(service.Services(here.storages, here.platforms), name)
    for each in found:
        if "error" in each:
            output.note(f"ruchu: {each['name']}: {each['error']}")
        elif not json:
            output.line(f"{each['name']}: {', '.join(each['resumed']) or 'nothing to do'}")
    if json:
        output.document(found)
    if any("error" in each for each in found):
        raise typer.Exit(1)


@app.command()
def stop(
    context: typer.Context,
    name: Name,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep what it wrote, as a new point of the machine.")
    ] = False,
    json: Json = False,
) -> None:
    """End an instant restore; what its machine wrote is gone, unless it is kept."""
    from ruchu.operations import instants as service
    from ruchu.recovery.running import Run

    here = session.of(context)
    services = service.Services(here.storages, here.platforms)
    with here.cancellation.polled(), Watcher() as watcher:
        run = Run(watch=watcher.watch, cancelled=here.cancellation)
        done = service.stop(services, name, keep=keep, run=run)
    if json:
        output.document(done)
    else:
        kept = f"; kept as point {done['kept'][:8]}" if done["kept"] else ""
        moved = "" if done["machine_removed"] else "; no machine was removed"
        output.line(f"{done['name']}: ended{kept}{moved}")


@app.command()
def migrate(
    context: typer.Context,
    name: Name,
    method: Annotated[
        str, typer.Option("--method", help="hypervisor (no pause), or own (a short pause).")
    ] = "hypervisor",
    directory: Annotated[
        str, typer.Option("--directory", help="For the new disks, on the platform's host.")
    ] = "",
    image_format: Annotated[str, typer.Option("--format", help="Of the new disks.")] = "",
    pause_limit: Annotated[
        int, typer.Option("--pause-limit", min=1, help="Seconds that the machine may be held.")
    ] = 10,
    json: Json = False,
) -> None:
    """Move a machine that runs from a point to disks of its own; it goes on running."""
    from ruchu.operations import instants as service
    from ruchu.recovery.migration import Order
    from ruchu.recovery.running import Run

    here = session.of(context)
    services = service.Services(here.storages, here.platforms)
    order = Order(method, directory, image_format, float(pause_limit))
    with here.cancellation.polled(), Watcher() as watcher:
        run = Run(watch=watcher.watch, cancelled=here.cancellation)
        done = service.migrate(services, name, order, run, output.note)
    if json:
        output.document(done)
        return
    pause = f"paused {done['pause_s']:.2f} s" if done["pause_s"] else "no pause"
    took = format_duration(done["seconds"])
    output.line(f"{done['name']}: {format_size(done['size'])} moved in {took}, {pause}")


def _size(size: int | None) -> str:
    return "-" if size is None else format_size(size)
