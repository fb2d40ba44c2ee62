"""The master file table: a record for everything there is on the volume.

Sources: the Linux-NTFS documentation, `File Record`, `$MFT`, `Attribute List`.
"""

import bisect
import struct
from collections.abc import Iterable
from typing import NamedTuple

from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests.ntfs import attributes, fixups, runs
from ruchu.guests.ntfs.attributes import Attribute
from ruchu.guests.ntfs.boot_sector import Geometry
from ruchu.guests.volume_reading import VolumeReader

LIST_BYTES_MAX = 1 << 20
"""Windows stops at 256 KiB of an attribute list."""
REFERENCE = (1 << 48) - 1
"""What of a file reference is the number of a record; the rest counts how often it was used."""

_HEAD = struct.Struct("<4s12xHHHHII Q")
_LISTED = struct.Struct("<IHBBQQH")
_IN_USE, _DIRECTORY = 1, 2


class Record(NamedTuple):
    """A record of the table.

    Attributes:
        number: its place in the table.
        directory: whether it has an index of names.
        whose: number of the record that this one continues; 0 if it stands for itself.
        attributes: what it is made of.
    """

    number: int
    directory: bool
    whose: int
    attributes: list[Attribute]


class MasterFileTable:
    """Reads records. Safe in several threads.

    Args:
        reader: the volume.
        geometry: what its boot sector tells.

    Raises:
        GuestDamaged: neither the first record nor its copy in `$MFTMirr` makes sense.
    """

    def __init__(self, reader: VolumeReader, geometry: Geometry) -> None:
        self._reader = reader
        self._geometry = geometry
        self.from_mirror = False
        self._rows = runs.RunCollector(geometry.cluster, geometry.clusters).rows()
        self._table: list[list[int]] = []
        self._firsts: list[int] = []
        self.count = 0
        own = self._own_record()
        self._find_rest(own)

    def record(self, number: int) -> Record:
        """Return a record that is in use.

        Raises:
            NotFound: there is none of this number, or it is not in use.
            GuestDamaged: it was written in part only, or contradicts itself.
        """
        if not 0 <= number < self.count:
            raise NotFound(f"(file record {number})")
        return self._parsed(self._raw(number), number)

    def gathered(self, number: int) -> tuple[Record, list[Attribute], int]:
        """Return a record, its attributes wherever they are, and how many bytes all that is.

        Raises:
            NotFound: there is none of this number, it is not in use, or continues another.
            GuestDamaged: what it is made of contradicts itself.
        """
        record = self.record(number)
        if record.whose:
            raise NotFound(f"(file record {number} continues {record.whose})")
        size = self._geometry.record
        listed = next((a for a in record.attributes if a.kind == attributes.ATTRIBUTE_LIST), None)
        if listed is None:
            return record, record.attributes, size
        wanted = self._listed(listed)
        found = [a for a in record.attributes if (number, a.number) in wanted]
        others = sorted({place for place, _ in wanted} - {number})
        for other in others:
            extra = self._continuation(other, number)
            found += [a for a in extra.attributes if (other, a.number) in wanted]
        return record, found, size * (1 + len(others))

    def rows(self) -> runs.Rows:
        """Return where the table lies."""
        return self._rows

    def content(self, attribute: Attribute, size_max: int) -> bytes:
        """Return the content of an attribute that is in one part.

        Raises:
            GuestDamaged: it is longer than `size_max`, or not where it says.
        """
        if attribute.size > size_max:
            raise GuestDamaged(f"(an attribute of {attribute.size} bytes, at most {size_max})")
        if attribute.resident:
            return attribute.value
        rows = self._collected([attribute])
        if len(rows) == 0 or rows[-1, 1] < attribute.size or (rows[:, 2] == runs.HOLE).any():
            raise GuestDamaged("(the runs of an attribute do not cover it)")
        parts = runs.pieces(rows, 0, attribute.size)
        return b"".join(self._reader.read(place, end - at) for at, end, place in parts)

    def _collected(self, parts: Iterable[Attribute]) -> runs.Rows:
        collector = runs.RunCollector(self._geometry.cluster, self._geometry.clusters)
        for part in parts:
            collector.add(part.first, part.value)
        return collector.rows()

    def _own_record(self) -> Record:
        """Return record 0, which tells where all others are."""
        geometry = self._geometry
        try:
            raw = self._reader.read(geometry.table * geometry.cluster, geometry.record)
            return self._parsed(raw, 0)
        except (GuestDamaged, NotFound):
            raw = self._reader.read(geometry.mirror * geometry.cluster, geometry.record)
            self.from_mirror = True
        try:
            return self._parsed(raw, 0)
        except NotFound:
            raise GuestDamaged("(the MFT has no record of itself)") from None

    def _find_rest(self, own: Record) -> None:
        """Follow the table's own run list, which may be spread over records that it tells."""
        parts = _unnamed_data(own.attributes)
        if not parts or parts[0].first or parts[0].resident:
            raise GuestDamaged("(the MFT has no run list)")
        self._extend(parts[:1], parts[0])
        listed = next((a for a in own.attributes if a.kind == attributes.ATTRIBUTE_LIST), None)
        if listed is None:
            return
        seen = [parts[0]]
        for place, number in sorted(self._listed(listed, attributes.DATA)):
            if place == 0:
                continue
            extra = _unnamed_data(self._continuation(place, 0).attributes)
            seen += [part for part in extra if part.number == number]
        self._extend(sorted(seen, key=lambda part: part.first), parts[0])

    def _extend(self, parts: list[Attribute], first: Attribute) -> None:
        self._rows = self._collected(parts)
        if not len(self._rows) or (self._rows[:, 2] == runs.HOLE).any():
            raise GuestDamaged("(the MFT has holes)")
        self._table = self._rows.tolist()
        self._firsts = [row[0] for row in self._table]
        valid = min(first.size, first.initialised, int(self._rows[-1, 1]))
        self.count = valid // self._geometry.record

    def _listed(self, listed: Attribute, kind: int = 0) -> set[tuple[int, int]]:
        """Return (record, number of the attribute in it) that an attribute list names."""
        content = self.content(listed, LIST_BYTES_MAX)
        wanted, at = set(), 0
        while at + _LISTED.size <= len(content):
            found, length, _, _, _, place, number = _LISTED.unpack_from(content, at)
            if not found:
                break
            if length < _LISTED.size:
                raise GuestDamaged("(an entry of an attribute list is too short)")
            if kind in {0, found}:
                wanted.add((place & REFERENCE, number))
            at += length
        return wanted

    def _continuation(self, number: int, whose: int) -> Record:
        try:
            record = self.record(number)
        except NotFound:
            record = None
        if record is None or record.whose != whose or number == 0:
            raise GuestDamaged(f"(file record {number} does not continue {whose})")
        return record

    def _raw(self, number: int) -> bytes:
        size = self._geometry.record
        start = number * size
        first, end, place = self._table[bisect.bisect_right(self._firsts, start) - 1]
        if start + size <= end:
            return self._reader.read(place + start - first, size)
        parts = [
            self._reader.read(place, end - at)
            for at, end, place in runs.pieces(self._rows, start, start + size)
        ]
        return b"".join(parts)

    def _parsed(self, raw: bytes, number: int) -> Record:
        """Return a record from its bytes as they are on the volume."""
        if raw[:4] != b"FILE":
            if raw[:4] == bytes(4):
                raise NotFound(f"(file record {number})")
            raise GuestDamaged(f"(file record {number} is marked as damaged or is none)")
        if not raw[22] & _IN_USE:
            raise NotFound(f"(file record {number})")
        whole = bytes(fixups.undone(raw, f"file record {number}"))
        _, _, _, first, flags, used, _, whose = _HEAD.unpack_from(whole)
        if used > len(whole) or first < 42 or first > used:
            raise GuestDamaged(f"(file record {number}: its sizes cannot be)")
        found = attributes.parsed(whole, first, used)
        return Record(number, bool(flags & _DIRECTORY), whose & REFERENCE, found)


def _unnamed_data(found: list[Attribute]) -> list[Attribute]:
    parts = [a for a in found if a.kind == attributes.DATA and not a.name]
    return sorted(parts, key=lambda part: part.first)
