"""Which bytes of ext2, ext3 and ext4 count: what the block bitmaps say, and the fixed metadata.

The bitmaps are believed only if the file system was unmounted or frozen (its journal is empty),
flags no error, and everything that can be held against them agrees: checksums, the counts of free
clusters, the places of the metadata. Source: Documentation/filesystems/ext4/bitmaps.rst of the
Linux kernel.
"""

import numpy as np
import numpy.typing as npt

from ruchu.blocks import crc32c
from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestError, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.contract import Allocation, Ranges, everything
from ruchu.guests.ext import groups, inodes, journal
from ruchu.guests.ext import superblock as superblocks
from ruchu.guests.ext.groups import Groups
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.volume_reading import VolumeReader

# Groups looked at together: 4 MiB of bitmaps of 4 KiB blocks, whatever the size of the volume.
_BATCH = 1024
# Bitmaps that lie side by side (flex_bg) are read together, up to this many bytes.
_READ = 4 << 20
# 256 MiB of ranges; a volume in more pieces is not worth it.
_RANGES_MAX = 16 << 20


def allocation(device: BlockReader, *, frozen: bool) -> Allocation:
    """Return which bytes count; see `Opener.allocation`.

    A frozen ext4 has flushed its journal and cleared `needs_recovery` by itself, so `frozen`
    makes no difference: where the flag is still set, this file system was not frozen.
    """
    del frozen
    volume = VolumeReader(device)
    try:
        superblock = superblocks.read(volume)
        doubt = _doubt(superblock)
        if doubt:
            return everything(device.size, doubt)
        return Allocation(_used(volume, superblock))
    except GuestError as error:
        return everything(device.size, error.detail)


def _doubt(superblock: Superblock) -> str:
    """Return what the superblock says against believing the bitmaps."""
    foreign = superblock.incompat & ~superblocks.INCOMPAT_KNOWN
    foreign_ro = superblock.ro_compat & ~superblocks.RO_KNOWN
    summed_twice = superblock.checked and superblock.ro_compat & superblocks.RO_GDT_CSUM
    cases = (
        (not superblock.intact, "the checksum of the superblock of ext4 is wrong"),
        (foreign or foreign_ro, f"ext4 uses unknown features ({foreign:#x}, {foreign_ro:#x})"),
        (summed_twice, "ext4 has two kinds of checksums"),
        (superblock.state & superblocks.STATE_ERROR, "ext4 has flagged errors and wants fsck"),
        (
            superblock.incompat & superblocks.INCOMPAT_RECOVER,
            "ext4 was in use and not frozen: its journal has to be replayed",
        ),
        (
            not superblock.state & superblocks.STATE_VALID,
            f"{superblock.kind} was not unmounted, and has no journal that says what is in place",
        ),
    )
    return next((reason for holds, reason in cases if holds), "")


def _used(volume: VolumeReader, superblock: Superblock) -> Ranges:
    table = groups.read(volume, superblock)
    if not table.intact:
        raise GuestDamaged("the checksum of a block group of ext4 is wrong")
    if len(np.unique(table.block_bitmaps)) != superblock.groups:
        raise GuestDamaged("two block groups of ext4 have the same bitmap")
    if superblock.journal:
        state = journal.state(volume, superblock, inodes.InodeTable(volume, superblock, table))
        if state.start:
            raise GuestDamaged("the journal of ext4 is in use, and the superblock denies it")
        if state.error:
            raise GuestDamaged("the journal of ext4 has flagged an error")
    marked = _marked(volume, superblock, table)
    fixed = _of_blocks(table.fixed, superblock)
    _check_fixed(fixed, marked, superblock, table)
    boot = np.array([[0, superblock.first * superblock.block]], np.int64)
    own = _of_blocks(groups.own_metadata(superblock), superblock)
    return ranges.union(boot, marked, fixed, own)


def _marked(volume: VolumeReader, superblock: Superblock, table: Groups) -> Ranges:
    """Return what the bitmaps mark."""
    found = [ranges.empty()]
    count = 0
    for first in range(0, superblock.groups, _BATCH):
        found.append(_marked_of(volume, superblock, table, slice(first, first + _BATCH)))
        count += len(found[-1])
        if count > _RANGES_MAX:
            raise GuestUnsupported("ext4 is in too many pieces for a map")
    return ranges.union(*found)


def _marked_of(volume: VolumeReader, superblock: Superblock, table: Groups, batch: slice) -> Ranges:
    present = ~table.unused[batch]
    width = superblock.group_clusters // 8
    bitmaps = np.zeros((len(present), width), np.uint8)
    places = table.block_bitmaps[batch][present]
    bitmaps[present] = _blocks(volume, places, superblock.block)[:, :width]
    _check_sums(bitmaps[present], table.bitmap_sums[batch][present], superblock, table)
    ratio = superblock.cluster // superblock.block
    start = superblock.group_start(batch.start)
    clusters = min(bitmaps.size * 8, -(-(superblock.blocks - start) // ratio))
    packed = bitmaps.reshape(-1)
    # What lies behind the end of the last group is marked, so that nobody takes it.
    packed[-(-clusters // 8) :] = 0
    if clusters % 8:
        packed[clusters // 8] &= (1 << clusters % 8) - 1
    _check_counts(bitmaps, clusters, table.free[batch], present)
    edges = _edges(packed)
    found = edges.reshape(-1, 2) * superblock.cluster + start * superblock.block
    return np.minimum(found, superblock.size)


def _blocks(volume: VolumeReader, places: groups.Numbers, size: int) -> npt.NDArray[np.uint8]:
    """Return blocks, a row each; those that lie side by side are read together."""
    rows = np.empty((len(places), size), np.uint8)
    most = _READ // size
    breaks = np.flatnonzero(np.diff(places) != 1) + 1
    for first, end in zip([0, *breaks.tolist()], [*breaks.tolist(), len(places)], strict=True):
        for at in range(first, end, most):
            part = rows[at : min(end, at + most)]
            volume.read_into(int(places[at]) * size, part.data.cast("B"))
    return rows


def _check_sums(
    bitmaps: npt.NDArray[np.uint8], stored: groups.Numbers, superblock: Superblock, table: Groups
) -> None:
    if not superblock.checked or not len(bitmaps):
        return
    sums = crc32c.registers(bitmaps, superblock.seed).astype(np.int64)
    if ((sums & ((1 << table.bitmap_sum_bits) - 1)) != stored).any():
        raise GuestDamaged("the checksum of a block bitmap of ext4 is wrong")


def _check_counts(
    bitmaps: npt.NDArray[np.uint8],
    clusters: int,
    free: groups.Numbers,
    present: npt.NDArray[np.bool_],
) -> None:
    per_group = bitmaps.shape[1] * 8
    sizes = np.minimum(clusters - np.arange(len(bitmaps)) * per_group, per_group)
    marked = np.bitwise_count(bitmaps).sum(axis=1, dtype=np.int64)
    if ((sizes - marked != free) & present).any():
        raise GuestDamaged("a block bitmap of ext4 does not fit its count of free blocks")


def _edges(packed: npt.NDArray[np.uint8]) -> npt.NDArray[np.int64]:
    """Return the numbers of the bits where runs of set bits begin and end, in turn."""
    before = np.zeros_like(packed)
    before[1:] = packed[:-1] >> 7
    changed = (packed ^ (packed << 1 | before)).astype(np.uint8)
    at = np.flatnonzero(changed)
    rows, columns = np.nonzero(np.unpackbits(changed[at], bitorder="little").reshape(-1, 8))
    edges = (at[rows] * 8 + columns).astype(np.int64)
    return np.append(edges, packed.size * 8) if len(edges) % 2 else edges


def _of_blocks(rows: groups.BlockRows, superblock: Superblock) -> Ranges:
    """Return the whole clusters of blocks, as ranges of bytes."""
    ratio = superblock.cluster // superblock.block
    first = superblock.first
    starts = (rows[:, 0] - first) // ratio * ratio + first
    ends = -(-(rows[:, 1] - first) // ratio) * ratio + first
    found = np.column_stack((starts, np.minimum(ends, superblock.blocks)))
    return ranges.joined(found * superblock.block)


def _check_fixed(fixed: Ranges, marked: Ranges, superblock: Superblock, table: Groups) -> None:
    """Hold the places of metadata against the bitmaps of those groups that have one."""
    lost = ranges.difference(fixed, marked, superblock.size)
    numbers = np.flatnonzero(table.unused)
    starts = superblock.first + numbers * superblock.group_blocks
    unused = ranges.joined(
        np.column_stack((starts, starts + superblock.group_blocks)) * superblock.block
    )
    if len(ranges.difference(lost, unused, superblock.size)):
        raise GuestDamaged("a block bitmap of ext4 calls metadata free")
