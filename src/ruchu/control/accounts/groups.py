"""Resource groups: which objects belong together, and how much a group may use."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.control.accounts import names
from ruchu.control.accounts.tables import GRANTS, GROUPS, MEMBERS
from ruchu.control.audit.trail import Recording, Trail
from ruchu.control.database.database import Database
from ruchu.errors import AlreadyExists, NotFound, QuotaExceeded, UsageError
from ruchu.model.principals import DEFAULT_GROUP, Principal, Right
from ruchu.units import format_size

GROUPS_MAX = 1_000
_BYTES_MAX = 1 << 62  # what both databases keep
_COUNT_MAX = 1_000_000
_KIND_MAX, _OBJECT_MAX = 32, 300


@dataclass(frozen=True, slots=True)
class Quota:
    """How much a group may use; 0 is no limit.

    Attributes:
        bytes: stored in all storages.
        machines: protected.
        runs: started on one day.
    """

    bytes: int = 0
    machines: int = 0
    runs: int = 0

    def check(self) -> None:
        """Refuse numbers that make no sense.

        Raises:
            UsageError: one is negative or too large.
        """
        counts = (self.machines, self.runs)
        if not 0 <= self.bytes <= _BYTES_MAX or not all(0 <= each <= _COUNT_MAX for each in counts):
            raise UsageError("(a quota)")


@dataclass(frozen=True, slots=True)
class Usage:
    """What a group uses, or would use in addition."""

    bytes: int = 0
    machines: int = 0
    runs: int = 0


@dataclass(frozen=True, slots=True)
class Group:
    """A resource group."""

    name: str
    title: str
    quota: Quota


class Groups:
    """The resource groups of a server. Safe in several threads.

    An object that nobody put into a group is in `default`, which always exists.
    """

    def __init__(self, database: Database, trail: Trail) -> None:
        self._database = database
        self._trail = trail

    def create(self, by: Principal, group: Group) -> None:
        """Make a group.

        Raises:
            Forbidden: they may not.
            InvalidName, UsageError: the name or a number is not allowed.
            AlreadyExists: the name is taken, or there are too many.
        """
        by.demand(Right.ACCOUNTS)
        row = _row(group)
        with self._trail.writing() as recording:
            connection = recording.connection
            known = connection.execute(sa.select(GROUPS.c.name)).scalars().all()
            if group.name in (*known, DEFAULT_GROUP):
                raise AlreadyExists(f"(the group {group.name})")
            if len(known) >= GROUPS_MAX:
                raise AlreadyExists(f"({GROUPS_MAX} groups)")
            connection.execute(GROUPS.insert().values(row))
            recording.record(by.actor, "group.create", group.name, facts=row)

    def change(self, by: Principal, group: Group) -> None:
        """Change title and quota of a group.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this name.
            UsageError: a number is not allowed.
        """
        by.demand(Right.ACCOUNTS)
        row = _row(group)
        with self._trail.writing() as recording:
            _ensure(recording.connection, group.name)
            update = GROUPS.update().where(GROUPS.c.name == group.name)
            recording.connection.execute(update.values(row))
            recording.record(by.actor, "group.change", group.name, facts=row)

    def remove(self, by: Principal, name: str) -> None:
        """Remove a group that is empty, with the roles in it.

        Raises:
            Forbidden: they may not.
            NotFound: there is none of this name.
            UsageError: something is in it, or it is the one that always exists.
        """
        by.demand(Right.ACCOUNTS)
        if name == DEFAULT_GROUP:
            raise UsageError(f"(the group {DEFAULT_GROUP} always exists)")
        with self._trail.writing() as recording:
            connection = recording.connection
            _ensure(connection, name)
            members = sa.select(sa.func.count()).where(MEMBERS.c.group == name)
            if count := connection.execute(members).scalar_one():
                raise UsageError(f"({count} objects are in it)", hint="Move them first.")
            connection.execute(GRANTS.delete().where(GRANTS.c.group == name))
            connection.execute(GROUPS.delete().where(GROUPS.c.name == name))
            recording.record(by.actor, "group.remove", name)

    def get(self, name: str) -> Group:
        """Return a group.

        Raises:
            InvalidName: no group can have this name.
            NotFound: there is none of this name.
        """
        select = sa.select(GROUPS).where(GROUPS.c.name == names.group(name))
        with self._database.reading() as connection:
            row = connection.execute(select).one_or_none()
        if row is not None:
            return _group(row)
        if name == DEFAULT_GROUP:
            return Group(DEFAULT_GROUP, "", Quota())
        raise NotFound(f"(the group {name})")

    def list(self) -> Sequence[Group]:
        """Return all groups by name."""
        with self._database.reading() as connection:
            rows = connection.execute(sa.select(GROUPS).order_by(GROUPS.c.name)).all()
        found = [_group(row) for row in rows]
        if all(group.name != DEFAULT_GROUP for group in found):
            found.insert(0, Group(DEFAULT_GROUP, "", Quota()))
        return found

    def assign(self, by: Principal, kind: str, name: str, group: str) -> None:
        """Put an object into a group, out of the one where it was.

        Raises:
            Forbidden: they may not configure both groups.
            NotFound: there is no such group.
            UsageError: kind or name are too long.
        """
        if not 0 < len(kind) <= _KIND_MAX or not 0 < len(name) <= _OBJECT_MAX:
            raise UsageError("(the object)")
        by.demand(Right.CONFIGURE, group)
        with self._trail.writing() as recording:
            connection = recording.connection
            before = _group_of(connection, kind, name)
            by.demand(Right.CONFIGURE, before)
            _ensure(connection, group)
            self._forget(recording, kind, name)
            row = {"kind": kind, "object": name, "group": group}
            connection.execute(MEMBERS.insert().values(row))
            facts = {"kind": kind, "before": before, "after": group}
            recording.record(by.actor, "group.assign", name, facts=facts)

    def group_of(self, kind: str, name: str) -> str:
        """Return the group of an object."""
        with self._database.reading() as connection:
            return _group_of(connection, kind, name)

    def members(self, group: str) -> Sequence[tuple[str, str]]:
        """Return kind and name of what was put into a group."""
        select = sa.select(MEMBERS.c.kind, MEMBERS.c.object).where(MEMBERS.c.group == group)
        with self._database.reading() as connection:
            rows = connection.execute(select.order_by(MEMBERS.c.kind, MEMBERS.c.object)).all()
        return [(row.kind, row.object) for row in rows]

    def forget(self, kind: str, name: str) -> None:
        """Take an object that was removed out of its group."""
        with self._trail.writing() as recording:
            self._forget(recording, kind, name)

    def check_quota(self, group: str, usage: Usage, more: Usage) -> None:
        """Refuse what would exceed the quota of a group.

        What adds nothing to a full group is allowed: what runs goes on, and may be removed.

        Raises:
            NotFound: there is no such group.
            QuotaExceeded: it would.
        """
        quota = self.get(group).quota
        if quota.bytes and more.bytes > 0 and usage.bytes + more.bytes > quota.bytes:
            used, limit = format_size(usage.bytes), format_size(quota.bytes)
            raise QuotaExceeded(f"{used} of {limit} are used in the group {group}")
        for name, limit_count in (("machines", quota.machines), ("runs", quota.runs)):
            used_count, added = getattr(usage, name), getattr(more, name)
            if limit_count and added > 0 and used_count + added > limit_count:
                day = " today" if name == "runs" else ""
                raise QuotaExceeded(f"{used_count} of {limit_count} {name}{day} in {group}")

    def _forget(self, recording: Recording, kind: str, name: str) -> None:
        same = (MEMBERS.c.kind == kind) & (MEMBERS.c.object == name)
        recording.connection.execute(MEMBERS.delete().where(same))


def _ensure(connection: sa.Connection, name: str) -> None:
    """Refuse a group that does not exist; make the row of the one that always does."""
    select = sa.select(GROUPS.c.name).where(GROUPS.c.name == name)
    if connection.execute(select).one_or_none() is not None:
        return
    if name != DEFAULT_GROUP:
        raise NotFound(f"(the group {name})")
    connection.execute(GROUPS.insert().values(_row(Group(DEFAULT_GROUP, "", Quota()))))


def _group_of(connection: sa.Connection, kind: str, name: str) -> str:
    same = (MEMBERS.c.kind == kind) & (MEMBERS.c.object == name)
    found = connection.execute(sa.select(MEMBERS.c.group).where(same)).scalar_one_or_none()
    return DEFAULT_GROUP if found is None else found


def _row(group: Group) -> dict[str, Any]:
    group.quota.check()
    return {
        "name": names.group(group.name),
        "title": names.title(group.title),
        "bytes_max": group.quota.bytes,
        "machines_max": group.quota.machines,
        "runs_max": group.quota.runs,
    }


def _group(row: sa.Row[tuple[Any, ...]]) -> Group:
    return Group(row.name, row.title, Quota(row.bytes_max, row.machines_max, row.runs_max))
