"""Volumes made of pieces of disks: partitions, logical volumes, thin volumes.

A `MappedDevice` is always made of pieces of whole disks, however many layers lie between: what is
cut out of one, or put together from several, is resolved when it is made. So reading looks up one
table, and any range of a volume can be told as ranges of disks.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.contract import Ranges
from ruchu.model.extents import Content, Extent

_Rows = npt.NDArray[np.int64]
# A row takes 32 bytes: 256 MiB. That is a stripe of 512 GiB in 64 KiB pieces.
PIECES_MAX = 8 << 20
_HOLE = -1
_PREFERRED_IO = 1 << 20


@dataclass(frozen=True, slots=True)
class Disk:
    """A whole disk of a guest.

    Attributes:
        key: its name in the layout, such as `vda`.
        reader: its content.
    """

    key: str
    reader: BlockReader


class MappedDevice:
    """A BlockReader made of linear pieces of disks, and of holes that read as zeros.

    Safe in several threads, as the disks are.
    """

    def __init__(self, disks: Sequence[Disk], rows: _Rows, size: int) -> None:
        """Take rows of (start in the volume, disk number or -1, start in the disk, length).

        The rows cover 0..size in order, without gap; neighbours that continue one another are
        made one.

        Raises:
            GuestUnsupported: there are more than `PIECES_MAX` pieces.
            GuestDamaged: a piece is not inside its disk, or the pieces do not cover the volume.
        """
        rows = _merged(rows[rows[:, 3] > 0])
        if len(rows) > PIECES_MAX:
            raise GuestUnsupported(f"a volume in {len(rows)} pieces")
        sizes = np.array([disk.reader.size for disk in disks] + [0], np.int64)
        real = rows[:, 1] != _HOLE
        outside = (rows[:, 2] < 0) | (rows[:, 2] + rows[:, 3] > sizes[rows[:, 1]])
        if np.any(outside & real):
            raise GuestDamaged("a part of the volume lies outside its disk")
        ends = rows[:, 0] + rows[:, 3]
        if not np.array_equal(rows[:, 0], np.concatenate(([0], ends[:-1]))[: len(rows)]):
            raise GuestDamaged("the parts of the volume overlap or leave gaps")
        if (int(ends[-1]) if len(rows) else 0) != size:
            raise GuestDamaged("the parts of the volume are not as long as it is")
        self._disks = tuple(disks)
        self._rows = rows
        self._starts = np.ascontiguousarray(rows[:, 0])
        self._size = size

    @property
    def size(self) -> int:
        """Bytes of the volume."""
        return self._size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return max([_PREFERRED_IO] + [disk.reader.preferred_io for disk in self._disks])

    @property
    def disks(self) -> tuple[str, ...]:
        """Keys of the disks that hold a part of it."""
        used = {int(number) for number in np.unique(self._rows[:, 1])} - {_HOLE}
        return tuple(sorted({self._disks[number].key for number in used}))

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer.

        Raises:
            GuestDamaged: the range is not inside the volume.
            RuchuError: a disk could not be read.
        """
        if start < 0 or start + len(buffer) > self._size:
            raise GuestDamaged(f"{len(buffer)} bytes at {start} of a volume of {self._size}")
        done = 0
        index = int(np.searchsorted(self._starts, start, side="right")) - 1
        while done < len(buffer):
            begin, disk, source, length = self._rows[index].tolist()
            skip = start + done - begin
            part = buffer[done : done + length - skip]
            if disk == _HOLE:
                part[:] = bytes(len(part))
            else:
                self._disks[disk].reader.read_into(source + skip, part)
            done += len(part)
            index += 1

    def extents(self) -> Iterator[Extent]:
        """Yield HOLE where nothing is mapped, UNKNOWN elsewhere."""
        hole = self._rows[:, 1] == _HOLE
        edges = np.flatnonzero(np.concatenate(([True], hole[1:] != hole[:-1]))[: len(hole)])
        ends = np.concatenate((self._starts[edges[1:]], [self._size]))
        for row, end in zip(edges.tolist(), ends.tolist(), strict=False):
            start = int(self._starts[row])
            yield Extent(start, end - start, Content.HOLE if hole[row] else Content.UNKNOWN)

    def physical(self, wanted: Ranges) -> Mapping[str, Ranges]:
        """Return where ranges of the volume lie: disk key to ranges of that disk.

        Holes lie nowhere. What of the ranges is beyond the volume is left out.
        """
        cut = self._cut(wanted)
        found: dict[str, list[Ranges]] = {}
        for number in np.unique(cut[:, 1]).tolist():
            if number == _HOLE:
                continue
            rows = cut[cut[:, 1] == number]
            found.setdefault(self._disks[number].key, []).append(
                np.column_stack((rows[:, 2], rows[:, 2] + rows[:, 3]))
            )
        return {key: ranges.union(*many) for key, many in found.items()}

    def everywhere(self) -> Mapping[str, Ranges]:
        """Return where the whole volume lies: disk key to ranges of that disk."""
        return self.physical(np.array([[0, self._size]], np.int64))

    def part(self, start: int, length: int) -> "MappedDevice":
        """Return a volume that is a range of this one.

        Raises:
            GuestDamaged: the range is not inside this one.
        """
        if start < 0 or length < 0 or start + length > self._size:
            raise GuestDamaged(f"a part of {length} bytes at {start} of {self._size} bytes")
        return self.gathered(np.array([[start, length]], np.int64))

    def gathered(self, parts: _Rows) -> "MappedDevice":
        """Return a volume of parts of this one, one after the other.

        Args:
            parts: rows of (start or -1 for a hole, length); overlaps are fine.

        Raises:
            GuestDamaged: a part is not inside this volume.
            GuestUnsupported: there are too many pieces.
        """
        hole = parts[:, 0] == _HOLE
        ends = parts[:, 0] + parts[:, 1]
        if np.any((parts[:, 1] < 0) | (~hole & ((parts[:, 0] < 0) | (ends > self._size)))):
            raise GuestDamaged(f"a part of the volume lies outside its {self._size} bytes")
        firsts = np.where(hole, 0, np.searchsorted(self._starts, parts[:, 0], side="right") - 1)
        lasts = np.where(hole, 0, np.searchsorted(self._starts, ends, side="left"))
        counts = np.where(hole, 1, np.maximum(lasts - firsts, 0))
        if int(counts.sum()) > PIECES_MAX:
            raise GuestUnsupported(f"a volume in {int(counts.sum())} pieces")
        which = np.repeat(np.arange(len(parts)), counts)
        steps = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        source = self._rows[(firsts[which] + steps)] if len(self._rows) else _no_rows(len(which))
        begin = np.maximum(source[:, 0], parts[which, 0])
        end = np.minimum(source[:, 0] + source[:, 3], ends[which])
        holes = hole[which]
        length = np.where(holes, parts[which, 1], end - begin)
        disk = np.where(holes, _HOLE, source[:, 1])
        place = np.where(disk == _HOLE, 0, source[:, 2] + begin - source[:, 0])
        starts = np.cumsum(length) - length
        rows = np.column_stack((starts, disk, place, length)).astype(np.int64)
        return MappedDevice(self._disks, rows, int(parts[:, 1].sum()))

    def _cut(self, wanted: Ranges) -> _Rows:
        """Return the rows of the table, cut to the ranges wanted."""
        wanted = ranges.clipped(wanted, 0, self._size)
        firsts = np.searchsorted(self._starts, wanted[:, 0], side="right") - 1
        lasts = np.searchsorted(self._starts, wanted[:, 1], side="left")
        counts = lasts - firsts
        which = np.repeat(np.arange(len(wanted)), counts)
        steps = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
        rows = self._rows[firsts[which] + steps]
        begin = np.maximum(rows[:, 0], wanted[which, 0])
        end = np.minimum(rows[:, 0] + rows[:, 3], wanted[which, 1])
        place = rows[:, 2] + begin - rows[:, 0]
        return np.column_stack((begin, rows[:, 1], place, end - begin))


def whole(key: str, reader: BlockReader) -> MappedDevice:
    """Return a whole disk as a volume."""
    rows = np.array([[0, 0, 0, reader.size]], np.int64)
    return MappedDevice([Disk(key, reader)], rows, reader.size)


def hole(size: int) -> MappedDevice:
    """Return a volume that reads as zeros and lies nowhere."""
    return MappedDevice([], np.array([[0, _HOLE, 0, size]], np.int64), size)


def concatenated(volumes: Iterable[MappedDevice]) -> MappedDevice:
    """Return volumes one after the other as one.

    Raises:
        GuestUnsupported: there are too many pieces.
    """
    disks: dict[Disk, int] = {}
    tables: list[_Rows] = [_no_rows(0)]
    size = 0
    for volume in volumes:
        numbers = [disks.setdefault(disk, len(disks)) for disk in volume._disks]  # noqa: SLF001
        rows = volume._rows.copy()  # noqa: SLF001
        rows[:, 0] += size
        rows[:, 1] = np.array([*numbers, _HOLE], np.int64)[rows[:, 1]]
        tables.append(rows)
        size += volume.size
    return MappedDevice(list(disks), np.concatenate(tables), size)


def interleaved(volumes: Sequence[MappedDevice], stripe: int) -> MappedDevice:
    """Return a volume striped over others of one length, `stripe` bytes from each in turn.

    Raises:
        GuestDamaged: their lengths differ.
        GuestUnsupported: the length is not whole stripes, or there are too many of them.
    """
    length = volumes[0].size
    if any(volume.size != length for volume in volumes):
        raise GuestDamaged("the stripes of a volume are of different lengths")
    if stripe <= 0 or length % stripe:
        raise GuestUnsupported(f"stripes of {stripe} bytes in areas of {length}")
    count = length // stripe * len(volumes)
    if count > PIECES_MAX:
        raise GuestUnsupported(f"a volume in {count} stripes")
    order = np.arange(count, dtype=np.int64)
    starts = order % len(volumes) * length + order // len(volumes) * stripe
    parts = np.column_stack((starts, np.full(count, stripe, np.int64)))
    return concatenated(volumes).gathered(parts)


def _no_rows(count: int) -> _Rows:
    return np.zeros((count, 4), np.int64)


def _merged(rows: _Rows) -> _Rows:
    """Return rows with those made one that continue one another."""
    if len(rows) < 2:
        return rows
    same = rows[1:, 1] == rows[:-1, 1]
    follows = (rows[1:, 1] == _HOLE) | (rows[1:, 2] == rows[:-1, 2] + rows[:-1, 3])
    firsts = np.flatnonzero(np.concatenate(([True], ~(same & follows))))
    merged = rows[firsts].copy()
    merged[:, 3] = np.add.reduceat(rows[:, 3], firsts)
    return merged
