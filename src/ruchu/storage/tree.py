"""Finds a way through the directories of a storage without ever leaving it.

Also notices that the storage is not there: a storage on a mount that is gone must not look like
an empty one, and must not be filled where the mount used to be.
"""

import contextlib
import threading
from collections.abc import Iterator

from ruchu import errors
from ruchu.storage import failures, names
from ruchu.storage.contract import MARKER
from ruchu.storage.filesystem import FileSystem, Kind

_MARKER_READ_MAX = 64 * 1024  # a marker is a few hundred bytes


class Tree:
    """The directory of a storage, which must be there; it is never made."""

    def __init__(self, root: str, filesystem: FileSystem) -> None:
        self.root = root
        self.filesystem = filesystem
        self._lock = threading.Lock()
        self._identity: tuple[int, int] | None = None
        self._marker: bytes | None = None
        self._durable: set[str] = set()
        self.check()

    def check(self) -> None:
        """Raise StorageGone unless the storage is still where it was."""
        with self.translating(""), self._entered():
            pass

    @contextlib.contextmanager
    def translating(self, name: str) -> Iterator[None]:
        """Turn errors of the system into ours; `name` is the object in question."""
        try:
            yield
        except OSError as error:
            failure = failures.translate(error, self.path(name))
            if name and isinstance(failure, errors.ObjectMissing):
                self.check()
            raise failure from error

    def path(self, name: str) -> str:
        """Return where an object lies, for messages."""
        return f"{self.root}/{name}" if name else self.root

    @contextlib.contextmanager
    def directory(self, path: str, *, make: bool = False) -> Iterator[int]:
        """Open a directory (`""` is the top), for the time of the context.

        With `make`, what is missing is made, and every entry on the way is durable.
        """
        with contextlib.ExitStack() as opened:
            here = opened.enter_context(self._entered())
            walked = ""
            for component in path.split("/") if path else ():
                walked = names.join(walked, component)
                below = self._below(here, component, walked, make=make)
                opened.callback(self.filesystem.close, below)
                here = below
            yield here

    def forget_marker(self) -> None:
        """Take note that the marker is removed on purpose."""
        with self._lock:
            self._marker = None

    @contextlib.contextmanager
    def _entered(self) -> Iterator[int]:
        try:
            root = self.filesystem.open_root(self.root)
        except (FileNotFoundError, NotADirectoryError) as error:
            raise errors.StorageGone(f"{self.root}: there is no such directory") from error
        try:
            self._recognise(root)
            yield root
        finally:
            self.filesystem.close(root)

    def _recognise(self, root: int) -> None:
        """Compare the directory with the one seen before; another mount has another identity.

        The same storage plugged in again may get another identity: then its marker decides.
        """
        identity = self.filesystem.status(root).identity
        with self._lock:
            known, marker = self._identity, self._marker
        if marker is not None and identity == known:
            try:
                self.filesystem.status_at(root, MARKER)
            except FileNotFoundError as error:
                raise errors.StorageGone(f"{self.root}: {MARKER} is not there any more") from error
            return
        found = self._read_marker(root)
        if known not in {None, identity} and (found is None or found != marker):
            raise errors.StorageGone(f"{self.root}: another directory is there now")
        with self._lock:
            if known != identity:
                self._durable.clear()
            self._identity, self._marker = identity, found

    def _read_marker(self, root: int) -> bytes | None:
        try:
            file = self.filesystem.open_file(root, MARKER)
        except FileNotFoundError:
            return None
        try:
            content = bytearray(_MARKER_READ_MAX)
            length = self.filesystem.read(file, 0, memoryview(content))
            return bytes(content[:length])
        finally:
            self.filesystem.close(file)

    def _below(self, here: int, component: str, walked: str, *, make: bool) -> int:
        try:
            handle = self.filesystem.open_directory(here, component)
        except FileNotFoundError:
            if not make:
                raise
            handle = self._make(here, component, walked)
        except NotADirectoryError as error:
            # A link would lead out; an object has nothing below it, which a reader is told so.
            kind = self.filesystem.status_at(here, component).kind
            if kind is Kind.FILE and not make:
                raise
            raise errors.UnsafeName(f"{self.path(walked)} is no directory") from error
        try:
            if make:
                self._make_entry_durable(here, walked)
        except BaseException:
            self.filesystem.close(handle)
            raise
        return handle

    def _make(self, here: int, component: str, walked: str) -> int:
        with self._lock:
            self._durable.discard(walked)
        # Another writer may be quicker.
        with contextlib.suppress(FileExistsError):
            self.filesystem.make_directory(here, component)
        return self.filesystem.open_directory(here, component)

    def _make_entry_durable(self, parent: int, walked: str) -> None:
        """Sync the parent once for each directory, whoever made it.

        Another writer may have made it a moment ago and not have synced it yet; what we store in
        it must not depend on that writer.
        """
        with self._lock:
            if walked in self._durable:
                return
        self.filesystem.sync_directory(parent)
        with self._lock:
            self._durable.add(walked)
