"""A disk shown as a qcow2 image, version 3.

In the file lie: the header, the first table, the refcount table and its blocks, the second tables,
and the clusters of the disk, each at its place whether it holds anything or not. What reads as
zeros has no entry and no reference. So everything is known from the size alone, but the entries of
second tables and refcount blocks, which are made when they are read.
"""

import struct
from dataclasses import dataclass
from typing import Final

import numpy as np

from ruchu.blocks.allocation import AllocationMap
from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats import qcow2
from ruchu.blocks.formats.mapping import (
    BytesDisk,
    ComposedDisk,
    ComputedDisk,
    Entries,
    Part,
)
from ruchu.errors import UsageError
from ruchu.model.extents import Content

CLUSTER_BITS: Final = 16
CLUSTER: Final = 1 << CLUSTER_BITS
_PER_TABLE: Final = CLUSTER // 8
# A count has 16 bits (order 4), as QEMU makes them.
_REFCOUNT_ORDER: Final = 4
_PER_BLOCK: Final = CLUSTER // 2
# QEMU opens a first table of up to 32 MiB.
SIZE_MAX: Final = 4 * 1024 * 1024 * _PER_TABLE * CLUSTER
# Runs asked for at a time; a second table describes up to 8192 of them.
_RUNS: Final = 8192


@dataclass(frozen=True, slots=True)
class _Layout:
    """Where everything is, in clusters."""

    data_clusters: int
    level_1: int
    refcount_table: int
    refcount_blocks: int
    level_2: int
    data: int
    tables: int
    blocks: int

    @property
    def end(self) -> int:
        return self.data + self.data_clusters


def _lay_out(size: int) -> _Layout:
    clusters = -(-size // CLUSTER)
    tables = -(-clusters // _PER_TABLE)
    level_1 = max(1, -(-tables * 8 // CLUSTER))
    blocks = table = 1
    # The blocks count themselves as well; a few rounds and it does not grow any more.
    while True:
        total = 1 + level_1 + table + blocks + tables + clusters
        needed = -(-total // _PER_BLOCK)
        if (needed, -(-needed * 8 // CLUSTER)) == (blocks, table):
            break
        blocks, table = needed, -(-needed * 8 // CLUSTER)
    refcounts = 1 + level_1
    level_2 = refcounts + table + blocks
    return _Layout(
        data_clusters=clusters,
        level_1=1,
        refcount_table=refcounts,
        refcount_blocks=refcounts + table,
        level_2=level_2,
        data=level_2 + tables,
        tables=tables,
        blocks=blocks,
    )


class _Tables:
    """The tables whose entries depend on what the disk holds."""

    def __init__(self, device: BlockReader, layout: _Layout) -> None:
        self._allocation = AllocationMap(device)
        self._layout = layout
        self._size = device.size

    def level_2(self, number: int) -> bytes:
        first = number * _PER_TABLE
        count = min(_PER_TABLE, self._layout.data_clusters - first)
        offsets = (np.arange(count, dtype=np.uint64) + np.uint64(self._layout.data + first)) * (
            np.uint64(CLUSTER)
        )
        entries = np.zeros(_PER_TABLE, dtype=np.uint64)
        held = self._held(first, count)
        entries[:count] = np.where(held, offsets | np.uint64(qcow2.COPIED), np.uint64(0))
        return entries.astype(">u8").tobytes()

    def refcounts(self, number: int) -> bytes:
        counts = np.zeros(_PER_BLOCK, dtype=np.uint16)
        first = number * _PER_BLOCK
        metadata = min(max(0, self._layout.data - first), _PER_BLOCK)
        counts[:metadata] = 1
        end = min(first + _PER_BLOCK, self._layout.end)
        count = end - first - metadata
        if count > 0:
            held = self._held(first + metadata - self._layout.data, count)
            counts[metadata : metadata + count] = held
        return counts.astype(">u2").tobytes()

    def _held(self, first: int, count: int) -> Entries:
        """Return, for each of some clusters of the disk, whether anything is in it."""
        held = np.zeros(count, dtype=np.uint8)
        at, end = first * CLUSTER, min((first + count) * CLUSTER, self._size)
        while at < end:
            for length, content in self._allocation.status(at, end - at, _RUNS):
                if content is Content.DATA:
                    last = (at + length - 1) // CLUSTER
                    held[at // CLUSTER - first : last - first + 1] = 1
                at += length
        return held


def show(device: BlockReader) -> BlockReader:
    """Return a qcow2 image of a disk; what is missing to a whole sector is zeros.

    The disk must not change while it is shown.

    Raises:
        UsageError: the disk is too large for the format.
    """
    size = -(-device.size // 512) * 512
    if size > SIZE_MAX:
        raise UsageError("(a qcow2 image holds up to 2 PiB)", hint="Choose raw.")
    layout = _lay_out(size)
    tables = _Tables(device, layout)
    level_1 = _pointers(layout.level_2, layout.tables, qcow2.COPIED)
    refcounts = _pointers(layout.refcount_blocks, layout.blocks, 0)
    level_2 = ComputedDisk(layout.tables * CLUSTER, CLUSTER, tables.level_2)
    counts = ComputedDisk(layout.blocks * CLUSTER, CLUSTER, tables.refcounts)
    header = BytesDisk(_header(size, layout))
    pieces: list[tuple[int, BlockReader]] = [
        (0, header),
        (layout.level_1, BytesDisk(level_1)),
        (layout.refcount_table, BytesDisk(refcounts)),
        (layout.refcount_blocks, counts),
        (layout.level_2, level_2),
        (layout.data, device),
    ]
    parts = [Part(cluster * CLUSTER, reader.size, reader) for cluster, reader in pieces]
    return ComposedDisk(layout.end * CLUSTER, parts)


def _pointers(first: int, count: int, flags: int) -> bytes:
    offsets = (np.arange(count, dtype=np.uint64) + np.uint64(first)) * np.uint64(CLUSTER)
    return (offsets | np.uint64(flags)).astype(">u8").tobytes()


def _header(size: int, layout: _Layout) -> bytes:
    table_clusters = layout.refcount_blocks - layout.refcount_table
    front = qcow2.HEADER.pack(
        qcow2.MAGIC, 3, 0, 0, CLUSTER_BITS, size, 0, layout.tables, layout.level_1 * CLUSTER,
        layout.refcount_table * CLUSTER, table_clusters, 0, 0,
    )  # fmt: skip
    length = qcow2.HEADER_V3_SIZE
    more = qcow2.HEADER_V3.pack(0, 0, 0, _REFCOUNT_ORDER, length)
    # Eight zeros end the list of header extensions, which is empty.
    return front + more + struct.pack(">Q", 0)
