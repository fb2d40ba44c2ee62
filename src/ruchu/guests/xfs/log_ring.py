"""The ring of records that the log of XFS is: where it ends, and what the records hold.

The log is a ring of sectors of 512 bytes. Each begins with the number of the lap (cycle) that
wrote it, so the head is where that number falls. A crash may leave holes right before the head:
several records are written at once, and any of them may be missing or be there in part. Sources:
"XFS Algorithms & Data Structures", chapter Journaling Log; the comments of
`fs/xfs/xfs_log_recover.c` of the Linux kernel.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import checksums
from ruchu.guests.xfs.superblock import Superblock

OPERATION = struct.Struct(">IIBBH")
"""Head of an operation: transaction, bytes, client, flags."""
UNMOUNT = 0x20
"""Flag of the operation that a clean unmount leaves."""
MORE = "the log of XFS holds what is not in place yet (not unmounted cleanly)"
LITTLE_ENDIAN = 1
"""Form of the records of a kernel whose numbers are little-endian."""

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
_RECORDS_AT_ONCE = 8
_AT_ONCE = _RECORDS_AT_ONCE * _RECORD_MAX // _SECTOR
# mkfs.xfs makes logs of 512 blocks to 2 GiB.
_SECTORS_MAX = (2 << 30) // _SECTOR
_SECTORS_MIN = 64
# What a frozen file system has between tail and head is a handful of records.
_UNSETTLED_MAX = 64

_Words = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Record:
    """A record of the log.

    Attributes:
        at, sectors: where it is in the log, and how long, with its headers.
        lsn: its number: the lap, and `at`.
        tail: number of the first record that held what was not in place when this was written.
        summed: it carries a checksum, which is right.
        form: how the numbers in its content are written.
        operations: how many it holds.
        content: the operations.
    """

    at: int
    sectors: int
    lsn: int
    tail: int
    summed: bool
    form: int
    operations: int
    content: bytes

    @property
    def is_unmount(self) -> bool:
        """Whether it says that the file system was unmounted cleanly, and nothing else."""
        if self.operations != 1 or len(self.content) < OPERATION.size:
            return False
        return bool(OPERATION.unpack_from(self.content)[3] & UNMOUNT)


class LogRing:
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
        """Return the sector that is written next and the cycle of what lies before it.

        Raises:
            GuestDamaged: a crash left holes around it.
        """
        head, cycle = self._head()
        self._check_laps(head, cycle)
        return head, cycle

    def last(self, head: int, cycle: int) -> Record:
        """Return the last record before the head.

        Raises:
            GuestDamaged: there is none, or it is damaged.
        """
        window = min(_AT_ONCE, self._sectors)
        words = self._words(head - window, window)
        found = np.flatnonzero(words[:, 0] == _MAGIC)
        if not len(found):
            raise GuestDamaged("the log of XFS has no record before its head")
        sector = head - window + int(found[-1])
        return self._record(sector % self._sectors, cycle if sector >= 0 else cycle - 1)

    def last_whole(self) -> Record:
        """Return the last record that came through a crash, as the kernel would take it.

        Raises:
            GuestDamaged: there is none, or more is missing than a crash can take.
        """
        head, cycle = self._head()
        window = min(_AT_ONCE, self._sectors // 2)
        words = self._words(head - window, window)
        places = np.arange(head - window, head)
        expected = np.where(places >= 0, cycle, cycle - 1)
        holes = np.flatnonzero(_laps(words) != expected)
        end = int(holes[0]) if len(holes) else window
        # What is damaged further back is no torn write, and is met when it is read.
        starts = np.flatnonzero(words[:end, 0] == _MAGIC)[-_RECORDS_AT_ONCE - 1 :].tolist()
        found: Record | None = None
        for start, following in zip(starts, [*starts[1:], end], strict=True):
            sector = head - window + start
            try:
                record = self._record(sector % self._sectors, cycle if sector >= 0 else cycle - 1)
            except GuestDamaged:
                break
            if start + record.sectors > end:
                break
            found = record
            if start + record.sectors != following:
                break
        if found is None:
            raise GuestDamaged("the log of XFS has no whole record before its head")
        return found

    def outstanding(self, last: Record, head: int) -> Iterator[Record]:
        """Yield the few records from the tail to the head of what was frozen.

        Raises:
            GuestDamaged: they contradict one another, or are more than a few.
        """
        for count, record in enumerate(self.since_tail(last)):
            if count >= _UNSETTLED_MAX:
                raise GuestDamaged(MORE)
            yield record
        if (last.at + last.sectors - head) % self._sectors:
            raise GuestDamaged("the last record of the log of XFS does not reach its head")

    def since_tail(self, last: Record, bytes_max: int = _SECTORS_MAX * _SECTOR) -> Iterator[Record]:
        """Yield the records from the tail that `last` tells up to itself.

        Raises:
            GuestDamaged: one of them is damaged, or they do not lead to it.
            GuestUnsupported: they are more than `bytes_max`.
        """
        cycle, sector = last.tail >> 32, last.tail & 0xFFFFFFFF
        walked = 0
        while True:
            record = self._record(sector, cycle)
            yield record
            if record.at == last.at:
                return
            sector += record.sectors
            walked += record.sectors
            if walked > self._sectors:
                raise GuestDamaged("the log of XFS does not lead from its tail to its head")
            if walked * _SECTOR > bytes_max:
                raise GuestUnsupported(f"more than {bytes_max >> 20} MiB in the log of XFS")
            if sector >= self._sectors:
                sector, cycle = sector - self._sectors, cycle + 1

    def _head(self) -> tuple[int, int]:
        """Return where the number of the lap falls, and the cycle before it."""
        first, last = self._cycle(0), self._cycle(self._sectors - 1)
        if not first or first - last not in {0, 1}:
            raise GuestDamaged("the cycles of the log of XFS")
        if first == last:
            return self._sectors, first
        return self._fall(lambda sector: self._cycle(sector) != first), first

    def _check_laps(self, head: int, cycle: int) -> None:
        """Look for holes that a crash left: all around the head are of the lap they should be."""
        window = min(_AT_ONCE, self._sectors // 2)
        around = np.arange(head - window, head + window)
        words = self._words(head - window, 2 * window)
        # Before the head lies this lap, before the ring's start (and after the head) the last one.
        expected = np.where((around >= 0) & (around < head), cycle, cycle - 1)
        expected[around >= self._sectors] = cycle
        if not np.array_equal(_laps(words), expected):
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

    def _record(self, sector: int, cycle: int) -> Record:
        """Return the record at a sector, checked."""
        if sector >= self._sectors:
            raise GuestDamaged("the log of XFS points out of itself")
        head = _HEADER.unpack_from(self._read(sector, 1))
        (magic, own, version, length, lsn, tail, crc, _, count, form, uuid, size) = head
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
        return Record(sector, sectors, lsn, tail, bool(crc), form, count, content)


def _laps(words: _Words) -> _Words:
    """Return the laps that sectors tell: in a header it is the second word."""
    laps: _Words = np.where(words[:, 0] == _MAGIC, words[:, 1], words[:, 0])
    return laps


def _is_right(whole: bytes, headers: int, length: int) -> bool:
    """Return whether a record carries its checksum, over the used parts of what it is made of.

    There are as many headers as its buffer could need, but only those count that its length needs.
    """
    used = min(headers, -(-length // _HEADER_COVERS))
    more = b"".join(whole[at * _SECTOR :][:260] for at in range(1, used))
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
