"""Runs: started, followed, stopped, paused, resumed."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import AwareDatetime, BaseModel, Field

from ruchu.api import auditing, identity, paging, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, AfterNumber, Limit, Page
from ruchu.clock import to_text
from ruchu.control.jobs.planning import KINDS
from ruchu.control.jobs.runs import NewRun, RunFilter, RunRow, RunShown
from ruchu.control.nodes.tasks import TaskRow
from ruchu.errors import UsageError

router = APIRouter(tags=["runs"])
# A policy starts backups; points are deleted by an act of their own.
BY_HAND = tuple(kind for kind in KINDS if kind not in {"backup", "delete-points"})
_HISTORY_MAX = 500


class NewRunWanted(BaseModel):
    """Work that shall be done now."""

    kind: str = Field(
        max_length=32, examples=["restore"], description=f"One of: {', '.join(BY_HAND)}."
    )
    name: str = Field(default="", max_length=200, description="for people")
    body: dict[str, Any] = Field(
        default={}, examples=[{"point": "3f9a", "platform": "kvm", "placement": {"name": "web-2"}}]
    )
    priority: int = Field(default=5, ge=1, le=9)


class RunEvent(BaseModel):
    """Something that happened in a run."""

    number: int
    run: str
    task: str | None
    at: str
    name: str
    body: dict[str, Any]


@router.get("/runs", responses=problems.responses())
def list_runs(
    services: ServicesOf,
    by: By,
    state: Annotated[list[Annotated[str, Query(max_length=20)]], Query(max_length=20)] = [],  # noqa: B006 - FastAPI copies it
    policy: Annotated[str, Query(max_length=100)] = "",
    kind: Annotated[str, Query(max_length=32)] = "",
    text: Annotated[str, Query(max_length=200, description="in the name")] = "",
    since: Annotated[AwareDatetime | None, Query(description="made then or later")] = None,
    until: Annotated[AwareDatetime | None, Query(description="made before")] = None,
    after: After = "",
    limit: Limit = 100,
) -> Page[RunShown]:
    """List runs, the newest first; without what each is to do, which the run itself shows."""
    groups = identity.groups_of(by) or ()
    period = {"since": to_text(since) if since else "", "until": to_text(until) if until else ""}
    wanted = RunFilter(tuple(state), policy, kind, text, groups, after, **period)
    rows = services.runs.page(wanted, limit + 1)
    return paging.page(rows, limit, lambda row: f"{row.created}/{row.id}")


@router.post("/runs", status_code=201, responses=problems.responses(404, 409))
def start_run(services: ServicesOf, by: By, wanted: Annotated[NewRunWanted, Body()]) -> RunRow:
    """Start work that belongs to no policy: a restore, a verification, an instant restore.

    Retention by hand (`merge`) is entered as a request (409, `needs-approval`) while four eyes are
    on.
    """
    if wanted.kind not in BY_HAND:
        raise UsageError(f"(kind {wanted.kind!r})", hint=f"One of: {', '.join(BY_HAND)}.")
    group, body = reach.for_run(services, by, wanted.kind, wanted.body)
    if wanted.kind == "merge":
        return services.acts.apply_retention(by, services.storages.get(body["storage"]), body)
    new = NewRun(
        wanted.kind, wanted.name or wanted.kind, body, None, by.name,
        priority=wanted.priority, group=group,
    )  # fmt: skip
    with auditing.recorded(services, by, f"run.{wanted.kind}", new.name, body):
        return services.runs.create(new)


@router.get("/runs/{run}", responses=problems.responses(404))
def show_run(services: ServicesOf, by: By, run: str) -> RunRow:
    """Show a run."""
    return reach.run(services, by, run)


@router.get("/runs/{run}/tasks", responses=problems.responses(404))
def run_tasks(services: ServicesOf, by: By, run: str) -> list[TaskRow]:
    """Show the tasks of a run: where they run, how far they are, how they ended."""
    reach.run(services, by, run)
    return services.tasks.of_run(run)


@router.get("/runs/{run}/history", responses=problems.responses(404))
def run_history(
    services: ServicesOf, by: By, run: str, after: AfterNumber = 0,
    limit: Annotated[int, Query(ge=1, le=_HISTORY_MAX)] = _HISTORY_MAX,
) -> list[RunEvent]:  # fmt: skip
    """Show what happened in a run, oldest first, behind a number."""
    reach.run(services, by, run)
    return [RunEvent(**each) for each in services.runs.history(run, after, limit)]


@router.post("/runs/{run}/stop", responses=problems.responses(404))
def stop_run(services: ServicesOf, by: By, run: str) -> RunRow:
    """Ask a run to end; it cleans up first."""
    row = reach.run(services, by, run, None)
    with auditing.recorded(services, by, "run.stop", row.name, {"run": run}):
        found = services.runs.ask(run, stop=True)
    services.tasks.wake()
    return found


@router.post("/runs/{run}/pause", responses=problems.responses(404))
def pause_run(services: ServicesOf, by: By, run: str) -> RunRow:
    """Ask a run to end for now; what is done stays done."""
    row = reach.run(services, by, run, None)
    with auditing.recorded(services, by, "run.pause", row.name, {"run": run}):
        found = services.runs.ask(run, pause=True)
    services.tasks.wake()
    return found


@router.post("/runs/{run}/resume", responses=problems.responses(404))
def resume_run(services: ServicesOf, by: By, run: str) -> RunRow:
    """Let a paused run go on."""
    row = reach.run(services, by, run, None)
    with auditing.recorded(services, by, "run.resume", row.name, {"run": run}):
        return services.runs.ask(run, pause=False)
