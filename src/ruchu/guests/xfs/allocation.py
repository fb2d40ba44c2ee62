"""Which blocks of an XFS count: all that its free space btrees do not name.

Every allocation group keeps its free space in two btrees, sorted by block (bnobt) and by size
(cntbt). Both are read and must agree with one another and with the count in the group's header
(AGF): version 4 has no checksums that would notice damage. With version 5 each is verified.
What belongs to the btrees themselves, and the blocks that the free list (AGFL) keeps for them, is
not in the btrees and so counts as used; other tools leave the free list out. Source: "XFS
Algorithms & Data Structures", chapter AG Free Space Management.
"""

import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestError
from ruchu.guests import ranges
from ruchu.guests.contract import Allocation, Ranges, everything
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import checksums, log, superblock
from ruchu.guests.xfs.superblock import Superblock

_Rows = npt.NDArray[np.int64]

_AGF = struct.Struct(">4sIIIIIIIIIIIIII4x16s")
_AGF_CRC_AT = 216
_AGFL_HEAD = struct.Struct(">4sI16s")
_AGFL_CRC_AT = 32
_AGFL_HEAD_BYTES = 36
_NODE = struct.Struct(">4sHH")
_NODE_HEAD, _NODE_HEAD_CRC = 16, 56
_NODE_UUID_AT, _NODE_OWNER_AT, _NODE_CRC_AT = 32, 48, 52
# The tallest btree of free space that a group of 2**31 blocks can need.
_LEVELS_MAX = 16
# Half a GiB of blocks of 4 KiB, which name 60 million free ranges: 1 GiB in memory.
_NODES_MAX = 1 << 17
_BY_BLOCK, _BY_SIZE = 0, 1
_MAGICS = {False: (b"ABTB", b"ABTC"), True: (b"AB3B", b"AB3C")}
# Bytes of btree blocks looked at at once.
_BATCH = 4 << 20


@dataclass(frozen=True, slots=True)
class _Group:
    number: int
    roots: tuple[int, int]
    levels: tuple[int, int]
    free: int
    kept: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class _Block:
    group: int
    block: int
    level: int


def allocation(device: BlockReader, *, frozen: bool) -> Allocation:
    """Return which bytes count; a doubt takes everything."""
    try:
        return Allocation(_used(VolumeReader(device), frozen=frozen))
    except GuestError as error:
        return everything(device.size, error.detail)


def _used(volume: VolumeReader, *, frozen: bool) -> Ranges:
    found = superblock.load(volume)
    _trusted(found)
    if why := log.unsettled(volume, found, frozen=frozen):
        raise GuestDamaged(why)
    groups = list(_groups(volume, found))
    free, nodes = _free(volume, found, groups, _BY_BLOCK)
    again, more = _free(volume, found, groups, _BY_SIZE)
    if not np.array_equal(free, again):
        raise GuestDamaged("the two btrees of free space of XFS contradict one another")
    if np.any(free[1:, 0] < free[:-1, 1]):
        raise GuestDamaged("XFS names the same blocks as free twice")
    _check_taken(found, groups, nodes + more, free)
    return ranges.complement(ranges.joined(free * found.block), found.size)


def _trusted(found: Superblock) -> None:
    if not found.intact:
        raise GuestDamaged("the checksum of the superblock of XFS is wrong")
    if found.unfinished:
        raise GuestDamaged("making this XFS was never finished")
    if found.incompat & superblock.INCOMPAT_NEEDSREPAIR:
        raise GuestDamaged("this XFS says that it must be repaired")
    if unknown := found.unknown_writing():
        raise GuestDamaged(f"XFS with the features {unknown:#x}, which are not known")


def _groups(volume: VolumeReader, found: Superblock) -> Iterator[_Group]:
    step = max(1, _BATCH // found.sector)
    for first in range(0, found.groups, step):
        numbers = range(first, min(first + step, found.groups))
        starts = [number * found.ag_blocks * found.block for number in numbers]
        headers = [volume.read(start + found.sector, found.sector) for start in starts]
        lists = [volume.read(start + 3 * found.sector, found.sector) for start in starts]
        if found.crc:
            _check_sums(headers, _AGF_CRC_AT, "a header of free space")
            _check_sums(lists, _AGFL_CRC_AT, "a free list")
        for number, header, kept in zip(numbers, headers, lists, strict=True):
            yield _group(found, number, header, kept)


def _check_sums(blocks: Sequence[bytes], at: int, what: str) -> None:
    rows = np.frombuffer(b"".join(blocks), np.uint8).reshape(len(blocks), -1)
    if not checksums.right(rows, at):
        raise GuestDamaged(f"the checksum of {what} of XFS is wrong")


def _group(found: Superblock, number: int, header: bytes, kept: bytes) -> _Group:
    (magic, version, own, length, *trees, first, last, count, free, _, uuid) = _AGF.unpack_from(
        header
    )
    roots, levels = (trees[0], trees[1]), (trees[3], trees[4])
    if magic != b"XAGF" or version != 1 or own != number or length != found.ag_length(number):
        raise GuestDamaged(f"the header of free space of XFS group {number}")
    if found.crc and uuid != found.meta_uuid:
        raise GuestDamaged(f"the header of XFS group {number} belongs to another file system")
    if not 0 < min(levels) <= max(levels) <= _LEVELS_MAX:
        raise GuestDamaged(f"btrees of {levels} levels in XFS group {number}")
    blocks = _kept(found, number, kept, (first, last, count))
    return _Group(number, roots, levels, free, blocks)


def _kept(
    found: Superblock, number: int, raw: bytes, bounds: tuple[int, int, int]
) -> tuple[int, ...]:
    """Return the blocks of the free list: a ring of which a part is in use."""
    head = _AGFL_HEAD_BYTES if found.crc else 0
    if found.crc:
        magic, own, uuid = _AGFL_HEAD.unpack_from(raw)
        if magic != b"XAFL" or own != number or uuid != found.meta_uuid:
            raise GuestDamaged(f"the free list of XFS group {number}")
    slots = (found.sector - head) // 4
    first, last, count = bounds
    if first >= slots or last >= slots or count > slots:
        raise GuestDamaged(f"the free list of XFS group {number} is longer than its sector")
    if count and (last - first) % slots + 1 != count:
        raise GuestDamaged(f"the free list of XFS group {number} contradicts itself")
    ring = struct.unpack_from(f">{slots}I", raw, head)
    blocks = tuple(ring[(first + index) % slots] for index in range(count))
    if any(block >= found.ag_length(number) for block in blocks):
        raise GuestDamaged(f"the free list of XFS group {number} leads out of it")
    return blocks


def _free(
    volume: VolumeReader, found: Superblock, groups: Sequence[_Group], tree: int
) -> tuple[_Rows, list[_Block]]:
    """Return free ranges as rows of (first, after the last) block, sorted, and the btrees' own."""
    magic = _MAGICS[found.crc][tree]
    wave = [_Block(group.number, group.roots[tree], group.levels[tree] - 1) for group in groups]
    seen: list[_Block] = []
    parts: list[_Rows] = [np.zeros((0, 2), np.int64)]
    sums = dict.fromkeys(range(found.groups), 0)
    while wave:
        seen += wave
        below: list[_Block] = []
        for node, count, raw in _read(volume, found, wave, magic):
            if node.level:
                below += _children(found, node, count, raw)
                if len(seen) + len(below) > _NODES_MAX:
                    raise GuestDamaged("the btrees of free space of XFS are too large")
                continue
            rows = _records(found, node, count, raw)
            sums[node.group] += int((rows[:, 1] - rows[:, 0]).sum())
            parts.append(rows)
        wave = below
        _check_nodes(seen, wave)
    for group in groups:
        if sums[group.number] != group.free:
            raise GuestDamaged(
                f"XFS group {group.number} counts {group.free} free blocks, lists"
                f" {sums[group.number]}"
            )
    free = np.concatenate(parts)
    return free[np.argsort(free[:, 0], kind="stable")], seen


def _check_nodes(seen: Sequence[_Block], wave: Sequence[_Block]) -> None:
    """Refuse a block that is met twice: a btree has no cycles, and shares nothing."""
    if wave:
        known = {(node.group, node.block) for node in seen}
        known.update((node.group, node.block) for node in wave)
        if len(known) != len(seen) + len(wave):
            raise GuestDamaged("a btree of free space of XFS meets itself")


def _read(
    volume: VolumeReader, found: Superblock, wave: Sequence[_Block], magic: bytes
) -> Iterator[tuple[_Block, int, bytes]]:
    """Yield blocks with the number of their records and their content, checked."""
    step = max(1, _BATCH // found.block)
    for first in range(0, len(wave), step):
        part = wave[first : first + step]
        blocks = [
            volume.read(found.address(node.group << found.ag_block_log | node.block), found.block)
            for node in part
        ]
        if found.crc:
            _check_sums(blocks, _NODE_CRC_AT, "a btree of free space")
        for node, raw in zip(part, blocks, strict=True):
            kind, level, count = _NODE.unpack_from(raw)
            if kind != magic or level != node.level:
                raise GuestDamaged(f"a btree of free space of XFS group {node.group}")
            if found.crc and not _is_own(found, node, raw):
                raise GuestDamaged(f"a btree block of XFS group {node.group} of another owner")
            yield node, count, raw


def _is_own(found: Superblock, node: _Block, raw: bytes) -> bool:
    owner = int.from_bytes(raw[_NODE_OWNER_AT : _NODE_OWNER_AT + 4], "big")
    uuid = raw[_NODE_UUID_AT : _NODE_UUID_AT + 16]
    return owner == node.group and uuid == found.meta_uuid


def _records(found: Superblock, node: _Block, count: int, raw: bytes) -> _Rows:
    head = _NODE_HEAD_CRC if found.crc else _NODE_HEAD
    if head + 8 * count > found.block:
        raise GuestDamaged(f"{count} records in a btree block of XFS")
    pairs = np.frombuffer(raw, ">u4", 2 * count, head).astype(np.int64).reshape(-1, 2)
    starts, ends = pairs[:, 0], pairs[:, 0] + pairs[:, 1]
    headers = -(-4 * found.sector // found.block)
    wrong = (starts < headers) | (ends > found.ag_length(node.group)) | (pairs[:, 1] == 0)
    if wrong.any():
        raise GuestDamaged(f"impossible free blocks in XFS group {node.group}")
    return np.column_stack((starts, ends)) + node.group * found.ag_blocks


def _children(found: Superblock, node: _Block, count: int, raw: bytes) -> Iterator[_Block]:
    head = _NODE_HEAD_CRC if found.crc else _NODE_HEAD
    fitting = (found.block - head) // 12
    if not 0 < count <= fitting:
        raise GuestDamaged(f"{count} pointers in a btree block of XFS")
    for block in struct.unpack_from(f">{count}I", raw, head + 8 * fitting):
        yield _Block(node.group, block, node.level - 1)


def _check_taken(
    found: Superblock, groups: Sequence[_Group], nodes: Sequence[_Block], free: _Rows
) -> None:
    """Hold what is surely in use against what is told to be free."""
    taken = [node.group * found.ag_blocks + node.block for node in nodes]
    taken += [group.number * found.ag_blocks + block for group in groups for block in group.kept]
    blocks = np.array(taken, np.int64)
    # Which free range begins last at or before each of them, if any.
    nearest = np.searchsorted(free[:, 0], blocks, side="right") - 1
    ends = np.concatenate((free[:, 1], [-1]))
    if np.any(ends[nearest] > blocks):
        raise GuestDamaged("XFS keeps metadata in blocks that it names as free")
    if found.log_start != superblock.NULL_LOG:
        first = found.address(found.log_start, found.log_blocks) // found.block
        if np.any((free[:, 0] < first + found.log_blocks) & (free[:, 1] > first)):
            raise GuestDamaged("XFS names a part of its log as free")
