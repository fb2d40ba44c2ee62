"""Verification: whether everything that points need is there, and is what was written.

structural  all documents; of every pack header, footer and trailer; every map, and that each
            location in it leads to a record that a footer lists.
sampled     structural, and a random sample of the data records is read and decoded.
full        structural, and every byte of every pack, referenced or not, is read and decoded.

What a full verification does not see, because it changes nothing: the content of
`locks/*.released.json`, of which only the name counts (noticed, not damage); and, without
encryption, bits inside a zstd frame that no decoder looks at: the chunk that comes out has the
right id, so the same bytes are restored. A lost head cannot be seen either, since a deleted point
leaves the same nothing; a copy of the storage knows (`repairing`).

Findings never stop a verification; that the storage is gone, or its medium as a whole, does.
"""

import collections
import concurrent.futures
import contextlib
import random
from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ruchu.errors import (
    Damaged,
    NotFound,
    ObjectMissing,
    StorageError,
    StorageReadOnly,
    UnknownFormat,
    WrongKey,
)
from ruchu.model.ids import is_id
from ruchu.repository import layout, locking, maps, packs, unreadable, verifying_documents
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head
from ruchu.repository.pack_reading import PackReader
from ruchu.repository.repositories import Repository
from ruchu.repository.verifying_documents import ChainDocuments
from ruchu.repository.verifying_findings import (
    Counts,
    Depth,
    Findings,
    Report,
    Sample,
    Watch,
)
from ruchu.repository.verifying_maps import Culprits, MapWalker, fetch_with
from ruchu.repository.verifying_packs import (
    DAMAGED,
    REASONS_MAX,
    Catalogue,
    CheckedPack,
    PackStream,
    Resolved,
    State,
    check_front,
)

SAMPLE_RECORDS = 1000
"""A damage of 1 % is missed with a chance of 0.00004, one of 0.1 % with 0.37."""

# As many as decode faster than one disk reads; more would only make it seek.
_WORKERS = 2
_AHEAD = 2 * _WORKERS

_MEANINGS: dict[State, tuple[str, str]] = {
    State.PACK_MISSING: ("pack-missing", "It is missing, and no table says where its chunks went."),
    State.PACK_DAMAGED: ("pack-damaged", "Its header, footer or trailer is damaged."),
    State.RECORD_ABSENT: ("record-absent", "A map names a record that its footer does not list"),
    State.RECORD_DIFFERS: ("record-differs", "A record is another one than the map says"),
    State.RECORD_DAMAGED: ("record-damaged", "A record is damaged"),
    State.RECORD_DROPPED: ("record-dropped", "A record that is still needed was dropped"),
    State.MOVES_DAMAGED: ("document-damaged", "It is damaged."),
    State.MOVES_ENDLESS: ("moves-endless", "Its records were moved too often to be followed."),
    State.MAP_WRONG: ("map-wrong", "A map in it is what was written, and yet no right map"),
}


def verify_storage(
    repository: Repository,
    depth: Depth,
    *,
    rng: random.Random | None = None,
    sample_records: int = SAMPLE_RECORDS,
    watch: Watch | None = None,
) -> Report:
    """Verify a whole storage: its own documents, its key slots, the exit kit, and all chains.

    Args:
        repository: the storage, open.
        depth: how deep to look.
        rng: draws the sample; needed for `sampled`.
        sample_records: how many data records of each chain are drawn.
        watch: is told the progress, and asked whether to stop.

    Raises:
        StorageGone, Cancelled: it could not be finished.
    """
    watch = watch or Watch()
    storage = repository.storage
    findings = Findings()
    counts = Counts(documents=verifying_documents.check_storage(repository, findings))
    verifying_documents.notice_foreign(storage, findings)
    samples, covered = [], []
    for chain_id in sorted(storage.folders(layout.CHAINS)):
        chain = _open(repository, chain_id, findings) if is_id(chain_id) else None
        if chain is not None:
            run = _Run(chain, depth, findings, watch)
            run.everything(rng, sample_records)
            counts += run.counts
            samples += run.samples
            covered += run.covered
    return Report(depth, counts, findings.result(), tuple(samples), tuple(covered))


def _open(repository: Repository, chain_id: str, findings: Findings) -> Chain | None:
    """Return a chain, or None and a finding that all of its points are lost."""
    storage = repository.storage
    name = layout.chain_document(chain_id)
    points = [
        stem[11:]
        for info in storage.list(layout.points(chain_id))
        if is_id((stem := layout.stem_of(info.name))[11:])
    ]
    try:
        return repository.open_chain(chain_id)
    except ObjectMissing:
        # A crash may leave the directory of a chain that was never made: then it is empty.
        if any(True for _ in storage.list(layout.chain(chain_id))):
            findings.damage("document-missing", name, "It is missing.", points)
    except (Damaged, UnknownFormat, WrongKey) as error:
        findings.damage("document-damaged", name, error.detail, points)
    except StorageError as error:
        if not unreadable.is_unreadable(storage, error):
            raise
        findings.damage("document-damaged", name, error.detail, points)
    return None


def verify_chain(
    chain: Chain,
    depth: Depth,
    *,
    rng: random.Random | None = None,
    sample_records: int = SAMPLE_RECORDS,
    watch: Watch | None = None,
) -> Report:
    """Verify a chain: all of its documents, packs and points. A backup or a merge may run.

    Points are listed before packs, so that a point that is verified needs no pack that is not
    there yet; points that are deleted meanwhile are left out. For the arguments and errors see
    `verify_storage`.
    """
    run = _Run(chain, depth, Findings(), watch or Watch())
    run.everything(rng, sample_records)
    return run.report()


def verify_point(
    chain: Chain,
    head: Head,
    depth: Depth,
    *,
    rng: random.Random | None = None,
    sample_records: int = SAMPLE_RECORDS,
    watch: Watch | None = None,
) -> Report:
    """Verify one point, in a lease: its maps, and the packs and records that it needs, no others.

    For the arguments and errors see `verify_storage`.

    Raises:
        NotFound: it was deleted.
    """
    run = _Run(chain, depth, Findings(), watch or Watch())
    with _leased(chain, head, run.findings):
        run.point(head, rng, sample_records)
    return run.report()


@contextlib.contextmanager
def _leased(chain: Chain, head: Head, findings: Findings) -> Iterator[None]:
    """Hold a lease on a point. Unlike `chain.reading`, goes on where the trash is damaged."""
    with contextlib.ExitStack() as stack:
        lease = locking.lease(
            chain.storage, chain.id, head.point, "verification", chain.surroundings
        )
        try:
            stack.enter_context(lease)
        except StorageReadOnly:
            text = "It cannot be written: the point is verified without a lease."
            findings.notice("no-lease", layout.leases(chain.id), text)
        deleted = verifying_documents.deleted_stems(chain)
        if head.stem in deleted or head.stem not in verifying_documents.listed_stems(chain):
            raise NotFound(f"(point {head.point[:8]} was deleted)")
        yield


class _Run:
    """One verification of one chain. A reader of its own: what others keep proves nothing."""

    def __init__(self, chain: Chain, depth: Depth, findings: Findings, watch: Watch) -> None:
        self._chain = chain
        self._depth = depth
        self._watch = watch
        self._reader = PackReader(chain.storage, chain.identity, chain.table)
        self._stream = PackStream(chain, self._reader, watch)
        self._catalogue = Catalogue(self._reader, self._late)
        self._whole_packs = False
        self._texts: dict[tuple[int, int], str] = {}
        self.findings = findings
        self.counts = Counts()
        self.samples: list[Sample] = []
        self.covered: list[tuple[str, int]] = []

    def report(self) -> Report:
        """Return the result."""
        return Report(
            self._depth, self.counts, self.findings.result(), tuple(self.samples),
            tuple(self.covered),
        )  # fmt: skip

    def everything(self, rng: random.Random | None, sample_records: int) -> None:
        """Verify the whole chain."""
        self._whole_packs = self._depth is Depth.FULL
        stems = verifying_documents.listed_stems(self._chain)
        documents = ChainDocuments(self._chain, self.findings, stems)
        documents.check_all(stems)
        self.counts += Counts(documents=documents.count, points=len(documents.heads))
        self._watch.expect(sum(documents.pack_sizes.values()))
        self._check_packs(sorted(self._chain.numbers(documents.pack_sizes)))
        found = self._walk(documents.heads)
        again = self._depth is Depth.SAMPLED and self._draw(rng, sample_records)
        # What vanished after it was read must have been moved elsewhere, or nobody needs it.
        there = self._chain.numbers(self._chain.pack_ids())
        for number in self._catalogue.good() - there:
            self._catalogue.forget(number)
            again = True
        if again:
            found = self._walk(documents.heads)
        # What only points lack that were deleted meanwhile is no damage.
        deleted = verifying_documents.deleted_stems(self._chain)
        live = set(verifying_documents.listed_stems(self._chain)) - deleted
        self._attribute(found, {stem[11:] for stem in live})
        if documents.heads:
            self.covered = [(self._chain.id, max(head.sequence for head in documents.heads))]

    def point(self, head: Head, rng: random.Random | None, sample_records: int) -> None:
        """Verify one point."""
        self.counts += Counts(documents=1, points=1)
        found = self._walk([head])
        damaged = False
        if self._depth is Depth.SAMPLED:
            damaged = self._draw(rng, sample_records)
        elif self._depth is Depth.FULL:
            damaged = self._read_rows(self._catalogue.needed())
        if damaged:
            found = self._walk([head])
        self._attribute(found, {head.point})

    def _check_packs(self, numbers: list[int]) -> None:
        """Check packs by two workers. The catalogue takes them in one after the other."""
        pending: collections.deque[concurrent.futures.Future[CheckedPack]] = collections.deque()
        pool = concurrent.futures.ThreadPoolExecutor(_WORKERS, "ruchu-verify")
        try:
            for number in numbers:
                pending.append(pool.submit(self._check_pack, number))
                if len(pending) > _AHEAD:
                    self._take(pending.popleft().result())
            while pending:
                self._take(pending.popleft().result())
        finally:
            pool.shutdown(wait=True, cancel_futures=True)

    def _check_pack(self, number: int) -> CheckedPack:
        self._watch.check()
        if self._whole_packs:
            return self._stream.check(number)
        checked = check_front(self._chain.storage, self._reader, number)
        self._watch.advance(checked.size)
        return checked

    def _late(self, number: int) -> CheckedPack:
        """Check a pack that a map names and that was not listed: it may have appeared since."""
        checked = self._check_pack(number)
        self._note(checked)
        return checked

    def _take(self, checked: CheckedPack) -> None:
        # One that vanished since it was listed was compacted; if a point needs it, the catalogue
        # asks for it again and follows its moves.
        if not checked.missing:
            self._note(checked)
            self._catalogue.add(checked)

    def _note(self, checked: CheckedPack) -> None:
        """Count a pack, and note what is wrong with it."""
        if checked.missing:
            return
        name = self._pack_name(checked.number)
        if checked.entries is None:
            self.findings.damage("pack-damaged", name, checked.problem)
            self.counts += Counts(packs=1)
            return
        records = len(checked.entries) if self._whole_packs else 0
        size = checked.size if self._whole_packs else 0
        self.counts += Counts(packs=1, chunks=records, bytes=size)
        if checked.damaged:
            self._note_records(checked.number, len(checked.damaged), checked.reasons)

    def _note_records(self, number: int, count: int, reasons: Iterable[str]) -> None:
        text = f"{count} damaged records: {'; '.join(reasons)}"
        self.findings.damage("record-damaged", self._pack_name(number), text)

    def _pack_name(self, number: int) -> str:
        return layout.pack(self._chain.id, self._chain.table.id(number).hex())

    def _walk(self, heads: list[Head]) -> dict[tuple[int, int], set[str]]:
        """Visit the maps of points; return what is wrong and whom it affects."""
        walker = MapWalker(
            self._catalogue,
            self._chain.table,
            fetch_with(self._chain.storage, self._reader),
            self._located,
            self._watch.check,
        )
        found: dict[tuple[int, int], set[str]] = collections.defaultdict(set)
        for head in heads:
            culprits: Culprits = walker.walk(head)
            for culprit in culprits:
                found[culprit].add(head.point)
        for culprit, reason in walker.reasons.items():
            self._texts.setdefault(culprit, reason)
        if not self._whole_packs:
            self.counts += Counts(chunks=walker.chunks)
        return found

    def _located(
        self, slots: maps.Slots, ids: list[bytes] | None, kind: int, resolved: Resolved
    ) -> None:
        """Remember one place for each thing that is wrong."""
        del slots, ids
        for row in np.flatnonzero(resolved.state)[:REASONS_MAX].tolist():
            culprit = (int(resolved.state[row]), int(resolved.pack[row]))
            self._texts.setdefault(culprit, f"at {resolved.offset[row]}, kind {kind}")

    def _attribute(self, found: dict[tuple[int, int], set[str]], there: set[str]) -> None:
        for (state, number), points in found.items():
            code, text = _MEANINGS[State(state)]
            name = self._pack_name(number)
            if state in {State.MOVES_DAMAGED, State.RECORD_DROPPED}:
                name = layout.moved(self._chain.id, self._chain.table.id(number).hex())
            if not text.endswith("."):
                text = f"{text} ({self._texts.get((state, number), 'no place is known')})."
            if points & there:
                self.findings.damage(code, name, text, points & there)

    def _draw(self, rng: random.Random | None, sample_records: int) -> bool:
        """Read a sample of the data records; return whether the points must be asked again."""
        assert rng is not None, "a sample needs a generator"
        rows = self._catalogue.needed(packs.KIND_DATA)
        count = min(sample_records, len(rows))
        chosen = np.array(sorted(rng.sample(range(len(rows)), count)), np.intp)
        self.samples.append(Sample(count, len(rows)))
        return self._read_rows(rows[chosen])

    def _read_rows(self, rows: npt.NDArray[np.intp]) -> bool:
        """Read and check records; return whether any is damaged or its pack has vanished."""
        again = False
        for number, own, offsets in self._catalogue.by_pack(rows):
            front = check_front(self._chain.storage, self._reader, number)
            if front.entries is None:
                self._catalogue.forget(number)
                again = True
                continue
            entries = front.entries[np.searchsorted(front.entries["offset"], offsets)]
            try:
                bad = self._stream.check_rows(number, entries)
            except ObjectMissing:
                self._catalogue.forget(number)
                again = True
                continue
            size = int(entries["stored"].sum()) + packs.RECORD_BYTES * len(entries)
            self.counts += Counts(chunks=len(entries), bytes=size)
            if bad:
                self._catalogue.flags.values[own[sorted(bad)]] |= DAMAGED
                self._note_records(
                    number, len(bad), [bad[row] for row in sorted(bad)[:REASONS_MAX]]
                )
                again = True
        return again
