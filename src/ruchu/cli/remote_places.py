"""Storages, platforms, machines and points of a server."""

from typing import Any

import typer

from ruchu.cli import output
from ruchu.cli.remote import connected
from ruchu.errors import NotFound
from ruchu.units import format_size

# A person reads no longer list; a program follows the pages of the API.
ITEMS_MAX = 20_000


def storage_list(context: typer.Context, json: bool) -> None:
    """List the storages of a server."""
    with connected(context) as client:
        found = client.get("/storages")
    if json:
        output.document(found)
        return
    rows = [
        (
            each["name"], each["role"], each["location"], each["encrypted"],
            _size(each["size"]), _size(each["free"]), each["problem"] or "ok",
        )
        for each in found
    ]  # fmt: skip
    output.table(("name", "role", "location", "encrypted", "size", "free", "state"), rows)


def _size(value: int | None) -> str | None:
    return None if value is None else format_size(value)


def platform_list(context: typer.Context, json: bool) -> None:
    """List the platforms of a server."""
    with connected(context) as client:
        found = client.get("/platforms")
    if json:
        output.document(found)
        return
    rows = [(e["name"], e["uri"], e["scratch"] or None, e["problem"] or "ok") for e in found]
    output.table(("name", "uri", "scratch", "state"), rows)


def inventory(context: typer.Context, platform: str | None, json: bool) -> None:
    """List the machines that a server saw last."""
    with connected(context) as client:
        found = client.pages("/machines", ITEMS_MAX, platform=platform or "")
    if json:
        output.document(found)
        return
    rows = [
        (e["name"], e["platform"], e["state"], e["vcpus"], format_size(e["memory"]),
         format_size(e["disk_size"]), e["id"])
        for e in found
    ]  # fmt: skip
    output.table(("name", "platform", "state", "vcpus", "memory", "size", "id"), rows)


def points_list(context: typer.Context, storage: str | None, json: bool) -> None:
    """List the points that a server knows, the newest last, as on this host."""
    with connected(context) as client:
        found = client.pages("/points", ITEMS_MAX, storage=storage or "")[::-1]
    if json:
        output.document(found)
        return
    rows = [
        (
            each["id"][:8], each["time"][:19].replace("T", " "), each["kind"], each["name"],
            each["storage"], format_size(sum(disk["size"] for disk in each["disks"])),
            format_size(each["bytes_stored"] or 0), _marks(each),
        )
        for each in found
    ]  # fmt: skip
    heading = ("point", "time (UTC)", "kind", "name", "storage", "size", "stored", "marks")
    output.table(heading, rows)


def _marks(point: dict[str, Any]) -> str:
    until = point["locked_until"]
    lock = f"locked until {until[:10]}" if until else ""
    return " ".join(filter(None, ("star" if point["starred"] else "", lock)))


def points_show(context: typer.Context, point: str, json: bool) -> None:
    """Show a point on each storage that holds it."""
    with connected(context) as client:
        found = client.get(f"/points/{part_of_path(point)}")
    if json:
        output.document(found)
        return
    for each in found:
        for key, value in each.items():
            if key == "disks":
                for disk in value:
                    output.line(f"disk {disk['name']}, {format_size(disk['size'])}")
            else:
                output.line(f"{key}: {value}")


def points_star(context: typer.Context, point: str, remove: bool, json: bool) -> None:
    """Star a point, or take its star away."""
    with connected(context) as client:
        path = f"/points/{part_of_path(point)}/star"
        found = client.call("PUT", path, body={"starred": not remove})
    identity = found[0]["id"]
    if json:
        output.document({"point": identity, "starred": not remove})
    else:
        output.line(f"{identity[:8]}: {'no star any more' if remove else 'starred'}")


def part_of_path(name: str) -> str:
    """Return a name as a part of an address.

    Raises:
        NotFound: nothing can be called so.
    """
    from urllib.parse import quote

    if not name or name in {".", ".."}:
        raise NotFound(f"({name!r})")
    return quote(name, safe="")
