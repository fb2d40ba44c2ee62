"""What was worked out a moment ago, for everybody who asks for it within that moment."""

import threading
from collections import OrderedDict
from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

from ruchu.clock import Clock

V = TypeVar("V")
# Sets of resource groups of people who look at the same time; the one that was asked for longest
# ago is forgotten.
KEYS_MAX = 64


class Kept(Generic[V]):
    """Values by key that are good for some seconds. Safe in several threads.

    Whoever asks while a value is worked out waits for it: it is never worked out twice at a time.
    """

    def __init__(self, clock: Clock, good_s: float) -> None:
        self._clock = clock
        self._good_s = good_s
        self._lock = threading.Lock()
        self._values: OrderedDict[Hashable, tuple[float, V]] = OrderedDict()
        self._making: dict[Hashable, threading.Lock] = {}

    def get(self, key: Hashable, make: Callable[[], V]) -> V:
        """Return the value of a key; `make` works it out if there is none, or it is too old."""
        with self._lock:
            found = self._fresh(key)
            if found is not None:
                return found[1]
            making = self._making.setdefault(key, threading.Lock())
        with making:
            with self._lock:
                found = self._fresh(key)
            if found is not None:
                return found[1]
            at, value = self._clock.monotonic(), make()
            with self._lock:
                self._values[key] = at, value
                self._values.move_to_end(key)
                while len(self._values) > KEYS_MAX:
                    self._making.pop(self._values.popitem(last=False)[0], None)
            return value

    def forget(self, key: Hashable) -> None:
        """Let the value of a key be worked out anew."""
        with self._lock:
            self._values.pop(key, None)

    def _fresh(self, key: Hashable) -> tuple[float, V] | None:
        found = self._values.get(key)
        if found is None or self._clock.monotonic() - found[0] >= self._good_s:
            return None
        return found
