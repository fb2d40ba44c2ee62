"""How fast a copy is and how long it will take, from its progress."""

from collections import deque
from dataclasses import dataclass

from ruchu.blocks.copying import Progress
from ruchu.clock import Clock

# Long enough to even out a slow sync, short enough to show a line that broke.
WINDOW_S = 15.0
_MARKS_MAX = 256


@dataclass(frozen=True, slots=True)
class Reading:
    """A moment of a copy: bytes done and in all, bytes per second, seconds left (None: unknown)."""

    done: int
    total: int
    rate: float
    left_s: float | None


class Meter:
    """Watches one copy."""

    def __init__(self, progress: Progress, clock: Clock) -> None:
        self._progress = progress
        self._clock = clock
        self._marks: deque[tuple[float, int]] = deque(maxlen=_MARKS_MAX)
        self.read()

    def read(self) -> Reading:
        """Return how far the copy is now."""
        now, done, total = self._clock.monotonic(), self._progress.done, self._progress.total
        while self._marks and now - self._marks[0][0] > WINDOW_S:
            self._marks.popleft()
        self._marks.append((now, done))
        then, before = self._marks[0]
        rate = (done - before) / (now - then) if now > then else 0.0
        left = (total - done) / rate if rate > 0 else None
        return Reading(done, total, rate, left)
