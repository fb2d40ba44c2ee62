"""What a point lacks: the blocks that were left out of it, and read as zeros.

Left out holds at the moment of a point. A block may count again later without being written: a
file comes back out of the recycle bin, a partition is entered into the table again, a transaction
commits what was written before it. No map of changes lists it then. So each point carries, for
each disk, which blocks it lacks, and an increment reads those of them that count now.
"""

import struct

import numpy as np

from ruchu.chunks import codec
from ruchu.errors import Damaged
from ruchu.guests import ranges
from ruchu.guests.contract import Ranges
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head

# Name of the attachment; what follows is the disk.
PREFIX = "left-out/"
_HEADER = struct.Struct("<8sIIQ")  # magic, version, bytes of a block, bytes of the disk
_MAGIC, _VERSION = b"RUCHULCK", 1


def fits(size: int, block: int) -> bool:
    """Tell whether the bitmap of a disk can be kept: one bit for each block, in one chunk."""
    return _HEADER.size + -(-size // block) // 8 + 1 <= codec.PLAIN_BYTES_MAX


def encode(lacks: Ranges, size: int, block: int) -> bytes:
    """Return the attachment for a disk of `size` bytes that lacks ranges of whole blocks."""
    count = -(-size // block)
    steps = np.zeros(count + 1, np.int8)
    steps[lacks[:, 0] // block] = 1
    steps[-(-lacks[:, 1] // block)] -= 1
    bits = np.cumsum(steps[:-1], dtype=np.int8)
    return _HEADER.pack(_MAGIC, _VERSION, block, size) + np.packbits(bits).tobytes()


def decode(data: bytes, block: int) -> Ranges:
    """Return the ranges that an attachment holds.

    Raises:
        Damaged: it is none, or of a later release.
    """
    try:
        magic, version, found, size = _HEADER.unpack_from(data)
    except struct.error:
        raise Damaged("what a point lacks is cut off") from None
    count = -(-size // block)
    body = np.frombuffer(data, np.uint8, offset=_HEADER.size)
    if magic != _MAGIC or version != _VERSION or found != block or len(body) != -(-count // 8):
        raise Damaged("what a point lacks is not told in a way that this release knows")
    rows = ranges.of_bits(np.unpackbits(body)[:count], block)
    return ranges.clipped(rows, 0, size)


def of_point(chain: Chain, head: Head, disk: str) -> Ranges:
    """Return which bytes of a disk a point lacks; none if nothing was left out.

    Raises:
        Damaged: it cannot be told.
    """
    name = PREFIX + disk
    if name not in head.attachments:
        return ranges.empty()
    return decode(chain.attachment(head, name), chain.block_size)
