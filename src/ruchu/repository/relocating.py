"""Copying records of a pack into new packs, and telling readers where they are now."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ruchu.chunks import codec
from ruchu.errors import Damaged, ObjectExists, ObjectMissing, ObjectShort, StorageError
from ruchu.repository import layout, moves, packs, unreadable
from ruchu.repository.chains import Chain
from ruchu.repository.pack_reading import GAP_BYTES_MAX, RUN_BYTES_MAX
from ruchu.repository.pack_writing import PackWriter, Prepared

_NONCE_BYTES = 12
# Payloads gathered before they are written: large enough for one good write.
_BATCH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class Relocated:
    """A record on its way: its offset in the old pack, and the chunk as it is stored again.

    Attributes:
        offset: where the record header begins in the old pack.
        prepared: kind, id and payload; the payload keeps its length, as the maps demand.
    """

    offset: int
    prepared: Prepared


def relocate(chain: Chain, pack: int, records: Iterable[Relocated]) -> moves.Moves:
    """Copy records into new packs, durably, and then write the pack's table of moves.

    The old pack is left alone, and is what readers use until it is removed. A failure leaves at
    most new packs that nobody names. The caller holds the lock of the chain.

    Args:
        chain: the chain.
        pack: number of the old pack.
        records: in any order; each offset once.

    Raises:
        ObjectExists: the pack has a table of moves already; nothing was written.
    """
    pack_id = chain.table.id(pack)
    if moves_exist(chain, pack):
        raise ObjectExists(layout.moved(chain.id, pack_id.hex()))
    table = copy_records(chain, records)
    put_moves(chain, pack, table)
    return table


def moves_exist(chain: Chain, pack: int) -> bool:
    """Tell whether a pack has a table of moves, readable or not."""
    try:
        chain.storage.size(layout.moved(chain.id, chain.table.id(pack).hex()))
    except ObjectMissing:
        return False
    return True


def copy_records(chain: Chain, records: Iterable[Relocated]) -> moves.Moves:
    """Copy records into new packs; return where they are. All is durable then."""
    offsets: list[int] = []
    places: list[tuple[int, int]] = []
    entropy = chain.surroundings.entropy
    with PackWriter(chain.storage, chain.identity, chain.table, entropy, _ignore_sealed) as writer:
        for batch in _batches(records):
            offsets += [record.offset for record in batch]
            stored = writer.append([record.prepared for record in batch])
            places += [(place.pack, place.offset) for place in stored]
        writer.finish()
    return _table(chain, offsets, places)


def _ignore_sealed(pack: int, entries: packs.Entries) -> None:
    """Do nothing: whoever opens an index after this finds the new packs by themselves."""


def _batches(records: Iterable[Relocated]) -> Iterator[list[Relocated]]:
    batch: list[Relocated] = []
    size = 0
    for record in records:
        batch.append(record)
        size += len(record.prepared.payload)
        if size >= _BATCH_BYTES:
            yield batch
            batch, size = [], 0
    if batch:
        yield batch


def _table(chain: Chain, offsets: list[int], places: list[tuple[int, int]]) -> moves.Moves:
    old = np.array(offsets, "<u4")
    order = np.argsort(old, kind="stable")
    assert len(np.unique(old)) == len(old)
    where = np.array(places, "<u4").reshape(len(places), 2)
    numbers, to = np.unique(where[order, 0], return_inverse=True)
    return moves.Moves(
        targets=tuple(chain.table.id(int(number)) for number in numbers),
        old=old[order],
        to=to.astype("<u4"),
        new=where[order, 1],
    )


def put_moves(chain: Chain, pack: int, table: moves.Moves) -> None:
    """Write the table of moves of a pack, durably. What it names must be durable already.

    Raises:
        ObjectExists: there is one already.
    """
    pack_id = chain.table.id(pack)
    chain_id = bytes.fromhex(chain.id)
    name = layout.moved(chain.id, pack_id.hex())
    cipher = chain.reader.cipher(pack)
    nonce = chain.surroundings.entropy(_NONCE_BYTES)
    data = table.packed(pack_id, chain_id, nonce, cipher)
    # The pair of what a reader does: a table that cannot be read back must not be written.
    checked = moves.parse(name, data, pack_id, chain_id, cipher)
    assert np.array_equal(checked.old, table.old)
    chain.storage.put(name, data)


def intact_records(
    chain: Chain, pack: int, entries: packs.Entries
) -> Iterator[tuple[np.void, Prepared]]:
    """Yield the records of some footer entries (ascending), decrypted and checked.

    The pack is read in large requests, upwards. Payloads keep their compression, so that they can
    be stored again without work.

    Raises:
        Damaged: a record is not what the footer says, or its chunk is not what its id says.
        ObjectMissing: there is no such pack.
    """
    for entry, found in each_record(chain, pack, entries):
        if isinstance(found, Damaged):
            raise found
        yield entry, found


def each_record(
    chain: Chain, pack: int, entries: packs.Entries
) -> Iterator[tuple[np.void, Prepared | Damaged]]:
    """Yield the same as `intact_records`, but an error in the place of a damaged record.

    Raises:
        ObjectMissing: there is no such pack.
    """
    name = layout.pack(chain.id, chain.table.id(pack).hex())
    cipher = chain.reader.cipher(pack)
    for first, last in runs(entries):
        start = int(entries["offset"][first])
        whole = _read(chain, name, start, end_of(entries[last - 1]) - start)
        for row in range(first, last):
            entry, at = entries[row], int(entries["offset"][row]) - start
            piece = whole
            if piece is None:
                # A bad sector somewhere in this request: whatever is beside it must be saved.
                piece, at = _read(chain, name, start + at, end_of(entry) - start - at), 0
            yield entry, _checked(chain, name, piece, at, entry, cipher)


def end_of(entry: np.void) -> int:
    """Return where the record of a footer entry ends in its pack."""
    return int(entry["offset"]) + packs.RECORD_BYTES + int(entry["stored"])


def runs(entries: packs.Entries) -> Iterator[tuple[int, int]]:
    """Yield ranges of rows (first, last exclusive) that are read in one request.

    A request is of at most 4 MiB, except for a single record that is larger.
    """
    first = 0
    starts = entries["offset"].tolist()
    ends = [s + packs.RECORD_BYTES + n for s, n in zip(starts, entries["stored"], strict=True)]
    for row in range(1, len(starts)):
        apart = starts[row] - ends[row - 1] > GAP_BYTES_MAX
        if apart or ends[row] - starts[first] > RUN_BYTES_MAX:
            yield first, row
            first = row
    if starts:
        yield first, len(starts)


def _read(chain: Chain, name: str, start: int, length: int) -> memoryview | None:
    """Return a range of a pack, as much of it as is there; None if the medium fails.

    Payloads may be views of it and outlive the next request: each has a buffer of its own.
    """
    buffer = memoryview(bytearray(length))
    try:
        chain.storage.read_into(name, start, buffer)
    except ObjectShort:
        there = max(0, min(length, chain.storage.size(name) - start))
        return _read(chain, name, start, there) if there else buffer[:0]
    except StorageError as error:
        if not unreadable.is_unreadable(chain.storage, error):
            raise
        return None
    return buffer


def _checked(
    chain: Chain, name: str, buffer: memoryview | None, at: int, entry: np.void,
    cipher: AESGCM | None,
) -> Prepared | Damaged:  # fmt: skip
    if buffer is None:
        return Damaged(f"{name} at {entry['offset']}: the medium cannot be read there")
    try:
        return _prepared(chain, buffer, at, entry, cipher)
    except (ValueError, Damaged) as error:
        return Damaged(f"{name} at {entry['offset']}: {error}")


def _prepared(
    chain: Chain, buffer: memoryview, at: int, entry: np.void, cipher: AESGCM | None
) -> Prepared:
    """Return the record at a place in a buffer; ValueError or Damaged if it is not right."""
    start = at + packs.RECORD_BYTES
    if len(buffer) < start + int(entry["stored"]):
        raise ValueError("the pack is cut off")
    record = packs.parse_record("pack", buffer, at)
    if not matches(record, entry):
        raise ValueError("another record than the footer says")
    payload: codec.Bytes = buffer[start : start + record.stored]
    if cipher is not None:
        try:
            payload = cipher.decrypt(packs.nonce(record.number), payload, buffer[at:start])
        except InvalidTag:
            raise ValueError("does not decrypt") from None
    chunk = codec.decompress(record.codec, payload, record.plain)
    if codec.chunk_id(chain.keys.chunk_id, chunk) != record.id:
        raise ValueError("chunk id is wrong")
    return Prepared(record.kind, record.id, record.plain, record.codec, payload)


def matches(record: packs.Record, entry: np.void) -> bool:
    """Tell whether a record header says the same as a footer entry."""
    return (record.kind, record.codec, record.plain, record.stored, record.id) == (
        int(entry["kind"]),
        int(entry["codec"]),
        int(entry["plain"]),
        int(entry["stored"]),
        entry["id"].tobytes(),
    )
