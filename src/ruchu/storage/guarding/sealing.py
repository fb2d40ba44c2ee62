"""A file system whose finished objects are sealed: the kernel refuses to change or remove them.

The seal of an object is the immutable flag together with the append-only flag; the immutable flag
alone is what a lock sets (`Storage.protect`), so the two can be told apart. A directory that holds
directories is append-only: entries can be made in it, none renamed or removed. Directories that
hold objects only carry no flag: each of their entries is sealed by itself, and objects come and go
there by rename and unlink as ever.

A storage is sealed if its top is append-only. Whoever else writes to it has to lift the flags
first. Ruchu lifts those of the one object that it removes, and of its directory for that moment.
"""

import contextlib
import errno
import threading
from collections.abc import Iterator, Sequence

from ruchu.storage.contract import Buffer
from ruchu.storage.filesystem import Entry, FileSystem, Kind, Status
from ruchu.storage.guarding import admission

# Another process may seal a directory in the moment that we need it open; each try loses to one
# other writer at most, and there is one writer for a chain.
_TRIES_MAX = 100
_NO_FLAGS = {
    errno.ENOTTY, errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES,
}  # fmt: skip


class SealingFileSystem:
    """Wraps a file system for one storage. See `filesystem.FileSystem` for the methods."""

    def __init__(self, inner: FileSystem) -> None:
        self._inner = inner
        self._sealed = False
        # Two threads that open and close the same directory would be in each other's way.
        self._lock = threading.Lock()

    def open_root(self, path: str) -> int:
        """Open the top, and see whether the storage is sealed and guarded."""
        root = self._inner.open_root(path)
        try:
            self._sealed = self._has_seal(root)
            admission.announce(self._inner.status(root).identity)
        except BaseException:
            self._inner.close(root)
            raise
        return root

    def open_directory(self, directory: int, name: str) -> int:
        """Open a directory."""
        return self._inner.open_directory(directory, name)

    def open_file(self, directory: int, name: str) -> int:
        """Open a file."""
        return self._inner.open_file(directory, name)

    def create(self, directory: int, name: str) -> int:
        """Make a new file, which is sealed when it gets its final name."""
        return self._inner.create(directory, name)

    def close(self, handle: int) -> None:
        """Give a handle back."""
        self._inner.close(handle)

    def write(self, file: int, parts: Sequence[Buffer]) -> int:
        """Append some of the parts."""
        return self._inner.write(file, parts)

    def read(self, file: int, start: int, buffer: memoryview) -> int:
        """Read into the buffer."""
        return self._inner.read(file, start, buffer)

    def start_write_back(self, file: int, start: int, length: int) -> None:
        """Ask for the range to go to the disk soon."""
        self._inner.start_write_back(file, start, length)

    def sync_file(self, file: int) -> None:
        """Make a file durable."""
        self._inner.sync_file(file)

    def sync_directory(self, directory: int) -> None:
        """Make entries durable."""
        self._inner.sync_directory(directory)

    def make_directory(self, directory: int, name: str) -> None:
        """Make a directory, and make the one around it append-only."""
        self._inner.make_directory(directory, name)
        if self._sealed:
            with self._lock:
                if not self._has_seal(directory):
                    self._inner.set_sealed(directory, sealed=True)

    def rename(self, directory: int, source: str, target: str) -> None:
        """Rename without replacing, and seal what has its final name now."""
        if not self._sealed:
            self._inner.rename(directory, source, target)
            return
        with self._lock:
            for last in _tries():
                with _again_unless(last), self._opened_up(directory):
                    self._inner.rename(directory, source, target)
                    break
        with self._file(directory, target) as file:
            self._inner.set_sealed(file, sealed=True)

    def unlink(self, directory: int, name: str) -> None:
        """Remove an entry, with its seal if it has one. A lock's flag is left alone, and holds."""
        if not self._sealed or self._inner.status_at(directory, name).kind is not Kind.FILE:
            self._inner.unlink(directory, name)
            return
        with self._lock, self._file(directory, name) as file:
            # What a process left half sealed counts as sealed.
            sealed = not self._inner.is_immutable(file)
            if sealed:
                self._inner.set_sealed(file, sealed=False)
            try:
                for last in _tries():
                    with _again_unless(last), self._opened_up(directory):
                        self._inner.unlink(directory, name)
                        break
            except OSError:
                if sealed:
                    self._inner.set_sealed(file, sealed=True)
                raise

    def scan(self, directory: int) -> list[Entry]:
        """Return the entries."""
        return self._inner.scan(directory)

    def status(self, handle: int) -> Status:
        """Describe what a handle is."""
        return self._inner.status(handle)

    def status_at(self, directory: int, name: str) -> Status:
        """Describe an entry."""
        return self._inner.status_at(directory, name)

    def free(self, directory: int) -> int:
        """Return the bytes that can still be written."""
        return self._inner.free(directory)

    def is_immutable(self, file: int) -> bool:
        """Tell whether a lock's flag is set."""
        return self._inner.is_immutable(file)

    def set_immutable(self, file: int, *, immutable: bool) -> None:
        """Set a lock's flag, or take it off: then the seal is what is left."""
        if immutable or not self._sealed:
            self._inner.set_immutable(file, immutable=immutable)
        else:
            self._inner.set_sealed(file, sealed=True)

    def is_sealed(self, handle: int) -> bool:
        """Tell whether a file or directory is sealed."""
        return self._inner.is_sealed(handle)

    def set_sealed(self, handle: int, *, sealed: bool) -> None:
        """Seal a file or directory, or lift its seal."""
        self._inner.set_sealed(handle, sealed=sealed)

    def _has_seal(self, handle: int) -> bool:
        try:
            return self._inner.is_sealed(handle)
        except OSError as error:
            if error.errno not in _NO_FLAGS:
                raise
            return False

    @contextlib.contextmanager
    def _file(self, directory: int, name: str) -> Iterator[int]:
        file = self._inner.open_file(directory, name)
        try:
            yield file
        finally:
            self._inner.close(file)

    @contextlib.contextmanager
    def _opened_up(self, directory: int) -> Iterator[None]:
        """Let entries of a directory be renamed and removed for the time of the context."""
        if not self._has_seal(directory):
            yield
            return
        self._inner.set_sealed(directory, sealed=False)
        try:
            yield
        finally:
            self._inner.set_sealed(directory, sealed=True)


def _tries() -> Iterator[bool]:
    """Yield for each try whether it is the last."""
    yield from (number == _TRIES_MAX for number in range(1, _TRIES_MAX + 1))


@contextlib.contextmanager
def _again_unless(last: bool) -> Iterator[None]:  # noqa: FBT001 - what `_tries` yields
    """Swallow a refusal: another process may have sealed the directory meanwhile."""
    try:
        yield
    except PermissionError:
        if last:
            raise
