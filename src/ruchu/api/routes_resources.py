"""Machines with what protects them, where they are; how storages fill; what is asked of nodes."""

import datetime
from collections.abc import Iterable, Sequence
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Body, Query
from pydantic import BaseModel, Field

from ruchu.api import auditing, problems, reach
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit
from ruchu.control.inventory.inventory import MachineRow
from ruchu.control.nodes.tasks import TaskRow
from ruchu.control.reports import forecast as forecasts
from ruchu.control.server import coverage
from ruchu.control.server.coverage import Covered, Place, Wanted
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["resources"])
DAYS_MAX = 400


class OfPolicy(BaseModel):
    """A policy that selects a machine."""

    id: str
    name: str
    enabled: bool


class MachineShown(BaseModel):
    """A machine, what protects it, and its newest point."""

    machine: MachineRow
    policies: list[OfPolicy] = Field(description="that select it, and that one may see")
    protected: bool = Field(description="whether an enabled policy selects it")
    newest: str | None = Field(description="when its newest point was made")


class MachinePage(BaseModel):
    """A part of the machines."""

    items: list[MachineShown]
    next: str | None = Field(default=None, description="`after` of the following page")
    total: int = Field(description="how many there are, on all pages")


class Hardware(BaseModel):
    """What a platform says of a machine now."""

    firmware: str
    disks: list[dict[str, Any]]
    nics: list[dict[str, Any]]


class ReapWanted(BaseModel):
    """Whose leftovers are meant."""

    storage: str = Field(
        max_length=64, examples=["main"], description="where the chains of the machines lie"
    )


class Reaped(BaseModel):
    """What was removed."""

    cleaned: dict[str, list[str]] = Field(description="by machine")


class Grown(BaseModel):
    """How large a storage was and is."""

    bytes_before: int
    bytes_after: int


class DayOfUse(BaseModel):
    """A day of a storage: free room at its end, and what its points took."""

    day: str
    free: int
    stored: int


class Use(BaseModel):
    """How a storage fills."""

    days: list[DayOfUse]
    points: int
    bytes_read: int = Field(description="that were read for its points")
    bytes_stored: int = Field(description="of them, after deduplication and compression")
    growth_bytes: float | None = Field(description="a day; null: too few days to tell")
    full_on: str | None = Field(
        description="when it is full at this growth; null: not in ten years"
    )
    earliest: str | None
    latest: str | None


def _only(services: ServicesOf, by: Principal) -> frozenset[str] | None:
    """Return the names of the platforms that somebody may see; None if it is all of them."""
    if by.may(Right.VIEW):
        return None
    rows = services.inventory.platforms()
    return frozenset(row.name for row in rows if by.may(Right.VIEW, row.resource_group))


def _shown(services: ServicesOf, by: Principal, found: Sequence[Covered]) -> list[MachineShown]:
    seen = None
    if not by.may(Right.VIEW):
        rows = services.storages.all()
        seen = [row.name for row in rows if by.may(Right.VIEW, row.resource_group)]
    newest = services.catalogue.newest_of(sorted({each.row.name for each in found}), seen)
    ids = {identity for each in found for identity in each.policies}
    policies = {row.id: OfPolicy(id=row.id, name=row.policy.name, enabled=row.policy.enabled)
                for row in services.policies.all()
                if row.id in ids and by.may(Right.VIEW, row.policy.group)}  # fmt: skip
    return [
        MachineShown(
            machine=each.row, policies=_of(each.policies, policies), protected=each.protected,
            newest=newest.get((each.row.platform, each.row.name)),
        )
        for each in found
    ]  # fmt: skip


def _of(ids: Iterable[str], policies: dict[str, OfPolicy]) -> list[OfPolicy]:
    return [policies[each] for each in ids if each in policies]


@router.get("/machines/overview", responses=problems.responses())
def machines_overview(
    services: ServicesOf, by: By,
    text: Annotated[
        str, Query(max_length=200, description="in the name, the platform, the host or a tag")
    ] = "",
    platform: Annotated[str, Query(max_length=64)] = "",
    protection: Annotated[Literal["", "protected", "unprotected"], Query()] = "",
    host: Annotated[str | None, Query(max_length=300)] = None,
    folder: Annotated[str | None, Query(max_length=1000)] = None,
    after: After = "",
    limit: Limit = 100,
) -> MachinePage:  # fmt: skip
    """List machines by name, with the policies that select them and their newest points."""
    wanted = Wanted(text, platform, protection, host, folder, _only(services, by))
    found, total = services.coverage.page(wanted, after, limit + 1)
    shown = found[:limit]
    following = coverage.key(shown[-1].row) if len(found) > limit else None
    return MachinePage(items=_shown(services, by, shown), next=following, total=total)


@router.get("/machines/{platform}/{machine}", responses=problems.responses(404))
def show_machine(services: ServicesOf, by: By, platform: str, machine: str) -> MachineShown:
    """Show a machine of a platform, by its id there."""
    row = reach.platform(services, by, platform)
    (shown,) = _shown(services, by, [services.coverage.machine(row.name, machine)])
    return shown


@router.get("/machines/{platform}/{machine}/hardware", responses=problems.responses(404, 502))
def machine_hardware(services: ServicesOf, by: By, platform: str, machine: str) -> Hardware:
    """Ask a platform for the disks and network cards of a machine, through a node."""
    row = reach.platform(services, by, platform)
    found = services.asker.machine(row, services.coverage.machine(row.name, machine).row.id)
    return Hardware(firmware=found["firmware"], disks=found["disks"], nics=found["nics"])


@router.get("/platforms/{platform}/tree", responses=problems.responses(404))
def platform_tree(services: ServicesOf, by: By, platform: str) -> list[Place]:
    """List the hosts and folders of a platform, and how many machines are there."""
    return services.coverage.places(reach.platform(services, by, platform).name)


@router.post("/platforms/{platform}/reap", responses=problems.responses(404, 502))
def reap_platform(
    services: ServicesOf, by: By, platform: str, wanted: Annotated[ReapWanted, Body()]
) -> Reaped:
    """Remove snapshots, jobs and files that dead runs left on a platform."""
    row = reach.platform(services, by, platform, Right.CONFIGURE)
    storage = reach.storage(services, by, wanted.storage, Right.CONFIGURE)
    with auditing.recorded(services, by, "platform.reap", row.name, {"storage": storage.name}):
        found = services.asker.reap(storage, row)
    return Reaped(cleaned={name: list(each) for name, each in found.items()})


@router.get("/nodes/{node}/tasks", responses=problems.responses(404))
def node_tasks(services: ServicesOf, by: By, node: str) -> list[TaskRow]:
    """List the tasks that a node has and that have not ended."""
    by.demand(Right.VIEW)
    return services.tasks.of_node(services.nodes.get(node).id)


@router.post("/storages/{storage}/grow", responses=problems.responses(404, 502))
def grow_storage(services: ServicesOf, by: By, storage: str) -> Grown:
    """Let a storage use all of a device that has become larger."""
    row = reach.storage(services, by, storage, Right.CONFIGURE)
    with auditing.recorded(services, by, "storage.grow", row.name):
        found = services.asker.grow(row)
        services.asker.look(row)
    return Grown(bytes_before=found["bytes_before"], bytes_after=found["bytes_after"])


@router.post("/storages/{storage}/probe", responses=problems.responses(404, 502))
def probe_storage(services: ServicesOf, by: By, storage: str) -> dict[str, Any]:
    """Find out anew what the place of a storage can do."""
    row = reach.storage(services, by, storage, Right.CONFIGURE)
    with auditing.recorded(services, by, "storage.probe", row.name):
        found = dict(services.asker.probe(row))
        services.storages.learned(row.name, probe=found)
    return found


@router.get("/storages/{storage}/use", responses=problems.responses(404))
def storage_use(
    services: ServicesOf, by: By, storage: str, days: Annotated[int, Query(ge=1, le=DAYS_MAX)] = 90
) -> Use:
    """Show how a storage filled by day, what its points took, and when it will be full."""
    row = reach.storage(services, by, storage)
    known = services.storages.use(row.id, max(days, forecasts.DAYS_USED))
    points, read, stored = services.catalogue.sums(row.name)
    size = row.size or 0
    # Of a storage with a size counts what is full there, of others what the points take.
    daily = {
        datetime.date.fromisoformat(each["day"]): size - each["free"] if size else each["stored"]
        for each in known
    }
    found = forecasts.forecast(daily, size)
    shown = [DayOfUse(day=each["day"], free=each["free"], stored=each["stored"])
             for each in known[-days:]]  # fmt: skip
    return Use(
        days=shown, points=points, bytes_read=read, bytes_stored=stored,
        growth_bytes=found.growth_bytes if found.enough else None,
        full_on=_day(found.full_on), earliest=_day(found.earliest), latest=_day(found.latest),
    )  # fmt: skip


def _day(day: datetime.date | None) -> str | None:
    return day.isoformat() if day is not None else None
