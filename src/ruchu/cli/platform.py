"""`ruchu platform` and `ruchu inventory`: where machines run."""

from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, group
from ruchu.units import format_size

app = group("Platforms: where machines run.")
Name = Annotated[str, typer.Argument(help="Name of the platform.")]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    uri: Annotated[
        str, typer.Argument(help="Such as qemu:///system, qemu+ssh://root@host/system.")
    ],
    scratch: Annotated[
        str, typer.Option("--scratch", help="Directory on that host for scratch files.")
    ] = "",
    json: Json = False,
) -> None:
    """Know a platform from now on; `platform check` asks whether it answers."""
    entry = session.of(context).platforms.add(name, uri, scratch)
    if json:
        output.document({"name": entry.name, "uri": entry.uri, "scratch": entry.scratch})
    else:
        output.line(f"{entry.name}: {entry.uri}")


@app.command("list")
def list_platforms(context: typer.Context, json: Json = False) -> None:
    """List the platforms that are known here."""
    known = session.of(context).platforms.known()
    if json:
        output.document(known)
    else:
        names = ("name", "kind", "uri", "scratch")
        output.table(names, ([each[name] or None for name in names] for each in known))


@app.command()
def check(context: typer.Context, name: Name, json: Json = False) -> None:
    """Ask a platform whether it answers, and what it can do."""
    found = session.of(context).platforms.check(name)
    if json:
        output.document(found)
    else:
        for key, value in found.items():
            output.line(f"{key}: {'; '.join(value) if isinstance(value, list) else value}")


def inventory(
    context: typer.Context,
    platform: Annotated[str | None, typer.Argument(help="Of this one only.")] = None,
    json: Json = False,
) -> None:
    """List the machines of one platform, or of all."""
    machines = session.of(context).platforms.inventory(platform)
    if json:
        output.document(machines)
        return
    rows = [
        (each["name"], each["platform"], each["state"], each["vcpus"], format_size(each["memory"]),
         each["disk_count"], format_size(each["disk_size"]), each["id"])
        for each in machines
    ]  # fmt: skip
    output.table(("name", "platform", "state", "vcpus", "memory", "disks", "size", "id"), rows)
