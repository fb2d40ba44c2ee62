"""A disk in memory, for tests of whatever lies over a disk."""

import threading
from collections.abc import Iterator

from ruchu.model.extents import Content, Extent


class MemoryDisk:
    """A PeekingReader over bytes.

    Attributes:
        content: the bytes.
        reads: (start, length) of every `read_into`, in order.
        error: raised by every read, if it is not None.
    """

    def __init__(self, content: bytes, *, holes: tuple[tuple[int, int], ...] = ()) -> None:
        self.content = content
        self.reads: list[tuple[int, int]] = []
        self.error: Exception | None = None
        self._holes = holes
        self._lock = threading.Lock()

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return len(self.content)

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return 1 << 16

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        assert 0 <= start <= start + len(buffer) <= len(self.content)
        with self._lock:
            self.reads.append((start, len(buffer)))
        if self.error is not None:
            raise self.error
        buffer[:] = self.content[start : start + len(buffer)]

    def peek(self, start: int, length: int) -> memoryview | None:
        """Everything is at hand."""
        return memoryview(self.content)[start : start + length]

    def extents(self) -> Iterator[Extent]:
        """Yield DATA, with the holes that it was made with."""
        at = 0
        for start, length in self._holes:
            if start > at:
                yield Extent(at, start - at)
            yield Extent(start, length, Content.HOLE)
            at = start + length
        if at < self.size:
            yield Extent(at, self.size - at)
