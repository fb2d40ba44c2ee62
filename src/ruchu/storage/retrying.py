"""Tries again what may succeed by itself."""

import random
from collections.abc import Callable
from typing import TypeVar

from ruchu import clock, errors
from ruchu.storage.contract import Buffer, Storage
from ruchu.storage.intercepting import Intercepting, Verb

T = TypeVar("T")

# Together about a minute: a share that fails over or a disk that spins up is back by then.
ATTEMPTS_MAX = 7
DELAY_FIRST_S = 1.0
DELAY_MAX_S = 30.0

# Half a stream cannot be written again, and a sync that failed once proves nothing when it works
# the second time: the kernel has forgotten the pages by then. The whole object is written anew.
_NEVER = {Verb.WRITE, Verb.COMMIT}


class Retrying(Intercepting):
    """Repeats calls that fail with an error whose `retry` is true, later and later.

    A put that failed may have succeeded all the same. If the retry then finds an object of that
    name with exactly our content, it is ours; so content that decides who wins (a lock) must name
    its owner.
    """

    def __init__(
        self,
        inner: Storage,
        *,
        clock: clock.Clock,
        choose: random.Random,
        attempts_max: int = ATTEMPTS_MAX,
    ) -> None:
        super().__init__(inner)
        self._clock = clock
        self._choose = choose
        self._attempts_max = attempts_max

    def around(self, verb: Verb, name: str, call: Callable[[], T]) -> T:  # noqa: ARG002
        """Carry out a call, repeatedly if it may help."""
        if verb in _NEVER:
            return call()
        for attempt in range(1, self._attempts_max):
            try:
                return call()
            except errors.RuchuError as error:
                if not error.retry:
                    raise
            self._wait(attempt)
        return call()

    def put(self, name: str, data: Buffer) -> None:
        """Store an object; see the class for what happens to one that may be there already."""
        doubtful = False

        def attempt() -> None:
            nonlocal doubtful
            try:
                self.inner.put(name, data)
            except errors.ObjectExists:
                if not doubtful or not self._holds(name, data):
                    raise
            except errors.RuchuError:
                doubtful = True
                raise

        self.around(Verb.PUT, name, attempt)

    def _holds(self, name: str, data: Buffer) -> bool:
        length = memoryview(data).nbytes
        return self.inner.size(name) == length and self.inner.get(name, length) == data

    def _wait(self, attempt: int) -> None:
        delay = min(DELAY_MAX_S, DELAY_FIRST_S * 2.0 ** (attempt - 1))
        # Between half and all of it, so that many nodes do not come back in the same instant.
        self._clock.sleep(delay * self._choose.uniform(0.5, 1.0))
