"""Keeps files open between reads: a restore reads the same packs again and again."""

import contextlib
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ruchu.storage.filesystem import FileSystem

OPEN_MAX = 64  # well below the usual limit of 1,024 open files, with several storages open


@dataclass(slots=True)
class _Open:
    handle: int
    users: int = 0
    dropped: bool = False


class ReadHandles:
    """The most recently used files. A handle is closed when nobody reads through it any more."""

    def __init__(
        self, filesystem: FileSystem, open_file: Callable[[str], int], open_max: int = OPEN_MAX
    ) -> None:
        self._filesystem = filesystem
        self._open_file = open_file
        self._open_max = open_max
        self._lock = threading.Lock()
        self._files: OrderedDict[str, _Open] = OrderedDict()

    @contextlib.contextmanager
    def borrow(self, name: str) -> Iterator[int]:
        """Hand out a handle for the time of the context; it is given up after an OSError."""
        file = self._take_current(name)
        try:
            yield file.handle
        except OSError:
            self.drop(name)
            raise
        finally:
            self._give_back(file)

    def drop(self, name: str) -> None:
        """Forget one file."""
        with self._lock:
            file = self._files.pop(name, None)
            if file is not None:
                self._retire(file)

    def close(self) -> None:
        """Forget all files; later reads open them again."""
        with self._lock:
            while self._files:
                self._retire(self._files.popitem()[1])

    def _take_current(self, name: str) -> _Open:
        file = self._take(name)
        if self._is_current(file):
            return file
        # Removed under us, perhaps put anew by a repair: look the name up again.
        self._give_back(file)
        self.drop(name)
        return self._take(name)

    def _is_current(self, file: _Open) -> bool:
        try:
            return self._filesystem.status(file.handle).links > 0
        except OSError:
            return False  # ESTALE of a share that came back

    def _take(self, name: str) -> _Open:
        with self._lock:
            file = self._files.get(name)
            if file is not None:
                self._files.move_to_end(name)
                file.users += 1
                return file
        # Outside of the lock: opening can take long, and others read meanwhile.
        file = _Open(self._open_file(name), users=1)
        with self._lock:
            displaced = self._files.pop(name, None)
            if displaced is not None:
                self._retire(displaced)
            self._files[name] = file
            while len(self._files) > self._open_max:
                self._retire(self._files.popitem(last=False)[1])
        return file

    def _give_back(self, file: _Open) -> None:
        with self._lock:
            file.users -= 1
            if file.dropped and file.users == 0:
                self._filesystem.close(file.handle)

    def _retire(self, file: _Open) -> None:
        file.dropped = True
        if file.users == 0:
            self._filesystem.close(file.handle)
