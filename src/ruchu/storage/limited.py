"""Keeps the bytes moved per second below a limit."""

import threading
from collections.abc import Callable

from ruchu import clock
from ruchu.storage.contract import Storage
from ruchu.storage.intercepting import Intercepting, Verb

# What an idle line may catch up on; more would show as bursts to those we share it with.
BURST_S = 0.25

_READS = {Verb.GET, Verb.READ}


class Bandwidth:
    """A bucket of tokens that fills at `rate` bytes per second. Several storages may share it.

    The rate may be a function that tells it anew for each transfer; 0 is no limit then.
    """

    def __init__(self, rate: int | Callable[[], int], clock: clock.Clock) -> None:
        assert callable(rate) or rate > 0, "a limit of nothing would wait for ever"
        self._rate = rate if callable(rate) else lambda: rate
        self._clock = clock
        self._lock = threading.Lock()
        self._paid_until = clock.monotonic()

    def take(self, length: int) -> None:
        """Wait until so many bytes are within the limit."""
        with self._lock:
            now, rate = self._clock.monotonic(), self._rate()
            if not rate:
                self._paid_until = now
                return
            self._paid_until = max(self._paid_until, now - BURST_S) + length / rate
            wait = self._paid_until - now
        if wait > 0:
            self._clock.sleep(wait)


class Limited(Intercepting):
    """Waits after each transfer until it is paid for."""

    def __init__(
        self,
        inner: Storage,
        *,
        reads: Bandwidth | None = None,
        writes: Bandwidth | None = None,
    ) -> None:
        super().__init__(inner)
        self._reads = reads
        self._writes = writes

    def moved(self, verb: Verb, length: int) -> None:
        """Pay for the bytes."""
        bandwidth = self._reads if verb in _READS else self._writes
        if bandwidth is not None:
            bandwidth.take(length)
