"""A storage in a directory: a local disk, a USB disk, a mounted share."""

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from ruchu import errors
from ruchu.storage import failures, names
from ruchu.storage import filesystem as filesystems
from ruchu.storage.contract import MARKER, Buffer, ObjectInfo, ObjectWriter
from ruchu.storage.filesystem import Entry, FileSystem, Kind
from ruchu.storage.free_space import RESERVE_DEFAULT, SMALL_MAX, FreeSpace
from ruchu.storage.guarding.sealing import SealingFileSystem
from ruchu.storage.handles import ReadHandles
from ruchu.storage.tree import Tree
from ruchu.storage.writing import DirectoryWriter

_HOST: FileSystem = filesystems.OsFileSystem()
# The system puts these there: at the top of ext4; where a file open elsewhere was removed on NFS.
_SYSTEM_TOP = "lost+found"
_SYSTEM_ANYWHERE = ".nfs"
# What file systems say that know no immutable flag, or do not let this user set it.
_NO_FLAGS = {
    errno.ENOTTY,
    errno.EOPNOTSUPP,
    errno.EINVAL,
    errno.ENOSYS,
    errno.EPERM,
    errno.EACCES,
}
_PROTECTED_HINT = "The object is protected (immutable). Release it first, if it may go."


class DirectoryStorage:
    """A storage in a directory that is there already. See `contract.Storage` for the methods.

    Directories are made as needed and never removed.

    Args:
        root: the directory; StorageGone is raised if it is not there.
        filesystem: what stands behind it; the host's unless a test says otherwise.
        reserve_bytes: what stays free; see `free_space`.
    """

    forkable = True

    def __init__(
        self,
        root: str | os.PathLike[str],
        *,
        filesystem: FileSystem = _HOST,
        reserve_bytes: int = RESERVE_DEFAULT,
    ) -> None:
        self._filesystem = SealingFileSystem(filesystem)
        self._tree = Tree(os.fspath(root), self._filesystem)
        self._space = FreeSpace(self._ask_free, reserve_bytes)
        self._handles = ReadHandles(self._filesystem, self._open_object)
        self._live: set[str] = set()

    def put(self, name: str, data: Buffer) -> None:
        """Store an object, durably."""
        names.check(name)
        length = memoryview(data).nbytes
        small = length <= SMALL_MAX
        self._require_absent(name)
        admit = self._space.admit_small if small else self._space.admit
        if not small:
            self._space.begin()
        with DirectoryWriter(self._tree, name, self._live, admit) as writer:
            writer.write([data])
            writer.commit()

    @contextlib.contextmanager
    def open_writer(self, name: str) -> Iterator[ObjectWriter]:
        """Begin an object. Leaving without `commit` drops it."""
        names.check(name)
        self._space.begin()
        with DirectoryWriter(self._tree, name, self._live, self._space.admit) as writer:
            yield writer

    def get(self, name: str, size_max: int) -> bytes:
        """Return a whole object."""
        with self._tree.translating(name):
            file = self._open_object(name)
            try:
                size = self._filesystem.status(file).size
                if size > size_max:
                    path = self._tree.path(name)
                    raise failures.ObjectTooLarge(
                        f"{path} has {size} bytes, {size_max} are allowed"
                    )
                content = bytearray(size)
                self._fill(name, file, 0, memoryview(content))
            finally:
                self._filesystem.close(file)
        return bytes(content)

    def read_into(self, name: str, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer from `start` of an object."""
        with self._tree.translating(name), self._handles.borrow(name) as file:
            self._fill(name, file, start, buffer.cast("B"))

    def size(self, name: str) -> int:
        """Return the bytes of an object."""
        parent, leaf = names.split(names.check(name))
        with self._tree.translating(name), self._tree.directory(parent) as directory:
            status = self._filesystem.status_at(directory, leaf)
            self._require_object(name, status.kind)
            return status.size

    def list(self, prefix: str) -> Iterator[ObjectInfo]:
        """Yield every object below the directory `prefix`, `""` being the top."""
        for name, entry in self._walk(_top(prefix)):
            if entry.kind is Kind.FILE and names.is_safe(name):
                yield ObjectInfo(name, entry.size)

    def folders(self, prefix: str) -> Iterator[str]:
        """Yield the names of the directories right below a directory of the storage."""
        top = _top(prefix)
        for entry in self._scan(top):
            if entry.kind is Kind.DIRECTORY and names.is_safe(names.join(top, entry.name)):
                yield entry.name

    def foreign(self) -> Sequence[str]:
        """Return the names in the storage that are no object names."""
        found = []
        for name, entry in self._walk(""):
            ours = names.is_safe(name) or names.is_partial(name)
            of_the_system = name == _SYSTEM_TOP or entry.name.startswith(_SYSTEM_ANYWHERE)
            if not of_the_system and not (ours and entry.kind is Kind.FILE):
                found.append(name)
        return sorted(found)

    def delete(self, name: str) -> None:
        """Remove an object, durably."""
        names.check(name)
        self._handles.drop(name)
        with contextlib.suppress(errors.ObjectMissing):
            self._unlink(name)
        if name == MARKER:
            self._tree.forget_marker()

    def sweep_unfinished(self, prefix: str) -> int:
        """Remove what dead writers left below `prefix`, not what our own are at."""
        left = [
            name
            for name, entry in self._walk(_top(prefix))
            if entry.kind is Kind.FILE and names.is_partial(name) and name not in self._live
        ]
        for name in left:
            with contextlib.suppress(errors.ObjectMissing):
                self._unlink(name)
        # A writer that was killed between its rename and its sync left an object that is seen, and
        # that a power failure can still take away: nobody may build upon it before it is durable.
        self._make_durable(_top(prefix))
        return len(left)

    def _make_durable(self, top: str) -> None:
        """Sync every directory from `top` downwards; those that are clean cost next to nothing."""
        pending = [top]
        while pending:
            here = pending.pop()
            with (
                contextlib.suppress(errors.ObjectMissing),
                self._tree.translating(here),
                self._tree.directory(here) as directory,
            ):
                self._filesystem.sync_directory(directory)
                below = [
                    e.name for e in self._filesystem.scan(directory) if e.kind is Kind.DIRECTORY
                ]
                names_below = (names.join(here, name) for name in below)
                pending += [name for name in names_below if names.is_safe(name)]

    def free_space(self) -> int:
        """Return the bytes that can still be written before the reserve is touched."""
        return self._space.left()

    def protect(self, name: str) -> None:
        """Set the immutable flag and check that it is there."""
        with self._opened(name) as file:
            try:
                self._filesystem.set_immutable(file, immutable=True)
            except OSError as error:
                if error.errno not in _NO_FLAGS:
                    raise
                detail = f"{self._tree.path(name)}: {os.strerror(error.errno or errno.EIO)}"
                raise errors.ImmutableNotApplied(detail) from error
            self._filesystem.sync_file(file)
        if not self.is_protected(name):
            raise errors.ImmutableNotApplied(self._tree.path(name))

    def release(self, name: str) -> None:
        """Take the immutable flag off and check that it is gone."""
        if not self.is_protected(name):
            return
        with self._opened(name) as file:
            self._filesystem.set_immutable(file, immutable=False)
            self._filesystem.sync_file(file)
        if self.is_protected(name):
            raise errors.StorageReadOnly(f"{self._tree.path(name)} is still immutable")

    def is_protected(self, name: str) -> bool:
        """Tell whether the immutable flag is there."""
        with self._opened(name) as file:
            try:
                return self._filesystem.is_immutable(file)
            except OSError as error:
                if error.errno not in _NO_FLAGS:
                    raise
                return False

    def close(self) -> None:
        """Give back handles; the storage stays usable."""
        self._handles.close()

    def _ask_free(self) -> int:
        with self._tree.translating(""), self._tree.directory("") as root:
            return self._filesystem.free(root)

    def _open_object(self, name: str) -> int:
        parent, leaf = names.split(names.check(name))
        with self._tree.directory(parent) as directory:
            file = self._filesystem.open_file(directory, leaf)
        try:
            self._require_object(name, self._filesystem.status(file).kind)
        except BaseException:
            self._filesystem.close(file)
            raise
        return file

    @contextlib.contextmanager
    def _opened(self, name: str) -> Iterator[int]:
        with self._tree.translating(name):
            file = self._open_object(name)
            try:
                yield file
            finally:
                self._filesystem.close(file)

    def _fill(self, name: str, file: int, start: int, buffer: memoryview) -> None:
        done = 0
        while done < buffer.nbytes:
            count = self._filesystem.read(file, start + done, buffer[done:])
            if count <= 0:
                wanted = f"{buffer.nbytes} bytes wanted from {start}"
                raise errors.ObjectShort(f"{self._tree.path(name)}: {wanted}, it ends after {done}")
            done += count

    def _require_object(self, name: str, kind: Kind) -> None:
        if kind is Kind.DIRECTORY:
            raise errors.ObjectMissing(f"{self._tree.path(name)} is a directory")
        if kind is not Kind.FILE:
            raise errors.UnsafeName(f"{self._tree.path(name)} is no regular file")

    def _require_absent(self, name: str) -> None:
        """Spare a write that would be refused at the end; the rename is what decides."""
        parent, leaf = names.split(name)
        try:
            with self._tree.translating(name), self._tree.directory(parent) as directory:
                self._filesystem.status_at(directory, leaf)
                # Whoever sees "exists" may count on the object.
                self._filesystem.sync_directory(directory)
        except errors.ObjectMissing:
            return
        raise errors.ObjectExists(self._tree.path(name))

    def _unlink(self, name: str) -> None:
        parent, leaf = names.split(name)
        with self._tree.translating(name), self._tree.directory(parent) as directory:
            try:
                self._filesystem.unlink(directory, leaf)
            except FileNotFoundError:
                # Another process may have removed it just now: it must stay so.
                self._filesystem.sync_directory(directory)
                raise
            except PermissionError as error:
                if not self._seems_protected(name):
                    raise
                path = self._tree.path(name)
                raise errors.StorageReadOnly(path, hint=_PROTECTED_HINT) from error
            self._filesystem.sync_directory(directory)

    def _seems_protected(self, name: str) -> bool:
        try:
            return self.is_protected(name)
        except errors.StorageError:
            return False

    def _walk(self, top: str) -> Iterator[tuple[str, Entry]]:
        """Yield what is below a directory, except directories of ours: these are entered."""
        pending = [top]
        while pending:
            here = pending.pop()
            for entry in self._scan(here):
                name = names.join(here, entry.name)
                if entry.kind is Kind.DIRECTORY and names.is_safe(name):
                    pending.append(name)
                else:
                    yield name, entry

    def _scan(self, path: str) -> Sequence[Entry]:
        try:
            with self._tree.translating(path), self._tree.directory(path) as directory:
                return self._filesystem.scan(directory)
        except errors.ObjectMissing:
            return ()  # never made, or removed meanwhile; the storage itself is there


def _top(prefix: str) -> str:
    return names.check(prefix.removesuffix("/")) if prefix else ""
