"""The policies of a server."""

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.control.policies import documents
from ruchu.control.policies.tables import POLICIES
from ruchu.errors import AlreadyExists, NotFound, Stale
from ruchu.model.ids import new_id
from ruchu.model.policies import Policy

# Ids in one statement; SQLite allowed 999 values for long.
_IDS_MAX = 500


@dataclass(frozen=True, slots=True)
class PolicyRow:
    """A policy that is kept: its id, version, and when it was made and changed.

    `document` is the policy as JSON has it, made once: lists of hundreds are asked for all the time.
    """

    id: str
    version: int
    created: str
    changed: str
    policy: Policy
    document: dict[str, Any] = field(compare=False)


class Policies:
    """The policies of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self._listeners: list[Callable[[], None]] = []
        # Documents that were read before: hundreds are looked at every minute, few ever change.
        self._parsed: dict[str, PolicyRow] = {}

    def listen(self, told: Callable[[], None]) -> None:
        """Call this after every change."""
        self._listeners.append(told)

    def all(self) -> list[PolicyRow]:
        """Return all policies, by name."""
        with self._database.reading() as connection:
            rows = connection.execute(
                sa.select(*(POLICIES.c[name] for name in ("id", "version", "changed")))
            ).all()
            known = {row.id: self._known(row) for row in rows}
            stale = [identity for identity, found in known.items() if found is None]
            for at in range(0, len(stale), _IDS_MAX):
                query = sa.select(POLICIES).where(POLICIES.c.id.in_(stale[at : at + _IDS_MAX]))
                known |= {row.id: _policy_row(row) for row in connection.execute(query)}
        self._parsed = {row: found for row, found in known.items() if found is not None}
        return sorted(self._parsed.values(), key=lambda row: row.policy.name)

    def _known(self, row: sa.Row[Any]) -> PolicyRow | None:
        """Return a policy as it was read before, if it has not changed since."""
        known = self._parsed.get(row.id)
        same = known is not None and (known.version, known.changed) == (row.version, row.changed)
        return known if same else None

    def get(self, name: str) -> PolicyRow:
        """Return a policy by its id or its name.

        Raises:
            NotFound: there is none.
        """
        query = sa.select(POLICIES).where(sa.or_(POLICIES.c.id == name, POLICIES.c.name == name))
        with self._database.reading() as connection:
            found = connection.execute(query.limit(1)).one_or_none()
        if found is None:
            raise NotFound(f"(policy {name[:100]!r})")
        return self._known(found) or _policy_row(found)

    def add(self, policy: Policy) -> PolicyRow:
        """Keep a new policy.

        Raises:
            AlreadyExists: there is one of that name.
        """
        now = to_text(self._clock.now())
        identity = new_id()
        row = {**_columns(policy), "id": identity, "version": 1, "created": now, "changed": now}
        with self._database.writing() as connection:
            self._require_free(connection, policy.name, identity)
            connection.execute(POLICIES.insert().values(row))
        return self._told(identity)

    def change(self, identity: str, policy: Policy, version: int) -> PolicyRow:
        """Replace a policy.

        Raises:
            NotFound: there is none.
            AlreadyExists: another one has the new name.
            Stale: it was changed in the meantime.
        """
        now = to_text(self._clock.now())
        mine = sa.and_(POLICIES.c.id == identity, POLICIES.c.version == version)
        values = {**_columns(policy), "version": version + 1, "changed": now}
        with self._database.writing() as connection:
            self._require_free(connection, policy.name, identity)
            done = connection.execute(POLICIES.update().where(mine).values(values))
        if not done.rowcount:
            raise Stale(f"(policy {self.get(identity).policy.name})")
        return self._told(identity)

    def enable(self, identity: str, *, enabled: bool) -> PolicyRow:
        """Let schedules of a policy start runs, or not."""
        row = self.get(identity)
        return self.change(row.id, replace(row.policy, enabled=enabled), row.version)

    def remove(self, identity: str, version: int) -> None:
        """Forget a policy; its runs and points stay.

        Raises:
            NotFound, Stale: it is not there, or was changed in the meantime.
        """
        row = self.get(identity)
        mine = sa.and_(POLICIES.c.id == row.id, POLICIES.c.version == version)
        with self._database.writing() as connection:
            done = connection.execute(POLICIES.delete().where(mine))
        if not done.rowcount:
            raise Stale(f"(policy {row.policy.name})")
        self._announce("policy.removed", row.id, row.policy.name)

    def _require_free(self, connection: sa.Connection, name: str, identity: str) -> None:
        taken = sa.select(POLICIES.c.id).where(POLICIES.c.name == name, POLICIES.c.id != identity)
        if connection.execute(taken).first() is not None:
            raise AlreadyExists(f"(policy {name!r})")

    def _told(self, identity: str) -> PolicyRow:
        row = self.get(identity)
        self._announce("policy", row.id, row.policy.name)
        return row

    def _announce(self, name: str, identity: str, text: str) -> None:
        self._events.publish(name, identity, {"name": text})
        for told in self._listeners:
            told()


def _columns(policy: Policy) -> dict[str, object]:
    return {
        "name": policy.name,
        "enabled": policy.enabled,
        "resource_group": policy.group,
        "document": documents.to_document(policy),
    }


def _policy_row(row: sa.Row[tuple[object, ...]]) -> PolicyRow:
    policy = documents.from_document(row.document)
    document = documents.to_document(policy)
    return PolicyRow(row.id, row.version, row.created, row.changed, policy, document)
