"""Inodes: their table, their fields, what `stat` tells.

Source: Documentation/filesystems/ext4/{inodes,ifork,dynamic}.rst of the Linux kernel.
"""

import stat as modes
import struct
import threading
from collections import OrderedDict
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests.contract import NodeKind, Stat
from ruchu.guests.ext import superblock as superblocks
from ruchu.guests.ext.groups import Groups
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.volume_reading import VolumeReader

ROOT = 2
FLAG_ENCRYPTED = 0x800
FLAG_HUGE_FILE = 0x40000
FLAG_EXTENTS = 0x80000
FLAG_EA_INODE = 0x200000
FLAG_INLINE_DATA = 0x10000000
POINTERS = 60
"""Bytes of `i_block`: the root of the mapping, or the content itself."""

CLASSIC = 128
"""Bytes of an inode of ext2; what is newer lies behind them."""

_CORE = struct.Struct("<HHIiii4xHHII4x60sIII4xHHHH4x")
_LINKS = 0x1A
# Extra size, upper half of the checksum, rest of the times, time of creation and its rest.
_EXTRA = struct.Struct("<HHIIIiI")
_KINDS = {
    modes.S_IFREG: NodeKind.FILE,
    modes.S_IFDIR: NodeKind.DIRECTORY,
    modes.S_IFLNK: NodeKind.SYMLINK,
    modes.S_IFCHR: NodeKind.CHARACTER_DEVICE,
    modes.S_IFBLK: NodeKind.BLOCK_DEVICE,
    modes.S_IFIFO: NodeKind.FIFO,
    modes.S_IFSOCK: NodeKind.SOCKET,
}
# What an offset within a file can be on Linux.
_SIZE_MAX = (1 << 63) - 1
# Pieces of the inode table that are kept: 16 MiB, what walking 60,000 files touches.
_PIECE = 64 << 10
_PIECES_KEPT = 256


class _Core(NamedTuple):
    """The fields of `_CORE`."""

    mode: int
    owner: int
    size: int
    accessed: int
    changed: int
    modified: int
    group: int
    links: int
    blocks: int
    flags: int
    pointers: bytes
    generation: int
    attributes: int
    size_high: int
    blocks_high: int
    attributes_high: int
    owner_high: int
    group_high: int


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode as it is on the disk.

    Attributes:
        number: from 1 on.
        mode, owner, group, links, flags, generation: as they are.
        size: bytes of content.
        blocks: what it takes, in units of 512 bytes.
        accessed, changed, modified: nanoseconds since 1970.
        created: the same, None where the inode is too small for it.
        pointers: root of the mapping, or the content.
        attributes: block of extended attributes, 0 if there is none.
        tail: what follows the known fields: attributes within the inode.
    """

    number: int
    mode: int
    owner: int
    group: int
    links: int
    flags: int
    generation: int
    size: int
    blocks: int
    accessed: int
    changed: int
    modified: int
    created: int | None
    pointers: bytes
    attributes: int
    tail: bytes

    @property
    def kind(self) -> NodeKind:
        """What it is."""
        return _KINDS.get(modes.S_IFMT(self.mode), NodeKind.OTHER)

    def stat(self) -> Stat:
        """Return what Linux tells of it."""
        kind = self.kind
        inline = self.flags & FLAG_INLINE_DATA and kind is NodeKind.FILE
        return Stat(
            kind,
            self.size,
            (self.blocks + (-(-self.size // 512) if inline else 0)) * 512,
            self.mode & 0o7777,
            self.owner,
            self.group,
            self.links,
            self.modified,
            self.accessed,
            self.changed,
            self.created,
            self._device() if modes.S_ISCHR(self.mode) or modes.S_ISBLK(self.mode) else (0, 0),
        )

    def _device(self) -> tuple[int, int]:
        old, new = struct.unpack_from("<II", self.pointers)
        if old:
            return (old >> 8) & 0xFF, old & 0xFF
        return (new >> 8) & 0xFFF, (new & 0xFF) | ((new >> 12) & 0xFFF00)


class InodeTable:
    """Reads inodes; pieces of the table are kept. Safe in several threads."""

    def __init__(self, volume: VolumeReader, superblock: Superblock, groups: Groups) -> None:
        self._volume = volume
        self._superblock = superblock
        self._starts = groups.inode_tables * superblock.block
        self._pieces: OrderedDict[tuple[int, int], tuple[bytes, bytes]] = OrderedDict()
        self._per_piece = max(1, _PIECE // superblock.inode_size)
        self._lock = threading.Lock()

    def read(self, number: int) -> Inode:
        """Return an inode that is in use.

        Raises:
            NotFound: there is no such inode, or it is free.
            GuestDamaged: its checksum is wrong, or it contradicts itself.
        """
        if not 1 <= number <= self._superblock.inodes:
            raise NotFound(f"(inode {number})")
        group, index = divmod(number - 1, self._superblock.group_inodes)
        piece, place = divmod(index, self._per_piece)
        raw, intact = self._piece(group, piece)
        size = self._superblock.inode_size
        found = raw[place * size : place * size + size]
        if not (found[0] or found[1]) or not (found[_LINKS] or found[_LINKS + 1]):
            raise NotFound(f"(inode {number} is free)")
        if not intact[place]:
            raise GuestDamaged(f"the checksum of inode {number} is wrong")
        return _decoded(number, found, self._superblock)

    def _piece(self, group: int, piece: int) -> tuple[bytes, bytes]:
        with self._lock:
            kept = self._pieces.get((group, piece))
            if kept is not None:
                self._pieces.move_to_end((group, piece))
                return kept
        first = piece * self._per_piece
        count = min(self._per_piece, self._superblock.group_inodes - first)
        size = self._superblock.inode_size
        buffer = bytearray(count * size)
        self._volume.read_into(int(self._starts[group]) + first * size, memoryview(buffer))
        raw = bytes(buffer)
        found = raw, self._intact(raw, group * self._superblock.group_inodes + first + 1)
        with self._lock:
            self._pieces[group, piece] = found
            if len(self._pieces) > _PIECES_KEPT:
                self._pieces.popitem(last=False)
        return found

    def _intact(self, raw: bytes, first: int) -> bytes:
        """Return for each inode of a piece whether its checksum is right (or it has none)."""
        size = self._superblock.inode_size
        rows = np.frombuffer(raw, np.uint8).reshape(-1, size)
        if not self._superblock.checked:
            return bytes(b"\1" * len(rows))
        numbers = np.arange(first, first + len(rows), dtype="<u4").view(np.uint8).reshape(-1, 4)
        row = np.concatenate((numbers, rows[:, 0x64:0x68], rows), axis=1)
        wanted = rows[:, 0x7C].astype(np.uint32) | rows[:, 0x7D].astype(np.uint32) << 8
        row[:, 8 + 0x7C : 8 + 0x7E] = 0
        mask = np.full(len(rows), 0xFFFF, np.uint32)
        if size > CLASSIC:
            # The upper half is there if the inode says that it uses so many fields.
            upper = (rows[:, 0x80] >= 4) | (rows[:, 0x81] > 0)
            high = rows[:, 0x82].astype(np.uint32) | rows[:, 0x83].astype(np.uint32) << 8
            wanted |= np.where(upper, high << 16, 0).astype(np.uint32)
            mask = np.where(upper, 0xFFFFFFFF, 0xFFFF).astype(np.uint32)
            row[upper, 8 + 0x82 : 8 + 0x84] = 0
        sums = crc32c.registers(row, self._superblock.seed)
        return np.asarray((sums & mask) == wanted).tobytes()


def _decoded(number: int, raw: bytes, superblock: Superblock) -> Inode:
    core = _Core._make(_CORE.unpack_from(raw))
    size, blocks = core.size, core.blocks
    if modes.S_ISREG(core.mode) or superblock.incompat & superblocks.INCOMPAT_LARGEDIR:
        size |= core.size_high << 32
    if size > _SIZE_MAX:
        raise GuestDamaged(f"inode {number} says it has {size} bytes")
    if superblock.ro_compat & superblocks.RO_HUGE_FILE:
        blocks |= core.blocks_high << 32
        if core.flags & FLAG_HUGE_FILE:
            blocks *= superblock.block // 512
    extra = _extra_size(number, raw)
    rests, created = _rests(raw, extra)
    return Inode(
        number=number,
        mode=core.mode,
        owner=core.owner | core.owner_high << 16,
        group=core.group | core.group_high << 16,
        links=core.links,
        flags=core.flags,
        generation=core.generation,
        size=size,
        blocks=blocks,
        accessed=_time(core.accessed, rests[2]),
        changed=_time(core.changed, rests[0]),
        modified=_time(core.modified, rests[1]),
        created=created,
        pointers=core.pointers,
        attributes=core.attributes | core.attributes_high << 32,
        tail=raw[CLASSIC + extra :],
    )


def _extra_size(number: int, raw: bytes) -> int:
    if len(raw) <= CLASSIC:
        return 0
    extra = raw[0x80] | raw[0x81] << 8
    if extra % 4 or extra > len(raw) - CLASSIC:
        raise GuestDamaged(f"inode {number} has {extra} extra bytes")
    return extra


def _rests(raw: bytes, extra: int) -> tuple[tuple[int, int, int], int | None]:
    """Return the rests of the times (change, modification, access), and the time of creation."""
    if extra < 16:
        # Old inodes that have grown only in part: none of the fields can be relied upon but these.
        fields = [
            struct.unpack_from("<I", raw, offset)[0] if CLASSIC + extra >= offset + 4 else 0
            for offset in (0x84, 0x88, 0x8C)
        ]
        return (fields[0], fields[1], fields[2]), None
    _, _, changed, modified, accessed, created, rest = _EXTRA.unpack_from(raw, CLASSIC)
    when = None
    if extra >= 20:
        when = _time(created, rest if extra >= 24 else 0)
    return (changed, modified, accessed), when


def _time(seconds: int, rest: int) -> int:
    """Return nanoseconds since 1970: two bits of the rest extend the seconds, after the sign."""
    return (seconds + ((rest & 3) << 32)) * 1_000_000_000 + (rest >> 2)
