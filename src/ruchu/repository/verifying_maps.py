"""Walking the maps of points: each distinct segment once, each location held against the packs."""

from collections.abc import Callable, Iterator

import numpy as np
import numpy.typing as npt

from ruchu.errors import Damaged, StorageError, UnknownFormat
from ruchu.repository import maps, packs, unreadable
from ruchu.repository.heads import DiskEntry, Head, Reference
from ruchu.repository.pack_reading import PackReader
from ruchu.repository.verifying_packs import Catalogue, Resolved, State
from ruchu.storage.contract import Storage

# Segments decoded at a time: 64 of them hold 65,536 locations, 1.3 MB.
_BATCH = 64

Culprits = set[tuple[int, int]]
"""What is wrong with something: (state, number of the pack where it is wrong)."""

Fetch = Callable[[maps.Slots, list[bytes], int], Iterator[tuple[int, bytes | Damaged]]]
"""Return, for slots with their full ids and kind, (row, chunk) or (row, why not)."""

Located = Callable[[maps.Slots, list[bytes] | None, int, Resolved], None]
"""Is told slots, their full ids (None: only the prefixes are known), kind, and where they are."""


class SegmentsSeen:
    """Which segments were visited: 16 bytes for each, in sorted runs.

    A segment is known by its place. The claim is what a root says of it besides; where two roots
    say different things of one place, both are looked at.
    """

    def __init__(self) -> None:
        self._runs: list[tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]] = []

    def unseen(
        self, keys: npt.NDArray[np.uint64], claims: npt.NDArray[np.uint64]
    ) -> npt.NDArray[np.bool_]:
        """Tell for each segment whether it is new."""
        new = np.ones(len(keys), bool)
        for known, said in self._runs:
            places = np.searchsorted(known, keys)
            places[places == len(known)] = 0
            new &= ~((known[places] == keys) & (said[places] == claims))
        return new

    def add(self, keys: npt.NDArray[np.uint64], claims: npt.NDArray[np.uint64]) -> None:
        """Take note of segments. Runs are joined so that few remain, each twice the next."""
        if not len(keys):
            return
        run = _sorted(keys, claims)
        while self._runs and len(self._runs[-1][0]) < 2 * len(run[0]):
            other = self._runs.pop()
            run = _sorted(*(np.concatenate(pair) for pair in zip(other, run, strict=True)))
        self._runs.append(run)


def _sorted(
    keys: npt.NDArray[np.uint64], claims: npt.NDArray[np.uint64]
) -> tuple[npt.NDArray[np.uint64], npt.NDArray[np.uint64]]:
    order = np.argsort(keys, kind="stable")
    return keys[order], claims[order]


def fetch_with(storage: Storage, reader: PackReader) -> Fetch:
    """Return a fetch from the packs of one chain. One bad record does not spoil the others."""

    def fetch(
        slots: maps.Slots, ids: list[bytes], kind: int
    ) -> Iterator[tuple[int, bytes | Damaged]]:
        left = set(range(len(slots)))
        try:
            for row, found, chunk in reader.read(slots, kind):
                left.discard(row)
                yield row, _identified(found, ids[row], chunk)
        except (Damaged, UnknownFormat, StorageError) as error:
            _as_damage(storage, error)
            for row in sorted(left):
                yield row, _fetched(storage, reader, slots[row : row + 1], ids[row], kind)

    return fetch


def _fetched(
    storage: Storage, reader: PackReader, slots: maps.Slots, chunk_id: bytes, kind: int
) -> bytes | Damaged:
    try:
        ((_, found, chunk),) = reader.read(slots, kind)
    except (Damaged, UnknownFormat, StorageError) as error:
        return _as_damage(storage, error)
    return _identified(found, chunk_id, chunk)


def _as_damage(storage: Storage, error: Damaged | UnknownFormat | StorageError) -> Damaged:
    """Return an error about one record as damage; raise one about the storage."""
    if isinstance(error, Damaged):
        return error
    if isinstance(error, StorageError) and not unreadable.is_unreadable(storage, error):
        raise error
    return Damaged(error.detail)


def _identified(
    found: bytes, chunk_id: bytes, chunk: bytes | bytearray | memoryview
) -> bytes | Damaged:
    return bytes(chunk) if found == chunk_id else Damaged(f"chunk {chunk_id.hex()[:16]}")


class MapWalker:
    """Visits everything that points name. Not for several threads."""

    def __init__(
        self,
        catalogue: Catalogue,
        table: maps.PackTable,
        fetch: Fetch,
        located: Located,
        breathe: Callable[[], None],
    ) -> None:
        self._catalogue = catalogue
        self._table = table
        self._fetch = fetch
        self._located = located
        self._breathe = breathe
        self._seen = SegmentsSeen()
        self._bad_segments: dict[int, Culprits] = {}
        self._attachments: dict[Reference, Culprits] = {}
        self.chunks = 0
        self.reasons: dict[tuple[int, int], str] = {}

    def walk(self, head: Head) -> Culprits:
        """Visit a point; return what is wrong with it."""
        culprits: Culprits = set()
        for reference in head.attachments.values():
            if reference not in self._attachments:
                self._attachments[reference] = self._single(reference, packs.KIND_ATTACHMENT)[1]
            culprits |= self._attachments[reference]
        for disk in head.disks:
            culprits |= self._disk(disk)
        return culprits

    def _single(self, reference: Reference, kind: int) -> tuple[bytes | None, Culprits]:
        chunk_id = bytes.fromhex(reference.id)
        slots = np.zeros(1, maps.SLOT)
        slots["pack"] = self._table.number(bytes.fromhex(reference.pack))
        slots["offset"], slots["stored"] = reference.offset, reference.stored
        slots["prefix"] = int.from_bytes(chunk_id[:8], "little")
        chunks, culprits = self._fetched(slots, [chunk_id], kind)
        return chunks.get(0), culprits.get(0, set())

    def _fetched(
        self, slots: maps.Slots, ids: list[bytes], kind: int
    ) -> tuple[dict[int, bytes], dict[int, Culprits]]:
        """Return the chunks that can be had, and what is wrong, by row."""
        resolved = self._catalogue.resolve(slots, kind)
        self._located(slots, ids, kind, resolved)
        bad: dict[int, Culprits] = {}
        for row in np.flatnonzero(resolved.state).tolist():
            bad[row] = {(int(resolved.state[row]), int(resolved.pack[row]))}
        chunks: dict[int, bytes] = {}
        for row, found in self._fetch(resolved.slots(slots), ids, kind):
            if isinstance(found, Damaged):
                culprit = (int(State.RECORD_DAMAGED), int(resolved.pack[row]))
                if row not in bad:
                    bad[row] = {culprit}
                    self.reasons.setdefault(culprit, found.detail)
            else:
                chunks[row] = found
        self.chunks += len(chunks)
        return chunks, bad

    def _disk(self, disk: DiskEntry) -> Culprits:
        self._breathe()
        chunk, culprits = self._single(disk.root, packs.KIND_ROOT)
        if chunk is None:
            return culprits
        try:
            _, branches = maps.decode_root(disk.name, chunk, disk.size, self._table)
        except Damaged as error:
            root_pack = self._table.number(bytes.fromhex(disk.root.pack))
            return culprits | self._wrong(root_pack, error)
        return culprits | self._branches(branches)

    def _wrong(self, pack: int, error: Damaged) -> Culprits:
        """A chunk is what was written, but what was written is no right map."""
        culprit = (int(State.MAP_WRONG), pack)
        self.reasons.setdefault(culprit, error.detail)
        return {culprit}

    def _branches(self, branches: maps.Branches) -> Culprits:
        slots = np.zeros(len(branches), maps.SLOT)
        for column in ("pack", "offset", "stored"):
            slots[column] = branches[column]
        slots["prefix"] = np.frombuffer(branches["id"].tobytes(), "<u8")[::4]
        keys = (branches["pack"].astype("<u8") << np.uint64(32)) | branches["offset"]
        said = (branches["segment"].astype("<u8") << np.uint64(32)) | branches["stored"]
        claims = said ^ slots["prefix"]
        new = np.flatnonzero(self._seen.unseen(keys, claims))
        for start in range(0, len(new), _BATCH):
            rows = new[start : start + _BATCH]
            self._segments(slots[rows], branches[rows], keys[rows])
            self._breathe()
        self._seen.add(keys[new], claims[new])
        return self._known_culprits(keys)

    def _known_culprits(self, keys: npt.NDArray[np.uint64]) -> Culprits:
        if not self._bad_segments:
            return set()
        bad = np.fromiter(self._bad_segments, "<u8", len(self._bad_segments))
        found: Culprits = set()
        for key in np.intersect1d(keys, bad).tolist():
            found |= self._bad_segments[key]
        return found

    def _segments(
        self, slots: maps.Slots, branches: maps.Branches, keys: npt.NDArray[np.uint64]
    ) -> None:
        ids = [branch["id"].tobytes() for branch in branches]
        chunks, bad = self._fetched(slots, ids, packs.KIND_SEGMENT)
        parts: list[maps.Slots] = []
        owners: list[npt.NDArray[np.intp]] = []
        for row, chunk in chunks.items():
            first = int(branches["segment"][row]) * maps.SEGMENT_BLOCKS
            try:
                decoded = maps.decode_segment("segment", chunk, first, self._table)
            except Damaged as error:
                bad.setdefault(row, set()).update(self._wrong(int(slots["pack"][row]), error))
                continue
            used = decoded[decoded["stored"] > 0]
            parts.append(used)
            owners.append(np.full(len(used), row, np.intp))
        if parts:
            self._blocks(np.concatenate(parts), np.concatenate(owners), bad)
        for row, culprits in bad.items():
            self._bad_segments.setdefault(int(keys[row]), set()).update(culprits)

    def _blocks(
        self, slots: maps.Slots, owners: npt.NDArray[np.intp], bad: dict[int, Culprits]
    ) -> None:
        resolved = self._catalogue.resolve(slots, packs.KIND_DATA)
        self._located(slots, None, packs.KIND_DATA, resolved)
        rows = np.flatnonzero(resolved.state)
        if not len(rows):
            return
        triples = np.stack([owners[rows], resolved.state[rows], resolved.pack[rows]], axis=1)
        for owner, state, pack in np.unique(triples, axis=0).tolist():
            bad.setdefault(owner, set()).add((state, pack))
