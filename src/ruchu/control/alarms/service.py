"""The alarms of a server: raised, counted, acknowledged, cleared, shown."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.alarms import codes, records, routing, rules, transactions
from ruchu.control.alarms.contract import NOTHING
from ruchu.control.alarms.records import (
    Alarm,
    Delivery,
    DeliveryState,
    HistoryEntry,
    NewAlarm,
    Reason,
)
from ruchu.control.alarms.tables import ALARMS, DELIVERIES, HISTORY
from ruchu.control.database.database import Database
from ruchu.control.events.stream import Events
from ruchu.errors import NotFound
from ruchu.model import ids
from ruchu.model.tasks import Severity

# A page of a list.
LIST_MAX = 1_000


class AlarmService:
    """The `Alarms` of a server. Safe in several threads.

    Attributes:
        changed: set whenever something may have to be sent; the deliverer waits on it.
    """

    def __init__(self, database: Database, clock: Clock, events: Events | None = None) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self.changed = threading.Event()

    def raise_alarm(
        self,
        code: str,
        severity: Severity,
        subject: str,
        text: str,
        facts: Mapping[str, Any] = NOTHING,
    ) -> None:
        """Open an alarm, or count the one that is open for this code and subject.

        Raises:
            DatabaseUnusable: it could not be written.
        """
        new = NewAlarm(code, severity, subject, text, facts)
        alarm = transactions.retried(self._database, lambda each: self.raise_within(each, new))
        self.tell("alarm.raised", alarm)

    def raise_within(self, connection: sa.Connection, new: NewAlarm) -> Alarm:
        """Raise an alarm in a transaction of the caller, who calls `tell` once it is committed.

        On PostgreSQL that transaction fails if another one opens the same alarm meanwhile:
        `transactions.retried` carries it out again.
        """
        new = records.cleaned(new)
        now = self._clock.now()
        before = _open_alarm(connection, new.code, new.subject)
        if before is None:
            alarm = _opened(new, to_text(now))
            connection.execute(ALARMS.insert().values(_row(alarm)))
            routing.note(connection, alarm.id, alarm.first_at, ("opened", "", alarm.text))
            routing.route(connection, alarm, now, Reason.RAISED)
            return alarm
        alarm = _counted(before, new, to_text(now))
        connection.execute(ALARMS.update().where(ALARMS.c.id == alarm.id).values(_row(alarm)))
        if alarm.severity is not before.severity:
            detail = f"{before.severity} → {alarm.severity}"
            routing.note(connection, alarm.id, alarm.last_at, ("worse", "", detail))
            routing.route(connection, alarm, now, Reason.WORSE)
        return alarm

    def clear(self, code: str, subject: str) -> None:
        """Close the open alarm for this code and subject; nothing happens if there is none."""
        subject = records.clean_text(subject, records.SUBJECT_MAX)
        with self._database.reading() as connection:
            if _open_alarm(connection, code, subject) is None:
                return
        alarm = transactions.retried(self._database, lambda each: self._clear(each, code, subject))
        if alarm is not None:
            self.tell("alarm.cleared", alarm)

    def _clear(self, connection: sa.Connection, code: str, subject: str) -> Alarm | None:
        before = _open_alarm(connection, code, subject)
        if before is None:
            return None
        now = self._clock.now()
        alarm = replace(before, state="cleared", cleared_at=to_text(now))
        connection.execute(ALARMS.update().where(ALARMS.c.id == alarm.id).values(_row(alarm)))
        routing.note(connection, alarm.id, to_text(now), ("cleared", "", ""))
        routing.route_cleared(connection, alarm, now)
        return alarm

    def acknowledge(self, alarm: str, who: str, why: str = "") -> None:
        """Say that somebody takes care: no repeats and no escalation from now on.

        It is taken back by itself if the alarm becomes worse.

        Raises:
            NotFound: there is no such alarm.
        """
        at = to_text(self._clock.now())

        def write(connection: sa.Connection) -> Alarm:
            before = _by_id(connection, alarm)
            after = replace(before, acknowledged_by=who, acknowledged_at=at)
            connection.execute(ALARMS.update().where(ALARMS.c.id == alarm).values(_row(after)))
            detail = records.clean_text(why, records.TEXT_MAX)
            routing.note(connection, alarm, at, ("acknowledged", who, detail))
            return after

        self.tell("alarm.acknowledged", transactions.retried(self._database, write))

    def test(self, channel: str, who: str) -> str:
        """Send a test message through a channel; return the id of its alarm.

        Raises:
            NotFound: there is no such channel.
        """
        now = self._clock.now()
        new = NewAlarm("test", codes.severity_of("test"), channel, f"({who})", {})

        def write(connection: sa.Connection) -> Alarm:
            if rules.load_channel(connection, channel) is None:
                raise NotFound(f"(the channel {channel})")
            # Never open, so that no rule repeats it and the list of what is wrong stays true.
            opened = _opened(new, to_text(now))
            alarm = replace(opened, state="cleared", cleared_at=to_text(now))
            connection.execute(ALARMS.insert().values(_row(alarm)))
            routing.deliver_now(connection, alarm, channel, now)
            return alarm

        alarm = transactions.retried(self._database, write)
        self.tell("alarm.raised", alarm)
        return alarm.id

    def open_alarms(self) -> Sequence[Alarm]:
        """Return what is wrong now, the worst and latest first."""
        query = sa.select(ALARMS).where(ALARMS.c.state == "open").order_by(ALARMS.c.last_at.desc())
        with self._database.reading() as connection:
            found = [_alarm(row) for row in connection.execute(query)]
        return sorted(found, key=lambda each: -records.rank(each.severity))

    def open_count(self, groups: Sequence[str] | None = None) -> int:
        """Return how many alarms are open, in these resource groups or in all (None)."""
        query = sa.select(sa.func.count()).select_from(ALARMS).where(ALARMS.c.state == "open")
        if groups is not None:
            query = query.where(ALARMS.c.facts["group"].as_string().in_(groups))
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def past(
        self, before: str = "", limit: int = LIST_MAX, groups: Sequence[str] | None = None
    ) -> Sequence[Alarm]:
        """Return alarms that are over, the latest first.

        Args:
            before: `first_at/id` of the last one seen.
            limit: how many.
            groups: only those of these resource groups; None is all.
        """
        query = sa.select(ALARMS).where(ALARMS.c.state != "open")
        query = query.order_by(ALARMS.c.first_at.desc(), ALARMS.c.id.desc())
        if groups is not None:
            query = query.where(ALARMS.c.facts["group"].as_string().in_(groups))
        if before:
            moment, _, identity = before.partition("/")
            same = sa.and_(ALARMS.c.first_at == moment, ALARMS.c.id < identity)
            query = query.where(sa.or_(ALARMS.c.first_at < moment, same))
        with self._database.reading() as connection:
            return [_alarm(row) for row in connection.execute(query.limit(min(limit, LIST_MAX)))]

    def get(self, alarm: str) -> Alarm:
        """Return an alarm.

        Raises:
            NotFound: there is none.
        """
        with self._database.reading() as connection:
            return _by_id(connection, alarm)

    def history(self, alarm: str) -> Sequence[HistoryEntry]:
        """Return what happened to an alarm, the oldest first."""
        query = sa.select(HISTORY).where(HISTORY.c.alarm == alarm).order_by(HISTORY.c.number)
        with self._database.reading() as connection:
            rows = connection.execute(query.limit(LIST_MAX)).all()
        return [HistoryEntry(row.at, row.what, row.who, row.detail) for row in rows]

    def deliveries(self, alarm: str) -> Sequence[Delivery]:
        """Return what was sent of an alarm and what has to be, the oldest first."""
        query = sa.select(DELIVERIES).where(DELIVERIES.c.alarm == alarm)
        with self._database.reading() as connection:
            rows = connection.execute(query.order_by(DELIVERIES.c.number).limit(LIST_MAX)).all()
        return [delivery(row) for row in rows]

    def tell(self, name: str, alarm: Alarm) -> None:
        """Wake the deliverer and whoever follows the events; call it after a commit."""
        self.changed.set()
        if self._events is not None:
            body = {"code": alarm.code, "subject": alarm.subject, "severity": alarm.severity}
            self._events.publish(name, alarm.id, {**body, "count": alarm.count})


def by_ids(connection: sa.Connection, wanted: Sequence[str]) -> Mapping[str, Alarm]:
    """Return alarms by their ids."""
    rows = connection.execute(sa.select(ALARMS).where(ALARMS.c.id.in_(wanted)))
    return {row.id: _alarm(row) for row in rows}


def delivery(row: sa.Row[Any]) -> Delivery:
    """Return the value of a row of deliveries."""
    return Delivery(
        row.id,
        row.alarm,
        row.channel,
        Reason(row.reason),
        row.critical,
        DeliveryState(row.state),
        row.message,
        row.due,
        row.attempts,
        tuple(row.reached),
        row.error,
        row.sent_at,
    )


def _open_alarm(connection: sa.Connection, code: str, subject: str) -> Alarm | None:
    same = (ALARMS.c.code == code, ALARMS.c.subject == subject, ALARMS.c.state == "open")
    row = connection.execute(sa.select(ALARMS).where(*same)).one_or_none()
    return None if row is None else _alarm(row)


def _by_id(connection: sa.Connection, alarm: str) -> Alarm:
    row = connection.execute(sa.select(ALARMS).where(ALARMS.c.id == alarm)).one_or_none()
    if row is None:
        raise NotFound(f"(the alarm {alarm})")
    return _alarm(row)


def _opened(new: NewAlarm, at: str) -> Alarm:
    return Alarm(
        ids.new_id(),
        new.code,
        new.subject,
        new.severity,
        "open",
        at,
        at,
        1,
        new.text,
        new.facts,
        None,
        None,
        None,
    )


def _counted(before: Alarm, new: NewAlarm, at: str) -> Alarm:
    worse = records.rank(new.severity) > records.rank(before.severity)
    after = replace(before, last_at=at, count=before.count + 1, text=new.text, facts=new.facts)
    if not worse:
        return after
    return replace(after, severity=new.severity, acknowledged_by=None, acknowledged_at=None)


def _row(alarm: Alarm) -> dict[str, Any]:
    row = {name: getattr(alarm, name) for name in ALARMS.c.keys()}  # noqa: SIM118 - a collection
    return {**row, "facts": dict(alarm.facts)}


def _alarm(row: sa.Row[Any]) -> Alarm:
    values = dict(row._mapping)  # noqa: SLF001 - its public name
    return Alarm(**{**values, "severity": Severity(row.severity)})
