"""How runs ended, and how many bytes they moved; counted by the database."""

import datetime
import zoneinfo
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.tables import RUNS
from ruchu.control.reports.keeping import Kept
from ruchu.control.settings.settings import Settings

GOOD_S = 10.0
DAYS = 14
# Days are kept for two zones: when that of the reports is changed, the old ones are forgotten.
_DAYS_KEPT = 2 * DAYS
# What the success of backups is judged by. A restore that failed says nothing of protection.
PROTECTING = ("backup", "copy")


@dataclass(frozen=True, slots=True)
class Outcomes:
    """How runs ended.

    Attributes:
        succeeded, partly, failed, stopped: how many.
        rate: the share that succeeded of those that nobody stopped; None if there were none.
    """

    succeeded: int
    partly: int
    failed: int
    stopped: int
    rate: float | None


@dataclass(frozen=True, slots=True)
class Day:
    """What the backups of one day moved.

    Attributes:
        day: the date, in the zone of the reports.
        full: bytes that were read for whole machines.
        incremental: bytes that were read of what had changed.
        stored: bytes that this added to storages.
        succeeded, partly, failed: how many runs ended so.
    """

    day: str
    full: int
    incremental: int
    stored: int
    succeeded: int
    partly: int
    failed: int


@dataclass(frozen=True, slots=True)
class _Counted:
    """Runs of one group that ended in one way, within some time."""

    group: str
    state: str
    count: int
    read: int = 0
    full: int = 0
    stored: int = 0


Groups = tuple[str, ...] | None


class RunFigures:
    """Figures of runs that are over. Safe in several threads.

    A run that is over does not change, so a day that is over is counted once.
    """

    def __init__(self, database: Database, clock: Clock, settings: Settings) -> None:
        self._database = database
        self._clock = clock
        self._settings = settings
        self._kept: Kept[Sequence[_Counted]] = Kept(clock, GOOD_S)
        self._days: dict[tuple[str, str], Sequence[_Counted]] = {}

    def outcomes(self, hours: int, groups: Groups) -> Outcomes:
        """Return how the backups of the last hours ended."""
        since = self._clock.now() - datetime.timedelta(hours=hours)
        rows = self._kept.get(("hours", hours), lambda: self._counted(to_text(since)))
        return outcomes_of(_seen(rows, groups))

    def days(self, groups: Groups) -> list[Day]:
        """Return what was moved on each of the last days, the oldest first."""
        zone = self._settings.get()[0].zone
        where = zoneinfo.ZoneInfo(zone)
        today = self._clock.now().astimezone(where).date()
        wanted = [today - datetime.timedelta(days=back) for back in reversed(range(DAYS))]
        return [_day(each, _seen(self._of_day(each, today, zone), groups)) for each in wanted]

    def _of_day(self, day: datetime.date, today: datetime.date, zone: str) -> Sequence[_Counted]:
        where, key = zoneinfo.ZoneInfo(zone), (day.isoformat(), zone)
        begin = _midnight(day, where)
        end = _midnight(day + datetime.timedelta(days=1), where)
        if day == today:
            return self._kept.get(key, lambda: self._moved(begin, end))
        found = self._days.get(key)
        if found is None:
            found = self._moved(begin, end)
            while len(self._days) >= _DAYS_KEPT:
                del self._days[next(iter(self._days))]
            # What ended shortly before midnight may be written down shortly after it.
            if to_text(self._clock.now() - datetime.timedelta(minutes=10)) > end:
                self._days[key] = found
        return found

    def _counted(self, since: str) -> Sequence[_Counted]:
        of = (RUNS.c.resource_group, RUNS.c.state)
        query = sa.select(*of, sa.func.count()).where(*_ended(since)).group_by(*of)
        with self._database.reading() as connection:
            return [_Counted(*row) for row in connection.execute(query)]

    def _moved(self, begin: str, end: str) -> Sequence[_Counted]:
        of = (RUNS.c.resource_group, RUNS.c.state)
        sums = [_sum(name) for name in ("bytes_read", "bytes_full", "bytes_stored")]
        query = sa.select(*of, sa.func.count(), *sums).where(*_ended(begin, end)).group_by(*of)
        with self._database.reading() as connection:
            return [
                _Counted(*row[:3], *(int(each or 0) for each in row[3:]))
                for row in connection.execute(query)
            ]


def _ended(begin: str, end: str = "") -> list[sa.ColumnElement[bool]]:
    found = [RUNS.c.ended >= begin, RUNS.c.kind.in_(PROTECTING)]
    return [*found, RUNS.c.ended < end] if end else found


def figure(name: str) -> sa.ColumnElement[Any]:
    """Return a number out of the summary of a run."""
    return sa.cast(RUNS.c.summary[name].as_string(), sa.BigInteger)


def _sum(name: str) -> sa.ColumnElement[Any]:
    return sa.func.sum(figure(name))


def _midnight(day: datetime.date, zone: zoneinfo.ZoneInfo) -> str:
    return to_text(datetime.datetime.combine(day, datetime.time(), zone))


def _seen(rows: Sequence[_Counted], groups: Groups) -> list[_Counted]:
    return [row for row in rows if groups is None or row.group in groups]


def outcomes_of(rows: Sequence[Any]) -> Outcomes:
    """Return how runs ended, out of rows with `state` and `count`. Pure."""
    counts = dict.fromkeys(states.OVER, 0)
    for row in rows:
        counts[row.state] = counts.get(row.state, 0) + row.count
    return Outcomes(
        counts[states.SUCCEEDED], counts[states.PARTLY], counts[states.FAILED],
        counts[states.STOPPED],
        rate_of(counts[states.SUCCEEDED], counts[states.PARTLY] + counts[states.FAILED]),
    )  # fmt: skip


def rate_of(succeeded: int, others: int) -> float | None:
    """Return the share of runs that succeeded; None if there was none."""
    judged = succeeded + others
    return succeeded / judged if judged else None


def _day(day: datetime.date, rows: Sequence[_Counted]) -> Day:
    found = outcomes_of(rows)
    full = sum(row.full for row in rows)
    return Day(
        day.isoformat(), full, max(sum(row.read for row in rows) - full, 0),
        sum(row.stored for row in rows), found.succeeded, found.partly, found.failed,
    )  # fmt: skip
