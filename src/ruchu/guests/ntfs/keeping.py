"""What was read before, kept while there is room for it."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class Kept(Generic[Key, Value]):
    """Values by key; those used least recently go first. Safe in several threads.

    Args:
        room: bytes of all values together.
        weigh: tells the bytes of one.
    """

    def __init__(self, room: int, weigh: Callable[[Value], int]) -> None:
        self._room = room
        self._weigh = weigh
        self._held: OrderedDict[Key, tuple[Value, int]] = OrderedDict()
        self._weight = 0
        self._lock = threading.Lock()

    def get(self, key: Key, make: Callable[[], Value]) -> Value:
        """Return what is kept, or make it. Two threads may both make it; either will do."""
        with self._lock:
            found = self._held.get(key)
            if found is not None:
                self._held.move_to_end(key)
                return found[0]
        value = make()
        weight = self._weigh(value)
        with self._lock:
            if key not in self._held:
                self._held[key] = value, weight
                self._weight += weight
            while self._weight > self._room:
                _, (_, gone) = self._held.popitem(last=False)
                self._weight -= gone
        return value
