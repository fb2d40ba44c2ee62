"""exFAT. Source: Microsoft's exFAT file system specification 1.00.

A file's entry is a set of 32-byte entries: file, stream extension, names. Which clusters are in use
is told by the allocation bitmap; the FAT only tells the chains of files that are not contiguous.
"""

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.contract import Allocation, Entry, Facts, NodeKind, Ranges, Stat, everything
from ruchu.guests.fat import exfat_boot, files
from ruchu.guests.fat.clusters import FIRST, Chains
from ruchu.guests.fat.exfat_boot import Geometry
from ruchu.guests.fat.files import DIRECTORY, READ_ONLY, ROOT, SLOT, Record
from ruchu.guests.volume_reading import READ_MAX, VolumeReader

_BITMAP, _UPCASE, _LABEL, _FILE = 0x81, 0x82, 0x83, 0x85
_STREAM, _NAME = 0xC0, 0xC1
_CONTIGUOUS = 2
_FILE_ENTRY = struct.Struct("<BBHHHIIIBBBBB7s")
_STREAM_ENTRY = struct.Struct("<BBBBHHQIIQ")
_PLACE = struct.Struct("<20sIQ")
_END_MARK = 0xFFFFFFF8
# Held in memory: enough for 8 TiB in clusters of 128 KiB.
_TABLE_MAX = 256 << 20
_BITMAP_MAX = 64 << 20
_SET_MAX = 19
_ROOT_SPECIALS_MAX = 1 << 16
_UTC_OFFSET_UNIT_S = 15 * 60
# What a listing has parsed is kept for the `stat` that follows it: about 32 MiB.
_RECORDS_KEPT = 1 << 16


@dataclass(frozen=True, slots=True)
class _Set:
    """A checked set of entries of one file."""

    name: bytes
    record: Record


class ExfatFileSystem(files.ClusterFiles):
    """An exFAT file system, read-only.

    Raises:
        GuestDamaged: its boot region contradicts itself.
        GuestUnsupported: it is of another version.
    """

    def __init__(self, device: BlockReader) -> None:
        self._geometry = exfat_boot.read_geometry(VolumeReader(device))
        super().__init__(device, self._geometry.heap)
        self._records: dict[int, Record] = {}

    @property
    def facts(self) -> Facts:
        """What it says of itself."""
        serial = self._geometry.serial
        doubt = _unclean(self._geometry)
        return Facts(
            "exfat",
            self._label(),
            f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
            self._geometry.size,
            self._heap.cluster,
            (doubt,) if doubt else (),
        )

    @functools.cached_property
    def _table(self) -> Chains:
        return _read_chains(self._volume, self._geometry)

    @property
    def _chains(self) -> Chains:
        return self._table

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names."""
        for position, raw in _sets(self._slots(node)):
            found = self._parsed(raw)
            if len(self._records) >= _RECORDS_KEPT:
                self._records = {}
            self._records[position // SLOT] = found.record
            yield Entry(found.name, position // SLOT, found.record.stat.kind)

    def _label(self) -> str:
        try:
            for _, slot in self._slots(ROOT):
                if slot[0] == _LABEL and slot[1] <= 11:
                    return slot[2 : 2 + 2 * slot[1]].decode("utf-16-le", "replace")
        except GuestDamaged:
            pass
        return ""

    def _root_pieces(self) -> list[tuple[int, int]]:
        most = max(1, files.DIRECTORY_BYTES_MAX // self._heap.cluster)
        return self._pieces(self._geometry.root_cluster, most, contiguous=False)

    def _slots(self, node: int) -> Iterator[tuple[int, bytes]]:
        """Yield position and content of each entry of a directory."""
        if node == ROOT:
            return _slots_of(self._volume, self._root_pieces())
        record = self._record(node)
        size = record.stat.size
        if record.stat.kind is not NodeKind.DIRECTORY or size > files.DIRECTORY_BYTES_MAX:
            raise GuestDamaged(f"node {node} is no directory, or one of {size} bytes")
        clusters = -(-size // self._heap.cluster)
        pieces = self._pieces(record.first, clusters, contiguous=record.contiguous)
        return _slots_of(self._volume, pieces)

    def _record(self, node: int) -> Record:
        if node == ROOT:
            size = sum(length for _, length in self._root_pieces())
            return Record(Stat(NodeKind.DIRECTORY, size, size, 0o755), self._geometry.root_cluster)
        if (known := self._records.get(node)) is not None:
            return known
        position = node * SLOT
        if not self._heap.start <= position <= self._heap.end - SLOT:
            raise GuestDamaged(f"a directory entry at {position}")
        return self._parsed(self._set_at(position)).record

    def _set_at(self, position: int) -> bytes:
        """Return the set of entries that begins there; it may go on in another cluster."""
        first = self._volume.read(position, SLOT)
        length = SLOT * (first[1] + 1)
        if first[0] != _FILE or first[1] >= _SET_MAX:
            raise GuestDamaged(f"no file at {position}")
        number, offset = divmod(position - self._heap.start, self._heap.cluster)
        inside = self._heap.cluster - offset
        if length <= inside:
            return self._volume.read(position, length)
        head = self._volume.read(position, inside)
        # The next cluster is in the table, or, of a contiguous directory, the next one.
        linked = int(self._chains.successors[number + FIRST])
        for following in (linked, number + FIRST + 1):
            if FIRST <= following < self._heap.count + FIRST:
                rest = self._volume.read(self._heap.position(following), length - inside)
                if _set_checksum(head + rest) == int.from_bytes(head[2:4], "little"):
                    return head + rest
        raise GuestDamaged(f"the entries of the file at {position} are torn apart")

    def _parsed(self, raw: bytes) -> _Set:
        """Return what a set of entries says.

        Raises:
            GuestDamaged: its checksum is wrong, or it is no file's.
        """
        if _set_checksum(raw) != int.from_bytes(raw[2:4], "little"):
            raise GuestDamaged("the entries of a file do not match their checksum")
        (_, _, _, attributes, _, created, modified, accessed, *parts, _) = _FILE_ENTRY.unpack_from(
            raw
        )
        if len(raw) < 3 * SLOT or raw[SLOT] != _STREAM:
            raise GuestDamaged("a file without a stream")
        (_, flags, _, length, _, _, valid, _, first, size) = _STREAM_ENTRY.unpack_from(raw, SLOT)
        directory = bool(attributes & DIRECTORY)
        if valid > size or size > self._heap.count * self._heap.cluster:
            raise GuestDamaged(f"a file of {size} bytes, {valid} of them written")
        mode = 0o755 if directory else 0o444 if attributes & READ_ONLY else 0o644
        stat = Stat(
            NodeKind.DIRECTORY if directory else NodeKind.FILE,
            size,
            -(-size // self._heap.cluster) * self._heap.cluster,
            mode,
            modified=_moment(modified, parts[1], parts[3]) or 0,
            accessed=_moment(accessed, 0, parts[4]) or 0,
            created=_moment(created, parts[0], parts[2]),
            attributes=attributes,
        )
        return _Set(_name(raw, length), Record(stat, first, bool(flags & _CONTIGUOUS), valid))


def _slots_of(volume: VolumeReader, pieces: list[tuple[int, int]]) -> Iterator[tuple[int, bytes]]:
    for start, length in pieces:
        for begin in range(start, start + length, READ_MAX):
            content = volume.read(begin, min(READ_MAX, start + length - begin))
            for at in range(0, len(content), SLOT):
                if content[at] == 0:
                    return
                yield begin + at, content[at : at + SLOT]


def _sets(slots: Iterator[tuple[int, bytes]]) -> Iterator[tuple[int, bytes]]:
    """Yield position and bytes of the set of each file that is not deleted."""
    for position, slot in slots:
        if slot[0] != _FILE:
            continue
        if not 2 <= slot[1] < _SET_MAX:
            raise GuestDamaged(f"a file with {slot[1]} further entries")
        parts = [slot]
        for _, more in slots:
            parts.append(more)
            if len(parts) > slot[1]:
                break
        if len(parts) <= slot[1]:
            raise GuestDamaged("a directory ends amid the entries of a file")
        yield position, b"".join(parts)


def _set_checksum(raw: bytes) -> int:
    total = 0
    for byte in raw[:2] + raw[4:]:
        total = ((total >> 1 | total << 15) + byte) & 0xFFFF
    return total


def _name(raw: bytes, length: int) -> bytes:
    units = b"".join(
        raw[at + 2 : at + SLOT] for at in range(2 * SLOT, len(raw), SLOT) if raw[at] == _NAME
    )
    if 2 * length > len(units):
        raise GuestDamaged(f"a name of {length} characters in {len(units)} bytes")
    text = units[: 2 * length].decode("utf-16-le", "surrogatepass")
    return files.checked_name(text.encode("utf-8", "surrogatepass"))


def _moment(stamp: int, hundredths: int, zone: int) -> int | None:
    """Return nanoseconds since 1970; without an offset from UTC the time is taken as UTC."""
    found = files.moment(stamp >> 16, stamp & 0xFFFF, hundredths)
    if found is None or not zone & 0x80:
        return found
    quarters = (zone & 0x7F) - ((zone & 0x40) << 1)
    return found - quarters * _UTC_OFFSET_UNIT_S * 10**9


# ------------------------------------------------------------------------------- which bytes count


def _read_chains(volume: VolumeReader, geometry: Geometry) -> Chains:
    wanted = 4 * (geometry.heap.count + FIRST)
    if wanted > _TABLE_MAX:
        raise GuestUnsupported(f"an exFAT of {geometry.heap.count} clusters")
    parts = [
        volume.read(geometry.table + at, min(READ_MAX, wanted - at))
        for at in range(0, wanted, READ_MAX)
    ]
    return Chains(np.frombuffer(b"".join(parts), "<u4"), _END_MARK)


def _unclean(geometry: Geometry) -> str:
    """Return why the bitmap may not be up to date; empty if it is."""
    if geometry.dirty:
        return "it is marked as being written to"
    return "it is marked as having failed" if geometry.failed else ""


def allocation(device: BlockReader) -> Allocation:
    """Return which bytes count.

    A dirty mark is a doubt even if the guest was frozen: exFAT cannot be.
    """
    volume = VolumeReader(device)
    try:
        geometry = exfat_boot.read_geometry(volume)
        if geometry.size > device.size:
            return everything(device.size, "it is larger than its volume")
        if doubt := _unclean(geometry):
            return everything(device.size, doubt)
        used = _used(volume, geometry)
    except (GuestDamaged, GuestUnsupported) as error:
        return everything(device.size, error.detail)
    return Allocation(used)


def _used(volume: VolumeReader, geometry: Geometry) -> Ranges:
    """Return both boot regions, the FAT and the clusters that the bitmap marks.

    Raises:
        GuestDamaged: the bitmap is missing or contradicts the directory.
    """
    heap = geometry.heap
    chains = _read_chains(volume, geometry)
    root = chains.runs(geometry.root_cluster, max(1, files.DIRECTORY_BYTES_MAX // heap.cluster))
    pieces = [(heap.position(first, count), count * heap.cluster) for first, count in root]
    first, length = _special(volume, pieces, _BITMAP)
    if not -(-heap.count // 8) <= length <= _BITMAP_MAX:
        raise GuestDamaged(f"an allocation bitmap of {length} bytes")
    runs = chains.runs(first, -(-length // heap.cluster))
    raw = b"".join(
        volume.read(heap.position(number + step), heap.cluster)
        for number, count in runs
        for step in range(count)
    )
    if len(raw) < length:
        raise GuestDamaged("the allocation bitmap is cut off")
    bits = np.unpackbits(np.frombuffer(raw, np.uint8), bitorder="little")[: heap.count]
    upcase, length = _special(volume, pieces, _UPCASE)
    needed = [*root, *runs, *chains.runs(upcase, max(1, -(-length // heap.cluster)))]
    for number, count in needed:
        if not bits[number - FIRST : number - FIRST + count].all():
            raise GuestDamaged("its bitmap has what it needs itself as free")
    return ranges.union(
        ranges.of_pairs([(0, heap.start)]), ranges.of_bits(bits, heap.cluster, heap.start)
    )


def _special(volume: VolumeReader, root: list[tuple[int, int]], kind: int) -> tuple[int, int]:
    """Return first cluster and length of the bitmap or the up-case table."""
    for count, (_, slot) in enumerate(_slots_of(volume, root)):
        if slot[0] == kind:
            _, first, length = _PLACE.unpack(slot)
            return first, length
        if count > _ROOT_SPECIALS_MAX:
            break
    raise GuestDamaged("the root directory of an exFAT lacks its bitmap or up-case table")
