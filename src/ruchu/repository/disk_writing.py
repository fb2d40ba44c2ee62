"""Writing one disk of a point: blocks to chunks, chunks to the map."""

import os
import tempfile
import threading
from collections import OrderedDict

import numpy as np

from ruchu.chunks.codec import Bytes
from ruchu.errors import Damaged
from ruchu.repository import maps, packs
from ruchu.repository.chunk_storing import ChunkStore
from ruchu.repository.disk_maps import DiskMap
from ruchu.repository.heads import Reference
from ruchu.repository.reach import Places, branch_slots

# Segments being filled. Copies go upwards, so a segment that fell out of these is rarely touched
# again; if it is, it is read back.
_DRAFTS_MAX = 64


class _Spill:
    """Finished segments, in case they are touched again: their packs are not readable yet.

    In a sparse file without a name; 20 KiB for 1,024 blocks.
    """

    _BYTES = maps.SEGMENT_BLOCKS * maps.SLOT.itemsize

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(prefix="ruchu-map-")  # noqa: SIM115 - lives as long as we

    def close(self) -> None:
        self._file.close()

    def put(self, segment: int, slots: maps.Slots) -> None:
        written = os.pwrite(self._file.fileno(), slots.tobytes(), segment * self._BYTES)
        assert written == slots.nbytes

    def get(self, segment: int, count: int) -> maps.Slots:
        length = count * maps.SLOT.itemsize
        data = os.pread(self._file.fileno(), length, segment * self._BYTES)
        return np.frombuffer(data, maps.SLOT, count).copy()


class DiskWriter:
    """A BlockWriter into a point. Blocks that are not written keep what the base has, or zeros.

    Writes are in whole blocks (the last one may be short). Safe in several threads.
    """

    def __init__(
        self,
        store: ChunkStore,
        table: maps.PackTable,
        size: int,
        block_size: int,
        base: tuple[DiskMap, Places] | None,
    ) -> None:
        self.size = size
        self.block_size = block_size
        self._store = store
        self._table = table
        self._base: DiskMap | None = None
        self._places: Places | None = None
        if base is not None:
            self._base, self._places = base
        assert self._base is None or self._base.block_size == block_size
        assert self._base is None or self._base.size <= size
        self._lock = threading.Lock()
        self._drafts: OrderedDict[int, maps.Slots] = OrderedDict()
        self._branches: dict[int, tuple[int, int, int, bytes] | None] = {}
        self._spill: _Spill | None = None
        self.bytes_written = 0
        self.bytes_zero = 0
        self.packs_used: set[int] = set()

    def write(self, start: int, buffer: memoryview) -> None:
        """Store whole blocks at `start`."""
        block = self.block_size
        assert start % block == 0
        assert len(buffer) % block == 0 or start + len(buffer) == self.size
        slots = np.zeros(-(-len(buffer) // block), maps.SLOT)
        rows, chunks = _nonzero_blocks(buffer, block)
        if rows:
            ids = [self._store.identify(chunk) for chunk in chunks]
            places = self._store.store(packs.KIND_DATA, ids, chunks)
            slots["pack"][rows] = [place.pack for place in places]
            slots["offset"][rows] = [place.offset for place in places]
            slots["stored"][rows] = [place.stored for place in places]
            slots["prefix"][rows] = np.frombuffer(b"".join(ids), "<u8")[::4]
        with self._lock:
            self.bytes_written += len(buffer)
            self.bytes_zero += len(buffer) - sum(map(len, chunks))
            self.packs_used.update(np.unique(slots["pack"][rows]).tolist())
            self._assign(start // block, slots)

    def zero(self, start: int, length: int) -> None:
        """Make whole blocks zeros."""
        block = self.block_size
        assert start % block == 0
        assert length % block == 0 or start + length == self.size
        first, last = start // block, -(-(start + length) // block)
        with self._lock:
            self.bytes_zero += length
            while first < last:
                segment, at = divmod(first, maps.SEGMENT_BLOCKS)
                count = min(last - first, maps.SEGMENT_BLOCKS - at)
                self._zero_part(segment, at, count)
                first += count

    def flush(self) -> None:
        """Nothing: durability comes with the commit of the point."""

    def close(self) -> None:
        """Give the room on the local disk back."""
        if self._spill is not None:
            self._spill.close()

    def _zero_part(self, segment: int, at: int, count: int) -> None:
        """Zero a part of a segment; one that is zeros already costs nothing."""
        known = segment in self._drafts or segment in self._branches
        if not known and (self._base is None or self._base.branch(segment) is None):
            return
        self._draft(segment)[at : at + count] = np.zeros(count, maps.SLOT)

    def _assign(self, first: int, slots: maps.Slots) -> None:
        at = 0
        while at < len(slots):
            segment, offset = divmod(first + at, maps.SEGMENT_BLOCKS)
            count = min(len(slots) - at, maps.SEGMENT_BLOCKS - offset)
            part = slots[at : at + count]
            if part["stored"].any():
                self._draft(segment)[offset : offset + count] = part
            else:
                self._zero_part(segment, offset, count)
            at += count

    def _draft(self, segment: int) -> maps.Slots:
        draft = self._drafts.get(segment)
        if draft is not None:
            self._drafts.move_to_end(segment)
            return draft
        while len(self._drafts) >= _DRAFTS_MAX:
            oldest, old = self._drafts.popitem(last=False)
            self._finish_segment(oldest, old)
        draft = self._current(segment)
        self._drafts[segment] = draft
        return draft

    def _current(self, segment: int) -> maps.Slots:
        """Return a copy of what the segment holds so far."""
        count = maps.segment_length(self.size, self.block_size, segment)
        if segment in self._branches:
            if self._branches[segment] is None:
                return np.zeros(count, maps.SLOT)
            assert self._spill is not None
            return self._spill.get(segment, count)
        base = self._base.segment(segment) if self._base is not None else None
        if base is None:
            return np.zeros(count, maps.SLOT)
        # A segment that is written anew names the packs as they are now, so that the tables of
        # moved packs are needed less and less.
        slots = maps.resized(base, count)
        assert self._places is not None
        used = slots["stored"] > 0
        slots[used] = self._places.current(slots[used])
        return slots

    def _finish_segment(self, segment: int, slots: maps.Slots) -> None:
        if not slots["stored"].any():
            self._branches[segment] = None
            return
        chunk = maps.encode_segment(segment * maps.SEGMENT_BLOCKS, slots, self._table)
        chunk_id = self._store.identify(chunk)
        base = self._base.branch(segment) if self._base is not None else None
        if base is not None and base["id"].tobytes() == chunk_id:
            self._branches.pop(segment, None)
            return
        (place,) = self._store.store(packs.KIND_SEGMENT, [chunk_id], [chunk])
        self._branches[segment] = (place.pack, place.offset, place.stored, chunk_id)
        self.packs_used.add(place.pack)
        if self._spill is None:
            self._spill = _Spill()
        self._spill.put(segment, slots)

    def finish(self) -> Reference:
        """Store what is left of the map and its root; return where the root is."""
        with self._lock:
            while self._drafts:
                self._finish_segment(*self._drafts.popitem(last=False))
            chunk = maps.encode_root(self.block_size, self.size, self._all_branches(), self._table)
        chunk_id = self._store.identify(chunk)
        (place,) = self._store.store(packs.KIND_ROOT, [chunk_id], [chunk])
        pack = self._table.id(place.pack).hex()
        return Reference(pack, place.offset, place.stored, chunk_id.hex())

    def _all_branches(self) -> maps.Branches:
        kept = np.zeros(0, maps.BRANCH)
        if self._base is not None:
            changed = np.array(sorted(self._branches), "<u4")
            kept = self._base.branches
            kept = self._up_to_date(kept[~np.isin(kept["segment"], changed)])
        new = [(number, *where) for number, where in self._branches.items() if where is not None]
        own = np.array(new, maps.BRANCH) if new else np.zeros(0, maps.BRANCH)
        branches = np.concatenate([kept, own])
        return branches[np.argsort(branches["segment"], kind="stable")]

    def _up_to_date(self, branches: maps.Branches) -> maps.Branches:
        """Return branches that name the packs as they are now: the root is written anew anyway.

        Otherwise a root would name every pack that its segments ever were in, and removing the
        point would read the tables of all of them.
        """
        assert self._places is not None
        try:
            now = self._places.current(branch_slots(branches))
        except Damaged:
            # A segment of the base is lost. This point keeps it as it was; a repair may bring it.
            return branches
        fresh = branches.copy()
        fresh["pack"], fresh["offset"] = now["pack"], now["offset"]
        return fresh


def _nonzero_blocks(buffer: memoryview, block: int) -> tuple[list[int], list[Bytes]]:
    """Return the numbers and contents of the blocks that hold anything but zeros."""
    whole = len(buffer) // block
    view = np.frombuffer(buffer, np.uint8)
    # An OR over words runs at 77 GB/s, `any` over bytes at 20 to 35.
    words = view[: whole * block].reshape(whole, block).view("<u8")
    rows = np.flatnonzero(np.bitwise_or.reduce(words, axis=1)).tolist()
    chunks: list[Bytes] = [buffer[row * block : (row + 1) * block] for row in rows]
    rest = view[whole * block :]
    if rest.any():
        rows.append(whole)
        chunks.append(buffer[whole * block :])
    return rows, chunks
