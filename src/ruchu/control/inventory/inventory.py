"""Platforms and their machines. What a listing that failed would have shown stays as it was."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlsplit

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.inventory.tables import MACHINES, PLATFORMS
from ruchu.errors import AlreadyExists, InvalidName, NotFound, Stale, UsageError
from ruchu.model.ids import new_id

PAGE_MAX = 1000
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHANGEABLE = {"uri", "scratch", "nodes", "parallel", "host_parallel", "resource_group"}


@dataclass(frozen=True, slots=True)
class PlatformRow:
    """A platform as it is now; see the table."""

    id: str
    name: str
    uri: str
    scratch: str
    nodes: Sequence[str]
    parallel: int
    host_parallel: int
    resource_group: str
    seen: str | None
    problem: str
    facts: Mapping[str, Any]
    version: int


@dataclass(frozen=True, slots=True)
class MachineRow:
    """A machine as it was seen last; see the table."""

    platform: str
    id: str
    name: str
    state: str
    host: str
    folder: str
    tags: Sequence[str]
    vcpus: int
    memory: int
    disk_size: int
    seen: str


class Inventory:
    """The platforms of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        # By platform: when it was listed, and what was on it then. A listing with another moment
        # is another listing.
        self._listed: dict[str, tuple[str, list[MachineRow]]] = {}

    def platforms(self) -> list[PlatformRow]:
        """Return all platforms, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(PLATFORMS).order_by(PLATFORMS.c.name)).all()
        return [PlatformRow(**row._mapping) for row in rows]  # noqa: SLF001 - public in SQLAlchemy

    def platform(self, name: str) -> PlatformRow:
        """Return a platform by its name or its id.

        Raises:
            NotFound: there is none.
        """
        for row in self.platforms():
            if name in {row.name, row.id}:
                return row
        raise NotFound(f"(platform {name[:80]!r})")

    def add(self, name: str, uri: str, **values: Any) -> PlatformRow:
        """Know a platform from now on; it need not answer now.

        Raises:
            InvalidName, UsageError: name or address cannot be.
            AlreadyExists: there is one of that name.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(f"({name[:80]!r})")
        _check(uri, values)
        row = {
            "id": new_id(), "name": name, "uri": uri, "scratch": "", "nodes": [], "parallel": 4,
            "host_parallel": 2, "resource_group": "default", "facts": {}, "problem": "",
            "version": 1, **values,
        }  # fmt: skip
        with self._database.writing() as connection:
            taken = sa.select(PLATFORMS.c.id).where(PLATFORMS.c.name == name)
            if connection.execute(taken).first() is not None:
                raise AlreadyExists(f"(platform {name!r})")
            connection.execute(PLATFORMS.insert().values(row))
        self._events.publish("platform", row["id"], {"name": name})
        return self.platform(name)

    def change(self, identity: str, version: int, values: Mapping[str, Any]) -> PlatformRow:
        """Change a platform.

        Raises:
            NotFound, Stale: it is not there, or was changed in the meantime.
        """
        row = self.platform(identity)
        _check(str(values.get("uri", row.uri)), values)
        mine = sa.and_(PLATFORMS.c.id == row.id, PLATFORMS.c.version == version)
        changes = {**values, "version": version + 1}
        with self._database.writing() as connection:
            done = connection.execute(PLATFORMS.update().where(mine).values(changes))
        if not done.rowcount:
            raise Stale(f"(platform {row.name})")
        self._events.publish("platform", row.id, {"name": row.name})
        return self.platform(row.id)

    def remove(self, identity: str, version: int) -> None:
        """Forget a platform and its machines; points stay.

        Raises:
            NotFound, Stale: it is not there, or was changed in the meantime.
        """
        row = self.platform(identity)
        mine = sa.and_(PLATFORMS.c.id == row.id, PLATFORMS.c.version == version)
        with self._database.writing() as connection:
            if not connection.execute(PLATFORMS.delete().where(mine)).rowcount:
                raise Stale(f"(platform {row.name})")
            connection.execute(MACHINES.delete().where(MACHINES.c.platform == row.name))
        self._listed.pop(row.name, None)
        self._events.publish("platform.removed", row.id, {"name": row.name})

    def saw(self, platform: str, machines: Sequence[Mapping[str, Any]]) -> None:
        """Take in a whole listing of a platform; what is not in it is gone."""
        now = to_text(self._clock.now())
        rows = [_machine_values(platform, each, now) for each in machines]
        with self._database.writing() as connection:
            _replace(connection, platform, rows)
            connection.execute(
                PLATFORMS.update().where(PLATFORMS.c.name == platform).values(seen=now, problem="")
            )
        self._events.publish("inventory", platform, {"machines": len(rows)})

    def failed(self, platform: str, problem: str) -> None:
        """Note that a platform could not be listed; its machines stay as they were seen."""
        with self._database.writing() as connection:
            connection.execute(
                PLATFORMS.update().where(PLATFORMS.c.name == platform).values(problem=problem)
            )
        self._events.publish("inventory", platform, {"problem": problem})

    def machines(self, platform: str = "") -> list[MachineRow]:
        """Return all machines, or those of one platform, by name."""
        query = sa.select(MACHINES).order_by(MACHINES.c.name, MACHINES.c.id)
        seen = None
        with self._database.reading() as connection:
            if platform:
                query = query.where(MACHINES.c.platform == platform)
                when = sa.select(PLATFORMS.c.seen).where(PLATFORMS.c.name == platform)
                seen = connection.execute(when).scalar()
                listed, rows = self._listed.get(platform, (None, []))
                if seen is not None and listed == seen:
                    return list(rows)
            rows = [MachineRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001
        if seen is not None:
            self._listed[platform] = seen, rows
        return list(rows)

    def page(
        self, text: str, platform: str, after: str, limit: int,
        platforms: Sequence[str] | None = None,
    ) -> list[MachineRow]:  # fmt: skip
        """Return machines whose names hold a text, behind `name/id/platform` of the last one seen.

        `platforms` are those that may be seen; None is all of them.
        """
        query = sa.select(MACHINES)
        query = query.order_by(MACHINES.c.name, MACHINES.c.id, MACHINES.c.platform)
        if platforms is not None:
            query = query.where(MACHINES.c.platform.in_(platforms))
        if text:
            query = query.where(MACHINES.c.name.icontains(text, autoescape=True))
        if platform:
            query = query.where(MACHINES.c.platform == platform)
        if after:
            name, identity, last = ("", "", *after.rsplit("/", 2))[-3:]
            same = MACHINES.c.name == name
            query = query.where(sa.or_(
                MACHINES.c.name > name,
                sa.and_(same, MACHINES.c.id > identity),
                sa.and_(same, MACHINES.c.id == identity, MACHINES.c.platform > last),
            ))  # fmt: skip
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(min(limit, PAGE_MAX))).all()
        return [MachineRow(**row._mapping) for row in rows]  # noqa: SLF001


def _replace(connection: sa.Connection, platform: str, rows: Sequence[dict[str, Any]]) -> None:
    """Let the machines of a platform be these; of most of them nothing has changed."""
    mine = MACHINES.c.platform == platform
    found = connection.execute(sa.select(MACHINES).where(mine))
    known = {row.id: dict(row._mapping) for row in found}  # noqa: SLF001 - public in SQLAlchemy
    listed = {row["id"]: row for row in rows}
    gone = known.keys() - listed.keys()
    fresh = [row for identity, row in listed.items() if identity not in known]
    for identity, row in listed.items():
        before = known.get(identity)
        if before is not None and before | {"seen": row["seen"]} != row:
            same = sa.and_(mine, MACHINES.c.id == identity)
            connection.execute(MACHINES.update().where(same).values(row))
    for identity in gone:
        connection.execute(MACHINES.delete().where(mine, MACHINES.c.id == identity))
    if rows:
        connection.execute(MACHINES.update().where(mine).values(seen=rows[0]["seen"]))
    if fresh:
        connection.execute(MACHINES.insert(), fresh)


def _check(uri: str, values: Mapping[str, Any]) -> None:
    if not urlsplit(uri).scheme or len(uri) > 1000 or not uri.isprintable():
        raise UsageError(f"(address {uri[:80]!r})", hint="Such as qemu:///system.")
    unknown = set(values) - _CHANGEABLE
    if unknown:
        raise UsageError(f"({', '.join(sorted(unknown))})")
    for key in ("parallel", "host_parallel"):
        if key in values and not 1 <= int(values[key]) <= 1000:
            raise UsageError(f"({key})", hint="1 to 1000.")


def _machine_values(platform: str, value: Mapping[str, Any], now: str) -> dict[str, Any]:
    return {
        "platform": platform,
        "id": str(value["id"]),
        "name": str(value["name"]),
        "state": str(value["state"]),
        "host": str(value.get("host", "")),
        "folder": str(value.get("folder", "")),
        "tags": [str(tag) for tag in value.get("tags", ())],
        "vcpus": int(value.get("vcpus", 0)),
        "memory": int(value.get("memory", 0)),
        "disk_size": int(value.get("disk_size", 0)),
        "seen": now,
    }
