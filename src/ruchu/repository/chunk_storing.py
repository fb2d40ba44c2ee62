"""From chunks to locations: look up, claim, compress, append. Shared by all threads of a run."""

import threading

from ruchu.chunks import codec
from ruchu.chunks.keys import ChainKeys
from ruchu.errors import RepositoryError
from ruchu.repository import packs
from ruchu.repository.index import DedupIndex
from ruchu.repository.pack_writing import Location, PackWriter, Prepared


class ChunkStore:
    """Stores each distinct chunk of a run once. Safe in several threads.

    A thread first stores what it claimed itself, and only then waits for what others claimed:
    so no two threads wait for each other.
    """

    def __init__(self, index: DedupIndex, keys: ChainKeys, compressor: codec.Compressor) -> None:
        self._index = index
        self._keys = keys
        self._compressor = compressor
        self._claims: dict[tuple[int, bytes], Location | None] = {}
        self._changed = threading.Condition()
        self._failed = False
        self.writer: PackWriter | None = None
        self.new_chunks = 0
        self.known_chunks = 0

    def identify(self, chunk: codec.Bytes) -> bytes:
        """Return the id of a chunk."""
        return codec.chunk_id(self._keys.chunk_id, chunk)

    def on_sealed(self, pack: int, entries: packs.Entries) -> None:
        """A pack was sealed: the index takes its chunks over from the claims."""
        self._index.add(pack, entries)
        kinds, ids = entries["kind"].tolist(), entries["id"].tobytes()
        with self._changed:
            for at, kind in enumerate(kinds):
                self._claims.pop((kind, ids[32 * at : 32 * at + 32]), None)

    def store(self, kind: int, ids: list[bytes], chunks: list[codec.Bytes]) -> list[Location]:
        """Return where each chunk is, storing those that the chain does not hold yet."""
        found = self._index.find(ids, kind)
        missing = [at for at, place in enumerate(found) if place is None]
        mine = self._claim(kind, ids, missing)
        try:
            self._append(kind, chunks, mine)
        except BaseException:
            with self._changed:
                self._failed = True
                self._changed.notify_all()
            raise
        for at in missing:
            found[at] = self._await((kind, ids[at]), mine.get(ids[at]))
        with self._changed:
            self.known_chunks += len(ids) - len(mine)
            self.new_chunks += len(mine)
        return [place for place in found if place is not None]

    def _claim(self, kind: int, ids: list[bytes], missing: list[int]) -> dict[bytes, "_Claimed"]:
        mine: dict[bytes, _Claimed] = {}
        with self._changed:
            for at in missing:
                if ids[at] not in mine and (kind, ids[at]) not in self._claims:
                    self._claims[kind, ids[at]] = None
                    mine[ids[at]] = _Claimed(at)
        return mine

    def _append(self, kind: int, chunks: list[codec.Bytes], mine: dict[bytes, "_Claimed"]) -> None:
        if not mine:
            return
        assert self.writer is not None
        prepared = []
        for chunk_id, claim in mine.items():
            chunk = chunks[claim.at]
            used, payload = self._compressor.compress(chunk)
            prepared.append(Prepared(kind, chunk_id, len(chunk), used, payload))
        places = self.writer.append(prepared)
        with self._changed:
            for (chunk_id, claim), place in zip(mine.items(), places, strict=True):
                claim.place = place
                if (kind, chunk_id) in self._claims:
                    self._claims[kind, chunk_id] = place
            self._changed.notify_all()

    def _await(self, key: tuple[int, bytes], claim: "_Claimed | None") -> Location:
        if claim is not None:
            assert claim.place is not None
            return claim.place
        with self._changed:
            while not self._failed:
                if key not in self._claims:
                    break
                place = self._claims[key]
                if place is not None:
                    return place
                self._changed.wait()
        if self._failed:
            raise RepositoryError("Another thread of this run failed.")
        # Its pack was sealed meanwhile: the index has it.
        (place,) = self._index.find([key[1]], key[0])
        assert place is not None
        return place


class _Claimed:
    """A chunk that this thread stores: its row, and then its place."""

    __slots__ = ("at", "place")

    def __init__(self, at: int) -> None:
        self.at = at
        self.place: Location | None = None
