"""What the disks of a guest are divided into: partitions, logical volumes, file systems.

Of every disk each byte belongs to exactly one of: structure (tables, labels), gaps, free space of
volume groups, or the volumes; where that cannot be said the disk has a doubt, and all of it counts.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestError, GuestUnsupported
from ruchu.guests import lvm, partitions, probing, ranges, segments, swap
from ruchu.guests.contract import Allocation, FileSystem, Opener, Ranges, everything
from ruchu.guests.named import NamedFiles
from ruchu.guests.partitions import Partition, Table
from ruchu.guests.segments import MappedDevice

_PV, _SWAP, _EMPTY, _UNKNOWN = "lvm-pv", "swap", "empty", "unknown"
_REASONS = {
    "luks": "it is encrypted (LUKS)",
    "bitlocker": "it is encrypted (BitLocker)",
    "mdraid": "it is a member of a Linux software RAID",
    _SWAP: "it is swap space",
    _EMPTY: "nothing is recognised in it; it seems empty",
    _UNKNOWN: "nothing is recognised in it",
}


@dataclass(frozen=True, slots=True)
class Volume:
    """A partition, a logical volume, or a disk without a partition table.

    Attributes:
        name: `vda1`, `nvme0n1p1` (partitions), `vda` (a whole disk), `vg0/root` (LVM).
        device: its content; where the volume cannot be read, at least all areas that it takes.
        kind: of its file system, or `swap`, `luks`, `bitlocker`, `lvm-pv`, `mdraid`, `unknown`,
            `empty` or another name.
        role: type of the partition or the logical volume in words.
        label: name of the partition.
        reason: why it cannot be opened; empty if it can.
        container: its bytes are told by other volumes, structure and free space: a physical
            volume that is understood.
        shared: why all of it counts although it can be read; empty if its file system tells.
    """

    name: str
    device: MappedDevice
    kind: str
    role: str = ""
    label: str = ""
    reason: str = ""
    container: bool = False
    shared: str = ""


@dataclass(frozen=True, slots=True)
class Layout:
    """What the disks of a guest are divided into. Every disk has a key in each mapping of ranges.

    Attributes:
        volumes: all volumes, in the order of disks and places, logical ones last.
        structure: per disk: what tables, boot code, labels and metadata of volume groups take;
            the whole of a disk with a doubt.
        gaps: per disk: bytes of no partition and no structure.
        free: per disk: bytes of volume groups that no logical volume has.
        doubts: disk to why it is not understood: all of it counts.
    """

    volumes: tuple[Volume, ...]
    structure: Mapping[str, Ranges]
    gaps: Mapping[str, Ranges]
    free: Mapping[str, Ranges]
    doubts: Mapping[str, str] = field(default_factory=dict)

    @property
    def leaves(self) -> tuple[Volume, ...]:
        """The volumes that tell for their bytes themselves: all but containers."""
        return tuple(volume for volume in self.volumes if not volume.container)

    def on(self, disk: str) -> tuple[Volume, ...]:
        """Return the leaves that have a part on a disk."""
        return tuple(volume for volume in self.leaves if disk in volume.device.disks)


def discover(disks: Mapping[str, BlockReader]) -> Layout:
    """Return what the disks of one guest are divided into.

    Args:
        disks: all of them by key: a volume group may span several.

    Raises:
        RuchuError: a disk cannot be read. Never raises for what is on it.
    """
    parts = [_disk(key, segments.whole(key, reader)) for key, reader in disks.items()]
    found = [volume for part in parts for volume in part.volumes]
    assembly = lvm.assemble({item.name: item.device for item in found if item.kind == _PV})
    volumes = [_member(item, assembly.broken) for item in found]
    volumes += [_logical(item) for item in assembly.volumes]
    doubts = {part.key: part.doubt for part in parts if part.doubt}
    structure, gaps, free = {}, {}, {}
    for part in parts:
        key, none = part.key, ranges.empty()
        if part.doubt:
            structure[key] = _all_of(part.size)
            gaps[key] = free[key] = none
            continue
        structure[key] = ranges.union(part.structure, assembly.structure.get(key, none))
        gaps[key] = part.gaps
        free[key] = assembly.free.get(key, none)
    return Layout(tuple(volumes), structure, gaps, free, doubts)


def open_file_system(volume: Volume) -> FileSystem:
    """Open the file system on a volume, for who goes from directory to directory.

    What its directories name and is not there counts as damage: see `NamedFiles`.

    Raises:
        GuestUnsupported: there is none that can be read; it says why.
        GuestDamaged: it contradicts itself.
    """
    if volume.reason:
        raise GuestUnsupported(f"{volume.name}: {volume.reason}")
    opener = probing.opener_of(volume.kind, volume.device)
    if opener is None:
        raise GuestUnsupported(f"{volume.name} ({volume.kind}) holds no file system to read")
    return NamedFiles(opener.open_file_system(volume.device))


def allocation_of(volume: Volume, *, frozen: bool) -> Allocation:
    """Return which bytes of a volume count. What is not understood counts as a whole.

    Of swap space only the header counts. What lies behind the end of a file system counts too:
    others (DRBD, RAID) keep their metadata there. Containers are not to be asked about: their
    bytes are told by other volumes and the layout.
    """
    device = volume.device
    if volume.shared:
        return everything(device.size, volume.shared)
    if volume.kind == _SWAP:
        return swap.allocation(device)
    opener = None if volume.reason else probing.opener_of(volume.kind, device)
    if opener is None:
        return everything(device.size, volume.reason or f"it is a container ({volume.kind})")
    return _with_tail(opener, device, opener.allocation(device, frozen=frozen))


def _with_tail(opener: Opener, device: MappedDevice, found: Allocation) -> Allocation:
    if found.doubt:
        return found
    try:
        end = opener.open_file_system(device).facts.size
    except GuestError as error:
        return everything(device.size, error.detail)
    tail = ranges.of_pairs([(min(end, device.size), device.size)])
    return Allocation(ranges.union(found.used, tail))


# ------------------------------------------------------------------------------------- one disk


@dataclass(frozen=True, slots=True)
class _Part:
    """What one disk contributes to the layout."""

    key: str
    size: int
    volumes: tuple[Volume, ...]
    structure: Ranges
    gaps: Ranges
    doubt: str


def _disk(key: str, device: MappedDevice) -> _Part:
    table = partitions.read_table(device)
    if table.scheme == "mbr":
        table = _of_right_sectors(device, table)
    if not table.scheme:
        volume = _recognised(key, device)
        return _Part(key, device.size, (volume,), ranges.empty(), ranges.empty(), "")
    doubt = table.doubt
    if not doubt and (kinds := probing.kinds(device)):
        doubt = f"it has a partition table and carries the signature of {' and '.join(kinds)}"
    volumes = tuple(_partition(key, device, part) for part in table.partitions)
    taken = ranges.of_pairs([(part.start, min(part.end, device.size)) for part in table.partitions])
    gaps = ranges.complement(ranges.union(table.structure, taken), device.size)
    structure = ranges.clipped(table.structure, 0, device.size)
    return _Part(key, device.size, volumes, structure, gaps, doubt)


def _of_right_sectors(device: MappedDevice, table: Table) -> Table:
    """Return the MBR read with the sectors that its disk has, which it does not tell.

    They are 512 bytes unless nothing is found where that says, and something is with 4096. Where
    both can be, and neither or each leads to something, nobody can say.
    """
    other = partitions.read_table(device, partitions.SECTORS[1])
    if other.doubt:
        return table
    found, found_other = _finds_something(device, table), _finds_something(device, other)
    if table.doubt:
        return other if found_other else table
    if found == found_other:
        return replace(table, doubt="its MBR does not tell whether its sectors have 512 bytes")
    return table if found else other


def _finds_something(device: MappedDevice, table: Table) -> bool:
    return any(
        probing.kinds(device.part(part.start, part.length))
        for part in table.partitions
        if part.end <= device.size
    )


def _partition(key: str, device: MappedDevice, part: Partition) -> Volume:
    name = f"{key}{'p' if key[-1:].isdigit() else ''}{part.number}"
    start = min(part.start, device.size)
    length = min(part.length, device.size - start)
    volume = _recognised(name, device.part(start, length))
    volume = replace(volume, role=part.role, label=part.label)
    if length == part.length:
        return volume
    return replace(volume, reason="it ends after its disk", kind=_UNKNOWN)


def _recognised(name: str, device: MappedDevice) -> Volume:
    kind, reason = _kind_of(device)
    return Volume(name, device, kind, reason=reason)


def _kind_of(device: MappedDevice) -> tuple[str, str]:
    """Return kind, and why it cannot be opened."""
    kinds = probing.kinds(device)
    if kinds and partitions.announced(device):
        # Whoever took the volume for a disk has left the signature of what was there before.
        kinds = (*kinds, "a partition table")
    if not kinds:
        kind = _EMPTY if probing.looks_empty(device) else _UNKNOWN
        return kind, _REASONS[kind]
    if "mdraid" in kinds:
        # A mirror's member looks like the file system inside.
        return "mdraid", _REASONS["mdraid"]
    if len(kinds) > 1:
        return _UNKNOWN, f"it carries the signatures of {' and '.join(kinds)}"
    kind = kinds[0]
    if kind == _PV or probing.opener_of(kind, device):
        return kind, ""
    return kind, _REASONS.get(kind, f"{kind} cannot be read by this release")


def _member(volume: Volume, broken: Mapping[str, str]) -> Volume:
    """Return a physical volume with what became of it; other volumes as they are."""
    if volume.kind != _PV:
        return volume
    if volume.name in broken:
        return replace(volume, reason=broken[volume.name])
    return replace(volume, container=True)


def _logical(found: lvm.LogicalVolume) -> Volume:
    if found.reason:
        return Volume(found.name, found.device, _UNKNOWN, found.role, reason=found.reason)
    volume = _recognised(found.name, found.device)
    volume = replace(volume, role=found.role, shared=found.shared)
    if volume.kind == _PV:
        return replace(volume, reason="it is a physical volume inside a logical one")
    return volume


def _all_of(size: int) -> Ranges:
    return ranges.of_pairs([(0, size)])
