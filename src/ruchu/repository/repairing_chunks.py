"""Finding chunks again: in other packs of the same chain, here or in another storage."""

from collections.abc import Iterable, Iterator

import numpy as np
import numpy.typing as npt

from ruchu.chunks import codec
from ruchu.errors import Damaged, ObjectMissing
from ruchu.repository import layout, maps, packs, relocating
from ruchu.repository.chains import Chain
from ruchu.repository.pack_writing import Prepared
from ruchu.repository.verifying_maps import Fetch, fetch_with
from ruchu.repository.verifying_packs import CheckedPack, check_front

NEED = np.dtype([
    ("offset", "<u4"), ("stored", "<u4"), ("prefix", "<u8"), ("kind", "u1"), ("known", "u1"),
    ("id", "V32"),
])  # fmt: skip
"""A record that a point needs of a damaged pack. `known`: the full id is known."""

Needs = npt.NDArray[np.void]

_PLACE = np.dtype([("prefix", "<u8"), ("chain", "u1"), ("pack", "<u4"), ("entry", packs.ENTRY)])
_LEVELS = range(1, 20)


class ChunkFinder:
    """Finds chunks by id, or by the first 8 bytes of it where a map says no more.

    Roots, segments and attachments are few: where all of them are is gathered once. Of data, only
    the prefixes asked for are.
    """

    def __init__(self, chains: list[Chain]) -> None:
        self._chains = chains
        self._maps: npt.NDArray[np.void] | None = None
        self._data = np.zeros(0, _PLACE)

    def prepare(self, prefixes: npt.NDArray[np.uint64]) -> None:
        """Find out where the data with these prefixes is."""
        self._data = self._gather(np.unique(prefixes)) if len(prefixes) else self._data

    def _gather(self, prefixes: npt.NDArray[np.uint64] | None) -> npt.NDArray[np.void]:
        """Return the places of data with these prefixes; None: of everything but data."""
        parts = [np.zeros(0, _PLACE)]
        for at, chain in enumerate(self._chains):
            for number, entries in _footers(chain):
                found = prefixes_of(entries)
                if prefixes is None:
                    chosen = entries["kind"] != packs.KIND_DATA
                else:
                    chosen = np.isin(found, prefixes)
                places = np.zeros(int(chosen.sum()), _PLACE)
                places["chain"], places["pack"] = at, number
                places["prefix"], places["entry"] = found[chosen], entries[chosen]
                parts.append(places)
        places = np.concatenate(parts)
        return places[np.argsort(places["prefix"], kind="stable")]

    def find(self, need: np.void) -> Prepared | None:
        """Return a chunk whose payload has the length that the maps say; None: there is none."""
        wanted = int(need["stored"])
        tag = packs.TAG_BYTES if self._chains[0].identity.encrypted else 0
        for prepared in self._candidates(need):
            fitting = _fitted(prepared, int(need["kind"]), wanted - tag)
            if fitting is not None:
                return fitting
        return None

    def chunk(self, need: np.void) -> bytes | None:
        """Return a chunk, decoded; None: there is none."""
        for prepared in self._candidates(need):
            return bytes(codec.decompress(prepared.codec, prepared.payload, prepared.plain))
        return None

    def _candidates(self, need: np.void) -> Iterator[Prepared]:
        """Yield what is right of all that has this id, in the order of the chains."""
        if int(need["kind"]) == packs.KIND_DATA:
            places = self._data
        else:
            if self._maps is None:
                self._maps = self._gather(None)
            places = self._maps
        first, last = (
            int(np.searchsorted(places["prefix"], need["prefix"], side))
            for side in ("left", "right")
        )
        for place in places[first:last]:
            entry = place["entry"]
            if need["known"] and entry["id"].tobytes() != need["id"].tobytes():
                continue
            prepared = _read(self._chains[int(place["chain"])], int(place["pack"]), entry)
            if prepared is not None:
                yield prepared

    def fetch_beside(self, chain: Chain) -> Fetch:
        """Return a fetch that falls back to what is found elsewhere."""
        own = fetch_with(chain.storage, chain.reader)

        def fetch(
            slots: maps.Slots, ids: list[bytes], kind: int
        ) -> Iterator[tuple[int, bytes | Damaged]]:
            for row, found in own(slots, ids, kind):
                if isinstance(found, bytes):
                    yield row, found
                    continue
                (need,) = needs_of(slots[row : row + 1], [ids[row]], kind)
                chunk = self.chunk(need)
                yield row, found if chunk is None else chunk

        return fetch


def _footers(chain: Chain) -> Iterator[tuple[int, packs.Entries]]:
    for number in sorted(chain.numbers(chain.pack_ids())):
        front: CheckedPack = check_front(chain.storage, chain.reader, number)
        if front.entries is not None:
            yield number, front.entries


def prefixes_of(entries: packs.Entries) -> npt.NDArray[np.uint64]:
    """Return the first 8 bytes of the ids of footer entries, as the maps hold them."""
    return np.frombuffer(entries["id"].tobytes(), "<u8")[::4]


def needs_of(slots: maps.Slots, ids: list[bytes] | None, kind: int) -> Needs:
    """Return needs out of the slots of a map."""
    needs = np.zeros(len(slots), NEED)
    for column in ("offset", "stored", "prefix"):
        needs[column] = slots[column]
    needs["kind"] = kind
    if ids is not None:
        needs["known"] = 1
        needs["id"] = np.frombuffer(b"".join(ids), "V32")
    return needs


def _read(chain: Chain, number: int, entry: np.void) -> Prepared | None:
    try:
        ((_, found),) = relocating.each_record(chain, number, np.array([entry], packs.ENTRY))
    except ObjectMissing:
        return None
    return None if isinstance(found, Damaged) else found


def _fitted(prepared: Prepared, kind: int, length: int) -> Prepared | None:
    """Return a chunk stored in so many bytes, as the maps demand; None if it cannot be.

    Usually the other storage holds the very same payload. If it was compressed by another release
    there, one of the levels of zstd may still give it.
    """
    if len(prepared.payload) == length:
        return Prepared(kind, prepared.id, prepared.plain, prepared.codec, prepared.payload)
    chunk = codec.decompress(prepared.codec, prepared.payload, prepared.plain)
    if len(chunk) == length:
        return Prepared(kind, prepared.id, prepared.plain, codec.RAW, chunk)
    for level in _LEVELS:
        used, payload = codec.Compressor(level).compress(chunk)
        if len(payload) == length:
            return Prepared(kind, prepared.id, prepared.plain, used, payload)
    return None


def scanned(chain: Chain, number: int, starts: Iterable[int]) -> packs.Entries:
    """Return entries for a pack whose footer is lost, out of the headers of its records.

    Each record says how long it is, so they are followed from the first one on; behind a header
    that is damaged, from the next of the places that the maps know. What the headers say is not
    trusted: whoever reads a record checks it.
    """
    name = layout.pack(chain.id, chain.table.id(number).hex())
    size = chain.storage.size(name)
    rows = []
    at = 0
    for start in sorted({packs.HEADER_BYTES, *starts}):
        at = max(at, start)
        while at + packs.RECORD_BYTES <= size:
            header = bytearray(packs.RECORD_BYTES)
            chain.storage.read_into(name, at, memoryview(header))
            try:
                record = packs.parse_record(name, memoryview(header))
            except Damaged:
                break
            end = at + packs.RECORD_BYTES + record.stored
            if end > size or record.stored > codec.PLAIN_BYTES_MAX + packs.TAG_BYTES:
                break
            rows.append((record.id, at, record.stored, record.plain, record.kind, record.codec, 0))
            at = end
    return np.array(rows, packs.ENTRY)
