"""How late runs were started: figures for metrics."""

import threading
from collections import deque
from dataclasses import dataclass

BOUNDS_S = (0.01, 0.05, 0.1, 0.25, 0.5, 1.0, 2.0, 5.0, 30.0, 300.0)
# Enough for a 99th percentile of the last hours.
NEWEST = 1000


@dataclass(frozen=True, slots=True)
class LatenessFigures:
    """Lateness so far.

    Attributes:
        count: of starts.
        total_s: of all of them.
        within: how many were not later than each of `BOUNDS_S`.
        newest_s: of the newest starts, oldest first.
    """

    count: int
    total_s: float
    within: tuple[int, ...]
    newest_s: tuple[float, ...]


class Lateness:
    """A histogram. Safe in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._count = 0
        self._total_s = 0.0
        self._within = [0] * len(BOUNDS_S)
        self._newest_s: deque[float] = deque(maxlen=NEWEST)

    def add(self, late_s: float) -> None:
        """Count a start."""
        with self._lock:
            self._count += 1
            self._total_s += late_s
            self._newest_s.append(late_s)
            for index, bound in enumerate(BOUNDS_S):
                self._within[index] += late_s <= bound

    def figures(self) -> LatenessFigures:
        """Return the figures at this moment."""
        with self._lock:
            within, newest = tuple(self._within), tuple(self._newest_s)
            return LatenessFigures(self._count, self._total_s, within, newest)
