"""Counts what a storage does."""

import threading
from collections import defaultdict
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TypeVar

from ruchu import clock
from ruchu.storage.contract import Storage
from ruchu.storage.intercepting import Intercepting, Verb

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Tally:
    """What calls of one verb came to: `length` in bytes, `duration_s` of all threads together."""

    calls: int = 0
    failures: int = 0
    length: int = 0
    duration_s: float = 0.0

    def plus(self, other: "Tally") -> "Tally":
        """Return both together."""
        return Tally(
            self.calls + other.calls,
            self.failures + other.failures,
            self.length + other.length,
            self.duration_s + other.duration_s,
        )


class Logged(Intercepting):
    """Tallies calls, failures, bytes and seconds by verb."""

    def __init__(self, inner: Storage, *, clock: clock.Clock) -> None:
        super().__init__(inner)
        self._clock = clock
        self._lock = threading.Lock()
        self._tallies: defaultdict[Verb, Tally] = defaultdict(Tally)

    def snapshot(self) -> Mapping[Verb, Tally]:
        """Return the tallies so far, of the verbs used."""
        with self._lock:
            return dict(self._tallies)

    def around(self, verb: Verb, name: str, call: Callable[[], T]) -> T:  # noqa: ARG002
        """Time and count a call."""
        start = self._clock.monotonic()
        failures = 1
        try:
            result = call()
            failures = 0
            return result
        finally:
            duration_s = self._clock.monotonic() - start
            self._add(verb, Tally(calls=1, failures=failures, duration_s=duration_s))

    def moved(self, verb: Verb, length: int) -> None:
        """Count bytes."""
        self._add(verb, Tally(length=length))

    def _add(self, verb: Verb, more: Tally) -> None:
        with self._lock:
            self._tallies[verb] = self._tallies[verb].plus(more)
