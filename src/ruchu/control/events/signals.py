"""Threads that wait for a change of one thing, without waking those that wait for another.

Whoever waits takes a mark, looks, and then waits for what has changed since the mark: a change
between the look and the wait is not missed.
"""

import threading
from collections import OrderedDict

# Keys whose last change is remembered; older ones count as changed, which costs one look too many.
_KEYS_MAX = 10_000


class Signals:
    """Changes by key. Safe in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._number = 0
        # Every key has changed up to here.
        self._floor = 0
        self._changed: OrderedDict[str, int] = OrderedDict()
        self._waiting: dict[str, set[threading.Event]] = {}

    def mark(self) -> int:
        """Return a mark: what changes from now on is behind it."""
        with self._lock:
            return self._number

    def fire(self, key: str) -> None:
        """Tell that a thing changed."""
        with self._lock:
            self._number += 1
            self._changed[key] = self._number
            self._changed.move_to_end(key)
            if len(self._changed) > _KEYS_MAX:
                self._floor = self._changed.popitem(last=False)[1]
            for event in self._waiting.get(key, ()):
                event.set()

    def fire_all(self) -> None:
        """Tell that everything may have changed."""
        with self._lock:
            self._number += 1
            self._floor = self._number
            for events in self._waiting.values():
                for event in events:
                    event.set()

    def wait(self, key: str, mark: int, timeout_s: float) -> bool:
        """Wait until a thing has changed since a mark; False if the time passed first."""
        event = threading.Event()
        with self._lock:
            if max(self._changed.get(key, 0), self._floor) > mark:
                return True
            self._waiting.setdefault(key, set()).add(event)
        try:
            return event.wait(timeout_s)
        finally:
            with self._lock:
                waiting = self._waiting[key]
                waiting.discard(event)
                if not waiting:
                    del self._waiting[key]
