"""A cache of decoded blocks over a disk that is slow to read, with read-ahead."""

import mmap
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, cast

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.read_ahead import Fetchers, Places
from ruchu.blocks.slots import ARENA_BYTES, Slots
from ruchu.model.extents import Extent

CACHE_BYTES_DEFAULT = 256 << 20
BLOCK_BYTES_DEFAULT = 64 << 10
READ_AHEAD_BYTES_DEFAULT = 4 << 20
# Two threads keep two cores busy decoding; more only fight for the interpreter.
THREADS_DEFAULT = 2
# One request to the disk below: what a storage streams well.
_RUN_BYTES_MAX = 4 << 20
# All zero blocks are one; what an entry of its own costs is what counts.
_ZERO_BLOCK_COST = 256


@dataclass(slots=True)
class CacheStatistics:
    """What a cache did. Counted without a lock: a few may be missing.

    Attributes:
        hits: blocks that were there.
        misses: blocks that a reader had to read or wait for.
        fetched: bytes read from the disk below, read-ahead included.
        kept: bytes in memory.
    """

    hits: int = 0
    misses: int = 0
    fetched: int = 0
    kept: int = 0


class BlockwiseReader(BlockReader, Protocol):
    """A disk that is encoded in blocks. They are decoded to where they are kept."""

    @property
    def block_size(self) -> int:
        """Bytes of a block: a power of two."""

    def read_blocks(self, first: int, last: int, room: Callable[[int], memoryview]) -> None:
        """Decode blocks from the first to before the last, in any order.

        Args:
            first: number of the first block.
            last: number behind the last one.
            room: asked once for each block that is stored; returns a buffer of the size of a
                block, which is filled to its end. What it is not asked for is zeros.
        """


class _Flight:
    """Blocks that one thread is reading; others wait for it."""

    __slots__ = ("_landed",)

    def __init__(self) -> None:
        self._landed = threading.Lock()
        self._landed.acquire()

    def land(self) -> None:
        self._landed.release()

    def wait(self, limit_s: float = -1) -> bool:
        """Return when it has landed, or False after the limit."""
        if self._landed.acquire(timeout=limit_s):
            self._landed.release()
            return True
        return False


class CachedReader:
    """A PeekingReader over a BlockReader. A context manager. Safe in several threads.

    Blocks are kept by how recently they were used. Errors of the disk below go to whoever needs
    the block, and are never kept. The disk below is not closed.

    Args:
        base: the disk below.
        cache_bytes: bytes of blocks kept at most; more by what is being read at the moment.
        block: bytes of a block: a power of two, best that in which the disk below is encoded; a
            `BlockwiseReader` of this block size is read by whole blocks.
        read_ahead: bytes that a sequential reader is kept ahead of, at most; 0 for none.
        threads: how many threads read ahead.
        touched_ahead: bytes of memory for a `BlockwiseReader` that are got from the kernel before
            they are needed.
    """

    def __init__(
        self,
        base: BlockReader,
        *,
        cache_bytes: int = CACHE_BYTES_DEFAULT,
        block: int = BLOCK_BYTES_DEFAULT,
        read_ahead: int = READ_AHEAD_BYTES_DEFAULT,
        threads: int = THREADS_DEFAULT,
        touched_ahead: int = 0,
    ) -> None:
        assert block >= 512
        assert block & (block - 1) == 0
        self._base = base
        self._blockwise: BlockwiseReader | None = None
        if getattr(base, "block_size", None) == block:
            self._blockwise = cast("BlockwiseReader", base)
        self._size = base.size
        self._block = block
        self._shift = block.bit_length() - 1
        self._limit = cache_bytes
        self._zeros = bytes(block)
        self._zero_view = memoryview(self._zeros)
        self._kept: OrderedDict[int, memoryview] = OrderedDict()
        self._flights: dict[int, _Flight] = {}
        self._lock = threading.Lock()
        self._scratch: list[memoryview] = []
        wanted = min(cache_bytes, self._size + ARENA_BYTES - 1)
        self._slots = Slots(block, ahead=touched_ahead, limit=wanted)
        self.statistics = CacheStatistics()
        # Under pressure, what was read ahead would push itself out before it is used.
        window = min(read_ahead, cache_bytes // 8) >> self._shift
        self._places = Places(-(-self._size // block), window)
        self._fetchers = Fetchers(
            self._fetch, threads=threads, queued_max=max(1, cache_bytes // 4 >> self._shift)
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """End the threads and forget all blocks. What was peeked stays valid. Idempotent."""
        self._fetchers.close()
        self._slots.close()
        with self._lock:
            self._kept.clear()
            self.statistics.kept = 0

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return self._base.preferred_io

    def extents(self) -> Iterator[Extent]:
        """Yield the extents of the disk below."""
        return self._base.extents()

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return the bytes if they lie in one block that is kept, without copying; else None."""
        number = start >> self._shift
        view = self._kept.get(number)
        if view is None:
            return None
        offset = start - (number << self._shift)
        if offset + length > len(view):
            return None
        try:  # noqa: SIM105 - `suppress` takes as long as all the rest
            self._kept.move_to_end(number)
        except KeyError:  # pushed out this moment; the view is good
            pass
        if number in self._places:
            self._advance(number, number + 1, missed=False)
        self.statistics.hits += 1
        return view[offset : offset + length]

    def peek_coming(self, start: int, length: int, limit_s: float) -> memoryview | None:
        """Return what `peek` does, waiting a little if the block is being read just now.

        Raises:
            TimeoutError: it is, and takes longer than the limit.
        """
        with self._lock:
            flight = self._flights.get(start >> self._shift)
        if flight is None:
            return None
        if not flight.wait(limit_s):
            raise TimeoutError
        return self.peek(start, length)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer; what is missing is read in as few requests as possible.

        Raises:
            RuchuError: the disk below could not be read.
        """
        end = start + len(buffer)
        assert 0 <= start <= end <= self._size
        if start == end:
            return
        number = first = start >> self._shift
        last = (end - 1 >> self._shift) + 1
        asked = False
        while number < last:
            view, flight, stop = self._find(number, last)
            if view is None and not asked:
                # Before the reading, so that others read ahead meanwhile. What is on its way
                # already begins no new stream.
                self._advance(first, last, missed=stop > 0)
                asked = True
            if view is not None:
                self._copy(number, view, start, buffer)
                self.statistics.hits += 1
                number += 1
            elif stop:
                self._load(number, stop, flight, start, buffer)
                self.statistics.misses += stop - number
                number = stop
            else:
                flight.wait()
        if not asked and any(block in self._places for block in range(first, last)):
            self._advance(first, last, missed=False)

    def prefetch(self, start: int, length: int) -> None:
        """Read a range in the background, as far as there is room; returns at once."""
        end = min(start + length, self._size)
        if start < end:
            self._fetchers.ask(start >> self._shift, (end - 1 >> self._shift) + 1)

    def _find(self, number: int, last: int) -> tuple[memoryview | None, _Flight, int]:
        """Look a block up: (its content), (None, whom to wait for, 0), or claim a run of misses.

        A claimed run reaches from the block to before the third value, and must be loaded.
        """
        with self._lock:
            view = self._kept.get(number)
            if view is not None:
                self._kept.move_to_end(number)
                return view, _NOBODY, 0
            flight = self._flights.get(number)
            if flight is not None:
                return None, flight, 0
            flight = _Flight()
            limit = min(last, number + (_RUN_BYTES_MAX >> self._shift))
            stop = number
            while stop < limit and stop not in self._kept and stop not in self._flights:
                self._flights[stop] = flight
                stop += 1
            return None, flight, stop

    def _load(
        self,
        first: int,
        last: int,
        flight: _Flight,
        start: int = 0,
        buffer: memoryview | None = None,
    ) -> None:
        """Read a claimed run, keep it, and place what of it belongs into the buffer at `start`."""
        begin = first << self._shift
        end = min(last << self._shift, self._size)
        try:
            if self._blockwise is not None:
                views = self._decoded(self._blockwise, first, last)
                self._keep_views(first, views, end - begin)
                if buffer is not None:
                    for number, view in enumerate(views, first):
                        self._copy(number, view, start, buffer)
                return
            if buffer is not None and start <= begin and end <= start + len(buffer):
                whole = buffer[begin - start : end - start]
                self._base.read_into(begin, whole)
                self._keep(first, whole)
                return
            scratch = self._borrow()
            whole = scratch[: end - begin]
            self._base.read_into(begin, whole)
            self._keep(first, whole)
            if buffer is not None:
                low, high = max(begin, start), min(end, start + len(buffer))
                buffer[low - start : high - start] = whole[low - begin : high - begin]
            self._scratch.append(scratch)
        finally:
            with self._lock:
                for number in range(first, last):
                    del self._flights[number]
            flight.land()

    def _decoded(self, base: BlockwiseReader, first: int, last: int) -> list[memoryview]:
        """Return whole blocks; the last one of the disk may be short."""
        found: dict[int, memoryview] = {}

        def room(number: int) -> memoryview:
            slot = found[number] = self._slots.take()
            return slot

        base.read_blocks(first, last, room)
        views = [self._zero_view] * (last - first)
        for number, slot in found.items():
            if slot[0] or slot[-1] or bytes(slot) != self._zeros:
                views[number - first] = slot.toreadonly()
        rest = self._size - (last - 1 << self._shift)
        if rest < self._block:
            views[-1] = views[-1][:rest]
        return views

    def _borrow(self) -> memoryview:
        """Return a buffer for a run: a fresh one would cost a page fault for each page."""
        try:
            return self._scratch.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, _RUN_BYTES_MAX))

    def _keep(self, first: int, whole: memoryview) -> None:
        """Keep a copy of each block: a view of the whole would hold all of it in memory."""
        views = []
        for at in range(0, len(whole), self._block):
            content = bytes(whole[at : at + self._block])
            zero = content == self._zeros
            views.append(self._zero_view if zero else memoryview(content))
        self._keep_views(first, views, len(whole))

    def _keep_views(self, first: int, views: list[memoryview], length: int) -> None:
        with self._lock:
            self.statistics.fetched += length
            for number, view in enumerate(views, first):
                self._kept[number] = view
                self.statistics.kept += self._cost(view)
            while self.statistics.kept > self._limit and self._kept:
                self.statistics.kept -= self._cost(self._kept.popitem(last=False)[1])

    def _cost(self, view: memoryview) -> int:
        return _ZERO_BLOCK_COST if view.obj is self._zeros else len(view)

    def _copy(self, number: int, view: memoryview, start: int, buffer: memoryview) -> None:
        begin = number << self._shift
        low = max(begin, start)
        high = min(begin + len(view), start + len(buffer))
        buffer[low - start : high - start] = view[low - begin : high - begin]

    def _advance(self, first: int, last: int, *, missed: bool) -> None:
        with self._lock:
            ahead = self._places.touched(first, last, missed=missed)
        if ahead is not None:
            self._fetchers.ask(*ahead)

    def _fetch(self, first: int, last: int) -> None:
        """Bring blocks into the cache; those that are there or on their way are passed over."""
        number = first
        while number < last:
            view, flight, stop = self._find(number, last)
            if view is None and stop:
                self._load(number, stop, flight)
            number = max(stop, number + 1)


_NOBODY = _Flight()
