"""What all connections share: threads that wait for devices, and a budget of memory."""

import queue
import threading
from collections.abc import Callable
from typing import Final

# Decoding leaves the interpreter for most of its time, and a network storage lets us wait: more
# threads than cores, yet few enough that they do not push one another out of the caches.
WORKERS: Final = 8

Job = Callable[[], None]


class Budget:
    """Bytes that may be in flight at a time. Several threads may use it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._used = 0
        self._condition = threading.Condition()

    def take(self, count: int) -> None:
        """Wait until `count` bytes are free. What is larger than all gets all of it."""
        with self._condition:
            while self._used and self._used + count > self._most:
                self._condition.wait()
            self._used += count

    def give_back(self, count: int) -> None:
        """Free what was taken."""
        with self._condition:
            self._used -= count
            self._condition.notify_all()

    def wait_until_unused(self) -> None:
        """Wait until everything was given back."""
        with self._condition:
            while self._used:
                self._condition.wait()


class Pool:
    """Threads that do jobs in the order of their submission. A job does not raise."""

    def __init__(self, workers: int = WORKERS) -> None:
        self._jobs: queue.SimpleQueue[Job | None] = queue.SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"nbd-worker-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, job: Job) -> None:
        """Have a job done by the next thread that is free."""
        self._jobs.put(job)

    def close(self, limit_s: float) -> None:
        """End the threads after the jobs that were submitted; wait for each at most `limit_s`."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            thread.join(limit_s)

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            job()
