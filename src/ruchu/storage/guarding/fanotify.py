"""fanotify(7): questions about opens that wait for an answer, and notices of what was done."""

import contextlib
import ctypes
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass

# linux/fanotify.h
_CLOEXEC, _NONBLOCK, _CLASS_CONTENT = 0x1, 0x2, 0x4
_UNLIMITED_QUEUE, _UNLIMITED_MARKS, _REPORT_TID, _REPORT_DFID_NAME = 0x10, 0x20, 0x100, 0xC00
_MARK_ADD, _MARK_ONLYDIR = 0x1, 0x8
MODIFY, ATTRIB, CLOSE_WRITE, CLOSE_NOWRITE, OPEN = 0x2, 0x4, 0x8, 0x10, 0x20
MOVED_FROM, MOVED_TO, CREATE, DELETE = 0x40, 0x80, 0x100, 0x200
DELETE_SELF, MOVE_SELF, OVERFLOW, OPEN_PERM = 0x400, 0x800, 0x4000, 0x10000
_ON_CHILD, ON_DIRECTORY = 0x0800_0000, 0x4000_0000
_ALLOW, _DENY = 1, 2
_VERSION = 3
_DIRECTORY_AND_NAME = 2  # the kind of information that a notice carries

CHANGES = MODIFY | ATTRIB | MOVED_FROM | MOVED_TO | CREATE | DELETE | DELETE_SELF | MOVE_SELF
_NOTICES = CHANGES | CLOSE_WRITE | CLOSE_NOWRITE | OPEN | ON_DIRECTORY | _ON_CHILD

_EVENT = struct.Struct("=IBBHQii")
_INFORMATION = struct.Struct("=BBH")
_HANDLE = struct.Struct("=Ii")
_FSID_BYTES = 8
_ANSWER = struct.Struct("=iI")
_HANDLE_BYTES_MAX = 128  # MAX_HANDLE_SZ
_READ_BYTES = 64 * 1024
_AT_FDCWD = -100
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Question:
    """An open that waits: the thread that asks, and a descriptor of the file, for its path."""

    thread: int
    file: int


@dataclass(frozen=True, slots=True)
class Notice:
    """Something was done to an entry of a directory.

    Attributes:
        mask: what.
        pid: by whom; 0 if by a process of another namespace.
        directory: handle of the directory, as `handle_of` returns it.
        name: the entry, `.` for the directory itself.
    """

    mask: int
    pid: int
    directory: bytes
    name: str


class Group:
    """A fanotify descriptor. Closing it lets every open that waits go on."""

    def __init__(self, flags: int, mask: int) -> None:
        self.descriptor = _checked(_LIBC.fanotify_init(flags | _CLOEXEC | _NONBLOCK, os.O_RDONLY))
        self._mask = mask

    def mark(self, directory: str) -> None:
        """Watch a directory and the files in it, whatever way leads to them."""
        mask, path = ctypes.c_uint64(self._mask), os.fsencode(directory)
        flags = _MARK_ADD | _MARK_ONLYDIR
        _checked(_LIBC.fanotify_mark(self.descriptor, flags, mask, _AT_FDCWD, path))

    def close(self) -> None:
        """Give it back."""
        os.close(self.descriptor)

    def _read(self) -> Iterator[tuple[int, int, int, bytes]]:
        """Yield mask, descriptor, process and further information of what is waiting."""
        try:
            content = os.read(self.descriptor, _READ_BYTES)
        except BlockingIOError:
            return
        start = 0
        while start < len(content):
            length, version, _, header, mask, file, pid = _EVENT.unpack_from(content, start)
            assert version == _VERSION, "the kernel speaks another fanotify"
            yield mask, file, pid, content[start + header : start + length]
            start += length


class Questions(Group):
    """Asks before a file is opened; every question must be answered."""

    def __init__(self) -> None:
        # The queue holds at most one question a thread; a bounded one would let the rest through.
        flags = _CLASS_CONTENT | _REPORT_TID | _UNLIMITED_QUEUE | _UNLIMITED_MARKS
        super().__init__(flags, OPEN_PERM | _ON_CHILD)

    def read(self) -> list[Question]:
        """Return the questions that wait."""
        return [Question(pid, file) for _, file, pid, _ in self._read() if file >= 0]

    def answer(self, question: Question, *, allow: bool) -> None:
        """Let an open go on, or refuse it with EPERM; the descriptor is closed."""
        try:
            # ENOENT: whoever asked was killed meanwhile.
            with contextlib.suppress(FileNotFoundError):
                answer = _ANSWER.pack(question.file, _ALLOW if allow else _DENY)
                os.write(self.descriptor, answer)
        finally:
            os.close(question.file)


class Notices(Group):
    """Tells what was done; a queue that overflows loses notices, and says so."""

    def __init__(self) -> None:
        super().__init__(_REPORT_DFID_NAME | _UNLIMITED_MARKS, _NOTICES)

    def read(self) -> list[Notice]:
        """Return the notices that wait."""
        return [
            Notice(mask, pid, *_directory_and_name(information))
            for mask, _, pid, information in self._read()
        ]


def _directory_and_name(information: bytes) -> tuple[bytes, str]:
    start = 0
    while start < len(information):
        kind, _, length = _INFORMATION.unpack_from(information, start)
        if kind == _DIRECTORY_AND_NAME:
            place = start + _INFORMATION.size + _FSID_BYTES
            count, kind_of_handle = _HANDLE.unpack_from(information, place)
            place += _HANDLE.size
            name = information[place + count : start + length].partition(b"\0")[0]
            return _key(kind_of_handle, information[place : place + count]), os.fsdecode(name)
        start += length
    return b"", ""


def handle_of(directory: str) -> bytes:
    """Return what notices call a directory."""
    buffer = ctypes.create_string_buffer(_HANDLE.size + _HANDLE_BYTES_MAX)
    _HANDLE.pack_into(buffer, 0, _HANDLE_BYTES_MAX, 0)
    mount = ctypes.c_int()
    _checked(
        _LIBC.name_to_handle_at(_AT_FDCWD, os.fsencode(directory), buffer, ctypes.byref(mount), 0)
    )
    count, kind = _HANDLE.unpack_from(buffer)
    return _key(kind, buffer.raw[_HANDLE.size : _HANDLE.size + count])


def _key(kind: int, handle: bytes) -> bytes:
    return struct.pack("=i", kind) + handle


def _checked(answer: int) -> int:
    if answer < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    return answer
