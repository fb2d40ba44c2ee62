"""The stream of events: written by the services, followed by number."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.events.tables import EVENTS

# A browser that was away for longer reads everything anew.
KEPT = 20_000
# How often old events are looked for, in events.
_TRIM_EVERY = 1_000


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened.

    Attributes:
        number: grows; gaps mean nothing.
        at: RFC 3339.
        name: such as `run.ended`.
        subject: id of what it happened to.
        body: details, small.
    """

    number: int
    at: str
    name: str
    subject: str
    body: Mapping[str, Any]


class Events:
    """The stream of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._changed = threading.Condition()
        with database.reading() as connection:
            self._last = connection.execute(sa.select(sa.func.max(EVENTS.c.number))).scalar() or 0

    @property
    def last(self) -> int:
        """The number of the newest event, 0 if there was none."""
        return self._last

    def publish(self, name: str, subject: str, body: Mapping[str, Any] | None = None) -> int:
        """Write an event and wake who follows; return its number."""
        with self._database.writing() as connection:
            number = self.write(connection, name, subject, body)
        self.told(number)
        return number

    def write(
        self, connection: sa.Connection, name: str, subject: str,
        body: Mapping[str, Any] | None = None,
    ) -> int:  # fmt: skip
        """Write an event within the caller's transaction, best last; call `told` once it is over.

        Returns its number.
        """
        row = {
            "at": to_text(self._clock.now()),
            "name": name,
            "subject": subject,
            "body": dict(body or {}),
        }
        insert = EVENTS.insert().values(row).returning(EVENTS.c.number)
        number = int(connection.execute(insert).scalar_one())
        if number % _TRIM_EVERY == 0:
            connection.execute(EVENTS.delete().where(EVENTS.c.number <= number - KEPT))
        return number

    def write_all(
        self, connection: sa.Connection, name: str, bodies: Mapping[str, Mapping[str, Any]]
    ) -> int:
        """Write an event for each of some subjects, as `write` does; return the last number."""
        at = to_text(self._clock.now())
        rows = [
            {"at": at, "name": name, "subject": subject, "body": dict(body)}
            for subject, body in bodies.items()
        ]
        connection.execute(EVENTS.insert(), rows)
        number = int(connection.execute(sa.select(sa.func.max(EVENTS.c.number))).scalar_one())
        if number // _TRIM_EVERY != (number - len(rows)) // _TRIM_EVERY:
            connection.execute(EVENTS.delete().where(EVENTS.c.number <= number - KEPT))
        return number

    def told(self, number: int) -> None:
        """Wake who follows: an event up to this number is committed."""
        with self._changed:
            self._last = max(self._last, number)
            self._changed.notify_all()

    def after(self, number: int, limit: int = 500) -> Sequence[Event]:
        """Return the events that follow a number, oldest first."""
        query = sa.select(EVENTS).where(EVENTS.c.number > number).order_by(EVENTS.c.number)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(limit)).all()
        return [Event(row.number, row.at, row.name, row.subject, row.body) for row in rows]

    def wait(self, number: int, timeout_s: float) -> bool:
        """Wait until there is an event behind a number; tell whether there is."""
        with self._changed:
            return self._changed.wait_for(lambda: self._last > number, timeout_s)
