"""A volume as it is after its journal was replayed, without writing to it.

What a running guest committed stands in the journal first, and in its place later. A point that
was not frozen holds both; only together they are the file system. This reads through the log once,
as the kernel does on mounting, and keeps where the newest copy of each block lies.

Source: Documentation/filesystems/ext4/journal.rst of the Linux kernel (jbd2). Numbers are
big-endian.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from ruchu.blocks import crc32c
from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests.ext import groups, mapping
from ruchu.guests.ext import superblock as superblocks
from ruchu.guests.ext.inodes import InodeTable
from ruchu.guests.ext.journal import MAGIC
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Extent

_HEADER = struct.Struct(">3I")
_DESCRIPTOR, _COMMIT, _REVOKE = 1, 2, 5
_SUPERBLOCKS = {3, 4}
_INCOMPAT_64BIT = 0x2
_INCOMPAT_V2, _INCOMPAT_V3 = 0x8, 0x10
# REVOKE, 64BIT, ASYNC_COMMIT, CSUM_V2, CSUM_V3. Fast commits are not understood.
_KNOWN = 0x1F
_TAG_ESCAPED, _TAG_SAME_UUID, _TAG_LAST = 1, 2, 8
_SEQUENCES = 1 << 32
# 4 GiB of blocks of 4 KiB; mke2fs makes at most 1 GiB.
_BLOCKS_MAX = 1 << 20


@dataclass(frozen=True, slots=True)
class _Log:
    """The journal: where its blocks lie on the volume, and how it is written."""

    places: list[int]
    first: int
    start: int
    sequence: int
    incompat: int
    seed: int


@dataclass(slots=True)
class _Found:
    """What is newest: of each block its copy, whether its first word was escaped, and when."""

    copies: dict[int, tuple[int, bool, int]] = field(default_factory=dict)
    revoked: dict[int, int] = field(default_factory=dict)


class ReplayedVolume:
    """A device with the newest copies of the blocks that a journal holds. Safe in threads."""

    def __init__(
        self, device: BlockReader, block: int, copies: dict[int, tuple[int, bool]]
    ) -> None:
        self._device = device
        self._block = block
        self._copies = copies

    @property
    def size(self) -> int:
        """Bytes of the volume."""
        return self._device.size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return self._device.preferred_io

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`."""
        self._device.read_into(start, buffer)
        end = start + len(buffer)
        numbers = range(start // self._block, -(-end // self._block))
        for number in self._copies if len(self._copies) < len(numbers) else numbers:
            copy = self._copies.get(number)
            if copy is None or number not in numbers:
                continue
            content = self._content(copy[0], escaped=copy[1])
            first = max(start, number * self._block)
            last = min(end, (number + 1) * self._block)
            skipped = first - number * self._block
            buffer[first - start : last - start] = content[skipped : skipped + last - first]

    def extents(self) -> Iterator[Extent]:
        """Yield what the device says."""
        return self._device.extents()

    def _content(self, place: int, *, escaped: bool) -> bytes:
        content = bytearray(self._block)
        self._device.read_into(place * self._block, memoryview(content))
        if escaped:
            content[:4] = MAGIC.to_bytes(4, "big")
        return bytes(content)


def replayed(device: BlockReader) -> BlockReader:
    """Return the volume as it is after its journal was replayed; itself if that is not needed.

    Raises:
        GuestDamaged: the journal contradicts itself.
        GuestUnsupported: it is on another device, or uses what is not understood.
    """
    volume = VolumeReader(device)
    superblock = superblocks.read(volume)
    if not superblock.incompat & superblocks.INCOMPAT_RECOVER:
        return device
    if not superblock.journal:
        raise GuestUnsupported("ext4 with a journal in use on another device")
    log = _opened(volume, superblock)
    if not log.start:
        return device
    found = _scanned(volume, superblock, log)
    copies = {
        number: (place, escaped)
        for number, (place, escaped, sequence) in found.copies.items()
        if found.revoked.get(number, -1) < sequence
    }
    return ReplayedVolume(device, superblock.block, copies)


def _opened(volume: VolumeReader, superblock: Superblock) -> _Log:
    table = InodeTable(volume, superblock, groups.read(volume, superblock))
    try:
        inode = table.read(superblock.journal)
    except NotFound:
        raise GuestDamaged("the journal of ext4 is not there") from None
    count = inode.size // superblock.block
    if not 2 <= count <= _BLOCKS_MAX:
        raise GuestDamaged("the journal of ext4 has an impossible size")
    places: list[int] = []
    for logical, length, physical, _ in mapping.runs(volume, superblock, inode).tolist():
        if logical != len(places):
            break
        places += range(physical, physical + min(length, count - len(places)))
    if len(places) < count:
        raise GuestDamaged("the journal of ext4 has a hole")
    raw = volume.read(places[0] * superblock.block, 1024)
    magic, kind, _, block, most, first, sequence, start = struct.unpack_from(">8I", raw)
    incompat = struct.unpack_from(">I", raw, 0x28)[0] if kind == max(_SUPERBLOCKS) else 0
    if incompat & ~_KNOWN:
        raise GuestUnsupported(f"a journal of ext4 with unknown features ({incompat:#x})")
    sound = magic == MAGIC and kind in _SUPERBLOCKS and block == superblock.block
    if not sound or not 1 <= first < most <= count or start >= most:
        raise GuestDamaged("the superblock of the journal of ext4")
    seed = crc32c.register(raw[0x30:0x40])
    return _Log(places[:most], first, start, sequence, incompat, seed)


def _scanned(volume: VolumeReader, superblock: Superblock, log: _Log) -> _Found:
    """Follow the log from its start to the last transaction that was committed."""
    found, pending = _Found(), _Found()
    at, left, sequence, age = log.start, len(log.places), log.sequence, 0
    while left > 0:
        raw = volume.read(log.places[at] * superblock.block, superblock.block)
        magic, kind, number = _HEADER.unpack_from(raw)
        if magic != MAGIC or number != sequence or not _right(raw, kind, log):
            break
        at, left = _next(at, 1, log), left - 1
        if kind == _DESCRIPTOR:
            for block, flags in _tags(raw, log):
                pending.copies[block] = log.places[at], bool(flags & _TAG_ESCAPED), age
                at, left = _next(at, 1, log), left - 1
        elif kind == _REVOKE:
            pending.revoked.update(dict.fromkeys(_revoked(raw, log), age))
        elif kind == _COMMIT:
            found.copies |= pending.copies
            found.revoked |= pending.revoked
            pending, sequence, age = _Found(), (sequence + 1) % _SEQUENCES, age + 1
        else:
            break
    return found


def _next(at: int, count: int, log: _Log) -> int:
    return at + count if at + count < len(log.places) else log.first


def _right(raw: bytes, kind: int, log: _Log) -> bool:
    """Tell whether a block of the log carries the right checksum, if it carries one."""
    if not log.incompat & (_INCOMPAT_V2 | _INCOMPAT_V3):
        return True
    at = 0x10 if kind == _COMMIT else len(raw) - 4
    blank = raw[:at] + bytes(4) + raw[at + 4 :]
    return crc32c.register(blank, log.seed) == int.from_bytes(raw[at : at + 4], "big")


def _tags(raw: bytes, log: _Log) -> Iterator[tuple[int, int]]:
    """Yield numbers and flags of the blocks whose copies follow a descriptor."""
    wide = log.incompat & _INCOMPAT_64BIT
    third = log.incompat & _INCOMPAT_V3
    second = log.incompat & _INCOMPAT_V2
    size = 16 if third else 8 + (2 if second else 0) + (4 if wide else 0)
    end = len(raw) - (4 if second or third else 0)
    at = _HEADER.size
    while at + size <= end:
        low, flags = struct.unpack_from(">II", raw, at)
        high = struct.unpack_from(">I", raw, at + 8)[0] if wide else 0
        # The older form has 16 bits of checksum before 16 bits of flags.
        yield low | high << 32, flags & 0xFFFF
        if flags & _TAG_LAST:
            return
        at += size + (0 if flags & _TAG_SAME_UUID else 16)


def _revoked(raw: bytes, log: _Log) -> Iterator[int]:
    """Yield numbers of blocks whose copies before this do not count."""
    form = ">Q" if log.incompat & _INCOMPAT_64BIT else ">I"
    end = min(struct.unpack_from(">I", raw, _HEADER.size)[0], len(raw))
    size = struct.calcsize(form)
    for at in range(_HEADER.size + 4, end - size + 1, size):
        yield int(struct.unpack_from(form, raw, at)[0])
