"""`ruchu policy`, `runs`, `nodes`, `alarms`: what there is on servers only."""

from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruchu.cli import output, remote_runs
from ruchu.cli.options import Json, group
from ruchu.cli.remote import connected
from ruchu.cli.remote_places import part_of_path
from ruchu.errors import NotFound, UsageError

if TYPE_CHECKING:
    from ruchu.control.sites.client import Client

policies = group("Policies of a server: what is protected, when, where to.")
runs = group("Runs of a server: what it does and did.")
nodes = group("Nodes of a server: the hosts that move the data.")
alarms = group("Alarms of a server.")

Policy = Annotated[str, typer.Argument(help="Name of the policy, or its id.")]
Run = Annotated[str, typer.Argument(help="Run: its id, or the beginning of it.")]
Node = Annotated[str, typer.Argument(help="Name of the node, or its id.")]
Alarm = Annotated[str, typer.Argument(help="Alarm: its id, or the beginning of it.")]
Wait = Annotated[bool, typer.Option("--wait", help="Return when it is over.")]
# A beginning of an id is looked for among so many of the newest.
_RECENT = 2000


# ---------------------------------------------------------------------------------- policies


@policies.command("list")
def list_policies(context: typer.Context, json: Json = False) -> None:
    """List the policies."""
    with connected(context) as client:
        found = client.get("/policies")
    if json:
        output.document(found)
        return
    rows = [
        (p["name"], p["enabled"], p["selection"]["platform"], p["storage"], len(p["schedules"]),
         p["group"])
        for p in (each["policy"] for each in found)
    ]  # fmt: skip
    output.table(("name", "enabled", "platform", "storage", "schedules", "group"), rows)


@policies.command("show")
def show_policy(context: typer.Context, policy: Policy, json: Json = False) -> None:
    """Show a policy, its next starts, and the machines that it selects now."""
    path = f"/policies/{part_of_path(policy)}"
    with connected(context) as client:
        row, dry = client.get(path), client.get(f"{path}/dry-run")
    if json:
        output.document({**row, "dry_run": dry})
        return
    for key, value in row["policy"].items():
        if value not in ("", [], {}, None):
            output.line(f"{key}: {value}")
    for start in dry["starts"]:
        output.line(f"next: {start['at'][:16].replace('T', ' ')} UTC, {start['kind']}")
    output.line(f"machines: {', '.join(each['name'] for each in dry['machines']) or 'none'}")
    for name in dry["missing"]:
        output.note(f"note: {name} is not there")


@policies.command("run")
def run_policy(
    context: typer.Context,
    policy: Policy,
    kind: Annotated[
        str, typer.Option("--kind", help="full, incremental or differential.")
    ] = "incremental",
    machine: Annotated[
        list[str] | None, typer.Option("--machine", help="This one only; may be repeated.")
    ] = None,
    wait: Wait = False,
    json: Json = False,
) -> None:
    """Start a run of a policy now."""
    body = {"kind": kind, "machines": list(machine or ())}
    with connected(context) as client:
        run = client.post(f"/policies/{part_of_path(policy)}/run", body)
        if wait:
            remote_runs.followed(client, run)
            run = client.get(f"/runs/{run['id']}")
    _tell_run(run, json=json)


@policies.command()
def enable(context: typer.Context, policy: Policy, json: Json = False) -> None:
    """Let the schedules of a policy start runs."""
    _switch(context, policy, enabled=True, json=json)


@policies.command()
def disable(context: typer.Context, policy: Policy, json: Json = False) -> None:
    """Let the schedules of a policy start nothing; runs by hand still work."""
    _switch(context, policy, enabled=False, json=json)


def _switch(context: typer.Context, policy: str, *, enabled: bool, json: bool) -> None:
    path = f"/policies/{part_of_path(policy)}"
    with connected(context) as client:
        row = client.get(path)
        wanted = {**row["policy"], "enabled": enabled}
        row = client.call("PUT", f"/policies/{row['id']}", body=wanted, version=row["version"])
    if json:
        output.document(row)
    else:
        output.line(f"{row['policy']['name']}: {'enabled' if enabled else 'disabled'}")


# -------------------------------------------------------------------------------------- runs


@runs.command("list")
def list_runs(
    context: typer.Context,
    state: Annotated[
        list[str] | None, typer.Option("--state", help="Only these; may be repeated.")
    ] = None,
    policy: Annotated[str, typer.Option("--policy", help="Of this policy: its id.")] = "",
    count: Annotated[int, typer.Option("--count", min=1, max=5000, help="The newest N.")] = 50,
    json: Json = False,
) -> None:
    """List runs, the newest first."""
    with connected(context) as client:
        found = client.pages("/runs", count, state=list(state or ()), policy=policy)
    if json:
        output.document(found)
        return
    rows = [
        (e["id"][:8], e["created"][:16].replace("T", " "), e["kind"], e["name"], e["state"],
         e["started_by"], e["reason"][:60])
        for e in found
    ]  # fmt: skip
    output.table(("run", "created (UTC)", "kind", "name", "state", "by", "reason"), rows)


def _run(client: "Client", identity: str) -> dict[str, Any]:
    """Return a run by the beginning of its id.

    Raises:
        NotFound, UsageError: there is none, or several.
    """
    if len(identity) < 32:
        listed = client.pages("/runs", _RECENT)
        identity = _one("run", identity, [each["id"] for each in listed])
    found: dict[str, Any] = client.get(f"/runs/{part_of_path(identity)}")
    return found


def _one(what: str, beginning: str, ids: list[str]) -> str:
    found = [each for each in ids if beginning and each.startswith(beginning)]
    if not found:
        raise NotFound(f"({what} {beginning[:40]!r})")
    if len(found) > 1:
        raise UsageError(f"({what} {beginning[:40]!r}: {len(found)} match)")
    return found[0]


def _tell_run(run: dict[str, Any], *, json: bool) -> None:
    if json:
        output.document(run)
    else:
        reason = f": {run['reason']}" if run["reason"] else ""
        output.line(f"run {run['id'][:8]} ({run['kind']}, {run['name']}): {run['state']}{reason}")


@runs.command("show")
def show_run(context: typer.Context, run: Run, json: Json = False) -> None:
    """Show a run and its tasks."""
    with connected(context) as client:
        found = _run(client, run)
        tasks = client.get(f"/runs/{found['id']}/tasks")
    if json:
        output.document({**found, "tasks": tasks})
        return
    _tell_run(found, json=False)
    rows = [
        (e["label"], e["state"], e["phase"] or None, e["attempt"],
         (e["error"] or {}).get("message"))
        for e in tasks
    ]  # fmt: skip
    output.table(("task", "state", "phase", "attempt", "error"), rows)


@runs.command()
def log(context: typer.Context, run: Run, json: Json = False) -> None:
    """Show what happened in a run, oldest first."""
    found: list[dict[str, Any]] = []
    with connected(context) as client:
        path = f"/runs/{_run(client, run)['id']}/history"
        while part := client.get(path, after=found[-1]["number"] if found else 0):
            found += part
    if json:
        output.document(found)
        return
    for each in found:
        more = " ".join(f"{key}={value}" for key, value in each["body"].items() if value)
        output.line(f"{each['at'][:19].replace('T', ' ')} {each['name']} {more}".rstrip())


@runs.command("stop")
def stop_run(
    context: typer.Context, run: Run, wait: Wait = False, json: Json = False
) -> None:  # fmt: skip
    """Ask a run to end; it cleans up first."""
    with connected(context) as client:
        found = client.post(f"/runs/{_run(client, run)['id']}/stop")
        while wait and not found["ended"]:
            from ruchu.clock import SYSTEM

            SYSTEM.sleep(remote_runs.POLL_S)
            found = client.get(f"/runs/{found['id']}")
    _tell_run(found, json=json)


@runs.command("pause")
def pause_run(context: typer.Context, run: Run, json: Json = False) -> None:
    """Ask a run to end for now; what is done stays done."""
    with connected(context) as client:
        found = client.post(f"/runs/{_run(client, run)['id']}/pause")
    _tell_run(found, json=json)


@runs.command("resume")
def resume_run(context: typer.Context, run: Run, json: Json = False) -> None:
    """Let a paused run go on."""
    with connected(context) as client:
        found = client.post(f"/runs/{_run(client, run)['id']}/resume")
    _tell_run(found, json=json)


# ------------------------------------------------------------------------------------- nodes


@nodes.command("list")
def list_nodes(context: typer.Context, json: Json = False) -> None:
    """List the nodes, and how they are."""
    with connected(context) as client:
        found = client.get("/nodes")
    if json:
        output.document(found)
        return
    rows = [
        (e["name"], e["state"], e["release"] or None, e["parallel"],
         (e["last_seen"] or "")[:19].replace("T", " ") or None, e["id"][:8])
        for e in found
    ]  # fmt: skip
    output.table(("name", "state", "release", "parallel", "seen (UTC)", "id"), rows)


@nodes.command()
def invite(
    context: typer.Context,
    name: Annotated[str, typer.Argument(help="Name of the node that is to be.")],
    address: Annotated[
        str, typer.Option("--address", help="Host or address by which it reaches the server.")
    ] = "",
    json: Json = False,
) -> None:
    """Make a token that one node may enrol with, within a day."""
    with connected(context) as client:
        made = client.post("/nodes/tokens", {"name": name, "address": address})
    if json:
        output.document(made)
    else:
        output.line(made["command"])


@nodes.command("revoke")
def revoke_node(
    context: typer.Context,
    node: Node,
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Revoke a node: its line is cut at once, and it never comes in again."""
    from ruchu.cli import session

    if not yes and not (session.can_ask() and typer.confirm(f"Revoke {node}?", err=True)):
        raise UsageError("(nothing was revoked)", hint="Say --yes.")
    with connected(context) as client:
        found = client.call("DELETE", f"/nodes/{part_of_path(node)}")
    if json:
        output.document(found)
    else:
        output.line(f"{found['name']}: {found['state']}")


# ------------------------------------------------------------------------------------ alarms


@alarms.command("list")
def list_alarms(context: typer.Context, json: Json = False) -> None:
    """List the open alarms, the newest first."""
    with connected(context) as client:
        found = client.get("/alarms")
    if json:
        output.document(found)
        return
    rows = [
        (e["id"][:8], e["last_at"][:16].replace("T", " "), e["severity"], e["code"], e["subject"],
         e["acknowledged_by"], e["text"][:80])
        for e in found
    ]  # fmt: skip
    headings = ("alarm", "last (UTC)", "severity", "code", "subject", "looked after by", "text")
    output.table(headings, rows)


@alarms.command()
def ack(
    context: typer.Context,
    alarm: Alarm,
    remark: Annotated[str, typer.Option("--remark", help="For others.")] = "",
    json: Json = False,
) -> None:
    """Say that one looks after an alarm; it does not escalate any more."""
    with connected(context) as client:
        identity = _one("alarm", alarm, [each["id"] for each in client.get("/alarms")])
        found = client.post(f"/alarms/{identity}/acknowledge", {"remark": remark})
    if json:
        output.document(found)
    else:
        output.line(
            f"{found['code']} {found['subject']}: {found['acknowledged_by']} looks after it"
        )
