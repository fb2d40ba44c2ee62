"""A cache file in memory that fails as files fail: it loses and tears what was not synced.

Each sector of 512 bytes that was written since the last completed sync has, after a power
failure, any one of the values that it had since: the disk writes what it likes when it likes.
A kill loses nothing. All choices come from the generator that is passed in.
"""

import errno
import os
import random
from collections.abc import Iterator, Sequence

from ruchu.blocks.overlay_file import Buffer
from ruchu.testing.simulated_disk import PowerFailure

SECTOR = 512
_ZERO = bytes(SECTOR)
# The unit in which the simulated file system tells data from holes.
_BLOCK = 4096


class SimulatedFile:
    """A `CacheFile`, sparse.

    Attributes:
        calls: how many calls were made.
        capacity: bytes that may be allocated; ENOSPC beyond.
        broken: every sync fails with EIO.

    Args:
        choose: makes every choice.
        size: length of the file.
    """

    def __init__(self, choose: random.Random, size: int) -> None:
        assert size % _BLOCK == 0
        self.calls = 0
        self.capacity = 1 << 60
        self.broken = False
        self._choose = choose
        self._size = size
        self._content: dict[int, bytes] = {}
        # Sector -> what it was at the last sync, and every value since.
        self._unsynced: dict[int, list[bytes]] = {}
        self._cut_at: int | None = None
        self._dark = False

    # What a test does to it.

    def crash(self) -> None:
        """Cut the power and bring it back: each sector has any value since the last sync."""
        for sector, values in self._unsynced.items():
            self._set(sector, self._choose.choice(values))
        self._unsynced.clear()
        self.revive()

    def revive(self) -> None:
        """Answer again after a cut that hit only the process: content stays."""
        self._dark, self._cut_at = False, None

    def cut_after(self, calls: int) -> None:
        """Let so many calls succeed; every later one raises PowerFailure."""
        self._cut_at = self.calls + calls

    # The port.

    def size(self) -> int:
        """Return the length."""
        self._call()
        return self._size

    def allocated(self) -> int:
        """Return the bytes of blocks that hold anything."""
        self._call()
        return len({sector * SECTOR // _BLOCK for sector in self._content}) * _BLOCK

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        self._call()
        end = start + len(buffer)
        if end > self._size:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        for sector, low, high in _sectors(start, end):
            at = sector * SECTOR
            value = self._content.get(sector, _ZERO)
            buffer[at + low - start : at + high - start] = value[low:high]

    def write(self, start: int, parts: Sequence[Buffer]) -> None:
        """Store the parts, sector by sector: a cut may come in between."""
        data = b"".join(parts)
        assert start + len(data) <= self._size
        for sector, low, high in _sectors(start, start + len(data)):
            self._call()
            if sector not in self._content and len(self._content) * SECTOR >= self.capacity:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            at = sector * SECTOR
            old = self._content.get(sector, _ZERO)
            new = data[at + low - start : at + high - start]
            self._change(sector, old[:low] + new + old[high:])

    def punch(self, start: int, length: int) -> None:
        """Make a range zeros."""
        self._call()
        assert start % _BLOCK == 0
        first, last = start // SECTOR, -(-(start + length) // SECTOR)
        for sector in [sector for sector in self._content if first <= sector < last]:
            self._change(sector, None)

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield blocks that hold anything."""
        self._call()
        blocks = sorted({sector * SECTOR // _BLOCK for sector in self._content})
        for block in blocks:
            low, high = max(start, block * _BLOCK), min(end, (block + 1) * _BLOCK)
            if low < high:
                yield low, high

    def sync(self) -> None:
        """Make everything durable."""
        self._call()
        if self.broken:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        self._unsynced.clear()

    def close(self) -> None:
        """Forget nothing: the file stays for whoever opens it next."""

    # How it works inside.

    def _call(self) -> None:
        if self._dark or (self._cut_at is not None and self.calls >= self._cut_at):
            self._dark = True
            raise PowerFailure
        self.calls += 1

    def _change(self, sector: int, value: bytes | None) -> None:
        """Give a sector a value, None for a hole."""
        values = self._unsynced.setdefault(sector, [self._content.get(sector, _ZERO)])
        values.append(_ZERO if value is None else value)
        self._set(sector, value)

    def _set(self, sector: int, value: bytes | None) -> None:
        if value is None:
            self._content.pop(sector, None)
        else:
            self._content[sector] = value


def _sectors(start: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Yield (sector, first byte of it, byte of it to end at)."""
    while start < end:
        sector, low = divmod(start, SECTOR)
        high = min(SECTOR, low + end - start)
        yield sector, low, high
        start += high - low
