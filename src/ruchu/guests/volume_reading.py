"""Small reads out of a device that is not trusted: bounded, cached, never outside."""

import threading
from collections import OrderedDict

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged

# Metadata is read block by block and near what was read before.
_PAGE = 64 << 10
_PAGES_KEPT = 512
# What one call may ask for: the largest piece of metadata that any file system has.
READ_MAX = 64 << 20


class VolumeReader:
    """Reads ranges of a volume; recent pages (32 MiB) are kept. Safe in several threads."""

    def __init__(self, device: BlockReader) -> None:
        self.device = device
        self.size = device.size
        self._pages: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read(self, start: int, length: int) -> bytes:
        """Return `length` bytes at `start`.

        Raises:
            GuestDamaged: the range is not inside the volume, or is absurdly long.
        """
        self._check(start, length)
        if length > _PAGE:
            buffer = bytearray(length)
            self.device.read_into(start, memoryview(buffer))
            return bytes(buffer)
        first, offset = divmod(start, _PAGE)
        if offset + length <= _PAGE:
            return self._page(first)[offset : offset + length]
        head = self._page(first)[offset:]
        return head + self._page(first + 1)[: length - len(head)]

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill a buffer of any length with content, past the kept pages.

        Raises:
            GuestDamaged: the range is not inside the volume.
        """
        if start < 0 or start + len(buffer) > self.size:
            raise GuestDamaged(f"{len(buffer)} bytes at {start} of a volume of {self.size}")
        if len(buffer):
            self.device.read_into(start, buffer)

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size or length > READ_MAX:
            raise GuestDamaged(f"{length} bytes at {start} of a volume of {self.size}")

    def _page(self, number: int) -> bytes:
        with self._lock:
            found = self._pages.get(number)
            if found is not None:
                self._pages.move_to_end(number)
                return found
        start = number * _PAGE
        buffer = bytearray(min(_PAGE, self.size - start))
        self.device.read_into(start, memoryview(buffer))
        page = bytes(buffer)
        with self._lock:
            self._pages[number] = page
            if len(self._pages) > _PAGES_KEPT:
                self._pages.popitem(last=False)
        return page
