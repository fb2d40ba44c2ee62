"""A disk in memory that is read, written and discarded, and fails on demand."""

import threading
from collections.abc import Iterator

from ruchu.model.extents import Content, Extent
from ruchu.units import KIB

_BLOCK = 64 * KIB
_PREFERRED_IO = 64 * KIB


class MemoryDevice:
    """A disk in memory; a `BlockDevice`. What was never written is a hole.

    Attributes:
        failure: raised by every operation, while it is set.
        gate: reads that are not at hand, and flushes, wait for it.
        flushed: the content at the last flush, None before the first.
        reads: how many reads were not answered by `peek`.
    """

    def __init__(self, size: int, *, peeks: bool = True) -> None:
        self.size = size
        self.preferred_io = _PREFERRED_IO
        self.content = bytearray(size)
        self.failure: Exception | None = None
        self.gate = threading.Event()
        self.gate.set()
        self.flushed: bytes | None = None
        self.reads = 0
        self._peeks = peeks
        self._allocated: set[int] = set()
        self._lock = threading.Lock()

    def _check(self, start: int, length: int) -> None:
        assert 0 <= start <= start + length <= self.size
        if self.failure is not None:
            raise self.failure

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return a copy if this device was made to peek and nothing holds reads up."""
        self._check(start, length)
        if not self._peeks or not self.gate.is_set():
            return None
        return memoryview(bytes(memoryview(self.content)[start : start + length]))

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        self.gate.wait()
        self._check(start, len(buffer))
        self.reads += 1
        buffer[:] = memoryview(self.content)[start : start + len(buffer)]

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer."""
        self._check(start, len(buffer))
        with self._lock:
            self.content[start : start + len(buffer)] = buffer
            self._allocated.update(range(start // _BLOCK, -(-(start + len(buffer)) // _BLOCK)))

    def zero(self, start: int, length: int) -> None:
        """Write zeros."""
        self.write(start, memoryview(bytes(length)))

    def discard(self, start: int, length: int) -> None:
        """Make zeros of the range; its whole blocks become holes."""
        self.zero(start, length)
        with self._lock:
            self._allocated.difference_update(
                range(-(-start // _BLOCK), (start + length) // _BLOCK)
            )

    def flush(self) -> None:
        """Remember the content."""
        self.gate.wait()
        self._check(0, 0)
        self.flushed = bytes(self.content)

    def extents(self) -> Iterator[Extent]:
        """Yield one extent for each block."""
        self._check(0, 0)
        for start in range(0, self.size, _BLOCK):
            content = Content.DATA if start // _BLOCK in self._allocated else Content.HOLE
            yield Extent(start, min(_BLOCK, self.size - start), content)
