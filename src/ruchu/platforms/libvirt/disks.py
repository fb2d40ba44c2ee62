"""A disk of a machine at one moment, read through NBD."""

from collections.abc import Iterator, Sequence

from ruchu.blocks import nbd
from ruchu.model.extents import Content, Extent

# What a bitmap is called in NBD, and what we call the one of a backup.
DIRTY_CONTEXT = "qemu:dirty-bitmap:"
EXPORT_BITMAP = "ruchu-changed"


class PointDisk:
    """A frozen disk: a BlockReader that knows what changed. Threads may share it."""

    def __init__(self, key: str, disk: nbd.NbdDisk, bitmaps: Sequence[str] | None) -> None:
        """Wrap an export.

        Args:
            key: of the disk in its machine.
            disk: the export.
            bitmaps: what changed since the base is what any of these marks; None if unknown.
        """
        self._key = key
        self._disk = disk
        self._bitmaps = bitmaps

    @property
    def key(self) -> str:
        """The disk's key in the machine."""
        return self._key

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self._disk.size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good read request."""
        return self._disk.preferred_io

    @property
    def uri(self) -> str:
        """The NBD URI of this disk, for other programs, such as qemu-img as a judge."""
        return str(self._disk.address)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`."""
        self._disk.read_into(start, buffer)

    def extents(self) -> Iterator[Extent]:
        """Yield what is allocated, covering the whole disk."""
        return self._disk.extents()

    def changed(self) -> Iterator[Extent] | None:
        """Yield what changed since the base, as DATA or ZERO; None if that is not known."""
        if self._bitmaps is None:
            return None
        marked: Iterator[tuple[int, int]] = iter(())
        for bitmap in self._bitmaps:
            marked = union(marked, self._disk.marked(DIRTY_CONTEXT + bitmap))
        return with_content(marked, self._disk.extents())

    def close(self) -> None:
        """Close the connections."""
        self._disk.close()


def union(
    left: Iterator[tuple[int, int]], right: Iterator[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    """Yield the ranges (start, length) that are in either of two sorted sequences."""
    run: tuple[int, int] | None = None
    for start, length in _merged(left, right):
        if run is None:
            run = start, start + length
        elif start <= run[1]:
            run = run[0], max(run[1], start + length)
        else:
            yield run[0], run[1] - run[0]
            run = start, start + length
    if run is not None:
        yield run[0], run[1] - run[0]


def _merged(
    left: Iterator[tuple[int, int]], right: Iterator[tuple[int, int]]
) -> Iterator[tuple[int, int]]:
    first, second = next(left, None), next(right, None)
    while first is not None or second is not None:
        if second is None or (first is not None and first <= second):
            assert first is not None
            yield first
            first = next(left, None)
        else:
            yield second
            second = next(right, None)


def with_content(marked: Iterator[tuple[int, int]], extents: Iterator[Extent]) -> Iterator[Extent]:
    """Cut the marked ranges at the extents of the disk: ZERO where it reads as zeros, else DATA.

    `extents` cover the whole disk, so nothing that is marked is lost.
    """
    extent = next(extents, None)
    for start, length in marked:
        done, end = start, start + length
        while done < end:
            while extent is not None and extent.end <= done:
                extent = next(extents, None)
            if extent is None:
                # Beyond what the map covers: read it.
                yield Extent(done, end - done, Content.DATA)
                break
            stop = min(end, extent.end)
            content = Content.ZERO if extent.reads_as_zeros else Content.DATA
            yield Extent(done, stop - done, content)
            done = stop
