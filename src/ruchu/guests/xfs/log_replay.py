"""An XFS as it is after its log was replayed, without writing to it.

What a running guest committed stands in the log first, and in its place later. This does in memory
what the kernel does on mounting: it reads the log twice, first for the buffers that were given up,
then for what was changed. What is in place already and newer is left alone: it tells the number of
the record that it was last changed by.

What had begun and is noted as to be finished (intents) is not finished. For most of them that is
of no account here: they free space, or keep the books of it. Sources: "XFS Algorithms & Data
Structures", chapter Journaling Log; `xfs_buf_item_recover.c`, `xfs_inode_item_recover.c` and
`xfs_icreate_item.c` of the Linux kernel, read, not copied.
"""

import struct
from collections import Counter
from dataclasses import dataclass

from ruchu.blocks import crc32c
from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import logged_inodes, superblock
from ruchu.guests.xfs.log_ring import LogRing
from ruchu.guests.xfs.log_transactions import Item, Transaction, committed
from ruchu.guests.xfs.overlay import Overlay
from ruchu.guests.xfs.superblock import Superblock

# Records between tail and head. Each MiB takes some 50 ms, and they are read twice.
_ACTIVE_MAX = 256 << 20
_SECTOR = 512
_CHUNK = 128
# Buffers that were given up, intents that were begun: about 200 bytes of memory each.
_REMEMBERED_MAX = 1 << 20

_BUFFER, _INODE, _CREATED = 0x123C, 0x123B, 0x123F
# Free, reverse-map, count and map extents, set attributes, exchange: first what is to be done.
_INTENTS = {0x1236, 0x1240, 0x1242, 0x1244, 0x1246, 0x1248}
_DONE = {0x1237, 0x1241, 0x1243, 0x1245, 0x1247, 0x1249}
# Those that change what is seen of files.
_SEEN = {0x1244, 0x1246, 0x1248}
# Quotas, which nobody sees here.
_IGNORED = {0x123D, 0x123E}

_BUFFER_HEAD = struct.Struct("<HHHHqI")
_FLAG_INODES, _FLAG_CANCELLED, _FLAG_QUOTAS = 0x1, 0x2, 0x4 | 0x8 | 0x10
# The largest buffer is 64 KiB.
_BUFFER_SECTORS_MAX = 128
_CREATED_ITEM = struct.Struct(">IIIIII")
# 64 inodes of 2 KiB make a chunk; with blocks of 64 KiB there are more.
_CREATED_MAX = 256
_INTENT = struct.Struct("<HHIQ")
_NEVER = (1 << 64) - 1

# Magic of a block to where it tells the number of its last change, and its file system.
_AGES = {
    b"AB3B": (24, 32), b"AB3C": (24, 32), b"IAB3": (24, 32), b"FIB3": (24, 32),
    b"RMB3": (24, 32), b"R3FC": (24, 32), b"BMA3": (32, 40), b"XAGF": (208, 64),
    b"XAFL": (24, 8), b"XAGI": (320, 296), b"XSLM": (48, 16), b"XDB3": (16, 24),
    b"XDD3": (16, 24), b"XDF3": (16, 24),
}  # fmt: skip
_AGES_SHORT = dict.fromkeys((b"\x3d\xf1", b"\x3d\xff", b"\x3e\xbe", b"\x3b\xee"), (24, 32))
_SUPERBLOCK_AGE, _SUPERBLOCK_UUID, _SUPERBLOCK_META = 240, 32, 248
# Blocks that are only read with a right checksum, and where it is.
_SUMS = {b"BMA3": 64, b"XFSB": 224}


@dataclass(frozen=True, slots=True)
class Replayed:
    """What came of a log.

    Attributes:
        device: the volume with what the log holds.
        unfinished: operations that had begun and would change what is seen.
    """

    device: BlockReader
    unfinished: int


def replayed(volume: VolumeReader, found: Superblock) -> Replayed:
    """Return a volume as it is after its log was replayed.

    Raises:
        GuestDamaged: the log contradicts itself or the volume.
        GuestUnsupported: it is on another device, holds what is not understood, or too much.
    """
    if found.log_start == superblock.NULL_LOG:
        raise GuestUnsupported("a log of XFS on another device")
    if not found.crc:
        # Its blocks do not tell how old they are, and no kernel of today can be the judge.
        raise GuestUnsupported("a log of XFS of version 4")
    ring = LogRing(volume, found)
    last = ring.last_whole()
    replay = _Replay(volume, found)
    for transaction in committed(ring.since_tail(last, _ACTIVE_MAX)):
        replay.note(transaction)
    for transaction in committed(ring.since_tail(last, _ACTIVE_MAX)):
        replay.apply(transaction)
    return Replayed(replay.sealed(), replay.unfinished)


@dataclass(frozen=True, slots=True)
class _Buffer:
    """What a buffer item describes: a range of sectors, and which of its chunks were logged."""

    flags: int
    sector: int
    sectors: int
    chunks: bytes

    @property
    def start(self) -> int:
        return self.sector * _SECTOR


class _Replay:
    """What is known of a log, and the volume with what was applied so far."""

    def __init__(self, volume: VolumeReader, found: Superblock) -> None:
        self._volume = volume
        self._found = found
        self._overlay = Overlay(volume)
        # Buffers that are given up further on: as often as they are.
        self._cancelled: Counter[tuple[int, int]] = Counter()
        self._cancelled_starts: Counter[int] = Counter()
        self._intents: set[tuple[int, int]] = set()
        self._sealable: set[tuple[int, int]] = set()

    @property
    def unfinished(self) -> int:
        """How many operations had begun that change what is seen."""
        return sum(kind in _SEEN for kind, _ in self._intents)

    def note(self, transaction: Transaction) -> None:
        """Take down what must be known before anything is applied."""
        for item in transaction.items:
            if item.kind == _BUFFER:
                buffer = _buffer(item)
                if buffer.flags & _FLAG_CANCELLED:
                    self._cancelled[buffer.sector, buffer.sectors] += 1
                    self._cancelled_starts[buffer.sector] += 1
            elif item.kind in _INTENTS | _DONE:
                self._note_intent(item)
            elif item.kind not in {_INODE, _CREATED} | _IGNORED:
                raise GuestUnsupported(f"the item {item.kind:#x} in the log of XFS")
        if len(self._cancelled) + len(self._intents) > _REMEMBERED_MAX:
            raise GuestUnsupported("too much that was given up in the log of XFS")

    def apply(self, transaction: Transaction) -> None:
        """Apply a transaction: blocks first, then the inodes that may lie in them."""
        later: list[Item] = []
        cancels: list[_Buffer] = []
        for item in transaction.items:
            if item.kind == _INODE:
                later.append(item)
            elif item.kind == _CREATED:
                self._create(item)
            elif item.kind == _BUFFER:
                buffer = _buffer(item)
                if buffer.flags & _FLAG_CANCELLED:
                    cancels.append(buffer)
                elif not buffer.flags & (_FLAG_INODES | _FLAG_QUOTAS):
                    # Of a buffer of inodes only the list of what was removed while open counts.
                    self._change(buffer, item.regions[1:], transaction.lsn)
        for item in later:
            self._inode(item, transaction.lsn)
        for buffer in cancels:
            self._cancelled[buffer.sector, buffer.sectors] -= 1
            self._cancelled_starts[buffer.sector] -= 1

    def sealed(self) -> Overlay:
        """Return the volume, where blocks that are only read with a checksum have theirs."""
        for start, length in self._sealable:
            content = bytearray(self._overlay.read(start, length))
            at = _SUMS.get(bytes(content[:4]))
            if at is not None:
                content[at : at + 4] = bytes(4)
                crc = crc32c.checksum(bytes(content))
                self._overlay.replace(start + at, crc.to_bytes(4, "little"))
        return self._overlay

    def _note_intent(self, item: Item) -> None:
        if len(item.regions[0]) < _INTENT.size:
            raise GuestDamaged("an intent in the log of XFS")
        kind, _, _, number = _INTENT.unpack_from(item.regions[0])
        if kind in _INTENTS:
            self._intents.add((kind, number))
        else:
            self._intents.discard((kind - 1, number))

    def _change(self, buffer: _Buffer, regions: tuple[bytes, ...], lsn: int) -> None:
        """Put the chunks of a buffer in their place, unless what is there is newer."""
        if self._cancelled[buffer.sector, buffer.sectors] > 0:
            return
        length = buffer.sectors * _SECTOR
        if buffer.sector < 0 or buffer.start + length > self._found.size:
            raise GuestDamaged(f"a buffer at sector {buffer.sector} in the log of XFS")
        age = self._age(self._volume.read(buffer.start, min(length, _SECTOR)))
        if age is not None and age >= lsn:
            return
        at = 0
        waiting = iter(regions)
        while (at := buffer.chunks.find(1, at)) >= 0:
            end = buffer.chunks.find(0, at)
            end = len(buffer.chunks) if end < 0 else end
            # Neighbours may be in several regions.
            region = next(waiting, b"")
            if not region or len(region) % _CHUNK or len(region) // _CHUNK > end - at:
                raise GuestDamaged("a buffer in the log of XFS is not whole")
            self._overlay.replace(buffer.start + at * _CHUNK, region)
            at += len(region) // _CHUNK
        if next(waiting, None) is not None:
            raise GuestDamaged("a buffer in the log of XFS has more than it tells")
        self._sealable.add((buffer.start, length))

    def _age(self, head: bytes) -> int | None:
        """Return the number of the last change of the block that is in place, if it tells one."""
        found = self._found
        if head[:4] == superblock.MAGIC:
            meta = found.incompat & superblock.INCOMPAT_META_UUID
            where = _SUPERBLOCK_AGE, _SUPERBLOCK_META if meta else _SUPERBLOCK_UUID
        else:
            where = _AGES.get(head[:4]) or _AGES_SHORT.get(head[8:10]) or (0, 0)
        at, uuid_at = where
        if not at or head[uuid_at : uuid_at + 16] != found.meta_uuid:
            return None
        age = int.from_bytes(head[at : at + 8], "big")
        return age if age not in {0, _NEVER} else None

    def _inode(self, item: Item, lsn: int) -> None:
        logged = logged_inodes.parsed(item)
        if self._cancelled[logged.sector, logged.sectors] > 0:
            return
        address = logged.sector * _SECTOR + logged.offset
        if address != self._found.inode_address(logged.number):
            raise GuestDamaged(f"XFS inode {logged.number} is logged in a wrong place")
        here = self._overlay.read(address, self._found.inode)
        changed = logged_inodes.applied(logged, here, lsn)
        if changed is not None:
            self._overlay.replace(address, changed)

    def _create(self, item: Item) -> None:
        """Make new inodes, which are not yet in use, unless they were given up again."""
        found = self._found
        if len(item.regions[0]) < 4 + _CREATED_ITEM.size:
            raise GuestDamaged("new inodes in the log of XFS")
        group, block, count, size, length, generation = _CREATED_ITEM.unpack_from(
            item.regions[0], 4
        )
        if size != found.inode or not 0 < count <= _CREATED_MAX:
            raise GuestDamaged(f"{count} new inodes of {size} bytes in the log of XFS")
        if count * size != length * found.block or not block or block >> found.ag_block_log:
            raise GuestDamaged(f"{count} new inodes in {length} blocks in the log of XFS")
        number = group << found.ag_block_log | block
        start = found.address(number, length)
        starts = range(start // _SECTOR, (start + count * size) // _SECTOR)
        if any(self._cancelled_starts[sector] > 0 for sector in starts):
            return
        first = number << found.inodes_log
        content = b"".join(
            logged_inodes.blank(first + index, generation, found.meta_uuid, size)
            for index in range(count)
        )
        self._overlay.replace(start, content)


def _buffer(item: Item) -> _Buffer:
    head = item.regions[0]
    if len(head) < _BUFFER_HEAD.size:
        raise GuestDamaged("a buffer in the log of XFS")
    _, _, flags, sectors, sector, words = _BUFFER_HEAD.unpack_from(head)
    chunks = sectors * (_SECTOR // _CHUNK)
    if not 0 < sectors <= _BUFFER_SECTORS_MAX or _BUFFER_HEAD.size + 4 * words > len(head):
        raise GuestDamaged(f"a buffer of {sectors} sectors in the log of XFS")
    bits = int.from_bytes(head[_BUFFER_HEAD.size : _BUFFER_HEAD.size + 4 * words], "little")
    if bits >> chunks:
        raise GuestDamaged("a buffer in the log of XFS changes what is behind it")
    return _Buffer(flags, sector, sectors, bytes(bits >> at & 1 for at in range(chunks)))
