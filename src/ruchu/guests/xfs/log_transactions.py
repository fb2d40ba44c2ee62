"""What the records of a log of XFS were written for: transactions, and the items they change.

A transaction is a series of operations, which may be spread over records and stand among those of
others. Its regions are first a header, then items: a region that tells kind and count, and as many
as it counts. Only what was committed is told. Sources: "XFS Algorithms & Data Structures", chapter
Journaling Log; `fs/xfs/libxfs/xfs_log_format.h` of the Linux kernel.
"""

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.xfs import log_ring
from ruchu.guests.xfs.log_ring import Record

_START, _COMMIT, _CONTINUED, _CONTINUES, _ENDS, _UNMOUNT = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20
_CLIENTS = {0x69, 0xAA}
_MAGIC = b"NART"
_HEADER_BYTES = 16
_ITEM = struct.Struct("<HH")
# 64 MiB active in a log are about 600,000 operations; more than this takes half a minute to read.
_OPERATIONS_MAX = 4 << 20
# Bytes of transactions that are begun: the kernel begins at most four of 32 MiB at once.
_HELD_MAX = 256 << 20
# What a piece of a region takes in memory besides its bytes, and a transaction besides its pieces.
_PIECE_COST, _BEGUN_COST = 128, 256


@dataclass(frozen=True, slots=True)
class Item:
    """A change: what kind it is of, and its regions, the first of which describes it."""

    kind: int
    regions: tuple[bytes, ...]


@dataclass(frozen=True, slots=True)
class Transaction:
    """What was changed at once; `lsn` is the number of the record in which it begins."""

    lsn: int
    items: tuple[Item, ...]


def committed(records: Iterable[Record]) -> Iterator[Transaction]:
    """Yield the transactions that were committed, in the order of their commits.

    Raises:
        GuestDamaged: the records contradict themselves.
        GuestUnsupported: they were written by another kind of machine, or are too many.
    """
    begun = _Begun()
    count = 0
    for record in records:
        if record.is_unmount:
            continue
        count += record.operations
        if not record.summed:
            raise GuestDamaged("a record of the log of XFS has no checksum")
        if record.form != log_ring.LITTLE_ENDIAN:
            raise GuestUnsupported(f"a log of XFS of form {record.form}")
        if count > _OPERATIONS_MAX:
            raise GuestUnsupported(f"more than {_OPERATIONS_MAX} operations in the log of XFS")
        for number, flags, region in _operations(record):
            if flags & _UNMOUNT:
                begun.end(number)
            elif not flags & _COMMIT:
                begun.add(record, number, flags, region)
            elif (ended := begun.end(number)) is not None:
                yield Transaction(ended.lsn, tuple(_items(ended.regions())))


@dataclass(slots=True)
class _Pieces:
    """A transaction that is begun: pieces of its regions, and which of them go on with a region."""

    lsn: int
    pieces: list[tuple[bool, bytes]] = field(default_factory=list)
    held: int = _BEGUN_COST

    def regions(self) -> list[bytes]:
        regions: list[list[bytes]] = []
        for continues, piece in self.pieces:
            if continues:
                regions[-1].append(piece)
            else:
                regions.append([piece])
        return [b"".join(pieces) for pieces in regions]


class _Begun:
    """The transactions that are begun and neither committed nor given up."""

    def __init__(self) -> None:
        self._begun: dict[int, _Pieces] = {}
        self._held = 0

    def end(self, number: int) -> _Pieces | None:
        """Return a transaction that ends; None if it began before the tail, and so is in place."""
        ended = self._begun.pop(number, None)
        if ended is not None:
            self._held -= ended.held
        return ended

    def add(self, record: Record, number: int, flags: int, region: bytes) -> None:
        """Take an operation that begins a transaction or belongs to one."""
        transaction = self._begun.get(number)
        if flags & _START:
            if transaction is not None or region:
                raise GuestDamaged("a transaction in the log of XFS begins twice")
            cost = _BEGUN_COST
            self._begun[number] = _Pieces(record.lsn)
        elif transaction is None:
            return
        else:
            if flags & ~(_CONTINUED | _CONTINUES | _ENDS):
                raise GuestDamaged(f"an operation of the log of XFS with the flags {flags:#x}")
            if flags & _CONTINUES and not transaction.pieces:
                raise GuestDamaged("a region in the log of XFS goes on and never began")
            transaction.pieces.append((bool(flags & _CONTINUES), region))
            cost = _PIECE_COST + len(region)
            transaction.held += cost
        self._held += cost
        if self._held > _HELD_MAX:
            raise GuestUnsupported("a log of XFS with very large transactions")


def _operations(record: Record) -> Iterator[tuple[int, int, bytes]]:
    """Yield transaction, flags and bytes of the operations of a record."""
    content, at = record.content, 0
    for _ in range(record.operations):
        if at + log_ring.OPERATION.size > len(content):
            raise GuestDamaged("an operation leaves its record of the log of XFS")
        number, length, client, flags, _ = log_ring.OPERATION.unpack_from(content, at)
        at += log_ring.OPERATION.size
        if at + length > len(content) or client not in _CLIENTS:
            raise GuestDamaged("an operation leaves its record of the log of XFS")
        yield number, flags, content[at : at + length]
        at += length


def _items(regions: list[bytes]) -> Iterator[Item]:
    if not regions or len(regions[0]) != _HEADER_BYTES or regions[0][:4] != _MAGIC:
        raise GuestDamaged("a transaction in the log of XFS has no header")
    at = 1
    while at < len(regions):
        if len(regions[at]) < _ITEM.size:
            raise GuestDamaged("an item in the log of XFS is too short")
        kind, count = _ITEM.unpack_from(regions[at])
        if not 0 < count <= len(regions) - at:
            raise GuestDamaged("an item in the log of XFS is not whole")
        yield Item(kind, tuple(regions[at : at + count]))
        at += count
