"""Windows of a policy: the hours in which work may start and run, and how fast.

A window is a span of time on each of its days, from the first moment at which a clock shows its
begin to the first at which it shows its end. So a window that ends within an hour that comes twice
ends at the first of them, and a window that begins where another ends leaves no gap.
"""

import datetime
from collections.abc import Iterator, Sequence
from zoneinfo import ZoneInfo

from ruchu.control.schedules import moments
from ruchu.model.policies import Window

_DAY = datetime.timedelta(days=1)
_DAY_MINUTES = 24 * 60
# Windows come again every week; one that a change of clocks swallowed comes a week later.
_SEARCH_DAYS = 15

_Span = tuple[datetime.datetime, datetime.datetime, int]


def is_open(windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo) -> bool:
    """Tell whether work may start and run at a moment; without windows it always may."""
    return not windows or any(_at(windows, moment, zone))


def opens(
    windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo
) -> datetime.datetime | None:
    """Return when work may run next: the moment itself if it may then; None if it never may."""
    if is_open(windows, moment, zone):
        return moment
    begins = (begin for begin, _, _ in _spans(windows, moment, zone) if begin > moment)
    return min(begins, default=None)


def closes(
    windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo
) -> datetime.datetime | None:
    """Return when work has to end that may run at a moment; None if it may go on and on.

    Windows that touch or overlap are one.
    """
    if not windows:
        return None
    end = moment
    for begin, until, _ in sorted(_spans(windows, moment, zone)):
        if begin <= end < until:
            end = until
    return None if end - moment >= (_SEARCH_DAYS - 1) * _DAY else end


def limit(windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo) -> int:
    """Return how many bytes a second may be moved at a moment; 0 is no limit.

    Of windows that overlap, the strictest limit holds. Outside of all there is none, since work
    that may not run moves nothing.
    """
    limits = [bytes_per_s for _, _, bytes_per_s in _at(windows, moment, zone) if bytes_per_s]
    return min(limits, default=0)


def changes(
    windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo
) -> datetime.datetime | None:
    """Return the next moment after which `is_open` or `limit` may differ; None if there is none."""
    bounds = (bound for begin, end, _ in _spans(windows, moment, zone) for bound in (begin, end))
    now = is_open(windows, moment, zone), limit(windows, moment, zone)
    later = sorted({bound for bound in bounds if bound > moment})
    differ = (
        bound
        for bound in later
        if (is_open(windows, bound, zone), limit(windows, bound, zone)) != now
    )
    found = next(differ, None)
    return found if found is None or found - moment < (_SEARCH_DAYS - 1) * _DAY else None


def _at(windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo) -> Iterator[_Span]:
    """Yield the spans that hold a moment."""
    # Yesterday's may go on; and the clock may show a day that is over, or still to come.
    today = moment.astimezone(zone).date()
    for number in range(-2, 2):
        for span in _on(windows, today + number * _DAY, zone):
            if span[0] <= moment < span[1]:
                yield span


def _spans(windows: Sequence[Window], moment: datetime.datetime, zone: ZoneInfo) -> Iterator[_Span]:
    """Yield the spans from shortly before a moment until `_SEARCH_DAYS` after it."""
    today = moment.astimezone(zone).date()
    for number in range(-2, _SEARCH_DAYS):
        yield from _on(windows, today + number * _DAY, zone)


def _on(windows: Sequence[Window], day: datetime.date, zone: ZoneInfo) -> Iterator[_Span]:
    """Yield the spans that begin on a day."""
    for window in windows:
        if window.days and day.weekday() not in window.days:
            continue
        minutes = window.end - window.begin
        if minutes <= 0:
            minutes += _DAY_MINUTES
        midnight = datetime.datetime.combine(day, datetime.time())
        begins = midnight + datetime.timedelta(minutes=window.begin)
        ends = begins + datetime.timedelta(minutes=minutes)
        begin, end = moments.first(begins, zone), moments.first(ends, zone)
        if begin < end:
            yield begin, end, window.bytes_per_s
