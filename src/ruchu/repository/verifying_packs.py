"""Packs under verification: every byte of one, and the catalogue of what all of them hold."""

import enum
import itertools
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from ruchu.chunks import codec
from ruchu.errors import Damaged, ObjectMissing, ObjectShort, StorageError, UnknownFormat
from ruchu.repository import layout, maps, moves, pack_reading, packs, relocating, unreadable
from ruchu.repository.chains import Chain
from ruchu.repository.pack_reading import PackReader
from ruchu.repository.verifying_findings import Watch
from ruchu.storage.contract import Storage

# A chunk is at most 64 MiB; a footer that claims more must not cost our memory.
_STORED_MAX = codec.PLAIN_BYTES_MAX + packs.TAG_BYTES
# A text names this many places of a pack; a rotten disk has millions.
REASONS_MAX = 3

NEEDED, DAMAGED = 1, 2
"""Flags of a record in the catalogue: some point needs it; it was read and is damaged."""


class State(enum.IntEnum):
    """What became of a location that a map names."""

    FOUND = 0
    PENDING = 1  # not decided yet
    PACK_MISSING = 2
    PACK_DAMAGED = 3
    RECORD_ABSENT = 4
    RECORD_DIFFERS = 5
    RECORD_DAMAGED = 6
    RECORD_DROPPED = 7
    MOVES_DAMAGED = 8
    MOVES_ENDLESS = 9
    MAP_WRONG = 10


class _Standing(enum.IntEnum):
    UNKNOWN = 0
    GOOD = 1
    BAD = 2
    MISSING = 3


@dataclass(frozen=True, slots=True)
class CheckedPack:
    """What was found in one pack.

    Attributes:
        number: of the pack in the chain's table.
        entries: its footer; None if it is not readable, or the pack is not there.
        missing: whether the pack is not there.
        problem: why the footer is not readable.
        damaged: rows of the footer whose records are damaged.
        reasons: why, for the first of them.
        size: bytes of the pack.
    """

    number: int
    entries: packs.Entries | None = None
    missing: bool = False
    problem: str = ""
    damaged: tuple[int, ...] = ()
    reasons: tuple[str, ...] = ()
    size: int = 0


def check_front(storage: Storage, reader: PackReader, number: int) -> CheckedPack:
    """Check header, footer and trailer of a pack."""
    try:
        size, _, entries = reader.pack_front(number)
    except ObjectMissing:
        return CheckedPack(number, missing=True)
    except (Damaged, UnknownFormat) as error:
        return CheckedPack(number, problem=error.detail)
    except StorageError as error:
        if not unreadable.is_unreadable(storage, error):
            raise
        return CheckedPack(number, problem=error.detail)
    return CheckedPack(number, entries, size=size)


class PackStream:
    """Checks every byte of packs, each in one pass upwards. Safe in several threads."""

    def __init__(self, chain: Chain, reader: PackReader, watch: Watch) -> None:
        self._chain = chain
        self._reader = reader
        self._watch = watch

    def check(self, number: int) -> CheckedPack:
        """Check a pack: front, and each record against its entry.

        Header, records, footer and trailer touch one another (`packs.open_footer`), so nothing
        in a pack is left out.
        """
        front = check_front(self._chain.storage, self._reader, number)
        if front.entries is None:
            return front
        try:
            bad = self._records(number, front.entries)
        except ObjectMissing:
            return CheckedPack(number, missing=True)
        # Header, footer and trailer.
        self._watch.advance(max(0, front.size - _span(front.entries)))
        reasons = tuple(bad[row] for row in sorted(bad)[:REASONS_MAX])
        return CheckedPack(
            number, front.entries, damaged=tuple(sorted(bad)), reasons=reasons, size=front.size
        )

    def check_rows(self, number: int, entries: packs.Entries) -> dict[int, str]:
        """Check some records of a pack (ascending); return the bad ones and why."""
        return self._records(number, entries, whole=False)

    def _records(
        self, number: int, entries: packs.Entries, *, whole: bool = True
    ) -> dict[int, str]:
        bad: dict[int, str] = {}
        buffer = memoryview(bytearray(min(pack_reading.RUN_BYTES_MAX, _span(entries))))
        for first, last in relocating.runs(entries):
            length = relocating.end_of(entries[last - 1]) - int(entries["offset"][first])
            if int(entries["stored"][first]) > _STORED_MAX:
                bad[first] = f"a record of {length} bytes"
                continue
            if length > len(buffer):
                buffer = memoryview(bytearray(length))
            self._run(number, entries, (first, last), buffer[:length], bad, whole=whole)
            self._watch.advance(length)
        return bad

    def _run(
        self, number: int, entries: packs.Entries, rows: tuple[int, int], buffer: memoryview,
        bad: dict[int, str], *, whole: bool,
    ) -> None:  # fmt: skip
        """Read and check the records of one request."""
        name = layout.pack(self._chain.id, self._chain.table.id(number).hex())
        first, last = rows
        start = int(entries["offset"][first])
        try:
            self._chain.storage.read_into(name, start, buffer)
        except ObjectShort:
            bad.update((row, "the pack is cut off") for row in range(first, last))
            return
        except StorageError as error:
            if not unreadable.is_unreadable(self._chain.storage, error):
                raise
            self._one_by_one(number, entries, rows, bad, whole=whole)
            return
        for row in range(first, last):
            at = int(entries["offset"][row]) - start
            try:
                self._record(number, entries[row], buffer, at, row if whole else None)
            except (ValueError, Damaged) as error:
                bad[row] = f"at {entries['offset'][row]}: {error}"

    def _one_by_one(
        self, number: int, entries: packs.Entries, rows: tuple[int, int], bad: dict[int, str],
        *, whole: bool,
    ) -> None:  # fmt: skip
        """Read the records of a request alone: a bad sector is in one or two of them."""
        first, last = rows
        if last - first == 1:
            bad[first] = f"at {entries['offset'][first]}: the medium cannot be read there"
            return
        for row in range(first, last):
            length = packs.RECORD_BYTES + int(entries["stored"][row])
            buffer = memoryview(bytearray(length))
            self._run(number, entries, (row, row + 1), buffer, bad, whole=whole)

    def _record(
        self, number: int, entry: np.void, buffer: memoryview, at: int, row: int | None
    ) -> None:
        """Check one record; ValueError or Damaged if it is not right."""
        record = packs.parse_record("record", buffer, at)
        if not relocating.matches(record, entry):
            raise ValueError("it is another record than the footer says")
        if row is not None and record.number != row:
            raise ValueError(f"its number is {record.number} instead of {row}")
        cipher = self._reader.cipher(number)
        pack_reading.decode(record, buffer, at, cipher, self._chain.keys.chunk_id)


def _span(entries: packs.Entries) -> int:
    if not len(entries):
        return 0
    return relocating.end_of(entries[-1]) - int(entries["offset"][0])


class _Column:
    """A numpy array that grows; doubled, so that growing costs little."""

    def __init__(self, kind: npt.DTypeLike) -> None:
        self._data = np.zeros(1024, kind)
        self.length = 0

    @property
    def values(self) -> npt.NDArray[np.integer]:
        return self._data[: self.length]

    def extend(self, values: npt.NDArray[np.integer] | int, count: int) -> None:
        while self.length + count > len(self._data):
            grown = np.zeros(2 * len(self._data), self._data.dtype)
            grown[: self.length] = self.values
            self._data = grown
        self._data[self.length : self.length + count] = values
        self.length += count


@dataclass(frozen=True, slots=True)
class Resolved:
    """Where locations ended, row by row: pack, offset, row of the catalogue (-1: none), state."""

    pack: npt.NDArray[np.uint32]
    offset: npt.NDArray[np.uint32]
    row: npt.NDArray[np.int64]
    state: npt.NDArray[np.uint8]

    def slots(self, asked: maps.Slots) -> maps.Slots:
        """Return what was asked for, at the place where it is now."""
        result = asked.copy()
        result["pack"], result["offset"] = self.pack, self.offset
        return result

    def culprits(self) -> set[tuple[int, int]]:
        """Return the distinct (state, pack) of the rows that were not found."""
        bad = np.flatnonzero(self.state)
        return set(zip(self.state[bad].tolist(), self.pack[bad].tolist(), strict=True))


class Catalogue:
    """All records of the packs looked at so far: 26 bytes each, in columns.

    Rows of a pack lie together, by offset; packs in the order in which they came. So the keys
    (order of the pack, offset) ascend without ever being sorted.
    """

    def __init__(self, reader: PackReader, load: Callable[[int], CheckedPack]) -> None:
        self._reader = reader
        self._load = load
        self._keys = _Column("<u8")
        self._stored = _Column("<u4")
        self._prefix = _Column("<u8")
        self._kind = _Column("u1")
        self.flags = _Column("u1")
        self._standing = np.zeros(1024, "u1")
        self._order = np.zeros(1024, "<u4")
        self._numbers: list[int] = []

    def add(self, pack: CheckedPack) -> None:
        """Take in a pack; one that is known already stays as it is."""
        self._reserve(pack.number + 1)
        number = pack.number
        if self._standing[number] != _Standing.UNKNOWN:
            return
        if pack.entries is None:
            self._standing[number] = _Standing.MISSING if pack.missing else _Standing.BAD
            return
        entries, count = pack.entries, len(pack.entries)
        order, begin = len(self._numbers), self._keys.length
        self._numbers.append(number)
        self._keys.extend(entries["offset"].astype("<u8") | np.uint64(order << 32), count)
        self._stored.extend(entries["stored"], count)
        self._kind.extend(entries["kind"], count)
        self._prefix.extend(np.frombuffer(entries["id"].tobytes(), "<u8")[::4], count)
        self.flags.extend(0, count)
        for row in pack.damaged:
            self.flags.values[begin + row] |= DAMAGED
        self._standing[number] = _Standing.GOOD
        self._order[number] = order

    def condemn(self, number: int) -> None:
        """Treat a pack as damaged from now on, whatever its footer says."""
        self._reserve(number + 1)
        self._standing[number] = _Standing.BAD

    def good(self) -> set[int]:
        """Return the packs that were there and whose footers were right."""
        return set(np.flatnonzero(self._standing == _Standing.GOOD).tolist())

    def forget(self, number: int) -> None:
        """Look a pack up anew when it is asked for next: it vanished."""
        self._standing[number] = _Standing.UNKNOWN

    def needed(self, kind: int | None = None) -> npt.NDArray[np.intp]:
        """Return the rows that points need, of one kind or of all."""
        chosen = (self.flags.values & NEEDED) > 0
        if kind is not None:
            chosen &= self._kind.values == kind
        return np.flatnonzero(chosen)

    def by_pack(
        self, rows: npt.NDArray[np.intp]
    ) -> Iterator[tuple[int, npt.NDArray[np.intp], npt.NDArray[np.uint32]]]:
        """Yield (number of the pack, rows, offsets) for ascending rows, pack by pack."""
        keys = self._keys.values[rows]
        orders = (keys >> np.uint64(32)).astype(np.int64)
        edges = np.flatnonzero(np.diff(orders)) + 1
        for begin, end in itertools.pairwise([0, *edges.tolist(), len(rows)]):
            if end > begin:
                offsets = (keys[begin:end] & np.uint64(0xFFFFFFFF)).astype("<u4")
                yield self._numbers[int(orders[begin])], rows[begin:end], offsets

    def __len__(self) -> int:
        return self._keys.length

    def resolve(self, slots: maps.Slots, kind: int) -> Resolved:
        """Find the record behind each slot, through moves, and flag it as needed."""
        count = len(slots)
        result = Resolved(
            slots["pack"].copy(), slots["offset"].copy(), np.full(count, -1, np.int64),
            np.full(count, State.PENDING, "u1"),
        )  # fmt: skip
        for _ in range(moves.HOPS_MAX + 1):
            pending = np.flatnonzero(result.state == State.PENDING)
            if not len(pending):
                break
            self._step(result, pending)
        result.state[result.state == State.PENDING] = State.MOVES_ENDLESS
        self._compare(result, slots, kind)
        return result

    def _step(self, result: Resolved, pending: npt.NDArray[np.intp]) -> None:
        self._reserve(len(self._reader.table))
        for number in np.unique(result.pack[pending]).tolist():
            if self._standing[number] == _Standing.UNKNOWN:
                self.add(self._load(number))
        standing = self._standing[result.pack[pending]]
        good = pending[standing == _Standing.GOOD]
        self._look_up(result, good)
        result.state[pending[standing == _Standing.BAD]] = State.PACK_DAMAGED
        missing = pending[standing == _Standing.MISSING]
        for number in np.unique(result.pack[missing]).tolist():
            self._follow(result, missing[result.pack[missing] == number], number)

    def _look_up(self, result: Resolved, rows: npt.NDArray[np.intp]) -> None:
        order = self._order[result.pack[rows]].astype("<u8")
        keys = (order << np.uint64(32)) | result.offset[rows]
        places = np.searchsorted(self._keys.values, keys)
        places[places == len(self)] = 0
        hit = self._keys.values[places] == keys if len(self) else np.zeros(len(keys), bool)
        result.row[rows[hit]] = places[hit]
        result.state[rows] = np.where(hit, State.FOUND, State.RECORD_ABSENT)

    def _follow(self, result: Resolved, rows: npt.NDArray[np.intp], number: int) -> None:
        """Go on where the table of moves of a missing pack says."""
        try:
            table = self._reader.moves_of(number)
        except (Damaged, UnknownFormat):
            result.state[rows] = State.MOVES_DAMAGED
            return
        if table is None:
            result.state[rows] = State.PACK_MISSING
            return
        places = np.searchsorted(table.old, result.offset[rows])
        places[places == len(table.old)] = 0
        hit = np.zeros(len(rows), bool)
        if len(table.old):
            hit = table.old[places] == result.offset[rows]
        result.state[rows[~hit]] = State.RECORD_DROPPED
        targets = self._reader.table.numbers(list(table.targets))
        places = places[hit]
        result.pack[rows[hit]] = targets[table.to[places]]
        result.offset[rows[hit]] = table.new[places]

    def _compare(self, result: Resolved, slots: maps.Slots, kind: int) -> None:
        """Hold what was found against what the map says of it."""
        found = np.flatnonzero(result.row >= 0)
        rows = result.row[found]
        same = (
            (self._stored.values[rows] == slots["stored"][found])
            & (self._prefix.values[rows] == slots["prefix"][found])
            & (self._kind.values[rows] == kind)
        )
        self.flags.values[rows] |= NEEDED
        damaged = (self.flags.values[rows] & DAMAGED) > 0
        result.state[found[damaged]] = State.RECORD_DAMAGED
        result.state[found[~same]] = State.RECORD_DIFFERS

    def _reserve(self, count: int) -> None:
        if count > len(self._standing):
            more = max(count, 2 * len(self._standing)) - len(self._standing)
            self._standing = np.concatenate([self._standing, np.zeros(more, "u1")])
            self._order = np.concatenate([self._order, np.zeros(more, "<u4")])
