"""A volume with some of its metadata in a newer form, without writing to it."""

import bisect
from collections.abc import Iterator

from ruchu.errors import GuestUnsupported
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Extent

# The smallest unit that is kept: a block as mkfs.xfs makes it, with eight inodes or a btree block.
_PAGE = 4096
# 256 MiB of metadata. Logs are 64 MiB to 2 GiB, and change the same blocks again and again.
_PAGES_MAX = 1 << 16


class Overlay:
    """A `BlockReader` of a volume in which pieces were replaced.

    Safe in several threads, once the last piece was replaced.
    """

    def __init__(self, volume: VolumeReader) -> None:
        self._volume = volume
        self._pages: dict[int, bytearray] = {}
        self._order: list[int] = []

    @property
    def size(self) -> int:
        """Bytes of the volume."""
        return self._volume.size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return self._volume.device.preferred_io

    def replace(self, start: int, content: bytes) -> None:
        """Put other bytes in a place inside the volume.

        Raises:
            GuestUnsupported: more was replaced than is kept.
            GuestDamaged: the place is not inside the volume.
        """
        at = 0
        while at < len(content):
            number, inside = divmod(start + at, _PAGE)
            page = self._page(number)
            piece = content[at : at + len(page) - inside]
            page[inside : inside + len(piece)] = piece
            at += len(piece)

    def read(self, start: int, length: int) -> bytes:
        """Return bytes as they are now.

        Raises:
            GuestDamaged: they are not inside the volume.
        """
        content = bytearray(self._volume.read(start, length))
        self._lay(start, memoryview(content), range(start // _PAGE, -(-(start + length) // _PAGE)))
        return bytes(content)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`."""
        self._volume.device.read_into(start, buffer)
        if len(self._order) != len(self._pages):
            self._order = sorted(self._pages)
        order = self._order
        first = bisect.bisect_left(order, start // _PAGE)
        last = bisect.bisect_left(order, -(-(start + len(buffer)) // _PAGE))
        self._lay(start, buffer, order[first:last])

    def extents(self) -> Iterator[Extent]:
        """Yield what the device says."""
        return self._volume.device.extents()

    def _lay(self, start: int, buffer: memoryview, numbers: "range | list[int]") -> None:
        """Put the pages of these numbers over what the device holds."""
        end = start + len(buffer)
        for number in numbers:
            page = self._pages.get(number)
            if page is None:
                continue
            first = max(start, number * _PAGE)
            last = min(end, number * _PAGE + len(page))
            skipped = first - number * _PAGE
            buffer[first - start : last - start] = page[skipped : skipped + last - first]

    def _page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            if len(self._pages) >= _PAGES_MAX:
                most = _PAGES_MAX * _PAGE >> 20
                raise GuestUnsupported(f"a log of XFS that changes more than {most} MiB")
            start = number * _PAGE
            page = bytearray(self._volume.read(start, min(_PAGE, self.size - start)))
            self._pages[number] = page
        return page
