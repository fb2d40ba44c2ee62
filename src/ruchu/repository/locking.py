"""One writer per chain, and leases of readers (`docs/formats/vds.md`, section 12).

Locks are numbered: whoever creates the next number holds the chain. Nothing is renamed or
overwritten, so two processes that both find a dead holder cannot both take over.
"""

import contextlib
import itertools
from collections.abc import Iterator
from dataclasses import dataclass

from ruchu import clock
from ruchu.errors import (
    ChainBusy,
    Damaged,
    LockLost,
    ObjectExists,
    ObjectMissing,
    UnknownFormat,
)
from ruchu.model.ids import is_id, new_id
from ruchu.repository import documents, holders, layout
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.contract import Storage

_LOCK = "ruchu-lock"
_LEASE = "ruchu-lease"
# Released locks kept for people who ask who was there.
_RELEASED_KEPT = 2


@dataclass(frozen=True, slots=True)
class Held:
    """A lock or a lease that somebody holds: who, what for, since when (text)."""

    name: str
    holder: holders.Holder
    what: str
    created: str

    def __str__(self) -> str:
        return f"{self.holder}, {self.what}, since {self.created}"


class ChainLock:
    """The writer's lock of one chain, held."""

    def __init__(self, storage: Storage, chain: str, number: int) -> None:
        self._storage = storage
        self._chain = chain
        self.number = number

    def confirm(self) -> None:
        """Check that nobody took over: right before anything is committed or removed.

        Raises:
            LockLost: somebody did, thinking this process dead.
        """
        highest, released = _state(self._storage, self._chain)
        if highest != self.number or released:
            raise LockLost(f"(lock {self.number}, now {highest})")


@contextlib.contextmanager
def exclusive(
    storage: Storage, chain: str, what: str, surroundings: Surroundings
) -> Iterator[ChainLock]:
    """Hold the writer's lock of a chain.

    Raises:
        ChainBusy: a living process (or one on another host) holds it.
    """
    highest, released = _state(storage, chain)
    if highest and not released:
        held = holder_of(storage, chain)
        if held is not None and not surroundings.processes.is_dead(held.holder):
            raise ChainBusy(str(held))
    number = highest + 1
    fields = _fields(surroundings, what) | {"number": number}
    try:
        storage.put(_lock_name(chain, number), documents.sealed(_LOCK, fields))
    except ObjectExists:
        raise ChainBusy("another process was faster just now") from None
    try:
        yield ChainLock(storage, chain, number)
    finally:
        with contextlib.suppress(ObjectExists):
            storage.put(_lock_name(chain, number, released=True), b"\n")
        _tidy(storage, chain, number)


def _lock_name(chain: str, number: int, *, released: bool = False) -> str:
    return f"{layout.locks(chain)}/{number:010d}{'.released' if released else ''}.json"


def _state(storage: Storage, chain: str) -> tuple[int, bool]:
    """Return the highest lock number (0: none yet) and whether it was released."""
    numbers: dict[int, bool] = {}
    for info in storage.list(layout.locks(chain)):
        stem = layout.stem_of(info.name)
        number = stem.removesuffix(".released")
        if number.isdigit():
            numbers[int(number)] = numbers.get(int(number), False) or stem != number
    if not numbers:
        return 0, True
    highest = max(numbers)
    return highest, numbers[highest]


def holder_of(storage: Storage, chain: str) -> Held | None:
    """Return who holds a chain, None if nobody does."""
    highest, released = _state(storage, chain)
    if released:
        return None
    return _held(storage, _lock_name(chain, highest), _LOCK)


def break_lock(storage: Storage, chain: str) -> Held | None:
    """End the lock of a holder that an administrator knows to be dead (on another host)."""
    held = holder_of(storage, chain)
    if held is not None:
        highest, _ = _state(storage, chain)
        with contextlib.suppress(ObjectExists):
            storage.put(_lock_name(chain, highest, released=True), b"\n")
    return held


def _tidy(storage: Storage, chain: str, number: int) -> None:
    for info in list(storage.list(layout.locks(chain))):
        stem = layout.stem_of(info.name).removesuffix(".released")
        if stem.isdigit() and int(stem) <= number - _RELEASED_KEPT:
            storage.delete(info.name)


def _fields(surroundings: Surroundings, what: str) -> documents.Document:
    # The token makes each lock differ: a storage that tries again takes equal content for its own.
    return {
        **surroundings.processes.this().fields(),
        "what": what,
        "created": clock.to_text(surroundings.clock.now()),
        "token": new_id(surroundings.entropy),
    }


def _held(storage: Storage, name: str, kind: str) -> Held | None:
    try:
        data = storage.get(name, documents.DOCUMENT_BYTES_MAX)
    except ObjectMissing:
        return None
    try:
        value = documents.opened(name, data, kind)
        holder = holders.parse(name, value)
    except (Damaged, UnknownFormat):
        # It counts all the same: whoever wrote it may live.
        return Held(name, holders.UNKNOWN, "by a damaged document", "an unknown time")
    return Held(name, holder, str(value.get("what")), str(value.get("created")))


@contextlib.contextmanager
def lease(
    storage: Storage, chain: str, point: str, what: str, surroundings: Surroundings
) -> Iterator[None]:
    """Keep a point from being removed while it is read."""
    name = layout.lease(chain, point, new_id(surroundings.entropy))
    fields = _fields(surroundings, what) | {"point": point}
    storage.put(name, documents.sealed(_LEASE, fields))
    try:
        yield
    finally:
        storage.delete(name)


def active_leases(
    storage: Storage, chain: str, surroundings: Surroundings
) -> dict[str, list[Held]]:
    """Return the leases by point id; those of surely dead processes are removed first."""
    found: dict[str, list[Held]] = {}
    for info in list(storage.list(layout.leases(chain))):
        point = layout.stem_of(info.name).partition(".")[0]
        held = _held(storage, info.name, _LEASE) if is_id(point) else None
        if held is None:
            continue
        if surroundings.processes.is_dead(held.holder):
            storage.delete(info.name)
        else:
            found.setdefault(point, []).append(held)
    return found


def describe(leases: list[Held]) -> str:
    """Return who reads, for a message."""
    return "; ".join(str(held) for held in itertools.islice(leases, 3))
