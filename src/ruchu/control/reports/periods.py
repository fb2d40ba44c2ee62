"""Days and weeks of a time zone, as reports count them. Pure."""

import datetime
import enum
import zoneinfo
from dataclasses import dataclass


class ReportKind(enum.StrEnum):
    """How much a report covers."""

    DAILY = "daily"
    WEEKLY = "weekly"  # from Monday


@dataclass(frozen=True, slots=True)
class Period:
    """What a report covers.

    Attributes:
        kind: a day or a week.
        name: `2026-11-25` or `2026-W48`; with the kind it names the report.
        start: first moment, UTC.
        end: the moment after it, UTC.
    """

    kind: ReportKind
    name: str
    start: datetime.datetime
    end: datetime.datetime


def last(kind: ReportKind, now: datetime.datetime, zone: str) -> Period:
    """Return the last day or week that is over in a time zone."""
    where = zoneinfo.ZoneInfo(zone)
    today = now.astimezone(where).date()
    if kind is ReportKind.DAILY:
        first, after = today - datetime.timedelta(days=1), today
        return Period(kind, first.isoformat(), _midnight(first, where), _midnight(after, where))
    after = today - datetime.timedelta(days=today.weekday())
    first = after - datetime.timedelta(days=7)
    year, week, _ = first.isocalendar()
    name = f"{year}-W{week:02}"
    return Period(kind, name, _midnight(first, where), _midnight(after, where))


def _midnight(day: datetime.date, zone: zoneinfo.ZoneInfo) -> datetime.datetime:
    midnight = datetime.datetime.combine(day, datetime.time(), zone)
    return midnight.astimezone(datetime.UTC)
