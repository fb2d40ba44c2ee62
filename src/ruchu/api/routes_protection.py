"""Policies at a glance, and what one that is not kept yet would do: for forms and lists."""

from typing import Annotated, Any

from fastapi import APIRouter, Body
from pydantic import BaseModel, Field

from ruchu.api import problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.routes_policies import Start
from ruchu.control.policies import documents, selecting
from ruchu.control.policies.policies import PolicyRow
from ruchu.control.server import policy_views
from ruchu.control.server.policy_views import LastRun, Places, Remaining
from ruchu.errors import NotFound
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["policies"])

# Names that a line in a list has room for; how many there are is said with them.
_NAMES = 5
# Machines that a preview names; how many there are is said with them.
_MACHINES = 200
_STARTS_MAX = 50


class Selected(BaseModel):
    """What a policy selects; of each list the first names, in `counts` how many there are."""

    platform: str
    machines: list[str]
    patterns: list[str]
    tags: list[str]
    folders: list[str]
    hosts: list[str]
    excluded: list[str]
    counts: dict[str, int]


class PolicyLine(BaseModel):
    """A policy in a list of many."""

    id: str
    version: int
    name: str
    group: str
    enabled: bool
    selection: Selected
    storage: str
    schedules: list[dict[str, Any]]
    zone: str
    retention: dict[str, int] = Field(description="rules that are not off")
    rpo_minutes: int
    last: LastRun | None = Field(description="its newest backup")
    next: Start | None = Field(description="its next start; none if it is off or has no schedule")


class PreviewWanted(BaseModel):
    """Parts of a policy that is not kept yet; each may be left out."""

    selection: dict[str, Any] | None = Field(
        default=None, examples=[{"platform": "kvm", "patterns": ["web-*"]}]
    )
    schedules: list[dict[str, Any]] = Field(
        default=[], max_length=32,
        examples=[[{"kind": "incremental", "daily": {"times": ["02:00"]}}]],
    )  # fmt: skip
    zone: str = Field(default="UTC", max_length=100)
    holidays: list[Annotated[str, Field(max_length=20)]] = Field(default=[], max_length=1000)
    retention: dict[str, int] = Field(default={}, examples=[{"daily": 7, "weekly": 4}])
    storage: str = Field(default="", max_length=64)
    count: int = Field(default=10, ge=1, le=_STARTS_MAX, description="starts")


class MachineSelected(BaseModel):
    """A machine that would be protected."""

    id: str
    name: str
    disk_size: int


class Preview(BaseModel):
    """What a policy that is not kept yet would do."""

    starts: list[Start]
    machines: list[MachineSelected] = Field(description="the first of them, by name")
    count: int = Field(description="of machines")
    disk_bytes: int = Field(description="sizes of all their disks together")
    missing: list[str] = Field(description="that the selection names and nobody has seen")
    remaining: Remaining | None = Field(
        description="what retention leaves; none without schedules or rules"
    )
    change_a_day: float = Field(description="share of a machine that is assumed to change in a day")
    ratio: float | None = Field(
        description="what points on the storage take, of what was read; none if it has none yet"
    )


def _line(row: PolicyRow, last: LastRun | None, following: Any) -> PolicyLine:
    policy = row.policy
    document = documents.to_document(policy)
    lists = {key: names for key, names in document["selection"].items() if key != "platform"}
    selection = Selected(
        platform=policy.selection.platform,
        counts={key: len(names) for key, names in lists.items()},
        **{key: names[:_NAMES] for key, names in lists.items()},
    )
    return PolicyLine(
        id=row.id, version=row.version, name=policy.name, group=policy.group,
        enabled=policy.enabled, selection=selection, storage=policy.storage,
        schedules=document["schedules"], zone=policy.zone,
        retention={key: value for key, value in document["retention"].items() if value},
        rpo_minutes=policy.rpo_minutes, last=last,
        next=Start(**following) if following is not None else None,
    )  # fmt: skip


@router.get("/policies/overview", responses=problems.responses())
def policy_overview(services: ServicesOf, by: By) -> list[PolicyLine]:
    """List the policies with their newest backup and their next start, by name."""
    rows = [row for row in services.policies.all() if by.may(Right.VIEW, row.policy.group)]
    with services.database.reading() as connection:
        last = policy_views.last_runs(connection)
    now = services.clock.now()
    return [_line(row, last.get(row.id), policy_views.next_start(row, now)) for row in rows]


@router.post("/policies/preview", responses=problems.responses(404))
def preview_policy(
    services: ServicesOf, by: By, wanted: Annotated[PreviewWanted, Body()]
) -> Preview:
    """Show what a policy would do: its starts, its machines, and what retention leaves.

    Nothing is kept. What remains is that of one machine, as if every start made a point.
    """
    policy = documents.from_document({
        "name": "preview", "selection": wanted.selection or {"platform": "none"},
        "storage": wanted.storage or "none", "schedules": wanted.schedules, "zone": wanted.zone,
        "holidays": wanted.holidays, "retention": wanted.retention,
    })  # fmt: skip
    machines, missing = [], []
    if wanted.selection is not None:
        platform = reach.platform(services, by, policy.selection.platform)
        known = services.inventory.machines(platform.name)
        machines = selecting.selected(policy.selection, known)
        missing = selecting.missing(policy.selection, known)
    now = services.clock.now()
    starts = services.next_starts(policy_views.unkept(policy, now), wanted.count)
    return Preview(
        starts=[Start(**each) for each in starts],
        machines=[MachineSelected(id=each.id, name=each.name, disk_size=each.disk_size)
                  for each in machines[:_MACHINES]],
        count=len(machines),
        disk_bytes=sum(each.disk_size for each in machines),
        missing=missing[:_MACHINES],
        remaining=policy_views.remaining(policy, now),
        change_a_day=policy_views.CHANGE_A_DAY,
        ratio=_ratio(services, by, wanted.storage) if wanted.storage else None,
    )  # fmt: skip


def _ratio(services: ServicesOf, by: Principal, storage: str) -> float | None:
    """Return what points on a storage take, as far as somebody may see it."""
    try:
        row = reach.storage(services, by, storage)
    except NotFound:
        return None
    with services.database.reading() as connection:
        return policy_views.ratio(connection, row.name)


@router.get("/platforms/{platform}/places", responses=problems.responses(404))
def platform_places(services: ServicesOf, by: By, platform: str) -> Places:
    """Show by what the machines of a platform can be selected: hosts, folders, tags."""
    row = reach.platform(services, by, platform)
    return policy_views.places(services.inventory, row.name)
