"""Partition tables: MBR with logical partitions, GPT. Read-only, nothing of them is believed.

Sources: UEFI Specification 2.10, chapter 5 (GPT, protective MBR); the MBR and its chain of extended
boot records as every PC system since DOS 3.3 uses them. Sectors of 512 and 4096 bytes.
"""

import struct
import uuid
import zlib
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged
from ruchu.guests import ranges
from ruchu.guests.contract import Ranges
from ruchu.guests.volume_reading import VolumeReader

SECTORS = (512, 4096)
# The table of a GPT has 128 entries on nearly every disk; no system reads more than this.
_ENTRIES_MAX = 4096
_ENTRY_BYTES_MAX = 4096
# Linux follows a chain of this many logical partitions at most.
_LOGICAL_MAX = 256
# Sector numbers beyond this would leave 64 bits when they become bytes: no disk has so many.
_SECTOR_MAX = 1 << 48
_EXTENDED = frozenset({0x05, 0x0F, 0x85})
_PROTECTIVE = 0xEE
_LDM = 0x42
_ENTRY = struct.Struct("<B3sB3sII")
_HEADER = struct.Struct("<8sIIIIQQQQ16sQIII")
_ZERO_TYPE = bytes(16)
_LDM_TYPES = frozenset(
    {"5808c8aa-7e8f-42e0-85d2-e1e90434cfb3", "af9b60a0-1431-4f62-bc68-3311714a69ad"}
)
_LDM_DOUBT = "it belongs to a dynamic disk (LDM)"
_GPT_NAMES = {
    "c12a7328-f81f-11d2-ba4b-00a0c93ec93b": "EFI system",
    "21686148-6449-6e6f-744e-656564454649": "BIOS boot",
    "e3c9e316-0b5c-4db8-817d-f92df00215ae": "Microsoft reserved",
    "ebd0a0a2-b9e5-4433-87c0-68b6b72699c7": "Microsoft basic data",
    "de94bba4-06d1-4d40-a16a-bfd50179d6ac": "Windows recovery",
    "0fc63daf-8483-4772-8e79-3d69d8477de4": "Linux data",
    "0657fd6d-a4ab-43c4-84e5-0933c84b4f4f": "Linux swap",
    "e6d6d379-f507-44c2-a23c-238f2a3df928": "Linux LVM",
    "a19d880f-05fc-4d3b-a006-743f0f84911e": "Linux RAID",
    "bc13c2ff-59e6-4262-a352-b275fd6f7172": "Linux boot",
    "933ac7e1-2eb4-4f13-b844-0e14e2aef915": "Linux home",
    "4f68bce3-e8cd-4db1-96e7-fbcaf984b709": "Linux root (x86-64)",
}
_MBR_NAMES = {
    0x01: "FAT12",
    0x04: "FAT16",
    0x06: "FAT16",
    0x07: "NTFS or exFAT",
    0x0B: "FAT32",
    0x0C: "FAT32 (LBA)",
    0x0E: "FAT16 (LBA)",
    0x27: "Windows recovery",
    0x42: "Windows dynamic disk",
    0x82: "Linux swap",
    0x83: "Linux",
    0x8E: "Linux LVM",
    0xA5: "FreeBSD",
    0xEF: "EFI system",
    0xFD: "Linux RAID",
}


@dataclass(frozen=True, slots=True)
class Partition:
    """A partition of a disk: `start` and `length` in bytes.

    Attributes:
        number: as Linux counts it: primary ones from 1, logical ones from 5.
        start, length: where it is.
        role: what its type means, with the type's number or GUID.
        label: its name in a GPT; empty in an MBR.
    """

    number: int
    start: int
    length: int
    role: str
    label: str = ""

    @property
    def end(self) -> int:
        """First byte after it."""
        return self.start + self.length


@dataclass(frozen=True, slots=True)
class Table:
    """The partition table of a disk.

    Attributes:
        scheme: `gpt`, `mbr`, or empty: there is none.
        partitions: in the order of their start.
        structure: bytes that tables and boot code take: all before the first partition, both
            GPTs, the extended boot records.
        doubt: why it is not understood; empty if it is.
    """

    scheme: str
    partitions: tuple[Partition, ...] = ()
    structure: Ranges = field(default_factory=ranges.empty)
    doubt: str = ""


def read_table(device: BlockReader, sector: int = 0) -> Table:
    """Return the partition table of a disk.

    Args:
        device: the disk.
        sector: bytes of a sector of its MBR, 512 if 0; a GPT tells its own by where it is.
    """
    volume = VolumeReader(device)
    if volume.size < 2 * SECTORS[0]:
        return Table("")
    boot = volume.read(0, 512)
    primary = _primary_entries(boot)
    protective = any(kind == _PROTECTIVE for kind, _, _ in primary)
    for size in SECTORS:
        found = _read_gpt(volume, size)
        if found:
            return _checked(_with_mbr(found, primary, size, protective=protective), volume.size)
    if protective:
        return Table("gpt", doubt="its protective MBR announces a GPT, but none is intact")
    if not primary or any(start == 0 for _, start, _ in primary):
        return Table("")
    return _checked(_read_mbr(volume, boot, sector or SECTORS[0]), volume.size)


def announced(device: BlockReader) -> bool:
    """Return whether a device begins with an MBR that names partitions."""
    volume = VolumeReader(device)
    if volume.size < SECTORS[0]:
        return False
    primary = _primary_entries(volume.read(0, 512))
    return bool(primary) and all(start for _, start, _ in primary)


# ------------------------------------------------------------------------------------------ MBR


def _primary_entries(boot: bytes) -> list[tuple[int, int, int]]:
    """Return type, first sector and sectors of the entries in use; none if it is no MBR."""
    if boot[510:512] != b"\x55\xaa":
        return []
    entries = [_ENTRY.unpack_from(boot, 446 + 16 * number) for number in range(4)]
    if any(entry[0] & 0x7F for entry in entries):
        return []
    return [(entry[2], entry[4], entry[5]) for entry in entries if entry[2] and entry[5]]


def _read_mbr(volume: VolumeReader, boot: bytes, sector: int) -> Table:
    partitions: list[Partition] = []
    records: list[tuple[int, int]] = []
    doubts: list[str] = []
    extended: list[tuple[int, int]] = []
    for number in range(4):
        _, _, kind, _, start, count = _ENTRY.unpack_from(boot, 446 + 16 * number)
        if not kind or not count:
            continue
        if kind in _EXTENDED:
            extended.append((start, count))
            continue
        if kind == _LDM:
            doubts.append(_LDM_DOUBT)
        partitions.append(_mbr_partition(number + 1, kind, start * sector, count * sector))
    number = 5
    for start, count in extended:
        try:
            chain = _Chain(volume, start, count, sector)
            partitions += chain.partitions(number)
        except GuestDamaged as error:
            doubts.append(f"its logical partitions are damaged: {error.detail}")
            continue
        records += chain.records
        number += len(chain.found)
    first = min([part.start for part in partitions] + [at for at, _ in records] + [volume.size])
    return Table(
        "mbr",
        tuple(sorted(partitions, key=lambda part: part.start)),
        ranges.of_pairs([(0, max(first, 512)), *records]),
        "; ".join(doubts),
    )


def _mbr_partition(number: int, kind: int, start: int, length: int) -> Partition:
    name = _MBR_NAMES.get(kind, "partition")
    return Partition(number, start, length, f"{name} (0x{kind:02x})")


class _Chain:
    """The extended boot records of one extended partition.

    Each names one logical partition, relative to itself, and the next record, relative to the
    extended partition.
    """

    def __init__(self, volume: VolumeReader, start: int, count: int, sector: int) -> None:
        self.records: list[tuple[int, int]] = []
        self.found: list[tuple[int, int, int]] = []
        seen: set[int] = set()
        at = start
        while at not in seen:
            if len(seen) >= _LOGICAL_MAX or not start <= at < start + count:
                raise GuestDamaged(f"an extended boot record at sector {at}")
            seen.add(at)
            record = volume.read(at * sector, 512)
            if record[510:512] != b"\x55\xaa":
                raise GuestDamaged(f"no extended boot record at sector {at}")
            self.records.append((at * sector, (at + 1) * sector))
            following = self._take(record, start, at, sector)
            if following is None:
                return
            at = following
        raise GuestDamaged("its extended boot records lead in a circle")

    def _take(self, record: bytes, base: int, at: int, sector: int) -> int | None:
        following = None
        for number in range(4):
            _, _, kind, _, start, count = _ENTRY.unpack_from(record, 446 + 16 * number)
            if not kind or not count:
                continue
            if kind in _EXTENDED:
                if following is not None:
                    raise GuestDamaged("an extended boot record has two successors")
                following = base + start
            else:
                self.found.append((kind, (at + start) * sector, count * sector))
        return following

    def partitions(self, first: int) -> list[Partition]:
        """Return the logical partitions, numbered from `first` on."""
        return [_mbr_partition(first + at, *found) for at, found in enumerate(self.found)]


# ------------------------------------------------------------------------------------------ GPT


@dataclass(frozen=True, slots=True)
class _Gpt:
    """One of the two copies of a GPT; positions in bytes."""

    own: int
    alternate: int
    usable_end: int
    entries: tuple[int, int]
    checksum: int
    partitions: tuple[Partition, ...]


def _read_gpt(volume: VolumeReader, sector: int) -> Table | None:
    """Return the GPT if the disk has sectors of that size and a copy of it is intact."""
    last = volume.size // sector - 1
    primary = _gpt_copy(volume, 1, sector)
    backup = _gpt_copy(volume, primary.alternate // sector if primary else last, sector)
    found = primary or backup
    if found is None:
        return None
    doubt = ""
    if primary and backup and primary.checksum != backup.checksum:
        doubt = "the two copies of its GPT differ"
    if any(part.role.split("(")[-1].rstrip(")") in _LDM_TYPES for part in found.partitions):
        doubt = doubt or _LDM_DOUBT
    first = min([part.start for part in found.partitions] + [found.usable_end, volume.size])
    taken = [(0, max(first, 2 * sector)), found.entries, (found.own, found.own + sector)]
    if backup:
        taken += [backup.entries, (backup.own, backup.own + sector)]
    if last * sector in (found.own, found.alternate):
        taken.append((found.usable_end, volume.size))
    return Table("gpt", found.partitions, ranges.of_pairs(taken), doubt)


def _gpt_copy(volume: VolumeReader, at: int, sector: int) -> _Gpt | None:
    """Return the copy whose header is sector `at`; None if there is none or it is damaged."""
    try:
        return _parse_gpt(volume, at, sector)
    except (GuestDamaged, struct.error):
        return None


def _parse_gpt(volume: VolumeReader, at: int, sector: int) -> _Gpt | None:
    raw = volume.read(at * sector, sector)
    values = _HEADER.unpack_from(raw)
    magic, _, length, checksum, _, own, other, _, last, _, table, count, size, entries_crc = values
    if magic != b"EFI PART" or own != at or not _HEADER.size <= length <= sector:
        return None
    if max(other, last, table) > _SECTOR_MAX:
        raise GuestDamaged("the header of a GPT points nowhere")
    if zlib.crc32(raw[:16] + bytes(4) + raw[20:length]) != checksum:
        return None
    if count > _ENTRIES_MAX or not 128 <= size <= _ENTRY_BYTES_MAX or size % 8:
        raise GuestDamaged("the header of a GPT has impossible sizes")
    entries = volume.read(table * sector, count * size)
    if zlib.crc32(entries) != entries_crc:
        return None
    partitions = [
        part
        for number in range(count)
        if (part := _gpt_partition(entries[number * size :], number + 1, sector))
    ]
    return _Gpt(
        own * sector,
        other * sector,
        (last + 1) * sector,
        (table * sector, table * sector + -(-len(entries) // sector) * sector),
        entries_crc,
        tuple(sorted(partitions, key=lambda part: part.start)),
    )


def _gpt_partition(entry: bytes, number: int, sector: int) -> Partition | None:
    kind, _, first, last, _, label = struct.unpack_from("<16s16sQQQ72s", entry)
    if kind == _ZERO_TYPE:
        return None
    if last < first or last > _SECTOR_MAX:
        raise GuestDamaged(f"partition {number} cannot be from sector {first} to {last}")
    guid = str(uuid.UUID(bytes_le=kind))
    name = label.decode("utf-16-le", "replace").partition("\0")[0]
    role = f"{_GPT_NAMES.get(guid, 'partition')} ({guid})"
    return Partition(number, first * sector, (last + 1 - first) * sector, role, name)


def _with_mbr(
    table: Table, primary: Sequence[tuple[int, int, int]], sector: int, *, protective: bool
) -> Table:
    """Hold a GPT against the MBR before it: a system without GPT sees that one."""
    if table.doubt:
        return table
    if not protective:
        return replace(table, doubt="it has a GPT, but no protective MBR that says so")
    known = {(part.start, part.length) for part in table.partitions}
    for kind, start, count in primary:
        if kind != _PROTECTIVE and (start * sector, count * sector) not in known:
            return replace(table, doubt="its MBR has a partition that its GPT does not have")
    return table


def _checked(table: Table, size: int) -> Table:
    """Return the table with a doubt if its partitions cannot be."""
    if table.doubt:
        return table
    reach = 0
    for part in table.partitions:
        if part.end > size:
            return replace(table, doubt=f"partition {part.number} ends after the disk")
        if part.start < reach:
            return replace(table, doubt=f"partition {part.number} overlaps another one")
        reach = part.end
    taken = ranges.of_pairs([(part.start, part.end) for part in table.partitions])
    if len(ranges.intersection(taken, table.structure, size)):
        return replace(table, doubt="a partition overlaps the partition table")
    return table
