"""What time alone does to open alarms: repeats, escalation, and forgetting what is long over."""

import datetime
from dataclasses import replace

import sqlalchemy as sa

from ruchu.clock import from_text, to_text
from ruchu.control.alarms import matching, records, routing, rules, service, transactions
from ruchu.control.alarms.records import Alarm, Reason, Rule, Step
from ruchu.control.alarms.tables import ALARMS, DELIVERIES, ROUTES
from ruchu.control.database.database import Database

# Longer than a year, so that a yearly review sees all of it.
KEPT_DAYS = 400


def advance(database: Database, now: datetime.datetime) -> int:
    """Take the steps that are due at a moment; return how many alarms it concerned.

    After a time without a server each step is taken once, not once for every time it was due.
    """
    with database.reading() as connection:
        concerned = sorted(
            {row.alarm for row, rule in _waiting(connection) if _due(row, rule, now)}
        )
    for alarm in concerned:
        transactions.retried(database, lambda each, alarm=alarm: _advance(each, alarm, now))  # type: ignore[misc]
    return len(concerned)


def forget(database: Database, now: datetime.datetime) -> int:
    """Remove alarms that are long over, with their history; return how many."""
    before = to_text(now - datetime.timedelta(days=KEPT_DAYS))
    over = sa.and_(ALARMS.c.state != "open", ALARMS.c.last_at < before)
    with database.writing() as connection:
        old = sa.select(ALARMS.c.id).where(over)
        connection.execute(DELIVERIES.delete().where(DELIVERIES.c.alarm.in_(old)))
        return connection.execute(ALARMS.delete().where(over)).rowcount


def _waiting(
    connection: sa.Connection, alarm: str | None = None
) -> list[tuple[sa.Row[tuple[str, str, str, str, int]], Rule]]:
    """Return the routes of open alarms that nobody acknowledged, with their rules."""
    by_name = {each.name: each for each in rules.load_rules(connection) if each.enabled}
    query = (
        sa.select(ROUTES)
        .join(ALARMS, ALARMS.c.id == ROUTES.c.alarm)
        .where(ALARMS.c.state == "open", ALARMS.c.acknowledged_by.is_(None))
        .order_by(ROUTES.c.rule)
    )
    if alarm is not None:
        query = query.where(ROUTES.c.alarm == alarm)
    found = connection.execute(query).all()
    return [(row, by_name[row.rule]) for row in found if row.rule in by_name]


def _due(row: sa.Row[tuple[str, str, str, str, int]], rule: Rule, now: datetime.datetime) -> bool:
    return bool(_steps_due(row.since, row.level, rule, now)) or _repeat_due(
        row.noticed_at, rule, now
    )


def _steps_due(since: str, level: int, rule: Rule, now: datetime.datetime) -> list[Step]:
    waited = now - from_text(since)
    steps = rule.steps[level:]
    return [each for each in steps if waited >= datetime.timedelta(minutes=each.after_min)]


def _repeat_due(noticed_at: str, rule: Rule, now: datetime.datetime) -> bool:
    if rule.repeat_min is None:
        return False
    return now - from_text(noticed_at) >= datetime.timedelta(minutes=rule.repeat_min)


def _advance(connection: sa.Connection, number: str, now: datetime.datetime) -> None:
    for row, rule in _waiting(connection, number):
        alarm = service.by_ids(connection, [number])[number]
        steps = _steps_due(row.since, row.level, rule, now)
        for step in steps:
            alarm = _escalate(connection, alarm, rule, step, now)
        noticed = row.noticed_at
        if _repeat_due(noticed, rule, now):
            routing.tell(connection, alarm, now, Reason.REPEATED, [(rule, rule.channels)])
            noticed = to_text(matching.moment_for(rule, alarm.severity, now).due)
        same = sa.and_(ROUTES.c.alarm == number, ROUTES.c.rule == rule.name)
        changes = {"level": row.level + len(steps), "noticed_at": noticed}
        connection.execute(ROUTES.update().where(same).values(changes))


def _escalate(
    connection: sa.Connection, alarm: Alarm, rule: Rule, step: Step, now: datetime.datetime
) -> Alarm:
    if step.severity is not None and records.rank(step.severity) > records.rank(alarm.severity):
        alarm = replace(alarm, severity=step.severity)
        change = ALARMS.update().where(ALARMS.c.id == alarm.id)
        connection.execute(change.values(severity=step.severity))
        routing.route_new(connection, alarm, now)
    detail = f"not acknowledged for {step.after_min} minutes; {alarm.severity}"
    routing.note(connection, alarm.id, to_text(now), ("escalated", rule.name, detail))
    routing.tell(connection, alarm, now, Reason.ESCALATED, [(rule, step.channels)])
    return alarm
