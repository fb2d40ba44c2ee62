"""Ranges of a disk and what they hold."""

import enum
from collections.abc import Iterable, Iterator
from dataclasses import dataclass


class Content(enum.Enum):
    """What an extent holds."""

    DATA = "data"
    ZERO = "zero"  # allocated, reads as zeros
    HOLE = "hole"  # not allocated, reads as zeros
    UNKNOWN = "unknown"  # must be read to know


@dataclass(frozen=True, slots=True)
class Extent:
    """A range of a disk: `start` and `length` in bytes, `length` > 0."""

    start: int
    length: int
    content: Content = Content.DATA

    @property
    def end(self) -> int:
        """First byte after the extent."""
        return self.start + self.length

    @property
    def reads_as_zeros(self) -> bool:
        """Whether nothing has to be read."""
        return self.content in {Content.ZERO, Content.HOLE}


def aligned(extents: Iterable[Extent], block: int, size: int) -> Iterator[Extent]:
    """Grow extents to whole blocks of a disk of `size` bytes and join what then touches.

    Takes extents sorted by start; they may overlap, and data wins then. A block touched by data at
    all is data; a block is zero only if zero extents cover it whole, so a run of zeros shrinks to
    the whole blocks inside it and its ragged ends become data. Yields sorted, disjoint extents,
    each DATA or ZERO.
    """
    run_start = run_end = 0
    run_content: Content | None = None
    for start, end, content in _pieces(_apart(extents), block, size):
        if content is run_content and start <= run_end:
            run_end = max(run_end, end)
            continue
        if run_content is not None and run_end > run_start:
            yield Extent(run_start, run_end - run_start, run_content)
        # Data wins over zero where both claim the same block.
        run_start = start if run_content is None else max(start, run_end)
        run_end, run_content = max(run_start, end), content
    if run_content is not None and run_end > run_start:
        yield Extent(run_start, run_end - run_start, run_content)


def _apart(extents: Iterable[Extent]) -> Iterator[Extent]:
    """Cut overlapping extents so that none overlaps another; zeros that touch become one."""
    # What is known but not yielded: data from `at` to `data_end`, zeros from there to `zero_end`.
    at = data_end = zero_end = 0
    for extent in extents:
        reached = max(data_end, zero_end) if extent.reads_as_zeros else data_end
        if extent.start > reached:
            yield from _cut(at, min(data_end, extent.start), min(zero_end, extent.start))
            at = data_end = extent.start
        if extent.reads_as_zeros:
            zero_end = max(zero_end, extent.end)
        else:
            data_end = max(data_end, extent.end)
    yield from _cut(at, data_end, zero_end)


def _cut(at: int, data_end: int, zero_end: int) -> Iterator[Extent]:
    if data_end > at:
        yield Extent(at, data_end - at)
    if zero_end > data_end:
        yield Extent(data_end, zero_end - data_end, Content.ZERO)


def _pieces(extents: Iterable[Extent], block: int, size: int) -> Iterator[tuple[int, int, Content]]:
    data_end = 0
    for extent in extents:
        first = extent.start // block * block
        last = min(size, -(-extent.end // block) * block)
        if not extent.reads_as_zeros:
            yield max(first, 0), last, Content.DATA
            data_end = max(data_end, last)
            continue
        inner_first = -(-extent.start // block) * block
        inner_last = size if extent.end >= size else extent.end // block * block
        if inner_first >= inner_last:
            yield first, last, Content.DATA
            data_end = max(data_end, last)
            continue
        if inner_first > extent.start and inner_first > data_end:
            yield first, inner_first, Content.DATA
        if max(inner_first, data_end) < inner_last:
            yield max(inner_first, data_end), inner_last, Content.ZERO
        if inner_last < extent.end and inner_last < size:
            yield inner_last, last, Content.DATA
            data_end = max(data_end, last)


def total(extents: Iterable[Extent]) -> int:
    """Return the bytes of all extents."""
    return sum(extent.length for extent in extents)
