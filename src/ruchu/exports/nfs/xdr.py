"""XDR (RFC 4506) as bytes: what every message of ONC RPC is made of.

A reader never looks beyond the message, and never takes more than the limit that the caller names.
"""

import struct
from typing import Final

U32: Final = struct.Struct(">I")
U64: Final = struct.Struct(">Q")
PADDING: Final = (b"", b"\0", b"\0\0", b"\0\0\0")
TRUE: Final = U32.pack(1)
FALSE: Final = U32.pack(0)


class XdrError(Exception):
    """A message is shorter than it says, or something in it is longer than allowed."""


class Reader:
    """Takes a message apart, from a position on."""

    __slots__ = ("_at", "_data")

    def __init__(self, data: memoryview, at: int = 0) -> None:
        self._data = data
        self._at = at

    def u32(self) -> int:
        """Take an unsigned number of 32 bits."""
        return int.from_bytes(self._take(4), "big")

    def u64(self) -> int:
        """Take an unsigned number of 64 bits."""
        return int.from_bytes(self._take(8), "big")

    def flag(self) -> bool:
        """Take a boolean.

        Raises:
            XdrError: it is neither 0 nor 1.
        """
        value = self.u32()
        if value > 1:
            raise XdrError(f"a boolean of {value}")
        return bool(value)

    def fixed(self, length: int) -> bytes:
        """Take opaque bytes of a known length, a multiple of 4."""
        return bytes(self._take(length))

    def opaque(self, limit: int) -> bytes:
        """Take opaque bytes or a string of at most `limit` bytes."""
        return bytes(self.view(limit))

    def view(self, limit: int) -> memoryview:
        """Take opaque bytes of at most `limit` bytes, without a copy.

        Raises:
            XdrError: there are more.
        """
        length = self.u32()
        if length > limit:
            raise XdrError(f"{length} bytes where at most {limit} may be")
        taken = self._take(length)
        self._take(-length & 3)
        return taken

    def _take(self, length: int) -> memoryview:
        end = self._at + length
        if end > len(self._data):
            raise XdrError("the message is too short")
        taken = self._data[self._at : end]
        self._at = end
        return taken


def opaque(data: bytes) -> bytes:
    """Return opaque bytes or a string with its length before and padding behind."""
    return U32.pack(len(data)) + data + PADDING[-len(data) & 3]
