"""Disk maps: which chunk holds which block (`docs/formats/vds.md`, section 8). Pure.

In memory a pack is a number of the `PackTable`; on storage it is its id.
"""

import struct
import threading
from typing import Any

import numpy as np
import numpy.typing as npt

from ruchu.errors import Damaged

SEGMENT_BLOCKS = 1024
BLOCK_BYTES_DEFAULT = 64 << 10
BLOCK_BYTES_LARGE = 256 << 10
# Above this size 64 KiB blocks would make maps of more than 1.3 GB.
LARGE_DISK_BYTES = 4 << 40
BLOCK_SIZES = tuple(1 << bits for bits in range(12, 23))
# Roots must stay below the largest chunk: 1,048,576 segments are 64 TiB of 64 KiB blocks.
SEGMENTS_MAX = 1 << 20

SLOT = np.dtype([("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"), ("prefix", "<u8")])
"""Where a block is. `stored` 0: it is all zeros. `prefix`: first 8 bytes of the chunk id."""

BRANCH = np.dtype([
    ("segment", "<u4"), ("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"), ("id", "V32"),
])  # fmt: skip
"""Where a segment is."""

Slots = npt.NDArray[np.void]
Branches = npt.NDArray[np.void]

_SEGMENT = struct.Struct("<4sIQII")
_ROOT = struct.Struct("<4sIQIIII")


class PackTable:
    """Numbers for pack ids, for one chain in one process. Safe in several threads."""

    def __init__(self) -> None:
        self._ids: list[bytes] = []
        self._numbers: dict[bytes, int] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._ids)

    def number(self, pack: bytes) -> int:
        """Return the number of a pack id, a new one if it is new."""
        found = self._numbers.get(pack)
        if found is None:
            with self._lock:
                found = self._numbers.setdefault(pack, len(self._ids))
                if found == len(self._ids):
                    self._ids.append(pack)
        return found

    def id(self, number: int) -> bytes:
        """Return the 16-byte id of a number."""
        return self._ids[number]

    def numbers(self, packs: list[bytes]) -> npt.NDArray[np.uint32]:
        """Return the numbers of several ids."""
        return np.array([self.number(pack) for pack in packs], "<u4")


def _local_packs(
    table: PackTable, numbers: npt.NDArray[np.uint32]
) -> tuple[list[bytes], npt.NDArray[np.intp]]:
    """Return the distinct packs, in the order of their ids, and each row's index into them.

    The order makes equal maps equal bytes, whatever numbers this process gave.
    """
    distinct, inverse = np.unique(numbers, return_inverse=True)
    ids = [table.id(int(number)) for number in distinct]
    order = sorted(range(len(ids)), key=ids.__getitem__)
    rank = np.empty(len(ids), np.intp)
    rank[order] = np.arange(len(ids))
    return [ids[i] for i in order], rank[inverse]


def encode_segment(first_block: int, slots: Slots, table: PackTable) -> bytes:
    """Return the chunk of a segment."""
    stored = slots["stored"]
    used = stored > 0
    ids, index = _local_packs(table, slots["pack"][used])
    packs = np.zeros(len(slots), "<u2")
    packs[used] = index
    zero = ~used
    offset, prefix = slots["offset"].copy(), slots["prefix"].copy()
    offset[zero] = 0
    prefix[zero] = 0
    front = _SEGMENT.pack(b"RSEG", len(slots), first_block, len(ids), 0)
    columns = (packs, offset, np.ascontiguousarray(stored), prefix)
    return b"".join((front, *ids, *(column.tobytes() for column in columns)))


def decode_segment(name: str, chunk: bytes, first_block: int, table: PackTable) -> Slots:
    """Return the slots of a segment (N ≤ 1,024).

    Raises:
        Damaged: it is not the segment that begins at `first_block`.
    """
    magic, count, first, packs, _ = _head(name, _SEGMENT, chunk)
    expected = _SEGMENT.size + 16 * packs + 18 * count
    if magic != b"RSEG" or first != first_block or count > SEGMENT_BLOCKS:
        raise Damaged(f"{name}: segment at block {first} instead of {first_block}")
    if len(chunk) != expected:
        raise Damaged(f"{name}: segment of {len(chunk)} bytes instead of {expected}")
    numbers, at = _pack_ids(chunk, _SEGMENT.size, packs, table)
    slots = np.zeros(count, SLOT)
    index = np.frombuffer(chunk, "<u2", count, at)
    slots["offset"] = np.frombuffer(chunk, "<u4", count, at + 2 * count)
    slots["stored"] = np.frombuffer(chunk, "<u4", count, at + 6 * count)
    slots["prefix"] = np.frombuffer(chunk, "<u8", count, at + 10 * count)
    used = slots["stored"] > 0
    if used.any():
        if int(index[used].max()) >= packs:
            raise Damaged(f"{name}: segment names a pack that it does not list")
        slots["pack"][used] = numbers[index[used]]
    return slots


def encode_root(block_size: int, size: int, branches: Branches, table: PackTable) -> bytes:
    """Return the chunk of a map root."""
    assert len(branches) <= SEGMENTS_MAX
    ids, index = _local_packs(table, branches["pack"])
    front = _ROOT.pack(b"ROOT", block_size, size, SEGMENT_BLOCKS, len(branches), len(ids), 0)
    columns = (
        branches["segment"], index.astype("<u4"), branches["offset"], branches["stored"],
        branches["id"],
    )  # fmt: skip
    return b"".join((front, *ids, *(np.ascontiguousarray(c).tobytes() for c in columns)))


def decode_root(name: str, chunk: bytes, size: int, table: PackTable) -> tuple[int, Branches]:
    """Return the block size and the branches (ascending by segment) of a map root."""
    magic, block_size, found_size, segment_blocks, count, packs, _ = _head(name, _ROOT, chunk)
    if magic != b"ROOT" or found_size != size or segment_blocks != SEGMENT_BLOCKS:
        raise Damaged(f"{name}: root of a disk of {found_size} bytes instead of {size}")
    if block_size not in BLOCK_SIZES or len(chunk) != _ROOT.size + 16 * packs + 48 * count:
        raise Damaged(f"{name}: root of {len(chunk)} bytes for {count} segments")
    numbers, at = _pack_ids(chunk, _ROOT.size, packs, table)
    branches = np.zeros(count, BRANCH)
    branches["segment"] = np.frombuffer(chunk, "<u4", count, at)
    index = np.frombuffer(chunk, "<u4", count, at + 4 * count)
    branches["offset"] = np.frombuffer(chunk, "<u4", count, at + 8 * count)
    branches["stored"] = np.frombuffer(chunk, "<u4", count, at + 12 * count)
    branches["id"] = np.frombuffer(chunk, "V32", count, at + 16 * count)
    if count:
        blocks = -(-size // block_size)
        last = int(branches["segment"][-1])
        ascending = (np.diff(branches["segment"].astype("<i8")) > 0).all()
        if int(index.max()) >= packs or not ascending or last * SEGMENT_BLOCKS >= blocks:
            raise Damaged(f"{name}: root with branches out of order or bounds")
        branches["pack"] = numbers[index]
    return block_size, branches


def _head(name: str, layout: struct.Struct, chunk: bytes) -> tuple[Any, ...]:
    if len(chunk) < layout.size:
        raise Damaged(f"{name}: map of {len(chunk)} bytes")
    return layout.unpack_from(chunk)


def _pack_ids(
    chunk: bytes, at: int, count: int, table: PackTable
) -> tuple[npt.NDArray[np.uint32], int]:
    ids = [chunk[at + 16 * i : at + 16 * i + 16] for i in range(count)]
    return table.numbers(ids), at + 16 * count


def segment_length(size: int, block_size: int, segment: int) -> int:
    """Return how many blocks a segment of a disk has."""
    blocks = -(-size // block_size)
    return max(0, min(SEGMENT_BLOCKS, blocks - segment * SEGMENT_BLOCKS))


def resized(slots: Slots, count: int) -> Slots:
    """Return slots cut or filled with zero blocks to a length (the disk changed its size)."""
    result = np.zeros(count, SLOT)
    kept = min(count, len(slots))
    result[:kept] = slots[:kept]
    return result
