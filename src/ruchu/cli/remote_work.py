"""Backups and restores that a server carries out."""

from typing import TYPE_CHECKING, Any

import typer

from ruchu.cli import backup, output, remote_runs
from ruchu.cli.options import mac_of, pairs_of, size_of
from ruchu.cli.remote import connected
from ruchu.cli.remote_places import part_of_path
from ruchu.errors import NotFound, UsageError
from ruchu.units import format_size

if TYPE_CHECKING:
    from ruchu.control.sites.client import Client


def backup_vm(
    context: typer.Context, names: list[str], storage: str, platform: str | None, kind: str,
    json: bool,
) -> None:  # fmt: skip
    """Back machines up by the policy that protects them on that storage."""
    with connected(context) as client:
        policy = _policy(client, names, storage, platform)
        path = f"/policies/{part_of_path(policy)}/run"
        run = client.post(path, {"kind": kind, "machines": names})
        tasks = remote_runs.followed(client, run)
    found = [each for task in tasks for each in (task["result"] or {}).get("machines", ())]
    for each in found:
        backup.tell_machine(each, quiet=json)
    if json:
        output.document(found)


def _policy(client: "Client", names: list[str], storage: str, platform: str | None) -> str:
    """Return the policy that selects these machines.

    Raises:
        NotFound, UsageError: there is none, or several.
    """
    rows = [
        row
        for row in client.get("/policies")
        if row["policy"]["storage"] == storage
        and platform in {None, row["policy"]["selection"]["platform"]}
    ]
    found = _selecting(client, rows, names)
    if not found:
        # A machine that is new is known once its platform was listed again.
        for known in sorted({row["policy"]["selection"]["platform"] for row in rows}):
            client.post(f"/platforms/{part_of_path(known)}/refresh")
        found = _selecting(client, rows, names)
    if not found:
        hint = "On a server policies say how machines are backed up: `ruchu policy list`."
        raise NotFound(f"(a policy for {', '.join(names)[:200]} on {storage})", hint=hint)
    if len(found) > 1:
        hint = "Run the one that you mean: `ruchu policy run NAME`."
        raise UsageError(f"(several policies do: {', '.join(found)[:200]})", hint=hint)
    return found[0]


def _selecting(client: "Client", rows: list[dict[str, Any]], names: list[str]) -> list[str]:
    """Return the names of the policies that select all of these machines."""
    found = []
    for row in rows:
        machines = client.get(f"/policies/{row['id']}/dry-run", count=1)["machines"]
        known = {each["name"] for each in machines} | {each["id"] for each in machines}
        if known.issuperset(names):
            found.append(str(row["policy"]["name"]))
    return found


def placement_of(**fields: Any) -> dict[str, Any]:
    """Return how a machine shall differ, as the API takes it; what is not said is left out."""
    memory, network, mac = fields.pop("memory"), fields.pop("network"), fields.pop("mac")
    found = {key: value for key, value in fields.items() if value}
    if memory:
        found["memory"] = size_of(memory)
    if network:
        found["networks"] = pairs_of(network)
    return {**found, "macs": mac_of(mac)}


def restore_vm(
    context: typer.Context, point: str, platform: str | None, name: str, directory: str,
    replace: bool, vcpus: int | None, memory: str | None, network: list[str] | None, mac: str,
    disk: list[str] | None, image_format: str, start: bool, json: bool,
) -> None:  # fmt: skip
    """Restore a machine through a node of a server."""
    placement = placement_of(
        name=name, directory=directory, replace=replace, vcpus=vcpus, memory=memory,
        network=network, mac=mac, disks=list(disk or ()), format=image_format, start=start,
    )  # fmt: skip
    body = {"point": point, "placement": placement}
    if platform is not None:
        body["platform"] = platform
    with connected(context) as client:
        run = client.post("/runs", {"kind": "restore", "name": name, "body": body})
        (task,) = remote_runs.followed(client, run)
    done = task["result"]
    if json:
        output.document(done)
    else:
        size, read = format_size(done["size"]), format_size(done["bytes"])
        output.line(f"machine {done['machine']}: {size} ({read} of data)")
