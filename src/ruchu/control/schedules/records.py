"""Starts and progress in the database. Every function works in a transaction of the caller."""

import datetime
import functools
from collections.abc import Iterable, Mapping

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from ruchu.clock import from_text, to_text
from ruchu.control.schedules.tables import PROGRESS, STARTS
from ruchu.model.schedules import Schedule

# What is older than so many starts is forgotten: a clock that goes back further than they reach
# may start a moment again. Counted, not dated, since a clock that is wrong would date them wrong.
KEPT = 200_000
# How often old starts are looked for, in starts.
_TRIM_EVERY = 1_000

ScheduleOf = tuple[str, str]
"""Id of a policy, key of a schedule."""


def progress(connection: sa.Connection) -> dict[ScheduleOf, datetime.datetime]:
    """Return up to which moment each schedule is settled."""
    rows = connection.execute(sa.select(PROGRESS))
    return {(row.policy, row.schedule): from_text(row.seen) for row in rows}


def set_progress(
    connection: sa.Connection, settled: Mapping[ScheduleOf, datetime.datetime]
) -> None:
    """Write up to which moment schedules are settled."""
    rows = [
        {"policy": policy, "schedule": schedule, "seen": to_text(seen)}
        for (policy, schedule), seen in settled.items()
    ]
    if rows:
        connection.execute(_progress_statement(connection.dialect.name), rows)


def forget(connection: sa.Connection, gone: Iterable[ScheduleOf]) -> None:
    """Remove schedules that are there no more."""
    rows = [{"of_policy": policy, "of_schedule": schedule} for policy, schedule in gone]
    if rows:
        is_one = (PROGRESS.c.policy == sa.bindparam("of_policy")) & (
            PROGRESS.c.schedule == sa.bindparam("of_schedule")
        )
        connection.execute(PROGRESS.delete().where(is_one), rows)


def claim(
    connection: sa.Connection,
    policy: str,
    schedule: Schedule,
    due: datetime.datetime,
    at: datetime.datetime,
) -> bool:
    """Write a start; tell whether it is the first of its lane for this moment."""
    row = {
        "policy": policy,
        "lane": schedule.lane,
        "due": to_text(due),
        "schedule": schedule.key,
        "kind": schedule.kind,
        "at": to_text(at),
    }
    number = connection.execute(_claim_statement(connection.dialect.name), row).scalar()
    if number is not None and number % _TRIM_EVERY == 0:
        connection.execute(STARTS.delete().where(STARTS.c.number <= number - KEPT))
    return number is not None


# Making a statement takes longer than carrying it out, and hundreds may start at one moment.
@functools.cache
def _progress_statement(dialect: str) -> sa.Insert:
    insert = _insert(dialect, PROGRESS)
    return insert.on_conflict_do_update(
        index_elements=[PROGRESS.c.policy, PROGRESS.c.schedule],
        set_={"seen": insert.excluded.seen},
    )


@functools.cache
def _claim_statement(dialect: str) -> sa.Executable:
    lane = [STARTS.c.policy, STARTS.c.lane, STARTS.c.due]
    insert = _insert(dialect, STARTS).on_conflict_do_nothing(index_elements=lane)
    return insert.returning(STARTS.c.number)


def _insert(dialect: str, table: sa.Table) -> postgresql.Insert | sqlite.Insert:
    return postgresql.insert(table) if dialect == "postgresql" else sqlite.insert(table)
