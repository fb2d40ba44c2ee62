"""LVM2 volume groups: which logical volume lies where, and what no volume has.

Linear, striped and thin volumes are readable. Of every other type (mirror, raid, cache, snapshot,
VDO, integrity) it is known which extents it takes, and that it cannot be read. Sources: as for
`lvm_metadata`; lvm2 `lib/format_text/import_vsn1.c` and the segment types in `lib/`.
"""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from ruchu.errors import GuestDamaged, GuestError, GuestUnsupported
from ruchu.guests import lvm_metadata, per_disk, ranges, segments
from ruchu.guests.contract import Ranges
from ruchu.guests.lvm_metadata import SECTOR, PhysicalVolume, Section, Value
from ruchu.guests.lvm_thin import ThinPool
from ruchu.guests.per_disk import PerDisk
from ruchu.guests.segments import MappedDevice
from ruchu.guests.volume_reading import VolumeReader

# LVM's own tools get slow with thousands; nobody has more.
_VOLUMES_MAX = 16384
_SEGMENTS_MAX = 65536
# pvmove and cache over raid over thin: no stack of LVM is deeper.
_DEPTH_MAX = 12


@dataclass(frozen=True, slots=True)
class LogicalVolume:
    """A logical volume that its guest sees.

    Attributes:
        name: `group/volume`.
        device: its content; if there is a reason, only the areas that it takes, in no order.
        role: its type in LVM's words.
        reason: why it cannot be read; empty if it can.
        shared: why others may need what it calls free; empty if they do not.
    """

    name: str
    device: MappedDevice
    role: str
    reason: str = ""
    shared: str = ""


@dataclass(slots=True)
class Assembly:
    """What the physical volumes of a guest make up together.

    Attributes:
        volumes: the logical volumes.
        structure: per disk: labels, metadata, extents of internal volumes, and chunks of thin
            volumes that cannot be read or that LVM does not know.
        free: per disk: extents of no volume, and chunks of thin pools that no thin volume has.
        broken: physical volume to why all of it counts, apart from its logical volumes.
    """

    volumes: list[LogicalVolume] = field(default_factory=list)
    structure: PerDisk = field(default_factory=dict)
    free: PerDisk = field(default_factory=dict)
    broken: dict[str, str] = field(default_factory=dict)


def assemble(members: Mapping[str, MappedDevice]) -> Assembly:
    """Put together the volume groups of all physical volumes of a guest.

    Args:
        members: physical volumes by name; whatever is wrong with one is in the answer.
    """
    result = Assembly()
    found: dict[str, PhysicalVolume] = {}
    for name, device in members.items():
        try:
            found[name] = lvm_metadata.read_physical_volume(VolumeReader(device))
        except GuestDamaged as error:
            result.broken[name] = error.detail
    _break_twins(found, result)
    texts = sorted({text for volume in found.values() for text in volume.texts})
    groups, faults = _newest(texts)
    names = [name for name, _ in groups]
    for name, section in groups:
        shown = name if names.count(name) == 1 else f"{name}({section.get('id')})"
        try:
            group = _Group(shown, section, found, members)
        except GuestError as error:
            faults.append(error.detail)
            continue
        group.add_to(result)
    reason = faults[0] if faults else "it belongs to no volume group that was found"
    known = {member for _, section in groups for member in _members_of(section)}
    for name, volume in found.items():
        if faults or volume.uuid not in known or volume.faults:
            result.broken.setdefault(name, "; ".join(volume.faults) or reason)
    # A physical volume that counts as a whole has nothing that is free.
    whole = per_disk.joined([members[name].everywhere() for name in result.broken])
    result.structure = per_disk.without(result.structure, whole)
    result.free = per_disk.without(result.free, whole)
    return result


def _break_twins(found: dict[str, PhysicalVolume], result: Assembly) -> None:
    """Take out physical volumes that say they are the same one: nobody knows which is."""
    uuids = [volume.uuid for volume in found.values()]
    for name, volume in list(found.items()):
        if uuids.count(volume.uuid) > 1:
            result.broken[name] = "another physical volume has the same UUID"
            del found[name]


def _newest(texts: Sequence[str]) -> tuple[list[tuple[str, Section]], list[str]]:
    """Return name and newest metadata of each group, and what was wrong with other texts.

    Where the areas of a group are not all of one age, this is among the faults.
    """
    newest: dict[str, tuple[int, str, Section]] = {}
    faults: list[str] = []
    for text in texts:
        try:
            name, section = _group_of(lvm_metadata.parse(text))
            key = lvm_metadata.text(section, "id")
            age = lvm_metadata.number(section, "seqno")
        except GuestDamaged as error:
            faults.append(error.detail)
            continue
        if key in newest and newest[key][0] != age:
            faults.append(f"the metadata of volume group {name} differs between its disks")
        if key not in newest or newest[key][0] < age:
            newest[key] = (age, name, section)
    return [(name, section) for _, name, section in newest.values()], faults


def _group_of(parsed: Section) -> tuple[str, Section]:
    groups = [(name, value) for name, value in parsed.items() if isinstance(value, dict)]
    if len(groups) != 1:
        raise GuestDamaged(f"the metadata describes {len(groups)} volume groups")
    return groups[0]


def _members_of(section: Section) -> Iterator[str]:
    volumes = section.get("physical_volumes", {})
    for value in volumes.values() if isinstance(volumes, dict) else ():
        if isinstance(value, dict) and isinstance(identity := value.get("id"), str):
            yield identity.replace("-", "")


@dataclass(frozen=True, slots=True)
class _Member:
    """A physical volume in its group: where its extents begin, how many there are."""

    name: str
    device: MappedDevice
    first: int
    count: int


class _Group:
    """One volume group. Raises GuestDamaged if its metadata cannot be."""

    def __init__(
        self,
        name: str,
        section: Section,
        found: Mapping[str, PhysicalVolume],
        devices: Mapping[str, MappedDevice],
    ) -> None:
        self.name = name
        self._extent = lvm_metadata.number(section, "extent_size") * SECTOR
        if not self._extent:
            raise GuestDamaged(f"volume group {name} has extents of no size")
        self._missing: list[str] = []
        self._members: dict[str, _Member | None] = {}
        by_uuid = {volume.uuid: key for key, volume in found.items()}
        for key, value in lvm_metadata.section(section, "physical_volumes").items():
            self._members[key] = self._member(key, value, by_uuid, devices)
        self._volumes = _sections(lvm_metadata.section(section, "logical_volumes"))
        if len(self._volumes) > _VOLUMES_MAX:
            raise GuestDamaged(f"volume group {name} has {len(self._volumes)} volumes")
        self._segments = {key: _segments(volume) for key, volume in self._volumes.items()}
        # What holds the former blocks of a snapshot is shown, though it is not marked as visible.
        self._stores = {
            word
            for parts in self._segments.values()
            for part in parts
            for key in ("cow_store", "merging_store")
            if isinstance(word := part.get(key), str) and word in self._volumes
        }
        # A snapshot reads from its origin what was not written since: also what is free there.
        self._origins = {
            word
            for parts in self._segments.values()
            for part in parts
            for key in ("origin", "external_origin")
            if isinstance(word := part.get(key), str)
        }
        self._made: dict[str, MappedDevice | GuestError] = {}
        self._pools: dict[str, ThinPool | GuestError] = {}
        self._pools_free: list[Mapping[str, Ranges]] = []
        self._pools_kept: list[Mapping[str, Ranges]] = []

    def _member(
        self,
        key: str,
        value: Value,
        by_uuid: Mapping[str, str],
        devices: Mapping[str, MappedDevice],
    ) -> _Member | None:
        if not isinstance(value, dict):
            raise GuestDamaged(f"physical volume {key} of {self.name} is not described")
        name = by_uuid.get(lvm_metadata.text(value, "id").replace("-", ""), "")
        if not name or "MISSING" in lvm_metadata.items(value, "flags"):
            self._missing.append(key)
            return None
        first = lvm_metadata.number(value, "pe_start") * SECTOR
        count = lvm_metadata.number(value, "pe_count")
        if first + count * self._extent > devices[name].size:
            raise GuestDamaged(f"physical volume {key} of {self.name} is smaller than it says")
        return _Member(name, devices[name], first, count)

    # ------------------------------------------------------------------------------- the result

    def add_to(self, result: Assembly) -> None:
        """Add the volumes of the group, its structure and its free extents."""
        members = [member for member in self._members.values() if member]
        if self._missing:
            reason = f"volume group {self.name} lacks {', '.join(self._missing)}"
            result.broken.update({member.name: reason for member in members})
        damaged = False
        volumes: list[LogicalVolume] = []
        try:
            taken = self._taken(self._volumes)
            shown = {name: self._shown(name) for name in self._volumes if self._visible(name)}
            readable = {name for name, volume in shown.items() if not volume.reason}
            volumes = [*shown.values(), *self._pools_shown(readable)]
        except GuestDamaged as error:
            result.broken.update({member.name: str(error) for member in members})
            damaged = True
            taken = {}
        result.volumes += volumes
        if damaged or self._missing:
            return
        per_disk.add(result.structure, per_disk.joined(self._pools_kept))
        claimed = per_disk.joined([volume.device.everywhere() for volume in volumes])
        unmapped = per_disk.joined(self._pools_free)
        for member in members:
            whole = member.device.everywhere()
            data = member.device.part(member.first, member.count * self._extent).everywhere()
            per_disk.add(result.structure, per_disk.without(whole, data))
            per_disk.add(result.free, per_disk.without(data, taken))
            # A thin pool has no other extents than its own; damaged metadata may say otherwise.
            free = per_disk.without(
                per_disk.common(data, per_disk.common(taken, unmapped)), claimed
            )
            per_disk.add(result.free, free)
            inside = per_disk.common(data, taken)
            per_disk.add(
                result.structure, per_disk.without(per_disk.without(inside, claimed), free)
            )

    def _visible(self, name: str) -> bool:
        status = lvm_metadata.items(self._volumes[name], "status")
        types = {lvm_metadata.text(part, "type") for part in self._segments[name]}
        if name in self._stores:
            return True
        return "VISIBLE" in status and not types & {"thin-pool", "snapshot"}

    def _shown(self, name: str) -> LogicalVolume:
        types = {lvm_metadata.text(part, "type") for part in self._segments[name]}
        role = f"LVM {', '.join(sorted(types))} volume"
        reason = self._hindrance(name)
        if not reason:
            try:
                device = self._device(name)
                shared = "a snapshot reads from it" if name in self._origins else ""
                return LogicalVolume(f"{self.name}/{name}", device, role, shared=shared)
            except GuestError as error:
                reason = error.detail
        return LogicalVolume(f"{self.name}/{name}", self._areas([name]), role, reason)

    def _hindrance(self, name: str) -> str:
        """Return why a volume must not be read although its extents are known."""
        if self._missing:
            return f"volume group {self.name} lacks {', '.join(self._missing)}"
        if name in self._stores:
            return "it holds the former blocks of a snapshot"
        merged = (
            part
            for parts in self._segments.values()
            for part in parts
            if "merging_store" in part and part.get("origin") == name
        )
        return "a snapshot is being merged into it" if any(merged) else ""

    def _pools_shown(self, readable: Collection[str]) -> Iterator[LogicalVolume]:
        """Yield the thin pools that are not understood; note what the others have free.

        A chunk may belong to several thin volumes. Those that no reader can tell for (`readable`
        are the others), or that LVM does not know of, keep what they have.
        """
        for name, parts in self._segments.items():
            if not parts or parts[0].get("type") != "thin-pool":
                continue
            try:
                pool = self._pool(name)
                expected = lvm_metadata.number(parts[0], "transaction_id", 1 << 62)
                if pool.needs_check or pool.transaction != expected:
                    raise GuestDamaged("the thin pool needs a check")
                data = self._device(lvm_metadata.text(parts[0], "pool"))
                unused = ranges.complement(pool.used(), data.size)
                kept = pool.used_by(pool.numbers - self._thin_numbers(name, readable))
                self._pools_free.append(data.physical(unused))
                self._pools_kept.append(data.physical(kept))
            except GuestError as error:
                full = f"{self.name}/{name}"
                yield LogicalVolume(full, self._areas([name]), "LVM thin pool", error.detail)

    def _thin_numbers(self, pool: str, names: Iterable[str]) -> set[int]:
        """Return the device numbers of those of the volumes that a thin pool holds."""
        return {
            lvm_metadata.number(part, "device_id")
            for name in names
            for part in self._segments[name]
            if part.get("type") == "thin" and part.get("thin_pool") == pool
        }

    # ----------------------------------------------------------------------------- their content

    def _device(self, name: str, depth: int = 0) -> MappedDevice:
        """Return a volume's content; what was found once is kept, also that it is impossible."""
        if name not in self._made:
            if depth > _DEPTH_MAX or name not in self._volumes:
                raise GuestDamaged(f"volume {name} of {self.name} is nested too deeply, or missing")
            try:
                self._made[name] = self._built(name, depth)
            except GuestError as error:
                self._made[name] = error
        made = self._made[name]
        if isinstance(made, GuestError):
            raise made
        return made

    def _built(self, name: str, depth: int) -> MappedDevice:
        parts: list[MappedDevice] = []
        reach = 0
        for part in self._segments[name]:
            if lvm_metadata.number(part, "start_extent") != reach:
                raise GuestDamaged(f"the segments of {self.name}/{name} leave a gap")
            count = lvm_metadata.number(part, "extent_count")
            reach += count
            parts.append(self._segment(part, count, depth))
        return segments.concatenated(parts)

    def _segment(self, part: Section, count: int, depth: int) -> MappedDevice:
        kind = lvm_metadata.text(part, "type")
        if kind == "thin":
            return self._thin(part, count * self._extent, depth)
        if kind not in {"striped", "linear"}:
            raise GuestUnsupported(f"a logical volume of type {kind or 'unknown'!r}")
        stripes = lvm_metadata.items(part, "stripes")
        places = list(zip(stripes[0::2], stripes[1::2], strict=False))
        if not places or len(places) != lvm_metadata.number(part, "stripe_count"):
            raise GuestDamaged("a segment names another number of stripes than it has")
        if count % len(places):
            raise GuestDamaged(f"{count} extents in {len(places)} stripes")
        length = count // len(places)
        areas = [self._area(holder, first, length, depth) for holder, first in places]
        if len(areas) == 1:
            return areas[0]
        return segments.interleaved(areas, lvm_metadata.number(part, "stripe_size") * SECTOR)

    def _area(self, holder: Value, first: Value, count: int, depth: int) -> MappedDevice:
        if not isinstance(holder, str) or not isinstance(first, int):
            raise GuestDamaged(f"an area at {first!r} of {holder!r}")
        if holder not in self._members:
            device = self._device(holder, depth + 1)
            return device.part(first * self._extent, count * self._extent)
        member = self._members[holder]
        if member is None:
            raise GuestUnsupported(f"physical volume {holder} is missing")
        if not 0 <= first <= first + count <= member.count:
            raise GuestDamaged(f"extents {first} to {first + count} of {holder}")
        start = member.first + first * self._extent
        return member.device.part(start, count * self._extent)

    def _thin(self, part: Section, size: int, depth: int) -> MappedDevice:
        if "merge" in part:
            raise GuestUnsupported("a snapshot is being merged into it")
        pool = self._pool(lvm_metadata.text(part, "thin_pool"))
        outside = lvm_metadata.text(part, "external_origin")
        origin = self._device(outside, depth + 1) if outside else None
        return pool.volume(lvm_metadata.number(part, "device_id"), size, origin)

    def _pool(self, name: str) -> ThinPool:
        if name not in self._pools:
            try:
                self._pools[name] = self._opened_pool(name)
            except GuestError as error:
                self._pools[name] = error
        pool = self._pools[name]
        if isinstance(pool, GuestError):
            raise pool
        return pool

    def _opened_pool(self, name: str) -> ThinPool:
        parts = self._segments.get(name, [])
        if len(parts) != 1 or parts[0].get("type") != "thin-pool":
            raise GuestDamaged(f"{name!r} of {self.name} is no thin pool")
        metadata = self._device(lvm_metadata.text(parts[0], "metadata"), 1)
        data = self._device(lvm_metadata.text(parts[0], "pool"), 1)
        return ThinPool(metadata, data, lvm_metadata.number(parts[0], "chunk_size") * SECTOR)

    # --------------------------------------------------------------------- which extents it takes

    def _taken(self, names: Iterable[str]) -> PerDisk:
        """Return where the extents lie that volumes, hidden ones too, have themselves."""
        return per_disk.joined(
            [member.device.physical(what) for member, what in self._extents_of(names)]
        )

    def _extents_of(self, names: Iterable[str]) -> Iterator[tuple[_Member, Ranges]]:
        """Yield the physical volumes and what of each the volumes have themselves."""
        found: dict[str, list[tuple[int, int]]] = {}
        for name in names:
            for part in self._segments[name]:
                for holder, start, length in self._pieces(part):
                    found.setdefault(holder, []).append((start, start + length))
        for holder, pairs in found.items():
            member = self._members[holder]
            if member is not None:
                yield member, ranges.of_pairs(pairs)

    def _pieces(self, part: Section) -> Iterator[tuple[str, int, int]]:
        """Yield key of the physical volume, start and length of what a segment of any type names."""
        count = lvm_metadata.number(part, "extent_count")
        if part.get("type") == "striped":
            count = -(-count // max(1, lvm_metadata.number(part, "stripe_count")))
        for value in part.values():
            if not isinstance(value, list):
                continue
            for holder, first in zip(value[0::2], value[1::2], strict=False):
                member = self._members.get(holder) if isinstance(holder, str) else None
                if member is None or not isinstance(first, int):
                    continue
                if not 0 <= first <= first + count <= member.count:
                    raise GuestDamaged(f"extents {first} to {first + count} of {holder}")
                start = member.first + first * self._extent
                yield str(holder), start, count * self._extent

    def _areas(self, names: Sequence[str]) -> MappedDevice:
        """Return all extents of volumes and of those they are made of, one after the other.

        A thin volume has none of its own: those of its pool are the pool's.
        """
        seen: set[str] = set()
        waiting = list(names)
        while waiting:
            name = waiting.pop()
            if name in seen:
                continue
            seen.add(name)
            for part in self._segments[name]:
                if part.get("type") == "thin":
                    continue
                waiting += [word for word in _words(part) if word in self._volumes]
        return segments.concatenated(
            member.device.part(start, end - start)
            for member, what in self._extents_of(seen)
            for start, end in what.tolist()
        )


def _words(part: Section) -> Iterator[str]:
    for value in part.values():
        if isinstance(value, str):
            yield value
        elif isinstance(value, list):
            yield from (word for word in value if isinstance(word, str))


def _sections(holder: Section) -> dict[str, Section]:
    found = {name: value for name, value in holder.items() if isinstance(value, dict)}
    if len(found) != len(holder):
        raise GuestDamaged("the metadata has a volume that is not described")
    return found


def _segments(volume: Section) -> list[Section]:
    """Return the segments of a volume in their order."""
    found = [
        value
        for name, value in volume.items()
        if name.startswith("segment") and isinstance(value, dict)
    ]
    if len(found) > _SEGMENTS_MAX:
        raise GuestDamaged(f"a logical volume of {len(found)} segments")
    return sorted(found, key=lambda part: lvm_metadata.number(part, "start_extent"))
