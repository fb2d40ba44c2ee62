"""The catalogue of points: found, paged, brought up to date with what nodes say."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import from_text
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.storages.tables import POINTS
from ruchu.errors import NotFound, UsageError

PAGE_MAX = 1000
# Rows that one statement takes; PostgreSQL allows 65,535 values in one.
_ROWS_A_STATEMENT = 1000
PREFIX_MIN = 4


@dataclass(frozen=True, slots=True)
class PointRow:
    """A point as it was seen last; see the table."""

    storage: str
    id: str
    chain: str
    sequence: int
    name: str
    object: str
    platform: str
    kind: str
    time: str
    bytes_stored: int | None
    bytes_read: int | None
    starred: bool
    locked_until: str | None
    disks: Sequence[Mapping[str, Any]]
    policy: str | None
    run: str | None
    verified: str | None
    verdict: str


@dataclass(frozen=True, slots=True)
class PointFilter:
    """Which points a page shows; empty means all.

    `before` is `time/id/storage` of the last one seen: a copy has the id of what it is a copy of.

    `storages` are those that may be seen; None is all of them.
    """

    name: str = ""
    storage: str = ""
    chain: str = ""
    text: str = ""
    before: str = ""
    storages: tuple[str, ...] | None = None


class Catalogue:
    """The points that a server knows. Safe in several threads."""

    def __init__(self, database: Database, events: Events) -> None:
        self._database = database
        self._events = events

    def find(self, prefix: str, storages: Sequence[str] | None = None) -> list[PointRow]:
        """Return a point by the beginning of its id, on each storage that holds it.

        `storages` are those that are looked at; None is all of them.

        Raises:
            NotFound: there is none.
            UsageError: the beginning is too short, or several points match.
        """
        if len(prefix) < PREFIX_MIN:
            raise UsageError(f"(point {prefix[:40]!r}: at least {PREFIX_MIN} digits)")
        query = sa.select(POINTS).where(POINTS.c.id.startswith(prefix, autoescape=True))
        if storages is not None:
            query = query.where(POINTS.c.storage.in_(storages))
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(PAGE_MAX)).all()
        found = [PointRow(**row._mapping) for row in rows]  # noqa: SLF001 - public in SQLAlchemy
        if not found:
            raise NotFound(f"(point {prefix[:40]!r})")
        if len({row.id for row in found}) > 1:
            raise UsageError(f"(point {prefix[:40]!r}: several match)", hint="Give more digits.")
        return found

    def page(self, wanted: PointFilter, limit: int) -> list[PointRow]:
        """Return points, the newest first."""
        query = sa.select(POINTS).order_by(
            POINTS.c.time.desc(), POINTS.c.id.desc(), POINTS.c.storage.desc()
        )
        for column in ("name", "storage", "chain"):
            if getattr(wanted, column):
                query = query.where(POINTS.c[column] == getattr(wanted, column))
        if wanted.storages is not None:
            query = query.where(POINTS.c.storage.in_(wanted.storages))
        if wanted.text:
            query = query.where(POINTS.c.name.icontains(wanted.text, autoescape=True))
        if wanted.before:
            time, identity, storage = (*wanted.before.split("/", 2), "", "")[:3]
            same = POINTS.c.time == time
            query = query.where(sa.or_(
                POINTS.c.time < time,
                sa.and_(same, POINTS.c.id < identity),
                sa.and_(same, POINTS.c.id == identity, POINTS.c.storage < storage),
            ))  # fmt: skip
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(min(limit, PAGE_MAX))).all()
        return [PointRow(**row._mapping) for row in rows]  # noqa: SLF001

    def ids(self, storage: str) -> list[str]:
        """Return the ids of all points of a storage, in their order."""
        query = sa.select(POINTS.c.id).where(POINTS.c.storage == storage).order_by(POINTS.c.id)
        with self._database.reading() as connection:
            return list(connection.execute(query).scalars())

    def newest(self) -> dict[tuple[str, str], str]:
        """Return the time of the newest point by platform and name."""
        query = sa.select(
            POINTS.c.platform, POINTS.c.name, sa.func.max(POINTS.c.time).label("newest")
        ).group_by(POINTS.c.platform, POINTS.c.name)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return {(row.platform, row.name): row.newest for row in rows}

    def newest_of(
        self, names: Sequence[str], storages: Sequence[str] | None = None
    ) -> dict[tuple[str, str], str]:
        """Return the time of the newest point by platform and name, of things of these names.

        `storages` are those that are looked at; None is all of them.
        """
        query = sa.select(
            POINTS.c.platform, POINTS.c.name, sa.func.max(POINTS.c.time).label("newest")
        ).where(POINTS.c.name.in_(names)).group_by(POINTS.c.platform, POINTS.c.name)  # fmt: skip
        if storages is not None:
            query = query.where(POINTS.c.storage.in_(storages))
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
        return {(row.platform, row.name): row.newest for row in rows}

    def newest_moments(self) -> dict[tuple[str, str], float]:
        """Return the moment of the newest point by platform and name, in seconds since 1970."""
        return {key: from_text(text).timestamp() for key, text in self.newest().items()}

    def stored(self, storage: str) -> int:
        """Return the bytes that the points of a storage added."""
        query = sa.select(sa.func.sum(POINTS.c.bytes_stored)).where(POINTS.c.storage == storage)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar() or 0)

    def sums(self, storage: str) -> tuple[int, int, int]:
        """Return how many points a storage has, the bytes that were read for them, and kept."""
        query = sa.select(
            sa.func.count(), sa.func.sum(POINTS.c.bytes_read), sa.func.sum(POINTS.c.bytes_stored)
        ).where(POINTS.c.storage == storage)
        with self._database.reading() as connection:
            count, read, stored = connection.execute(query).one()
        return int(count), int(read or 0), int(stored or 0)

    def took(self, point: Mapping[str, Any], *, policy: str | None, run: str) -> None:
        """Take in a point that a run made."""
        self.changed(str(point["storage"]), [point], (), policy=policy, run=run)

    def changed(
        self, storage: str, made: Sequence[Mapping[str, Any]], gone: Sequence[str], *,
        policy: str | None, run: str,
    ) -> None:  # fmt: skip
        """Take in the points that a run made and removed, all at once."""
        rows = [_values(point) | {"policy": policy, "run": run} for point in made]
        number = 0
        with self._database.writing() as connection:
            _put(connection, rows)
            _remove(connection, storage, gone)
            for row in rows:
                body = {"name": row["name"], "kind": row["kind"]}
                number = self._events.write(connection, "point", row["id"], body)
            if gone:
                number = self._events.write(connection, "points", storage, {"removed": len(gone)})
        self._events.told(number)

    def saw(
        self, storage: str, points: Sequence[Mapping[str, Any]], known: Sequence[str] | None = None
    ) -> None:
        """Take in a whole listing of a storage; of the points that were `known`, others are gone."""
        rows = [_values(point) for point in points]
        there = {row["id"] for row in rows}
        with self._database.writing() as connection:
            before = known
            if before is None:
                query = sa.select(POINTS.c.id).where(POINTS.c.storage == storage)
                before = list(connection.execute(query).scalars())
            gone = [each for each in before if each not in there]
            _remove(connection, storage, gone)
            _put(connection, rows)
        self._events.publish("points", storage, {"points": len(rows)})

    def copied(self, storage: str, to: str) -> None:
        """Note that every point of a storage lies on another one as well."""
        query = sa.select(POINTS).where(POINTS.c.storage == storage)
        with self._database.writing() as connection:
            rows = [{**row._mapping, "storage": to} for row in connection.execute(query)]  # noqa: SLF001
            _put(connection, rows)
        self._events.publish("points", to, {"points": len(rows)})

    def removed(self, storage: str, points: Sequence[str]) -> None:
        """Note that points are gone."""
        with self._database.writing() as connection:
            _remove(connection, storage, points)
        self._events.publish("points", storage, {"removed": len(points)})

    def mark(self, storage: str, point: str, **values: Any) -> None:
        """Note what changed of a point: `starred`, `locked_until`, `verified`, `verdict`."""
        mine = sa.and_(POINTS.c.storage == storage, POINTS.c.id == point)
        with self._database.writing() as connection:
            connection.execute(POINTS.update().where(mine).values(values))
        self._events.publish("point", point, values)

    def verified(
        self, storage: str, covered: Iterable[tuple[str, int]], damaged: Sequence[str], at: str
    ) -> None:
        """Note that a whole storage was verified, and that its points are sound but the damaged.

        Args:
            storage: its name.
            covered: chains, each with the sequence of the last of its points that was looked at:
                what came later is not known to be sound.
            damaged: points.
            at: when, RFC 3339.
        """
        values = {"verified": at, "verdict": "sound"}
        wrong, count = set(damaged), 0
        with self._database.writing() as connection:
            for chain, last in covered:
                mine = sa.and_(
                    POINTS.c.storage == storage, POINTS.c.chain == chain, POINTS.c.sequence <= last
                )
                found = connection.execute(sa.select(POINTS.c.id).where(mine)).scalars()
                sound = [point for point in found if point not in wrong]
                for begin in range(0, len(sound), _ROWS_A_STATEMENT):
                    part = POINTS.c.id.in_(sound[begin : begin + _ROWS_A_STATEMENT])
                    query = POINTS.update().where(mine, part).values(values)
                    count += connection.execute(query).rowcount
        if count:
            self._events.publish("points", storage, {"verified": count})


def _put(connection: sa.Connection, rows: list[dict[str, Any]]) -> None:
    for at in range(0, len(rows), _ROWS_A_STATEMENT):
        part = rows[at : at + _ROWS_A_STATEMENT]
        query = sa.select(POINTS).where(
            POINTS.c.storage.in_({row["storage"] for row in part}),
            POINTS.c.id.in_([row["id"] for row in part]),
        )
        known = {(row.storage, row.id): row._mapping for row in connection.execute(query)}  # noqa: SLF001
        new = [row for row in part if (row["storage"], row["id"]) not in known]
        if new:
            columns = {"policy": None, "run": None}
            connection.execute(POINTS.insert(), [columns | row for row in new])
        for row in part:
            there = known.get((row["storage"], row["id"]))
            # Most points never change: what stays as it is costs no statement.
            if there is not None and any(there[key] != value for key, value in row.items()):
                mine = sa.and_(POINTS.c.storage == row["storage"], POINTS.c.id == row["id"])
                connection.execute(POINTS.update().where(mine).values(row))


def _remove(connection: sa.Connection, storage: str, points: Sequence[str]) -> None:
    for at in range(0, len(points), _ROWS_A_STATEMENT):
        part = points[at : at + _ROWS_A_STATEMENT]
        connection.execute(
            POINTS.delete().where(POINTS.c.storage == storage, POINTS.c.id.in_(part))
        )


def _values(point: Mapping[str, Any]) -> dict[str, Any]:
    """Return the columns of a point from a line of a node's listing."""
    return {
        "storage": str(point["storage"]),
        "id": str(point["point"]),
        "chain": str(point["chain"]),
        "sequence": int(point["sequence"]),
        "name": str(point["name"]),
        "object": str(point.get("object") or "vm"),
        "platform": str(point.get("platform") or ""),
        "kind": str(point["kind"]),
        "time": str(point["time"]),
        "bytes_stored": point.get("bytes_stored"),
        "bytes_read": point.get("bytes_read"),
        "starred": bool(point.get("starred")),
        "locked_until": point.get("locked_until"),
        "disks": list(point.get("disks") or ()),
    }
