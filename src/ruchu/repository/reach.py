"""What the maps of points name: the exact answer, from the storage alone, trusting no cache."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from ruchu.errors import Damaged
from ruchu.repository import maps, moves, packs
from ruchu.repository.heads import Head, Reference
from ruchu.repository.pack_reading import PackReader

# Segments decoded at a time: 20 KiB each.
BATCH_SEGMENTS = 256


def reference_slots(references: Iterable[Reference], table: maps.PackTable) -> maps.Slots:
    """Return the references of heads as slots."""
    rows = [
        (
            table.number(bytes.fromhex(reference.pack)),
            reference.offset,
            reference.stored,
            int.from_bytes(bytes.fromhex(reference.id[:16]), "little"),
        )
        for reference in references
    ]
    return np.array(rows, maps.SLOT)


def branch_slots(branches: maps.Branches) -> maps.Slots:
    """Return the places of segments as slots."""
    slots = np.zeros(len(branches), maps.SLOT)
    for column in ("pack", "offset", "stored"):
        slots[column] = branches[column]
    slots["prefix"] = np.frombuffer(branches["id"].tobytes(), "<u8")[::4]
    return slots


def keys(slots: maps.Slots) -> npt.NDArray[np.uint64]:
    """Return one number for each place: pack and offset."""
    pack = slots["pack"].astype(np.uint64)
    return (pack << np.uint64(32)) | slots["offset"].astype(np.uint64)


def root_branches(reader: PackReader, head: Head) -> Iterator[tuple[maps.Branches, int, int]]:
    """Yield (branches, size, block size) of each disk of a point."""
    for disk in head.disks:
        label = f"point {head.point[:8]} disk {disk.name}"
        chunk = reader.read_one(disk.root, packs.KIND_ROOT)
        block_size, branches = maps.decode_root(label, chunk, disk.size, reader.table)
        yield branches, disk.size, block_size


def segment_slots(reader: PackReader, branches: maps.Branches) -> Iterator[maps.Slots]:
    """Yield the stored blocks of segments, some segments at a time, in any order."""
    numbers = branches["segment"].tolist()
    slots = branch_slots(branches)
    for begin in range(0, len(slots), BATCH_SEGMENTS):
        part = slots[begin : begin + BATCH_SEGMENTS]
        decoded = []
        for row, _, chunk in reader.read(part, packs.KIND_SEGMENT):
            first = numbers[begin + row] * maps.SEGMENT_BLOCKS
            found = maps.decode_segment("segment", bytes(chunk), first, reader.table)
            decoded.append(found[found["stored"] > 0])
        yield np.concatenate(decoded)


class Places:
    """Follows places through compaction to where the records are now."""

    def __init__(self, reader: PackReader, alive: set[int]) -> None:
        self._reader = reader
        self._alive = alive

    def current(self, slots: maps.Slots) -> maps.Slots:
        """Return the slots with their packs and offsets as they are now.

        Raises:
            Damaged: a pack is gone, or a record was dropped.
        """
        for _ in range(moves.HOPS_MAX + 1):
            gone = [n for n in np.unique(slots["pack"]).tolist() if n not in self._alive]
            if not gone:
                return slots
            slots = slots.copy()
            for number in gone:
                self._follow(slots, number)
        raise Damaged("moved in a circle")

    def _follow(self, slots: maps.Slots, number: int) -> None:
        label = self._reader.table.id(number).hex()
        table = self._reader.moves_of(number)
        if table is None:
            raise Damaged(f"pack {label} is missing")
        rows = np.flatnonzero(slots["pack"] == number)
        at = np.searchsorted(table.old, slots["offset"][rows])
        at[at == len(table.old)] = 0
        if not len(table.old) or (table.old[at] != slots["offset"][rows]).any():
            raise Damaged(f"pack {label}: a record that is needed was dropped")
        targets = self._reader.table.numbers(list(table.targets))
        slots["pack"][rows] = targets[table.to[at]]
        slots["offset"][rows] = table.new[at]


@dataclass(slots=True)
class Reach:
    """Packs that live points need: as the maps name them, and where that is now."""

    named: set[int] = field(default_factory=set)
    needed: set[int] = field(default_factory=set)


def reach(reader: PackReader, points: Iterable[Head], alive: set[int]) -> Reach:
    """Follow every map of the points; each distinct segment is read once.

    Raises:
        Damaged: a map is damaged or names a record in a pack that is not alive.
    """
    found = Reach()
    places = Places(reader, alive)
    seen = np.zeros(0, np.uint64)

    def note(slots: maps.Slots) -> None:
        found.named.update(np.unique(slots["pack"]).tolist())
        found.needed.update(np.unique(places.current(slots)["pack"]).tolist())

    for head in points:
        references = [disk.root for disk in head.disks] + list(head.attachments.values())
        if references:
            note(reference_slots(references, reader.table))
        for branches, _, _ in root_branches(reader, head):
            place = keys(branches)
            new = ~np.isin(place, seen)
            seen = np.union1d(seen, place)
            if new.any():
                note(branch_slots(branches[new]))
                for slots in segment_slots(reader, branches[new]):
                    note(slots)
    return found
