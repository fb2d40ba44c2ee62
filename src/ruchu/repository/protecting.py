"""WORM: what a locked point needs is made immutable, where the file system can.

A lock is kept by Ruchu itself in any case (`marks`); the flag also stops everybody else who is
not root. Both functions run under the chain's lock, so that nothing moves meanwhile.

The mark of a lock is flagged first and released last: as long as it carries its flag, other
objects may carry theirs. So most calls of `release_ended` look at the marks and at nothing else.
"""

import datetime
from collections.abc import Iterable
from dataclasses import dataclass

from ruchu.errors import ImmutableNotApplied, NotFound, ObjectMissing
from ruchu.repository import layout, marks
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head
from ruchu.repository.reach import reach

# A message names so many of the objects that could not be protected.
_NAMED_MAX = 3


@dataclass(frozen=True, slots=True)
class Protection:
    """What came of protecting a point.

    Attributes:
        protected: objects that carry the immutable flag now.
        refused: names of the objects that do not.
        reason: why the first of them does not; empty if all do.
    """

    protected: int
    refused: tuple[str, ...] = ()
    reason: str = ""

    @property
    def enforced(self) -> bool:
        """Whether the file system keeps the lock, and not Ruchu alone."""
        return not self.refused


def protect_point(
    chain: Chain, head: Head, until: datetime.datetime, *, require: bool = True
) -> Protection:
    """Lock a point until a moment, and make all that it needs immutable. Repeating is harmless.

    The caller holds the chain's lock.

    Args:
        chain: the chain.
        head: the point.
        until: when the lock ends.
        require: whether a storage that cannot protect is an error.

    Raises:
        ImmutableNotApplied: not everything could be protected. The lock stands nevertheless, and
            what was protected stays so until it ends.
        NotFound: the point was deleted; nothing was done.
        Damaged: the point is damaged. The lock stands, nothing was protected.
    """
    if head.stem not in chain.stems():
        raise NotFound(f"(point {head.point[:8]} was deleted)")
    now = chain.surroundings.clock.now()
    mark = marks.lock(chain.storage, chain.id, head.point, until, now)
    names = sorted(_needed(chain, [head]))
    done = _protect(chain, [mark, *names])
    if require and done.refused:
        more = len(done.refused) - _NAMED_MAX
        named = ", ".join(done.refused[:_NAMED_MAX]) + (f" and {more} more" if more > 0 else "")
        raise ImmutableNotApplied(f"({named}: {done.reason}) The point is locked by Ruchu alone.")
    return done


def _protect(chain: Chain, names: list[str]) -> Protection:
    refused: list[str] = []
    reason = ""
    for at, name in enumerate(names):
        try:
            chain.storage.protect(name)
        except ImmutableNotApplied as error:
            reason = reason or error.detail
            refused.append(name)
            if at == 0:
                # Without its flag on the mark, nobody would ever take off the others.
                return Protection(0, tuple(names), reason)
    return Protection(len(names) - len(refused), tuple(refused), reason)


def _needed(chain: Chain, heads: Iterable[Head]) -> set[str]:
    """Return the names of all objects without which the points cannot be read, marks apart."""
    points = list(heads)
    alive = chain.numbers(chain.live_packs())
    found = reach(chain.reader, points, alive)
    names = {layout.head(chain.id, head.stem) for head in points}
    names.update(layout.pack(chain.id, _pack_id(chain, number)) for number in found.needed)
    # The packs that the maps name may have moved, through several tables.
    seen: set[int] = set()
    pending = sorted(found.named - alive)
    while pending:
        number = pending.pop()
        table = chain.reader.moves_of(number)
        seen.add(number)
        if table is None:
            continue  # a target of records that other points needed, and nobody any more
        names.add(layout.moved(chain.id, _pack_id(chain, number)))
        targets = set(chain.table.numbers(list(table.targets)).tolist())
        pending += sorted(targets - alive - seen - set(pending))
    if points:
        names.add(layout.chain_document(chain.id))
    return names


def _pack_id(chain: Chain, number: int) -> str:
    return chain.table.id(number).hex()


def release_ended(chain: Chain, now: datetime.datetime) -> int:
    """Take the flags off what no live lock needs any more; return off how many objects.

    To be called before a purge, by whoever holds the chain's lock. Interrupted, it is completed by
    the next call.

    Raises:
        Damaged: a point that is still locked is damaged, so nobody knows what it needs; all
            flags stay.
    """
    locks = list(marks.locks(chain.storage, chain.id))
    ended = [
        lock.name for lock in locks if lock.until <= now and chain.storage.is_protected(lock.name)
    ]
    if not ended:
        return 0
    live = {lock.point for lock in locks if lock.until > now}
    keep = _needed(chain, [chain.head(stem) for stem in chain.stems() if stem[11:] in live])
    # A point that was locked while it lay in the trash: its packs may be gone, its head stays.
    keep.update(layout.head(chain.id, stem) for stem in chain.stems(deleted=True)
                if stem[11:] in live)  # fmt: skip
    count = 0
    for name in [*_flaggable(chain), *ended]:
        if name not in keep and _release(chain, name):
            count += 1
    return count


def _flaggable(chain: Chain) -> list[str]:
    """Return the names of all objects that a lock may have protected, marks apart."""
    names = [layout.chain_document(chain.id)]
    for folder in (layout.points(chain.id), layout.packs(chain.id)):
        names += [info.name for info in chain.storage.list(folder)]
    return names


def _release(chain: Chain, name: str) -> bool:
    try:
        if not chain.storage.is_protected(name):
            return False
        chain.storage.release(name)
    except ObjectMissing:
        return False  # a restore of this host's files, or an administrator, was faster
    return True
