"""A disk that is read from a base which never changes, and written into a cache file beside it.

The order that a power failure cannot break: data, `sync`, then the bits of the bitmap `durable`,
`sync` again. Bits only go from 0 to 1, so a torn page of the bitmap is either old or new in each
part, and both are true. A kill is survived by the bitmap `live` (see overlay_file).
"""

import contextlib
import secrets
import threading
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from ruchu.blocks import overlay_file
from ruchu.blocks.block_sets import PAGE_BLOCKS, PAGE_BYTES, BlockSet, bit_runs, pieces
from ruchu.blocks.devices import PeekingReader
from ruchu.blocks.extents_below import ExtentsBelow
from ruchu.blocks.overlay_file import BITMAP_OFFSET, BLOCK, Buffer, CacheFile, Header
from ruchu.errors import CacheDamaged, StorageError, UsageError
from ruchu.model.extents import Content, Extent

_SHIFT = BLOCK.bit_length() - 1
_IN_BLOCK = BLOCK - 1
# Writes to one of so many stretches of the disk wait for one another: enough that the requests
# of a busy guest rarely meet.
_STRIPES = 64
_STRIPE_SHIFT = 20
# Zeros are written in pieces of this where a range has no whole block or the base shows through.
_ZEROS = memoryview(bytes(BLOCK))
_LOAD_BYTES = 1 << 20  # the bitmap is read in pieces of it at opening


@dataclass(frozen=True, slots=True)
class Round:
    """What was written up to a moment.

    Attributes:
        number: what `acknowledge` takes.
        extents: sorted, disjoint, in whole blocks: DATA or ZERO.
    """

    number: int
    extents: list[Extent]


class Overlay:
    """A BlockDevice over a read-only base. A context manager. Safe in several threads.

    It owns the file but not the base. Errors of the base are raised as they come.

    Raises:
        StorageFull: the file system of the cache is full. What was there before stays; the write
            that failed may be there in part, as on any disk.
        StorageError: the cache file could not be read or written.
    """

    def __init__(
        self, base: PeekingReader, file: CacheFile, *, identity: str, session: bytes
    ) -> None:
        self._base = base
        self._base_size = base.size
        self._file = file
        self.header = self._read_header(identity)
        self._size = self.header.size
        self._data, self._live = self.header.data_offset, self.header.live_offset
        self._stripes = [threading.Lock() for _ in range(_STRIPES)]
        self._lock = threading.Lock()  # of everything below, for changes
        self._written = BlockSet()
        self._unstored: set[int] = set()  # pages of `durable` that lack bits
        self._unsynced = False
        self._flushing = threading.Lock()
        self._failed = ""
        # Of the rounds: None where nothing was acknowledged, so that everything counts.
        self._changed: BlockSet | None = None
        self._handed: BlockSet | None = None
        self._round = 0
        with overlay_file.reporting("opening"):
            self._load(BITMAP_OFFSET)
            self._begin_session(session)

    @classmethod
    def create(
        cls, path: Path, base: PeekingReader, *, identity: str, size: int | None = None
    ) -> "Overlay":
        """Make a new write cache and open it.

        Args:
            path: of its file; must not exist.
            base: what it lies over.
            identity: what the base is, such as `point/disk`.
            size: bytes of the device: those of the base, or more, which read as zeros.

        Raises:
            AlreadyExists: there is such a file.
            UsageError: the size or the identity cannot be.
        """
        size = base.size if size is None else size
        if not base.size <= size <= overlay_file.DEVICE_BYTES_MAX:
            raise UsageError(f"(a device of {size} bytes over a disk of {base.size})")
        if len(identity.encode()) > overlay_file.IDENTITY_BYTES_MAX:
            raise UsageError(f"(the name of a disk has {len(identity)} characters)")
        header = Header(secrets.token_bytes(16), identity, base.size, size)
        overlay_file.make(path, header)
        return cls.open(path, base, identity=identity)

    @classmethod
    def open(cls, path: Path, base: PeekingReader, *, identity: str) -> "Overlay":
        """Open a write cache that was made before.

        Raises:
            NotFound: there is none.
            ExportError: another process uses it.
            CacheMismatch: it was made for another base.
            CacheDamaged: it is not as it was left.
        """
        descriptor = overlay_file.claim(path)
        file = overlay_file.RealFile(descriptor)
        try:
            session = overlay_file.current_session(descriptor)
            return cls(base, file, identity=identity, session=session)
        except BaseException:
            file.close()
            raise

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
        """Flush, and let go of the file.

        Raises:
            StorageError: the flush failed; the file is let go of all the same.
        """
        try:
            self.flush()
        finally:
            self._file.close()

    # What is read.

    @property
    def size(self) -> int:
        """Bytes of the device."""
        return self._size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return self._base.preferred_io

    @property
    def written_bytes(self) -> int:
        """Bytes of blocks that are in the cache, those of zeros included."""
        return self._written.count * BLOCK

    @property
    def allocated_bytes(self) -> int:
        """Bytes that the cache takes on its file system."""
        with overlay_file.reporting("size"):
            return self._file.allocated()

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return what the base has at hand, if the cache has nothing of it."""
        return self._base.peek(start, length) if self._is_below(start, length) else None

    def peek_coming(self, start: int, length: int, limit_s: float) -> memoryview | None:
        """Return what the base has at hand soon; see `CachedReader.peek_coming`."""
        coming = getattr(self._base, "peek_coming", None)
        if coming is None or not self._is_below(start, length):
            return None
        found: memoryview | None = coming(start, length, limit_s)
        # Somebody may have written meanwhile, and been told that it is done.
        return found if self._is_below(start, length) else None

    def _is_below(self, start: int, length: int) -> bool:
        """Tell whether the cache has nothing of a small range, as far as that is easily told."""
        if start + length > self._base_size:
            return False
        first, last = start >> _SHIFT, start + length + _IN_BLOCK >> _SHIFT
        page, low = divmod(first, PAGE_BLOCKS)
        high = low + last - first
        return high <= PAGE_BLOCKS and not self._written.bits(page, low, high)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer from the cache and the base."""
        end = start + len(buffer)
        assert 0 <= start <= end <= self._size
        first, last = start >> _SHIFT, end + _IN_BLOCK >> _SHIFT
        if not self._written.missing(first, last):
            self._read_file(start, buffer)
            return
        for page, low, high in pieces(first, last):
            bits = self._written.bits(page, low, high)
            origin = page * PAGE_BLOCKS + low
            for begin, stop, ours in bit_runs(bits, high - low):
                at = max(start, (origin + begin) << _SHIFT)
                until = min(end, (origin + stop) << _SHIFT)
                part = buffer[at - start : until - start]
                if ours:
                    self._read_file(at, part)
                else:
                    self._read_base(at, part)

    def _read_file(self, start: int, buffer: memoryview) -> None:
        try:
            self._file.read_into(self._data + start, buffer)
        except OSError as error:
            raise overlay_file.failure(error, f"write cache, reading at {start}") from None

    def _read_base(self, start: int, buffer: memoryview) -> None:
        inside = max(0, min(len(buffer), self._base_size - start))
        if inside:
            self._base.read_into(start, buffer[:inside])
        if inside < len(buffer):
            buffer[inside:] = bytes(len(buffer) - inside)

    def extents(self) -> Iterator[Extent]:
        """Yield what the cache has, and between it the extents of the base; holes beyond it."""
        below = ExtentsBelow(self._base, self._size)
        at = 0
        for extent in self.written():
            yield from below.between(at, extent.start)
            yield extent
            at = extent.end
        yield from below.between(at, self._size)

    def written(self) -> Iterator[Extent]:
        """Yield what the cache has, DATA or ZERO, in whole blocks: sorted and disjoint."""
        return self._classified(self._written.runs())

    def _classified(self, runs: Iterable[tuple[int, int]]) -> Iterator[Extent]:
        """Tell data from zeros by what the file has allocated."""
        for first, last in runs:
            at, end = first << _SHIFT, min(last << _SHIFT, self._size)
            with overlay_file.reporting("looking for data"):
                ranges = list(self._file.data_ranges(self._data + at, self._data + end))
            for low, high in ranges:
                if low - self._data > at:
                    yield Extent(at, low - self._data - at, Content.ZERO)
                yield Extent(low - self._data, high - low, Content.DATA)
                at = high - self._data
            if at < end:
                yield Extent(at, end - at, Content.ZERO)

    # What is written.

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer; what a block lacks comes from the base."""
        self.write_parts(start, [buffer])

    def write_parts(self, start: int, parts: list[memoryview]) -> None:
        """Store buffers one after the other, as one write."""
        end = start + sum(map(len, parts))
        assert 0 <= start <= end <= self._size
        if start == end:
            return
        first, last = start >> _SHIFT, end + _IN_BLOCK >> _SHIFT
        with self._held(first, last):
            self._store(start, end, [*parts])
            self._mark(first, last)

    def write_at_once(self, start: int, buffer: memoryview) -> bool:
        """Store whole blocks, if that waits neither for the base nor a writer; tell whether."""
        end = start + len(buffer)
        assert 0 <= start <= end <= self._size
        stripe = start >> _STRIPE_SHIFT
        cut = start & _IN_BLOCK or (end & _IN_BLOCK and end < self._size)
        lock = self._stripes[stripe % _STRIPES]
        if cut or end - 1 >> _STRIPE_SHIFT != stripe or not lock.acquire(blocking=False):
            return False
        try:
            self._store(start, end, [buffer])
            self._mark(start >> _SHIFT, end + _IN_BLOCK >> _SHIFT)
        finally:
            lock.release()
        return True

    def _store(self, start: int, end: int, parts: list[Buffer]) -> None:
        """Write parts, and around them what the base has of their first and last block."""
        head, tail = start & _IN_BLOCK, end & _IN_BLOCK
        if tail and end < self._size and not self._has(end >> _SHIFT):
            parts.append(self._fill(end, min(end - tail + BLOCK, self._size)))
        if head and not self._has(start >> _SHIFT):
            parts.insert(0, self._fill(start - head, start))
            start -= head
        try:
            self._file.write(self._data + start, parts)
        except OSError as error:
            raise overlay_file.failure(error, f"write cache, writing at {start}") from None
        finally:
            self._unsynced = True  # what failed may be there in part

    def _has(self, block: int) -> bool:
        page, low = divmod(block, PAGE_BLOCKS)
        return self._written.bits(page, low, low + 1) != 0

    def _fill(self, start: int, end: int) -> bytearray:
        content = bytearray(end - start)
        self._read_base(start, memoryview(content))
        return content

    def zero(self, start: int, length: int) -> None:
        """Make the range zeros: whole blocks become holes of the file."""
        end = start + length
        assert 0 <= start <= end <= self._size
        if start == end:
            return
        first, last = start >> _SHIFT, end + _IN_BLOCK >> _SHIFT
        inner_first = start + _IN_BLOCK >> _SHIFT
        inner_last = last if end == self._size else end >> _SHIFT
        with self._held(first, last):
            if inner_first >= inner_last:
                self._store(start, end, [bytes(length)])
                self._mark(first, last)
                return
            if first < inner_first:
                self._store(
                    start, inner_first << _SHIFT, [_ZEROS[: (inner_first << _SHIFT) - start]]
                )
            if inner_last < last:
                self._store(inner_last << _SHIFT, end, [_ZEROS[: end - (inner_last << _SHIFT)]])
            with overlay_file.reporting(f"punching at {start}"):
                at = self._data + (inner_first << _SHIFT)
                self._file.punch(at, inner_last - inner_first << _SHIFT)
            self._mark(first, last)

    def discard(self, start: int, length: int) -> None:
        """Forget the range: it reads as zeros, and whole blocks take no room."""
        self.zero(start, length)

    def _held(self, first: int, last: int) -> contextlib.AbstractContextManager[object]:
        """Return what keeps other writers away from blocks while it is held."""
        shift = _STRIPE_SHIFT - _SHIFT
        low, high = first >> shift, (last - 1 >> shift) + 1
        if high - low == 1:
            return self._stripes[low % _STRIPES]
        held = contextlib.ExitStack()
        for number in sorted(
            {stripe % _STRIPES for stripe in range(low, min(high, low + _STRIPES))}
        ):
            held.enter_context(self._stripes[number])
        return held

    def _mark(self, first: int, last: int) -> None:
        """Note that blocks were stored; only after this they are read from the file."""
        # Before the look at the sets: whoever swaps or saves them later sees the data as well.
        self._unsynced = True
        changed = self._changed
        missing = self._written.missing(first, last)
        if not missing and (changed is None or not changed.missing(first, last)):
            return
        with self._lock:
            if self._changed is not None:
                self._changed.add(first, last)
            if missing:
                self._mark_first(first, last)

    def _mark_first(self, first: int, last: int) -> None:
        """Set bits in `live`, then in memory, and note the pages for the next flush."""
        for page, low, high in pieces(first, last):
            start, content = self._written.grown(page, low, high)
            try:  # not `reporting`, which takes as long as all the rest
                self._file.write(self._live + page * PAGE_BYTES + start, [content])
            except OSError as error:
                raise overlay_file.failure(error, "write cache, writing the bitmap") from None
            self._unstored.add(page)
            self._written.put(page, start, content)

    def flush(self) -> None:
        """Return when everything written before is durable.

        Raises:
            StorageFull: no room for the bitmap; a later flush may succeed.
            StorageError: a sync failed. The kernel may have dropped what it could not write, so
                every later flush fails too until the cache is opened again.
        """
        with self._flushing:
            if self._failed:
                raise StorageError(f"(an earlier flush failed: {self._failed})")
            with self._lock:
                if not self._unsynced and not self._unstored:
                    return
                # Taken before the sync: a bit set later may be of data that it does not cover.
                stored, self._unstored = self._unstored, set()
                saved = [(page, self._written.page(page)) for page in sorted(stored)]
                self._unsynced = False
            try:
                self._sync_data()
                self._store_bitmap(saved)
            except BaseException:
                with self._lock:
                    self._unstored |= stored
                    self._unsynced = True
                raise

    def _sync_data(self) -> None:
        self._sync()

    def _store_bitmap(self, saved: list[tuple[int, bytes]]) -> None:
        """Write pages of `durable` and wait for them."""
        if not saved:
            return
        with overlay_file.reporting("writing the bitmap"):
            for page, content in saved:
                self._file.write(BITMAP_OFFSET + page * PAGE_BYTES, [content])
        self._sync()

    def _sync(self) -> None:
        try:
            self._file.sync()
        except OSError as error:
            self._failed = error.strerror or str(error)
            # What the page cache holds is in doubt: whoever opens the file next must not
            # believe `live`, just as after a power failure.
            with contextlib.suppress(OSError):
                self._file.write(overlay_file.SESSION_OFFSET, [bytes(overlay_file.HEADER_BYTES)])
            raise overlay_file.failure(error, "flush of the write cache") from None

    # Rounds: what was written since somebody last looked, for a copy that catches up.

    def begin_round(self) -> Round:
        """Return what was written since the last acknowledged round; the first time: everything.

        What is handed out comes again with the next round, until a round that had it was
        acknowledged. A write that is under way is in this round or in the next one.
        """
        with self._lock:
            self._round += 1
            number = self._round
            if self._handed is not None and self._changed is not None:
                self._handed.merge(self._changed)
            self._changed = BlockSet()
            runs = list((self._written if self._handed is None else self._handed).runs())
        return Round(number, list(self._classified(runs)))

    def acknowledge(self, round_: Round) -> None:
        """Forget a round: its content is where it should be.

        Raises:
            UsageError: it is not the latest; what it had came again with a later one.
        """
        with self._lock:
            if round_.number != self._round:
                raise UsageError(f"(round {round_.number} is not the latest, {self._round})")
            self._handed = BlockSet()

    # How it is opened.

    def _read_header(self, identity: str) -> Header:
        with overlay_file.reporting("opening"):
            if self._file.size() < BITMAP_OFFSET:
                raise CacheDamaged("it is cut off, or no write cache")
            page = bytearray(overlay_file.HEADER_BYTES)
            self._file.read_into(0, memoryview(page))
            header = overlay_file.decode_header(bytes(page))
            overlay_file.check(header, self._file.size(), identity, self._base_size)
        return header

    def _load(self, offset: int) -> None:
        """Add a bitmap of the file to the set in memory; only what is allocated is read."""
        for start, end in self._file.data_ranges(offset, offset + self.header.bitmap_bytes):
            first = (start - offset) // PAGE_BYTES * PAGE_BYTES
            last = -(-(end - offset) // PAGE_BYTES) * PAGE_BYTES
            for at in range(first, last, _LOAD_BYTES):
                content = bytearray(min(_LOAD_BYTES, last - at))
                self._file.read_into(offset + at, memoryview(content))
                for low in range(0, len(content), PAGE_BYTES):
                    bitmap = bytes(content[low : low + PAGE_BYTES])
                    self._written.merge_page((at + low) // PAGE_BYTES, bitmap)
        page, beyond = divmod(self.header.blocks, PAGE_BLOCKS)
        if beyond and self._written.bits(page, beyond, PAGE_BLOCKS):
            raise CacheDamaged("its bitmap has blocks beyond the end of the disk")

    def _begin_session(self, session: bytes) -> None:
        """Take `live` over from a process that died, or begin it anew after a power failure."""
        page = overlay_file.session_page(session)
        found = bytearray(len(page))
        self._file.read_into(overlay_file.SESSION_OFFSET, memoryview(found))
        if found == page:
            durable = {number: self._written.page(number) for number in self._written.pages()}
            self._load(self.header.live_offset)
            pages = self._written.pages()
            self._unstored = {n for n in pages if self._written.page(n) != durable.get(n)}
            # That process may have left writes that nobody waited for.
            self._unsynced = True
            return
        # No sync: whatever a power failure makes of this, the session after it is another one.
        self._file.punch(self.header.live_offset, self.header.bitmap_bytes)
        self._file.write(overlay_file.SESSION_OFFSET, [page])
