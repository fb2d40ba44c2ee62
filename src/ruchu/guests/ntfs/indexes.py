"""Indexes: B+ trees of names, and of security identifiers.

Sources: the Linux-NTFS documentation, `$INDEX_ROOT`, `$INDEX_ALLOCATION`, `Index Entry`.
"""

import struct
from collections.abc import Iterator

from ruchu.errors import GuestDamaged
from ruchu.guests.ntfs import fixups
from ruchu.guests.ntfs.streams import Layout, StreamReader

_MAGIC = b"INDX"  # codespell:ignore indx
_HEADER = struct.Struct("<III")
_ENTRY = struct.Struct("<8xHHH")
_BELOW = struct.Struct("<Q")
_HAS_BELOW, _LAST = 1, 2
_ROOT_HEADER, _BLOCK_HEADER = 16, 24
# A tree of so many blocks names more files than an MFT can have records.
_BLOCKS_MAX = 1 << 27
# Blocks that are waiting: a tree is at most this deep times the children of a block.
_WAITING_MAX = 1 << 20


class Index:
    """An index of a directory, or of `$Secure`.

    Args:
        streams: reads its blocks.
        root: content of its `$INDEX_ROOT`.
        blocks: its `$INDEX_ALLOCATION`; None if all is in the root.
        cluster: bytes of a cluster, in which blocks are counted if they are not smaller.

    Raises:
        GuestDamaged: its root cannot be.
    """

    def __init__(
        self, streams: StreamReader, root: bytes, blocks: Layout | None, cluster: int
    ) -> None:
        if len(root) < _ROOT_HEADER + 16:
            raise GuestDamaged("(the root of an index is too short)")
        self._streams = streams
        self._root = root
        self._blocks = blocks
        self._size = int.from_bytes(root[8:12], "little")
        self._step = cluster if cluster <= self._size else fixups.STRIDE
        if blocks is not None and (self._size % fixups.STRIDE or not 512 <= self._size <= 1 << 21):
            raise GuestDamaged(f"(index blocks of {self._size} bytes)")

    def nodes(self) -> Iterator[tuple[bytes, list[int]]]:
        """Yield the blocks of the tree: content, and where in it entries with a key begin.

        Raises:
            GuestDamaged: a block is met twice, was written in part only or contradicts itself.
        """
        starts, waiting = _entries(self._root, _ROOT_HEADER)
        yield self._root, starts
        seen = set(waiting)
        while waiting:
            number = waiting.pop()
            block = self._block(number)
            starts, below = _entries(block, _BLOCK_HEADER)
            yield block, starts
            for child in below:
                if child in seen:
                    raise GuestDamaged(f"(block {child} of an index is met twice)")
                seen.add(child)
            waiting += below
            if len(seen) > _BLOCKS_MAX or len(waiting) > _WAITING_MAX:
                raise GuestDamaged("(an index is larger than can be)")

    def _block(self, number: int) -> bytes:
        start = number * self._step
        if self._blocks is None or start + self._size > self._blocks.size:
            raise GuestDamaged(f"(block {number} is not in its index)")
        raw = self._streams.read(self._blocks, start, self._size)
        if raw[:4] != _MAGIC or int.from_bytes(raw[16:24], "little") != number:
            raise GuestDamaged(f"(block {number} of an index is none)")
        return bytes(fixups.undone(raw, f"block {number} of an index"))


def _entries(block: bytes, header: int) -> tuple[list[int], list[int]]:
    """Return where the entries of a block begin that have a key, and the blocks below it."""
    first, used, _ = _HEADER.unpack_from(block, header)
    at, end = header + first, header + used
    if end > len(block) or first < 16:
        raise GuestDamaged("(an index tells entries outside its block)")
    starts: list[int] = []
    below: list[int] = []
    unpack = _ENTRY.unpack_from
    while at + 16 <= end:
        length, key, flags = unpack(block, at)
        if length < 16 or at + length > end or key + 16 > length:
            break
        if flags & _HAS_BELOW:
            if length < 24:
                break
            below.append(_BELOW.unpack_from(block, at + length - 8)[0])
        if flags & _LAST:
            return starts, below
        starts.append(at)
        at += length
    raise GuestDamaged("(the entries of an index do not end)")
