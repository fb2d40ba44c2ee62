"""Quiet hours in local time, whatever the clocks of the zone do. Pure."""

import datetime
import zoneinfo

from ruchu.control.alarms.records import QuietHours
from ruchu.errors import UsageError

_ONE_DAY = datetime.timedelta(days=1)


def until(quiet: QuietHours, moment: datetime.datetime) -> datetime.datetime | None:
    """Return when the quiet hours that hold at a moment end, or None if none hold.

    A local time that the zone skips in spring counts as the moment after the gap; one that comes
    twice in autumn counts as the first, so that quiet hours rather end too early than too late.

    Raises:
        UsageError: the zone or a time is none.
    """
    zone = _zone(quiet.zone)
    start, end = _time(quiet.start), _time(quiet.end)
    today = moment.astimezone(zone).date()
    ends = []
    for day in (today - _ONE_DAY, today):
        if day.weekday() not in quiet.days:
            continue
        last = day if end > start else day + _ONE_DAY
        begins = datetime.datetime.combine(day, start, zone).astimezone(datetime.UTC)
        finishes = datetime.datetime.combine(last, end, zone).astimezone(datetime.UTC)
        if begins <= moment < finishes:
            ends.append(finishes)
    return max(ends, default=None)


def check(quiet: QuietHours) -> None:
    """Look whether quiet hours mean something.

    Raises:
        UsageError: they do not.
    """
    _zone(quiet.zone)
    _time(quiet.start)
    _time(quiet.end)
    if not quiet.days or not set(quiet.days) <= set(range(7)):
        raise UsageError(f"(quiet hours on the days {quiet.days})", hint="0 is Monday, 6 Sunday.")


def _zone(name: str) -> zoneinfo.ZoneInfo:
    try:
        return zoneinfo.ZoneInfo(name)
    except (zoneinfo.ZoneInfoNotFoundError, ValueError, OSError):
        raise UsageError(f"(the time zone {name!r})", hint="Such as Asia/Shanghai.") from None


def _time(text: str) -> datetime.time:
    try:
        return datetime.datetime.strptime(text, "%H:%M").time()  # noqa: DTZ007 - a time of day
    except ValueError:
        raise UsageError(f"(the time {text!r})", hint="Such as 22:00.") from None
