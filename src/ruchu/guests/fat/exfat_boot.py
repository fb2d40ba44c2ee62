"""The boot region of exFAT. Source: Microsoft's exFAT file system specification 1.00, section 3."""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.fat.clusters import FIRST, Heap
from ruchu.guests.volume_reading import VolumeReader

_FIELDS = struct.Struct("<QQIIIIIIHHBBB")
_NAME = b"EXFAT   "
_CHECKED_SECTORS = 11
# VolumeFlags and PercentInUse change all the time and are not part of the checksum.
_UNCHECKED = (106, 107, 112)
_CLUSTERS_MAX = 0xFFFFFFF5
_SECTOR_SHIFTS = range(9, 13)
_CLUSTER_SHIFT_MAX = 25
_DIRTY, _MEDIA_FAILURE = 2, 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things are: positions and lengths in bytes of the volume.

    Attributes:
        sector: bytes of a sector.
        size: bytes that the file system says it spans.
        table: start of the FAT.
        table_bytes: its length.
        heap: the clusters.
        root_cluster: the first one of the root directory.
        serial: of the volume.
        dirty, failed: it was being written to; the medium had failed.
    """

    sector: int
    size: int
    table: int
    table_bytes: int
    heap: Heap
    root_cluster: int
    serial: int
    dirty: bool
    failed: bool


def is_exfat(volume: VolumeReader) -> bool:
    """Return whether the boot sector names exFAT."""
    try:
        boot = volume.read(0, 512)
    except GuestDamaged:
        return False
    return boot[3:11] == _NAME and boot[510:512] == b"\x55\xaa"


def read_geometry(volume: VolumeReader) -> Geometry:
    """Read the boot sector and hold the boot region against its checksum.

    Raises:
        GuestDamaged: it contradicts itself.
        GuestUnsupported: it is of another version, or TexFAT.
    """
    boot = volume.read(0, 512)
    (
        *_,
        sectors,
        table,
        table_sectors,
        heap,
        count,
        root,
        serial,
        version,
        flags,
        sector_shift,
        shift,
        copies,
    ) = _FIELDS.unpack_from(boot, 64)
    if any(boot[11:64]) or sector_shift not in _SECTOR_SHIFTS:
        raise GuestDamaged("the boot sector of an exFAT is impossible")
    if sector_shift + shift > _CLUSTER_SHIFT_MAX:
        raise GuestDamaged(f"clusters of 2^{sector_shift + shift} bytes")
    if version >> 8 != 1 or copies != 1:
        raise GuestUnsupported(f"exFAT of version {version >> 8} with {copies} FATs")
    sector = 1 << sector_shift
    _check_region(volume, sector)
    geometry = Geometry(
        sector,
        sectors * sector,
        table * sector,
        table_sectors * sector,
        Heap(heap * sector, sector << shift, count),
        root,
        serial,
        bool(flags & _DIRTY),
        bool(flags & _MEDIA_FAILURE),
    )
    _check(geometry)
    return geometry


def _check(geometry: Geometry) -> None:
    heap = geometry.heap
    if not 1 <= heap.count <= _CLUSTERS_MAX or heap.end > geometry.size:
        raise GuestDamaged(f"{heap.count} clusters in {geometry.size} bytes")
    end = geometry.table + geometry.table_bytes
    if geometry.table_bytes < 4 * (heap.count + FIRST) or end > heap.start:
        raise GuestDamaged(f"a FAT of {geometry.table_bytes} bytes for {heap.count} clusters")


def _check_region(volume: VolumeReader, sector: int) -> None:
    region = bytearray(volume.read(0, (_CHECKED_SECTORS + 1) * sector))
    expected = int.from_bytes(region[-sector : 4 - sector], "little")
    del region[_CHECKED_SECTORS * sector :]
    for at in reversed(_UNCHECKED):
        del region[at]
    total = 0
    for byte in region:
        total = ((total >> 1 | total << 31) + byte) & 0xFFFFFFFF
    if total != expected:
        raise GuestDamaged("the boot region of an exFAT does not match its checksum")
