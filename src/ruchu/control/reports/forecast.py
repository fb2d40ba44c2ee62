"""When a storage will be full: a straight line through the daily figures, and how sure it is. Pure.

Least squares, with the 95 % prediction interval of a new day: the interval of the answer is where
the edges of that band meet the capacity. It holds if growth goes on as it did and the days scatter
independently; a storage that was cleaned up within the days gives a wide interval, as it should.
"""

import datetime
import math
from collections.abc import Mapping
from dataclasses import dataclass

# A week, so that at least one weekend is in it.
DAYS_MIN = 7
# Older days say little about the growth of tomorrow.
DAYS_USED = 90
# Beyond ten years nobody plans.
HORIZON_DAYS = 3_650
# The two-sided 95 % quantile of Student's t, by degrees of freedom; beyond 30 it is nearly normal.
_T95 = {
    **dict(enumerate((2.571, 2.447, 2.365, 2.306, 2.262, 2.228, 2.201, 2.179, 2.160), 5)),
    **dict(enumerate((2.145, 2.131, 2.120, 2.110, 2.101, 2.093, 2.086, 2.080, 2.074), 14)),
    **dict(enumerate((2.069, 2.064, 2.060, 2.056, 2.052, 2.048, 2.045, 2.042), 23)),
}
_T95_BEYOND = 2.04


@dataclass(frozen=True, slots=True)
class Forecast:
    """What the figures say.

    Attributes:
        days: how many figures there were.
        enough: False says "too few days"; everything else means nothing then.
        growth_bytes: a day, by the line.
        full_on: when the line meets the capacity; None if not within ten years.
        earliest: the near end of the interval; None if not within ten years.
        latest: the far end; None if it may well never be.
    """

    days: int
    enough: bool
    growth_bytes: float = 0.0
    full_on: datetime.date | None = None
    earliest: datetime.date | None = None
    latest: datetime.date | None = None


@dataclass(frozen=True, slots=True)
class _Line:
    count: int
    mean_x: float
    mean_y: float
    slope: float
    spread_x: float
    error: float

    def at(self, x: float) -> float:
        return self.mean_y + self.slope * (x - self.mean_x)

    def margin(self, x: float) -> float:
        share = 1 + 1 / self.count + (x - self.mean_x) ** 2 / self.spread_x
        return _T95.get(self.count - 2, _T95_BEYOND) * self.error * math.sqrt(share)


def forecast(daily: Mapping[datetime.date, int], capacity_bytes: int) -> Forecast:
    """Return when the figures of a storage reach its capacity (0: it has none)."""
    days = sorted(daily)[-DAYS_USED:]
    if len(days) < DAYS_MIN:
        return Forecast(len(days), enough=False)
    last = days[-1]
    line = _fitted([((day - last).days, daily[day]) for day in days])
    if capacity_bytes <= 0:
        return Forecast(len(days), enough=True, growth_bytes=line.slope)
    meets: dict[str, datetime.date | None] = {"full_on": None, "earliest": None, "latest": None}
    for ahead in range(HORIZON_DAYS + 1):
        middle, margin = line.at(ahead), line.margin(ahead)
        levels = {"full_on": middle, "earliest": middle + margin, "latest": middle - margin}
        for name, level in levels.items():
            if meets[name] is None and level >= capacity_bytes:
                meets[name] = last + datetime.timedelta(days=ahead)
        if meets["latest"] is not None:
            break
    return Forecast(len(days), enough=True, growth_bytes=line.slope, **meets)


def _fitted(points: list[tuple[int, int]]) -> _Line:
    count = len(points)
    mean_x = sum(x for x, _ in points) / count
    mean_y = sum(y for _, y in points) / count
    spread_x = sum((x - mean_x) ** 2 for x, _ in points)
    slope = sum((x - mean_x) * (y - mean_y) for x, y in points) / spread_x
    rest = sum((y - mean_y - slope * (x - mean_x)) ** 2 for x, y in points)
    return _Line(count, mean_x, mean_y, slope, spread_x, math.sqrt(rest / (count - 2)))
