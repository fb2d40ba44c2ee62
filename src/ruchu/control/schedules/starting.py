"""The moments at which schedules start: the next one, and all within a span.

Days are found by arithmetic, then the times of one day become moments: nothing is searched for
minute by minute.
"""

import datetime
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from zoneinfo import ZoneInfo

from ruchu.control.schedules import days, moments
from ruchu.model.schedule_rules import (
    EARLIEST,
    LATEST,
    Hourly,
    Minutes,
    Once,
    Rolling,
    Rule,
    Yearly,
)
from ruchu.model.schedules import Schedule

Holidays = Collection[datetime.date]

# A rule that names no day within so many years names none that matters.
SEARCH_YEARS = 10
# The fifth Sunday of February comes after at most 40 years; a year is looked at in no time.
SEARCH_YEARS_YEARLY = 41
_DAY = datetime.timedelta(days=1)
_MINUTE = datetime.timedelta(minutes=1)
_HOUR_MINUTES = 60
_EARLIEST = datetime.datetime(EARLIEST.year, EARLIEST.month, EARLIEST.day, tzinfo=datetime.UTC)


@dataclass(frozen=True, slots=True)
class Due:
    """A start.

    Attributes:
        at: when, in UTC.
        schedule: the strongest that is due then.
        satisfied: the others of its lane that are due then; its run is theirs, too.
    """

    at: datetime.datetime
    schedule: Schedule
    satisfied: tuple[Schedule, ...] = ()


def following(
    schedule: Schedule,
    after: datetime.datetime,
    zone: ZoneInfo,
    holidays: Holidays = frozenset(),
) -> datetime.datetime | None:
    """Return the first start after a moment, in UTC; None if there is none in `SEARCH_YEARS`.

    For a rolling rule, `after` is the end of the last run: the start is so many minutes later, or
    where the first day begins after that on which it may start.

    Args:
        schedule: whose start.
        after: aware.
        zone: of its dates and times.
        holidays: dates; a set, since they are looked up often.
    """
    rule = schedule.rule
    if isinstance(rule, Rolling):
        after += rule.minutes * _MINUTE
    after = max(after, _EARLIEST)
    # The days before are over: their times, put off by a gap, come no later than this day begins.
    begin = after.astimezone(zone).date()
    if schedule.begin is not None:
        begin = max(begin, schedule.begin)
    years = SEARCH_YEARS_YEARLY if isinstance(rule, Yearly) else SEARCH_YEARS
    last = schedule.until or LATEST
    if not isinstance(rule, Once):
        last = min(last, datetime.date(min(begin.year + years, LATEST.year), 12, 31))
    for day in days.of_rule(rule, begin):
        if day > last:
            return None
        if schedule.mind_holidays and day in holidays:
            continue
        found = _on(rule, day, after, zone)
        if found is not None:
            return found
    return None


def _on(
    rule: Rule, day: datetime.date, after: datetime.datetime, zone: ZoneInfo
) -> datetime.datetime | None:
    """Return the first start of a day after a moment."""
    times: tuple[datetime.time, ...]
    match rule:
        case Once():
            times = (rule.at.time(),)
        case Minutes() | Hourly():
            return _step(rule, day, after, zone)
        case Rolling():
            begin, end = moments.day(day, zone), moments.day(day + _DAY, zone)
            return max(begin, after) if max(begin, after) < end else None
        case _:
            times = rule.times
    for time in times:
        moment = moments.first(datetime.datetime.combine(day, time), zone)
        if moment > after:
            return moment
    return None


def _step(
    rule: Minutes | Hourly, day: datetime.date, after: datetime.datetime, zone: ZoneInfo
) -> datetime.datetime | None:
    """Return the first start of a day after a moment, of a rule that goes by elapsed time."""
    begin, end = moments.day(day, zone), moments.day(day + _DAY, zone)
    if after >= end:
        return None
    if isinstance(rule, Hourly):
        step, counted = _HOUR_MINUTES * _MINUTE, begin + rule.minute * _MINUTE
    elif rule.anchor is None:
        step, counted = rule.every * _MINUTE, begin
    else:
        step, counted = rule.every * _MINUTE, moments.first(rule.anchor, zone)
    # The first one after `after`, and not before the day; rounding up is rounding down negated.
    number = max((after - counted) // step + 1, -((counted - begin) // step))
    moment = counted + number * step
    return moment if moment < end else None


def starts(
    schedules: Sequence[Schedule],
    zone: ZoneInfo,
    holidays: Holidays,
    begin: datetime.datetime,
    end: datetime.datetime,
) -> Iterator[Due]:
    """Yield the starts from `begin` on and before `end`, in order.

    Rolling schedules start as if every run took no time, the first so many minutes after `begin`.
    """
    before = begin - datetime.timedelta.resolution
    upcoming = [
        following(each, begin if isinstance(each.rule, Rolling) else before, zone, holidays)
        for each in schedules
    ]
    while True:
        at = min((moment for moment in upcoming if moment is not None), default=None)
        if at is None or at >= end:
            return
        together = [index for index, moment in enumerate(upcoming) if moment == at]
        yield from _strongest(at, [schedules[index] for index in together])
        for index in together:
            upcoming[index] = following(schedules[index], at, zone, holidays)


def _strongest(at: datetime.datetime, together: Sequence[Schedule]) -> Iterator[Due]:
    """Yield one start for each lane."""
    lanes: dict[str, list[Schedule]] = {}
    for schedule in together:
        lanes.setdefault(schedule.lane, []).append(schedule)
    for competing in lanes.values():
        winner, *others = sorted(competing, key=lambda schedule: schedule.weakness)
        yield Due(at, winner, tuple(others))
