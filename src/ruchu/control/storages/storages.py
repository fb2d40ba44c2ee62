"""The storages of a server."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.storages.tables import STORAGE_USE, STORAGES
from ruchu.errors import AlreadyExists, InvalidName, NotFound, Stale, UsageError

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_CHANGEABLE = {"nodes", "writers", "readers", "warn_percent", "stop_percent", "resource_group"}
PARALLEL_MAX = 1000


@dataclass(frozen=True, slots=True)
class StorageRow:
    """A storage as it is now; see the table."""

    id: str
    name: str
    location: str
    role: str
    encrypted: bool
    resource_group: str
    nodes: Sequence[str]
    writers: int
    readers: int
    warn_percent: int
    stop_percent: int
    free: int | None
    size: int | None
    seen: str | None
    problem: str
    facts: Mapping[str, Any]
    version: int

    @property
    def used_percent(self) -> float | None:
        """How full it is; None if there is no telling."""
        if self.free is None or not self.size:
            return None
        return round(100 * (self.size - self.free) / self.size, 1)

    def secret_names(self) -> list[str]:
        """Return the names of the secrets that an order on it carries."""
        names = [f"storage:{self.name}"] if self.encrypted else []
        return names + ([f"credentials:{self.name}"] if self.facts.get("credentials") else [])

    def order_fields(self) -> dict[str, Any]:
        """Return what an order says of it."""
        return {
            "name": self.name,
            "directory": self.location,
            "id": self.id,
            "role": self.role,
            "probe": self.facts.get("probe") or {},
            "writer": self.facts.get("writer") or "",
            "state": self.facts.get("state") or "",
            # A backup is refused before the storage is full to the brim.
            "stop": f"{100 - self.stop_percent}%",
        }


class StorageDefinitions:
    """The storages of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events

    def all(self) -> list[StorageRow]:
        """Return all storages, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(STORAGES).order_by(STORAGES.c.name)).all()
        return [StorageRow(**row._mapping) for row in rows]  # noqa: SLF001 - public in SQLAlchemy

    def get(self, name: str) -> StorageRow:
        """Return a storage by its name or its id.

        Raises:
            NotFound: there is none.
        """
        query = sa.select(STORAGES).where(sa.or_(STORAGES.c.name == name, STORAGES.c.id == name))
        with self._database.reading() as connection:
            found = connection.execute(query.limit(1)).one_or_none()
        if found is None:
            raise NotFound(f"(storage {name[:80]!r})")
        return StorageRow(**found._mapping)  # noqa: SLF001

    def require_free(self, name: str) -> None:
        """Check that a storage may be called so.

        Raises:
            InvalidName, AlreadyExists: it may not.
        """
        if not _NAME.fullmatch(name):
            raise InvalidName(f"({name[:80]!r})")
        if any(row.name == name for row in self.all()):
            raise AlreadyExists(f"(storage {name!r})")

    def add(self, made: Mapping[str, Any], location: str, values: Mapping[str, Any]) -> StorageRow:
        """Keep a storage that a node has made or adopted; `made` is what the node said of it.

        Raises:
            AlreadyExists: its name or the storage itself is known.
        """
        _check(values)
        row = {
            "id": str(made["id"]), "name": str(made["name"]), "location": location,
            "role": str(made["role"]), "encrypted": bool(made["encrypted"]), "nodes": [],
            "resource_group": "default", "writers": 4, "readers": 2, "warn_percent": 80,
            "stop_percent": 95, "free": made.get("free"), "size": made.get("total"),
            "seen": to_text(self._clock.now()), "problem": "", "facts": {key: made.get(key) for key in ("probe", "writer", "credentials")}, "version": 1, **values,
        }  # fmt: skip
        with self._database.writing() as connection:
            taken = sa.select(STORAGES.c.name).where(
                sa.or_(STORAGES.c.id == row["id"], STORAGES.c.name == row["name"])
            )
            if (found := connection.execute(taken).first()) is not None:
                raise AlreadyExists(f"(storage {found.name!r})")
            connection.execute(STORAGES.insert().values(row))
        self._events.publish("storage", row["id"], {"name": row["name"]})
        return self.get(row["id"])

    def change(self, identity: str, version: int, values: Mapping[str, Any]) -> StorageRow:
        """Change limits, thresholds or reach of a storage.

        Raises:
            NotFound, Stale: it is not there, or was changed in the meantime.
        """
        _check(values)
        row = self.get(identity)
        mine = sa.and_(STORAGES.c.id == row.id, STORAGES.c.version == version)
        with self._database.writing() as connection:
            done = connection.execute(
                STORAGES.update().where(mine).values({**values, "version": version + 1})
            )
        if not done.rowcount:
            raise Stale(f"(storage {row.name})")
        self._events.publish("storage", row.id, {"name": row.name})
        return self.get(row.id)

    def remove(self, identity: str) -> StorageRow:
        """Forget a storage; what lies on it stays."""
        row = self.get(identity)
        with self._database.writing() as connection:
            connection.execute(STORAGES.delete().where(STORAGES.c.id == row.id))
        self._events.publish("storage.removed", row.id, {"name": row.name})
        return row

    def saw(self, name: str, state: Mapping[str, Any], stored: int) -> StorageRow:
        """Take in how a storage is, as a node sees it; `stored` are the bytes of its points."""
        row = self.get(name)
        problem = str(state.get("problem") or "")
        now = self._clock.now()
        values: dict[str, Any] = {"problem": problem}
        if not problem:
            values |= {"seen": to_text(now), "free": state.get("free")}
            if state.get("total") is not None:
                values["size"] = state["total"]
        day = {"storage": row.id, "day": f"{now:%Y-%m-%d}"}
        use = {"free": state.get("free") or 0, "stored": stored}
        with self._database.writing() as connection:
            connection.execute(STORAGES.update().where(STORAGES.c.id == row.id).values(values))
            if not problem:
                _upsert_use(connection, day, use)
        self._events.publish("storage", row.id, {"name": row.name, "problem": problem})
        return self.get(row.id)

    def learned(self, name: str, **facts: Any) -> StorageRow:
        """Take in facts about a storage, such as `state`: `evacuating`, `evacuated`."""
        row = self.get(name)
        values = {"facts": {**row.facts, **facts}}
        with self._database.writing() as connection:
            connection.execute(STORAGES.update().where(STORAGES.c.id == row.id).values(values))
        self._events.publish("storage", row.id, {"name": row.name, **facts})
        return self.get(row.id)

    def use(self, identity: str, days: int) -> list[dict[str, Any]]:
        """Return the use of a storage by day, oldest first."""
        query = sa.select(STORAGE_USE).where(STORAGE_USE.c.storage == identity)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(STORAGE_USE.c.day.desc()).limit(days)).all()
        return [dict(row._mapping) for row in reversed(rows)]  # noqa: SLF001


def _upsert_use(connection: sa.Connection, day: Mapping[str, Any], use: Mapping[str, Any]) -> None:
    mine = sa.and_(*(STORAGE_USE.c[key] == value for key, value in day.items()))
    if not connection.execute(STORAGE_USE.update().where(mine).values(use)).rowcount:
        connection.execute(STORAGE_USE.insert().values({**day, **use}))


def _check(values: Mapping[str, Any]) -> None:
    unknown = set(values) - _CHANGEABLE
    if unknown:
        raise UsageError(f"({', '.join(sorted(unknown))})")
    for key in ("writers", "readers"):
        if key in values and not 1 <= int(values[key]) <= PARALLEL_MAX:
            raise UsageError(f"({key})", hint=f"1 to {PARALLEL_MAX}.")
    for key in ("warn_percent", "stop_percent"):
        if key in values and not 1 <= int(values[key]) <= 100:
            raise UsageError(f"({key})", hint="1 to 100.")
