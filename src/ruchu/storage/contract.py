"""What every storage offers: whole objects, written once, read by range."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

Buffer = bytes | bytearray | memoryview

MARKER = "ruchu-storage.json"  # the object by which a storage is known; written first


@dataclass(frozen=True, slots=True)
class ObjectInfo:
    """One object: its name and size in bytes."""

    name: str
    size: int


class ObjectWriter(Protocol):
    """A growing object that nobody sees before `commit`."""

    def write(self, parts: Sequence[Buffer]) -> None:
        """Append the parts, in order."""

    def commit(self) -> None:
        """Make the object durable and visible, whole, under its name; then it is closed.

        Raises:
            ObjectExists: the name is taken; nothing was changed.
        """


class Storage(Protocol):
    """A place for objects. Every method may be called from several threads.

    Names are relative paths of safe components (`names.check`). An object appears whole or not
    at all, is durable when the call returns, and is never rewritten.
    """

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, durably. Atomic among writers: exactly one of them succeeds.

        Raises:
            ObjectExists: the name is taken.
        """

    def open_writer(self, name: str) -> AbstractContextManager[ObjectWriter]:
        """Begin an object. Leaving without `commit` drops it."""

    def get(self, name: str, size_max: int) -> bytes:
        """Return a whole object; one larger than `size_max` bytes raises StorageError.

        Raises:
            ObjectMissing: there is none.
        """

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `start` of an object; a short object raises ObjectShort.

        Raises:
            ObjectMissing: there is none.
        """

    def size(self, name: str) -> int:
        """Return the bytes of an object, or raise ObjectMissing."""

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object whose name begins with the directory `prefix`, in any order.

        An absent directory yields nothing; a listing that fails raises. Half-written objects
        (of running or dead writers) are never listed. Foreign names raise nothing and are not
        listed: see `foreign`.
        """

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the directories right below the directory `prefix`, in any order.

        An absent directory yields nothing; a listing that fails raises.
        """

    def foreign(self) -> Sequence[str]:
        """Return the names in the storage that are no object names."""

    def delete(self, name: str) -> None:
        """Remove an object, durably. One that is not there is no error."""

    def sweep_unfinished(self, prefix: str) -> int:
        """Remove what dead writers left below `prefix`; return how many. Caller holds the lock.

        What they had just finished is durable afterwards, so that others may build upon it.
        """

    def free_space(self) -> int | None:
        """Return the bytes that can still be written, or None if there is no telling."""

    def protect(self, name: str) -> None:
        """Set the immutable flag and check that it is there.

        Raises:
            ImmutableNotApplied: this storage cannot, or silently did not.
        """

    def release(self, name: str) -> None:
        """Take the immutable flag off."""

    def is_protected(self, name: str) -> bool:
        """Tell whether the immutable flag is there."""

    def close(self) -> None:
        """Give back handles."""


def is_forkable(storage: Storage) -> bool:
    """Tell whether a process forked from this one may read through it as well.

    A storage says so by an attribute `forkable`; one that has connections must not share them.
    """
    return bool(getattr(storage, "forkable", False))
