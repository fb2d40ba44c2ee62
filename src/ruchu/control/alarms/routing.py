"""Writes down who has to be told, in the transaction that changes the alarm."""

import datetime
from collections.abc import Iterable

import sqlalchemy as sa

from ruchu.clock import to_text
from ruchu.control.alarms import matching, rules
from ruchu.control.alarms.matching import Plan
from ruchu.control.alarms.records import Alarm, DeliveryState, Reason, Rule
from ruchu.control.alarms.tables import DELIVERIES, HISTORY, ROUTES
from ruchu.model import ids
from ruchu.model.tasks import Severity


def note(connection: sa.Connection, alarm: str, at: str, entry: tuple[str, str, str]) -> None:
    """Add what, who and detail to the history of an alarm."""
    what, who, detail = entry
    row = {"alarm": alarm, "at": at, "what": what, "who": who, "detail": detail}
    connection.execute(HISTORY.insert().values(row))


def route(
    connection: sa.Connection, alarm: Alarm, now: datetime.datetime, reason: Reason
) -> list[str]:
    """Let every rule that wants an alarm tell of it; return the channels."""
    wanting = matching.matching(rules.load_rules(connection), alarm)
    for rule in wanting:
        _begin(connection, alarm, rule, now)
    return tell(connection, alarm, now, reason, [(rule, rule.channels) for rule in wanting])


def route_new(connection: sa.Connection, alarm: Alarm, now: datetime.datetime) -> None:
    """Let the rules tell that want an alarm only since it became worse."""
    query = sa.select(ROUTES.c.rule).where(ROUTES.c.alarm == alarm.id)
    known = set(connection.execute(query).scalars())
    wanting = matching.matching(rules.load_rules(connection), alarm)
    fresh = [rule for rule in wanting if rule.name not in known]
    for rule in fresh:
        _begin(connection, alarm, rule, now)
    tell(connection, alarm, now, Reason.WORSE, [(rule, rule.channels) for rule in fresh])


def route_cleared(connection: sa.Connection, alarm: Alarm, now: datetime.datetime) -> None:
    """Tell that an alarm is over: whoever was told of it, escalation included."""
    query = sa.select(ROUTES.c.rule, ROUTES.c.level).where(ROUTES.c.alarm == alarm.id)
    levels = {row.rule: row.level for row in connection.execute(query)}
    calls: list[tuple[Rule, Iterable[str]]] = []
    for rule in rules.load_rules(connection):
        if rule.name in levels and rule.enabled and rule.tells_cleared:
            steps = rule.steps[: levels[rule.name]]
            escalated = [name for step in steps for name in step.channels]
            calls.append((rule, [*rule.channels, *escalated]))
    tell(connection, alarm, now, Reason.CLEARED, calls)


def tell(
    connection: sa.Connection,
    alarm: Alarm,
    now: datetime.datetime,
    reason: Reason,
    calls: Iterable[tuple[Rule, Iterable[str]]],
) -> list[str]:
    """Write a delivery for each channel that the rules name; return the channels."""
    enabled = [each.name for each in rules.load_channels(connection) if each.enabled]
    plans: dict[str, list[Plan]] = {}
    for rule, names in calls:
        plan = matching.moment_for(rule, alarm.severity, now)
        for name in matching.allowed(alarm, names, enabled):
            plans.setdefault(name, []).append(plan)
    if alarm.code == matching.CHANNEL_FAILED and not plans and reason is not Reason.CLEARED:
        # No rule may keep this from those who can still be reached.
        plans = {name: [Plan(now, held=False)] for name in matching.allowed(alarm, (), enabled)}
    for name, each in plans.items():
        _deliver(connection, alarm, name, reason, (now, matching.earliest(each)))
    return list(plans)


def _deliver(
    connection: sa.Connection,
    alarm: Alarm,
    channel: str,
    reason: Reason,
    when: tuple[datetime.datetime, Plan],
) -> None:
    now, plan = when
    number = ids.new_id()
    row = {
        "id": number,
        "alarm": alarm.id,
        "channel": channel,
        "reason": reason,
        "critical": alarm.severity is Severity.CRITICAL,
        "state": DeliveryState.HELD if plan.held else DeliveryState.WAITING,
        "message": number,
        "created_at": to_text(now),
        "due": to_text(plan.due),
        "attempts": 0,
        "reached": [],
    }
    connection.execute(DELIVERIES.insert().values(row))


def deliver_now(
    connection: sa.Connection, alarm: Alarm, channel: str, now: datetime.datetime
) -> None:
    """Write a delivery that no rule asked for: a test."""
    _deliver(connection, alarm, channel, Reason.TEST, (now, Plan(now, held=False)))


def _begin(connection: sa.Connection, alarm: Alarm, rule: Rule, now: datetime.datetime) -> None:
    """Start the clock of a rule for an alarm: when people hear of it, not while they are let be."""
    begin = to_text(matching.moment_for(rule, alarm.severity, now).due)
    same = sa.and_(ROUTES.c.alarm == alarm.id, ROUTES.c.rule == rule.name)
    connection.execute(ROUTES.delete().where(same))
    row = {"alarm": alarm.id, "rule": rule.name, "since": begin, "noticed_at": begin, "level": 0}
    connection.execute(ROUTES.insert().values(row))
