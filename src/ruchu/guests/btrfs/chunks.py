"""Chunks: where on the device a logical address of Btrfs lies.

Everything in Btrfs is named by logical addresses. A chunk maps a range of them to one place on the
device (single) or two (DUP). Source: btrfs.readthedocs.io, "On-disk Format", CHUNK_ITEM.
"""

import bisect
import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.btrfs.superblock import Superblock
from ruchu.guests.contract import Ranges

CHUNK_ITEM = 228
_HEAD = struct.Struct("<QQQQIIIHH")
_STRIPE = struct.Struct("<QQ16s")
_KEY = struct.Struct("<QBQ")
_RAID0, _DUP = 1 << 3, 1 << 5
_PROFILES = {
    1 << 4: "RAID1",
    1 << 6: "RAID10",
    1 << 7: "RAID5",
    1 << 8: "RAID6",
    1 << 9: "RAID1C3",
    1 << 10: "RAID1C4",
    1 << 11: "remapped",
}


@dataclass(frozen=True, slots=True)
class Chunk:
    """Logical `start`, `length` in bytes, and where each copy of it begins on the device."""

    start: int
    length: int
    copies: tuple[int, ...]

    @property
    def end(self) -> int:
        """First logical address after it."""
        return self.start + self.length


def parse(start: int, item: bytes, superblock: Superblock) -> Chunk:
    """Return the chunk of an item.

    Raises:
        GuestDamaged: it contradicts itself or leaves the device.
        GuestUnsupported: it is spread over several devices.
    """
    if len(item) < _HEAD.size + _STRIPE.size:
        raise GuestDamaged("a Btrfs chunk is cut short")
    length, _, _, kind, _, _, _, count, _ = _HEAD.unpack_from(item)
    _check_profile(kind, count)
    if len(item) < _HEAD.size + count * _STRIPE.size:
        raise GuestDamaged("a Btrfs chunk is cut short")
    copies = []
    for index in range(count):
        device, place, _ = _STRIPE.unpack_from(item, _HEAD.size + index * _STRIPE.size)
        if device != superblock.device:
            raise GuestUnsupported(f"Btrfs with a chunk on device {device}")
        if place + length > superblock.device_size:
            raise GuestDamaged("a Btrfs chunk leaves the device")
        copies.append(place)
    if not length or start + length >= 1 << 63 or (start | length) % superblock.sector:
        raise GuestDamaged(f"a Btrfs chunk of {length} bytes at {start}")
    return Chunk(start, length, tuple(copies))


def _check_profile(kind: int, count: int) -> None:
    for bit, name in _PROFILES.items():
        if kind & bit:
            raise GuestUnsupported(f"Btrfs with profile {name}")
    if kind & _RAID0 and count > 1:
        raise GuestUnsupported("Btrfs with profile RAID0")
    # RAID0 of one stripe, which kernels since 5.15 allow, lies as `single` does.
    if count != (2 if kind & _DUP else 1):
        raise GuestDamaged(f"a Btrfs chunk has {count} copies")


def of_system(superblock: Superblock) -> Iterator[Chunk]:
    """Yield the chunks that the superblock holds, without which nothing can be read.

    Raises:
        GuestDamaged, GuestUnsupported: as `parse`.
    """
    raw, at = superblock.system_chunks, 0
    while at < len(raw):
        if at + _KEY.size + _HEAD.size > len(raw):
            raise GuestDamaged("the system chunks of Btrfs are cut short")
        _, kind, start = _KEY.unpack_from(raw, at)
        at += _KEY.size
        if kind != CHUNK_ITEM:
            raise GuestDamaged("the system chunks of Btrfs hold something else")
        (count,) = struct.unpack_from("<H", raw, at + 44)
        size = _HEAD.size + count * _STRIPE.size
        yield parse(start, raw[at : at + size], superblock)
        at += size


class ChunkMap:
    """Logical to physical addresses. Never changes."""

    def __init__(self, chunks: Iterable[Chunk]) -> None:
        """Take chunks in any order.

        Raises:
            GuestDamaged: two chunks claim the same logical address.
        """
        self.chunks = sorted(set(chunks), key=lambda chunk: chunk.start)
        self._starts = [chunk.start for chunk in self.chunks]
        for before, after in zip(self.chunks, self.chunks[1:], strict=False):
            if before.end > after.start:
                raise GuestDamaged("chunks of Btrfs overlap")

    def places(self, address: int, length: int) -> tuple[int, ...]:
        """Return where each copy of a logical range lies on the device.

        Raises:
            GuestDamaged: the range is not inside one chunk.
        """
        index = bisect.bisect_right(self._starts, address) - 1
        if index >= 0 and address + length <= self.chunks[index].end:
            chunk = self.chunks[index]
            return tuple(address - chunk.start + copy for copy in chunk.copies)
        raise GuestDamaged(f"{length} bytes at {address}, which no chunk of Btrfs maps")

    def physical(self, logical: npt.NDArray[np.int64]) -> Ranges:
        """Return where all copies of logical rows (first, after the last) lie.

        Raises:
            GuestDamaged: a row is not inside one chunk.
        """
        if not len(logical):
            return ranges.empty()
        if not self.chunks:
            raise GuestDamaged("Btrfs has no chunks")
        starts = np.array(self._starts, np.int64)
        ends = np.array([chunk.end for chunk in self.chunks], np.int64)
        index = np.searchsorted(starts, logical[:, 0], side="right") - 1
        if (index < 0).any() or (logical[:, 1] > ends[index]).any():
            raise GuestDamaged("an extent that no chunk of Btrfs maps")
        first = np.array([chunk.copies[0] for chunk in self.chunks], np.int64)
        last = np.array([chunk.copies[-1] for chunk in self.chunks], np.int64)
        rows = [logical + (copy[index] - starts[index])[:, None] for copy in (first, last)]
        return ranges.joined(np.concatenate(rows))
