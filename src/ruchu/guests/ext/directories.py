"""Directories: lists of names in blocks. Hash trees are read as what they also are: such lists.

The inner nodes of a hash tree look like one unused entry that fills the block. Source:
Documentation/filesystems/ext4/directory.rst of the Linux kernel.
"""

import struct
from collections.abc import Iterator

import numpy as np

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged
from ruchu.guests.contract import Entry, NodeKind
from ruchu.guests.ext import superblock as superblocks
from ruchu.guests.ext.inodes import Inode
from ruchu.guests.ext.superblock import Superblock

_ENTRY = struct.Struct("<IHBB")
_KINDS = (
    NodeKind.OTHER,
    NodeKind.FILE,
    NodeKind.DIRECTORY,
    NodeKind.CHARACTER_DEVICE,
    NodeKind.BLOCK_DEVICE,
    NodeKind.FIFO,
    NodeKind.SOCKET,
    NodeKind.SYMLINK,
)
# The end of a block with a checksum: an unused entry of 12 bytes, of a kind that does not exist.
_TAIL = b"\0\0\0\0\x0c\0\0\xde"
_TAIL_SIZE = 12


def entries(raw: bytes, inode: Inode, superblock: Superblock) -> Iterator[Entry]:
    """Yield what one block (or an area within an inode) of a directory names.

    Raises:
        GuestDamaged: it contradicts itself.
    """
    length, at = len(raw), 0
    typed = superblock.incompat & superblocks.INCOMPAT_FILETYPE
    unpack = _ENTRY.unpack_from
    while at < length:
        if at + _ENTRY.size > length:
            raise _damaged(inode)
        node, taken, named, kind = unpack(raw, at)
        if taken in {0, 0xFFFF} and length == 1 << 16:
            taken = length
        if not typed:
            named, kind = named | kind << 8, 0
        if taken % 4 or taken < 8 or at + taken > length:
            raise _damaged(inode)
        if node:
            name = raw[at + 8 : at + 8 + named]
            if named + 8 > taken or node > superblock.inodes or not _sound(name):
                raise _damaged(inode)
            if name not in {b".", b".."}:
                yield Entry(name, node, _KINDS[kind] if kind < len(_KINDS) else NodeKind.OTHER)
        at += taken


def check_sums(raw: bytes, inode: Inode, superblock: Superblock) -> None:
    """Hold whole blocks of a directory against their checksums.

    Raises:
        GuestDamaged: one is wrong.
    """
    if not superblock.checked:
        return
    rows = np.frombuffer(raw, np.uint8).reshape(-1, superblock.block)
    tails = rows[:, -_TAIL_SIZE:-4] == np.frombuffer(_TAIL, np.uint8)
    # The inner nodes of a hash tree keep theirs elsewhere, and no names but the first two. What
    # looks like a tail in them is left from a time when they were leaves.
    lengths = rows[:, :24].view("<u2")
    size = superblock.block & 0xFFFF
    root = (lengths[:, 2] == 12) & (lengths[:, 8] == (superblock.block - 12) & 0xFFFF)
    inner = (lengths[:, 0] == 0) & (lengths[:, 1] == 0) & (lengths[:, 2] == size)
    rows = rows[tails.all(axis=1) & ~root & ~inner]
    if not len(rows):
        return
    seed = inode.number.to_bytes(4, "little") + inode.generation.to_bytes(4, "little")
    begun = np.broadcast_to(np.frombuffer(seed, np.uint8), (len(rows), 8))
    summed = np.concatenate((begun, rows[:, :-_TAIL_SIZE]), axis=1)
    stored = np.ascontiguousarray(rows[:, -4:]).view("<u4").reshape(-1)
    if (crc32c.registers(summed, superblock.seed) != stored).any():
        raise GuestDamaged(f"a checksum of directory {inode.number} is wrong")


def _sound(name: bytes) -> bool:
    return bool(name) and b"/" not in name and b"\0" not in name


def _damaged(inode: Inode) -> GuestDamaged:
    return GuestDamaged(f"the entries of directory {inode.number}")
