"""Writes one object: under a passing name until it is whole and durable, then under its own."""

import contextlib
import enum
import secrets
from collections.abc import Callable, Iterable, Sequence
from types import TracebackType
from typing import Self

from ruchu import errors, units
from ruchu.storage import failures, names
from ruchu.storage.contract import MARKER, Buffer
from ruchu.storage.filesystem import FileSystem
from ruchu.storage.tree import Tree

# Started early, so that the sync at the end does not have to wait for a whole pack.
WRITE_BACK_STEP = 8 * units.MIB


class _State(enum.Enum):
    NEW = "new"
    OPEN = "open"
    BROKEN = "broken"  # a write failed: what follows would be put after a gap
    CLOSED = "closed"


class DirectoryWriter:
    """The writer of `DirectoryStorage`. For one thread at a time.

    Where the body of the context and the clean-up both fail, the error of the body wins.
    """

    def __init__(self, tree: Tree, name: str, live: set[str], admit: Callable[[int], None]) -> None:
        self._tree = tree
        self._filesystem: FileSystem = tree.filesystem
        self._name = name
        parent, self._leaf = names.split(name)
        self._partial = names.partial(self._leaf, secrets.token_hex(8))
        self._parent = parent
        self._live = live
        self._admit = admit
        self._cleanup = contextlib.ExitStack()
        self._state = _State.NEW
        self._length = 0
        self._write_back_start = 0

    def __enter__(self) -> Self:
        with self._tree.translating(self._name), contextlib.ExitStack() as cleanup:
            tree = self._tree
            self._directory = cleanup.enter_context(tree.directory(self._parent, make=True))
            unfinished = names.join(self._parent, self._partial)
            self._live.add(unfinished)
            cleanup.callback(self._live.discard, unfinished)
            self._file = self._filesystem.create(self._directory, self._partial)
            cleanup.callback(self._drop)
            self._cleanup = cleanup.pop_all()
        self._state = _State.OPEN
        self._renamed = False
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._state = _State.CLOSED
        try:
            self._cleanup.close()
        except OSError as failure:
            translated = failures.translate(failure, self._tree.path(self._name))
            if error is None:
                raise translated from failure
            error.add_note(f"Cleaning up failed, too: {translated}")

    def write(self, parts: Sequence[Buffer]) -> None:
        """Append the parts, in order."""
        self._require_open()
        # Broken until proven otherwise: an error from wherever leaves it so.
        self._state = _State.BROKEN
        views = [view for part in parts if (view := memoryview(part).cast("B")).nbytes]
        length = sum(view.nbytes for view in views)
        with self._tree.translating(self._name):
            self._admit(length)
            write_all(self._filesystem, self._file, views)
            self._length += length
            self._start_write_back()
        self._state = _State.OPEN

    def commit(self) -> None:
        """Make the object durable and visible, whole, under its name."""
        self._require_open()
        self._state = _State.BROKEN
        with self._tree.translating(self._name):
            self._filesystem.sync_file(self._file)
            size = self._filesystem.status(self._file).size
            if size != self._length:
                path = self._tree.path(self._name)
                raise errors.StorageError(f"{path}: {self._length} bytes written, {size} there")
            # Whoever unmounts the storage while we write must not be told that all is well.
            self._tree.check()
            self._rename()
            self._filesystem.sync_directory(self._directory)
        self._state = _State.CLOSED
        if self._name == MARKER:
            self._tree.check()  # the marker is seen from now on

    def _rename(self) -> None:
        try:
            self._filesystem.rename(self._directory, self._partial, self._leaf)
        except FileExistsError:
            # Whoever sees "exists" may count on the object: its writer may not be so far yet.
            self._filesystem.sync_directory(self._directory)
            raise
        self._renamed = True

    def _require_open(self) -> None:
        if self._state is not _State.OPEN:
            path = self._tree.path(self._name)
            raise errors.StorageError(f"{path}: its writer is {self._state.value}")

    def _start_write_back(self) -> None:
        length = self._length - self._write_back_start
        if length >= WRITE_BACK_STEP:
            self._filesystem.start_write_back(self._file, self._write_back_start, length)
            self._write_back_start = self._length

    def _drop(self) -> None:
        try:
            self._filesystem.close(self._file)
        finally:
            if not self._renamed:
                with contextlib.suppress(FileNotFoundError):
                    self._filesystem.unlink(self._directory, self._partial)


def write_all(filesystem: FileSystem, file: int, parts: Iterable[memoryview]) -> None:
    """Append all parts, however few bytes the system takes at a time. No part is empty."""
    rest = list(parts)
    first = 0
    while first < len(rest):
        written = filesystem.write(file, rest[first:] if first else rest)
        if written <= 0:
            raise errors.StorageError("the system took no byte of a write")
        while first < len(rest) and written >= rest[first].nbytes:
            written -= rest[first].nbytes
            first += 1
        if written:
            rest[first] = rest[first][written:]
