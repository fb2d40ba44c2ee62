"""Removing points: the trash record is the deletion, the sweep frees space, the purge destroys.

Every point is a whole, so merging the oldest increment into the next one is: drop it, keep what
others need. The work is as large as what the point changed.
"""

import contextlib
import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from ruchu.errors import Damaged, NotFound, ObjectMissing, PointInUse, PointProtected
from ruchu.repository import compaction, layout, locking, marks, trash
from ruchu.repository.chains import Chain
from ruchu.repository.ledger import Ledger
from ruchu.repository.locking import ChainLock
from ruchu.repository.reach import Reach, reach

GRACE_DEFAULT = datetime.timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Swept:
    """What a sweep or purge did, in counts and bytes of packs."""

    packs_trashed: int = 0
    bytes_trashed: int = 0
    bytes_copied: int = 0
    bytes_freed: int = 0
    points_purged: int = 0
    damaged: tuple[str, ...] = ()


def delete_points(
    chain: Chain,
    lock: ChainLock,
    stems: Iterable[str],
    *,
    grace: datetime.timedelta = GRACE_DEFAULT,
    reason: str = "deleted",
) -> None:
    """Remove points at one stroke. They can be read by who reads them until the purge.

    Raises:
        PointProtected: one is starred or locked; none was removed.
        PointInUse: one is being read; none was removed.
        NotFound: one does not exist.
    """
    wanted = tuple(stems)
    now = chain.surroundings.clock.now()
    _check(chain, wanted, now)
    record = trash.new_record(chain.surroundings.entropy, now + grace, reason, points=wanted)
    lock.confirm()
    trash.write(chain.storage, chain.id, record, now)
    # A reader takes its lease first and then looks whether the point is there; we look for
    # leases after the point is gone: whoever came in between is seen by one of the two. So with
    # stars and locks.
    try:
        _check_free(chain, wanted, now)
    except (PointInUse, PointProtected):
        chain.storage.delete(layout.trash_record(chain.id, record.id))
        raise


def _check(chain: Chain, stems: tuple[str, ...], now: datetime.datetime) -> None:
    missing = set(stems) - set(chain.stems())
    if missing:
        raise NotFound(f"(point {min(missing)})")
    _check_free(chain, stems, now)


def _check_free(chain: Chain, stems: tuple[str, ...], now: datetime.datetime) -> None:
    kept = marks.all_marks(chain.storage, chain.id)
    for stem in stems:
        mark = kept.get(stem[11:], marks.Marks())
        if mark.keeps(now):
            raise PointProtected(f"(point {stem[11:19]}{_why(mark)})")
    _check_leases(chain, stems)


def _why(mark: marks.Marks) -> str:
    star = ", starred" if mark.starred else ""
    return star + (f", locked until {mark.locked_until:%Y-%m-%d %H:%M} UTC"
                   if mark.locked_until else "")  # fmt: skip


def _check_leases(chain: Chain, stems: tuple[str, ...]) -> None:
    leases = locking.active_leases(chain.storage, chain.id, chain.surroundings)
    for stem in stems:
        held = leases.get(stem[11:])
        if held:
            raise PointInUse(f"{stem[11:19]} by {locking.describe(held)}")


def sweep(chain: Chain, lock: ChainLock, *, grace: datetime.timedelta = GRACE_DEFAULT) -> Swept:
    """Put packs that nobody needs into the trash, and compact those that few need."""
    storage = chain.storage
    with Ledger(chain) as ledger:
        ledger.sync()
        usages = ledger.usage()
        dead = [usage.pack for usage in usages if usage.live == 0]

        def keep(pack: int) -> bool:
            return storage.is_protected(layout.pack(chain.id, chain.table.id(pack).hex()))

        chosen = compaction.choose(usages, keep)
        if chosen:
            # Asked last: the answer reads every table of moves that there is.
            deep = compaction.deep_packs(chain)
            chosen = [pack for pack in chosen if pack not in deep]
        done = compaction.compact(chain, ledger, chosen) if chosen else None
    emptied = dead + list(done.packs if done else ())
    if not emptied:
        return Swept(damaged=done.damaged if done else ())
    ids = tuple(sorted(chain.table.id(pack).hex() for pack in emptied))
    size = sum(storage.size(layout.pack(chain.id, pack)) for pack in ids)
    now = chain.surroundings.clock.now()
    record = trash.new_record(chain.surroundings.entropy, now + grace, "sweep", packs=ids)
    lock.confirm()
    trash.write(storage, chain.id, record, now)
    copied = done.bytes_copied if done else 0
    return Swept(len(ids), size, copied, damaged=done.damaged if done else ())


def purge(chain: Chain, lock: ChainLock) -> Swept:
    """Destroy what has been in the trash long enough.

    First every map of every remaining point is followed, without any cache: nothing is destroyed
    that anybody needs.

    Raises:
        Damaged: a remaining point is damaged, or needs what lies in the trash; all stays.
    """
    now = chain.surroundings.clock.now()
    leases = locking.active_leases(chain.storage, chain.id, chain.surroundings)
    records = trash.read_all(chain.storage, chain.id)
    due = [
        record
        for record in records
        if record.purge_after <= now and not any(stem[11:] in leases for stem in record.points)
    ]
    if not due:
        return Swept()
    # Not even what this process has read before: a table of moves may have been replaced since.
    chain.reader.forget_moves()
    found = reach(chain.reader, chain.points(), chain.numbers(chain.live_packs()))
    doomed = chain.numbers(pack for record in due for pack in record.packs)
    if doomed & found.needed:
        raise Damaged("the trash holds packs that live points need; nothing was purged")
    due = _postponed(chain, due, [record for record in records if record not in due], found)
    lock.confirm()
    freed = 0
    for record in due:
        freed += _destroy(chain, record)
    _drop_moves(chain, found)
    return Swept(bytes_freed=freed, points_purged=sum(len(record.points) for record in due))


def _postponed(
    chain: Chain,
    due: list[trash.TrashRecord],
    staying: list[trash.TrashRecord],
    found: Reach,
) -> list[trash.TrashRecord]:
    """Return the due records without those whose packs a deleted point still needs.

    A deleted point is whole until its own record is purged: somebody may be reading it, or take
    the deletion back. What leads to its chunks is added to what was found.
    """
    stems = {stem for record in staying for stem in record.points}
    left = [stem for stem in chain.stems(deleted=True) if stem in stems]
    if not left:
        return due
    try:
        heads = [chain.head(stem) for stem in left]
        more = reach(chain.reader, heads, chain.numbers(chain.pack_ids()))
    except Damaged:
        # Nobody can say what it needs; its own record will be due some day.
        return [record for record in due if not record.packs]
    found.named |= more.named
    return [record for record in due if not chain.numbers(record.packs) & more.needed]


def _destroy(chain: Chain, record: trash.TrashRecord) -> int:
    """Remove the objects of a record, heads first and the record last; return the bytes."""
    storage = chain.storage
    existing = set(chain.pack_ids())
    for stem in record.points:
        _remove(chain, layout.head(chain.id, stem))
        marks.remove_all(storage, chain.id, stem[11:])
    freed = 0
    for pack in record.packs:
        if pack in existing:
            name = layout.pack(chain.id, pack)
            freed += storage.size(name)
            _remove(chain, name)
    storage.delete(layout.trash_record(chain.id, record.id))
    return freed


def _remove(chain: Chain, name: str) -> None:
    # A purge that was interrupted may have removed it already.
    with contextlib.suppress(ObjectMissing):
        if chain.storage.is_protected(name):
            # Its lock has ended, or it would not be in the trash.
            chain.storage.release(name)
    chain.storage.delete(name)


def _drop_moves(chain: Chain, found: Reach) -> None:
    """Remove the tables of moved packs that no map leads to any more."""
    needed: set[str] = set()
    pending = list(found.named)
    while pending:
        number = pending.pop()
        pack = chain.table.id(number).hex()
        table = chain.reader.moves_of(number) if pack not in needed else None
        if table is not None:
            needed.add(pack)
            pending += chain.table.numbers(list(table.targets)).tolist()
    # A table that an interrupted compaction left beside its pack will be replaced, perhaps by
    # another process.
    chain.reader.forget_moves()
    for info in list(chain.storage.list(layout.packs(chain.id))):
        if info.name.endswith(".moved") and layout.stem_of(info.name, ".moved") not in needed:
            _remove(chain, info.name)
