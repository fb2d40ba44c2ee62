"""Reading the map of a disk, and the disk itself: every point is a virtual full."""

import itertools
import threading
from collections import OrderedDict
from collections.abc import Iterator

import numpy as np

from ruchu.model.extents import Content, Extent
from ruchu.repository import maps, packs
from ruchu.repository.heads import DiskEntry, Reference
from ruchu.repository.pack_reading import PackReader, Room

# Segments kept decoded: 64 of them span 4 GiB of disk and take 1.3 MB.
_SEGMENTS_KEPT = 64
_PREFERRED_IO = 4 << 20


class DiskMap:
    """The map of one disk of one point. Safe in several threads."""

    def __init__(self, reader: PackReader, label: str, size: int, root: Reference) -> None:
        self.size = size
        self.label = label
        self._reader = reader
        chunk = reader.read_one(root, packs.KIND_ROOT)
        self.block_size, self.branches = maps.decode_root(label, chunk, size, reader.table)
        self._where = {int(number): at for at, number in enumerate(self.branches["segment"])}
        self._kept: OrderedDict[int, maps.Slots] = OrderedDict()
        self._lock = threading.Lock()

    @classmethod
    def of(cls, reader: PackReader, point: str, disk: DiskEntry) -> "DiskMap":
        """Open the map of a disk in a head."""
        return cls(reader, f"point {point[:8]} disk {disk.name}", disk.size, disk.root)

    @property
    def segment_count(self) -> int:
        """Number of segments that the disk has, stored or not."""
        return -(-self.size // (self.block_size * maps.SEGMENT_BLOCKS))

    def branch(self, segment: int) -> np.void | None:
        """Return where a segment is stored; None if it is all zeros."""
        at = self._where.get(segment)
        return None if at is None else self.branches[at]

    def segment(self, number: int) -> maps.Slots | None:
        """Return the slots of a segment, as many as the disk has blocks there; None: all zeros.

        The caller must not change them.
        """
        at = self._where.get(number)
        if at is None:
            return None
        with self._lock:
            found = self._kept.get(number)
            if found is not None:
                self._kept.move_to_end(number)
                return found
        slots = self._decoded(number, at)
        with self._lock:
            self._kept[number] = slots
            if len(self._kept) > _SEGMENTS_KEPT:
                self._kept.popitem(last=False)
        return slots

    def _decoded(self, number: int, at: int) -> maps.Slots:
        branch = self.branches[at]
        reference = branch_reference(branch, self._reader.table)
        chunk = self._reader.read_one(reference, packs.KIND_SEGMENT)
        first = number * maps.SEGMENT_BLOCKS
        slots = maps.decode_segment(self.label, chunk, first, self._reader.table)
        count = maps.segment_length(self.size, self.block_size, number)
        return slots if len(slots) == count else maps.resized(slots, count)


def branch_reference(branch: np.void, table: maps.PackTable) -> Reference:
    """Return where a segment is, as a reference."""
    return Reference(
        pack=table.id(int(branch["pack"])).hex(),
        offset=int(branch["offset"]),
        stored=int(branch["stored"]),
        id=branch["id"].tobytes().hex(),
    )


class PointDisk:
    """A disk of a point, as a BlockReader."""

    def __init__(self, reader: PackReader, disk_map: DiskMap) -> None:
        self._reader = reader
        self.map = disk_map

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.map.size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return _PREFERRED_IO

    @property
    def block_size(self) -> int:
        """Bytes of a block as it is encoded."""
        return self.map.block_size

    def read_blocks(self, first: int, last: int, room: Room) -> None:
        """Decode blocks, each into its room; see `blocks.caching.BlockwiseReader`.

        Raises:
            Damaged: a chunk is missing or wrong.
        """
        while first < last:
            segment, skip = divmod(first, maps.SEGMENT_BLOCKS)
            stop = min(last, (segment + 1) * maps.SEGMENT_BLOCKS)
            slots = self.map.segment(segment)
            if slots is not None:
                wanted = slots[skip : skip + stop - first]
                stored = np.flatnonzero(wanted["stored"])
                numbers = (stored + first).tolist()
                self._reader.read_into(wanted[stored], packs.KIND_DATA, _rooms(numbers, room))
            first = stop

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer with the bytes at `start`; every chunk is checked.

        Raises:
            Damaged: a chunk is missing or wrong.
        """
        assert start >= 0
        assert start + len(buffer) <= self.size
        span = self.map.block_size * maps.SEGMENT_BLOCKS
        at = start
        end = start + len(buffer)
        while at < end:
            segment = at // span
            stop = min(end, (segment + 1) * span)
            self._read_segment(segment, at, buffer[at - start : stop - start])
            at = stop

    def _read_segment(self, segment: int, start: int, buffer: memoryview) -> None:
        slots = self.map.segment(segment)
        if slots is None:
            _zero(buffer)
            return
        block = self.map.block_size
        origin = segment * maps.SEGMENT_BLOCKS * block
        first = (start - origin) // block
        last = -(-(start - origin + len(buffer)) // block)
        wanted = slots[first:last]
        stored = np.flatnonzero(wanted["stored"])
        if len(stored) < len(wanted):
            _zero_rest(buffer, wanted, origin + first * block - start, block)
        skew = origin + first * block - start
        chosen = wanted if len(stored) == len(wanted) else wanted[stored]
        rows = stored.tolist()
        for row, _, chunk in self._reader.read(chosen, packs.KIND_DATA):
            _place(buffer, skew + rows[row] * block, chunk, block)

    def extents(self) -> Iterator[Extent]:
        """Yield DATA where chunks are stored and HOLE elsewhere; covers the disk."""
        run_start, run_data, at = 0, False, 0
        for segment in range(self.map.segment_count):
            slots = self.map.segment(segment)
            count = maps.segment_length(self.size, self.map.block_size, segment)
            flags = np.zeros(count, bool) if slots is None else slots["stored"] > 0
            for length, data in _runs(flags):
                if data is not run_data:
                    if at > run_start:
                        yield self._extent(run_start, at, data=run_data)
                    run_start, run_data = at, data
                at += length * self.map.block_size
        if self.size > run_start:
            yield self._extent(run_start, self.size, data=run_data)

    def _extent(self, start: int, end: int, *, data: bool) -> Extent:
        end = min(end, self.size)
        return Extent(start, end - start, Content.DATA if data else Content.HOLE)


def _rooms(numbers: list[int], room: Room) -> Room:
    """Return the rooms of blocks by their place in a list of their numbers."""
    return lambda row: room(numbers[row])


def _runs(flags: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Iterator[tuple[int, bool]]:
    """Yield (length, value) of equal neighbours."""
    edges = np.flatnonzero(np.diff(flags)) + 1
    starts = [0, *edges.tolist(), len(flags)]
    for begin, end in itertools.pairwise(starts):
        if end > begin:
            yield end - begin, bool(flags[begin])


def _zero(buffer: memoryview) -> None:
    np.frombuffer(buffer, np.uint8)[:] = 0


def _zero_rest(buffer: memoryview, slots: maps.Slots, skew: int, block: int) -> None:
    """Zero the ranges of blocks that are not stored."""
    at = skew
    for length, data in _runs(slots["stored"] > 0):
        end = at + length * block
        if not data:
            _zero(buffer[max(at, 0) : min(end, len(buffer))])
        at = end


def _place(buffer: memoryview, at: int, chunk: bytes | bytearray | memoryview, block: int) -> None:
    """Put a chunk where its block is in the buffer; what the chunk lacks of the block is zeros."""
    skip = max(0, -at)
    room = min(block - skip, len(buffer) - at - skip)
    piece = memoryview(chunk)[skip : skip + room]
    begin = at + skip
    buffer[begin : begin + len(piece)] = piece
    if len(piece) < room:
        _zero(buffer[begin + len(piece) : begin + room])
