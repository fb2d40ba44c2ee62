"""Writing a point: disks, attachments, and the head that commits it."""

import contextlib
import datetime
from dataclasses import dataclass, field, replace
from types import TracebackType
from typing import Any, Self

from ruchu.chunks import codec
from ruchu.errors import Incomplete, ObjectMissing
from ruchu.model.ids import new_id
from ruchu.model.sources import Kind
from ruchu.repository import heads, layout, packs
from ruchu.repository.chains import Chain
from ruchu.repository.chunk_storing import ChunkStore
from ruchu.repository.disk_maps import DiskMap
from ruchu.repository.disk_writing import DiskWriter
from ruchu.repository.heads import DiskEntry, Head, Reference
from ruchu.repository.locking import ChainLock
from ruchu.repository.pack_writing import PackWriter
from ruchu.repository.reach import Places


@dataclass(slots=True)
class _Disk:
    """A disk being written."""

    name: str
    writer: DiskWriter
    facts: dict[str, Any] = field(default_factory=dict)


class PointWriter:
    """Writes one point into a chain. Use as a context manager, inside `chain.exclusive`.

    Leaving without `commit` commits nothing; what was stored serves the next run.
    """

    def __init__(
        self,
        chain: Chain,
        lock: ChainLock,
        kind: Kind,
        base: Head | None,
        *,
        level: int = codec.LEVEL_DEFAULT,
    ) -> None:
        assert (base is None) == (kind is Kind.FULL) or base is None
        self._chain = chain
        self._lock = lock
        self.kind = kind
        self.base = base
        alive = chain.numbers(chain.live_packs())
        self._index = chain.open_index(alive)
        self._places = Places(chain.reader, alive)
        self._store = ChunkStore(self._index, chain.keys, codec.Compressor(level))
        self._disks: list[_Disk] = []
        self._attachments: dict[str, Reference] = {}
        self._stack = contextlib.ExitStack()
        self._packs: PackWriter | None = None

    def __enter__(self) -> Self:
        # What dead writers left is of no use. Only where the holder of the lock alone writes:
        # others may be putting a lock, a lease or a mark right now.
        for place in (layout.packs, layout.points, layout.trash):
            self._chain.storage.sweep_unfinished(place(self._chain.id))
        writer = PackWriter(
            self._chain.storage,
            self._chain.identity,
            self._chain.table,
            self._chain.surroundings.entropy,
            self._store.on_sealed,
        )
        self._packs = self._stack.enter_context(writer)
        self._store.writer = self._packs
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stack.__exit__(kind, error, trace)

    @property
    def bytes_stored(self) -> int:
        """Bytes written to the storage so far."""
        return self._packs.bytes_written if self._packs is not None else 0

    def open_disk(self, name: str, size: int, *, on_base: bool) -> DiskWriter:
        """Begin a disk.

        With `on_base`, blocks that are not written are those of the disk of that name in the base;
        otherwise they are zeros.
        """
        base = self.base_map(name, size) if on_base else None
        assert base is not None or not on_base
        chain = self._chain
        under = (base, self._places) if base is not None else None
        writer = DiskWriter(self._store, chain.table, size, chain.block_size, under)
        self._stack.callback(writer.close)
        self._disks.append(_Disk(name, writer))
        return writer

    def base_map(self, name: str, size: int) -> DiskMap | None:
        """Return the map that a disk can build upon; None if it cannot (absent, shrunk)."""
        if self.base is None:
            return None
        for disk in self.base.disks:
            if disk.name == name and disk.size <= size:
                return self._chain.disk_map(self.base, disk)
        return None

    def describe_disk(self, name: str, facts: dict[str, Any]) -> None:
        """Add facts of a disk to the head."""
        for disk in self._disks:
            if disk.name == name:
                disk.facts.update(facts)

    def attach(self, name: str, content: bytes) -> None:
        """Store a small object with the point, such as the machine's configuration."""
        chunk_id = self._store.identify(content)
        (place,) = self._store.store(packs.KIND_ATTACHMENT, [chunk_id], [content])
        pack = self._chain.table.id(place.pack).hex()
        self._attachments[name] = Reference(pack, place.offset, place.stored, chunk_id.hex())

    def commit(self, time: datetime.datetime, facts: dict[str, Any]) -> Head:
        """Make everything durable, then write the head: the point exists from then on.

        Raises:
            LockLost: another writer took over; nothing was committed.
            Incomplete: a pack that the maps name is not in the storage; nothing was committed.
        """
        assert self._packs is not None
        roots = [disk.writer.finish() for disk in self._disks]
        self._packs.finish()
        self._check_packs()
        entries = [
            DiskEntry(number, disk.name, disk.writer.size, root, disk.facts)
            for number, (disk, root) in enumerate(zip(self._disks, roots, strict=True))
        ]
        self._lock.confirm()
        head = Head(
            chain=self._chain.id,
            point=new_id(self._chain.surroundings.entropy),
            sequence=self._next_sequence(),
            kind=self.kind,
            parent=self.base.point if self.base is not None else None,
            time=time,
            finished=self._chain.surroundings.clock.now(),
            disks=tuple(entries),
            attachments=dict(self._attachments),
            facts=facts | self._counts(),
        )
        data = heads.encode(head, self._chain.keys)
        # The pair of what a reader does: what cannot be read back must not be committed.
        checked = heads.decode(head.stem, data, head.chain, head.stem, self._chain.keys)
        assert checked == replace(head, time=checked.time, finished=checked.finished)
        self._chain.storage.put(layout.head(self._chain.id, head.stem), data)
        self._index.save()
        return checked

    def _counts(self) -> dict[str, Any]:
        return {
            "bytes_stored": self.bytes_stored,
            "chunks_new": self._store.new_chunks,
            "chunks_known": self._store.known_chunks,
        }

    def _check_packs(self) -> None:
        used = {number for disk in self._disks for number in disk.writer.packs_used}
        for number in used:
            pack = self._chain.table.id(number).hex()
            try:
                self._chain.storage.size(layout.pack(self._chain.id, pack))
            except ObjectMissing:
                raise Incomplete(f"(pack {pack} is not there)") from None

    def _next_sequence(self) -> int:
        highest = 0
        for info in self._chain.storage.list(layout.points(self._chain.id)):
            if layout.is_head(info.name):
                highest = max(highest, layout.parse_point_stem(layout.stem_of(info.name))[0])
        return highest + 1
