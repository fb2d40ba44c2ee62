"""Thin pools: which chunk of the pool holds which part of a thin volume.

Sources: Linux `Documentation/admin-guide/device-mapper/{thin-provisioning,persistent-data}.rst`,
the on-disk structures in `drivers/md/dm-thin-metadata.c` and `drivers/md/persistent-data/`. The
metadata is a copy-on-write B-tree: what the superblock points to is one committed transaction.
Every block of it that is read is held against its CRC-32C.
"""

import struct
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges, segments
from ruchu.guests.contract import Ranges
from ruchu.guests.segments import MappedDevice
from ruchu.guests.volume_reading import VolumeReader

_Numbers = npt.NDArray[np.int64]

_BLOCK = 4096
_MAGIC = 27022010
_VERSIONS = (1, 2)
_NEEDS_CHECK = 1
_SUPERBLOCK = struct.Struct("<IIQ16sQIIQQ128s128sQQIIQIII")
_SUPERBLOCK_SALT = 160774
_NODE = struct.Struct("<IIQIIII")
_NODE_SALT = 121107
_INTERNAL, _LEAF = 1, 2
_BITMAP_SALT = 240779
_BITMAP_HEADER = 16
_PER_BITMAP = (_BLOCK - _BITMAP_HEADER) * 4
# A tree over 2^48 blocks with half-filled nodes of 126 entries is eight levels high.
_LEVELS_MAX = 12
# Metadata is at most 16 GiB = 4 Mi blocks: read once for the volumes, once for the map.
_BLOCKS_READ_MAX = 8 << 20
_TIME_BITS = 24
_DATA_BLOCKS_MAX = 1 << 40


@dataclass(frozen=True, slots=True)
class _Superblock:
    flags: int
    transaction: int
    data_blocks: int
    bitmap_root: int
    mapping_root: int
    chunk: int


class ThinPool:
    """The metadata of a thin pool and its data, read-only.

    Raises:
        GuestDamaged: the metadata contradicts itself.
        GuestUnsupported: it has a format or a feature that is not understood.
    """

    def __init__(self, metadata: MappedDevice, data: MappedDevice, chunk: int) -> None:
        self._metadata = VolumeReader(metadata)
        self._data = data
        self._left = _BLOCKS_READ_MAX
        self._super = _read_superblock(self._metadata)
        if self._super.chunk != chunk:
            raise GuestDamaged(f"chunks of {self._super.chunk} bytes, where {chunk} are announced")
        if self._super.data_blocks > data.size // chunk:
            raise GuestDamaged("the thin pool's data is smaller than its metadata says")
        keys, roots = self._entries(np.array([self._super.mapping_root]), 8)
        self._roots = dict(zip(keys.tolist(), _unsigned(roots).tolist(), strict=True))

    @property
    def transaction(self) -> int:
        """The number that LVM keeps as `transaction_id`."""
        return self._super.transaction

    @property
    def needs_check(self) -> bool:
        """Whether the kernel found damage and wants a `thin_check`."""
        return bool(self._super.flags & _NEEDS_CHECK)

    def volume(self, number: int, size: int, origin: MappedDevice | None = None) -> MappedDevice:
        """Return the thin volume with a device number; what is not mapped reads as the origin.

        Raises:
            GuestDamaged: the pool has no such volume, or its mapping contradicts itself.
            GuestUnsupported: it is in too many pieces.
        """
        if number not in self._roots:
            raise GuestDamaged(f"the thin pool knows no volume {number}")
        keys, values = self._entries(np.array([self._roots[number]]), 8)
        chunks = _unsigned(values) >> _TIME_BITS
        chunk = self._super.chunk
        inside = keys < -(-size // chunk)
        return self._assembled(keys[inside], chunks[inside], size, origin)

    def _assembled(
        self, keys: _Numbers, chunks: _Numbers, size: int, origin: MappedDevice | None
    ) -> MappedDevice:
        """Return chunks of the data at their places, the origin or a hole in between."""
        chunk = self._super.chunk
        self._check_chunks(chunks)
        under = origin.part(0, min(origin.size, size)) if origin else segments.hole(0)
        below = segments.concatenated(
            [self._data, under, segments.hole(size - under.size), segments.hole(chunk)]
        )
        together = (keys[1:] == keys[:-1] + 1) & (chunks[1:] == chunks[:-1] + 1)
        firsts = np.flatnonzero(np.concatenate(([True], ~together))[: len(keys)])
        counts = np.diff(np.concatenate((firsts, [len(keys)])))
        starts = keys[firsts] * chunk
        ends = starts + counts * chunk
        gaps = np.concatenate(([0], ends))
        rows = np.zeros((2 * len(firsts) + 1, 2), np.int64)
        rows[0::2, 0] = self._data.size + gaps
        rows[0::2, 1] = np.maximum(np.concatenate((starts, [size])) - gaps, 0)
        rows[1::2, 0] = chunks[firsts] * chunk
        rows[1::2, 1] = np.minimum(ends, size) - starts
        rows[:, 0] = np.where(rows[:, 1] > 0, rows[:, 0], 0)
        return below.gathered(rows)

    @property
    def numbers(self) -> set[int]:
        """The device numbers of its volumes."""
        return set(self._roots)

    def used_by(self, numbers: Iterable[int]) -> Ranges:
        """Return which bytes of the pool's data some of its volumes hold."""
        roots = np.unique(np.array([self._roots[number] for number in numbers], np.int64))
        _, values = self._entries(roots, 8, shared=True)
        taken = np.zeros(self._super.data_blocks, np.bool_)
        chunks = _unsigned(values) >> _TIME_BITS
        self._check_chunks(chunks)
        taken[chunks] = True
        return ranges.of_bits(taken, self._super.chunk)

    def used(self) -> Ranges:
        """Return which bytes of the pool's data any of its volumes or snapshots holds.

        What the mappings name, and what the space map has counted: they should be the same.
        """
        chunk = self._super.chunk
        count = self._super.data_blocks
        taken = np.zeros(count, np.bool_)
        self._add_counted(taken)
        tail = ranges.of_pairs([(count * chunk, self._data.size)])
        return ranges.union(self.used_by(self._roots), ranges.of_bits(taken, chunk), tail)

    def _add_counted(self, taken: npt.NDArray[np.bool_]) -> None:
        """Add the chunks whose reference count in the space map is not zero."""
        keys, rows = self._entries(np.array([self._super.bitmap_root]), 16)
        if not np.array_equal(keys, np.arange(-(-len(taken) // _PER_BITMAP))):
            raise GuestDamaged("the thin pool's space map does not cover its data")
        for key, row in zip(keys.tolist(), rows, strict=True):
            place = int.from_bytes(row[:8].tobytes(), "little")
            block = self._block(place, _BITMAP_SALT, 8)
            bits = np.unpackbits(np.frombuffer(block, np.uint8)[_BITMAP_HEADER:], bitorder="little")
            counted = (bits[0::2] | bits[1::2]) != 0
            first = key * _PER_BITMAP
            taken[first : first + _PER_BITMAP] |= counted[: len(taken) - first]

    def _check_chunks(self, chunks: _Numbers) -> None:
        if len(chunks) and int(chunks.max()) >= self._super.data_blocks:
            raise GuestDamaged("a thin volume is mapped outside its pool")

    def _entries(
        self, roots: _Numbers, width: int, *, shared: bool = False
    ) -> tuple[_Numbers, npt.NDArray[np.uint8]]:
        """Return keys and values (rows of `width` bytes) of a B-tree, in the order of its leaves.

        Of several trees that may share nodes (`shared`) every node is read once.
        """
        level = roots
        keys: list[_Numbers] = [np.zeros(0, np.int64)]
        values: list[npt.NDArray[np.uint8]] = [np.zeros((0, width), np.uint8)]
        seen: set[int] = set()
        for _ in range(_LEVELS_MAX):
            below: list[_Numbers] = []
            for place in level.tolist():
                if place in seen:
                    if shared:
                        continue
                    raise GuestDamaged("a B-tree of the thin pool has one node twice")
                seen.add(place)
                leaf, found, content = self._node(place, width)
                if leaf:
                    keys.append(found)
                    values.append(content)
                else:
                    below.append(_unsigned(content))
            if not below:
                break
            level = np.concatenate(below)
        else:
            raise GuestDamaged("a B-tree of the thin pool is too high")
        found = np.concatenate(keys)
        if not shared and np.any(np.diff(found) <= 0):
            raise GuestDamaged("a B-tree of the thin pool is not sorted")
        return found, np.concatenate(values)

    def _node(self, place: int, width: int) -> tuple[bool, _Numbers, npt.NDArray[np.uint8]]:
        block = self._block(place, _NODE_SALT, 8)
        _, flags, _, count, most, size, _ = _NODE.unpack_from(block)
        leaf = flags == _LEAF
        expected = width if leaf else 8
        if flags not in (_INTERNAL, _LEAF) or size != expected or count > most:
            raise GuestDamaged("a node of a B-tree of the thin pool is impossible")
        if _NODE.size + most * (8 + size) > _BLOCK:
            raise GuestDamaged("a node of a B-tree of the thin pool is too large")
        raw = np.frombuffer(block, np.uint8)
        first = _NODE.size + 8 * most
        found = _unsigned(raw[_NODE.size : _NODE.size + 8 * count].reshape(-1, 8))
        return leaf, found, raw[first : first + size * count].reshape(-1, size)

    def _block(self, place: int, salt: int, own_at: int) -> bytes:
        """Return a block that says, `own_at` bytes in, that it is the one at `place`."""
        self._left -= 1
        if self._left < 0:
            raise GuestUnsupported(f"a thin pool with more than {_BLOCKS_READ_MAX} mapping blocks")
        block = self._metadata.read(place * _BLOCK, _BLOCK)
        if int.from_bytes(block[:4], "little") != _checksum(block) ^ salt:
            raise GuestDamaged(f"block {place} of the thin pool does not match its checksum")
        if int.from_bytes(block[own_at : own_at + 8], "little") != place:
            raise GuestDamaged(f"block {place} of the thin pool is another one")
        return block


def _read_superblock(metadata: VolumeReader) -> _Superblock:
    block = metadata.read(0, _BLOCK)
    values = _SUPERBLOCK.unpack_from(block)
    crc, flags, own, _, magic, version, _, transaction = values[:8]
    data_map, mapping_root, sectors, block_sectors = values[9], values[11], values[13], values[14]
    if magic != _MAGIC or crc != _checksum(block) ^ _SUPERBLOCK_SALT or own:
        raise GuestDamaged("the superblock of the thin pool is damaged")
    incompatible = values[18]
    if version not in _VERSIONS or incompatible or block_sectors * 512 != _BLOCK:
        raise GuestUnsupported(f"a thin pool of version {version}, features {incompatible:#x}")
    data_blocks, _, bitmap_root, _ = struct.unpack_from("<QQQQ", data_map)
    if not 128 <= sectors <= 2 << 20 or data_blocks > _DATA_BLOCKS_MAX:
        raise GuestDamaged(f"a thin pool of {data_blocks} chunks of {sectors} sectors")
    return _Superblock(flags, transaction, data_blocks, bitmap_root, mapping_root, sectors * 512)


def _unsigned(rows: npt.NDArray[np.uint8]) -> _Numbers:
    """Return rows of 8 bytes as numbers; what does not fit a signed one is damage.

    Raises:
        GuestDamaged: a number is 2^63 or more.
    """
    numbers = np.ascontiguousarray(rows).view("<u8").reshape(-1).view("<i8").astype(np.int64)
    if len(numbers) and int(numbers.min()) < 0:
        raise GuestDamaged("the thin pool has an impossible number")
    return numbers


def _checksum(block: bytes) -> int:
    """Return the CRC-32C of all but the first four bytes, not inverted."""
    return crc32c.register(block[4:])
