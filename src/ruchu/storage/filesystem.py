"""The small port through which a storage touches a file system, and the real one behind it.

Everything is done relative to the handle of a directory, never by a long path, so that nobody can
lead us out of the storage by swapping a directory for a symbolic link. Handles are small integers.
All functions raise OSError as the system does.
"""

import contextlib
import ctypes
import enum
import errno
import fcntl
import os
import stat
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from ruchu.storage.contract import Buffer

# linux/fs.h: _IOR('f', 1, long) and _IOW('f', 2, long), although an int is what is moved.
_LONG = struct.calcsize("l")
_GET_FLAGS = 0x8000_6601 | _LONG << 16
_SET_FLAGS = 0x4000_6602 | _LONG << 16
_IMMUTABLE, _APPEND = 0x10, 0x20
_SEAL = _IMMUTABLE | _APPEND
_FLAGS = struct.Struct("i")

_RENAME_NOREPLACE = 1
# ENOSYS: the kernel or sandbox has no renameat2; EINVAL: this file system (NFS) lacks the flag.
_NO_RENAMEAT2 = {errno.ENOSYS, errno.EINVAL}
_LIBC = ctypes.CDLL(None, use_errno=True)

_PARTS_MAX = 1024  # IOV_MAX of Linux

# Backups hold everything that the machines held: nobody else reads them.
_FILE_MODE = 0o600
_DIRECTORY_MODE = 0o700

_OPEN_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
# O_NONBLOCK: a FIFO planted in the storage must not hang us; regular files do not care.
_OPEN_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
_CREATE_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC


class Kind(enum.Enum):
    """What a directory entry is."""

    FILE = "file"
    DIRECTORY = "directory"
    LINK = "link"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Status:
    """What the file system says of a file or directory.

    `links` is 0 once nobody can find it by name; `identity` is the device and the inode.
    """

    kind: Kind
    size: int
    links: int
    identity: tuple[int, int]


@dataclass(frozen=True, slots=True)
class Entry:
    """One entry of a directory; `size` counts for files only."""

    name: str
    kind: Kind
    size: int


class FileSystem(Protocol):
    """What a storage needs of a file system. Usable from several threads at once."""

    def open_root(self, path: str) -> int:
        """Open the directory of the storage; the operator may have put a link there."""

    def open_directory(self, directory: int, name: str) -> int:
        """Open a directory; a link raises ENOTDIR or ELOOP."""

    def open_file(self, directory: int, name: str) -> int:
        """Open for reading whatever is there except links (ELOOP); it never blocks."""

    def create(self, directory: int, name: str) -> int:
        """Make a new file, for writing; EEXIST if the name is taken."""

    def close(self, handle: int) -> None:
        """Give a handle back."""

    def write(self, file: int, parts: Sequence[Buffer]) -> int:
        """Append some of the parts, in order; return how many bytes, possibly fewer."""

    def read(self, file: int, start: int, buffer: memoryview) -> int:
        """Read into the buffer; return how many bytes, possibly fewer, 0 at the end."""

    def start_write_back(self, file: int, start: int, length: int) -> None:
        """Ask for the range to go to the disk soon; no promise."""

    def sync_file(self, file: int) -> None:
        """Make content and flags of a file durable; its name is not part of it."""

    def sync_directory(self, directory: int) -> None:
        """Make every entry made, renamed or removed in this directory durable."""

    def make_directory(self, directory: int, name: str) -> None:
        """Make a directory; EEXIST if the name is taken."""

    def rename(self, directory: int, source: str, target: str) -> None:
        """Rename within a directory, atomically; EEXIST if the target is taken, whatever it is."""

    def unlink(self, directory: int, name: str) -> None:
        """Remove an entry that is no directory."""

    def scan(self, directory: int) -> list[Entry]:
        """Return the entries, without those that vanish meanwhile."""

    def status(self, handle: int) -> Status:
        """Describe what a handle is."""

    def status_at(self, directory: int, name: str) -> Status:
        """Describe an entry, itself and not where it leads."""

    def free(self, directory: int) -> int:
        """Return the bytes an ordinary user can still write here."""

    def is_immutable(self, file: int) -> bool:
        """Tell whether the immutable flag is set, and is no seal."""

    def set_immutable(self, file: int, *, immutable: bool) -> None:
        """Set or clear the immutable flag, and clear a seal; other flags stay."""

    def is_sealed(self, handle: int) -> bool:
        """Tell whether a file has both flags, or a directory the append-only one."""

    def set_sealed(self, handle: int, *, sealed: bool) -> None:
        """Set or clear both flags of a file, or the append-only flag of a directory."""


class OsFileSystem:
    """The file systems of this host."""

    def open_root(self, path: str) -> int:
        """Open the directory of the storage."""
        return os.open(path, _OPEN_DIRECTORY)

    def open_directory(self, directory: int, name: str) -> int:
        """Open a directory that is no link."""
        return os.open(name, _OPEN_DIRECTORY | os.O_NOFOLLOW, dir_fd=directory)

    def open_file(self, directory: int, name: str) -> int:
        """Open for reading what is no link."""
        return os.open(name, _OPEN_FILE, dir_fd=directory)

    def create(self, directory: int, name: str) -> int:
        """Make a new file, for writing."""
        return os.open(name, _CREATE_FILE, _FILE_MODE, dir_fd=directory)

    def close(self, handle: int) -> None:
        """Give a handle back."""
        os.close(handle)

    def write(self, file: int, parts: Sequence[Buffer]) -> int:
        """Append some of the parts."""
        return os.writev(file, parts[:_PARTS_MAX])

    def read(self, file: int, start: int, buffer: memoryview) -> int:
        """Read straight into the buffer, without a file position."""
        return os.preadv(file, [buffer], start)

    def start_write_back(self, file: int, start: int, length: int) -> None:
        """Ask for the range to go to the disk soon.

        DONTNEED makes Linux start writing dirty pages; that it may also drop clean ones keeps a
        backup from pushing the host's own data out of the page cache. It is a hint: what is wrong
        with the disk is told by the sync.
        """
        with contextlib.suppress(OSError):
            os.posix_fadvise(file, start, length, os.POSIX_FADV_DONTNEED)

    def sync_file(self, file: int) -> None:
        """Make a file durable."""
        os.fsync(file)

    def sync_directory(self, directory: int) -> None:
        """Make the entries of a directory durable."""
        try:
            os.fsync(directory)
        except OSError as error:
            # Some network file systems have no such call: their entries are durable at once.
            if error.errno != errno.EINVAL:
                raise

    def make_directory(self, directory: int, name: str) -> None:
        """Make a directory."""
        os.mkdir(name, _DIRECTORY_MODE, dir_fd=directory)

    def rename(self, directory: int, source: str, target: str) -> None:
        """Rename without replacing."""
        try:
            _rename_noreplace(directory, source, target)
        except OSError as error:
            if error.errno not in _NO_RENAMEAT2:
                raise
            link_and_unlink(directory, source, target)

    def unlink(self, directory: int, name: str) -> None:
        """Remove an entry."""
        os.unlink(name, dir_fd=directory)

    def scan(self, directory: int) -> list[Entry]:
        """Return the entries."""
        found = []
        with os.scandir(directory) as entries:
            for entry in entries:
                try:
                    status = entry.stat(follow_symlinks=False)
                except FileNotFoundError:
                    continue
                found.append(Entry(entry.name, _kind(status.st_mode), status.st_size))
        return found

    def status(self, handle: int) -> Status:
        """Describe what a handle is."""
        return _status(os.fstat(handle))

    def status_at(self, directory: int, name: str) -> Status:
        """Describe an entry."""
        return _status(os.stat(name, dir_fd=directory, follow_symlinks=False))

    def free(self, directory: int) -> int:
        """Return the bytes an ordinary user can still write here."""
        room = os.fstatvfs(directory)
        return room.f_bavail * room.f_frsize

    def is_immutable(self, file: int) -> bool:
        """Tell whether the immutable flag is set."""
        return _flags(file) & _SEAL == _IMMUTABLE

    def set_immutable(self, file: int, *, immutable: bool) -> None:
        """Set or clear the immutable flag."""
        _change_flags(file, _SEAL, _IMMUTABLE if immutable else 0)

    def is_sealed(self, handle: int) -> bool:
        """Tell whether a file has both flags, or a directory the append-only one."""
        seal = _seal_of(handle)
        return _flags(handle) & seal == seal

    def set_sealed(self, handle: int, *, sealed: bool) -> None:
        """Set or clear both flags of a file, or the append-only flag of a directory."""
        seal = _seal_of(handle)
        _change_flags(handle, seal, seal if sealed else 0)


def link_and_unlink(directory: int, source: str, target: str) -> None:
    """Rename without replacing where the file system has no such call.

    A second name, then the first one away: a crash in between leaves both, and the first is
    swept as unfinished.
    """
    try:
        os.link(source, target, src_dir_fd=directory, dst_dir_fd=directory, follow_symlinks=False)
    except FileExistsError:
        # NFS repeats a request whose answer was lost, and then finds what it made itself.
        source_status = os.stat(source, dir_fd=directory, follow_symlinks=False)
        target_status = os.stat(target, dir_fd=directory, follow_symlinks=False)
        if not os.path.samestat(source_status, target_status):
            raise
    os.unlink(source, dir_fd=directory)


def _rename_noreplace(directory: int, source: str, target: str) -> None:
    call = getattr(_LIBC, "renameat2", None)
    if call is None:
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))
    ctypes.set_errno(0)
    names = os.fsencode(source), os.fsencode(target)
    if call(directory, names[0], directory, names[1], ctypes.c_uint(_RENAME_NOREPLACE)) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), target)


def _flags(file: int) -> int:
    answer = fcntl.ioctl(file, _GET_FLAGS, bytes(_FLAGS.size))
    return int(_FLAGS.unpack(answer)[0])


def _change_flags(handle: int, mask: int, value: int) -> None:
    old = _flags(handle)
    new = old & ~mask | value
    if old & new & _IMMUTABLE and old != new:
        # What is immutable and stays so may change in nothing else: append-only in between.
        fcntl.ioctl(handle, _SET_FLAGS, _FLAGS.pack(new & ~_IMMUTABLE | _APPEND))
    if old != new:
        fcntl.ioctl(handle, _SET_FLAGS, _FLAGS.pack(new))


def _seal_of(handle: int) -> int:
    return _APPEND if stat.S_ISDIR(os.fstat(handle).st_mode) else _SEAL


def _kind(mode: int) -> Kind:
    if stat.S_ISREG(mode):
        return Kind.FILE
    if stat.S_ISDIR(mode):
        return Kind.DIRECTORY
    return Kind.LINK if stat.S_ISLNK(mode) else Kind.OTHER


def _status(found: os.stat_result) -> Status:
    return Status(_kind(found.st_mode), found.st_size, found.st_nlink, (found.st_dev, found.st_ino))
