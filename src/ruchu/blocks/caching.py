"""A cache of decoded blocks over a disk that is slow to read, with read-ahead."""

import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from types import TracebackType
from typing import Protocol, Self, cast

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.kept_blocks import KeptBlocks
from ruchu.blocks.read_ahead import Fetchers, Places
from ruchu.blocks.slots import ARENA_BYTES, SharedMemory, Slots
from ruchu.model.extents import Extent

CACHE_BYTES_DEFAULT = 256 << 20
BLOCK_BYTES_DEFAULT = 64 << 10
READ_AHEAD_BYTES_DEFAULT = 4 << 20
# Two threads keep two cores busy decoding; more only fight for the interpreter.
THREADS_DEFAULT = 2
# One request to the disk below: what a storage streams well.
_RUN_BYTES_MAX = 4 << 20
# Memory for blocks that is got from the kernel before it is needed. A boot reads about as much; more
# would be memory that an export takes and does not use.
_TOUCHED_AHEAD_BYTES = 32 << 20
# For what is read in order; it stays in the caches of a processor.
_PASSING_BYTES_MAX = 32 << 20


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


class Ahead(Protocol):
    """What decodes blocks of one disk beside the threads of the cache; see `decoding`."""

    @property
    def memory(self) -> SharedMemory:
        """Where the slots have to be."""

    @property
    def count(self) -> int:
        """How many pieces are decoded at a time."""

    def decode(self, first: int, last: int, slots: Slots) -> list[memoryview | None] | None:
        """Return blocks, None for zeros; or None: they are to be decoded without it."""


class _Flight:
    """Blocks that one thread is reading; others wait for it."""

    __slots__ = ("_landed", "passing")

    def __init__(self) -> None:
        self.passing = False
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

    Blocks are kept by how recently they were used; those of readers in order pass by (see
    `kept_blocks`). Errors of the disk below go to whoever needs
    the block, and are never kept. The disk below is not closed.

    Args:
        base: the disk below.
        cache_bytes: bytes of blocks kept at most; more by what is being read at the moment.
        block: bytes of a block: a power of two, best that in which the disk below is encoded; a
            `BlockwiseReader` of this block size is read by whole blocks.
        read_ahead: bytes that a sequential reader is kept ahead of, at most; 0 for none.
        threads: how many threads read ahead.
        ahead: decodes what is read ahead of a `BlockwiseReader`; None: the threads do it.
    """

    def __init__(
        self,
        base: BlockReader,
        *,
        cache_bytes: int = CACHE_BYTES_DEFAULT,
        block: int = BLOCK_BYTES_DEFAULT,
        read_ahead: int = READ_AHEAD_BYTES_DEFAULT,
        threads: int = THREADS_DEFAULT,
        ahead: Ahead | None = None,
    ) -> None:
        assert block >= 512
        assert block & (block - 1) == 0
        self._base = base
        self._blockwise: BlockwiseReader | None = None
        if getattr(base, "block_size", None) == block:
            self._blockwise = cast("BlockwiseReader", base)
        self._ahead = ahead if self._blockwise is not None else None
        self._size = base.size
        self._block = block
        self._shift = block.bit_length() - 1
        self._zeros = bytes(block)
        self._zero_view = memoryview(self._zeros)
        passing = min(cache_bytes // 4, _PASSING_BYTES_MAX) if read_ahead else 0
        self._kept = KeptBlocks(cache_bytes, passing, block, self._zero_view)
        self._flights: dict[int, _Flight] = {}
        self._lock = threading.Lock()
        self._scratch: list[memoryview] = []
        wanted = min(cache_bytes, self._size + ARENA_BYTES - 1)
        shared = None if self._ahead is None else self._ahead.memory
        touched = _TOUCHED_AHEAD_BYTES if self._blockwise is not None else 0
        self._slots = Slots(block, ahead=touched, limit=wanted, shared=shared)
        self.statistics = CacheStatistics()
        # Under pressure, what was read ahead would push itself out before it is used.
        window = min(read_ahead, cache_bytes // 8) >> self._shift
        self._places = Places(-(-self._size // block), window)
        if self._ahead is not None:
            threads = self._ahead.count
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
        view = self._kept.find(number)
        if view is None:
            return None
        offset = start - (number << self._shift)
        if offset + length > len(view):
            return None
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

    def _find(
        self, number: int, last: int, *, ahead: bool = False
    ) -> tuple[memoryview | None, _Flight, int]:
        """Look a block up: (its content), (None, whom to wait for, 0), or claim a run of misses.

        A claimed run reaches from the block to before the third value, and must be loaded.
        """
        with self._lock:
            view = self._kept.find(number)
            if view is not None:
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
            # A reader that overtook what is read ahead of it reads in order all the same.
            flight.passing = self._kept.in_order(number, stop) or ahead
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
                ahead = self._ahead if buffer is None else None
                views = self._decoded(self._blockwise, first, last, ahead)
                self._keep_views(first, views, end - begin, passing=flight.passing)
                if buffer is not None:
                    for number, view in enumerate(views, first):
                        self._copy(number, view, start, buffer)
                return
            if buffer is not None and start <= begin and end <= start + len(buffer):
                whole = buffer[begin - start : end - start]
                self._base.read_into(begin, whole)
                self._keep(first, whole, passing=flight.passing)
                return
            scratch = self._borrow()
            whole = scratch[: end - begin]
            self._base.read_into(begin, whole)
            self._keep(first, whole, passing=flight.passing)
            if buffer is not None:
                low, high = max(begin, start), min(end, start + len(buffer))
                buffer[low - start : high - start] = whole[low - begin : high - begin]
            self._scratch.append(scratch)
        finally:
            with self._lock:
                for number in range(first, last):
                    del self._flights[number]
            flight.land()

    def _decoded(
        self, base: BlockwiseReader, first: int, last: int, ahead: Ahead | None
    ) -> list[memoryview]:
        """Return whole blocks; the last one of the disk may be short."""
        found = None if ahead is None else ahead.decode(first, last, self._slots)
        if found is None:
            found = self._decoded_here(base, first, last)
        views = [self._zero_view if view is None else view for view in found]
        rest = self._size - (last - 1 << self._shift)
        if rest < self._block:
            views[-1] = views[-1][:rest]
        return views

    def _decoded_here(
        self, base: BlockwiseReader, first: int, last: int
    ) -> list[memoryview | None]:
        """Return whole blocks, None for zeros."""
        taken: dict[int, memoryview] = {}

        def room(number: int) -> memoryview:
            slot = taken[number] = self._slots.take()
            return slot

        base.read_blocks(first, last, room)
        views: list[memoryview | None] = [None] * (last - first)
        for number, slot in taken.items():
            if slot[0] or slot[-1] or bytes(slot) != self._zeros:
                views[number - first] = slot.toreadonly()
        return views

    def _borrow(self) -> memoryview:
        """Return a buffer for a run: a fresh one would cost a page fault for each page."""
        try:
            return self._scratch.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, _RUN_BYTES_MAX))

    def _keep(self, first: int, whole: memoryview, *, passing: bool) -> None:
        """Keep a copy of each block: a view of the whole would hold all of it in memory."""
        views = []
        for at in range(0, len(whole), self._block):
            content = bytes(whole[at : at + self._block])
            zero = content == self._zeros
            views.append(self._zero_view if zero else memoryview(content))
        self._keep_views(first, views, len(whole), passing=passing)

    def _keep_views(
        self, first: int, views: list[memoryview], length: int, *, passing: bool
    ) -> None:
        with self._lock:
            self.statistics.fetched += length
            self._kept.add(first, views, passing=passing)
            self.statistics.kept = self._kept.size

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
            view, flight, stop = self._find(number, last, ahead=True)
            if view is None and stop:
                self._load(number, stop, flight)
            number = max(stop, number + 1)


_NOBODY = _Flight()
