"""The deliveries as rows: which message leaves next, what is held, and how it went.

A message is claimed (its attempt counted, its next attempt set) before it is sent and settled
afterwards. Whoever dies in between leaves a message that is due again: it may arrive twice, with
the same id, and is never lost.
"""

import datetime
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import from_text, to_text
from ruchu.control.alarms import records, routing, rules, service
from ruchu.control.alarms.messages import Item, Message
from ruchu.control.alarms.records import Alarm, ChannelDefinition, Delivery, DeliveryState
from ruchu.control.alarms.tables import DELIVERIES
from ruchu.model import ids

# 30 s, a minute, two … an hour.
BACKOFF_FIRST_S, BACKOFF_MAX_S = 30, 3600
# With an hour between the later ones: about four days, so that a long weekend is bridged.
ATTEMPTS_MAX = 96
# Rows in one message; a digest shows 50 alarms and counts the rest.
DIGEST_MAX = 500
_HOUR = datetime.timedelta(hours=1)
ERROR_MAX = 500


@dataclass(frozen=True, slots=True)
class Job:
    """A message that was claimed.

    Attributes:
        definition: its channel.
        message: id.
        deliveries: its rows, the oldest first, as they are after the claim.
        alarms: of the rows, by id.
    """

    definition: ChannelDefinition
    message: str
    deliveries: Sequence[Delivery]
    alarms: Mapping[str, Alarm]

    @property
    def attempts(self) -> int:
        """How often it was claimed, this time included."""
        return self.deliveries[0].attempts

    def letter(self, now: datetime.datetime) -> Message:
        """Return what to send: the latest word on each alarm, in the order they came up."""
        latest = {each.alarm: each.reason for each in self.deliveries}
        items = [Item(self.alarms[alarm], reason) for alarm, reason in latest.items()]
        return Message(self.message, now, tuple(items), self.definition.language)


def backoff(attempts: int) -> datetime.timedelta:
    """Return how long to wait after so many attempts."""
    doublings = min(attempts - 1, 16)
    return datetime.timedelta(seconds=min(BACKOFF_FIRST_S * 2**doublings, BACKOFF_MAX_S))


def channels_due(connection: sa.Connection, now: datetime.datetime) -> list[str]:
    """Return the channels that have something to do."""
    pending = DELIVERIES.c.state.in_([DeliveryState.WAITING, DeliveryState.HELD])
    query = sa.select(DELIVERIES.c.channel).where(pending, DELIVERIES.c.due <= to_text(now))
    return sorted(connection.execute(query.distinct()).scalars())


def oldest_waiting(connection: sa.Connection) -> str | None:
    """Return since when the oldest message waits that was not held on purpose."""
    waiting = DELIVERIES.c.state == DeliveryState.WAITING
    oldest: str | None = connection.execute(
        sa.select(sa.func.min(DELIVERIES.c.created_at)).where(waiting)
    ).scalar_one()
    return oldest


def take(connection: sa.Connection, channel: str, now: datetime.datetime) -> Job | None:
    """Claim the next message of a channel, or return None if nothing is to be sent now."""
    definition = rules.load_channel(connection, channel)
    if definition is None or not definition.enabled:
        _drop(connection, channel, now)
        return None
    _form_digest(connection, channel, now)
    for critical in (True, False):
        opens = _flooded(connection, definition, critical=critical, now=now)
        if opens is not None:
            _hold(connection, channel, critical=critical, times=(now, opens))
    rows = _next_rows(connection, channel, now)
    return _claimed(connection, definition, rows, now) if rows else None


def settle_sent(connection: sa.Connection, job: Job, now: datetime.datetime) -> None:
    """Write that a message has left."""
    values = {"state": DeliveryState.SENT, "sent_at": to_text(now), "error": None}
    connection.execute(_rows_of(job).values(values))
    for each in job.deliveries:
        entry = ("sent", job.definition.name, each.reason)
        routing.note(connection, each.alarm, to_text(now), entry)


def settle_failed(
    connection: sa.Connection,
    job: Job,
    now: datetime.datetime,
    error: str,
    reached: Sequence[str],
) -> None:
    """Write that a message could not leave, and when it is tried again, if ever.

    The channel's other messages wait as well: when it is the channel that is broken, one attempt
    each half minute is enough to notice that it is whole again.
    """
    error = records.clean_text(error, ERROR_MAX)
    given_up = job.attempts >= ATTEMPTS_MAX
    values: dict[str, Any] = {"error": error, "reached": list(reached)}
    if given_up:
        values["state"] = DeliveryState.FAILED
    connection.execute(_rows_of(job).values(values))
    for each in job.deliveries:
        if given_up or each.error != error:
            entry = ("given-up" if given_up else "not-sent", job.definition.name, error)
            routing.note(connection, each.alarm, to_text(now), entry)
    pause = to_text(now + backoff(1))
    others = (
        DELIVERIES.c.channel == job.definition.name,
        DELIVERIES.c.state == DeliveryState.WAITING,
        DELIVERIES.c.due < pause,
    )
    connection.execute(DELIVERIES.update().where(*others).values(due=pause))


def _rows_of(job: Job) -> sa.Update:
    numbers = [each.id for each in job.deliveries]
    return DELIVERIES.update().where(DELIVERIES.c.id.in_(numbers))


def _form_digest(connection: sa.Connection, channel: str, now: datetime.datetime) -> None:
    held = (
        DELIVERIES.c.channel == channel,
        DELIVERIES.c.state == DeliveryState.HELD,
        DELIVERIES.c.due <= to_text(now),
    )
    query = sa.select(DELIVERIES.c.id).where(*held).order_by(DELIVERIES.c.number)
    numbers = list(connection.execute(query.limit(DIGEST_MAX)).scalars())
    if numbers:
        change = DELIVERIES.update().where(DELIVERIES.c.id.in_(numbers))
        values = {"state": DeliveryState.WAITING, "message": ids.new_id()}
        connection.execute(change.values(values))


def _flooded(
    connection: sa.Connection,
    definition: ChannelDefinition,
    *,
    critical: bool,
    now: datetime.datetime,
) -> datetime.datetime | None:
    """Return when a channel may send again, or None if it may now."""
    recent = (
        DELIVERIES.c.channel == definition.name,
        DELIVERIES.c.critical == critical,
        DELIVERIES.c.sent_at > to_text(now - _HOUR),
    )
    query = (
        sa.select(sa.func.max(DELIVERIES.c.sent_at).label("at"))
        .where(*recent)
        .group_by(DELIVERIES.c.message)
        .order_by(sa.desc("at"))
        .offset(definition.hourly_max - 1)
        .limit(1)
    )
    full_since: str | None = connection.execute(query).scalar_one_or_none()
    return None if full_since is None else from_text(full_since) + _HOUR


def _hold(
    connection: sa.Connection,
    channel: str,
    *,
    critical: bool,
    times: tuple[datetime.datetime, datetime.datetime],
) -> None:
    """Hold what has not been tried yet; it leaves as one digest when the channel may send."""
    now, opens = times
    fresh = (
        DELIVERIES.c.channel == channel,
        DELIVERIES.c.state == DeliveryState.WAITING,
        DELIVERIES.c.critical == critical,
        DELIVERIES.c.attempts == 0,
        DELIVERIES.c.due <= to_text(now),
    )
    values = {"state": DeliveryState.HELD, "due": to_text(opens)}
    connection.execute(DELIVERIES.update().where(*fresh).values(values))


def _next_rows(
    connection: sa.Connection, channel: str, now: datetime.datetime
) -> Sequence[sa.Row[Any]]:
    """Return the rows of the next message: critical ones and those tried least come first."""
    waiting = (DELIVERIES.c.channel == channel, DELIVERIES.c.state == DeliveryState.WAITING)
    order = (DELIVERIES.c.attempts, DELIVERIES.c.critical.desc(), DELIVERIES.c.number)
    first = sa.select(DELIVERIES.c.message).where(*waiting, DELIVERIES.c.due <= to_text(now))
    message = connection.execute(first.order_by(*order).limit(1)).scalar_one_or_none()
    if message is None:
        return []
    query = sa.select(DELIVERIES).where(*waiting, DELIVERIES.c.message == message)
    return connection.execute(query.order_by(DELIVERIES.c.number)).all()


def _claimed(
    connection: sa.Connection,
    definition: ChannelDefinition,
    rows: Sequence[sa.Row[Any]],
    now: datetime.datetime,
) -> Job:
    attempts = rows[0].attempts + 1
    values = {"attempts": attempts, "due": to_text(now + backoff(attempts))}
    numbers = [row.id for row in rows]
    query = sa.select(DELIVERIES).where(DELIVERIES.c.id.in_(numbers))
    connection.execute(DELIVERIES.update().where(DELIVERIES.c.id.in_(numbers)).values(values))
    deliveries = [
        service.delivery(row) for row in connection.execute(query.order_by(DELIVERIES.c.number))
    ]
    alarms = service.by_ids(connection, [each.alarm for each in deliveries])
    return Job(definition, rows[0].message, deliveries, alarms)


def _drop(connection: sa.Connection, channel: str, now: datetime.datetime) -> None:
    pending = (
        DELIVERIES.c.channel == channel,
        DELIVERIES.c.state.in_([DeliveryState.WAITING, DeliveryState.HELD]),
    )
    rows = connection.execute(sa.select(DELIVERIES.c.alarm).where(*pending)).all()
    for row in rows:
        entry = ("dropped", channel, "the channel was removed or switched off")
        routing.note(connection, row.alarm, to_text(now), entry)
    values = {"state": DeliveryState.DROPPED}
    connection.execute(DELIVERIES.update().where(*pending).values(values))
