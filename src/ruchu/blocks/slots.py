"""Memory for decoded blocks that is used again and again.

What the kernel hands out page by page costs half as much as decoding: a fault for each page, and
its zeroing. So blocks lie in large mappings, and a slot whose last view is gone is the next one to
be filled.

Huge pages are not asked for. Where memory is at hand they cost a quarter of small ones; but a
virtual machine that gives free memory back to its host has given back exactly those, and getting
one again cost three times as much as small pages (measured).
"""

import mmap
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


class _Lease(weakref.ref[npt.NDArray[np.uint8]]):
    """Lives as long as somebody has a view of a slot, and knows which one."""

    __slots__ = ("place",)

    place: tuple[mmap.mmap, int]


class Slots:
    """Buffers of one size. Safe in several threads.

    Args:
        size: bytes of a slot: a power of two, up to `ARENA_BYTES`.
        ahead: bytes that a thread of its own gets from the kernel before they are needed, which
            costs two thirds and happens while nobody waits; 0 for none.
        limit: bytes that are got ahead in all.
    """

    def __init__(self, size: int, *, ahead: int = 0, limit: int = 0) -> None:
        assert 0 < size <= ARENA_BYTES
        self._size = size
        # Lists and dictionaries change in one step: a slot comes back in whatever thread drops the
        # last view, maybe while it holds a lock.
        self._free: list[tuple[mmap.mmap, int]] = []
        self._taken: dict[int, _Lease] = {}
        self._ready: list[mmap.mmap] = []
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
        place = self._next()
        owner = np.frombuffer(place[0], np.uint8, self._size, place[1])
        lease = _Lease(owner, self._back)
        lease.place = place
        self._taken[id(lease)] = lease
        return memoryview(cast("bytearray", owner))

    def _next(self) -> tuple[mmap.mmap, int]:
        while True:
            try:
                return self._free.pop()
            except IndexError:
                self._grow()

    def _back(self, lease: weakref.ref[npt.NDArray[np.uint8]]) -> None:
        assert isinstance(lease, _Lease)
        del self._taken[id(lease)]
        self._free.append(lease.place)

    def _grow(self) -> None:
        with self._changed:
            if self._free:
                return
            if self._ready:
                arena = self._ready.pop()
                self._changed.notify()
            else:
                arena = _arena()
                self._arenas += 1
            # The last one is taken first: memory fills from its beginning.
            starts = range(ARENA_BYTES - self._size, -1, -self._size)
            self._free.extend((arena, start) for start in starts)

    def _prepare(self) -> None:
        """Have arenas ready that the kernel gave memory for; the thread."""
        while self._begin():
            arena = _arena()
            try:
                for start in range(0, ARENA_BYTES, _PREPARED_BYTES):
                    if self._closed:
                        return
                    arena.madvise(_MADV_POPULATE_WRITE, start, _PREPARED_BYTES)
            except OSError:
                # Linux before 5.14, or no memory: it comes when it is needed, or not at all.
                return
            with self._changed:
                self._ready.append(arena)

    def _begin(self) -> bool:
        with self._changed:
            self._changed.wait_for(
                lambda: (
                    self._closed or (len(self._ready) < self._ahead and self._arenas < self._limit)
                )
            )
            self._arenas += 1
            return not self._closed


def _arena() -> mmap.mmap:
    return mmap.mmap(-1, ARENA_BYTES, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
