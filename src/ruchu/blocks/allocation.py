"""What of a disk is data and what reads as zeros, for queries at any place.

A device tells its extents from the first to the last. What it told is kept as far as anybody asked,
so that a query costs a search, and a whole disk that is asked for piece by piece is told once.
"""

import bisect
import itertools
import threading
from array import array
from typing import Final

from ruchu.blocks.devices import BlockReader
from ruchu.errors import StorageError
from ruchu.model.extents import Content, Extent

# 9 bytes each: 36 MiB. More is forgotten from the front, and told again when asked for.
KEPT_MAX: Final = 4 * 1024 * 1024
# Small numbers are kept for contents; UNKNOWN is told as DATA, since it has to be read.
_CONTENTS: Final = (Content.DATA, Content.ZERO, Content.HOLE)
_NUMBERS: Final = {Content.DATA: 0, Content.UNKNOWN: 0, Content.ZERO: 1, Content.HOLE: 2}


class AllocationMap:
    """The contents of a disk: DATA, ZERO or HOLE. Several threads may use it."""

    def __init__(self, device: BlockReader, kept_max: int = KEPT_MAX) -> None:
        self._device = device
        self._kept_max = kept_max
        self._lock = threading.Lock()
        self._numbers = itertools.count(1)
        self._changes = 0
        self._restart()

    def changed(self) -> None:
        """Forget what is known; to be called after every write."""
        # Each number is drawn once, so two writers at a time cannot leave what was seen before.
        self._changes = next(self._numbers)

    def status(self, start: int, length: int, most: int) -> list[tuple[int, Content]]:
        """Return up to `most` (length, content) from `start` on, inside the disk.

        Neighbours differ in their content. They may end before `length`, never behind it.

        Raises:
            RuchuError: the device failed, or its extents do not cover the disk.
        """
        with self._lock:
            if self._seen != self._changes or start < self._first:
                self._restart()
            try:
                return self._status(start, start + length, most)
            except BaseException:
                # What was told until now may be half of something.
                self._restart()
                raise

    def _status(self, start: int, end: int, most: int) -> list[tuple[int, Content]]:
        while self._end <= start:
            self._read_more(start)
        found: list[tuple[int, Content]] = []
        index = bisect.bisect_right(self._starts, start) - 1
        at = start
        while at < end and len(found) < most:
            while index + 1 >= len(self._starts) and self._end < end:
                forgotten = self._read_more(start)
                index -= forgotten
            last = index + 1 >= len(self._starts)
            run_end = min(end, self._end if last else self._starts[index + 1])
            found.append((run_end - at, _CONTENTS[self._kept[index]]))
            at = run_end
            index += 1
        return found

    def _restart(self) -> None:
        self._seen = self._changes
        self._first = 0
        self._end = 0
        self._starts = array("Q")
        self._kept = bytearray()
        self._told = iter(list[Extent]())
        self._begun = False

    def _read_more(self, needed: int) -> int:
        """Take one extent; return how many runs were forgotten to make room for it."""
        if not self._begun:
            self._told = self._device.extents()
            self._begun = True
        extent = next(self._told, None)
        if extent is None or extent.start != self._end or extent.length <= 0:
            raise StorageError(f"(the extents of the disk have a gap at {self._end})")
        number = _NUMBERS[extent.content]
        self._end = extent.end
        if self._kept and self._kept[-1] == number:
            return 0
        forgotten = 0
        if len(self._starts) >= self._kept_max:
            forgotten = self._forget(needed)
        self._starts.append(extent.start)
        self._kept.append(number)
        return forgotten

    def _forget(self, needed: int) -> int:
        """Forget what lies before the run that holds `needed`, if that is anything."""
        count = max(0, bisect.bisect_right(self._starts, needed) - 1)
        if count:
            self._first = self._starts[count]
            del self._starts[:count]
            del self._kept[:count]
        return count
