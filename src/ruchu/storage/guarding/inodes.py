"""What a file is and which flags it carries, without opening it: statx(2)."""

import ctypes
import os
import struct
from dataclasses import dataclass

_AT_FDCWD, _NO_FOLLOW = -100, 0x100
_BASIC = 0x7FF
_ATTRIBUTE_IMMUTABLE, _ATTRIBUTE_APPEND = 0x10, 0x20
_FLAGS_KNOWN = _ATTRIBUTE_IMMUTABLE | _ATTRIBUTE_APPEND
_BUFFER_BYTES = 256
# linux/stat.h: attributes at 8, mode at 28, inode and size at 32 and 40, mask of the attributes
# that this file system knows at 56, ctime at 96, mtime at 112.
_HEAD = struct.Struct("=8xQ12xH2xQQ8xQ")
_TIME = struct.Struct("=qI")
_MTIME_AT = 112
_LIBC = ctypes.CDLL(None, use_errno=True)


@dataclass(frozen=True, slots=True)
class Inode:
    """A file or directory.

    Attributes:
        inode: its number.
        mode: as in stat(2).
        size: in bytes.
        mtime_ns: when its content changed last.
        immutable: whether the flag is set.
        append: whether the append-only flag is set.
        flags_known: whether this file system tells flags in this way.
    """

    inode: int
    mode: int
    size: int
    mtime_ns: int
    immutable: bool
    append: bool
    flags_known: bool

    @property
    def sealed(self) -> bool:
        """Whether a file carries the seal: both flags (see `sealing`)."""
        return self.immutable and self.append


def look(path: str) -> Inode:
    """Describe what is at a path; a link itself, not where it leads.

    Raises:
        OSError: it is not there.
    """
    buffer = ctypes.create_string_buffer(_BUFFER_BYTES)
    if _LIBC.statx(_AT_FDCWD, os.fsencode(path), _NO_FOLLOW, _BASIC, buffer) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number), path)
    attributes, mode, inode, size, known = _HEAD.unpack_from(buffer)
    seconds, fraction = _TIME.unpack_from(buffer, _MTIME_AT)
    return Inode(
        inode, mode, size, seconds * 1_000_000_000 + fraction,
        bool(attributes & _ATTRIBUTE_IMMUTABLE), bool(attributes & _ATTRIBUTE_APPEND),
        known & _FLAGS_KNOWN == _FLAGS_KNOWN,
    )  # fmt: skip
