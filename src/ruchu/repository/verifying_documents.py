"""Documents under verification: each one that lies in a storage is read and held to its seal."""

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from blake3 import blake3

from ruchu.errors import (
    Damaged,
    ObjectMissing,
    StorageError,
    UnknownFormat,
    UnsafeName,
    WrongKey,
)
from ruchu.repository import (
    chains,
    documents,
    heads,
    holders,
    layout,
    marks,
    moves,
    repositories,
    trash,
    unreadable,
)
from ruchu.repository.chains import Chain
from ruchu.repository.verifying_findings import Findings
from ruchu.storage import failures
from ruchu.storage.contract import Storage

_Parsed = TypeVar("_Parsed")

_KIT_BYTES_MAX = 4 << 20
_LOCK, _LEASE = "ruchu-lock", "ruchu-lease"
_RELEASED = b"\n"
_ID = "[0-9a-f]{32}"
_KEY_SLOT = re.compile(rf"keys/({_ID})\.json")
_PACK = re.compile(r"packs/([0-9a-f]{2})/(\1[0-9a-f]{30})\.(pack|moved)")
_POINT = re.compile(rf"points/(\d{{10}}-({_ID}))\.json")
_TRASH = re.compile(rf"trash/({_ID})\.json")
_LOCK_NAME = re.compile(r"locks/(\d{10})(\.released)?\.json")
_LEASE_NAME = re.compile(rf"leases/({_ID})\.{_ID}\.json")
_MARK = re.compile(rf"marks/({_ID})\.(?:star|lock-\d{{8}}T\d{{6}}Z)\.json")


class DocumentCheck:
    """Reads documents and collects what is wrong with them."""

    def __init__(self, storage: Storage, findings: Findings) -> None:
        self._storage = storage
        self._findings = findings
        self.count = 0

    def check(
        self,
        name: str,
        parse: Callable[[bytes], _Parsed],
        *,
        size_max: int = documents.DOCUMENT_BYTES_MAX,
        points: Iterable[str] = (),
        may_go: bool = False,
    ) -> _Parsed | None:
        """Return what a document says; None if it is damaged, or is gone where it may go."""
        try:
            data = self._storage.get(name, size_max)
            parsed = parse(data)
        except ObjectMissing:
            if not may_go:
                self._findings.damage("document-missing", name, "It is missing.", points)
            return None
        except (Damaged, UnknownFormat, WrongKey, ValueError) as error:
            detail = error.detail if not isinstance(error, ValueError) else str(error)
            self._findings.damage("document-damaged", name, detail, points)
            return None
        except StorageError as error:
            own = isinstance(error, UnsafeName | failures.ObjectTooLarge)
            if not own and not unreadable.is_unreadable(self._storage, error):
                raise
            self._findings.damage("document-damaged", name, error.detail, points)
            return None
        self.count += 1
        return parsed


def check_storage(repository: repositories.Repository, findings: Findings) -> int:
    """Check what belongs to the storage itself; return how many documents were right."""
    storage = repository.storage
    check = DocumentCheck(storage, findings)
    facts = check.check(layout.STORAGE, lambda _: repositories.read_facts(storage))
    facts = facts or repository.facts
    if facts.id != repository.facts.id:
        findings.damage("document-damaged", layout.STORAGE, "It is another storage's.")
    for file in layout.KIT:
        wanted = facts.kit.get(file)
        check.check(file, lambda data, w=wanted: _kit_file(data, w), size_max=_KIT_BYTES_MAX)  # type: ignore[misc]
    for info in storage.list(layout.KEYS):
        match = _KEY_SLOT.fullmatch(info.name)
        if match is not None:
            check.check(
                info.name, lambda data, m=match: _key_slot(data, m, facts.id), may_go=True  # type: ignore[misc]
            )  # fmt: skip
    return check.count


def _kit_file(data: bytes, wanted: str | None) -> bool:
    if blake3(data).hexdigest() != wanted:
        raise Damaged("Its hash is not the one that ruchu-storage.json says.")
    return True


def _key_slot(data: bytes, match: re.Match[str], storage: str) -> bool:
    fields = documents.opened(match[0], data, repositories.KEY_FORMAT)
    if fields.get("storage") != storage or fields.get("slot") != match[1]:
        raise Damaged(f"{match[0]} belongs to another storage or slot")
    documents.field(match[0], fields, "method", str)
    return True


def notice_foreign(storage: Storage, findings: Findings) -> None:
    """Note names that are no object names, and objects outside of chains that nobody knows."""
    for name in storage.foreign():
        findings.notice("foreign", name, "It is not Ruchu's; it is neither read nor removed.")
    for info in storage.list(""):
        known = info.name in {layout.STORAGE, *layout.KIT} or _KEY_SLOT.fullmatch(info.name)
        if not known and not _in_chain(info.name):
            findings.notice("unknown", info.name, "No part of the format has this name.")


def _in_chain(name: str) -> bool:
    return re.match(rf"{layout.CHAINS}/{_ID}/", name) is not None


class ChainDocuments:
    """The documents of one chain, and the packs that its listing names.

    Attributes:
        heads: the heads of live points, in their sequence.
        pack_sizes: bytes of the packs by their ids.
        deleted: stems of the points that stand in the trash.
    """

    def __init__(self, chain: Chain, findings: Findings, known_stems: list[str]) -> None:
        self._chain = chain
        self._findings = findings
        self._check = DocumentCheck(chain.storage, findings)
        self._points = sorted(stem[11:] for stem in known_stems)
        self._moved: list[str] = []
        self.heads: list[heads.Head] = []
        self.pack_sizes: dict[str, int] = {}
        self.deleted: set[str] = set()

    @property
    def count(self) -> int:
        """How many documents were right."""
        return self._check.count

    def check_all(self, stems: list[str]) -> None:
        """Read everything but the packs. `stems` were listed before anything else."""
        chain = self._chain
        self._check.check(
            layout.chain_document(chain.id), lambda _: _chain_document(chain), points=self._points
        )
        for info in chain.storage.list(layout.chain(chain.id)):
            self._sort(info.name, info.size)
        for stem in stems:
            self._head(stem)
        for pack in sorted(self._moved):
            self._moves(pack)

    def _sort(self, name: str, size: int) -> None:
        """Check one listed object, or put it where it is checked."""
        inner = name.removeprefix(f"{layout.chain(self._chain.id)}/")
        pack = _PACK.fullmatch(inner)
        if pack is not None and pack[3] == "pack":
            self.pack_sizes[pack[2]] = size
        elif pack is not None:
            self._moved.append(pack[2])
        elif record := _TRASH.fullmatch(inner):
            self._trash(name, record[1])
        elif mark := _MARK.fullmatch(inner):
            self._mark(name, mark[1])
        elif lock := _LOCK_NAME.fullmatch(inner):
            self._lock(name, lock)
        elif lease := _LEASE_NAME.fullmatch(inner):
            self._lease(name, lease[1])
        elif inner != "chain.json" and not _POINT.fullmatch(inner):
            self._findings.notice("unknown", name, "No part of the format has this name.")

    def _trash(self, name: str, record: str) -> None:
        chain = self._chain.id
        parsed = self._check.check(
            name, lambda data: trash.parse(name, data, chain, record), may_go=True
        )
        if parsed is not None:
            self.deleted.update(parsed.points)

    def _mark(self, name: str, point: str) -> None:
        affected = [point] if point in self._points else []
        self._check.check(name, lambda data: _mark_right(name, data), points=affected, may_go=True)

    def _lock(self, name: str, match: re.Match[str]) -> None:
        if match[2]:
            # Its name alone says that the lock has ended: whatever is in it, nothing is lost.
            data = self._check.check(name, bytes, may_go=True)
            if data not in {None, _RELEASED}:
                self._findings.notice("released", name, "Its content was changed; no matter.")
            return
        number = int(match[1])
        self._check.check(
            name, lambda data: _held(name, data, _LOCK, "number", number), may_go=True
        )

    def _lease(self, name: str, point: str) -> None:
        self._check.check(name, lambda data: _held(name, data, _LEASE, "point", point), may_go=True)

    def _head(self, stem: str) -> None:
        """Check a head; of a deleted point, the head is all that is checked."""
        chain = self._chain
        name = layout.head(chain.id, stem)
        deleted = stem in self.deleted
        head = self._check.check(
            name,
            lambda data: heads.decode(name, data, chain.id, stem, chain.keys),
            points=[] if deleted else [stem[11:]],
            may_go=True,
        )
        if head is not None and not deleted:
            self.heads.append(head)

    def _moves(self, pack: str) -> None:
        """Check a table of moves; which points it affects is seen when they are resolved."""
        chain = self._chain
        name, pack_id = layout.moved(chain.id, pack), bytes.fromhex(pack)
        cipher = chain.reader.cipher(chain.table.number(pack_id))
        self._check.check(
            name,
            lambda data: moves.parse(name, data, pack_id, bytes.fromhex(chain.id), cipher),
            size_max=moves.MOVED_BYTES_MAX,
            may_go=True,
        )


def listed_stems(chain: Chain) -> list[str]:
    """Return the stems of all heads that lie there, in their sequence; foreign names are not."""
    inner = f"{layout.chain(chain.id)}/"
    found = []
    for info in chain.storage.list(layout.points(chain.id)):
        match = _POINT.fullmatch(info.name.removeprefix(inner))
        if match is not None:
            found.append(match[1])
    return sorted(found)


def deleted_stems(chain: Chain) -> set[str]:
    """Return the stems in the trash; a damaged record, found elsewhere, deletes nothing."""
    check = DocumentCheck(chain.storage, Findings())
    found: set[str] = set()
    for info in list(chain.storage.list(layout.trash(chain.id))):
        match = _TRASH.fullmatch(info.name.removeprefix(f"{layout.chain(chain.id)}/"))
        if match is not None:
            record = check.check(info.name, _trash_parser(chain.id, info.name, match[1]))
            found.update(record.points if record is not None else ())
    return found


def _trash_parser(chain: str, name: str, record: str) -> Callable[[bytes], trash.TrashRecord]:
    return lambda data: trash.parse(name, data, chain, record)


def _mark_right(name: str, data: bytes) -> bool:
    marks.check(name, data)
    return True


def _chain_document(chain: Chain) -> bool:
    fields = chains.read_document(chain.storage, chain.id)
    if (fields.get("encryption") != "none") is not chain.identity.encrypted:
        raise Damaged("its encryption is another one than when it was opened")
    return True


def _held(name: str, data: bytes, kind: str, key: str, wanted: object) -> bool:
    fields = documents.opened(name, data, kind)
    holders.parse(name, fields)
    if fields.get(key) != wanted:
        raise Damaged(f"{name}: its {key} is not the one in its name")
    return True
