"""The boot sector of FAT12, FAT16 and FAT32, and where it says that things are.

Source: Microsoft Extensible Firmware Initiative FAT32 File System Specification 1.03; what Linux
accepts, `fs/fat/inode.c`.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged
from ruchu.guests.fat.clusters import Heap
from ruchu.guests.volume_reading import VolumeReader

_BPB = struct.Struct("<HBHBHHBHHHII")
_BPB32 = struct.Struct("<IHHIHH")
_SIGNATURES = (0x28, 0x29)
_BOOT_BYTES = 512
_FAT12_CLUSTERS, _FAT16_CLUSTERS, _FAT32_CLUSTERS = 4085, 65525, 0x0FFFFFF5
# Two copies are the rule, one is allowed; nothing has ever written more than four.
_COPIES_MAX = 4


@dataclass(frozen=True, slots=True)
class Geometry:
    """Where things are: positions and lengths in bytes of the volume.

    Attributes:
        bits: 12, 16 or 32.
        sector: bytes of a sector.
        size: bytes that the file system says it spans.
        heap: the clusters.
        tables: start of each copy of the table.
        table_bytes: length of one copy.
        active: index of the copy in force; the others are the same if `mirrored`.
        root: (start, length) of the root directory of FAT12 and FAT16.
        root_cluster: the first one of the root directory of FAT32; else 0.
        dirty: Linux has it mounted, or had when it stopped.
        label, serial: as the boot sector has them.
    """

    bits: int
    sector: int
    size: int
    heap: Heap
    tables: tuple[int, ...]
    table_bytes: int
    active: int
    mirrored: bool
    root: tuple[int, int]
    root_cluster: int
    dirty: bool
    label: bytes
    serial: int

    @property
    def kind(self) -> str:
        """Its name."""
        return f"fat{self.bits}"


@dataclass(frozen=True, slots=True)
class _Fields:
    sector: int
    per_cluster: int
    reserved: int
    copies: int
    root_entries: int
    sectors: int
    table: int
    wide: bool


def read_geometry(volume: VolumeReader) -> Geometry:
    """Read the boot sector.

    Raises:
        GuestDamaged: this is none of FAT, or it contradicts itself.
    """
    boot = volume.read(0, _BOOT_BYTES)
    fields = _fields(boot)
    tables = fields.reserved * fields.sector
    table_bytes = fields.table * fields.sector
    root_start = tables + fields.copies * table_bytes
    root_bytes = -(-fields.root_entries * 32 // fields.sector) * fields.sector
    start, cluster = root_start + root_bytes, fields.per_cluster * fields.sector
    size = fields.sectors * fields.sector
    count = (size - start) // cluster
    bits = _bits(count, wide=fields.wide)
    if count < 1 or table_bytes * 8 < (count + 2) * bits:
        raise GuestDamaged(f"a FAT of {table_bytes} bytes for {count} clusters")
    flags, root_cluster = 0, 0
    if fields.wide:
        _, flags, _, root_cluster, _, _ = _BPB32.unpack_from(boot, 36)
    at = 64 if fields.wide else 36
    active = flags & 15 if flags & 0x80 else 0
    if active >= fields.copies:
        raise GuestDamaged(f"FAT number {active} of {fields.copies}")
    named = boot[at + 2] in _SIGNATURES
    return Geometry(
        bits=bits,
        sector=fields.sector,
        size=size,
        heap=Heap(start, cluster, count),
        tables=tuple(tables + number * table_bytes for number in range(fields.copies)),
        table_bytes=table_bytes,
        active=active,
        mirrored=not flags & 0x80,
        root=(root_start, root_bytes),
        root_cluster=root_cluster,
        dirty=bool(boot[at + 1] & 1),
        label=boot[at + 7 : at + 18] if boot[at + 2] == _SIGNATURES[1] else b"",
        serial=int.from_bytes(boot[at + 3 : at + 7], "little") if named else 0,
    )


def _fields(boot: bytes) -> _Fields:
    values = _BPB.unpack_from(boot, 11)
    sector, per_cluster, reserved, copies, root_entries, small, media, table, _, _, _, large = (
        values
    )
    if boot[510:512] != b"\x55\xaa" or boot[0] not in {0xEB, 0xE9}:
        raise GuestDamaged("no boot sector")
    if not _is_power(sector, 512, 4096) or not _is_power(per_cluster, 1, 128):
        raise GuestDamaged(f"clusters of {per_cluster} sectors of {sector} bytes")
    if not reserved or not 1 <= copies <= _COPIES_MAX or not (media == 0xF0 or media >= 0xF8):
        raise GuestDamaged("no boot sector of a FAT")
    wide = not table
    if wide:
        table = _BPB32.unpack_from(boot, 36)[0]
    if not table or wide == bool(root_entries) or not (small or large):
        raise GuestDamaged("a FAT, or a root directory, of no size")
    return _Fields(sector, per_cluster, reserved, copies, root_entries, small or large, table, wide)


def _is_power(number: int, least: int, most: int) -> bool:
    return least <= number <= most and not number & (number - 1)


def _bits(count: int, *, wide: bool) -> int:
    if wide:
        if count > _FAT32_CLUSTERS:
            raise GuestDamaged(f"{count} clusters")
        return 32
    if count >= _FAT16_CLUSTERS:
        raise GuestDamaged(f"{count} clusters in a FAT16")
    return 12 if count < _FAT12_CLUSTERS else 16
