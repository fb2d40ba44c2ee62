"""What a guard tells, and how often: a program in a loop must not drown the people it alarms."""

from collections import OrderedDict
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from ruchu.clock import Clock
from ruchu.model.tasks import Severity

WINDOW_S = 60.0  # one report for a program, a path and a kind in this time; the rest is counted
KEYS_MAX = 1000  # a program that touches every file of a storage; beyond, the oldest is given up


@dataclass(frozen=True, slots=True)
class Report:
    """One thing that is told, in the shape of an alarm; `clears` takes an earlier one back."""

    code: str
    severity: Severity
    subject: str
    text: str
    facts: Mapping[str, Any] = field(default_factory=dict)
    clears: bool = False

    def fields(self) -> dict[str, Any]:
        """Return it for a document."""
        return {
            "event": "clear" if self.clears else "alarm",
            "code": self.code,
            "severity": str(self.severity),
            "subject": self.subject,
            "text": self.text,
            "facts": dict(self.facts),
        }


Emit = Callable[[Report], None]


@dataclass(slots=True)
class _Window:
    until: float
    last: Report
    held_back: int = 0


class Limiter:
    """Lets the first report of a kind through and counts the next ones. For one thread."""

    def __init__(self, emit: Emit, clock: Clock) -> None:
        self._emit = emit
        self._clock = clock
        self._windows: OrderedDict[tuple[str, ...], _Window] = OrderedDict()

    def report(self, key: tuple[str, ...], report: Report) -> None:
        """Tell it, or count it if its like was told a moment ago."""
        now = self._clock.monotonic()
        window = self._windows.get(key)
        if window is not None and now < window.until:
            window.held_back += 1
            window.last = report
            return
        if window is not None:
            self._close(key)
        self._windows[key] = _Window(now + WINDOW_S, report)
        self._emit(report)
        if len(self._windows) > KEYS_MAX:
            self._close(next(iter(self._windows)))

    def tick(self) -> None:
        """Tell the counts of windows that have ended; windows end in the order of their start."""
        now = self._clock.monotonic()
        while self._windows:
            key, window = next(iter(self._windows.items()))
            if now < window.until:
                break
            self._close(key)

    def flush(self) -> None:
        """Tell all counts, at the end."""
        for key in list(self._windows):
            self._close(key)

    def _close(self, key: tuple[str, ...]) -> None:
        window = self._windows.pop(key)
        if window.held_back:
            last = window.last
            text = f"{last.text} ({window.held_back} more times in {WINDOW_S:g} s)"
            facts = {**last.facts, "count": window.held_back}
            self._emit(Report(last.code, last.severity, last.subject, text, facts))
