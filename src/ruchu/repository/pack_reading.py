"""Reading chunks out of packs: grouped, decoded, checked, followed through compaction."""

import mmap
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ruchu.chunks import codec
from ruchu.chunks.keys import ChainKeys
from ruchu.errors import Damaged, ObjectMissing, ObjectShort
from ruchu.repository import layout, maps, moves, packs
from ruchu.repository.heads import Reference
from ruchu.storage.contract import Storage, is_forkable

# One request: large enough to stream from a disk, small enough for the memory of many threads.
RUN_BYTES_MAX = 4 << 20
# Reading over a gap this small is cheaper than a second request.
GAP_BYTES_MAX = 64 << 10


@dataclass(frozen=True, slots=True)
class Chain:
    """What reading needs to know of a chain."""

    id: str
    keys: ChainKeys
    encrypted: bool


@dataclass(slots=True)
class _Run:
    """Records of one pack that are read in one request; `rows` index into the asked slots."""

    pack: int
    start: int
    end: int
    rows: list[int]


Room = Callable[[int], memoryview]


@dataclass(frozen=True, slots=True)
class _Wanted:
    """The kind of the records that are read, and where each belongs by its row; None: anywhere."""

    kind: int
    room: Room | None


class PackReader:
    """Reads chunks of one chain. Safe in several threads."""

    def __init__(self, storage: Storage, chain: Chain, table: maps.PackTable) -> None:
        self._storage = storage
        self._chain = chain
        self.table = table
        self._ciphers: dict[int, AESGCM] = {}
        self._names: dict[int, str] = {}
        self._moves: dict[int, moves.Moves] = {}
        self._buffers: list[memoryview] = []
        self._lock = threading.Lock()

    @property
    def forkable(self) -> bool:
        """Whether a process forked from this one may read, too."""
        return is_forkable(self._storage)

    def cipher(self, pack: int) -> AESGCM | None:
        """Return the cipher of a pack, None if the chain is not encrypted."""
        if not self._chain.encrypted:
            return None
        found = self._ciphers.get(pack)
        if found is None:
            found = self._chain.keys.pack_cipher(self.table.id(pack))
            self._ciphers[pack] = found
        return found

    def read_one(self, reference: Reference, kind: int) -> bytes:
        """Return the chunk behind a reference of a head.

        Raises:
            Damaged: it is not there, or not what the reference says.
        """
        chunk_id = bytes.fromhex(reference.id)
        slot = np.zeros(1, maps.SLOT)
        slot["pack"] = self.table.number(bytes.fromhex(reference.pack))
        slot["offset"], slot["stored"] = reference.offset, reference.stored
        slot["prefix"] = int.from_bytes(chunk_id[:8], "little")
        ((_, found_id, chunk),) = self.read(slot, kind)
        if found_id != chunk_id:
            raise Damaged(f"{self._name(int(slot['pack'][0]))}: chunk {reference.id[:16]}")
        return bytes(chunk)

    def read(self, slots: maps.Slots, kind: int) -> Iterator[tuple[int, bytes, codec.Bytes]]:
        """Yield (row, chunk id, chunk) for all slots, in the order in which they are stored.

        Slots are of stored blocks only (`stored` > 0).

        Raises:
            Damaged: a record is missing or wrong; its pack and offset are named.
        """
        yield from self._read(slots, np.arange(len(slots)), _Wanted(kind, None), 0)

    def read_into(self, slots: maps.Slots, kind: int, room: Room) -> None:
        """Decode the chunks of all slots, each into its room; see `read`.

        Args:
            slots: of stored blocks only.
            kind: of their records.
            room: asked for each row; what the chunk lacks of it is filled with zeros.

        Raises:
            Damaged: a record is missing, wrong, or larger than its room.
        """
        for _ in self._read(slots, np.arange(len(slots)), _Wanted(kind, room), 0):
            pass

    def _read(
        self, slots: maps.Slots, rows: npt.NDArray[np.intp], wanted: "_Wanted", hops: int
    ) -> Iterator[tuple[int, bytes, codec.Bytes]]:
        for run in _runs(slots):
            # A fresh buffer for each request would cost more page faults than the decoding.
            whole = self._borrow(run.end - run.start)
            buffer = whole[: run.end - run.start]
            try:
                self._storage.read_into(self._name(run.pack), run.start, buffer)
                yield from self._records(run, slots, buffer, wanted, rows)
            except ObjectMissing:
                chosen = np.array(run.rows)
                new = self._relocated(slots[chosen], run.pack, hops)
                yield from self._read(new, rows[chosen], wanted, hops + 1)
            except ObjectShort as error:
                raise Damaged(f"{self._name(run.pack)} is cut off ({error.detail})") from None
            finally:
                if len(whole) == RUN_BYTES_MAX:
                    self._buffers.append(whole)

    def _borrow(self, length: int) -> memoryview:
        """Return a buffer for a request; roots and attachments may need a larger one."""
        if length > RUN_BYTES_MAX:
            if length > codec.PLAIN_BYTES_MAX + packs.RECORD_BYTES + packs.TAG_BYTES:
                raise Damaged(f"a record of {length} bytes")
            return memoryview(bytearray(length))
        try:
            return self._buffers.pop()
        except IndexError:
            return memoryview(mmap.mmap(-1, RUN_BYTES_MAX))

    def _records(
        self,
        run: _Run,
        slots: maps.Slots,
        buffer: memoryview,
        wanted: "_Wanted",
        rows: npt.NDArray[np.intp],
    ) -> Iterator[tuple[int, bytes, codec.Bytes]]:
        """Yield what a request brought, each record held against its slot; rows as asked for."""
        cipher = self.cipher(run.pack)
        numbers = rows.tolist()
        offsets = slots["offset"].tolist()
        lengths = slots["stored"].tolist()
        prefixes = slots["prefix"].tolist()
        for row in run.rows:
            at = offsets[row] - run.start
            room = None if wanted.room is None else wanted.room(numbers[row])
            record, chunk = self._decoded(run, buffer, at, cipher, room)
            wrong = (
                record.stored != lengths[row]
                or record.kind != wanted.kind
                or int.from_bytes(record.id[:8], "little") != prefixes[row]
            )
            if wrong:
                where = f"{self._name(run.pack)} at {offsets[row]}"
                raise Damaged(f"{where}: another record than the map says")
            yield numbers[row], record.id, chunk

    def _decoded(
        self, run: _Run, buffer: memoryview, at: int, cipher: AESGCM | None, room: memoryview | None
    ) -> tuple[packs.Record, codec.Bytes]:
        try:
            record = packs.parse_record(self._name(run.pack), buffer, at)
            return record, decode(record, buffer, at, cipher, self._chain.keys.chunk_id, room)
        except (ValueError, Damaged) as error:
            where = f"{self._name(run.pack)} at {run.start + at}"
            raise Damaged(f"{where}: {error}") from None

    def _relocated(self, slots: maps.Slots, pack: int, hops: int) -> maps.Slots:
        if hops >= moves.HOPS_MAX:
            raise Damaged(f"{self._name(pack)}: moved more than {moves.HOPS_MAX} times")
        table = self.moves_of(pack)
        if table is None:
            raise Damaged(f"{self._name(pack)} is missing")
        new = slots.copy()
        for slot in new:
            place = table.find(int(slot["offset"]))
            if place is None:
                raise Damaged(f"{self._name(pack)} at {slot['offset']}: dropped by compaction")
            slot["pack"], slot["offset"] = self.table.number(place[0]), place[1]
        return new

    def moves_of(self, pack: int) -> moves.Moves | None:
        """Return where the chunks of a pack went; None if it was never compacted."""
        found = self._moves.get(pack)
        if found is None:
            pack_id = self.table.id(pack)
            name = layout.moved(self._chain.id, pack_id.hex())
            try:
                data = self._storage.get(name, moves.MOVED_BYTES_MAX)
            except ObjectMissing:
                return None
            chain_id = bytes.fromhex(self._chain.id)
            found = moves.parse(name, data, pack_id, chain_id, self.cipher(pack))
            with self._lock:
                self._moves[pack] = found
        return found

    def forget_moves(self) -> None:
        """Read the tables of moves anew from now on: some were replaced, or may have been."""
        with self._lock:
            self._moves.clear()

    def entries(self, pack: int) -> packs.Entries:
        """Return the footer of a pack.

        Raises:
            ObjectMissing, Damaged: there is no such pack, or it is damaged.
        """
        return self.pack_front(pack)[2]

    def pack_front(self, pack: int) -> tuple[int, bytes, packs.Entries]:
        """Return size, header and footer entries of a pack, checked."""
        name = self._name(pack)
        pack_id = self.table.id(pack)
        size = self._storage.size(name)
        if size < packs.HEADER_BYTES + packs.TRAILER_BYTES:
            raise Damaged(f"{name} is cut off to {size} bytes")
        header = self._range(name, 0, packs.HEADER_BYTES)
        encrypted = packs.check_pack_header(name, header, pack_id, bytes.fromhex(self._chain.id))
        if encrypted != self._chain.encrypted:
            raise Damaged(f"{name}: its encryption differs from the chain's")
        trailer = self._range(name, size - packs.TRAILER_BYTES, packs.TRAILER_BYTES)
        _, length = packs.parse_trailer(name, trailer, pack_id, size)
        start = size - packs.TRAILER_BYTES - length
        stored = self._range(name, start, length)
        entries = packs.open_footer(name, header, stored, trailer, self.cipher(pack))
        end = packs.HEADER_BYTES
        if len(entries):
            end = int(entries["offset"][-1]) + packs.RECORD_BYTES + int(entries["stored"][-1])
        if end != start:
            raise Damaged(f"{name}: its records end at {end}, its footer starts at {start}")
        return size, header, entries

    def _range(self, name: str, start: int, length: int) -> bytes:
        buffer = bytearray(length)
        try:
            self._storage.read_into(name, start, memoryview(buffer))
        except ObjectShort as error:
            raise Damaged(f"{name} is cut off ({error.detail})") from None
        return bytes(buffer)

    def _name(self, pack: int) -> str:
        found = self._names.get(pack)
        if found is None:
            found = self._names[pack] = layout.pack(self._chain.id, self.table.id(pack).hex())
        return found


def decode(
    record: packs.Record,
    buffer: memoryview,
    at: int,
    cipher: AESGCM | None,
    id_key: bytes,
    room: memoryview | None = None,
) -> codec.Bytes:
    """Return the chunk of a record in a buffer, checked by its id.

    Args:
        record: what its header says.
        buffer: what was read.
        at: where in it the record begins.
        cipher: of its pack.
        id_key: of its chain.
        room: where the chunk belongs; what it lacks is filled with zeros.

    Raises:
        ValueError: it is damaged.
    """
    start = at + packs.RECORD_BYTES
    payload: codec.Bytes = buffer[start : start + record.stored]
    if len(payload) != record.stored:
        raise ValueError("the record is cut off")
    if cipher is not None:
        try:
            payload = cipher.decrypt(packs.nonce(record.number), payload, buffer[at:start])
        except InvalidTag:
            raise ValueError("does not decrypt") from None
    if room is None:
        chunk = codec.decompress(record.codec, payload, record.plain)
    else:
        chunk = room[: record.plain]
        codec.decompress_into(record.codec, payload, record.plain, chunk)
        if len(room) > len(chunk):
            room[len(chunk) :] = bytes(len(room) - len(chunk))
    if codec.chunk_id(id_key, chunk) != record.id:
        raise ValueError("chunk id is wrong")
    return chunk


def _runs(slots: maps.Slots) -> Iterator[_Run]:
    """Group slots into requests: same pack, near one another."""
    order = np.lexsort((slots["offset"], slots["pack"]))
    pack_column = slots["pack"].tolist()
    starts = slots["offset"].tolist()
    lengths = slots["stored"].tolist()
    run: _Run | None = None
    for row in order.tolist():
        start = starts[row]
        end = start + packs.RECORD_BYTES + lengths[row]
        if (
            run is not None
            and run.pack == pack_column[row]
            and start - run.end <= GAP_BYTES_MAX
            and end - run.start <= RUN_BYTES_MAX
        ):
            run.end = max(run.end, end)
            run.rows.append(row)
            continue
        if run is not None:
            yield run
        run = _Run(pack_column[row], start, end, [row])
    if run is not None:
        yield run
