"""Where the blocks of a fork lie: extents in the inode, or a btree of them.

Source: "XFS Algorithms & Data Structures", chapter Data Extents. Blocks of the btree of version 5
carry checksums, which are verified.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.contract import Ranges
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import checksums, inodes
from ruchu.guests.xfs.inodes import Fork
from ruchu.guests.xfs.superblock import Superblock

_Rows = npt.NDArray[np.int64]

_RECORD = 16
# 128 MiB of rows. Files of four million pieces exist in theory.
EXTENTS_MAX = 4 << 20
_LEVELS_MAX = 12
_NODE = struct.Struct(">4sHH")
_NODE_HEAD, _NODE_HEAD_CRC = 24, 72
_NODE_OWNER_AT, _NODE_CRC_AT = 56, 64
# Bytes of btree blocks looked at at once.
_BATCH = 4 << 20
# Rows turned into numbers of Python at once.
_ROWS_AT_ONCE = 4096


@dataclass(frozen=True, slots=True)
class Piece:
    """A range of a fork in bytes; `address` is where it lies, -1 where zeros are read."""

    start: int
    end: int
    address: int


class BlockMap:
    """The extents of a fork, in order."""

    def __init__(self, rows: _Rows, block: int) -> None:
        """Take rows of (first block, blocks, first block on the volume, 1 if written)."""
        self.rows = rows
        self._block = block
        self._ends = rows[:, 0] + rows[:, 1]

    def pieces(self, start: int, end: int) -> Iterator[Piece]:
        """Yield what covers a range of bytes, in order."""
        block = self._block
        index = int(np.searchsorted(self._ends, start // block, side="right"))
        while start < end and index < len(self.rows):
            for first, count, where, written in self.rows[index : index + _ROWS_AT_ONCE].tolist():
                if first * block >= end:
                    break
                if first * block > start:
                    yield Piece(start, first * block, -1)
                    start = first * block
                last = min(end, (first + count) * block)
                address = where * block + start - first * block if written else -1
                yield Piece(start, last, address)
                start = last
            else:
                index += _ROWS_AT_ONCE
                continue
            break
        if start < end:
            yield Piece(start, end, -1)

    def mapped(self, end: int) -> Iterator[tuple[int, int]]:
        """Yield the ranges of blocks (first, after the last) that are mapped, below block `end`."""
        for first, count, _, written in self.rows.tolist():
            if first >= end:
                return
            if written:
                yield first, min(end, first + count)

    def placed(self) -> Ranges:
        """Return where the blocks lie on the volume, in bytes."""
        starts = self.rows[:, 2]
        return ranges.joined(
            np.column_stack((starts, starts + self.rows[:, 1])) * np.int64(self._block)
        )


def of_fork(volume: VolumeReader, found: Superblock, fork: Fork, owner: int) -> BlockMap:
    """Return the extents of a fork of the inode `owner`.

    Raises:
        GuestDamaged: they contradict themselves or the volume.
        GuestUnsupported: there are more than `EXTENTS_MAX`.
    """
    if fork.extents > EXTENTS_MAX:
        raise GuestUnsupported(f"a file of {fork.extents} extents")
    if fork.form == inodes.FORMAT_EXTENTS:
        if fork.extents * _RECORD > len(fork.raw):
            raise GuestDamaged(f"{fork.extents} extents in XFS inode {owner}")
        packed = fork.raw[: fork.extents * _RECORD]
    elif fork.form == inodes.FORMAT_BTREE:
        packed = _packed(volume, found, fork, owner)
    else:
        raise GuestDamaged(f"XFS inode {owner} has no extents (form {fork.form})")
    return BlockMap(_merged(_unpacked(found, packed, owner)), found.block)


def _unpacked(found: Superblock, packed: bytes, owner: int) -> _Rows:
    """Return rows out of records of 1 + 54 + 52 + 21 bits, held against the volume."""
    words = np.frombuffer(packed, ">u8").astype(np.uint64).reshape(-1, 2)
    high, low = words[:, 0], words[:, 1]
    count = (low & np.uint64((1 << 21) - 1)).astype(np.int64)
    first = ((high >> np.uint64(9)) & np.uint64((1 << 54) - 1)).astype(np.int64)
    where = ((high & np.uint64(511)) << np.uint64(43)) | (low >> np.uint64(21))
    where = where.astype(np.int64)
    written = (high >> np.uint64(63)) == 0
    group, inside = where >> found.ag_block_log, where & ((1 << found.ag_block_log) - 1)
    length = np.where(
        group == found.groups - 1, found.ag_length(found.groups - 1), np.int64(found.ag_blocks)
    )
    wrong = (group >= found.groups) | (inside + count > length) | (count == 0)
    if wrong.any() or np.any(first[1:] < first[:-1] + count[:-1]):
        raise GuestDamaged(f"impossible extents in XFS inode {owner}")
    linear = group * found.ag_blocks + inside
    return np.column_stack((first, count, linear, written.astype(np.int64)))


def _merged(rows: _Rows) -> _Rows:
    """Make one of neighbours that continue one another in the file and on the volume."""
    if len(rows) < 2:
        return rows
    ends = rows[:-1, :3:2] + rows[:-1, 1:2]
    same = np.all(ends == rows[1:, :3:2], axis=1) & (rows[1:, 3] == rows[:-1, 3])
    starts = np.flatnonzero(np.concatenate(([True], ~same)))
    merged = rows[starts].copy()
    merged[:, 1] = np.add.reduceat(rows[:, 1], starts)
    return merged


def _packed(volume: VolumeReader, found: Superblock, fork: Fork, owner: int) -> bytes:
    """Return the records of the leaves of a btree, in order."""
    level, count = struct.unpack_from(">HH", fork.raw)
    fitting = (len(fork.raw) - 4) // 16
    if not 0 < level <= _LEVELS_MAX or not 0 < count <= fitting:
        raise GuestDamaged(f"the btree of XFS inode {owner}")
    wave = struct.unpack_from(f">{count}Q", fork.raw, 4 + 8 * fitting)
    limit = _blocks_max(found, fork.extents)
    seen: set[int] = set()
    while True:
        level -= 1
        seen.update(wave)
        if len(seen) > limit or len(set(wave)) != len(wave):
            raise GuestDamaged(f"the btree of XFS inode {owner} meets itself or is too large")
        most = limit * 8 if level else fork.extents * _RECORD
        packed = b"".join(_bounded(_read(volume, found, wave, level, owner), most, owner))
        if not level:
            if len(packed) != fork.extents * _RECORD:
                raise GuestDamaged(f"XFS inode {owner} counts {fork.extents} extents, has others")
            return packed
        wave = tuple(np.frombuffer(packed, ">u8").tolist())


def _bounded(parts: Iterator[bytes], most: int, owner: int) -> Iterator[bytes]:
    """Yield parts, of at most so many bytes."""
    for part in parts:
        most -= len(part)
        if most < 0:
            raise GuestDamaged(f"the btree of XFS inode {owner} is too large")
        yield part


def _blocks_max(found: Superblock, extents: int) -> int:
    """Return how many blocks the btree of so many extents may take, sparsely filled."""
    fewest = max(1, (found.block - _NODE_HEAD_CRC) // _RECORD // 4)
    return 64 + 2 * extents // fewest


def _read(
    volume: VolumeReader, found: Superblock, wave: tuple[int, ...], level: int, owner: int
) -> Iterator[bytes]:
    """Yield the records (of leaves) or pointers (of nodes) of blocks of a btree."""
    head = _NODE_HEAD_CRC if found.crc else _NODE_HEAD
    magic = b"BMA3" if found.crc else b"BMAP"
    fitting = (found.block - head) // _RECORD
    step = max(1, _BATCH // found.block)
    for first in range(0, len(wave), step):
        blocks = [volume.read(found.address(at), found.block) for at in wave[first : first + step]]
        if found.crc:
            rows = np.frombuffer(b"".join(blocks), np.uint8).reshape(len(blocks), -1)
            if not checksums.right(rows, _NODE_CRC_AT):
                raise GuestDamaged(f"a checksum in the btree of XFS inode {owner} is wrong")
        for raw in blocks:
            kind, own_level, count = _NODE.unpack_from(raw)
            own = int.from_bytes(raw[_NODE_OWNER_AT : _NODE_OWNER_AT + 8], "big")
            if kind != magic or own_level != level or (found.crc and own != owner):
                raise GuestDamaged(f"the btree of XFS inode {owner}")
            if count > fitting or not count:
                raise GuestDamaged(f"{count} records in the btree of XFS inode {owner}")
            if level:
                yield raw[head + 8 * fitting : head + 8 * (fitting + count)]
            else:
                yield raw[head : head + _RECORD * count]
