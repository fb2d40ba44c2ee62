"""Runs of a server, followed to their end: how far they are, how they ended, with which status."""

from typing import TYPE_CHECKING, Any

from ruchu.cli import output
from ruchu.errors import ControlError, PartlyFailed, RuchuError
from ruchu.units import format_size

if TYPE_CHECKING:
    from ruchu.control.sites.client import Client

# Often enough for a person who watches, seldom enough for a server with many of them.
POLL_S = 1.0


def followed(client: "Client", run: dict[str, Any]) -> list[dict[str, Any]]:
    """Wait until a run is over; return its tasks. Whoever interrupts this leaves the run alone.

    Raises:
        PartlyFailed: a part of it failed.
        RuchuError: it failed; of the class that its first failed task says.
    """
    from ruchu.clock import SYSTEM

    identity, said = str(run["id"]), ""
    try:
        while not run["ended"]:
            said = _tell(client, run, said)
            SYSTEM.sleep(POLL_S)
            run = client.get(f"/runs/{identity}")
    except KeyboardInterrupt:
        output.note(f"note: the run goes on; end it with `ruchu runs stop {identity[:8]}`")
        raise
    tasks: list[dict[str, Any]] = client.get(f"/runs/{identity}/tasks")
    if run["state"] == "succeeded":
        return tasks
    failures = [error_of(task["error"]) for task in tasks if task["error"]]
    if run["state"] == "partly":
        for failure in failures:
            output.error(failure)
        result = {"tasks": [task["result"] for task in tasks]}
        raise PartlyFailed(f"({run['reason'] or run['name']})", result=result, again=False)
    raise failures[0] if failures else ControlError(f"({run['state']}: {run['reason']})")


def _tell(client: "Client", run: dict[str, Any], said: str) -> str:
    """Say how far a run is, if it is further than was said; return what was said."""
    text = f"{run['name']}: {run['state']}{': ' + run['reason'] if run['reason'] else ''}"
    if run["state"] == "running":
        for task in client.get(f"/runs/{run['id']}/tasks"):
            text += f"\n  {task['label']}: {task['phase'] or task['state']}{_progress(task)}"
    if text != said:
        output.note(text)
    return text


def _progress(task: dict[str, Any]) -> str:
    done, total = task["progress"].get("done"), task["progress"].get("total")
    return f", {format_size(done)} of {format_size(total)}" if done and total else ""


def error_of(value: dict[str, Any]) -> RuchuError:
    """Return the error that a task ended with."""
    import json

    from ruchu.control.sites import client

    problem = {"code": value.get("code"), "detail": value.get("message"), "hint": value.get("hint")}
    return client.error_of(0, json.dumps(problem))
