"""The objects of a storage as files: which there are, what they look like, their seals.

Walks by path, as root, without opening an object: the guard that runs this must not wait for its
own permission.
"""

import contextlib
import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from ruchu import errors
from ruchu.storage import names
from ruchu.storage.filesystem import OsFileSystem
from ruchu.storage.guarding import inodes

_HOST = OsFileSystem()
_OPEN = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC


@dataclass(frozen=True, slots=True)
class Seen:
    """An object as it was seen.

    Attributes:
        size: in bytes.
        mtime_ns: when its content changed last.
        inode: its number; another file under the same name has another.
        sealed: whether it carries the seal.
        locked: whether it carries the immutable flag alone, as a lock sets it.
    """

    size: int
    mtime_ns: int
    inode: int
    sealed: bool
    locked: bool

    @property
    def content(self) -> tuple[int, int, int]:
        """What changes if somebody changes or replaces the content."""
        return self.size, self.mtime_ns, self.inode

    @property
    def protected(self) -> bool:
        """Whether the kernel keeps it from being changed."""
        return self.sealed or self.locked


def look(root: str, name: str) -> Seen | None:
    """Return what an object looks like, None if there is none under the name."""
    try:
        found = inodes.look(f"{root}/{name}")
    except OSError:
        return None
    if not stat.S_ISREG(found.mode):
        return None
    locked = found.immutable and not found.append
    return Seen(found.size, found.mtime_ns, found.inode, found.sealed, locked)


def directories(root: str, top: str = "") -> Iterator[str]:
    """Yield the directories of a storage, from one of them (`""` is the top) downwards."""
    pending = [top]
    while pending:
        here = pending.pop()
        yield here
        pending += _below(root, here)


def _below(root: str, here: str) -> list[str]:
    found = []
    gone = contextlib.suppress(FileNotFoundError, NotADirectoryError)
    with gone, os.scandir(f"{root}/{here}") as entries:
        for entry in entries:
            name = names.join(here, entry.name)
            if entry.is_dir(follow_symlinks=False) and names.is_safe(name):
                found.append(name)
    return found


def objects_in(root: str, directory: str) -> Iterator[str]:
    """Yield the names of the objects right in a directory."""
    with contextlib.suppress(FileNotFoundError), os.scandir(f"{root}/{directory}") as entries:
        for entry in entries:
            name = names.join(directory, entry.name)
            if entry.is_file(follow_symlinks=False) and names.is_safe(name):
                yield name


def objects(root: str) -> Iterator[tuple[str, Seen]]:
    """Yield every object and what it looks like."""
    for directory in directories(root):
        for name in objects_in(root, directory):
            seen = look(root, name)
            if seen is not None:
                yield name, seen


def should_be_open(root: str, directory: str) -> bool:
    """Tell whether a directory carries no flag: it holds objects only (see `sealing`)."""
    return bool(directory) and not _below(root, directory)


def seal(root: str, name: str) -> None:
    """Seal an object or a directory; one that a lock protects stays as it is.

    Raises:
        ImmutableNotApplied: this file system or user cannot.
    """
    _set(root, name, sealed=True)


def unseal(root: str, name: str) -> None:
    """Lift the seal of an object or a directory; one that a lock protects stays as it is.

    Raises:
        ImmutableNotApplied: this file system or user cannot.
    """
    _set(root, name, sealed=False)


def _set(root: str, name: str, *, sealed: bool) -> None:
    path = f"{root}/{name}" if name else root
    try:
        handle = os.open(path, _OPEN)
    except FileNotFoundError:
        return  # removed by Ruchu in the meantime
    except OSError as error:
        raise errors.ImmutableNotApplied(f"{path}: {error.strerror}") from error
    try:
        if _HOST.is_sealed(handle) != sealed and not _is_locked(handle):
            _HOST.set_sealed(handle, sealed=sealed)
            if _HOST.is_sealed(handle) != sealed:
                raise errors.ImmutableNotApplied(path)
    except OSError as error:
        raise errors.ImmutableNotApplied(f"{path}: {error.strerror}") from error
    finally:
        os.close(handle)


def _is_locked(handle: int) -> bool:
    return stat.S_ISREG(os.fstat(handle).st_mode) and _HOST.is_immutable(handle)


def seal_all(root: str) -> int:
    """Seal a storage from the top downwards; return how many files and directories now are.

    The top comes first: from then on Ruchu seals what it adds, so nothing slips through.

    Raises:
        ImmutableNotApplied: this file system or user cannot.
    """
    count = 0
    for directory in directories(root):
        if not should_be_open(root, directory):
            seal(root, directory)
            count += 1
        for name in objects_in(root, directory):
            seal(root, name)
            count += 1
    return count


def unseal_all(root: str) -> int:
    """Lift all seals, the top's last; locks stay. Return how many files and directories there are.

    Raises:
        ImmutableNotApplied: this file system or user cannot.
    """
    count = 0
    for directory in sorted(directories(root), reverse=True):
        for name in objects_in(root, directory):
            unseal(root, name)
            count += 1
        unseal(root, directory)
        count += 1
    return count
