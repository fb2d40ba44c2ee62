"""Counts who needs each record, so that removing a point costs what the point changed.

Heads count roots and attachments, live roots count segments, live segments count blocks. A count
that falls to zero lets go of what it counted. Only cache: rebuilt from the storage; it chooses what
is compacted and thrown away, but `reach` has the last word before anything is destroyed.
"""

import json
import sqlite3
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import numpy.typing as npt

from ruchu.errors import Damaged
from ruchu.repository import maps, packs
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head, Reference
from ruchu.repository.reach import (
    Places,
    branch_slots,
    keys,
    reference_slots,
    segment_slots,
)
from ruchu.repository.relocating import moves_exist

_SCHEMA = """
create table if not exists packs(
    id blob primary key, places blob not null, counts blob not null, live int, total int);
create index if not exists by_live on packs(live * 1.0 / total);
create table if not exists points(stem text primary key, tree text not null);
pragma user_version = 1;
"""
_PLACE = np.dtype([("offset", "<u4"), ("length", "<u4"), ("kind", "u1")])
# Packs kept in memory while counting: 64 MiB packs have about 2,000 records of 13 bytes.
_ROWS_KEPT = 512


@dataclass(slots=True)
class _Row:
    """Counts of one pack."""

    places: npt.NDArray[np.void]
    counts: npt.NDArray[np.int64]
    dirty: bool = False

    @property
    def live(self) -> int:
        """Bytes of records that somebody needs."""
        return int(self.places["length"][self.counts > 0].sum(dtype=np.int64))


@dataclass(frozen=True, slots=True)
class Usage:
    """How much of a pack is needed, in bytes of its records."""

    pack: int
    live: int
    total: int


class Ledger:
    """The counts of one chain. The caller holds the chain's lock."""

    def __init__(self, chain: Chain) -> None:
        self._chain = chain
        self._rows: dict[int, _Row] = {}
        path: Path | None = chain.cache / "ledger" if chain.cache is not None else None
        if path is not None:
            path.parent.mkdir(parents=True, exist_ok=True)
        self._database = _opened(path)
        self._places: Places | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._database.close()

    def sync(self) -> None:
        """Bring the counts up to what lies in the storage; work as large as what changed.

        Raises:
            Damaged: a map of a live point is damaged; the counts stay as they were.
        """
        try:
            self._attempt()
        except Damaged:
            # Perhaps only the counts are wrong: they are cache. Count everything once more.
            self._forget()
            self._attempt()

    def _forget(self) -> None:
        self._rows.clear()
        self._database.execute("delete from packs")
        self._database.execute("delete from points")

    def _attempt(self) -> None:
        try:
            self._sync()
            self._flush()
        except BaseException:
            self._rows.clear()
            self._database.rollback()
            raise
        self._database.commit()

    def _sync(self) -> None:
        live = self._chain.live_packs()
        self._places = Places(self._chain.reader, self._chain.numbers(live))
        known = {row[0].hex() for row in self._database.execute("select id from packs")}
        new = self._chain.numbers(live - known)
        if known and any(moves_exist(self._chain, number) for number in new):
            # A compaction was taken back: what was counted elsewhere belongs to this pack again.
            self._forget()
            known, new = set(), self._chain.numbers(live)
        for number in sorted(new):
            self._add_pack(number)
        gone = sorted(known - live)
        for pack in gone:
            self._hand_over(self._chain.table.number(bytes.fromhex(pack)))
        stems = set(self._chain.stems())
        counted = dict(self._database.execute("select stem, tree from points"))
        # First what is new: counts that fall to zero in between would be walked twice.
        for stem in sorted(stems - counted.keys()):
            tree = _tree(self._chain.head(stem))
            self._count_point(tree, +1)
            self._database.execute("insert into points values(?, ?)", (stem, json.dumps(tree)))
        for stem in sorted(counted.keys() - stems):
            self._count_point(json.loads(counted[stem]), -1)
            self._database.execute("delete from points where stem = ?", (stem,))
        self._flush()
        doomed = [(bytes.fromhex(pack),) for pack in gone]
        self._database.executemany("delete from packs where id = ?", doomed)

    def _add_pack(self, number: int) -> None:
        entries = self._chain.reader.entries(number)
        places = np.zeros(len(entries), _PLACE)
        places["offset"], places["kind"] = entries["offset"], entries["kind"]
        places["length"] = entries["stored"] + packs.RECORD_BYTES
        self._keep(number, _Row(places, np.zeros(len(entries), np.int64), dirty=True))

    def _hand_over(self, number: int) -> None:
        """Give the counts of a pack that was compacted to the records as they are now."""
        row = self._row(number)
        rows = np.flatnonzero(row.counts)
        slots = np.zeros(len(rows), maps.SLOT)
        slots["pack"], slots["offset"] = number, row.places["offset"][rows]
        self._count(slots, row.counts[rows])

    def _count_point(self, tree: list[list[object]], delta: int) -> None:
        """Count what a head names, and whatever that changes further down."""
        roots = []
        for disk, *reference in tree:
            changed = self._count(self._slots([reference]), delta)
            if disk is not None and len(changed):
                roots.append((disk, Reference(*reference)))  # type: ignore[arg-type]
        for size, root in roots:
            chunk = self._chain.reader.read_one(root, packs.KIND_ROOT)
            _, branches = maps.decode_root("root", chunk, int(str(size)), self._chain.table)
            changed = self._count(branch_slots(branches), delta)
            if not len(changed):
                continue
            for slots in segment_slots(self._chain.reader, branches[changed]):
                self._count(slots, delta)

    def _slots(self, references: list[list[object]]) -> maps.Slots:
        found = [Reference(*reference) for reference in references]  # type: ignore[arg-type]
        return reference_slots(found, self._chain.table)

    def _count(self, slots: maps.Slots, delta: int | npt.NDArray[np.int64]) -> npt.NDArray[np.intp]:
        """Add to the counts; return the rows whose record began or ceased to be needed.

        `delta` is one number for all rows, or one for each; all of one sign.
        """
        assert self._places is not None
        if not len(slots):
            return np.zeros(0, np.intp)
        now = self._places.current(slots)
        deltas = np.broadcast_to(np.asarray(delta, np.int64), len(slots))
        changed = []
        for number in np.unique(now["pack"]).tolist():
            rows = np.flatnonzero(now["pack"] == number)
            row = self._row(number)
            at = np.searchsorted(row.places["offset"], now["offset"][rows])
            at[at == len(row.places)] = 0
            if not len(row.places) or (row.places["offset"][at] != now["offset"][rows]).any():
                pack = self._chain.table.id(number).hex()
                raise Damaged(f"pack {pack} has no record where a map says")
            before = row.counts[at]
            np.add.at(row.counts, at, deltas[rows])
            row.dirty = True
            if (row.counts[at] < 0).any():
                raise Damaged("the ledger counts below zero")
            edge = (before == 0) | (row.counts[at] == 0)
            changed.append(rows[edge])
        found = np.concatenate(changed)
        # The same record twice in one map begins to be needed only once.
        _, first = np.unique(keys(now[found]), return_index=True)
        return np.sort(found[first])

    def _row(self, number: int) -> _Row:
        row = self._rows.get(number)
        if row is None:
            pack = self._chain.table.id(number)
            found = self._database.execute(
                "select places, counts from packs where id = ?", (pack,)
            ).fetchone()
            if found is None:
                raise Damaged(f"pack {pack.hex()} is missing")
            counts = np.frombuffer(found[1], "<u4").astype(np.int64)
            row = _Row(np.frombuffer(found[0], _PLACE), counts)
            self._keep(number, row)
        return row

    def _keep(self, number: int, row: _Row) -> None:
        if len(self._rows) >= _ROWS_KEPT:
            self._flush()
        self._rows[number] = row

    def _flush(self) -> None:
        dirty = [
            (
                self._chain.table.id(number),
                row.places.tobytes(),
                row.counts.astype("<u4").tobytes(),
                row.live,
                int(row.places["length"].sum(dtype=np.int64)),
            )
            for number, row in self._rows.items()
            if row.dirty
        ]
        self._database.executemany("insert or replace into packs values(?, ?, ?, ?, ?)", dirty)
        self._rows.clear()

    def usage(self) -> list[Usage]:
        """Return how much of each pack is needed."""
        rows = self._database.execute("select id, live, total from packs").fetchall()
        return [Usage(self._chain.table.number(pack), live, total) for pack, live, total in rows]

    def needed(self, pack: int) -> npt.NDArray[np.uint32]:
        """Return the offsets of the records of a pack that somebody needs."""
        row = self._row(pack)
        offsets: npt.NDArray[np.uint32] = row.places["offset"][row.counts > 0]
        return offsets


def _tree(head: Head) -> list[list[object]]:
    """Return what a head names: [disk size or None, pack, offset, stored, id] each."""
    named: list[tuple[int | None, Reference]] = [(disk.size, disk.root) for disk in head.disks]
    named += [(None, reference) for reference in head.attachments.values()]
    return [
        [size, reference.pack, reference.offset, reference.stored, reference.id]
        for size, reference in named
    ]


def _opened(path: Path | None) -> sqlite3.Connection:
    """Open the database; one that is damaged is made anew, for it is only cache."""
    try:
        return _connected(path)
    except sqlite3.DatabaseError:
        assert path is not None
        for leftover in _files(path):
            leftover.unlink(missing_ok=True)
        return _connected(path)


def _connected(path: Path | None) -> sqlite3.Connection:
    database = sqlite3.connect(path if path is not None else ":memory:", isolation_level="DEFERRED")
    database.executescript(_SCHEMA)
    (answer,) = database.execute("pragma quick_check(1)").fetchone()
    if answer != "ok":
        database.close()
        raise sqlite3.DatabaseError(answer)
    return database


def _files(path: Path) -> Iterable[Path]:
    return (path, path.with_name(path.name + "-journal"))
