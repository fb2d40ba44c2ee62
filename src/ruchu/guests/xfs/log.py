"""The log of XFS: whether anything in it is not yet in place.

A clean unmount leaves a record of its own right before the head; anything else means that what is
in place is older than what the log holds.

Freezing writes everything into place and then deliberately logs the superblock once more, so that
a recovery after a crash looks at files that were deleted while open. So a frozen XFS looks dirty:
it counts as settled only if each transaction from the tail to the head is whole and logs nothing
but the superblock. Sources: "XFS Algorithms & Data Structures", chapter Journaling Log; the
comments of `fs/xfs/xfs_log_recover.c` and `xfs_log.c` of the Linux kernel.
"""

import struct
from dataclasses import dataclass

from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import log_ring, superblock
from ruchu.guests.xfs.log_ring import LogRing, Record
from ruchu.guests.xfs.superblock import Superblock

_START, _COMMIT, _SPLIT = 0x01, 0x02, 0x04 | 0x08 | 0x10
_TRANSACTION_MAGICS = {b"NART": "<", b"TRAN": ">"}
_TRANSACTION_HEADER = 16
_ITEM_BUFFER = 0x123C
_BUFFER_CANCELLED = 0x2


@dataclass(slots=True)
class _Transaction:
    """How far a transaction was read.

    Attributes:
        order: its byte order; empty before its header.
        told: what its header counts: regions since Linux 2.6.37, items before.
        items, regions: what was met.
        due: regions of the item that are still to come.
    """

    order: str = ""
    told: int = 0
    items: int = 0
    regions: int = 0
    due: int = 0


def unsettled(volume: VolumeReader, found: Superblock, *, frozen: bool) -> str:
    """Return why what is in place may be out of date, in plain words; empty if it is not.

    Raises:
        GuestDamaged: the log contradicts itself.
    """
    if found.log_start == superblock.NULL_LOG:
        return "the log of XFS is on another device"
    ring = LogRing(volume, found)
    head, cycle = ring.head()
    last = ring.last(head, cycle)
    if last.is_unmount:
        return ""
    if not frozen:
        return log_ring.MORE
    harmless = all(
        record.is_unmount or (_is_harmless(record) and (record.summed or not found.crc))
        for record in ring.outstanding(last, head)
    )
    return "" if harmless else log_ring.MORE


def _is_harmless(record: Record) -> bool:
    """Return whether a record holds nothing but whole transactions of the superblock alone."""
    at = 0
    begun: dict[int, _Transaction] = {}
    for _ in range(record.operations):
        if at + log_ring.OPERATION.size > len(record.content):
            return False
        number, length, _, flags, _ = log_ring.OPERATION.unpack_from(record.content, at)
        at += log_ring.OPERATION.size + length
        if flags & _SPLIT or at > len(record.content):
            return False
        if flags & log_ring.UNMOUNT:
            continue
        region = record.content[at - length : at]
        if not _follow(begun, number, flags, region):
            return False
    return not begun


def _follow(begun: dict[int, _Transaction], number: int, flags: int, region: bytes) -> bool:
    """Take one operation into account; False if it may be anything but the superblock."""
    if flags & _START:
        begun[number] = _Transaction()
        return not region and not flags & _COMMIT
    transaction = begun.get(number)
    if transaction is None:
        return False
    if flags & _COMMIT:
        del begun[number]
        return not region and _is_whole(transaction)
    return _add(transaction, region)


def _is_whole(transaction: _Transaction) -> bool:
    counted = transaction.told in {transaction.regions, transaction.items}
    return bool(transaction.order) and counted and not transaction.due


def _add(transaction: _Transaction, region: bytes) -> bool:
    """Take a region into account: the header, the beginning of an item, or more of it."""
    if not transaction.order:
        transaction.order = _TRANSACTION_MAGICS.get(region[:4], "")
        if not transaction.order or len(region) != _TRANSACTION_HEADER:
            return False
        (transaction.told,) = struct.unpack_from(f"{transaction.order}I", region, 12)
        return True
    transaction.regions += 1
    if transaction.due:
        transaction.due -= 1
        return True
    transaction.items += 1
    layout = struct.Struct(f"{transaction.order}HHHHq")
    if len(region) < layout.size:
        return False
    # What is changed, told as a buffer at an address.
    kind, regions, flags, _, address = layout.unpack_from(region)
    transaction.due = max(0, regions - 1)
    return bool(kind == _ITEM_BUFFER and address == 0 and not flags & _BUFFER_CANCELLED)
