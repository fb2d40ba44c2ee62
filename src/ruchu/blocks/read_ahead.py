"""Reading ahead of sequential readers: who reads in order, how far to go, and the threads.

The window of a reader starts small and doubles with each step that it takes in order. The first
block of each window is a mark: whoever touches it starts the next one, so that a reader has
between one and two windows ahead of it, in whatever order its requests arrive.
"""

import threading
from collections import OrderedDict, deque
from collections.abc import Callable

from ruchu.errors import RuchuError

# Readers whose place is remembered: the oldest is forgotten. Random reads fill it with noise, so
# it holds more than anybody has streams.
_PLACES_MAX = 256
# The first window, in blocks.
_WINDOW_FIRST = 4
# What one thread fetches at a time, in blocks: a reader that catches up waits for no more, and what
# a request costs beside its blocks is shared by as many.
PIECE_BLOCKS = 16


class Places:
    """Where sequential readers are expected next. Its owner's lock guards it, but for `in`."""

    def __init__(self, blocks: int, window_max: int) -> None:
        self._blocks = blocks
        self._window_max = window_max
        # The block that is touched next -> first block not asked for yet, last window.
        self._expected: OrderedDict[int, tuple[int, int]] = OrderedDict()

    def __contains__(self, block: int) -> bool:
        return block in self._expected

    def touched(self, first: int, last: int, *, missed: bool) -> tuple[int, int] | None:
        """Note that blocks from `first` to before `last` are read; return what to fetch ahead."""
        if not self._window_max:
            return None
        place = None
        for block in range(first, last):
            place = self._expected.pop(block, place)
        if place is None:
            if missed:
                self._expect(last, last, 0)
            return None
        asked, window = place
        window = min(self._window_max, max(2 * window, _WINDOW_FIRST, last - first))
        start = max(asked, last)
        end = min(start + window, self._blocks)
        if start >= end:
            return None
        self._expect(start, end, window)
        return start, end

    def _expect(self, block: int, asked: int, window: int) -> None:
        self._expected[block] = asked, window
        if len(self._expected) > _PLACES_MAX:
            self._expected.popitem(last=False)


class Fetchers:
    """Threads that fetch ranges of blocks in the background. They start with the first range.

    Args:
        fetch: brings blocks from the first to before the second into a cache. Its errors are
            dropped: the reader that needs the block asks again and gets them itself.
        threads: how many.
        queued_max: blocks that may wait; what is asked beyond is dropped.
    """

    def __init__(self, fetch: Callable[[int, int], None], *, threads: int, queued_max: int) -> None:
        self._fetch = fetch
        self._wanted = threads
        self._queued_max = queued_max
        self._queue: deque[tuple[int, int]] = deque()
        self._queued = 0
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []
        self._closed = False

    def ask(self, first: int, last: int) -> None:
        """Fetch blocks soon, as far as there is room in the queue."""
        with self._changed:
            if self._closed:
                return
            while first < last and self._queued < self._queued_max:
                end = min(last, first + PIECE_BLOCKS)
                self._queue.append((first, end))
                self._queued += end - first
                first = end
            while len(self._threads) < self._wanted:
                thread = threading.Thread(target=self._work, name="read-ahead", daemon=True)
                self._threads.append(thread)
                thread.start()
            self._changed.notify(self._wanted)

    def close(self) -> None:
        """Drop what waits, and return when the threads have ended. Idempotent."""
        with self._changed:
            self._closed = True
            self._queue.clear()
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while (piece := self._next()) is not None:
            try:
                self._fetch(*piece)
            except RuchuError:
                # Nobody asked for these blocks yet; whoever does gets the error.
                continue

    def _next(self) -> tuple[int, int] | None:
        with self._changed:
            self._changed.wait_for(lambda: self._queue or self._closed)
            if self._closed:
                return None
            first, last = self._queue.popleft()
            self._queued -= last - first
            return first, last
