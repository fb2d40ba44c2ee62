"""The one copy loop: a planner, N workers, first error wins."""

import mmap
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from ruchu.blocks.devices import BlockReader, BlockWriter
from ruchu.errors import Cancelled, Incomplete
from ruchu.model.extents import Extent

WORKERS_DEFAULT = 2
WORKERS_MAX = 64
# A piece is read, encoded and forgotten: larger ones only cost memory.
PIECE_BYTES = 4 << 20


@dataclass(slots=True)
class Progress:
    """How far a copy is: bytes read, bytes known to be zeros, bytes in all. Read it any time."""

    total: int = 0
    data: int = 0
    zero: int = 0

    @property
    def done(self) -> int:
        """Bytes that are dealt with."""
        return self.data + self.zero


class _Copy:
    """One run of the loop."""

    def __init__(
        self,
        source: BlockReader,
        target: BlockWriter,
        pieces: Iterator[Extent],
        progress: Progress,
        cancelled: Callable[[], bool],
    ) -> None:
        self.source = source
        self.target = target
        self.pieces = pieces
        self.progress = progress
        self.cancelled = cancelled
        self.lock = threading.Lock()
        self.error: BaseException | None = None

    def next_piece(self) -> Extent | None:
        """Return the next piece; None at the end, or as soon as anything failed."""
        with self.lock:
            if self.error is not None:
                return None
            if self.cancelled():
                raise Cancelled
            return next(self.pieces, None)

    def work(self) -> None:
        """Copy pieces until none is left; keep the first error."""
        # Aligned to a page, so that targets can write it without a copy in the kernel.
        buffer = memoryview(mmap.mmap(-1, PIECE_BYTES))
        try:
            while (piece := self.next_piece()) is not None:
                self.copy(piece, buffer)
        except BaseException as error:  # noqa: BLE001 - handed to the caller by `copy`
            with self.lock:
                self.error = self.error or error

    def copy(self, piece: Extent, buffer: memoryview) -> None:
        """Copy one piece."""
        if piece.reads_as_zeros:
            self.target.zero(piece.start, piece.length)
            with self.lock:
                self.progress.zero += piece.length
            return
        part = buffer[: piece.length]
        self.source.read_into(piece.start, part)
        self.target.write(piece.start, part)
        with self.lock:
            self.progress.data += piece.length


def copy(
    source: BlockReader,
    extents: Iterable[Extent],
    target: BlockWriter,
    *,
    workers: int = WORKERS_DEFAULT,
    progress: Progress | None = None,
    cancelled: Callable[[], bool] = lambda: False,
) -> Progress:
    """Copy extents from a source to a target; zeros are not read.

    Args:
        source: what to read.
        extents: sorted, disjoint; DATA and UNKNOWN are read, ZERO and HOLE are zeroed.
        target: what to write; it is flushed at the end.
        workers: threads, 1 to 64.
        progress: counts as it goes, for somebody who watches.
        cancelled: asked before each piece.

    Returns:
        What was moved.

    Raises:
        Cancelled: the caller wanted it.
        Incomplete: less was moved than planned.
        RuchuError: the first error of any worker.
    """
    assert 1 <= workers <= WORKERS_MAX
    progress = progress if progress is not None else Progress()
    before = progress.done
    planned = _Planned(extents, source.size)
    run = _Copy(source, target, planned.pieces(), progress, cancelled)
    helpers = [threading.Thread(target=run.work, daemon=True) for _ in range(workers - 1)]
    for helper in helpers:
        helper.start()
    run.work()
    for helper in helpers:
        helper.join()
    if run.error is not None:
        raise run.error
    target.flush()
    if progress.done - before != planned.bytes:
        raise Incomplete(f"({progress.done - before} of {planned.bytes} bytes)")
    return progress


class _Planned:
    """Cuts extents into pieces and counts them."""

    def __init__(self, extents: Iterable[Extent], size: int) -> None:
        self._extents = extents
        self._size = size
        self.bytes = 0

    def pieces(self) -> Iterator[Extent]:
        """Yield pieces of at most PIECE_BYTES of data, cut at multiples of PIECE_BYTES."""
        for extent in self._extents:
            assert 0 <= extent.start < extent.end <= self._size, extent
            self.bytes += extent.length
            if extent.reads_as_zeros:
                yield extent
                continue
            at = extent.start
            while at < extent.end:
                stop = min(extent.end, (at // PIECE_BYTES + 1) * PIECE_BYTES)
                yield Extent(at, stop - at, extent.content)
                at = stop
