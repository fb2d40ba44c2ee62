"""The dedup index of a chain: which chunks it already holds. Only cache: rebuilt from footers.

Sorted runs of rows (numpy): one large run, mapped from a file beside the catalogue, and one in
memory for what came since. A hit counts only after the full chunk id was compared.
"""

import json
import os
import struct
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np
import numpy.typing as npt
from blake3 import blake3

from ruchu.repository import maps, packs
from ruchu.repository.pack_writing import Location

ROW = np.dtype([
    ("prefix", "<u8"), ("id", "V32"), ("pack", "<u4"), ("offset", "<u4"), ("stored", "<u4"),
    ("kind", "<u4"),
])  # fmt: skip
Rows = npt.NDArray[np.void]
Prefixes = npt.NDArray[np.uint64]
assert ROW.itemsize == 56

_MAGIC = b"RUCHUIX1"
_FRONT = struct.Struct("<8sQQ32s")
# Rows in memory before they are merged into the file: 1 M rows are 56 MB.
_FRESH_ROWS_MAX = 1 << 20


class DedupIndex:
    """Finds chunks by id. Safe in several threads."""

    def __init__(self, table: maps.PackTable, cache: Path | None) -> None:
        self._table = table
        self._cache = cache
        self._lock = threading.Lock()
        self._main: Rows = np.zeros(0, ROW)
        self._main_prefix = np.zeros(0, "<u8")
        # Pack numbers of this process, by the numbers that the rows of the file hold.
        self._numbers: npt.NDArray[np.uint32] = np.zeros(0, "<u4")
        self._fresh: list[Rows] = []
        self._packs: set[int] = set()
        self._dead: set[int] = set()
        self._dirty = False

    @property
    def pack_numbers(self) -> frozenset[int]:
        """Packs whose chunks are known."""
        return frozenset(self._packs)

    def load(self) -> None:
        """Take over the cached rows. A cache that is absent or damaged is as good as none."""
        if self._cache is None:
            return
        try:
            rows, ids = _read_cache(self._cache)
        except (OSError, ValueError):
            return
        self._main, self._numbers = rows, self._table.numbers(ids)
        self._main_prefix = np.ascontiguousarray(rows["prefix"])
        self._packs = set(self._numbers.tolist())

    def retain(self, alive: Iterable[int]) -> None:
        """Forget packs that are not alive: gone, or waiting in the trash."""
        dead = self._packs - set(alive)
        if dead:
            with self._lock:
                self._dead |= dead
                self._packs -= dead
                self._dirty = True

    def add(self, pack: int, entries: packs.Entries) -> None:
        """Take in the chunks of a sealed pack (of kinds that are shared)."""
        shared = entries[entries["kind"] != packs.KIND_ROOT]
        rows = np.zeros(len(shared), ROW)
        rows["id"] = shared["id"]
        rows["prefix"] = np.frombuffer(shared["id"].tobytes(), "<u8")[::4]
        rows["pack"] = pack
        for column in ("offset", "stored", "kind"):
            rows[column] = shared[column]
        rows = rows[np.argsort(rows["prefix"], kind="stable")]
        with self._lock:
            if pack in self._packs:
                return
            self._packs.add(pack)
            self._dirty = True
            self._fresh.append(rows)
            if len(self._fresh) > 8:
                self._fresh = [_merged(self._fresh)]
            if sum(map(len, self._fresh)) > _FRESH_ROWS_MAX:
                self._consolidate()

    def _consolidate(self) -> None:
        old = np.array(self._main)
        if len(old):
            old["pack"] = self._numbers[old["pack"]]
        rows = _merged([old, *self._fresh])
        if self._dead:
            rows = rows[~np.isin(rows["pack"], np.array(sorted(self._dead), "<u4"))]
        self._main, self._fresh = rows, []
        self._numbers = np.arange(len(self._table), dtype="<u4")
        self._main_prefix = np.ascontiguousarray(rows["prefix"])
        if self._cache is not None:
            self._save()

    def find(self, ids: list[bytes], kind: int) -> list[Location | None]:
        """Return where each chunk is, None where it is not known."""
        wanted = np.frombuffer(b"".join(ids), "<u8")[::4]
        found: list[Location | None] = [None] * len(ids)
        with self._lock:
            for at, row in _hits(self._main, self._main_prefix, wanted):
                self._take(found, at, row, int(self._numbers[row["pack"]]), ids, kind)
            for rows in self._fresh:
                for at, row in _hits(rows, np.ascontiguousarray(rows["prefix"]), wanted):
                    self._take(found, at, row, int(row["pack"]), ids, kind)
        return found

    def _take(
        self,
        found: list[Location | None],
        at: int,
        row: np.void,
        pack: int,
        ids: list[bytes],
        kind: int,
    ) -> None:
        """Count a row as a hit if the full id and the kind agree and the pack is alive."""
        same = row["id"].tobytes() == ids[at] and int(row["kind"]) == kind
        if same and pack not in self._dead:
            found[at] = Location(pack, int(row["offset"]), int(row["stored"]))

    def save(self) -> None:
        """Write the cache, so that the next run need not read the footers again."""
        with self._lock:
            if self._dirty:
                self._consolidate()
                self._dirty = False

    def _save(self) -> None:
        assert self._cache is not None
        self._cache.parent.mkdir(parents=True, exist_ok=True)
        numbers, local = np.unique(self._main["pack"], return_inverse=True)
        known = sorted(self._packs | set(numbers.tolist()))
        rank = np.searchsorted(np.array(known, "<u4"), numbers) if known else numbers
        rows = self._main.copy()
        rows["pack"] = rank[local] if len(local) else 0
        ids = json.dumps([self._table.id(number).hex() for number in known]).encode()
        body = rows.tobytes()
        temporary = self._cache.with_name(f"{self._cache.name}.{os.getpid()}.partial")
        digest = blake3(ids).update(body).digest()
        with temporary.open("wb") as file:
            file.write(_FRONT.pack(_MAGIC, len(ids), len(rows), digest))
            file.write(ids)
            file.write(body)
        temporary.replace(self._cache)
        if len(rows):
            # The rows leave the heap: mapped pages can be dropped and read again.
            mapped = np.memmap(self._cache, ROW, "r", _FRONT.size + len(ids), len(rows))
            self._main, self._numbers = mapped, np.array(known, "<u4")


def _hits(rows: Rows, prefixes: Prefixes, wanted: Prefixes) -> Iterator[tuple[int, np.void]]:
    """Yield (index into wanted, row) for every row whose prefix is wanted."""
    if len(rows):
        places = np.searchsorted(prefixes, wanted)
        places[places == len(rows)] = 0
        hits = np.flatnonzero(prefixes[places] == wanted)
        ends = np.searchsorted(prefixes, wanted[hits], "right").tolist()
        for at, end in zip(hits.tolist(), ends, strict=True):
            # Several rows of one prefix: one chunk in two packs or of two kinds, or by chance.
            for place in range(int(places[at]), end):
                yield at, rows[place]


def _merged(runs: list[Rows]) -> Rows:
    rows = np.concatenate(runs)
    return rows[np.argsort(rows["prefix"], kind="stable")]


def _read_cache(path: Path) -> tuple[Rows, list[bytes]]:
    """Return the rows (mapped) and the pack ids of a cache file; ValueError if it is damaged."""
    with path.open("rb") as file:
        front = file.read(_FRONT.size)
        if len(front) != _FRONT.size:
            raise ValueError(path)
        magic, id_bytes, count, digest = _FRONT.unpack(front)
        start = _FRONT.size + id_bytes
        size = os.fstat(file.fileno()).st_size
        if magic != _MAGIC or size != start + count * ROW.itemsize:
            raise ValueError(path)
        text = file.read(id_bytes)
    rows: Rows = np.zeros(0, ROW)
    if count:
        rows = np.memmap(path, ROW, "r", start, count)
    # A wrong location here would put a wrong map into a new point: check before trusting.
    if blake3(text).update(rows.view(np.uint8).data if count else b"").digest() != digest:
        raise ValueError(path)
    return rows, [bytes.fromhex(pack) for pack in json.loads(text)]
