"""Content of attributes: resident, in runs, sparse, compressed.

Sources: the Linux-NTFS documentation, `Attributes` and `Compression`.
"""

import functools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.contract import Ranges
from ruchu.guests.ntfs import attributes, compression, runs
from ruchu.guests.ntfs.attributes import Attribute
from ruchu.guests.ntfs.boot_sector import Geometry
from ruchu.guests.ntfs.keeping import Kept
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Content, Extent

UNIT_BYTES_MAX = 1 << 20
"""A unit is 16 clusters of at most 4 KiB; a little more is let pass."""

_ZEROS = bytes(1 << 20)
_UNITS_ROOM = 8 << 20


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the content of a stream is.

    Attributes:
        size: bytes of content.
        initialised: bytes that were ever written; the rest reads as zeros.
        allocated: bytes that it takes on the volume.
        flags: COMPRESSED, ENCRYPTED, SPARSE of `attributes`.
        value: the content itself, where it lies in the MFT; else None.
        rows: where its clusters are.
        unit: bytes that are compressed together; 0 if it is not compressed.
    """

    size: int
    initialised: int
    allocated: int
    flags: int
    value: bytes | None
    rows: runs.Rows
    unit: int

    @property
    def weight(self) -> int:
        """Bytes that it takes in memory."""
        return 512 + self.rows.nbytes + len(self.value or b"")


def layout(parts: list[Attribute], geometry: Geometry) -> Layout:
    """Return the layout of the attribute that `parts` are.

    Raises:
        GuestDamaged: the parts do not make one attribute.
        GuestUnsupported: it is compressed in a way that is not known.
    """
    if len(parts) > 1:
        parts = sorted(parts, key=lambda part: part.first)
    head = parts[0]
    collector = runs.RunCollector(geometry.cluster, geometry.clusters)
    if head.resident:
        if len(parts) > 1:
            raise GuestDamaged("(an attribute is there twice)")
        return Layout(head.size, head.size, 0, head.flags, head.value, collector.rows(), 0)
    for part in parts:
        if part.resident:
            raise GuestDamaged("(an attribute is there twice)")
        collector.add(part.first, part.value)
    rows = collector.rows()
    if head.size > (int(rows[-1, 1]) if len(rows) else 0):
        raise GuestDamaged(f"(the runs of an attribute do not cover its {head.size} bytes)")
    unit = 0
    if head.flags & attributes.COMPRESSED and head.unit:
        unit = geometry.cluster << min(head.unit, 32)
        if head.flags & attributes.COMPRESSED != 1 or unit > UNIT_BYTES_MAX:
            raise GuestUnsupported(f"(compression {head.flags & 0xFF}, units of {unit} bytes)")
    return Layout(head.size, head.initialised, head.allocated, head.flags, None, rows, unit)


class StreamReader:
    """Reads content by its layout. Safe in several threads."""

    def __init__(self, reader: VolumeReader) -> None:
        self._reader = reader
        self._units: Kept[tuple[int, int], bytes] = Kept(_UNITS_ROOM, len)

    def read(self, where: Layout, start: int, length: int) -> bytes:
        """Return content; the caller stays inside the size and asks for little."""
        buffer = bytearray(length)
        self.read_into(where, start, memoryview(buffer))
        return bytes(buffer)

    def read_into(self, where: Layout, start: int, buffer: memoryview) -> None:
        """Fill the buffer with content.

        Raises:
            GuestDamaged: the range is outside the content, or the content is damaged.
            GuestUnsupported: it is encrypted.
        """
        end = start + len(buffer)
        if start < 0 or end > where.size:
            raise GuestDamaged(f"({len(buffer)} bytes at {start} of content of {where.size})")
        if where.flags & attributes.ENCRYPTED:
            raise GuestUnsupported("(encrypted content: EFS)")
        if where.value is not None:
            buffer[:] = where.value[start:end]
            return
        valid = max(start, min(end, where.initialised))
        if where.unit:
            self._read_units(where, start, buffer[: valid - start])
        else:
            for first, last, place in runs.pieces(where.rows, start, valid):
                part = buffer[first - start : last - start]
                if place == runs.HOLE:
                    _clear(part)
                else:
                    self._reader.read_into(place, part)
        _clear(buffer[valid - start :])

    def _read_units(self, where: Layout, start: int, buffer: memoryview) -> None:
        unit, done = where.unit, 0
        while done < len(buffer):
            number, offset = divmod(start + done, unit)
            count = min(unit - offset, len(buffer) - done)
            target = buffer[done : done + count]
            parts = _unit_parts(where, number * unit)
            there = sum(length for _, length in parts)
            if not there:
                _clear(target)
            elif there == unit and count == unit:
                self._fill(parts, target)
            else:
                # The first cluster of a unit belongs to this unit alone.
                key = (parts[0][0], there)
                content = self._units.get(key, functools.partial(self._unit, parts, unit))
                target[:] = content[offset : offset + count]
            done += count

    def _unit(self, parts: list[tuple[int, int]], unit: int) -> bytes:
        there = sum(length for _, length in parts)
        packed = bytearray(there)
        self._fill(parts, memoryview(packed))
        if there == unit:
            return bytes(packed)
        return compression.decompressed(bytes(packed), unit)

    def _fill(self, parts: list[tuple[int, int]], buffer: memoryview) -> None:
        at = 0
        for place, length in parts:
            self._reader.read_into(place, buffer[at : at + length])
            at += length


def _unit_parts(where: Layout, start: int) -> list[tuple[int, int]]:
    """Return (place, bytes) of the clusters of a unit; what is not there was saved."""
    parts = []
    holed = False
    for first, last, place in runs.pieces(where.rows, start, start + where.unit):
        if place == runs.HOLE:
            holed = True
        elif holed:
            raise GuestDamaged("(a compressed unit has a hole in its middle)")
        else:
            parts.append((place, last - first))
    return parts


def _clear(buffer: memoryview) -> None:
    for at in range(0, len(buffer), len(_ZEROS)):
        part = buffer[at : at + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]


def extents(where: Layout) -> Iterator[Extent]:
    """Yield DATA and HOLE of the content: sorted, disjoint, covering its size."""
    if not where.size:
        return
    if where.value is not None:
        yield Extent(0, where.size)
        return
    valid = min(where.initialised, where.size)
    there = where.rows[where.rows[:, 2] != runs.HOLE][:, :2]
    if where.unit:
        unit = where.unit
        there = ranges.joined(
            np.column_stack((there[:, 0] // unit, -(-there[:, 1] // unit))) * unit
        )
    at = 0
    for first, last in ranges.joined(ranges.clipped(there, 0, valid)).tolist():
        if first > at:
            yield Extent(at, first - at, Content.HOLE)
        yield Extent(first, last - first)
        at = last
    if at < where.size:
        yield Extent(at, where.size - at, Content.HOLE)


def places(where: Layout) -> Ranges:
    """Return where on the volume the clusters lie."""
    there = where.rows[where.rows[:, 2] != runs.HOLE]
    return ranges.joined(np.column_stack((there[:, 2], there[:, 2] + there[:, 1] - there[:, 0])))
