"""A few threads for what may wait: reading from a storage, writing, making durable.

Leaner than an executor: a result costs no future, and results that come close together wake the
event loop once. That halves what a small write costs.
"""

import asyncio
import queue
import threading
from collections import deque
from collections.abc import Callable
from typing import Any

Done = Callable[[Any, Exception | None], None]
_Job = tuple[Callable[[], Any], Done]


class Workers:
    """Runs calls in threads, and hands their results back in the thread of the event loop.

    Nothing limits the queue here: those who call bound what they have outstanding.
    """

    def __init__(self, loop: asyncio.AbstractEventLoop, count: int) -> None:
        self._loop = loop
        self._jobs: queue.SimpleQueue[_Job | None] = queue.SimpleQueue()
        self._results: deque[tuple[Done, Any, Exception | None]] = deque()
        self._woken = False
        self._pending = 0
        self._idle: asyncio.Future[None] | None = None
        self._threads = [
            threading.Thread(target=self._work, name=f"nfs-{number}") for number in range(count)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, work: Callable[[], Any], done: Done) -> None:
        """Call `work` in a thread, then `done` with its result or its error in the loop."""
        self._pending += 1
        self._jobs.put((work, done))

    async def settle(self) -> None:
        """Wait until nothing is left to do, with what that leads to."""
        while self._pending:
            self._idle = self._loop.create_future()
            await self._idle

    async def run(self, work: Callable[[], Any]) -> Any:
        """Call `work` in a thread and return what it returns, or raise what it raises."""
        future: asyncio.Future[Any] = self._loop.create_future()

        def done(result: object, error: Exception | None) -> None:
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)

        self.submit(work, done)
        return await future

    async def close(self) -> None:
        """Finish what was submitted, and end the threads."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        self._deliver()

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            work, done = job
            try:
                self._results.append((done, work(), None))
            except Exception as error:  # noqa: BLE001 - the boundary of a request: it is answered
                self._results.append((done, None, error))
            # Appended before looking: whoever clears the mark afterwards sees this result.
            if not self._woken:
                self._woken = True
                self._loop.call_soon_threadsafe(self._deliver)

    def _deliver(self) -> None:
        self._woken = False
        while self._results:
            done, result, error = self._results.popleft()
            self._pending -= 1
            self._hand_back(done, result, error)
        if not self._pending and self._idle is not None and not self._idle.done():
            self._idle.set_result(None)

    def _hand_back(self, done: Done, result: object, error: Exception | None) -> None:
        try:
            done(result, error)
        except Exception as crash:  # noqa: BLE001 - our own bug must not hold up the other results
            context = {"message": "an answer of the NFS server failed", "exception": crash}
            self._loop.call_exception_handler(context)
