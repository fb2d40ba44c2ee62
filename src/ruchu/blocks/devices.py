"""The one abstraction for reading and writing disks. They stack."""

from collections.abc import Iterator
from typing import Protocol

from ruchu.model.extents import Extent


class BlockReader(Protocol):
    """A disk that can be read.

    Several threads may call `read_into` at the same time.
    """

    @property
    def size(self) -> int:
        """Bytes of the disk."""

    @property
    def preferred_io(self) -> int:
        """Bytes of a good read request: a power of two, at least 64 KiB."""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`.

        Raises:
            RuchuError: the bytes could not be read, all or in part.
        """

    def extents(self) -> Iterator[Extent]:
        """Yield sorted, disjoint extents that cover the whole disk.

        A failed query raises; it never yields less.
        """


class BlockWriter(Protocol):
    """A disk that can be written.

    Several threads may call `write` and `zero` at the same time on disjoint ranges.
    """

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer at `start`."""

    def zero(self, start: int, length: int) -> None:
        """Make the range read as zeros."""

    def flush(self) -> None:
        """Return when everything written before is durable."""


class PeekingReader(BlockReader, Protocol):
    """A disk that has some of its content at hand."""

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return the bytes if they can be had without waiting for a storage, else None.

        What is returned stays as it is for as long as the caller holds it.
        """


class BlockDevice(PeekingReader, BlockWriter, Protocol):
    """A disk that is read and written, such as a point with a write cache.

    A write is seen by every read that begins after it returned; it is durable after `flush`.
    """

    def discard(self, start: int, length: int) -> None:
        """Forget the content of the range: from now on it reads as zeros, and takes no room."""
