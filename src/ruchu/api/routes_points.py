"""What can be restored: machines that points exist of, and the points of one of them."""

from datetime import UTC, datetime
from typing import Annotated

from fastapi import APIRouter, Query
from pydantic import BaseModel, Field

from ruchu.api import paging, problems
from ruchu.api.identity import By, ServicesOf
from ruchu.api.paging import After, Limit, Page
from ruchu.clock import to_text
from ruchu.control.server.services import Services
from ruchu.control.storages.catalogue import PointRow
from ruchu.control.storages.saved_machines import SavedMachines, Wanted
from ruchu.model.principals import Principal, Right

router = APIRouter(tags=["points"])
Name = Annotated[str, Query(max_length=200, description="of the machine or image")]
PlatformName = Annotated[str, Query(max_length=64, description="of its platform; images have none")]
Moment = Annotated[
    datetime | None, Query(description="RFC 3339; UTC if it names no offset",
                           examples=["2026-11-22T18:00:00Z"]),
]  # fmt: skip


class Restorable(BaseModel):
    """A machine or an image that points exist of."""

    name: str
    platform: str = Field(description="empty for images")
    object: str = Field(description="vm, image")
    exists: bool | None = Field(
        description="whether its platform still has it; null if there is no telling"
    )
    points: int = Field(description="a point and its copies are one")
    newest: str
    oldest: str
    bytes_stored: int
    starred: int
    storages: list[str]
    point: str = Field(description="id of the newest one")
    kind: str = Field(description="of the newest one")


class RestorablePoint(BaseModel):
    """A point, with what is known of it on each storage that holds it."""

    id: str
    time: str
    kind: str
    starred: bool
    locked_until: str | None = Field(description="null if it is not locked now")
    copies: list[PointRow]


class DayOfPoints(BaseModel):
    """What was saved on a day."""

    day: str = Field(examples=["2026-11-22"])
    points: int
    kinds: dict[str, int] = Field(description="number of points by kind")
    starred: int
    locked: int


@router.get("/points/machines", responses=problems.responses())
def list_restorable(
    services: ServicesOf,
    by: By,
    text: Annotated[str, Query(max_length=200, description="in the name")] = "",
    at: Moment = None,
    after: After = "",
    limit: Limit = 100,
) -> Page[Restorable]:
    """List machines and images that points exist of, by name, though they may be gone.

    With `at` only points count that are not newer.
    """
    wanted = Wanted(text, _text(at), _storages(services, by))
    rows = SavedMachines(services.database).page(wanted, after, limit + 1)
    there = _there(services, {row.platform for row in rows})
    found = [
        Restorable(
            name=row.name, platform=row.platform, object=row.object,
            exists=row.name in there[row.platform] if row.platform in there else None,
            points=row.points, newest=row.newest, oldest=row.oldest,
            bytes_stored=row.bytes_stored, starred=row.starred, storages=list(row.storages),
            point=row.point, kind=row.kind,
        )
        for row in rows
    ]  # fmt: skip
    return paging.page(found, limit, lambda row: f"{row.platform}/{row.name}")


def _there(services: Services, platforms: set[str]) -> dict[str, set[str]]:
    """Return the names of the machines of platforms, as far as these are known and were listed."""
    listed = {row.name for row in services.inventory.platforms() if row.seen}
    return {
        name: {machine.name for machine in services.inventory.machines(name)}
        for name in platforms & listed
    }


@router.get("/points/history", responses=problems.responses())
def point_history(
    services: ServicesOf,
    by: By,
    name: Name,
    platform: PlatformName = "",
    since: Moment = None,
    until: Moment = None,
    after: After = "",
    limit: Limit = 100,
) -> Page[RestorablePoint]:
    """List the points of a machine or image, the newest first; a copy is no point of its own."""
    wanted = Wanted(until=_text(until), storages=_storages(services, by))
    rows = SavedMachines(services.database).points(
        platform, name, wanted, _text(since), after, limit + 1
    )
    now = to_text(services.clock.now())
    found = []
    for row in rows:
        locks = [each.locked_until for each in row.copies if (each.locked_until or "") > now]
        found.append(RestorablePoint(
            id=row.id, time=row.time, kind=row.kind, copies=list(row.copies),
            starred=any(each.starred for each in row.copies),
            locked_until=max(filter(None, locks), default=None),
        ))  # fmt: skip
    return paging.page(found, limit, lambda row: f"{row.time}/{row.id}")


@router.get("/points/days", responses=problems.responses())
def point_days(
    services: ServicesOf, by: By, name: Name, platform: PlatformName = ""
) -> list[DayOfPoints]:  # fmt: skip
    """Count the points of a machine or image by day of the server's time zone, oldest first."""
    wanted = Wanted(storages=_storages(services, by))
    zone, now = services.settings.get()[0].zone, to_text(services.clock.now())
    days = SavedMachines(services.database).days(platform, name, wanted, zone, now)
    return [
        DayOfPoints(day=each.day, points=each.points, kinds=each.kinds, starred=each.starred,
            locked=each.locked)
        for each in days
    ]  # fmt: skip


def _storages(services: Services, by: Principal) -> tuple[str, ...] | None:
    """Return the names of the storages that somebody may see; None if it is all of them."""
    if by.may(Right.VIEW):
        return None
    rows = services.storages.all()
    return tuple(row.name for row in rows if by.may(Right.VIEW, row.resource_group))


def _text(moment: datetime | None) -> str:
    if moment is None:
        return ""
    return to_text(moment if moment.tzinfo else moment.replace(tzinfo=UTC))
