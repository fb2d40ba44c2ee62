"""Disk images and block devices of this host as BlockReader and BlockWriter."""

import contextlib
import errno
import fcntl
import os
import stat
import struct
import threading
from collections.abc import Iterator
from pathlib import Path
from types import TracebackType
from typing import Self

from ruchu.errors import AlreadyExists, NotFound, StorageError, StorageFull, UsageError
from ruchu.model.extents import Content, Extent

_PREFERRED_IO = 4 << 20
# Every device and file system in use today is content with this.
_DIRECT_ALIGN = 4096
_BLKGETSIZE64 = 0x80081272
_BLKZEROOUT = 0x127F
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2


def _size_of(descriptor: int, path: Path) -> int:
    mode = os.fstat(descriptor).st_mode
    if stat.S_ISREG(mode):
        return os.fstat(descriptor).st_size
    if stat.S_ISBLK(mode):
        answer = fcntl.ioctl(descriptor, _BLKGETSIZE64, bytes(8))
        return int(struct.unpack("<Q", answer)[0])
    raise UsageError(f"({path} is neither a file nor a block device)")


def _open_direct(path: Path) -> int | None:
    """Open for writing past the page cache; None where that is not possible (tmpfs, some NFS)."""
    try:
        return os.open(path, os.O_WRONLY | os.O_DIRECT | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return None


class FileReader:
    """A raw image or block device, opened read-only. A context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise NotFound(f"({path}: {error.strerror})") from None
        self._size = _size_of(self._descriptor, path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """Bytes of the image."""
        return self._size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return _PREFERRED_IO

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer; an image that shrank meanwhile is an error."""
        done = 0
        while done < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[done:]], start + done)
            except OSError as error:
                raise StorageError(f"({self.path} at {start + done}: {error.strerror})") from None
            if count == 0:
                raise StorageError(f"({self.path} ends at {start + done}: it shrank)")
            done += count

    def extents(self) -> Iterator[Extent]:
        """Yield DATA and HOLE, as the file system tells them; a device is all UNKNOWN."""
        at = 0
        while at < self._size:
            try:
                data = os.lseek(self._descriptor, at, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    yield Extent(at, self._size - at, Content.HOLE)
                    return
                yield Extent(at, self._size - at, Content.UNKNOWN)
                return
            data = min(data, self._size)
            if data > at:
                yield Extent(at, data - at, Content.HOLE)
            end = min(os.lseek(self._descriptor, data, os.SEEK_HOLE), self._size)
            if end > data:
                yield Extent(data, end - data, Content.DATA)
            at = end


class FileWriter:
    """A raw image being made, or a block device being overwritten. A context manager.

    A new image appears under its name only when `finish` was called; before, it carries a
    temporary name, and leaving without `finish` removes it.
    """

    def __init__(self, path: Path, size: int, *, overwrite: bool = False) -> None:
        self.path = path
        self._size = size
        self._device = path.is_block_device()
        if path.exists() and not overwrite:
            raise AlreadyExists(f"({path})", hint="Name another target, or give --overwrite.")
        if path.exists() and not self._device and not path.is_file():
            raise UsageError(f"({path} is neither a file nor a block device)")
        self._working = path if self._device else path.with_name(f".{path.name}.ruchu-partial")
        flags = os.O_RDWR | os.O_CLOEXEC
        flags |= os.O_EXCL if self._device else os.O_CREAT | os.O_NOFOLLOW
        try:
            self._descriptor = os.open(self._working, flags, 0o600)
        except OSError as error:
            raise StorageError(f"({self._working}: {error.strerror})") from None
        self._direct: int | None = None
        self._lock = threading.Lock()
        self._finished = False
        try:
            self._prepare()
        except BaseException:
            os.close(self._descriptor)
            raise
        self._direct = _open_direct(self._working)

    def _prepare(self) -> None:
        if self._device:
            if (found := _size_of(self._descriptor, self.path)) < self._size:
                raise UsageError(f"({self.path} has {found} bytes, {self._size} are needed)")
            return
        self._claim()
        try:
            # What a run that was killed has left goes first.
            os.ftruncate(self._descriptor, 0)
            os.ftruncate(self._descriptor, self._size)
        except OSError as error:
            self._working.unlink()
            raise self._failure(error, self._size) from None

    def _claim(self) -> None:
        """Keep a second writer of the same image from this one's temporary file.

        The lock ends with the process that holds it. Whoever waited may hold a file that got its
        name meanwhile, or is gone.
        """
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            ours = os.path.samestat(os.fstat(self._descriptor), os.lstat(self._working))
        except (BlockingIOError, FileNotFoundError):
            ours = False
        if not ours:
            hint = "Wait for that run to end, or name another target."
            raise AlreadyExists(f"({self._working}: another process writes it)", hint=hint)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        os.close(self._descriptor)
        if self._direct is not None:
            os.close(self._direct)
        if not self._finished and not self._device:
            with contextlib.suppress(FileNotFoundError):
                self._working.unlink()

    @property
    def fresh(self) -> bool:
        """Whether everything reads as zeros until it is written."""
        return not self._device

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer at `start`, past the page cache where the file system lets us.

        Nobody reads the image soon, and copying it into the cache costs more CPU than decoding it.
        """
        # The kernel lets one thread write into a file and makes the others spin: let them sleep.
        with self._lock:
            done = self._write_direct(start, buffer)
            while done < len(buffer):
                try:
                    done += os.pwrite(self._descriptor, buffer[done:], start + done)
                except OSError as error:
                    raise self._failure(error, start + done) from None

    def _write_direct(self, start: int, buffer: memoryview) -> int:
        """Write what can be written directly; return how many bytes that were."""
        whole = len(buffer) // _DIRECT_ALIGN * _DIRECT_ALIGN
        if self._direct is None or start % _DIRECT_ALIGN or not whole:
            return 0
        try:
            return os.pwrite(self._direct, buffer[:whole], start)
        except OSError as error:
            if error.errno != errno.EINVAL:
                raise self._failure(error, start) from None
            # This file system, or the alignment of this buffer, does not do it.
            os.close(self._direct)
            self._direct = None
            return 0

    def zero(self, start: int, length: int) -> None:
        """Make the range zeros; in a new image it is so already."""
        if self.fresh:
            return
        try:
            fcntl.ioctl(self._descriptor, _BLKZEROOUT, struct.pack("<QQ", start, length))
        except OSError as error:
            raise self._failure(error, start) from None

    def flush(self) -> None:
        """Return when everything is durable."""
        try:
            os.fsync(self._descriptor)
        except OSError as error:
            raise self._failure(error, 0) from None

    def finish(self) -> None:
        """Flush and give a new image its name."""
        self.flush()
        if not self._device:
            self._working.replace(self.path)
            directory = os.open(self.path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)
        self._finished = True

    def _failure(self, error: OSError, start: int) -> StorageError:
        kind = StorageFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
        return kind(f"({self.path} at {start}: {error.strerror})")
