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
    StorageError,
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
# Tokens of what this process holds. A storage that is gone or full keeps locks and leases that
# were given back; they must not bind the process that lives on, or nobody ever takes them over.
_OURS: set[str] = set()


@dataclass(frozen=True, slots=True)
class Held:
    """A lock or a lease that somebody holds: who, what for, since when (text)."""

    name: str
    holder: holders.Holder
    what: str
    created: str
    token: str = ""

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
        if held is not None and not _is_over(held, surroundings):
            raise ChainBusy(str(held))
    number = highest + 1
    fields = _fields(surroundings, what) | {"number": number}
    with _ours(fields["token"]):
        try:
            storage.put(_lock_name(chain, number), documents.sealed(_LOCK, fields))
        except ObjectExists:
            raise ChainBusy("another process was faster just now") from None
        try:
            _require_highest(storage, chain, number)
            yield ChainLock(storage, chain, number)
        except BaseException as error:
            try:
                _release(storage, chain, number)
            except StorageError as failure:
                error.add_note(f"Giving the chain back failed, too: {failure}")
            raise
        _release(storage, chain, number)


def _require_highest(storage: Storage, chain: str, number: int) -> None:
    """Whoever took long to get here may have made a number that others have left behind."""
    if _state(storage, chain)[0] != number:
        raise ChainBusy("other processes were faster just now")


def _release(storage: Storage, chain: str, number: int) -> None:
    with contextlib.suppress(ObjectExists):
        storage.put(_lock_name(chain, number, released=True), b"\n")
    _tidy(storage, chain, number)


@contextlib.contextmanager
def _ours(token: str) -> Iterator[None]:
    _OURS.add(token)
    try:
        yield
    finally:
        _OURS.discard(token)


def _is_over(held: Held, surroundings: Surroundings) -> bool:
    """Tell whether a holder is dead, or is this process, which has long let go."""
    processes = surroundings.processes
    if processes.is_dead(held.holder):
        return True
    return held.holder == processes.this() and held.token not in _OURS


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
    texts = (str(value.get(key)) for key in ("what", "created", "token"))
    return Held(name, holder, *texts)


@contextlib.contextmanager
def lease(
    storage: Storage, chain: str, point: str, what: str, surroundings: Surroundings
) -> Iterator[None]:
    """Keep a point from being removed while it is read."""
    name = layout.lease(chain, point, new_id(surroundings.entropy))
    fields = _fields(surroundings, what) | {"point": point}
    with _ours(fields["token"]):
        storage.put(name, documents.sealed(_LEASE, fields))
        try:
            yield
        finally:
            storage.delete(name)


def active_leases(
    storage: Storage, chain: str, surroundings: Surroundings
) -> dict[str, list[Held]]:
    """Return the leases by point id; those of surely dead processes are removed first.

    Points that this host needs without a process count as leased, too.
    """
    found: dict[str, list[Held]] = {
        point: [Held("", holders.NOBODY, why, "its start")]
        for point, why in surroundings.needed().items()
    }
    for info in list(storage.list(layout.leases(chain))):
        point = layout.stem_of(info.name).partition(".")[0]
        held = _held(storage, info.name, _LEASE) if is_id(point) else None
        if held is None:
            continue
        if _is_over(held, surroundings):
            storage.delete(info.name)
        else:
            found.setdefault(point, []).append(held)
    return found


def describe(leases: list[Held]) -> str:
    """Return who reads, for a message."""
    return "; ".join(str(held) for held in itertools.islice(leases, 3))
