"""Which days a rule names. No times, no zones."""

import calendar
import datetime
from collections.abc import Iterator

from ruchu.model.schedule_rules import LAST, LATEST, Monthly, Nth, Once, Rule, Weekly, Yearly

_DAY = datetime.timedelta(days=1)
_WEEK = 7
_MONTHS = 12


def of_rule(rule: Rule, begin: datetime.date) -> Iterator[datetime.date]:
    """Yield the days of a rule from a day on, in order, up to the last that is supported."""
    match rule:
        case Once():
            found = iter([rule.at.date()])
        case Weekly():
            found = _weekly(rule, begin)
        case Monthly():
            found = _monthly(rule, begin)
        case Yearly():
            found = _yearly(rule, begin)
        case _:
            found = _daily(begin)
    return (day for day in found if begin <= day)


def _daily(begin: datetime.date) -> Iterator[datetime.date]:
    day = begin
    while day <= LATEST:
        yield day
        day += _DAY


def _weekly(rule: Weekly, begin: datetime.date) -> Iterator[datetime.date]:
    monday = begin - begin.weekday() * _DAY
    if rule.anchor is not None:
        counted = rule.anchor - rule.anchor.weekday() * _DAY
        monday += (counted - monday).days % (_WEEK * rule.every) * _DAY
    while monday <= LATEST:
        for weekday in rule.days:
            yield monday + weekday * _DAY
        monday += _WEEK * rule.every * _DAY


def _monthly(rule: Monthly, begin: datetime.date) -> Iterator[datetime.date]:
    for number in range(begin.year * _MONTHS + begin.month - 1, (LATEST.year + 1) * _MONTHS):
        year, month = number // _MONTHS, number % _MONTHS + 1
        found = {in_month(year, month, which) for which in rule.named}
        yield from sorted(day for day in found if day is not None)


def _yearly(rule: Yearly, begin: datetime.date) -> Iterator[datetime.date]:
    for year in range(begin.year, LATEST.year + 1):
        day = in_month(year, rule.month, rule.day)
        if day is not None:
            yield day


def in_month(year: int, month: int, which: int | Nth) -> datetime.date | None:
    """Return a day of a month, None if that month has no such day."""
    length = calendar.monthrange(year, month)[1]
    if isinstance(which, Nth):
        return _nth(datetime.date(year, month, 1), length, which)
    if which == LAST:
        return datetime.date(year, month, length)
    return datetime.date(year, month, which) if which <= length else None


def _nth(first: datetime.date, length: int, which: Nth) -> datetime.date | None:
    number = 1 + (which.day - first.weekday()) % _WEEK
    if which.nth == LAST:
        number += (length - number) // _WEEK * _WEEK
    else:
        number += (which.nth - 1) * _WEEK
    return first.replace(day=number) if number <= length else None
