"""The only place that reads a clock. Everything else is handed a `Clock`."""

import datetime
import os
import time
from pathlib import Path
from typing import Protocol


class Clock(Protocol):
    """Tells the time; a test hands in one that it can move."""

    def now(self) -> datetime.datetime:
        """Return the wall clock, aware, in UTC, in whole microseconds."""

    def monotonic(self) -> float:
        """Return seconds that never go back, from an arbitrary start."""

    def sleep(self, seconds: float) -> None:
        """Wait."""


class SystemClock:
    """The clock of this host."""

    def now(self) -> datetime.datetime:
        """Return the wall clock in UTC."""
        return datetime.datetime.now(datetime.UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return time.monotonic()

    def sleep(self, seconds: float) -> None:
        """Wait."""
        time.sleep(seconds)


SYSTEM = SystemClock()


def to_text(moment: datetime.datetime) -> str:
    """Return a moment as RFC 3339 in UTC with microseconds, which sorts as text."""
    return moment.astimezone(datetime.UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def from_text(text: str) -> datetime.datetime:
    """Return the moment that `to_text` wrote.

    Raises:
        ValueError: the text is no such moment.
    """
    parsed = datetime.datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ")
    return parsed.replace(tzinfo=datetime.UTC)


def since_start() -> float:
    """Return the seconds since this process was started, with what Python itself took (Linux)."""
    ticks = int(Path("/proc/self/stat").read_text().rpartition(")")[2].split()[19])
    return time.clock_gettime(time.CLOCK_BOOTTIME) - ticks / os.sysconf("SC_CLK_TCK")
