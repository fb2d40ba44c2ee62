"""Where the content of an inode lies: trees of extents, and blocks of pointers (ext2, ext3).

Sources: Documentation/filesystems/ext4/{ifork,blockmap}.rst of the Linux kernel.
"""

from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.ext.inodes import FLAG_EXTENTS, Inode
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.volume_reading import VolumeReader

Runs = npt.NDArray[np.int64]
"""Shape (n, 4): first block of the content, how many, first block of the volume, 1 if written.

Sorted, disjoint; neighbours that go on in the content and on the volume are one row.
"""

LOGICAL, COUNT, PHYSICAL, WRITTEN = range(4)
# A file that was written at random, block by block, up to 16 GiB: 64 MiB of rows.
RUNS_MAX = 2 << 20
# Twelve times as many as that many pieces need in full nodes.
_NODES_MAX = 1 << 16
_LOGICAL_END = 1 << 32
_DEPTH_MAX = 5
_MAGIC = 0xF30A
_HEADER = 12
_UNWRITTEN_FROM = 32768
_DIRECT = 12

_LEAF = np.dtype([("logical", "<u4"), ("length", "<u2"), ("high", "<u2"), ("low", "<u4")])
_INDEX = np.dtype([("logical", "<u4"), ("low", "<u4"), ("high", "<u2"), ("unused", "<u2")])


def runs(volume: VolumeReader, superblock: Superblock, inode: Inode) -> Runs:
    """Return where all blocks of an inode lie.

    Raises:
        GuestDamaged: the mapping contradicts itself.
        GuestUnsupported: there are more pieces than anybody has.
    """
    if inode.flags & FLAG_EXTENTS:
        parts = _ExtentTree(volume, superblock, inode).leaves()
    else:
        parts = _PointerTree(volume, superblock, inode).parts()
    found: list[Runs] = []
    count = 0
    for part in parts:
        found.append(_joined(part))
        count += len(found[-1])
        if count > RUNS_MAX:
            raise GuestUnsupported(f"inode {inode.number} lies in more than {RUNS_MAX} pieces")
    if not found:
        return np.zeros((0, 4), np.int64)
    whole = found[0] if len(found) == 1 else _joined(np.concatenate(found))
    inside = (whole[:, PHYSICAL] > 0) & (whole[:, PHYSICAL] >= superblock.first)
    if not (inside & (whole[:, PHYSICAL] + whole[:, COUNT] <= superblock.blocks)).all():
        raise GuestDamaged(f"inode {inode.number} has blocks outside of the file system")
    return whole


def _joined(rows: Runs) -> Runs:
    if len(rows) < 2:
        return rows
    before, after = rows[:-1], rows[1:]
    follows = (
        (after[:, LOGICAL] == before[:, LOGICAL] + before[:, COUNT])
        & (after[:, PHYSICAL] == before[:, PHYSICAL] + before[:, COUNT])
        & (after[:, WRITTEN] == before[:, WRITTEN])
    )
    starts = np.flatnonzero(np.concatenate(([True], ~follows)))
    if len(starts) == len(rows):
        return rows
    joined = rows[starts]
    joined[:, COUNT] = np.add.reduceat(rows[:, COUNT], starts)
    return joined


class _ExtentTree:
    """A tree of extents. What a node holds must lie in the range that its parent gave it.

    So no node is met twice, and the work is bounded by the size of the volume.
    """

    def __init__(self, volume: VolumeReader, superblock: Superblock, inode: Inode) -> None:
        self._volume = volume
        self._superblock = superblock
        self._inode = inode
        self._nodes = 0

    def leaves(self) -> Iterator[Runs]:
        depth = self._header(self._inode.pointers, None)[1]
        yield from self._node(self._inode.pointers, depth, 0, _LOGICAL_END)

    def _node(self, raw: bytes, depth: int, first: int, end: int) -> Iterator[Runs]:
        count, _, _ = self._header(raw, depth)
        if not depth:
            yield self._leaf(raw, count, first, end)
            return
        rows = np.frombuffer(raw, _INDEX, count, _HEADER)
        starts = rows["logical"].astype(np.int64)
        places = rows["low"].astype(np.int64) | rows["high"].astype(np.int64) << 32
        if not count or starts[0] < first or starts[-1] >= end or (np.diff(starts) <= 0).any():
            raise self._damaged()
        ends = [*starts[1:].tolist(), end]
        for start, stop, place in zip(starts.tolist(), ends, places.tolist(), strict=True):
            yield from self._node(self._block(place), depth - 1, start, stop)

    def _header(self, raw: bytes, depth: int | None) -> tuple[int, int, int]:
        """Return the entries of a node, its depth, and how many entries it has room for."""
        magic, count, most, found = np.frombuffer(raw, "<u2", 4).tolist()
        if magic != _MAGIC or count > most or _HEADER + most * _HEADER > len(raw):
            raise self._damaged()
        if found > _DEPTH_MAX or (depth is not None and found != depth):
            raise self._damaged()
        return count, found, most

    def _leaf(self, raw: bytes, count: int, first: int, end: int) -> Runs:
        rows = np.frombuffer(raw, _LEAF, count, _HEADER)
        found = np.empty((count, 4), np.int64)
        lengths = rows["length"].astype(np.int64)
        unwritten = lengths > _UNWRITTEN_FROM
        found[:, LOGICAL] = rows["logical"]
        found[:, COUNT] = np.where(unwritten, lengths - _UNWRITTEN_FROM, lengths)
        found[:, PHYSICAL] = rows["low"].astype(np.int64) | rows["high"].astype(np.int64) << 32
        found[:, WRITTEN] = ~unwritten
        ends = found[:, LOGICAL] + found[:, COUNT]
        if count and (
            found[0, LOGICAL] < first
            or ends[-1] > end
            or (found[:, COUNT] <= 0).any()
            or (ends[:-1] > found[1:, LOGICAL]).any()
        ):
            raise self._damaged()
        return found

    def _block(self, number: int) -> bytes:
        if not self._superblock.first <= number < self._superblock.blocks or not number:
            raise self._damaged()
        self._nodes += 1
        if self._nodes > _NODES_MAX:
            raise GuestUnsupported(f"inode {self._inode.number} has a map of too many blocks")
        raw = self._volume.read(number * self._superblock.block, self._superblock.block)
        if self._superblock.checked:
            _, _, most = self._header(raw, None)
            at = _HEADER + most * _HEADER
            seed = self._inode.number.to_bytes(4, "little")
            seed += self._inode.generation.to_bytes(4, "little")
            right = crc32c.register(seed + raw[:at], self._superblock.seed)
            if at + 4 > len(raw) or right != int.from_bytes(raw[at : at + 4], "little"):
                raise GuestDamaged(f"the checksum of a map of inode {self._inode.number} is wrong")
        return raw

    def _damaged(self) -> GuestDamaged:
        return GuestDamaged(f"the extents of inode {self._inode.number}")


class _PointerTree:
    """Direct and indirect pointers. No block of pointers is read twice, so there is no cycle."""

    def __init__(self, volume: VolumeReader, superblock: Superblock, inode: Inode) -> None:
        self._volume = volume
        self._superblock = superblock
        self._inode = inode
        self._per_block = superblock.block // 4
        self._seen: set[int] = set()
        self._end = min(-(-inode.size // superblock.block), _LOGICAL_END)

    def parts(self) -> Iterator[Runs]:
        pointers = np.frombuffer(self._inode.pointers, "<u4").astype(np.int64)
        yield self._runs(pointers[:_DIRECT], 0)
        first = _DIRECT
        for level in range(1, 4):
            place = int(pointers[_DIRECT + level - 1])
            if place:
                yield from self._tree(place, level, first)
            first += self._per_block**level

    def _tree(self, place: int, level: int, first: int) -> Iterator[Runs]:
        if first >= self._end:
            return
        superblock = self._superblock
        if place in self._seen or not superblock.first <= place < superblock.blocks:
            raise GuestDamaged(f"the block pointers of inode {self._inode.number}")
        self._seen.add(place)
        raw = self._volume.read(place * superblock.block, superblock.block)
        pointers = np.frombuffer(raw, "<u4").astype(np.int64)
        if level == 1:
            yield self._runs(pointers, first)
            return
        span = self._per_block ** (level - 1)
        for index in np.flatnonzero(pointers).tolist():
            yield from self._tree(int(pointers[index]), level - 1, first + index * span)

    def _runs(self, pointers: npt.NDArray[np.int64], first: int) -> Runs:
        at = np.flatnonzero(pointers)
        ones = np.ones(len(at), np.int64)
        rows = np.column_stack((at + first, ones, pointers[at], ones))
        return rows[rows[:, LOGICAL] < self._end]
