"""Says "full" before the disk is, so that the little that must still be written can be."""

import threading
from collections.abc import Callable

from ruchu import errors, units

RESERVE_DEFAULT = 64 * units.MIB
# Asking costs a system call; another program may fill the disk between two questions.
STEP = 64 * units.MIB
# Heads, errors, stars: they may use half of the reserve, so that a full storage can say so.
SMALL_MAX = units.MIB


class FreeSpace:
    """Admits writes as long as a reserve stays free. Shared by all writers of a storage."""

    def __init__(self, ask: Callable[[], int], reserve: int) -> None:
        self._ask = ask
        self._reserve = reserve
        self._lock = threading.Lock()
        self._granted = 0

    def left(self) -> int:
        """Return the bytes that large objects can still take."""
        return max(0, self._ask() - self._reserve)

    def admit(self, length: int) -> None:
        """Let the next `length` bytes of a large object through.

        Raises:
            StorageFull: they would eat into the reserve.
        """
        with self._lock:
            if length > self._granted:
                room = self._ask() - self._reserve
                _require(room, length)
                self._granted = min(room, max(length, STEP))
            self._granted -= length

    def admit_small(self, length: int) -> None:
        """Let a small object through, by way of half of the reserve."""
        _require(self._ask() - self._reserve // 2, length)

    def begin(self) -> None:
        """Ask anew before a large object begins.

        Raises:
            StorageFull: there is no room for a single byte.
        """
        with self._lock:
            room = self._ask() - self._reserve
            _require(room, 1)
            self._granted = min(room, STEP)


def _require(room: int, length: int) -> None:
    if room < length:
        wanted = units.format_size(length)
        raise errors.StorageFull(f"{wanted} wanted, {units.format_size(max(0, room))} left")
