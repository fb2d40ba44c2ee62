"""FAT12, FAT16 and FAT32 with the long names of VFAT.

Source: Microsoft Extensible Firmware Initiative FAT32 File System Specification 1.03. Short names
are decoded as code page 437, as Linux does unless told otherwise; their case is as Windows NT marks
it.
"""

import functools
import struct
from collections.abc import Iterator

import numpy as np
import numpy.typing as npt

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges
from ruchu.guests.contract import Allocation, Entry, Facts, NodeKind, Stat, everything
from ruchu.guests.fat import fat_boot, files
from ruchu.guests.fat.clusters import FIRST, Chains
from ruchu.guests.fat.fat_boot import Geometry
from ruchu.guests.fat.files import DIRECTORY, READ_ONLY, ROOT, SLOT, VOLUME_LABEL, Record
from ruchu.guests.volume_reading import READ_MAX, VolumeReader

# Enough for 2 TiB in clusters of 32 KiB; it is held in memory.
_TABLE_MAX = 256 << 20
_END_MARKS = {12: 0xFF8, 16: 0xFFF8, 32: 0x0FFFFFF8}
_BAD_MARKS = {12: 0xFF7, 16: 0xFFF7, 32: 0x0FFFFFF7}
# What the entry of cluster 1 says: cleanly unmounted, no read or write failed.
_CLEAN = {16: 0xC000, 32: 0x0C000000}
_SLOT = struct.Struct("<11sBBBHHHHHHHI")
_LONG_NAME = 0x0F
_DIRECTORY_BYTES_MAX = 2 << 20
_LOWER_STEM, _LOWER_SUFFIX = 0x08, 0x10
_DELETED, _END = 0xE5, 0x00
_LONG_SLOTS_MAX = 20


class FatFileSystem(files.ClusterFiles):
    """A FAT file system, read-only.

    Raises:
        GuestDamaged: its boot sector contradicts itself.
    """

    def __init__(self, device: BlockReader) -> None:
        self._geometry = fat_boot.read_geometry(VolumeReader(device))
        super().__init__(device, self._geometry.heap)

    @property
    def facts(self) -> Facts:
        """What it says of itself."""
        serial = self._geometry.serial
        notes = ["times are the guest's local time, taken as UTC"]
        if doubt := _unclean(self._volume, self._geometry):
            notes.append(doubt)
        return Facts(
            self._geometry.kind,
            self._label().decode("cp437"),
            f"{serial >> 16:04X}-{serial & 0xFFFF:04X}",
            self._geometry.size,
            self._geometry.heap.cluster,
            tuple(notes),
        )

    @functools.cached_property
    def _table(self) -> Chains:
        return Chains(_read_table(self._volume, self._geometry), _END_MARKS[self._geometry.bits])

    @property
    def _chains(self) -> Chains:
        return self._table

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names."""
        for name, position, slot in self._slots(node):
            if slot[11] & VOLUME_LABEL:
                continue
            kind = NodeKind.DIRECTORY if slot[11] & DIRECTORY else NodeKind.FILE
            yield Entry(name, position // SLOT, kind)

    def _label(self) -> bytes:
        """Return the label: the root directory's entry wins over the boot sector's."""
        try:
            for _, _, slot in self._slots(ROOT):
                if slot[11] & VOLUME_LABEL:
                    return slot[:11].rstrip()
        except GuestDamaged:
            return b""
        label = self._geometry.label.rstrip(b" \0")
        return b"" if label == b"NO NAME" else label

    def _record(self, node: int) -> Record:
        if node == ROOT:
            allocated = sum(length for _, length in self._root_pieces())
            return Record(
                Stat(NodeKind.DIRECTORY, allocated, allocated, 0o755), self._geometry.root_cluster
            )
        start = self._geometry.root[0] if self._geometry.root[1] else self._heap.start
        if not start <= node * SLOT <= self._heap.end - SLOT:
            raise GuestDamaged(f"a directory entry at {node * SLOT}")
        return self._parsed(self._volume.read(node * SLOT, SLOT))

    def _parsed(self, slot: bytes) -> Record:
        (_, attributes, _, tenths, time, date, read, high, wrote, wrote_date, low, size) = (
            _SLOT.unpack(slot)
        )
        first = low | (high << 16 if self._geometry.bits == 32 else 0)
        cluster = self._heap.cluster
        mode = 0o444 if attributes & READ_ONLY else 0o644
        kind = NodeKind.FILE
        if attributes & DIRECTORY:
            kind, mode = NodeKind.DIRECTORY, 0o755
            size = sum(length for _, length in self._directory_pieces(first))
        stat = Stat(
            kind,
            size,
            -(-size // cluster) * cluster,
            mode,
            modified=files.moment(wrote_date, wrote) or 0,
            accessed=files.moment(read, 0) or 0,
            created=files.moment(date, time, tenths),
            attributes=attributes,
        )
        return Record(stat, first, valid=size)

    # ------------------------------------------------------------------------------ directories

    def _root_pieces(self) -> list[tuple[int, int]]:
        if self._geometry.root_cluster:
            return self._directory_pieces(self._geometry.root_cluster)
        return [self._geometry.root]

    def _directory_pieces(self, first: int) -> list[tuple[int, int]]:
        most = max(1, _DIRECTORY_BYTES_MAX // self._heap.cluster)
        return self._pieces(first, most, contiguous=False)

    def _slots(self, node: int) -> Iterator[tuple[bytes, int, bytes]]:
        """Yield name, position and entry of what a directory has, labels too."""
        pieces = self._root_pieces()
        if node != ROOT:
            record = self._record(node)
            if record.stat.kind is not NodeKind.DIRECTORY:
                raise GuestDamaged(f"node {node} is no directory")
            pieces = self._directory_pieces(record.first)
        long_name: list[bytes] = []
        for start, length in pieces:
            content = self._volume.read(start, length)
            for at in range(0, length, SLOT):
                mark = content[at]
                if mark == _END:
                    return
                if mark == _DELETED:
                    long_name = []
                    continue
                slot = content[at : at + SLOT]
                if slot[11] & 0x3F == _LONG_NAME:
                    long_name = _continued(long_name, slot)
                    continue
                if mark != 0x2E:
                    yield _name(slot, long_name), start + at, slot
                long_name = []


def _continued(before: list[bytes], slot: bytes) -> list[bytes]:
    """Return the slots of a long name so far: they come last part first, numbered down to 1."""
    number = slot[0]
    if number & 0x40:
        return [slot] if 1 <= number & 0x3F <= _LONG_SLOTS_MAX else []
    if before and before[-1][0] & 0x3F == number + 1 and before[-1][13] == slot[13]:
        return [*before, slot]
    return []


def _name(slot: bytes, long_name: list[bytes]) -> bytes:
    """Return the name that Linux shows: the long one if it belongs to this entry."""
    if slot[11] & VOLUME_LABEL:
        return b""
    if long_name and long_name[-1][0] & 0x3F == 1 and long_name[-1][13] == _checksum(slot):
        units = b"".join(part[1:11] + part[14:26] + part[28:32] for part in reversed(long_name))
        text = units.decode("utf-16-le", "surrogatepass").partition("\0")[0]
        return files.checked_name(text.encode("utf-8", "surrogatepass"))
    stem, suffix = slot[:8], slot[8:11]
    if stem[0] == 0x05:
        stem = b"\xe5" + stem[1:]
    # `lower` of bytes changes ASCII only, as the marks of Windows NT mean it.
    stem = stem.lower() if slot[12] & _LOWER_STEM else stem
    suffix = suffix.lower() if slot[12] & _LOWER_SUFFIX else suffix
    short = stem.rstrip(b" ") + (b"." + suffix.rstrip(b" ") if suffix.rstrip(b" ") else b"")
    return files.checked_name(short.decode("cp437").encode())


def _checksum(slot: bytes) -> int:
    total = 0
    for byte in slot[:11]:
        total = ((total >> 1 | total << 7) + byte) & 0xFF
    return total


# ---------------------------------------------------------------------------------- the table


def _read_table(volume: VolumeReader, geometry: Geometry) -> npt.NDArray[np.uint32]:
    """Return the successor of every cluster, index by its number."""
    count = geometry.heap.count + FIRST
    if count * 4 > _TABLE_MAX:
        raise GuestUnsupported(f"a FAT of {geometry.heap.count} clusters")
    raw = _table_bytes(volume, geometry, geometry.active)
    if geometry.bits == 32:
        return np.frombuffer(raw, "<u4", count) & np.uint32(0x0FFFFFFF)
    if geometry.bits == 16:
        return np.frombuffer(raw, "<u2", count).astype(np.uint32)
    triples = np.frombuffer(raw + bytes(-len(raw) % 3), np.uint8).reshape(-1, 3).astype(np.uint32)
    pairs = np.empty((len(triples), 2), np.uint32)
    pairs[:, 0] = triples[:, 0] | (triples[:, 1] & 15) << 8
    pairs[:, 1] = triples[:, 1] >> 4 | triples[:, 2] << 4
    return pairs.reshape(-1)[:count]


def _table_bytes(volume: VolumeReader, geometry: Geometry, copy: int) -> bytes:
    """Return the part of a copy of the table that tells of clusters."""
    wanted = -(-(geometry.heap.count + FIRST) * geometry.bits // 8)
    start = geometry.tables[copy]
    parts = [
        volume.read(start + at, min(READ_MAX, wanted - at)) for at in range(0, wanted, READ_MAX)
    ]
    return b"".join(parts)


def _unclean(volume: VolumeReader, geometry: Geometry) -> str:
    """Return why the table may not be up to date; empty if it is."""
    if geometry.dirty:
        return "it is marked as mounted"
    mask = _CLEAN.get(geometry.bits, 0)
    if mask:
        width = geometry.bits // 8
        raw = volume.read(geometry.tables[geometry.active] + width, width)
        if int.from_bytes(raw, "little") & mask != mask:
            return "it was not unmounted cleanly, or has errors"
    return ""


def allocation(device: BlockReader) -> Allocation:
    """Return which bytes count.

    A dirty mark is a doubt even if the guest was frozen: Linux cannot freeze a FAT.
    """
    volume = VolumeReader(device)
    try:
        geometry = fat_boot.read_geometry(volume)
        if geometry.size > device.size:
            return everything(device.size, "it is larger than its volume")
        doubt = _unclean(volume, geometry) or _disagreement(volume, geometry)
        if doubt:
            return everything(device.size, doubt)
        table = _read_table(volume, geometry)
    except (GuestDamaged, GuestUnsupported) as error:
        return everything(device.size, error.detail)
    taken = table != 0
    taken[:FIRST] = False
    if doubt := _broken_link(table, taken, geometry):
        return everything(device.size, doubt)
    start = geometry.heap.start
    clusters = ranges.of_bits(taken[FIRST:], geometry.heap.cluster, start)
    return Allocation(ranges.union(ranges.of_pairs([(0, start)]), clusters))


def _disagreement(volume: VolumeReader, geometry: Geometry) -> str:
    """Return a doubt if copies of the table that should be the same are not."""
    if not geometry.mirrored or geometry.heap.count * 4 > _TABLE_MAX:
        return ""
    first = _table_bytes(volume, geometry, 0)
    same = all(
        _table_bytes(volume, geometry, copy) == first for copy in range(1, len(geometry.tables))
    )
    return "" if same else "the copies of its FAT differ"


def _broken_link(
    table: npt.NDArray[np.uint32], taken: npt.NDArray[np.bool_], geometry: Geometry
) -> str:
    """Return a doubt if a chain leads to a free cluster, or to none."""
    values = table[FIRST:]
    links = values[(values != 0) & (values < _BAD_MARKS[geometry.bits])]
    if len(links) and (int(links.max()) >= len(table) or not taken[links].all()):
        return "a chain of clusters leads to a free one"
    root = geometry.root_cluster
    if geometry.bits == 32 and not (FIRST <= root < len(table) and taken[root]):
        return "the root directory lies in a free cluster"
    return ""
