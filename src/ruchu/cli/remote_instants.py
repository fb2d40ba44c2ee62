"""Instant restores that nodes of a server run."""

from typing import TYPE_CHECKING, Any

import typer

from ruchu.cli import output, remote_runs
from ruchu.cli.instant import AGENT_LIMIT_S
from ruchu.cli.remote import connected
from ruchu.cli.remote_work import placement_of
from ruchu.errors import NotFound, RuchuError, UsageError
from ruchu.units import format_duration, format_size

if TYPE_CHECKING:
    from ruchu.control.sites.client import Client


def start(
    context: typer.Context, point: str, platform: str, name: str, protocol: str, address: str,
    allow: list[str] | None, cache: str, vcpus: int | None, memory: str | None,
    network: list[str] | None, isolated: bool, mac: str, disk: list[str] | None, wait: bool,
    json: bool,
) -> None:  # fmt: skip
    """Run a machine of a point from its storage, through a node."""
    placement = placement_of(
        name=name, vcpus=vcpus, memory=memory, network=network, mac=mac, disks=list(disk or ()),
        start=True, isolated=isolated,
    )  # fmt: skip
    body: dict[str, Any] = {
        "point": point, "placement": placement, "protocol": protocol, "address": address,
        "clients": list(allow or ()), "cache": cache, "agent_limit_s": AGENT_LIMIT_S if wait else 0,
    }  # fmt: skip
    if platform:
        body["platform"] = platform
    with connected(context) as client:
        run = client.post("/runs", {"kind": "instant", "name": name, "body": body})
        (task,) = remote_runs.followed(client, run)
    done = task["result"]
    if json:
        output.document(done)
    else:
        took = format_duration(done["seconds_started"])
        output.line(f"{done['name']}: started after {took} (instant restore {done['instant'][:8]})")


def _all(client: "Client") -> list[dict[str, Any]]:
    """Return the instant restores of all nodes that answer, each with its `node`."""
    found = []
    for node in client.get("/nodes"):
        if node["state"] != "online":
            continue
        try:
            listed = client.get(f"/nodes/{node['id']}/instants")
        except RuchuError as error:
            output.note(f"note: node {node['name']}: {error}")
            continue
        found += [{**each, "node": node["name"]} for each in listed]
    return found


def _find(client: "Client", name: str) -> dict[str, Any]:
    found = [e for e in _all(client) if e["name"] == name or e["instant"].startswith(name)]
    if not found:
        raise NotFound(f"(the instant restore {name[:80]!r})")
    if len(found) > 1:
        raise UsageError(f"({name[:80]!r}: {len(found)} match)", hint="Give its id.")
    return found[0]


def list_instants(context: typer.Context, json: bool) -> None:
    """List the instant restores of all nodes."""
    with connected(context) as client:
        found = _all(client)
    if json:
        output.document(found)
        return
    rows = [
        (e["instant"][:8], e["name"], e["state"], e["export"], e["point"][:8], e["platform"],
         e["node"])
        for e in found
    ]  # fmt: skip
    output.table(("INSTANT", "NAME", "STATE", "EXPORT", "POINT", "PLATFORM", "NODE"), rows)


def _go_on(context: typer.Context, name: str, kind: str, more: dict[str, Any]) -> dict[str, Any]:
    """Do something with an instant restore, on the node that runs it; return the result."""
    with connected(context) as client:
        instant = _find(client, name)
        body = {
            "instant": instant["instant"], "point": instant["point"], "nodes": [instant["node"]],
            "platform": instant["platform"], **more,
        }  # fmt: skip
        run = client.post("/runs", {"kind": kind, "name": instant["name"], "body": body})
        (task,) = remote_runs.followed(client, run)
    done: dict[str, Any] = task["result"]
    return done


def stop(context: typer.Context, name: str, keep: bool, json: bool) -> None:
    """End an instant restore; what its machine wrote is gone, unless it is kept."""
    done = _go_on(context, name, "instant-stop", {"keep": keep})
    if json:
        output.document(done)
    else:
        kept = f"; kept as point {done['kept'][:8]}" if done["kept"] else ""
        output.line(f"{done['name']}: ended{kept}")


def migrate(
    context: typer.Context, name: str, method: str, directory: str, json: bool
) -> None:  # fmt: skip
    """Move a machine that runs from a point to disks of its own."""
    done = _go_on(context, name, "migration", {"method": method, "directory": directory})
    if json:
        output.document(done)
    else:
        took = format_duration(done["seconds"])
        output.line(f"{done['name']}: {format_size(done['size'])} moved in {took}")
