"""The file of a write cache: its layout, its header, and the operations on it.

One sparse file, all numbers little-endian:

    0          header page: magic, version, id, sizes, offsets, identity of the base, checksum
    4096       session page: digest of the session in which `live` is written, checksum
    8192       bitmap `durable`: one bit per block; a bit is set here after its data is durable
    ...        bitmap `live`: one bit per block, set with each first write of a block
    ...        data: block i of the device at data_offset + i * 4096

A power failure leaves what is in `durable`. When only the process died, the page cache of the
kernel still has every write that returned, and `live` tells which blocks they were. A session is
what a page cache lives through: the boot of the kernel and the file system's device.
"""

import contextlib
import ctypes
import errno
import fcntl
import hashlib
import os
import stat
import struct
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from ruchu.blocks.block_sets import PAGE_BYTES
from ruchu.errors import (
    AlreadyExists,
    CacheDamaged,
    CacheMismatch,
    ExportError,
    NotFound,
    StorageError,
    StorageFull,
    UnknownFormat,
)

BLOCK = 4096
HEADER_BYTES = 4096
SESSION_OFFSET = HEADER_BYTES
BITMAP_OFFSET = 2 * HEADER_BYTES
IDENTITY_BYTES_MAX = 2048
# Larger than any disk of a machine; keeps the arithmetic of a hostile header harmless.
DEVICE_BYTES_MAX = 1 << 56
_MAGIC = b"RUCHUWC\n"
_VERSION = 1
# magic, version, block, id, base size, device size, live offset, data offset, identity length
_HEADER = struct.Struct("<8sII16sQQQQI")
_DIGEST_BYTES = 32
_DATA_ALIGN = 1 << 20
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE = 1, 2
_PUNCH_UNSUPPORTED = {errno.EOPNOTSUPP, errno.ENOSYS}
_ZEROS = bytes(1 << 20)
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")

Buffer = bytes | bytearray | memoryview


class CacheFile(Protocol):
    """The operations on the file. All but `close` raise OSError; safe in several threads."""

    def size(self) -> int:
        """Return the length of the file."""

    def allocated(self) -> int:
        """Return the bytes that it takes on its file system."""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer; the end of the file is EIO."""

    def write(self, start: int, parts: Sequence[Buffer]) -> None:
        """Store the parts one after the other, all of them."""

    def punch(self, start: int, length: int) -> None:
        """Make a range zeros and give its room back where the file system can."""

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Yield (start, end) of what may be other than zeros, sorted, inside the range."""

    def sync(self) -> None:
        """Make durable what was written before."""

    def close(self) -> None:
        """Give the file back."""


@dataclass(frozen=True, slots=True)
class Header:
    """What a write cache says of itself.

    Attributes:
        id: random, 16 bytes.
        identity: what the base is, such as `point/disk`.
        base_size, size: bytes of the base and of the device over it.
    """

    id: bytes
    identity: str
    base_size: int
    size: int

    @property
    def blocks(self) -> int:
        """Blocks of the device; the last one may be there in part only."""
        return -(-self.size // BLOCK)

    @property
    def bitmap_bytes(self) -> int:
        """Bytes of one bitmap, in whole pages."""
        return -(-self.blocks // (8 * PAGE_BYTES)) * PAGE_BYTES

    @property
    def live_offset(self) -> int:
        """Where the bitmap `live` begins."""
        return BITMAP_OFFSET + self.bitmap_bytes

    @property
    def data_offset(self) -> int:
        """Where block 0 is."""
        end = self.live_offset + self.bitmap_bytes
        return -(-end // _DATA_ALIGN) * _DATA_ALIGN

    @property
    def file_bytes(self) -> int:
        """Length of the file."""
        return self.data_offset + self.blocks * BLOCK

    def encode(self) -> bytes:
        """Return the header page."""
        name = self.identity.encode()
        sizes = self.base_size, self.size, self.live_offset, self.data_offset
        fixed = _HEADER.pack(_MAGIC, _VERSION, BLOCK, self.id, *sizes, len(name))
        return _sealed(fixed + name)


def decode_header(page: bytes) -> Header:
    """Read a header page.

    Raises:
        CacheDamaged: it is no header, or its checksum is wrong.
        UnknownFormat: another release made it.
    """
    magic, version, block, number, base_size, size, live, data, length = _HEADER.unpack_from(page)
    if magic != _MAGIC:
        raise CacheDamaged("it does not begin like a write cache", hint="Give another path.")
    if not _is_sealed(page):
        raise CacheDamaged("the checksum of its header is wrong")
    if version != _VERSION or block != BLOCK:
        raise UnknownFormat(f"(write cache version {version})", hint="Use the Ruchu that made it.")
    if length > IDENTITY_BYTES_MAX or not base_size <= size <= DEVICE_BYTES_MAX:
        raise CacheDamaged("its header contradicts itself")
    name = page[_HEADER.size : _HEADER.size + length].decode("utf-8", "replace")
    header = Header(number, name, base_size, size)
    if (live, data) != (header.live_offset, header.data_offset):
        raise CacheDamaged("its header contradicts itself")
    return header


def check(header: Header, file_bytes: int, identity: str, base_size: int) -> None:
    """Hold a header against its file and the base that it is opened for.

    Raises:
        CacheMismatch: it was made for another base.
        CacheDamaged: the file is not as long as the header says.
    """
    if header.identity != identity:
        raise CacheMismatch(f"{header.identity}, not {identity}")
    if header.base_size != base_size:
        raise CacheMismatch(f"its disk has {header.base_size} bytes, this one {base_size}")
    if file_bytes != header.file_bytes:
        raise CacheDamaged(f"it has {file_bytes} bytes instead of {header.file_bytes}")


def session_page(session: bytes) -> bytes:
    """Return the session page: which session writes `live`."""
    return _sealed(hashlib.blake2b(session, digest_size=_DIGEST_BYTES).digest())


def current_session(descriptor: int) -> bytes:
    """Return what a page cache of this file lives through."""
    device = os.fstat(descriptor).st_dev
    return f"{_BOOT_ID.read_text().strip()} {device}".encode()


def _sealed(content: bytes) -> bytes:
    body = content.ljust(HEADER_BYTES - _DIGEST_BYTES, b"\0")
    return body + hashlib.blake2b(body, digest_size=_DIGEST_BYTES).digest()


def _is_sealed(page: bytes) -> bool:
    return _sealed(page[: HEADER_BYTES - _DIGEST_BYTES]) == page


class RealFile:
    """A `CacheFile` on a file system. It owns the descriptor."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._closed = False

    def size(self) -> int:
        """Return the length of the file."""
        return os.fstat(self._descriptor).st_size

    def allocated(self) -> int:
        """Return the bytes that it takes."""
        return os.fstat(self._descriptor).st_blocks * 512

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        count = os.preadv(self._descriptor, [buffer], start)
        while count < len(buffer):
            more = os.preadv(self._descriptor, [buffer[count:]], start + count)
            if not more:
                raise OSError(errno.EIO, "the file was cut off")
            count += more

    def write(self, start: int, parts: Sequence[Buffer]) -> None:
        """Store the parts."""
        total = sum(map(len, parts))
        done = os.pwritev(self._descriptor, parts, start)
        if done < total:
            rest = memoryview(b"".join(parts))
            while done < total:
                done += os.pwrite(self._descriptor, rest[done:], start + done)

    def punch(self, start: int, length: int) -> None:
        """Punch a hole; write zeros where the file system has none."""
        try:
            _fallocate(self._descriptor, start, length)
        except OSError as error:
            if error.errno not in _PUNCH_UNSUPPORTED:
                raise
            for at in range(start, start + length, len(_ZEROS)):
                self.write(at, [_ZEROS[: start + length - at]])

    def data_ranges(self, start: int, end: int) -> Iterator[tuple[int, int]]:
        """Ask the file system, which may say that everything is data."""
        while start < end:
            try:
                data = os.lseek(self._descriptor, start, os.SEEK_DATA)
            except OSError as error:
                if error.errno == errno.ENXIO:
                    return
                raise
            stop = min(end, os.lseek(self._descriptor, data, os.SEEK_HOLE))
            if data >= end:
                return
            yield data, stop
            start = stop

    def sync(self) -> None:
        """Wait for the disk."""
        os.fdatasync(self._descriptor)

    def close(self) -> None:
        """Close it, which lets go of the lock. Idempotent."""
        if not self._closed:
            self._closed = True
            os.close(self._descriptor)


_libc = ctypes.CDLL(None, use_errno=True)


def _fallocate(descriptor: int, start: int, length: int) -> None:
    mode = _FALLOC_KEEP_SIZE | _FALLOC_PUNCH_HOLE
    at, count = ctypes.c_int64(start), ctypes.c_int64(length)
    if _libc.fallocate64(descriptor, mode, at, count):
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))


def failure(error: OSError, what: str) -> StorageError:
    """Return the error of the tree for what the operating system said."""
    kind = StorageFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
    return kind(f"({what}: {error.strerror})")


@contextlib.contextmanager
def reporting(what: str) -> Iterator[None]:
    """Turn an OSError into the error of the tree."""
    try:
        yield
    except OSError as error:
        raise failure(error, f"write cache, {what}") from None


def make(path: Path, header: Header) -> None:
    """Make the file of a new write cache: it is there whole and durable, or not at all.

    Raises:
        AlreadyExists: there is a file of this name, or somebody is making one.
        StorageError: the file system refused; StorageFull if it is full or cannot hold so large
            a file.
    """
    working = path.with_name(f".{path.name}.ruchu-partial")
    try:
        descriptor = os.open(working, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            _lock(descriptor, working)
            _fill(descriptor, working, header)
            if path.exists():
                working.unlink()
                raise AlreadyExists(f"({path})", hint="Open it, or name another write cache.")
            working.rename(path)
            sync_directory(path.parent)
        finally:
            os.close(descriptor)
    except OSError as error:
        raise failure(error, str(path)) from None


def _fill(descriptor: int, working: Path, header: Header) -> None:
    # What a run that was killed has left goes first.
    os.ftruncate(descriptor, 0)
    try:
        os.ftruncate(descriptor, header.file_bytes)
        os.pwrite(descriptor, header.encode(), 0)
        os.fsync(descriptor)
    except OSError:
        working.unlink()
        raise


def claim(path: Path) -> int:
    """Open the file of a write cache for one process alone; return the descriptor.

    Raises:
        NotFound: there is no such file.
        ExportError: another process has it open.
    """
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        raise NotFound(f"({path})") from None
    except OSError as error:
        raise failure(error, str(path)) from None
    try:
        _lock(descriptor, path)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _lock(descriptor: int, path: Path) -> None:
    """Take the lock, which ends with the process that holds it."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise CacheDamaged(f"{path} is no file")
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        ours = os.path.samestat(os.fstat(descriptor), os.lstat(path))
    except (BlockingIOError, FileNotFoundError):
        ours = False
    if not ours:
        hint = "A write cache serves one process. End that one, or name another cache."
        raise ExportError(f"(another process uses {path})", hint=hint)


def remove(path: Path) -> None:
    """Delete the file of a write cache that nobody uses. Gone already is well.

    Raises:
        ExportError: a process has it open.
        StorageError: it could not be removed.
    """
    try:
        descriptor = claim(path)
    except NotFound:
        return
    try:
        path.unlink()
        sync_directory(path.parent)
    except OSError as error:
        raise failure(error, str(path)) from None
    finally:
        os.close(descriptor)


def sync_directory(path: Path) -> None:
    """Make the entries of a directory durable."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
