"""A clock that stands still until a test moves it, in either direction."""

import datetime

_START = datetime.datetime(2026, 11, 22, 18, 0, tzinfo=datetime.UTC)


class ManualClock:
    """A `Clock`. Sleeping moves it on, and is written down.

    Attributes:
        slept: the seconds of every sleep, in order.
    """

    def __init__(self, start: datetime.datetime = _START) -> None:
        self._now = start
        self._monotonic = 1000.0
        self.slept: list[float] = []

    def now(self) -> datetime.datetime:
        """Return the wall clock."""
        return self._now

    def monotonic(self) -> float:
        """Return seconds that never go back, whatever the wall clock does."""
        return self._monotonic

    def sleep(self, seconds: float) -> None:
        """Move on at once."""
        self.slept.append(seconds)
        self.move(datetime.timedelta(seconds=seconds))

    def move(self, step: datetime.timedelta) -> None:
        """Move the wall clock; only forward is time that passes."""
        self._now += step
        self._monotonic += max(0.0, step.total_seconds())
