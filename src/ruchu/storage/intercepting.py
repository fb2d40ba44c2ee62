"""What wrappers have in common: every call of a storage passes one point on its way."""

import contextlib
import enum
from collections.abc import Callable, Iterator, Sequence
from typing import TypeVar

from ruchu.storage.contract import Buffer, ObjectInfo, ObjectWriter, Storage

T = TypeVar("T")


class Verb(enum.Enum):
    """What a storage is asked to do."""

    PUT = "put"
    OPEN = "open"
    WRITE = "write"
    COMMIT = "commit"
    GET = "get"
    READ = "read"
    SIZE = "size"
    LIST = "list"
    FOLDERS = "folders"
    FOREIGN = "foreign"
    DELETE = "delete"
    SWEEP = "sweep"
    FREE = "free"
    PROTECT = "protect"
    RELEASE = "release"
    IS_PROTECTED = "is-protected"


class Intercepting:
    """A storage that hands every call to `around`, and tells `moved` about bytes of content.

    A wrapper overrides these two, and single methods where it must. `open_writer` gives a writer
    that comes back to `write_to` and `around`.
    """

    def __init__(self, inner: Storage) -> None:
        self.inner = inner

    def around(self, verb: Verb, name: str, call: Callable[[], T]) -> T:  # noqa: ARG002
        """Carry out a call on the object or prefix `name`."""
        return call()

    def moved(self, verb: Verb, length: int) -> None:
        """Take note that a call moved so many bytes."""

    def write_to(self, writer: ObjectWriter, name: str, parts: Sequence[Buffer]) -> None:
        """Append parts to the object `name` through the writer of the inner storage."""
        self.around(Verb.WRITE, name, lambda: writer.write(parts))
        self.moved(Verb.WRITE, sum(memoryview(part).nbytes for part in parts))

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, durably."""
        self.around(Verb.PUT, name, lambda: self.inner.put(name, data))
        self.moved(Verb.PUT, memoryview(data).nbytes)

    @contextlib.contextmanager
    def open_writer(self, name: str) -> Iterator[ObjectWriter]:
        """Begin an object. Leaving without `commit` drops it."""
        with contextlib.ExitStack() as stack:
            writer = self.around(
                Verb.OPEN, name, lambda: stack.enter_context(self.inner.open_writer(name))
            )
            yield _InterceptedWriter(self, name, writer)

    def get(self, name: str, size_max: int) -> bytes:
        """Return a whole object."""
        content = self.around(Verb.GET, name, lambda: self.inner.get(name, size_max))
        self.moved(Verb.GET, len(content))
        return content

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `start` of an object."""
        self.around(Verb.READ, name, lambda: self.inner.read_into(name, start, buffer))
        self.moved(Verb.READ, buffer.nbytes)

    def size(self, name: str) -> int:
        """Return the bytes of an object."""
        return self.around(Verb.SIZE, name, lambda: self.inner.size(name))

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object below `prefix`; the listing is complete before the first one."""
        yield from self.around(Verb.LIST, prefix, lambda: tuple(self.inner.list(prefix)))

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the directories right below `prefix`."""
        yield from self.around(Verb.FOLDERS, prefix, lambda: tuple(self.inner.folders(prefix)))

    def foreign(self) -> Sequence[str]:
        """Return the names in the storage that are no object names."""
        return self.around(Verb.FOREIGN, "", self.inner.foreign)

    def delete(self, name: str) -> None:
        """Remove an object, durably."""
        self.around(Verb.DELETE, name, lambda: self.inner.delete(name))

    def sweep_unfinished(self, prefix: str) -> int:
        """Remove what dead writers left."""
        return self.around(Verb.SWEEP, prefix, lambda: self.inner.sweep_unfinished(prefix))

    def free_space(self) -> int | None:
        """Return the bytes that can still be written."""
        return self.around(Verb.FREE, "", self.inner.free_space)

    def protect(self, name: str) -> None:
        """Set the immutable flag and check that it is there."""
        self.around(Verb.PROTECT, name, lambda: self.inner.protect(name))

    def release(self, name: str) -> None:
        """Take the immutable flag off."""
        self.around(Verb.RELEASE, name, lambda: self.inner.release(name))

    def is_protected(self, name: str) -> bool:
        """Tell whether the immutable flag is there."""
        return self.around(Verb.IS_PROTECTED, name, lambda: self.inner.is_protected(name))

    def close(self) -> None:
        """Give back handles."""
        self.inner.close()


class _InterceptedWriter:
    def __init__(self, storage: Intercepting, name: str, inner: ObjectWriter) -> None:
        self._storage = storage
        self._name = name
        self._inner = inner

    def write(self, parts: Sequence[Buffer]) -> None:
        self._storage.write_to(self._inner, self._name, parts)

    def commit(self) -> None:
        self._storage.around(Verb.COMMIT, self._name, self._inner.commit)
