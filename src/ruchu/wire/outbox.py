"""What waits to be sent on a connection: threads put it in, the loop takes it out.

Bounded: when the other side does not read, whoever sends waits, and in the end gives up on it.
"""

import asyncio
import contextlib
import threading
from collections import deque
from typing import Final

from ruchu.errors import NodeAway

# Progress of the tasks of a node for some minutes.
MESSAGES_MAX: Final = 1000
# Four of the largest frames.
BYTES_MAX: Final = 32 << 20
# A side that takes nothing for so long is gone, whatever TCP says.
WAIT_LIMIT_S: Final = 30.0


class Outbox:
    """A bounded queue from threads to one loop."""

    def __init__(self, loop: asyncio.AbstractEventLoop, wait_limit_s: float = WAIT_LIMIT_S) -> None:
        self._loop = loop
        self._wait_limit_s = wait_limit_s
        self._texts: deque[str] = deque()
        self._bytes = 0
        self._closed = False
        self._changed = threading.Condition()
        self._filled = asyncio.Event()

    def put(self, text: str) -> None:
        """Queue a text; waits while the queue is full. For any thread but the loop's.

        Raises:
            NodeAway: the connection was closed, or the queue stayed full: nobody reads.
        """
        limit_s = self._wait_limit_s
        with self._changed:
            if not self._changed.wait_for(lambda: self._closed or self._fits(text), limit_s):
                raise NodeAway(f"(it has read nothing for {limit_s:.0f} s)")
            if self._closed:
                raise NodeAway
            self._texts.append(text)
            self._bytes += len(text)
        # A loop that has ended sends nothing any more; the close follows.
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._filled.set)

    def _fits(self, text: str) -> bool:
        if not self._texts:
            return True
        return len(self._texts) < MESSAGES_MAX and self._bytes + len(text) <= BYTES_MAX

    async def get(self) -> str:
        """Return the next text, on the loop."""
        while True:
            with self._changed:
                if self._texts:
                    text = self._texts.popleft()
                    self._bytes -= len(text)
                    self._changed.notify_all()
                    return text
                self._filled.clear()
            await self._filled.wait()

    def close(self) -> None:
        """Drop what waits, and let nobody wait any more."""
        with self._changed:
            self._closed = True
            self._texts.clear()
            self._bytes = 0
            self._changed.notify_all()
