"""A chain: all points of one protected object under one job; the dedup domain."""

import contextlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from ruchu.chunks.keys import KEY_BYTES, ChainKeys
from ruchu.errors import Damaged, NotFound, ObjectMissing, UnknownFormat
from ruchu.model.ids import is_id, new_id
from ruchu.repository import documents, heads, keyring, layout, locking, maps, packs, trash
from ruchu.repository.disk_maps import DiskMap, PointDisk
from ruchu.repository.heads import DiskEntry, Head
from ruchu.repository.index import DedupIndex
from ruchu.repository.pack_reading import Chain as ChainIdentity
from ruchu.repository.pack_reading import PackReader
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.contract import Storage

FORMAT = "ruchu-chain"
PREFIX_MIN = 4


@dataclass(frozen=True, slots=True)
class ProtectedObject:
    """What a chain protects: kind (`vm`, `image`), name, platform, the platform's id of it."""

    kind: str
    name: str
    platform: str = ""
    id: str = ""

    def fields(self) -> documents.Document:
        """Return it for a document."""
        return {"kind": self.kind, "name": self.name, "platform": self.platform, "id": self.id}


class Chain:
    """An open chain. Reading needs no lock; writers hold `exclusive`."""

    def __init__(
        self, storage: Storage, fields: documents.Document, chain_key: bytes,
        surroundings: Surroundings, cache: Path | None,
    ) -> None:  # fmt: skip
        name = "chain.json"
        self.storage = storage
        self.surroundings = surroundings
        self.id: str = documents.field(name, fields, "chain", str)
        self.object = _protected(documents.field(name, fields, "object", dict))
        self.block_size: int = documents.field(name, fields, "block_size", int)
        self.keys = ChainKeys.derive(chain_key)
        encrypted = fields.get("encryption") != "none"
        self.identity = ChainIdentity(self.id, self.keys, encrypted)
        self.table = maps.PackTable()
        self.reader = PackReader(storage, self.identity, self.table)
        self.cache = cache / self.id if cache is not None else None

    def exclusive(self, what: str) -> contextlib.AbstractContextManager[locking.ChainLock]:
        """Hold the writer's lock."""
        return locking.exclusive(self.storage, self.id, what, self.surroundings)

    def stems(self, *, deleted: bool = False) -> list[str]:
        """Return the stems of the points, in their sequence; with `deleted`, those in the trash."""
        gone = {
            stem for record in trash.read_whole(self.storage, self.id) for stem in record.points
        }
        found = []
        for info in self.storage.list(layout.points(self.id)):
            stem = layout.stem_of(info.name)
            # Whatever else lies there is not ours, and no reason to refuse the points.
            if layout.is_head(info.name) and (stem in gone) is deleted:
                found.append(stem)
        return sorted(found)

    def head(self, stem: str) -> Head:
        """Return a head, checked."""
        name = layout.head(self.id, stem)
        data = self.storage.get(name, documents.DOCUMENT_BYTES_MAX)
        return heads.decode(name, data, self.id, stem, self.keys)

    def points(self) -> list[Head]:
        """Return all points, in their sequence."""
        found = []
        for stem in self.stems():
            try:
                found.append(self.head(stem))
            except ObjectMissing:
                # Who reads without the lock may meet a purge: then the point was deleted.
                if stem in self.stems():
                    raise
        return found

    def latest(self) -> Head | None:
        """Return the newest point."""
        stems = self.stems()
        return self.head(stems[-1]) if stems else None

    def find(self, prefix: str) -> Head:
        """Return the point whose id begins with a prefix.

        Raises:
            NotFound: none does, or several do.
        """
        found = [stem for stem in self.stems() if stem[11:].startswith(prefix)]
        if len(found) != 1 or len(prefix) < PREFIX_MIN:
            raise NotFound(f"(point {prefix!r}: {len(found)} match)")
        return self.head(found[0])

    def disk_map(self, head: Head, disk: DiskEntry) -> DiskMap:
        """Open the map of a disk."""
        return DiskMap.of(self.reader, head.point, disk)

    def disk(self, head: Head, disk: DiskEntry) -> PointDisk:
        """Open a disk of a point as a BlockReader."""
        return PointDisk(self.reader, self.disk_map(head, disk))

    def attachment(self, head: Head, name: str) -> bytes:
        """Return an attachment of a point."""
        if name not in head.attachments:
            raise NotFound(f"(attachment {name!r} of point {head.point[:8]})")
        return self.reader.read_one(head.attachments[name], packs.KIND_ATTACHMENT)

    @contextlib.contextmanager
    def reading(self, head: Head, what: str) -> Iterator[None]:
        """Hold a lease on a point, and check that it was not deleted just before.

        Raises:
            NotFound: it was.
        """
        with locking.lease(self.storage, self.id, head.point, what, self.surroundings):
            if head.stem not in self.stems():
                raise NotFound(f"(point {head.point[:8]} was deleted)")
            yield

    def pack_ids(self) -> list[str]:
        """Return the ids of all packs in the storage, those in the trash among them."""
        found = []
        for info in self.storage.list(layout.packs(self.id)):
            pack = layout.stem_of(info.name, ".pack")
            if is_id(pack) and info.name == layout.pack(self.id, pack):
                found.append(pack)
        return found

    def live_packs(self) -> set[str]:
        """Return the ids of the packs that do not wait in the trash."""
        trashed = {
            pack for record in trash.read_whole(self.storage, self.id) for pack in record.packs
        }
        return set(self.pack_ids()) - trashed

    def open_index(self, alive: set[int]) -> DedupIndex:
        """Return the dedup index of the packs that are alive. The caller holds the lock.

        A pack whose footer is damaged or of a later release is left out: nothing new builds upon
        it, and backups go on until a verification finds it and a repair heals it.
        """
        index = DedupIndex(self.table, self.cache / "index" if self.cache else None)
        index.load()
        index.retain(alive)
        for number in sorted(alive - index.pack_numbers):
            with contextlib.suppress(ObjectMissing, Damaged, UnknownFormat):
                index.add(number, self.reader.entries(number))
        return index

    def numbers(self, pack_ids: Iterable[str]) -> set[int]:
        """Return the numbers of packs by their ids."""
        return {self.table.number(bytes.fromhex(pack)) for pack in pack_ids}


def _protected(value: documents.Document) -> ProtectedObject:
    texts = (documents.field("chain.json", value, key, str) for key in
             ("kind", "name", "platform", "id"))  # fmt: skip
    return ProtectedObject(*texts)


def create(
    storage: Storage,
    storage_key: bytes,
    what: ProtectedObject,
    block_size: int,
    surroundings: Surroundings,
    *,
    encrypted: bool,
) -> str:
    """Write a new chain; return its id."""
    assert block_size in maps.BLOCK_SIZES
    chain = new_id(surroundings.entropy)
    nonce = surroundings.entropy(12)
    key = surroundings.entropy(KEY_BYTES)
    fields = {
        "chain": chain,
        "object": what.fields(),
        "created": surroundings.clock.now().strftime("%Y-%m-%dT%H:%M:%S.%fZ"),
        "block_size": block_size,
        "encryption": "aes-256-gcm" if encrypted else "none",
        "nonce": nonce.hex(),
        "wrapped": keyring.wrap_chain_key(storage_key, chain, key, nonce).hex(),
    }
    storage.put(layout.chain_document(chain), documents.sealed(FORMAT, fields))
    return chain


def read_document(storage: Storage, chain: str) -> documents.Document:
    """Return the fields of `chain.json`, checked."""
    name = layout.chain_document(chain)
    data = storage.get(name, documents.DOCUMENT_BYTES_MAX)
    fields = documents.opened(name, data, FORMAT)
    if fields.get("chain") != chain or fields.get("block_size") not in maps.BLOCK_SIZES:
        raise Damaged(f"{name} is another chain's")
    return fields
