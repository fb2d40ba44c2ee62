"""The log of XFS: whether anything in it is not yet in place.

The log is a ring of sectors of 512 bytes. Each begins with the number of the lap (cycle) that
wrote it, so the head is where that number falls. A clean unmount leaves a record of its own right
before the head; anything else means that what is in place is older than what the log holds.

Freezing writes everything into place and then deliberately logs the superblock once more, so that
a recovery after a crash looks at files that were deleted while open. So a frozen XFS looks dirty:
it counts as settled only if each transaction from the tail to the head is whole and logs nothing
but the superblock. Sources: "XFS Algorithms & Data Structures", chapter Journaling Log; the
comments of `fs/xfs/xfs_log_recover.c` and `xfs_log.c` of the Linux kernel.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestDamaged
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import checksums, superblock
from ruchu.guests.xfs.superblock import Superblock

_SECTOR = 512
_MAGIC = 0xFEEDBABE
_CYCLES_KEPT = 64
_HEADER = struct.Struct(">IIIIQQIII256xI16sI")
_CRC_AT = 32
# The kernel takes 324 bytes of the header into the checksum, and 4 more where it aligns to 8.
_HEADER_SUMMED = (328, 324)
_VERSION_2 = 2
# A header tells the first words of this many bytes; larger records have more headers.
_HEADER_COVERS = 32 << 10
_RECORD_MAX = 256 << 10
# Records that may be written at once: so far before the head a crash can leave holes.
_AT_ONCE = 8 * _RECORD_MAX // _SECTOR
# mkfs.xfs makes logs of 512 blocks to 2 GiB.
_SECTORS_MAX = (2 << 30) // _SECTOR
_SECTORS_MIN = 64
# What a frozen file system has between tail and head is a handful of records.
_UNSETTLED_MAX = 64

_OPERATION = struct.Struct(">IIBBH")
_START, _COMMIT, _SPLIT, _UNMOUNT = 0x01, 0x02, 0x04 | 0x08 | 0x10, 0x20
_TRANSACTION_MAGICS = {b"NART": "<", b"TRAN": ">"}
_TRANSACTION_HEADER = 16
_ITEM_BUFFER = 0x123C
_BUFFER_CANCELLED = 0x2
_MORE = "the log of XFS holds what is not in place yet (not unmounted cleanly)"

_Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class _Record:
    """A record: its sector in the log, its content, and what its header tells."""

    at: int
    sectors: int
    tail: int
    summed: bool
    operations: int
    content: bytes


@dataclass(slots=True)
class _Transaction:
    """How far a transaction was read.

    Attributes:
        order: its byte order; empty before its header.
        told: what its header counts: regions since Linux 2.6.37, items before.
        items, regions: what was met.
        due: regions of the item that are still to come.
    """

    order: str = ""
    told: int = 0
    items: int = 0
    regions: int = 0
    due: int = 0


def unsettled(volume: VolumeReader, found: Superblock, *, frozen: bool) -> str:
    """Return why what is in place may be out of date, in plain words; empty if it is not.

    Raises:
        GuestDamaged: the log contradicts itself.
    """
    if found.log_start == superblock.NULL_LOG:
        return "the log of XFS is on another device"
    ring = _Ring(volume, found)
    head, cycle = ring.head()
    last = ring.last(head, cycle)
    if _is_unmount(last):
        return ""
    if not frozen:
        return _MORE
    harmless = all(
        _is_unmount(record) or (_is_harmless(record) and (record.summed or not found.crc))
        for record in ring.outstanding(last, head)
    )
    return "" if harmless else _MORE


class _Ring:
    """The sectors of a log."""

    def __init__(self, volume: VolumeReader, found: Superblock) -> None:
        """Take a log inside the volume.

        Raises:
            GuestDamaged: it is not inside a group, or impossibly small or large.
        """
        self._volume = volume
        self._superblock = found
        self._start = found.address(found.log_start, found.log_blocks)
        self._sectors = found.log_blocks * found.block // _SECTOR
        if not _SECTORS_MIN <= self._sectors <= _SECTORS_MAX:
            raise GuestDamaged(f"a log of XFS of {self._sectors} sectors")

    def head(self) -> tuple[int, int]:
        """Return the sector that is written next and the cycle of what lies before it."""
        first, last = self._cycle(0), self._cycle(self._sectors - 1)
        if not first or first - last not in {0, 1}:
            raise GuestDamaged("the cycles of the log of XFS")
        head = self._sectors
        if first != last:
            head = self._fall(lambda sector: self._cycle(sector) != first)
        self._check_laps(head, first)
        return head, first

    def last(self, head: int, cycle: int) -> _Record:
        """Return the last record before the head."""
        window = min(_AT_ONCE, self._sectors)
        words = self._words(head - window, window)
        found = np.flatnonzero(words[:, 0] == _MAGIC)
        if not len(found):
            raise GuestDamaged("the log of XFS has no record before its head")
        sector = head - window + int(found[-1])
        return self._record(sector % self._sectors, cycle if sector >= 0 else cycle - 1)

    def outstanding(self, last: _Record, head: int) -> Iterator[_Record]:
        """Yield the records from the tail to the head."""
        cycle, sector = last.tail >> 32, last.tail & 0xFFFFFFFF
        for _ in range(_UNSETTLED_MAX):
            record = self._record(sector, cycle)
            yield record
            if record.at == last.at:
                if (record.at + record.sectors - head) % self._sectors:
                    raise GuestDamaged("the last record of the log of XFS does not reach its head")
                return
            sector += record.sectors
            if sector >= self._sectors:
                sector, cycle = sector - self._sectors, cycle + 1
        raise GuestDamaged(_MORE)

    def _check_laps(self, head: int, cycle: int) -> None:
        """Look for holes that a crash left: all around the head are of the lap they should be."""
        window = min(_AT_ONCE, self._sectors // 2)
        around = np.arange(head - window, head + window)
        words = self._words(head - window, 2 * window)
        laps = np.where(words[:, 0] == _MAGIC, words[:, 1], words[:, 0])
        # Before the head lies this lap, before the ring's start (and after the head) the last one.
        expected = np.where((around >= 0) & (around < head), cycle, cycle - 1)
        expected[around >= self._sectors] = cycle
        if not np.array_equal(laps, expected):
            raise GuestDamaged("the log of XFS was torn by a crash")

    def _fall(self, fallen: Callable[[int], bool]) -> int:
        """Return the first sector behind the head, where the first is before and the last not."""
        below, above = 0, self._sectors - 1
        while above - below > 1:
            middle = (below + above) // 2
            if fallen(middle):
                above = middle
            else:
                below = middle
        return above

    def _cycle(self, sector: int) -> int:
        first, second = struct.unpack_from(">II", self._read(sector, 1))
        return int(second if first == _MAGIC else first)

    def _words(self, sector: int, count: int) -> _Words:
        """Return the first two words of each of `count` sectors, shape (count, 2)."""
        raw = np.frombuffer(self._read(sector % self._sectors, count), ">u4")
        return raw.reshape(count, -1)[:, :2].astype(np.uint32)

    def _read(self, sector: int, count: int) -> bytes:
        """Return sectors, around the end of the ring."""
        here = min(count, self._sectors - sector)
        data = self._volume.read(self._start + sector * _SECTOR, here * _SECTOR)
        if here < count:
            data += self._volume.read(self._start, (count - here) * _SECTOR)
        return data

    def _record(self, sector: int, cycle: int) -> _Record:
        """Return the record at a sector, checked."""
        if sector >= self._sectors:
            raise GuestDamaged("the log of XFS points out of itself")
        raw = self._read(sector, 1)
        magic, own, version, length, lsn, tail, crc, _, count, _, uuid, size = _HEADER.unpack_from(
            raw
        )
        if magic != _MAGIC or own != cycle or lsn != cycle << 32 | sector:
            raise GuestDamaged(f"the record at sector {sector} of the log of XFS")
        if uuid != self._superblock.uuid:
            raise GuestDamaged("the log of XFS belongs to another file system")
        large = version & _VERSION_2 and size > _HEADER_COVERS
        headers = -(-size // _HEADER_COVERS) if large else 1
        sectors = headers + -(-length // _SECTOR)
        if length > _RECORD_MAX or size > _RECORD_MAX or sectors > self._sectors:
            raise GuestDamaged(f"a record of {length} bytes in the log of XFS")
        whole = self._read(sector, sectors)
        # What mkfs.xfs and xfs_repair write has no checksum; the kernel takes that as well.
        if crc and not _is_right(whole, headers, length):
            raise GuestDamaged(f"the checksum of the log of XFS at sector {sector}")
        content = _restored(whole, headers)[:length]
        return _Record(sector, sectors, tail, bool(crc), count, content)


def _is_right(whole: bytes, headers: int, length: int) -> bool:
    """Return whether a record carries its checksum, over the used parts of what it is made of."""
    more = b"".join(whole[at * _SECTOR :][:260] for at in range(1, headers))
    rest = more + whole[headers * _SECTOR :][:length]
    return any(checksums.right_one(whole[:head] + rest, _CRC_AT) for head in _HEADER_SUMMED)


def _restored(whole: bytes, headers: int) -> bytes:
    """Return the content with the first words of its sectors, which the cycle had replaced."""
    content = np.frombuffer(whole, ">u4", offset=headers * _SECTOR).reshape(-1, _SECTOR // 4).copy()
    kept = [whole[44 : 44 + 4 * _CYCLES_KEPT]]
    kept += [whole[at * _SECTOR + 4 :][: 4 * _CYCLES_KEPT] for at in range(1, headers)]
    words = np.frombuffer(b"".join(kept), ">u4")
    if len(words) < len(content):
        raise GuestDamaged("a record of the log of XFS is longer than its headers tell")
    content[:, 0] = words[: len(content)]
    return content.tobytes()


def _is_unmount(record: _Record) -> bool:
    if record.operations != 1 or len(record.content) < _OPERATION.size:
        return False
    return bool(_OPERATION.unpack_from(record.content)[3] & _UNMOUNT)


def _is_harmless(record: _Record) -> bool:
    """Return whether a record holds nothing but whole transactions of the superblock alone."""
    at = 0
    begun: dict[int, _Transaction] = {}
    for _ in range(record.operations):
        if at + _OPERATION.size > len(record.content):
            return False
        number, length, _, flags, _ = _OPERATION.unpack_from(record.content, at)
        at += _OPERATION.size + length
        if flags & _SPLIT or at > len(record.content):
            return False
        if flags & _UNMOUNT:
            continue
        region = record.content[at - length : at]
        if not _follow(begun, number, flags, region):
            return False
    return not begun


def _follow(begun: dict[int, _Transaction], number: int, flags: int, region: bytes) -> bool:
    """Take one operation into account; False if it may be anything but the superblock."""
    if flags & _START:
        begun[number] = _Transaction()
        return not region and not flags & _COMMIT
    transaction = begun.get(number)
    if transaction is None:
        return False
    if flags & _COMMIT:
        del begun[number]
        return not region and _is_whole(transaction)
    return _add(transaction, region)


def _is_whole(transaction: _Transaction) -> bool:
    counted = transaction.told in {transaction.regions, transaction.items}
    return bool(transaction.order) and counted and not transaction.due


def _add(transaction: _Transaction, region: bytes) -> bool:
    """Take a region into account: the header, the beginning of an item, or more of it."""
    if not transaction.order:
        transaction.order = _TRANSACTION_MAGICS.get(region[:4], "")
        if not transaction.order or len(region) != _TRANSACTION_HEADER:
            return False
        (transaction.told,) = struct.unpack_from(f"{transaction.order}I", region, 12)
        return True
    transaction.regions += 1
    if transaction.due:
        transaction.due -= 1
        return True
    transaction.items += 1
    layout = struct.Struct(f"{transaction.order}HHHHq")
    if len(region) < layout.size:
        return False
    # What is changed, told as a buffer at an address.
    kind, regions, flags, _, address = layout.unpack_from(region)
    transaction.due = max(0, regions - 1)
    return bool(kind == _ITEM_BUFFER and address == 0 and not flags & _BUFFER_CANCELLED)
