"""Repairing the documents of a chain from another storage that holds the same chain."""

import datetime
import re
from collections.abc import Callable, Iterator

from ruchu.errors import Damaged, ObjectMissing, RuchuError, UnknownFormat, UnsafeName
from ruchu.repository import (
    chains,
    documents,
    heads,
    layout,
    marks,
    moves,
    repositories,
    trash,
    verifying_documents,
)
from ruchu.repository.chains import Chain
from ruchu.repository.locking import ChainLock
from ruchu.storage.contract import Storage

_STAMP = "%Y%m%dT%H%M%SZ"
_LOCK = re.compile(r"locks/(\d{10})\.json")
_UNTIL = re.compile(r"([0-9a-f]{32})\.lock-(\d{8}T\d{6}Z)")


LostHead = tuple[str, bytes, heads.Head]
"""Name, document and content of a head."""


class DocumentRepair:
    """Puts documents back. What was put back, and what could not be, is remembered."""

    def __init__(self, chain: Chain, other: Chain, lock: ChainLock) -> None:
        self._chain = chain
        self._other = other
        self._lock = lock
        self.done: list[str] = []
        self.left: list[str] = []

    def repair(self, name: str, damaged_packs: set[str]) -> None:
        """Repair one damaged or missing document of the chain, by its name."""
        inner = name.removeprefix(f"{layout.chain(self._chain.id)}/")
        folder = inner.partition("/")[0]
        if inner == "chain.json":
            self._chain_document(name)
        elif folder == "points":
            self._head(name, damaged_packs)
        elif folder == "marks":
            self._mark(name)
        elif folder == "trash":
            self._trash(name)
        elif (match := _LOCK.fullmatch(inner)) and int(match[1]) < self._lock.number:
            # A lock of the past: ours has a higher number.
            remove(self._chain.storage, name)
            self.done.append(name)
        else:
            self.left.append(f"{name}: nobody but its writer knows what it said; see who it was")

    def _from_other(self, name: str, check: Callable[[bytes], object]) -> bytes | None:
        """Return a document of the other storage if it is right there."""
        try:
            data = self._other.storage.get(name, documents.DOCUMENT_BYTES_MAX)
            check(data)
        except (ObjectMissing, Damaged, UnknownFormat, UnsafeName, ValueError):
            return None
        return data

    def _replace(self, name: str, data: bytes) -> None:
        """Put a document in the place of a damaged one.

        After a crash between the two steps it is missing, which the next repair mends.
        """
        self._lock.confirm()
        immutable = remove(self._chain.storage, name)
        self._chain.storage.put(name, data)
        if immutable:
            self._chain.storage.protect(name)
        self.done.append(name)

    def _chain_document(self, name: str) -> None:
        chain, other = self._chain, self._other
        data = self._from_other(name, lambda _: chains.read_document(other.storage, chain.id))
        same = _storage_id(chain) == _storage_id(other) is not None
        if data is None or not same:
            # The chain's key is wrapped in it by the key of its storage: another's is of no use.
            self.left.append(f"{name}: only a copy of this very storage has the right one")
        else:
            self._replace(name, data)

    def _head(self, name: str, damaged_packs: set[str]) -> None:
        chain = self._chain
        stem = layout.stem_of(name)
        data = self._from_other(
            name, lambda data: heads.decode(name, data, chain.id, stem, chain.keys)
        )
        if data is None:
            self.left.append(f"{name}: the other storage has no whole one")
            return
        head = heads.decode(name, data, chain.id, stem, chain.keys)
        if all(self._knows(pack, damaged_packs) for pack in packs_named(head)):
            self._replace(name, data)
        else:
            self.left.append(f"{name}: its maps lie in packs that are not here; copy the point")

    def _knows(self, pack: str, damaged_packs: set[str]) -> bool:
        if pack in damaged_packs:
            return True
        chain = self._chain
        for name in (layout.pack(chain.id, pack), layout.moved(chain.id, pack)):
            try:
                chain.storage.size(name)
            except ObjectMissing:
                continue
            return True
        return False

    def _mark(self, name: str) -> None:
        data = self._from_other(name, lambda data: marks.check(name, data))
        if data is not None:
            self._replace(name, data)
            return
        # All that counts stands in the name.
        storage, now = self._chain.storage, self._chain.surroundings.clock.now()
        stem = layout.stem_of(name)
        until = _UNTIL.fullmatch(stem)
        immutable = remove(storage, name)
        if until is None:
            marks.star(storage, self._chain.id, stem.partition(".")[0], now)
        else:
            moment = datetime.datetime.strptime(until[2], _STAMP).replace(tzinfo=datetime.UTC)
            marks.lock(storage, self._chain.id, until[1], moment, now)
        if immutable:
            storage.protect(name)
        self.done.append(name)

    def _trash(self, name: str) -> None:
        chain, record = self._chain.id, layout.stem_of(name)
        data = self._from_other(name, lambda data: trash.parse(name, data, chain, record))
        if data is not None:
            self._replace(name, data)
            return
        # Without it, what it removed comes back; the retention will remove it again.
        remove(self._chain.storage, name)
        self.done.append(name)

    def bring_marks_back(self, points: set[str]) -> None:
        """Copy the marks of points that lie in the other storage only."""
        here = {info.name for info in self._chain.storage.list(layout.marks(self._chain.id))}
        for info in self._other.storage.list(layout.marks(self._chain.id)):
            name = info.name
            if name in here or layout.stem_of(name).partition(".")[0] not in points:
                continue
            data = self._from_other(name, lambda data, n=name: marks.check(n, data))  # type: ignore[misc]
            if data is not None:
                self._chain.storage.put(name, data)
                self.done.append(name)

    def lost_heads(self) -> Iterator[LostHead]:
        """Yield (name, document, head) of whole heads that are not here and not in any trash."""
        chain, other = self._chain, self._other
        known = set(verifying_documents.listed_stems(chain))
        known |= verifying_documents.deleted_stems(chain)
        known |= verifying_documents.deleted_stems(other)
        for stem in verifying_documents.listed_stems(other):
            if stem in known:
                continue
            name = layout.head(chain.id, stem)
            data = self._from_other(
                name, lambda data, n=name, s=stem: heads.decode(n, data, chain.id, s, chain.keys)  # type: ignore[misc]
            )  # fmt: skip
            if data is not None:
                yield name, data, heads.decode(name, data, chain.id, stem, chain.keys)

    def put_head(self, name: str, data: bytes) -> None:
        """Write a head that was lost."""
        self._lock.confirm()
        self._chain.storage.put(name, data)
        self.done.append(name)


def packs_named(head: heads.Head) -> set[str]:
    """Return the packs in the references of a head."""
    references = [disk.root for disk in head.disks] + list(head.attachments.values())
    return {reference.pack for reference in references}


def remove(storage: Storage, name: str) -> bool:
    """Remove an object, even an immutable one; return whether it was immutable.

    What takes its place must be made so again.
    """
    try:
        immutable = storage.is_protected(name)
    except ObjectMissing:
        return False
    if immutable:
        storage.release(name)
    storage.delete(name)
    return immutable


def _storage_id(chain: Chain) -> str | None:
    try:
        return repositories.read_facts(chain.storage).id
    except RuchuError:
        return None


def read_moves(chain: Chain, number: int) -> moves.Moves | None:
    """Return the table of moves of a pack as it is now; None if there is none, or a damaged one."""
    pack = chain.table.id(number)
    name = layout.moved(chain.id, pack.hex())
    try:
        data = chain.storage.get(name, moves.MOVED_BYTES_MAX)
        return moves.parse(name, data, pack, bytes.fromhex(chain.id), chain.reader.cipher(number))
    except (ObjectMissing, Damaged, UnknownFormat):
        return None
