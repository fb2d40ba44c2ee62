"""The operations of the mount, as `mfusepy.FUSE` calls them: in any thread, with text for paths.

Text stands for bytes by `surrogateescape`, both ways, so that any name comes through.
"""

import ctypes
import errno
import functools
import itertools
import os
import stat
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Concatenate, ParamSpec, TypeVar

from ruchu.errors import NotFound, RuchuError, StorageFull
from ruchu.exports.fuse.tree import (
    NAME_BYTES_MAX,
    RAW_SUFFIX,
    VOLUMES,
    Inside,
    Listing,
    Place,
    RawDisk,
    Report,
    Tree,
)

_P = ParamSpec("_P")
_R = TypeVar("_R")
_Readable = bytes | ctypes.Array[ctypes.c_char]
_Listed = tuple[str, dict[str, int], int]

_TYPES = {
    "file": stat.S_IFREG,
    "directory": stat.S_IFDIR,
    "symlink": stat.S_IFLNK,
    "character-device": stat.S_IFCHR,
    "block-device": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}
_BLOCK = 4096
# Numbers of a guest's nodes that are shown as they are, with the volume above them.
_NODE_BITS = 48
# Each different complaint is made once; more of them tell nobody anything new.
_COMPLAINTS_MAX = 1000
# The kernel asks for one attribute after the other of the same file.
_XATTR_FILES_MAX = 64
_XATTR_BYTES_MAX = 1 << 16
_FALLOC_KEEP_SIZE, _FALLOC_PUNCH_HOLE, _FALLOC_ZERO_RANGE = 1, 2, 16


@dataclass(frozen=True, slots=True)
class _Opened:
    """An open file: what it is, and how far it can be read."""

    place: RawDisk | Inside
    size: int


def _answering(
    method: Callable[Concatenate["Operations", str, _P], _R],
) -> Callable[Concatenate["Operations", str, _P], _R]:
    """Make errors of the tree those that the kernel knows; all but NotFound are reported."""

    @functools.wraps(method)
    def answer(self: "Operations", path: str, /, *args: _P.args, **named: _P.kwargs) -> _R:
        try:
            return method(self, path, *args, **named)
        except NotFound:
            raise _refusal(errno.ENOENT) from None
        except RuchuError as error:
            self.complain(f"{path}: {error}")
            full = isinstance(error, StorageFull)
            raise _refusal(errno.ENOSPC if full else errno.EIO) from None

    return answer


def _bytes(text: str) -> bytes:
    # Not os.fsencode: mfusepy takes UTF-8 whatever the locale is.
    return text.encode("utf-8", "surrogateescape")


def _text(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape")


def _refusal(number: int) -> OSError:
    return OSError(number, os.strerror(number))


class Operations:
    """What the kernel asks. The methods are named as FUSE names them.

    Attributes:
        use_ns: times are in nanoseconds.
        mounted: set when the kernel is connected.
        farewell: a path that ends the mount when it is looked up.

    Args:
        tree: what is shown.
        farewell: an absolute path that nobody else asks for.
        leave: ends the loop that calls these methods.
        report: told why a request failed.
    """

    use_ns = True

    def __init__(
        self, tree: Tree, *, farewell: str, leave: Callable[[], None], report: Report
    ) -> None:
        self.mounted = threading.Event()
        self._tree = tree
        self._farewell = farewell
        self._leave = leave
        self._report = report
        self._complaints: set[str] = set()
        self._opened: dict[int, _Opened] = {}
        self._numbers = itertools.count(1)
        self._xattrs: dict[tuple[int, int], Mapping[str, bytes]] = {}

    def complain(self, text: str) -> None:
        """Report something once."""
        if text not in self._complaints and len(self._complaints) < _COMPLAINTS_MAX:
            self._complaints.add(text)
            self._report(text)

    def init_with_config(self, connection: Any, config: Any) -> None:
        """The mount is there."""
        del connection, config
        self.mounted.set()

    def _find(self, path: str) -> Place:
        return self._tree.find(_bytes(path))

    @_answering
    def getattr(self, path: str, info: Any = None) -> dict[str, int]:
        """Return what stat(2) tells."""
        del info
        if path == self._farewell:
            self._leave()
            raise _refusal(errno.ENOENT)
        place = self._find(path)
        if isinstance(place, Listing):
            number = self._number(_bytes(path).strip(b"/"))
            return {"st_mode": stat.S_IFDIR | 0o555, "st_nlink": 2, "st_ino": number}
        if isinstance(place, RawDisk):
            mode = 0o400 if place.device is None else 0o600
            size = place.reader.size
            return {
                "st_mode": stat.S_IFREG | mode,
                "st_nlink": 1,
                "st_ino": self._number(place.name.encode() + RAW_SUFFIX),
                "st_size": size,
                "st_blocks": -(-size // 512),
            }
        return _attributes(place)

    def _number(self, name: bytes) -> int:
        """Return the inode number of what is no part of a guest."""
        fixed = (b"", VOLUMES, *self._tree.disks)
        # In the listing of volumes, their roots have numbers of their own, and `getattr` those.
        return fixed.index(name) + 1 if name in fixed else 1 << _NODE_BITS - 1

    @_answering
    def readdir_with_offset(self, path: str, offset: int, handle: int) -> list[_Listed]:
        """Return (name, type and number, where to go on) of entries.

        The listing of a directory that is whole is given at once, without places to go on. Of one
        that is damaged what could be read comes first, then the error: nobody takes it for whole.
        """
        del handle
        found, problem = self._listed(path)
        if problem is None:
            return found
        rest = found[offset:]
        if not rest:
            raise problem.with_traceback(None)
        return [(name, known, at) for at, (name, known, _) in enumerate(rest, offset + 1)]

    def _listed(self, path: str) -> tuple[list[_Listed], RuchuError | None]:
        """Return what is in a directory, and why that is not all."""
        place = self._find(path)
        problem: RuchuError | None = None
        if isinstance(place, RawDisk):
            raise _refusal(errno.ENOTDIR)
        here = {"st_mode": stat.S_IFDIR, "st_ino": self.getattr(path)["st_ino"]}
        # A number of 0 would hide the entry: the C library takes it for one that was removed.
        found: list[_Listed] = [(".", here, 0), ("..", here, 0)]
        if isinstance(place, Listing):
            for name, is_directory in place.names.items():
                kind = stat.S_IFDIR if is_directory else stat.S_IFREG
                known = {"st_mode": kind, "st_ino": self._number(name)}
                found.append((_text(name), known, 0))
        else:
            listed = self._tree.entries(place)
            problem = listed.problem
            for name, entry in listed.entries.items():
                known = {
                    "st_mode": _TYPES.get(entry.kind.value, 0),
                    "st_ino": _number(place.volume, entry.node),
                }
                found.append((_text(name), known, 0))
        return found, problem

    @_answering
    def readlink(self, path: str) -> str:
        """Return the target as the guest has it."""
        place = self._find(path)
        if not isinstance(place, Inside):
            raise _refusal(errno.EINVAL)
        return _text(place.system.link_target(place.node))

    @_answering
    def open(self, path: str, info: Any) -> int:
        """Open a file; only disks with a device are written."""
        place = self._find(path)
        if isinstance(place, Listing):
            raise _refusal(errno.EISDIR)
        writing = info.flags & os.O_ACCMODE != os.O_RDONLY
        writable = isinstance(place, RawDisk) and place.device is not None
        if writing and not writable:
            raise _refusal(errno.EROFS)
        if isinstance(place, RawDisk):
            size = place.reader.size
        else:
            found = place.system.stat(place.node)
            if found.kind.value != "file":
                raise _refusal(errno.ENXIO)
            size = found.size
        # Others may write the device, so its pages are not kept; all else never changes.
        info.direct_io = writable
        info.keep_cache = not writable
        info.fh = next(self._numbers)
        self._opened[info.fh] = _Opened(place, size)
        return 0

    @_answering
    def release(self, path: str, info: Any) -> int:
        """Forget an open file."""
        del path
        self._opened.pop(info.fh, None)
        return 0

    @_answering
    def read(self, path: str, size: int, offset: int, info: Any) -> _Readable:
        """Return content; less only at the end of the file."""
        del path
        opened = self._opened[info.fh]
        length = max(0, min(size, opened.size - offset))
        if not length:
            return b""
        place = opened.place
        if isinstance(place, RawDisk):
            view = place.reader.peek(offset, length)
            if view is not None:
                return bytes(view)
        buffer = ctypes.create_string_buffer(length)
        target = memoryview(buffer).cast("B")
        if isinstance(place, RawDisk):
            place.reader.read_into(offset, target)
        else:
            place.system.read_into(place.node, offset, target)
        return buffer

    @_answering
    def write(self, path: str, data: bytes, offset: int, info: Any) -> int:
        """Store content; a disk does not grow."""
        del path
        opened = self._opened[info.fh]
        device = self._device(opened.place)
        length = min(len(data), opened.size - offset)
        if length <= 0:
            raise _refusal(errno.ENOSPC)
        device.write(offset, memoryview(data)[:length])
        return length

    def _device(self, place: Place) -> Any:
        if not isinstance(place, RawDisk) or place.device is None:
            raise _refusal(errno.EROFS)
        return place.device

    @_answering
    def flush(self, path: str, info: Any) -> int:
        """A program closes a file, which promises nothing."""
        del path, info
        return 0

    @_answering
    def fsync(self, path: str, data_only: int, info: Any) -> int:
        """Return when everything written is durable."""
        del path, data_only
        place = self._opened[info.fh].place
        if isinstance(place, RawDisk) and place.device is not None:
            place.device.flush()
        return 0

    @_answering
    def fallocate(self, path: str, mode: int, offset: int, size: int, info: Any) -> int:
        """Punch a hole, or make zeros; there is nothing to reserve."""
        del path
        opened = self._opened[info.fh]
        device = self._device(opened.place)
        length = min(size, opened.size - offset)
        if mode == _FALLOC_PUNCH_HOLE | _FALLOC_KEEP_SIZE:
            if length > 0:
                device.discard(offset, length)
        elif mode & ~_FALLOC_KEEP_SIZE == _FALLOC_ZERO_RANGE:
            if length > 0:
                device.zero(offset, length)
        else:
            raise _refusal(errno.EOPNOTSUPP)
        return 0

    @_answering
    def truncate(self, path: str, length: int, info: Any = None) -> int:
        """A disk has one size; setting that one is no error."""
        del info
        place = self._find(path)
        device = self._device(place)
        if length != device.size:
            raise _refusal(errno.EPERM)
        return 0

    @_answering
    def listxattr(self, path: str) -> list[str]:
        """Return names of extended attributes."""
        return list(self._attributes_of(path))

    @_answering
    def getxattr(self, path: str, name: str, position: int = 0) -> bytes:
        """Return an extended attribute."""
        del position
        value = self._attributes_of(path).get(name)
        if value is None:
            raise _refusal(errno.ENODATA)
        return value

    def _attributes_of(self, path: str) -> Mapping[str, bytes]:
        place = self._find(path)
        if not isinstance(place, Inside):
            return {}
        key = place.volume, place.node
        found = self._xattrs.get(key)
        if found is None:
            found = place.system.xattrs(place.node)
            if sum(map(len, found.values())) <= _XATTR_BYTES_MAX:
                if len(self._xattrs) >= _XATTR_FILES_MAX:
                    self._xattrs = {}
                self._xattrs[key] = found
        return found

    @_answering
    def statfs(self, path: str) -> dict[str, int]:
        """Return what df shows: the size of all disks, and nothing free."""
        del path
        total = sum(disk.reader.size for disk in self._tree.disks.values())
        return {
            "f_bsize": _BLOCK,
            "f_frsize": _BLOCK,
            "f_blocks": total // _BLOCK,
            "f_namemax": NAME_BYTES_MAX,
        }


def _attributes(place: Inside) -> dict[str, int]:
    found = place.system.stat(place.node)
    # What nobody knows is shown as an empty file that cannot be opened.
    kind = _TYPES.get(found.kind.value)
    return {
        "st_mode": (stat.S_IFREG if kind is None else kind) | found.mode & 0o7777,
        "st_ino": _number(place.volume, place.node),
        "st_nlink": found.links,
        "st_uid": found.owner & 0xFFFFFFFF,
        "st_gid": found.group & 0xFFFFFFFF,
        "st_size": 0 if kind is None else found.size,
        "st_blocks": -(-found.allocated // 512),
        "st_rdev": os.makedev(*found.device) if kind in {stat.S_IFCHR, stat.S_IFBLK} else 0,
        "st_mtime": found.modified,
        "st_atime": found.accessed,
        "st_ctime": found.changed,
    }


def _number(volume: int, node: int) -> int:
    """Return an inode number: the same for all names of a file, so that links show."""
    if 0 <= node < 1 << _NODE_BITS:
        return volume << _NODE_BITS | node
    return hash((volume, node)) & (1 << 64) - 1 | 1 << 63
