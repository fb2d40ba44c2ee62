"""What image formats have in common: a disk whose pieces lie somewhere else.

An image of any origin is hostile until proven otherwise: nothing is read outside of its file, tables
are read in pieces as they are needed, and what contradicts itself raises ImageDamaged.
"""

import abc
import bisect
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final, Generic, TypeVar

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.errors import ImageDamaged
from ruchu.model.extents import Content, Extent
from ruchu.units import KIB, MIB

# 16 times the largest disk of any hypervisor in use.
DISK_MAX: Final = 1 << 50
# A table with an entry for each block: qcow2's own limit for its first level.
ENTRIES_MAX: Final = 4 * 1024 * 1024
PREFERRED_IO: Final = 1 * MIB
_TABLE_PIECE: Final = 64 * KIB
_TABLE_PIECES_KEPT: Final = 256
_DECODED_KEPT: Final = 8

K = TypeVar("K")
V = TypeVar("V")
Entries = np.ndarray[Any, np.dtype[np.unsignedinteger[Any]]]


@dataclass(frozen=True, slots=True)
class Span:
    """Where a piece of a disk is.

    Attributes:
        length: bytes, from the place that was asked for; > 0.
        content: DATA has one of the following.
        source, offset: it lies there as it is.
        load: returns its bytes.
    """

    length: int
    content: Content
    source: BlockReader | None = None
    offset: int = 0
    load: Callable[[], bytes | memoryview] | None = None


class MappedDisk(abc.ABC):
    """A BlockReader over pieces that `span` finds. Several threads may read."""

    def __init__(self, size: int) -> None:
        if not 0 <= size <= DISK_MAX:
            raise ImageDamaged(f"(a disk of {size} bytes)")
        self._size = size

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return PREFERRED_IO

    @abc.abstractmethod
    def span(self, start: int) -> Span:
        """Return where the piece that begins at `start` is; it may end behind the disk.

        Raises:
            ImageDamaged: the image says nonsense.
        """

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`.

        Raises:
            RuchuError: the bytes could not be read, all or in part.
        """
        if start < 0 or start + len(buffer) > self._size:
            raise ImageDamaged(f"({len(buffer)} bytes at {start} of {self._size} are wanted)")
        done = 0
        while done < len(buffer):
            span = self.span(start + done)
            part = buffer[done : done + span.length]
            if span.load is not None:
                part[:] = memoryview(span.load())[: len(part)]
            elif span.source is None:
                part[:] = bytes(len(part))
            else:
                span.source.read_into(span.offset, part)
            done += len(part)

    def extents(self) -> Iterator[Extent]:
        """Yield what the image holds; neighbours of one content are joined."""
        begin = at = 0
        content: Content | None = None
        while at < self._size:
            span = self.span(at)
            if span.content is not content:
                if content is not None:
                    yield Extent(begin, at - begin, content)
                begin, content = at, span.content
            at = min(self._size, at + span.length)
        if content is not None:
            yield Extent(begin, at - begin, content)


class Table:
    """An array of numbers inside an image, read in pieces as it is needed.

    Args:
        source: the image.
        offset: where the array begins.
        count: its entries; what is behind them is not read.
        form: of an entry, such as ">u8".

    Raises:
        ImageDamaged: it is not inside the image.
    """

    def __init__(self, source: BlockReader, offset: int, count: int, form: str) -> None:
        self._dtype = np.dtype(form)
        check_inside(source, offset, count * self._dtype.itemsize, "a table")
        self._source = source
        self._offset = offset
        self.count = count
        self._per_piece = _TABLE_PIECE // self._dtype.itemsize
        self._pieces: Kept[int, Entries] = Kept(_TABLE_PIECES_KEPT)

    def __getitem__(self, index: int) -> int:
        """Return an entry."""
        return int(self.entries(index)[0])

    def entries(self, index: int) -> Entries:
        """Return the entries from `index` on, at least one, as far as they are at hand."""
        if not 0 <= index < self.count:
            raise ImageDamaged(f"(entry {index} of a table of {self.count})")
        piece, within = divmod(index, self._per_piece)
        return self._pieces.get(piece, self._read)[within:]

    def _read(self, piece: int) -> Entries:
        first = piece * self._per_piece
        count = min(self._per_piece, self.count - first)
        size = self._dtype.itemsize
        data = read_bytes(self._source, self._offset + first * size, count * size)
        return np.frombuffer(data, self._dtype)


class Kept(Generic[K, V]):
    """The last few values of something that is slow to get. Several threads may use it."""

    def __init__(self, most: int) -> None:
        self._most = most
        self._values: OrderedDict[K, V] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, key: K, make: Callable[[K], V]) -> V:
        """Return the value of a key, made anew if it was not asked for lately."""
        with self._lock:
            if key in self._values:
                self._values.move_to_end(key)
                return self._values[key]
        # Made without the lock: two threads may both make it, and none waits for the other's.
        value = make(key)
        with self._lock:
            self._values[key] = value
            if len(self._values) > self._most:
                self._values.popitem(last=False)
        return value


def run_of(entries: Entries, *, step: int = 0) -> int:
    """Return how many entries from the first on are equal, or each `step` above the one before."""
    expected = entries[0] + np.arange(len(entries), dtype=entries.dtype) * entries.dtype.type(step)
    different = np.flatnonzero(entries != expected)
    return int(different[0]) if len(different) else len(entries)


def check_inside(source: BlockReader, start: int, length: int, what: str) -> None:
    """Raise ImageDamaged if a range is not inside the image."""
    if start < 0 or length < 0 or start + length > source.size:
        raise ImageDamaged(f"({what} of {length} bytes at {start}, in {source.size} bytes)")


def read_bytes(source: BlockReader, start: int, length: int) -> bytes:
    """Return a few bytes of the image.

    Raises:
        ImageDamaged: they are not inside.
    """
    check_inside(source, start, length, "a structure")
    data = bytearray(length)
    source.read_into(start, memoryview(data))
    return bytes(data)


class BytesDisk:
    """Bytes as a BlockReader."""

    preferred_io = 64 * KIB

    def __init__(self, content: bytes) -> None:
        self.content = content

    @property
    def size(self) -> int:
        """How many."""
        return len(self.content)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self) -> Iterator[Extent]:
        """Yield one extent of data."""
        if self.content:
            yield Extent(0, len(self.content), Content.DATA)


class ComputedDisk:
    """Bytes that are computed when they are read, in whole blocks.

    Args:
        size: bytes.
        block: bytes of a block.
        compute: returns the content of the block of a number.
    """

    preferred_io = 64 * KIB

    def __init__(self, size: int, block: int, compute: Callable[[int], bytes]) -> None:
        self.size = size
        self._block = block
        self._compute = compute
        self._blocks: Kept[int, bytes] = Kept(_DECODED_KEPT)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        done = 0
        while done < len(buffer):
            number, within = divmod(start + done, self._block)
            part = self._blocks.get(number, self._compute)[within : within + len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def extents(self) -> Iterator[Extent]:
        """Yield one extent of data."""
        if self.size:
            yield Extent(0, self.size, Content.DATA)


@dataclass(frozen=True, slots=True)
class Part:
    """A part of a composed disk: `length` bytes at `start` are those at `offset` of a reader."""

    start: int
    length: int
    reader: BlockReader
    offset: int = 0


class ComposedDisk:
    """Several disks one after the other; what is between them reads as zeros.

    Raises:
        ImageDamaged: the parts overlap, or leave their readers.
    """

    def __init__(self, size: int, parts: Sequence[Part]) -> None:
        self.size = size
        self.preferred_io = max([PREFERRED_IO, *(part.reader.preferred_io for part in parts)])
        self._parts = [part for part in parts if part.length]
        self._starts = [part.start for part in self._parts]
        at = 0
        for part in self._parts:
            check_inside(part.reader, part.offset, part.length, "a part")
            if part.start < at or part.start + part.length > size:
                raise ImageDamaged(f"(a part of {part.length} bytes at {part.start})")
            at = part.start + part.length

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`.

        Raises:
            RuchuError: the bytes could not be read, all or in part.
        """
        if start < 0 or start + len(buffer) > self.size:
            raise ImageDamaged(f"({len(buffer)} bytes at {start} of {self.size} are wanted)")
        end = start + len(buffer)
        at = start
        index = max(0, bisect.bisect_right(self._starts, start) - 1)
        for part in self._parts[index:]:
            first, last = max(at, part.start), min(end, part.start + part.length)
            if first >= end:
                break
            if first < last:
                buffer[at - start : first - start] = bytes(first - at)
                offset = part.offset + first - part.start
                part.reader.read_into(offset, buffer[first - start : last - start])
                at = last
        buffer[at - start :] = bytes(end - at)

    def extents(self) -> Iterator[Extent]:
        """Yield what the parts hold, and holes between them."""
        at = 0
        for part in self._parts:
            if part.start > at:
                yield Extent(at, part.start - at, Content.HOLE)
            shift, end = part.start - part.offset, part.offset + part.length
            for extent in part.reader.extents():
                first, last = max(extent.start, part.offset), min(extent.end, end)
                if first < last:
                    yield Extent(first + shift, last - first, extent.content)
                if extent.end >= end:
                    break
            at = part.start + part.length
        if at < self.size:
            yield Extent(at, self.size - at, Content.HOLE)
