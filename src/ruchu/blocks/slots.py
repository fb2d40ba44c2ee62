"""Memory for decoded blocks that is used again and again.

What the kernel hands out page by page costs half as much as decoding: a fault for each page, and
its zeroing. So blocks lie in large mappings, and a slot whose last view is gone is the next one to
be filled.

Huge pages are not asked for. Where memory is at hand they cost a quarter of small ones; but a
virtual machine that gives free memory back to its host has given back exactly those, and getting
one again cost three times as much as small pages (measured).

Memory may be shared with processes that decode (see `decoding`): then a slot has a place that is
the same in all of them.
"""

import contextlib
import mmap
import os
import threading
import weakref
from typing import cast

import numpy as np
import numpy.typing as npt

# Only what is touched takes memory.
ARENA_BYTES = 16 << 20
# The interpreter waits for a tenth of a millisecond meanwhile.
_PREPARED_BYTES = 256 << 10
_MADV_POPULATE_WRITE = 23  # Linux 5.14; Python has no name for it


class SharedMemory:
    """Arenas that processes forked later see as well. It takes memory as it is touched."""

    def __init__(self) -> None:
        self._file = os.memfd_create("ruchu-blocks")
        self._bytes = 0
        self._lock = threading.Lock()
        self._mapped: dict[int, memoryview] = {}

    def arena(self) -> tuple[mmap.mmap, int]:
        """Return an arena that nobody has, and its place."""
        with self._lock:
            place = self._bytes
            os.ftruncate(self._file, place + ARENA_BYTES)
            self._bytes += ARENA_BYTES
        return mmap.mmap(self._file, ARENA_BYTES, offset=place), place

    def view(self, place: int, size: int) -> memoryview:
        """Return what another process took; it lies in one arena."""
        start = place % ARENA_BYTES
        base = place - start
        found = self._mapped.get(base)
        if found is None:
            arena = mmap.mmap(self._file, ARENA_BYTES, offset=base)
            # The other one has most of its pages already; to meet them one by one costs more.
            with contextlib.suppress(OSError):
                arena.madvise(_MADV_POPULATE_WRITE)
            found = self._mapped[base] = memoryview(arena)
        return found[start : start + size]

    def close(self) -> None:
        """Let go of the file; arenas that were taken stay. Idempotent."""
        with self._lock:
            if self._file >= 0:
                os.close(self._file)
                self._file = -1


class _Lease(weakref.ref[npt.NDArray[np.uint8]]):
    """Lives as long as somebody has a view of a slot, and knows which one."""

    __slots__ = ("slot",)

    slot: "_Slot"


# An arena, where in it the slot begins, and its place in shared memory.
_Slot = tuple[mmap.mmap, int, int]


class Slots:
    """Buffers of one size. Safe in several threads.

    Args:
        size: bytes of a slot: a power of two, up to `ARENA_BYTES`.
        ahead: bytes that a thread of its own gets from the kernel before they are needed, which
            costs two thirds and happens while nobody waits; 0 for none.
        limit: bytes that are got ahead in all.
        shared: where arenas come from; None: memory of this process alone.
    """

    def __init__(
        self, size: int, *, ahead: int = 0, limit: int = 0, shared: SharedMemory | None = None
    ) -> None:
        assert 0 < size <= ARENA_BYTES
        self._size = size
        self._arena = _private_arena if shared is None else shared.arena
        # Lists and dictionaries change in one step: a slot comes back in whatever thread drops the
        # last view, maybe while it holds a lock.
        self._free: list[_Slot] = []
        self._taken: dict[int, _Lease] = {}
        self._ready: list[tuple[mmap.mmap, int]] = []
        self._ahead = ahead // ARENA_BYTES
        self._limit = limit // ARENA_BYTES
        self._arenas = 0
        self._changed = threading.Condition()
        self._closed = not self._ahead or not self._limit
        self._thread: threading.Thread | None = None
        if not self._closed:
            self._thread = threading.Thread(target=self._prepare, name="slots", daemon=True)
            self._thread.start()

    def close(self) -> None:
        """Get nothing ahead any more; what was taken stays valid. Idempotent."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join()

    def take(self) -> memoryview:
        """Return a slot, with whatever is in it; it comes back when no view of it is left."""
        return self.take_placed()[0]

    def take_placed(self) -> tuple[memoryview, int]:
        """Return what `take` does, and the place of the slot in shared memory."""
        slot = self._next()
        owner = np.frombuffer(slot[0], np.uint8, self._size, slot[1])
        lease = _Lease(owner, self._back)
        lease.slot = slot
        self._taken[id(lease)] = lease
        return memoryview(cast("bytearray", owner)), slot[2]

    def _next(self) -> _Slot:
        while True:
            try:
                return self._free.pop()
            except IndexError:
                self._grow()

    def _back(self, lease: weakref.ref[npt.NDArray[np.uint8]]) -> None:
        assert isinstance(lease, _Lease)
        del self._taken[id(lease)]
        self._free.append(lease.slot)

    def _grow(self) -> None:
        with self._changed:
            if self._free:
                return
            if self._ready:
                arena, place = self._ready.pop()
                self._changed.notify()
            else:
                arena, place = self._arena()
                self._arenas += 1
            # The last one is taken first: memory fills from its beginning.
            starts = range(ARENA_BYTES - self._size, -1, -self._size)
            self._free.extend((arena, start, place + start) for start in starts)

    def _prepare(self) -> None:
        """Have arenas ready that the kernel gave memory for; the thread."""
        while self._begin():
            arena, place = self._arena()
            try:
                for start in range(0, ARENA_BYTES, _PREPARED_BYTES):
                    if self._closed:
                        return
                    arena.madvise(_MADV_POPULATE_WRITE, start, _PREPARED_BYTES)
            except OSError:
                # Linux before 5.14, or no memory: it comes when it is needed, or not at all.
                return
            with self._changed:
                self._ready.append((arena, place))

    def _begin(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed or (len(self._ready) < self._ahead and self._arenas < self._limit)
                )
            )
            self._arenas += 1
            return not self._closed


def _private_arena() -> tuple[mmap.mmap, int]:
    return mmap.mmap(-1, ARENA_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS), 0
