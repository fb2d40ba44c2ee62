"""Machines as they are found again: by what was saved of them, whether they still exist or not.

A point and its copies on other storages are one point here. Names are looked up through the index
of names and times first, so that a page costs what is on it, whatever else is known.
"""

from collections import defaultdict
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

import sqlalchemy as sa

from ruchu.clock import from_text
from ruchu.control.database.database import Database
from ruchu.control.storages.catalogue import PAGE_MAX, PointRow
from ruchu.control.storages.tables import POINTS

# Hourly points of more than five years; more are shown by asking for a later day.
DAYS_ROWS_MAX = 50_000


@dataclass(frozen=True, slots=True)
class SavedMachine:
    """A machine or image that points exist of.

    Attributes:
        name, platform: of it; an image has no platform.
        object: `vm` or `image`.
        points: how many there are, a copy counting nothing.
        newest, oldest: moments.
        bytes_stored: by all of them, with their copies.
        starred: how many are.
        storages: names of those that hold any.
        point, kind: id and kind of the newest one.
    """

    name: str
    platform: str
    object: str
    points: int
    newest: str
    oldest: str
    bytes_stored: int
    starred: int
    storages: Sequence[str]
    point: str
    kind: str


@dataclass(frozen=True, slots=True)
class SavedPoint:
    """A point with all its copies, the one on a storage of backups first."""

    id: str
    time: str
    kind: str
    copies: Sequence[PointRow]


@dataclass(frozen=True, slots=True)
class SavedDay:
    """What was saved on a day: how many points of each kind, how many are starred or locked."""

    day: str
    points: int
    kinds: dict[str, int]
    starred: int
    locked: int


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which points count.

    Attributes:
        text: in the name.
        until: moment behind which nothing counts; empty means all.
        storages: that may be seen; None is all of them.
    """

    text: str = ""
    until: str = ""
    storages: Collection[str] | None = None

    def conditions(self) -> list[Any]:
        """Return them for a query."""
        found: list[Any] = []
        if self.text:
            found.append(POINTS.c.name.icontains(self.text, autoescape=True))
        if self.until:
            found.append(POINTS.c.time <= self.until)
        if self.storages is not None:
            # As an expression: by the key of storages a database would read nearly all points,
            # and sort them, where the index of names leads to a page at once.
            storage = sa.func.coalesce(POINTS.c.storage, "")
            found.append(storage.in_(list(self.storages)))
        return found


class SavedMachines:
    """Finds them. Safe in several threads."""

    def __init__(self, database: Database) -> None:
        self._database = database

    def page(self, wanted: Wanted, after: str, limit: int) -> list[SavedMachine]:
        """Return machines by name, behind `platform/name` of the last one seen."""
        count = min(limit, PAGE_MAX)
        platform, _, name = after.partition("/")
        conditions = wanted.conditions()
        with self._database.reading() as connection:
            # One more than wanted: the first name may have been shown already.
            names = _names(connection, [*conditions, POINTS.c.name >= name], count + 1)
            behind = sa.or_(
                POINTS.c.name > name, sa.and_(POINTS.c.name == name, POINTS.c.platform > platform)
            )
            some = [*conditions, POINTS.c.name.in_(names), *([behind] if after else [])]
            groups = connection.execute(_grouped(some).limit(count)).all()
            places = connection.execute(
                sa.select(POINTS.c.name, POINTS.c.platform, POINTS.c.storage)
                .where(*some).distinct().order_by(POINTS.c.storage)
            ).all()  # fmt: skip
            newest = connection.execute(
                sa.select(POINTS.c.name, POINTS.c.platform, POINTS.c.time, POINTS.c.id,
                          POINTS.c.kind)
                .where(*some, POINTS.c.time.in_([row.newest for row in groups]))
                .order_by(POINTS.c.id)
            ).all()  # fmt: skip
        storages: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        for place in places:
            storages[place.name, place.platform].append(place.storage)
        last = {(row.name, row.platform, row.time): row for row in newest}
        return [
            SavedMachine(
                row.name, row.platform, row.object, row.points, row.newest, row.oldest,
                int(row.bytes_stored or 0), row.starred,
                storages[row.name, row.platform],
                last[row.name, row.platform, row.newest].id,
                last[row.name, row.platform, row.newest].kind,
            )
            for row in groups
        ]  # fmt: skip

    def points(
        self, platform: str, name: str, wanted: Wanted, since: str, before: str, limit: int
    ) -> list[SavedPoint]:
        """Return points of a machine, newest first, behind `time/id` of the last one seen."""
        mine = [POINTS.c.name == name, POINTS.c.platform == platform, *wanted.conditions()]
        if since:
            mine.append(POINTS.c.time >= since)
        behind = []
        if before:
            time, _, identity = before.partition("/")
            same = sa.and_(POINTS.c.time == time, POINTS.c.id < identity)
            behind = [sa.or_(POINTS.c.time < time, same)]
        query = sa.select(POINTS.c.time, POINTS.c.id).where(*mine, *behind).distinct()
        query = query.order_by(POINTS.c.time.desc(), POINTS.c.id.desc())
        with self._database.reading() as connection:
            found = connection.execute(query.limit(min(limit, PAGE_MAX))).all()
            rows = connection.execute(
                sa.select(POINTS).where(*mine, POINTS.c.id.in_([each.id for each in found]))
                .order_by(POINTS.c.storage)
            ).all()  # fmt: skip
        copies: defaultdict[str, list[PointRow]] = defaultdict(list)
        for row in rows:
            copies[row.id].append(PointRow(**row._mapping))  # noqa: SLF001 - public in SQLAlchemy
        return [
            SavedPoint(each.id, each.time, copies[each.id][0].kind, copies[each.id])
            for each in found
        ]

    def days(
        self, platform: str, name: str, wanted: Wanted, zone: str, now: str
    ) -> list[SavedDay]:  # fmt: skip
        """Return what was saved of a machine by day of a time zone, the oldest first."""
        mine = [POINTS.c.name == name, POINTS.c.platform == platform, *wanted.conditions()]
        columns = (POINTS.c.id, POINTS.c.time, POINTS.c.kind, POINTS.c.starred,
                   POINTS.c.locked_until)  # fmt: skip
        query = sa.select(*columns).where(*mine).order_by(POINTS.c.time.desc())
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(DAYS_ROWS_MAX)).all()
        where = ZoneInfo(zone)
        days: dict[str, dict[str, Any]] = {}
        for row in rows:
            day = _day(from_text(row.time), where)
            points = days.setdefault(day, {})
            kept = points.get(row.id, (row.kind, False, False))
            locked = bool(row.locked_until and row.locked_until > now)
            points[row.id] = (row.kind, kept[1] or row.starred, kept[2] or locked)
        return [_summed(day, list(points.values())) for day, points in sorted(days.items())]


def _names(connection: sa.Connection, conditions: list[Any], count: int) -> list[str]:
    query = sa.select(POINTS.c.name).where(*conditions).distinct().order_by(POINTS.c.name)
    return list(connection.execute(query.limit(count)).scalars())


def _grouped(conditions: list[Any]) -> sa.Select[Any]:
    points = POINTS.c
    starred = sa.func.count(sa.distinct(sa.case((points.starred, points.id))))
    return (
        sa.select(
            points.name, points.platform, sa.func.max(points.object).label("object"),
            sa.func.count(sa.distinct(points.id)).label("points"),
            sa.func.max(points.time).label("newest"), sa.func.min(points.time).label("oldest"),
            sa.func.sum(points.bytes_stored).label("bytes_stored"), starred.label("starred"),
        )
        .where(*conditions)
        .group_by(points.name, points.platform)
        .order_by(points.name, points.platform)
    )  # fmt: skip


def _day(moment: datetime, zone: ZoneInfo) -> str:
    return moment.astimezone(zone).date().isoformat()


def _summed(day: str, points: list[tuple[str, bool, bool]]) -> SavedDay:
    kinds: dict[str, int] = {}
    for kind, _, _ in points:
        kinds[kind] = kinds.get(kind, 0) + 1
    starred, locked = (sum(bool(each[at]) for each in points) for at in (1, 2))
    return SavedDay(day, len(points), kinds, starred, locked)
