"""How full a storage may become: when people are told, and when backups are refused."""

import re
from dataclasses import dataclass

from ruchu import units
from ruchu.errors import StorageFull, UsageError
from ruchu.operations.registry import StorageEntry
from ruchu.storage.free_space import RESERVE_DEFAULT

_PART = re.compile(r"(\d{1,2}(?:\.\d{1,3})?)%")


@dataclass(frozen=True, slots=True)
class Room:
    """The room on a storage.

    Attributes:
        total: all bytes there are.
        free: bytes that are free.
        warn: people are told when less is free.
        stop: backups are refused when less is free.
    """

    total: int
    free: int
    warn: int = 0
    stop: int = RESERVE_DEFAULT

    @property
    def used(self) -> int:
        """The bytes in use, by whatever."""
        return self.total - self.free

    @property
    def state(self) -> str:
        """`ok`, `low` or `full`."""
        if self.free <= self.stop:
            return "full"
        return "low" if self.free < self.warn else "ok"


def check(limit: str) -> str:
    """Return a limit if it is one: bytes, or a part of the whole such as `15%`; empty: none.

    Raises:
        UsageError: it is none.
    """
    bytes_of(limit, 100)
    return limit


def bytes_of(limit: str, total: int) -> int:
    """Return the bytes that a limit means on a storage of so many bytes.

    Raises:
        UsageError: it is no limit.
    """
    if not limit:
        return 0
    part = _PART.fullmatch(limit)
    if part is not None:
        return int(total * float(part[1]) / 100)
    try:
        return units.parse_size(limit)
    except ValueError:
        hint = "Such as 15% or 200GiB."
        raise UsageError(f"({limit!r} is no limit of room)", hint=hint) from None


def room_of(entry: StorageEntry, found: tuple[int, int] | None) -> Room | None:
    """Return the room on a storage, by its limits; None if there is no telling."""
    if found is None:
        return None
    total, free = found
    stop = max(bytes_of(entry.stop, total), RESERVE_DEFAULT)
    return Room(total, free, bytes_of(entry.warn, total), stop)


def require(entry: StorageEntry, room: Room | None) -> None:
    """Refuse a backup that would fill a storage.

    Raises:
        StorageFull: less is free than must stay free.
    """
    if room is not None and room.free <= room.stop:
        left, least = units.format_size(room.free), units.format_size(room.stop)
        raise StorageFull(f"({entry.name}: {left} free, {least} must stay free)")
