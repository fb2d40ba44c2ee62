"""Policies: kept, changed, tried out, run."""

from typing import Annotated, Any

from fastapi import APIRouter, Body, Query, Response
from pydantic import BaseModel, Field

from ruchu.api import auditing, paging, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import IfMatch
from ruchu.control.jobs.runs import NewRun, RunRow
from ruchu.control.policies import documents
from ruchu.control.policies.policies import PolicyRow
from ruchu.control.policies.selecting import Machine
from ruchu.errors import Stale
from ruchu.model.principals import Right

router = APIRouter(tags=["policies"])

_EXAMPLE = {
    "name": "nightly",
    "selection": {"platform": "kvm", "patterns": ["web-*"]},
    "storage": "main",
    "schedules": [{"kind": "incremental", "daily": {"times": ["02:00"]}}],
    "zone": "Asia/Shanghai",
    "retention": {"daily": 7, "weekly": 4},
}
PolicyDocument = Annotated[dict[str, Any], Body(examples=[_EXAMPLE])]


class PolicyShown(BaseModel):
    """A policy."""

    id: str
    version: int
    created: str
    changed: str
    policy: dict[str, Any]


class RunWanted(BaseModel):
    """A run that shall start now."""

    kind: str = Field(
        default="incremental", pattern="^(full|incremental|differential)$", examples=["full"]
    )
    machines: list[Annotated[str, Field(max_length=300)]] = Field(
        default=[], max_length=5000, description="only these, by id or name; empty: all"
    )


class Start(BaseModel):
    """A start that is to come."""

    at: str
    kind: str
    satisfies: list[str] = Field(description="kinds that are due at the same time and need no more")


class DryRun(BaseModel):
    """What a policy would do."""

    starts: list[Start]
    machines: list[Machine]
    missing: list[str] = Field(description="that the policy names and nobody has seen")


def _shown(row: PolicyRow) -> PolicyShown:
    return PolicyShown(
        id=row.id, version=row.version, created=row.created, changed=row.changed,
        policy=row.document,
    )  # fmt: skip


@router.get("/policies", responses=problems.responses())
def list_policies(services: ServicesOf, by: By) -> list[PolicyShown]:
    """List the policies."""
    return [_shown(row) for row in services.policies.all() if by.may(Right.VIEW, row.policy.group)]


@router.post("/policies", status_code=201, responses=problems.responses(404, 409))
def add_policy(
    services: ServicesOf, by: By, response: Response, document: PolicyDocument
) -> PolicyShown:
    """Keep a new policy; its schedules start runs from now on.

    One that would remove points of machines which another policy keeps for longer is entered as a
    request (409, `needs-approval`) while four eyes are on.
    """
    policy = documents.from_document(document)
    reach.for_policy(services, by, policy)
    with auditing.recorded(services, by, "policy.add", policy.name, {"policy": document}):
        row = services.acts.write_policy(by, None, policy)
    paging.tag(response, row.version)
    return _shown(row)


@router.get("/policies/{policy}", responses=problems.responses(404))
def show_policy(services: ServicesOf, by: By, response: Response, policy: str) -> PolicyShown:
    """Show a policy, by id or name."""
    row = reach.policy(services, by, policy)
    paging.tag(response, row.version)
    return _shown(row)


@router.put("/policies/{policy}", responses=problems.responses(404, 409, 412, 428))
def change_policy(
    services: ServicesOf, by: By, response: Response, policy: str, document: PolicyDocument,
    if_match: IfMatch = None,
) -> PolicyShown:  # fmt: skip
    """Replace a policy.

    With four eyes on, one that keeps less than before is entered as a request (409,
    `needs-approval`, with its id as `request`).
    """
    row = reach.policy(services, by, policy, Right.OPERATE)
    version = paging.version_of(if_match)
    wanted = documents.from_document(document)
    reach.for_policy(services, by, wanted)
    if row.version != version:
        raise Stale(f"(policy {row.policy.name})")
    with auditing.recorded(services, by, "policy.change", wanted.name, {"policy": document}):
        row = services.acts.write_policy(by, row, wanted)
    paging.tag(response, row.version)
    return _shown(row)


@router.delete("/policies/{policy}", status_code=204, responses=problems.responses(404, 412, 428))
def remove_policy(services: ServicesOf, by: By, policy: str, if_match: IfMatch = None) -> None:
    """Forget a policy; its runs and points stay."""
    row = reach.policy(services, by, policy, Right.OPERATE)
    version = paging.version_of(if_match)
    with auditing.recorded(services, by, "policy.remove", row.policy.name):
        services.policies.remove(row.id, version)


@router.post("/policies/{policy}/run", status_code=201, responses=problems.responses(404, 409))
def run_policy(
    services: ServicesOf, by: By, policy: str, wanted: Annotated[RunWanted, Body()]
) -> RunRow:
    """Start a run of a policy now, unless the quota of its group is used up."""
    row = reach.policy(services, by, policy, Right.OPERATE)
    body = {
        "policy": row.document, "kind": wanted.kind,
        "machines": wanted.machines, "nodes": list(row.policy.nodes),
    }  # fmt: skip
    new = NewRun(
        "backup", row.policy.name, body, row.id, by.name,
        priority=row.policy.priority, group=row.policy.group,
    )  # fmt: skip
    with auditing.recorded(services, by, "policy.run", row.policy.name, wanted.model_dump()):
        services.quotas.check_backup(row.policy)
        return services.runs.create(new)


@router.get("/policies/{policy}/dry-run", responses=problems.responses(404))
def dry_run(
    services: ServicesOf, by: By, policy: str, count: Annotated[int, Query(ge=1, le=100)] = 10
) -> DryRun:
    """Show the next starts of a policy, and which machines it selects now."""
    row = reach.policy(services, by, policy)
    machines, missing = services.selected(row.policy)
    return DryRun(
        starts=[Start(**each) for each in services.next_starts(row, count)],
        machines=machines,
        missing=missing,
    )
