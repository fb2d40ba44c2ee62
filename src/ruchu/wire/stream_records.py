"""The form of a bulk stream on the wire. Pure.

A record is the length of a piece (4 bytes, big endian), the BLAKE3 of all content up to the end of
that piece (32 bytes), and the piece. The last record has no piece. So every piece is checked before
it is written, and the end cannot be missed.
"""

import struct
from collections import OrderedDict
from collections.abc import Iterable
from typing import Any, Final

from blake3 import blake3

from ruchu.errors import Damaged, ProtocolViolation

# Measured: at 1 MiB a piece leaves the cache of a core between being decrypted and being digested,
# and both ends wait for each other; at 128 KiB what each piece costs besides its bytes counts.
PIECE_BYTES_MAX: Final = 256 << 10
DIGEST_BYTES: Final = 32
HEADER: Final = struct.Struct(">I32s")
RECORD_BYTES_MAX: Final = HEADER.size + PIECE_BYTES_MAX
# Digests of the last pieces are kept: what the other side has is behind by what is on its way.
_REMEMBERED: Final = 1024


def wire_bytes(content_bytes: int) -> int:
    """Return how many bytes so many bytes of content take, with the last record."""
    pieces = -(-content_bytes // PIECE_BYTES_MAX)
    return content_bytes + (pieces + 1) * HEADER.size


def read_header(header: Any) -> tuple[int, bytes]:
    """Return the length of a piece and the digest.

    Raises:
        ProtocolViolation: the length is out of range.
    """
    length, digest = HEADER.unpack_from(header)
    if length > PIECE_BYTES_MAX:
        raise ProtocolViolation("(a piece of a stream is too large)")
    return length, digest


class Running:
    """The digest of content as it grows, and as it was some pieces ago."""

    def __init__(self) -> None:
        self._hasher = blake3()
        self._before: OrderedDict[int, Any] = OrderedDict()
        self.length = 0

    def add(self, piece: Any) -> bytes:
        """Add a piece, return the digest with it."""
        self._before[self.length] = self._hasher.copy()
        if len(self._before) > _REMEMBERED:
            self._before.popitem(last=False)
        self._hasher.update(piece)
        self.length += len(piece)
        return self.digest()

    def add_checked(self, piece: Any, digest: bytes) -> None:
        """Add a piece if the digest with it is this one.

        Raises:
            Damaged: it is not; nothing was added.
        """
        with_it = self._hasher.copy()
        with_it.update(piece)
        if with_it.digest() != digest:
            raise Damaged("(a piece of a stream is not what was sent)")
        self._hasher = with_it
        self.length += len(piece)

    def digest(self) -> bytes:
        """Return the digest of what was added."""
        return self._hasher.digest()

    def go_back(self, length: int) -> bool:
        """Forget what was added after so many bytes; False if that is too long ago."""
        if length == self.length:
            return True
        if length not in self._before:
            return False
        self._hasher = self._before[length]
        self.length = length
        for key in [key for key in self._before if key >= length]:
            del self._before[key]
        return True

    def restart(self, pieces: Iterable[Any] = ()) -> None:
        """Begin anew, with what is there already."""
        self._hasher = blake3()
        self._before.clear()
        self.length = 0
        for piece in pieces:
            self._hasher.update(piece)
            self.length += len(piece)
