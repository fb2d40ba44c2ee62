"""Anchors: the head of the chain, written outside of the database as it grows.

Who can write to the database can shorten the chain, or write all of it anew with hashes that
fit. The anchors know better. The file only grows; where the file system can, the kernel sees to
that (`chattr +a`). It is worth copying to another host.

A line: number of the record, its hash, the moment; parted by blanks.
"""

import contextlib
import errno
import fcntl
import os
import re
import struct
import threading
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruchu.errors import AuditBroken, ControlError

FILE_NAME = "audit.anchors"
# An anchor is 110 bytes; a chain of a hundred million records has fewer bytes of anchors.
_FILE_BYTES_MAX = 256 << 20
_LINE = re.compile(rb"([1-9][0-9]{0,18}) ([0-9a-f]{64}) (\S{1,40})")
# <linux/fs.h>: FS_IOC_GETFLAGS, FS_IOC_SETFLAGS, FS_APPEND_FL
_GET_FLAGS = 0x8000_6601 | struct.calcsize("l") << 16
_SET_FLAGS = 0x4000_6602 | struct.calcsize("l") << 16
_APPEND_ONLY = 0x20
_FLAGS = struct.Struct("i")


@dataclass(frozen=True, slots=True)
class Anchor:
    """The head of the chain at a moment: number and hash of its newest record."""

    number: int
    hash: str
    at: str


class AnchorFile:
    """The anchors of a server. Safe in several threads and processes."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._guard = threading.Lock()

    def append(self, anchor: Anchor) -> bool:
        """Write an anchor, durably, unless a later one is there; tell whether it was written.

        Raises:
            ControlError: the file cannot be written.
            AuditBroken: what is in it is no anchor.
        """
        line = f"{anchor.number} {anchor.hash} {anchor.at}\n".encode()
        try:
            with self._guard, self._opened() as file:
                last = self._last(file)
                if last is not None and last.number >= anchor.number:
                    return False
                _write(file, line)
        except OSError as error:
            raise ControlError(
                f"(the audit anchor in {self.path}: {error.strerror})",
                hint="What was done is done and recorded; make the file writable.",
            ) from None
        return True

    def read(self) -> list[Anchor]:
        """Return all anchors; none if there is no file.

        Raises:
            AuditBroken: a line is no anchor, or the numbers do not grow.
            ControlError: the file cannot be read.
        """
        try:
            with self.path.open("rb") as file:
                content = file.read(_FILE_BYTES_MAX + 1)
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ControlError(f"({self.path}: {error.strerror})") from None
        if len(content) > _FILE_BYTES_MAX:
            raise AuditBroken(f"{self.path} is too large")
        # What was being written when the power went has no end; a line with an end is whole.
        return self._parsed(content[: content.rfind(b"\n") + 1])

    def is_append_only(self) -> bool:
        """Tell whether the kernel refuses anything but appending."""
        try:
            file = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError:
            return False
        try:
            return bool(_flags(file) & _APPEND_ONLY)
        except OSError:
            return False
        finally:
            os.close(file)

    def _parsed(self, content: bytes) -> list[Anchor]:
        found: list[Anchor] = []
        for at, line in enumerate(content.splitlines(), 1):
            match = _LINE.fullmatch(line)
            if match is None:
                raise AuditBroken(f"line {at} of {self.path} is no anchor")
            anchor = Anchor(int(match[1]), match[2].decode(), match[3].decode("ascii", "replace"))
            if found and anchor.number <= found[-1].number:
                raise AuditBroken(f"line {at} of {self.path} goes back")
            found.append(anchor)
        return found

    @contextlib.contextmanager
    def _opened(self) -> Iterator[int]:
        flags = os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        fresh = not self.path.exists()
        file = os.open(self.path, flags, 0o600)
        try:
            fcntl.flock(file, fcntl.LOCK_EX)  # the server, and a command beside it
            if fresh:
                _sync_directory(self.path.parent)
                _make_append_only(file)
            yield file
        finally:
            os.close(file)

    def _last(self, file: int) -> Anchor | None:
        """Return the newest anchor, having ended a line that a power cut left without an end."""
        size = os.fstat(file).st_size
        # Three lines at least; one is all that is looked for.
        tail = os.pread(file, 512, max(0, size - 512))
        whole = tail[: tail.rfind(b"\n") + 1]
        torn = tail[len(whole) :]
        if torn:
            self._mend(file, size - len(torn))
        lines = whole.splitlines()
        return self._parsed(lines[-1] + b"\n")[0] if lines else None

    def _mend(self, file: int, size: int) -> None:
        """Cut off a line without an end; for that moment the file is not append-only."""
        held = _clear_append_only(file)
        os.ftruncate(file, size)
        if held:
            _make_append_only(file)


def _write(file: int, line: bytes) -> None:
    if os.write(file, line) != len(line):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    os.fsync(file)


def _make_append_only(file: int) -> None:
    """Ask the kernel for it; many file systems cannot, and `is_append_only` says so."""
    with contextlib.suppress(OSError):
        fcntl.ioctl(file, _SET_FLAGS, _FLAGS.pack(_flags(file) | _APPEND_ONLY))


def _clear_append_only(file: int) -> bool:
    with contextlib.suppress(OSError):
        flags = _flags(file)
        if flags & _APPEND_ONLY:
            fcntl.ioctl(file, _SET_FLAGS, _FLAGS.pack(flags & ~_APPEND_ONLY))
            return True
    return False


def _flags(file: int) -> int:
    return int(_FLAGS.unpack(fcntl.ioctl(file, _GET_FLAGS, bytes(_FLAGS.size)))[0])


def _sync_directory(path: Path) -> None:
    directory = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
