"""An export: a disk under a name, and what clients are told of it."""

from collections.abc import Callable
from typing import Final

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.blocks.allocation import AllocationMap
from ruchu.blocks.devices import BlockReader
from ruchu.errors import ExportError, InvalidName

_READ_ONLY_FLAGS: Final = (
    replies.EXPORT_HAS_FLAGS
    | messages.EXPORT_READ_ONLY
    | messages.EXPORT_FLUSH
    # One cache serves all connections, so a flush on one covers the writes of all.
    | messages.EXPORT_MULTI_CONNECTION
    | replies.EXPORT_CACHE
)
_WRITABLE_FLAGS: Final = (
    _READ_ONLY_FLAGS & ~messages.EXPORT_READ_ONLY
    | replies.EXPORT_FUA
    | messages.EXPORT_WRITE_ZEROES
    | replies.EXPORT_FAST_ZERO
)

Peek = Callable[[int, int], memoryview | None]
PeekComing = Callable[[int, int, float], memoryview | None]
Write = Callable[[int, memoryview], None]
WriteParts = Callable[[int, list[memoryview]], None]
Zero = Callable[[int, int], None]
Flush = Callable[[], None]


def _nothing_at_hand(start: int, length: int) -> memoryview | None:
    del start, length
    return None


class NbdExport:
    """A disk under a name.

    Args:
        name: at most 4096 bytes of UTF-8.
        device: a disk; writable if it has `write`, `zero` and `flush`. Optional: `peek` (see
            `PeekingReader`), `peek_coming` (the same, waiting up to a limit for what is being read
            already), `discard` (see `BlockDevice`), `write_parts` (as `write`, of several
            buffers that follow one another).
        description: shown to clients that ask.
        read_only: refuse writing even where the device can.

    Raises:
        InvalidName: the name or description is too long, or a name is not printable.
        ExportError: the device can only do half of writing.
    """

    def __init__(
        self, name: str, device: BlockReader, description: str = "", *, read_only: bool = False
    ) -> None:
        for text in (name, description):
            if len(text.encode()) > messages.TEXT_MAX or (text and not text.isprintable()):
                raise InvalidName(f"({text[:80]!r})", hint="Up to 4096 printable bytes.")
        self.name = name
        self.device = device
        self.description = description
        self.size = device.size
        self.peek: Peek = getattr(device, "peek", _nothing_at_hand)
        self.peek_coming: PeekComing | None = getattr(device, "peek_coming", None)
        self.write: Write | None = None
        self.write_parts: WriteParts | None = None
        self.zero: Zero | None = None
        self.flush: Flush | None = None
        self.discard: Zero | None = None
        if not read_only and hasattr(device, "write"):
            self._make_writable(device)
        self.allocation = AllocationMap(device)

    def _make_writable(self, device: BlockReader) -> None:
        self.write = getattr(device, "write", None)
        self.write_parts = getattr(device, "write_parts", None)
        self.zero = getattr(device, "zero", None)
        self.flush = getattr(device, "flush", None)
        self.discard = getattr(device, "discard", None)
        if self.zero is None or self.flush is None:
            raise ExportError(f"(a device that can write, but not zero or flush: {device!r})")

    @property
    def writable(self) -> bool:
        """Whether clients may write."""
        return self.write is not None

    def flags(self, *, structured: bool = False) -> int:
        """Return the transmission flags (`EXPORT_*`)."""
        flags = _READ_ONLY_FLAGS
        if self.writable:
            flags = _WRITABLE_FLAGS
            if self.discard is not None:
                flags |= messages.EXPORT_TRIM
        return flags | (replies.EXPORT_DONT_FRAGMENT if structured else 0)
