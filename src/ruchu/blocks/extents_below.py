"""What a disk that lies under another one has, where the upper one has nothing."""

from collections.abc import Iterator

from ruchu.blocks.devices import BlockReader
from ruchu.model.extents import Content, Extent


class ExtentsBelow:
    """The extents of a base, cut to the ranges that are asked for in order."""

    def __init__(self, base: BlockReader, size: int) -> None:
        self._extents = self._covering(base, size)
        self._current: Extent | None = None

    @staticmethod
    def _covering(base: BlockReader, size: int) -> Iterator[Extent]:
        yield from base.extents()
        if size > base.size:
            yield Extent(base.size, size - base.size, Content.HOLE)

    def between(self, start: int, end: int) -> Iterator[Extent]:
        """Yield what covers `start` to `end`."""
        while start < end:
            while self._current is None or self._current.end <= start:
                self._current = next(self._extents)
            stop = min(end, self._current.end)
            yield Extent(start, stop - start, self._current.content)
            start = stop
