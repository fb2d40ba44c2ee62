"""Block groups: their descriptors, and where the fixed metadata lies.

Source: Documentation/filesystems/ext4/{blockgroup,group_descr,bitmaps}.rst of the Linux kernel.
"""

import functools
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged
from ruchu.guests.ext import superblock as superblocks
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.volume_reading import READ_MAX, VolumeReader

Numbers = npt.NDArray[np.int64]
BlockRows = npt.NDArray[np.int64]
"""Shape (n, 2): first block and the block after the last, in any order."""

_FLAG_BLOCK_UNINIT = 0x2
# Size of the fields that every descriptor has; wider ones have 16 more at the least.
_NARROW = 32
_CHECKSUM = 0x1E
_CRC16 = 0xA001


@dataclass(frozen=True, slots=True)
class Groups:
    """The descriptors of all groups; each array has one element a group.

    Attributes:
        block_bitmaps, inode_tables: numbers of blocks.
        fixed: rows of the blocks that bitmaps and inode tables take.
        free: how many clusters are said to be free.
        bitmap_sums: checksums of the block bitmaps, and which of their bits are kept.
        bitmap_sum_bits: 16 or 32.
        unused: whether the block bitmap was never written: only metadata lies in the group.
        intact: whether all descriptors have the right checksum, or none has one.
    """

    block_bitmaps: Numbers
    inode_tables: Numbers
    fixed: BlockRows
    free: Numbers
    bitmap_sums: Numbers
    bitmap_sum_bits: int
    unused: npt.NDArray[np.bool_]
    intact: bool


def read(volume: VolumeReader, superblock: Superblock) -> Groups:
    """Return the descriptors of all groups.

    Raises:
        GuestDamaged: one points outside of the file system.
    """
    raw = _table(volume, superblock)
    summed = superblock.checked or bool(superblock.ro_compat & superblocks.RO_GDT_CSUM)
    wide = superblock.descriptor >= 64

    def field(offset: int, form: str, high: int) -> Numbers:
        low = _column(raw, offset, form)
        if not wide:
            return low
        return low | _column(raw, high, form) << (16 if form == "<u2" else 32)

    bitmaps, inode_bitmaps = field(0x0, "<u4", 0x20), field(0x4, "<u4", 0x24)
    tables = field(0x8, "<u4", 0x28)
    fixed = np.concatenate(
        (
            np.column_stack((bitmaps, bitmaps + 1)),
            np.column_stack((inode_bitmaps, inode_bitmaps + 1)),
            np.column_stack((tables, tables + superblock.table_blocks)),
        )
    )
    # A high half of 32 bits may make a number negative here.
    inside = (fixed[:, 0] >= superblock.first) & (fixed[:, 0] < superblock.blocks)
    if not (inside & (fixed[:, 1] <= superblock.blocks)).all():
        raise GuestDamaged("a block group of ext4 points outside of the file system")
    flags = _column(raw, 0x12, "<u2")
    return Groups(
        block_bitmaps=bitmaps,
        inode_tables=tables,
        fixed=fixed,
        free=field(0xC, "<u2", 0x2C),
        bitmap_sums=field(0x18, "<u2", 0x38),
        bitmap_sum_bits=32 if wide else 16,
        unused=(flags & _FLAG_BLOCK_UNINIT != 0) & summed,
        intact=not summed or _summed_right(raw, superblock),
    )


def own_metadata(superblock: Superblock) -> BlockRows:
    """Return the blocks of superblocks and descriptor tables, with their copies."""
    groups: Numbers = np.arange(superblock.groups, dtype=np.int64)
    copies = np.isin(groups, _with_copies(superblock))
    starts = superblock.first + groups * superblock.group_blocks
    per_block = superblock.block // superblock.descriptor
    table = -(-superblock.groups // per_block)
    lengths: Numbers = copies.astype(np.int64)
    if superblock.incompat & superblocks.INCOMPAT_META_BG:
        whole = min(superblock.first_meta, table)
        in_meta = groups >= whole * per_block
        place = groups % per_block
        lengths += in_meta & ((place < 2) | (place == per_block - 1))
        lengths += ~in_meta & copies
        lengths += np.where(~in_meta & copies, max(0, whole + superblock.reserved_table - 1), 0)
    else:
        lengths += np.where(copies, table + superblock.reserved_table, 0)
    # Blocks of 1 KiB that begin at 0 (bigalloc): the superblock is the second one.
    lengths[0] += superblock.first == 0 and superblock.block == superblocks.OFFSET
    ends = np.minimum(starts + lengths, superblock.blocks)
    return np.column_stack((starts, ends))[lengths > 0]


def _with_copies(superblock: Superblock) -> Numbers:
    if superblock.compat & superblocks.COMPAT_SPARSE_SUPER2:
        return np.array([0, *superblock.backups], np.int64)
    if not superblock.ro_compat & superblocks.RO_SPARSE_SUPER:
        return np.arange(superblock.groups, dtype=np.int64)
    found = [0, 1]
    for odd in (3, 5, 7):
        power = odd
        while power < superblock.groups:
            found.append(power)
            power *= odd
    return np.array(found, np.int64)


def _table(volume: VolumeReader, superblock: Superblock) -> npt.NDArray[np.uint8]:
    """Return the descriptors as bytes, a row a group."""
    block, size = superblock.block, superblock.descriptor
    per_block = block // size
    count = -(-superblock.groups // per_block)
    whole = count
    if superblock.incompat & superblocks.INCOMPAT_META_BG:
        whole = min(count, superblock.first_meta)
    start = (superblocks.OFFSET // block + 1) * block
    pieces = [
        volume.read(start + at, min(READ_MAX, whole * block - at))
        for at in range(0, whole * block, READ_MAX)
    ]
    copies = set(_with_copies(superblock).tolist())
    for number in range(whole, count):
        group = number * per_block
        place = superblock.group_start(group) + (group in copies)
        place += group == 0 and superblock.first == 0 and block == superblocks.OFFSET
        pieces.append(volume.read(place * block, block))
    rows = np.frombuffer(b"".join(pieces), np.uint8)
    return rows[: superblock.groups * size].reshape(-1, size)


def _column(raw: npt.NDArray[np.uint8], offset: int, form: str) -> Numbers:
    width = np.dtype(form).itemsize
    found = np.ascontiguousarray(raw[:, offset : offset + width]).view(form)
    return found.reshape(-1).astype(np.int64)


@functools.cache
def _crc16() -> crc32c.Crc:
    """Return the CRC of `uninit_bg`."""
    return crc32c.Crc(_CRC16)


def _summed_right(raw: npt.NDArray[np.uint8], superblock: Superblock) -> bool:
    count = len(raw)
    stored = _column(raw, _CHECKSUM, "<u2")
    numbers = np.arange(count, dtype="<u4").view(np.uint8).reshape(-1, 4)
    if superblock.checked:
        blank = raw.copy()
        blank[:, _CHECKSUM : _CHECKSUM + 2] = 0
        rows = np.concatenate((numbers, blank), axis=1)
        sums = crc32c.registers(rows, superblock.seed)
    else:
        uuids = np.broadcast_to(np.frombuffer(superblock.uuid, np.uint8), (count, 16))
        parts = (uuids, numbers, raw[:, :_CHECKSUM], raw[:, _NARROW:])
        sums = _crc16().registers(np.concatenate(parts, axis=1), 0xFFFF)
    return bool((sums & 0xFFFF == stored).all())
