"""Sets of blocks of a disk: bitmaps in pages, of which only those with a bit set exist."""

from collections.abc import Iterator

import numpy as np

PAGE_BYTES = 4096
PAGE_BLOCKS = PAGE_BYTES * 8
_EMPTY = bytes(PAGE_BYTES)
_FULL = b"\xff" * PAGE_BYTES


class BlockSet:
    """Numbers of blocks, in a bitmap: block 0 is the lowest bit of the first byte.

    Several threads may read it while one adds: they see a block either before or after.

    Attributes:
        count: how many blocks are in it.
    """

    __slots__ = ("_pages", "count")

    def __init__(self) -> None:
        # A page that is full is always the same object: a disk that is discarded costs little.
        self._pages: dict[int, bytes | bytearray] = {}
        self.count = 0

    def bits(self, page: int, low: int, high: int) -> int:
        """Return the bits of blocks `low` to before `high` of a page; the first is the lowest."""
        content = self._pages.get(page)
        if content is None:
            return 0
        part = int.from_bytes(content[low >> 3 : high + 7 >> 3], "little")
        return part >> (low & 7) & (1 << high - low) - 1

    def missing(self, first: int, last: int) -> bool:
        """Tell whether a block from `first` to before `last` is not in the set."""
        page, low = divmod(first, PAGE_BLOCKS)
        high = low + last - first
        if high <= PAGE_BLOCKS:  # nearly always; this is in the path of every write
            return self.bits(page, low, high) != (1 << high - low) - 1
        return any(
            self.bits(page, low, high) != (1 << high - low) - 1
            for page, low, high in pieces(first, last)
        )

    def grown(self, page: int, low: int, high: int) -> tuple[int, bytes]:
        """Return which bytes of a page hold blocks `low` to before `high`, with all of them set.

        The set itself stays as it is; `put` makes it so.
        """
        if high - low == PAGE_BLOCKS:
            return 0, _FULL
        start, end = low >> 3, high + 7 >> 3
        old = int.from_bytes(self._pages.get(page, _EMPTY)[start:end], "little")
        new = old | ((1 << high - low) - 1) << (low & 7)
        return start, new.to_bytes(end - start, "little")

    def put(self, page: int, start: int, content: bytes) -> None:
        """Replace bytes of a page from byte `start`; no bit that was set may be lost."""
        known = self._pages.get(page, _EMPTY)
        end = start + len(content)
        old = int.from_bytes(known[start:end], "little")
        self.count += int.from_bytes(content, "little").bit_count() - old.bit_count()
        if content == _FULL:
            self._pages[page] = _FULL
            return
        if not isinstance(known, bytearray):
            known = self._pages[page] = bytearray(known)
        known[start:end] = content

    def add(self, first: int, last: int) -> None:
        """Add blocks `first` to before `last`."""
        for page, low, high in pieces(first, last):
            self.put(page, *self.grown(page, low, high))

    def merge(self, other: "BlockSet") -> None:
        """Add all blocks of another set."""
        for page in other.pages():
            self.merge_page(page, other.page(page))

    def merge_page(self, page: int, content: bytes) -> None:
        """Add the blocks of a whole page."""
        if page not in self._pages:
            bits = int.from_bytes(content, "little").bit_count()
            if bits:
                self.count += bits
                self._pages[page] = _FULL if content == _FULL else bytearray(content)
            return
        both = int.from_bytes(self.page(page), "little") | int.from_bytes(content, "little")
        self.put(page, 0, both.to_bytes(PAGE_BYTES, "little"))

    def page(self, number: int) -> bytes:
        """Return the bitmap of a page as it is now."""
        return bytes(self._pages.get(number, _EMPTY))

    def pages(self) -> list[int]:
        """Return the numbers of pages that have blocks, sorted."""
        return sorted(self._pages)

    def runs(self) -> Iterator[tuple[int, int]]:
        """Yield (first, last + 1) of neighbours, sorted, not touching."""
        begin = end = 0
        for page in self.pages():
            origin = page * PAGE_BLOCKS
            for low, high in _page_runs(self.page(page)):
                if origin + low > end:
                    if end > begin:
                        yield begin, end
                    begin = origin + low
                end = origin + high
        if end > begin:
            yield begin, end


def pieces(first: int, last: int) -> Iterator[tuple[int, int, int]]:
    """Cut blocks `first` to before `last` by pages: (page, block in it, block in it to end at)."""
    while first < last:
        page = first // PAGE_BLOCKS
        origin = page * PAGE_BLOCKS
        stop = min(last, origin + PAGE_BLOCKS)
        yield page, first - origin, stop - origin
        first = stop


def bit_runs(bits: int, count: int) -> Iterator[tuple[int, int, bool]]:
    """Yield (first, last + 1, value) of equal bits among the lowest `count`."""
    at = 0
    while at < count:
        value = bool(bits & 1)
        # The lowest bit that differs ends the run.
        other = ~bits if value else bits
        length = (other & -other).bit_length() - 1 if other else count - at
        stop = min(count, at + length)
        yield at, stop, value
        bits >>= length
        at = stop


def _page_runs(content: bytes) -> Iterator[tuple[int, int]]:
    if content == _FULL:
        yield 0, PAGE_BLOCKS
        return
    flags = np.unpackbits(np.frombuffer(content, np.uint8), bitorder="little")
    edges = np.flatnonzero(np.diff(flags, prepend=np.uint8(0), append=np.uint8(0))).tolist()
    yield from zip(edges[::2], edges[1::2], strict=True)
