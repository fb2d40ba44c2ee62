"""Runs: started, followed, stopped, paused, resumed."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.control.jobs.planning import KINDS
from ruchu.control.jobs.runs import NewRun, RunFilter, RunRow
from ruchu.control.nodes.tasks import TaskRow
from ruchu.errors import UsageError
from ruchu.model.principals import ALL_GROUPS, Principal, Right

router = APIRouter(tags=["runs"])
_RIGHTS = {
    "restore": Right.RESTORE,
    "instant": Right.RESTORE,
    "instant-stop": Right.RESTORE,
    "migration": Right.RESTORE,
    "delete-points": Right.OPERATE,
}


class NewRunWanted(BaseModel):
    """Work that shall be done now."""

    kind: str = Field(max_length=32, examples=["restore"], description=", ".join(KINDS))
    name: str = Field(default="", max_length=200, description="for people")
    body: dict[str, Any] = Field(
        default={}, examples=[{"point": "3f9a", "platform": "kvm", "placement": {"name": "web-2"}}]
    )
    priority: int = Field(default=5, ge=1, le=9)


def _groups(by: Principal) -> tuple[str, ...]:
    groups = by.groups(Right.VIEW)
    return () if ALL_GROUPS in groups else (*groups, "-")


@router.get("/runs", responses=problems.responses())
def list_runs(
    services: ServicesOf,
    by: By,
    state: Annotated[list[str], Query(max_length=20)] = [],  # noqa: B006 - FastAPI copies it
    policy: Annotated[str, Query(max_length=100)] = "",
    kind: Annotated[str, Query(max_length=32)] = "",
    text: Annotated[str, Query(max_length=200, description="in the name")] = "",
    after: After = "",
    limit: Limit = 100,
) -> Page[RunRow]:
    """List runs, the newest first."""
    wanted = RunFilter(tuple(state), policy, kind, text, _groups(by), after)
    rows = services.runs.page(wanted, limit + 1)
    return paging.page(rows, limit, lambda row: f"{row.created}/{row.id}")


@router.post("/runs", status_code=201, responses=problems.responses(404))
def start_run(services: ServicesOf, by: By, wanted: Annotated[NewRunWanted, Body()]) -> RunRow:
    """Start work that belongs to no policy: a restore, a verification, an instant restore."""
    if wanted.kind not in KINDS or wanted.kind == "backup":
        raise UsageError(f"(kind {wanted.kind!r})", hint=f"One of: {', '.join(KINDS)}.")
    group = services.group_of(wanted.kind, wanted.body)
    by.demand(_RIGHTS.get(wanted.kind, Right.OPERATE), group)
    new = NewRun(
        wanted.kind, wanted.name or wanted.kind, wanted.body, None, by.name,
        priority=wanted.priority, group=group,
    )  # fmt: skip
    with auditing.recorded(services, by, f"run.{wanted.kind}", new.name, wanted.body):
        return services.runs.create(new)


def _run(services: ServicesOf, by: Principal, run: str, right: Right) -> RunRow:
    row = services.runs.get(run)
    by.demand(right, row.resource_group)
    return row


@router.get("/runs/{run}", responses=problems.responses(404))
def show_run(services: ServicesOf, by: By, run: str) -> RunRow:
    """Show a run."""
    return _run(services, by, run, Right.VIEW)


@router.get("/runs/{run}/tasks", responses=problems.responses(404))
def run_tasks(services: ServicesOf, by: By, run: str) -> list[TaskRow]:
    """Show the tasks of a run: where they run, how far they are, how they ended."""
    _run(services, by, run, Right.VIEW)
    return services.tasks.of_run(run)


@router.get("/runs/{run}/history", responses=problems.responses(404))
def history(
    services: ServicesOf, by: By, run: str, after: Annotated[int, Query(ge=0)] = 0,
    limit: Limit = 500,
) -> list[dict[str, Any]]:  # fmt: skip
    """Show what happened in a run, oldest first, behind a number."""
    _run(services, by, run, Right.VIEW)
    return services.runs.history(run, after, limit)


@router.post("/runs/{run}/stop", responses=problems.responses(404))
def stop(services: ServicesOf, by: By, run: str) -> RunRow:
    """Ask a run to end; it cleans up first."""
    row = _run(services, by, run, Right.OPERATE)
    with auditing.recorded(services, by, "run.stop", row.name, {"run": run}):
        found = services.runs.ask(run, stop=True)
    services.tasks.wake()
    return found


@router.post("/runs/{run}/pause", responses=problems.responses(404))
def pause(services: ServicesOf, by: By, run: str) -> RunRow:
    """Ask a run to end for now; what is done stays done."""
    row = _run(services, by, run, Right.OPERATE)
    with auditing.recorded(services, by, "run.pause", row.name, {"run": run}):
        found = services.runs.ask(run, pause=True)
    services.tasks.wake()
    return found


@router.post("/runs/{run}/resume", responses=problems.responses(404))
def resume(services: ServicesOf, by: By, run: str) -> RunRow:
    """Let a paused run go on."""
    row = _run(services, by, run, Right.OPERATE)
    with auditing.recorded(services, by, "run.resume", row.name, {"run": run}):
        return services.runs.ask(run, pause=False)
