"""Repair of a chain from another storage that holds the same chain.

The same chain id means the same chain key, so chunk ids can be compared; packs and places may
differ. A damaged pack is never patched: its records go into new packs, good ones from the pack
itself, damaged and missing ones from other packs of the chain here and then from the other
storage, and a table of moves says where they are.
"""

import functools
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.errors import Damaged, ObjectMissing, UnknownFormat, UsageError
from ruchu.repository import (
    documents,
    heads,
    layout,
    maps,
    moves,
    packs,
    relocating,
    trash,
    verifying_documents,
)
from ruchu.repository.chains import Chain
from ruchu.repository.locking import ChainLock
from ruchu.repository.pack_reading import PackReader
from ruchu.repository.relocating import Relocated
from ruchu.repository.repairing_chunks import (
    NEED,
    ChunkFinder,
    Needs,
    needs_of,
    prefixes_of,
    scanned,
)
from ruchu.repository.repairing_documents import DocumentRepair, LostHead, read_moves, remove
from ruchu.repository.verifying_findings import Finding, Report
from ruchu.repository.verifying_maps import MapWalker, fetch_with
from ruchu.repository.verifying_packs import Catalogue, CheckedPack, Resolved, State, check_front

_PACK_STATES = (
    State.PACK_MISSING,
    State.PACK_DAMAGED,
    State.RECORD_ABSENT,
    State.RECORD_DIFFERS,
    State.RECORD_DROPPED,
    State.MOVES_DAMAGED,
)


@dataclass(frozen=True, slots=True)
class Repair:
    """What a repair did.

    Attributes:
        packs: ids of the damaged packs whose records are in new packs now.
        documents: names of the documents that were put back.
        left: what could not be repaired, for people.
        damaged_points: ids of the points that stay damaged.
    """

    packs: tuple[str, ...] = ()
    documents: tuple[str, ...] = ()
    left: tuple[str, ...] = ()
    damaged_points: tuple[str, ...] = ()


def repair_chain(
    chain: Chain, other: Chain, report: Report, lock: ChainLock, *, bring_back: bool = True
) -> Repair:
    """Repair what a verification of a chain found.

    For each damaged pack: its records into new packs (durable), then the table of moves, then a
    trash record that names the pack, then the pack is deleted. It cannot wait for the end of a
    grace period, because readers look at a pack before they look at its table; what was right in
    it was copied and checked, what was wrong in it nobody can decode. If nothing that is damaged
    in a pack was found elsewhere, the pack stays as it is.

    Other readers of the chain keep tables of moves: open it anew in other processes.

    Args:
        chain: the chain to repair.
        other: the same chain in another storage.
        report: what is damaged; of a `full` verification, since others do not see all.
        lock: the lock of the chain, held.
        bring_back: whether points that only the other storage has, that stand in no trash, and
            of which every record is here, come back. A lost head looks like a deleted point.

    Raises:
        UsageError: the other chain is not the same one.
    """
    if other.id != chain.id or other.keys != chain.keys:
        raise UsageError("(the other storage does not hold this chain)")
    chain.reader.forget_moves()
    try:
        return _Repairing(chain, other, report, lock).run(bring_back=bring_back)
    finally:
        chain.reader.forget_moves()


class _Repairing:
    """One repair."""

    def __init__(self, chain: Chain, other: Chain, report: Report, lock: ChainLock) -> None:
        self._chain = chain
        self._lock = lock
        self._own = layout.chain(chain.id) + "/"
        self._findings = [f for f in report.damages if f.object.startswith(self._own)]
        self._documents = DocumentRepair(chain, other, lock)
        self._damaged = {pack for pack in map(_pack_of, self._findings) if pack is not None}
        self._finder = ChunkFinder([chain, other])
        self._needs: dict[int, list[Needs]] = {}
        # If set: packs of which needs are collected.
        self._only: set[int] | None = None
        # Packs that stay as they are, with what is known to be damaged in them.
        self._given_up: list[CheckedPack] = []
        self._repaired: list[int] = []

    def run(self, *, bring_back: bool) -> Repair:
        """Do everything, documents first: they say which points there are."""
        for finding in self._findings:
            if _pack_of(finding) is None:
                self._documents.repair(finding.object, self._damaged)
        self._repair_packs(self._documents.lost_heads() if bring_back else ())
        if bring_back:
            self._bring_back()
        points = {stem[11:] for stem in self._live_stems()}
        self._documents.bring_marks_back(points)
        damaged = self._damaged_points()
        ids = sorted(self._chain.table.id(number).hex() for number in self._repaired)
        return Repair(
            tuple(ids),
            tuple(sorted(self._documents.done)),
            tuple(self._documents.left),
            tuple(sorted(damaged)),
        )

    def _live_stems(self) -> list[str]:
        deleted = verifying_documents.deleted_stems(self._chain)
        stems = verifying_documents.listed_stems(self._chain)
        return [stem for stem in stems if stem not in deleted]

    def _heads(self, stems: Iterable[str]) -> Iterator[heads.Head]:
        """Yield the heads that can be read."""
        for stem in stems:
            name = layout.head(self._chain.id, stem)
            try:
                data = self._chain.storage.get(name, documents.DOCUMENT_BYTES_MAX)
                yield heads.decode(name, data, self._chain.id, stem, self._chain.keys)
            except (Damaged, UnknownFormat, ObjectMissing):
                continue

    def _repair_packs(self, lost: Iterable[LostHead]) -> None:
        self._collect_needs(lost)
        numbers = sorted(self._chain.numbers(self._damaged) | set(self._needs))
        needs = {number: _distinct(self._needs.get(number, [])) for number in numbers}
        every = np.concatenate([np.zeros(0, NEED), *needs.values()])
        self._finder.prepare(every["prefix"][every["kind"] == packs.KIND_DATA])
        for number in numbers:
            self._repair_pack(number, needs[number])

    def _collect_needs(self, lost: Iterable[LostHead]) -> None:
        """Find out which records of damaged packs points need, those in the trash among them."""
        chain = self._chain
        catalogue = Catalogue(chain.reader, self._front)
        for number in chain.numbers(self._damaged):
            if read_moves(chain, number) is not None:
                # It goes in any case: what counts is where its records went.
                catalogue.add(CheckedPack(number, missing=True))
            elif not self._front(number).missing:
                catalogue.condemn(number)
        fetch = self._finder.fetch_beside(chain)
        walker = MapWalker(catalogue, chain.table, fetch, self._located, lambda: None)
        for head in self._heads(verifying_documents.listed_stems(chain)):
            walker.walk(head)
        # A lost head may be a deleted point's: of packs that only it needs, nothing is brought.
        self._only = chain.numbers(self._damaged) | set(self._needs)
        for _, _, head in lost:
            walker.walk(head)

    def _front(self, number: int) -> CheckedPack:
        return check_front(self._chain.storage, self._chain.reader, number)

    def _located(
        self, slots: maps.Slots, ids: list[bytes] | None, kind: int, resolved: Resolved
    ) -> None:
        wanted = np.flatnonzero(np.isin(resolved.state, _PACK_STATES))
        if not len(wanted):
            return
        needs = needs_of(resolved.slots(slots), ids, kind)[wanted]
        for number in np.unique(resolved.pack[wanted]).tolist():
            if self._only is not None and number not in self._only:
                continue
            own = needs[resolved.pack[wanted] == number]
            self._needs.setdefault(number, []).append(own)
            if len(self._needs[number]) > 64:
                self._needs[number] = [_distinct(self._needs[number])]

    def _repair_pack(self, number: int, needs: Needs) -> None:
        """Write the records of a damaged pack anew, tell where they are, and remove it."""
        old = read_moves(self._chain, number)
        if old is not None:
            needs = needs[~np.isin(needs["offset"], old.old)]
        front = self._front(number)
        good, bad = self._sorted_records(number, front, needs, old)
        found = {int(need["offset"]): self._finder.find(need) for need in bad}
        lost = [offset for offset, prepared in found.items() if prepared is None]
        if lost and len(lost) == len(found) and (front.entries is not None or not len(good)):
            self._give_up(number, front, lost)
            return
        mended = ((offset, prepared) for offset, prepared in found.items() if prepared is not None)
        records = (Relocated(offset, prepared) for offset, prepared in mended)
        table = relocating.copy_records(self._chain, _chained(records, self._copied(number, good)))
        self._put_moves(number, table, old)
        if not front.missing:
            self._remove(number)
        self._repaired.append(number)
        if lost:
            self._documents.left.append(
                f"{self._name(number)}: {len(lost)} records that points need are nowhere"
            )

    def _sorted_records(
        self, number: int, front: CheckedPack, needs: Needs, old: moves.Moves | None
    ) -> tuple[packs.Entries, Needs]:
        """Return the good records of a pack, and the needs that it does not fulfil."""
        entries = np.zeros(0, packs.ENTRY)
        if front.entries is not None:
            entries = front.entries
        elif not front.missing:
            entries = scanned(self._chain, number, needs["offset"].tolist())
        if old is not None:
            entries = entries[~np.isin(entries["offset"], old.old)]
        right = np.zeros(len(entries), bool)
        for row, (_, found) in enumerate(relocating.each_record(self._chain, number, entries)):
            right[row] = not isinstance(found, Damaged)
        good = entries[right]
        fulfilled = _fulfilled(needs, good)
        # A record that is right, but is another one than the maps say, would stand in the way.
        good = good[~np.isin(good["offset"], needs["offset"][~fulfilled])]
        return good, needs[~fulfilled]

    def _copied(self, number: int, entries: packs.Entries) -> Iterator[Relocated]:
        for entry, prepared in relocating.intact_records(self._chain, number, entries):
            yield Relocated(int(entry["offset"]), prepared)

    def _give_up(self, number: int, front: CheckedPack, lost: list[int]) -> None:
        self._documents.left.append(
            f"{self._name(number)}: {len(lost)} records that points need are nowhere; it stays"
        )
        if front.entries is not None:
            rows = np.flatnonzero(np.isin(front.entries["offset"], lost)).tolist()
            front = CheckedPack(number, front.entries, damaged=tuple(rows), size=front.size)
        self._given_up.append(front)

    def _put_moves(self, number: int, table: moves.Moves, old: moves.Moves | None) -> None:
        """Write the table of moves, joined with the one that is there.

        One that is there goes first: an object is never rewritten. After a crash between the two,
        the next repair finds the records again by their ids.
        """
        self._lock.confirm()
        if old is not None and not len(table.old):
            return
        chain = self._chain
        name = layout.moved(chain.id, chain.table.id(number).hex())
        immutable = remove(chain.storage, name)
        relocating.put_moves(chain, number, _joined(old, table) if old else table)
        if immutable or self._immutable(number):
            for target in chain.numbers(pack.hex() for pack in table.targets):
                chain.storage.protect(self._name(target))
            chain.storage.protect(name)

    def _immutable(self, number: int) -> bool:
        try:
            return self._chain.storage.is_protected(self._name(number))
        except ObjectMissing:
            return False

    def _remove(self, number: int) -> None:
        """Remove a damaged pack whose table of moves is durable."""
        chain = self._chain
        pack = chain.table.id(number).hex()
        now = chain.surroundings.clock.now()
        record = trash.new_record(chain.surroundings.entropy, now, "repaired", packs=(pack,))
        # Before the pack goes: after a crash here, nobody dedups against it, and it is purged.
        trash.write(chain.storage, chain.id, record, now)
        self._lock.confirm()
        remove(chain.storage, self._name(number))

    def _name(self, number: int) -> str:
        return layout.pack(self._chain.id, self._chain.table.id(number).hex())

    def _walker(self) -> MapWalker:
        """Return a walker over the chain as it is now."""
        chain = self._chain
        reader = PackReader(chain.storage, chain.identity, chain.table)
        catalogue = Catalogue(reader, functools.partial(check_front, chain.storage, reader))
        for pack in self._given_up:
            catalogue.add(pack)
        fetch = fetch_with(chain.storage, reader)
        return MapWalker(catalogue, chain.table, fetch, _ignore, lambda: None)

    def _bring_back(self) -> None:
        walker = self._walker()
        for name, data, head in self._documents.lost_heads():
            if walker.walk(head):
                self._documents.left.append(f"{name}: not all of its records are here; copy it")
            else:
                self._documents.put_head(name, data)

    def _damaged_points(self) -> set[str]:
        """Return the live points that are not whole now."""
        stems = self._live_stems()
        found = {stem[11:] for stem in stems}
        walker = self._walker()
        for head in self._heads(stems):
            if not walker.walk(head):
                found.discard(head.point)
        return found


def _pack_of(finding: Finding) -> str | None:
    """Return the id of the pack that a finding is about, if it is about one."""
    for suffix in (".pack", ".moved"):
        if finding.object.endswith(suffix):
            return layout.stem_of(finding.object, suffix)
    return None


def _distinct(parts: list[Needs]) -> Needs:
    """Return needs ascending by offset, each once; one whose full id is known is preferred."""
    needs = np.concatenate([np.zeros(0, NEED), *parts])
    needs = needs[np.lexsort((1 - needs["known"], needs["offset"]))]
    _, first = np.unique(needs["offset"], return_index=True)
    return needs[first]


def _fulfilled(needs: Needs, entries: packs.Entries) -> npt.NDArray[np.bool_]:
    """Tell which needs are among some entries (ascending)."""
    if not len(entries):
        return np.zeros(len(needs), bool)
    at = np.searchsorted(entries["offset"], needs["offset"])
    at[at == len(entries)] = 0
    here = entries[at]
    same: npt.NDArray[np.bool_] = (
        (here["offset"] == needs["offset"])
        & (here["stored"] == needs["stored"])
        & (here["kind"] == needs["kind"])
        & (prefixes_of(entries)[at] == needs["prefix"])
    )
    return same


def _chained(first: Iterable[Relocated], then: Iterable[Relocated]) -> Iterator[Relocated]:
    yield from first
    yield from then


def _joined(one: moves.Moves, other: moves.Moves) -> moves.Moves:
    """Return a table with the rows of both, which share no offset."""
    old = np.concatenate([one.old, other.old])
    order = np.argsort(old, kind="stable")
    to = np.concatenate([one.to, other.to + np.uint32(len(one.targets))])
    new = np.concatenate([one.new, other.new])
    return moves.Moves((*one.targets, *other.targets), old[order], to[order], new[order])


def _ignore(slots: maps.Slots, ids: list[bytes] | None, kind: int, resolved: Resolved) -> None:
    """Do nothing with what was located."""
