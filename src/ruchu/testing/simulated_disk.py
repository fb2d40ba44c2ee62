"""A disk in memory that fails as disks fail: it loses and tears what was not synced.

The rules are those of ext4 and xfs at their worst:

- Content of a file is durable up to the last `sync_file`. What came later is lost, cut off, or
  there with some of its blocks full of zeros.
- An entry made, renamed or removed is durable after `sync_directory` of its directory. Before
  that it may or may not have happened, each entry by itself.
- A directory whose own entry is lost takes everything in it along.

All choices come from the generator that is passed in: a seed brings a failure back.
"""

import contextlib
import enum
import errno
import os
import random
import threading
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass, field

from ruchu.storage.contract import Buffer
from ruchu.storage.filesystem import Entry, Kind, Status

_BLOCK = 512  # a sector: what a disk writes whole
_UNLIMITED = 1 << 60


class PowerFailure(Exception):
    """The power is gone; every further call raises this until `crash` brings it back."""


class Sync(enum.Enum):
    """The kinds of durability that a mutation test can take away."""

    FILE = "file"
    RENAME = "rename"  # the entries of files made or renamed
    MKDIR = "mkdir"  # the entries of directories made
    UNLINK = "unlink"  # the removal of entries


@dataclass(slots=True)
class _File:
    number: int
    content: bytearray = field(default_factory=bytearray)
    durable: bytes = b""
    immutable: bool = False
    immutable_durable: bool = False
    sealed: bool = False
    sealed_durable: bool = False
    links: int = 1


@dataclass(slots=True)
class _Directory:
    number: int
    device: int
    entries: dict[str, "_Node"] = field(default_factory=dict)
    durable: dict[str, "_Node"] = field(default_factory=dict)
    sealed: bool = False
    sealed_durable: bool = False
    pending: list["_Change"] = field(default_factory=list)


_Node = _File | _Directory


@dataclass(frozen=True, slots=True)
class _Change:
    """One change of a directory: `removed` goes, `added` comes, both as one step."""

    kind: Sync
    removed: str = ""
    added: str = ""
    node: _Node | None = None

    def apply(self, entries: dict[str, _Node]) -> None:
        entries.pop(self.removed, None)
        if self.added and self.node is not None:
            entries[self.added] = self.node


class SimulatedFileSystem:
    """A `FileSystem` in memory, with as many storages as paths are opened.

    Attributes:
        capacity: bytes it holds; ENOSPC beyond.
        read_only: every change raises EROFS.
        gone: unplugged: opening a root raises ENOENT, what is open raises ENODEV.
        unmounted: the storages are covered by empty directories of another device.
        without_flags: no immutable flag: ENOTTY.
        flags_ignored: setting the immutable flag raises nothing and does nothing.
        short: reads and writes move fewer bytes than asked, now and then.
        calls: how many calls were made.

    Args:
        choose: makes every choice.
        ignore: syncs that are silently not done (values of `Sync`), for mutation tests.
    """

    def __init__(self, choose: random.Random, *, ignore: Collection[str] = ()) -> None:
        self.capacity = _UNLIMITED
        self.read_only = False
        self.gone = False
        self.unmounted = False
        self.without_flags = False
        self.flags_ignored = False
        self.short = False
        self.calls = 0
        self._choose = choose
        self._ignore = {Sync(kind) for kind in ignore}
        self._lock = threading.RLock()
        self._number = 0
        self._roots: dict[tuple[str, bool], _Directory] = {}
        self._handles: dict[int, _Node] = {}
        self._handle = 2
        self._cut_at: int | None = None
        self._dark = False

    # What a test does to the disk.

    def crash(self) -> None:
        """Cut the power and bring it back: what was not synced is lost, torn or there."""
        with self._lock:
            self._handles.clear()
            self._dark, self._cut_at = False, None
            for root in self._roots.values():
                self._crash_directory(root)

    def kill(self) -> None:
        """End the process that used the disk: handles are gone, content stays."""
        with self._lock:
            self._handles.clear()
            self._dark, self._cut_at = False, None

    def cut_power_after(self, calls: int) -> None:
        """Let so many calls succeed; every later one raises PowerFailure until `crash`."""
        with self._lock:
            self._cut_at = self.calls + calls

    def used(self) -> int:
        """Return the bytes of all files that have a name."""
        with self._lock:
            return sum(len(file.content) for root in self._roots.values() for file in _files(root))

    def flip_bit(self, root: str, name: str, position: int) -> None:
        """Damage one bit of a file, on the disk itself."""
        with self._lock:
            node: _Node = self._roots[root, False]
            for component in name.split("/"):
                assert isinstance(node, _Directory)
                node = node.entries[component]
            assert isinstance(node, _File)
            node.content[position // 8] ^= 1 << position % 8
            durable = bytearray(node.durable)
            if position // 8 < len(durable):
                durable[position // 8] ^= 1 << position % 8
            node.durable = bytes(durable)

    # The port.

    def open_root(self, path: str) -> int:
        """Open the top directory of a storage, which is made at the first time."""
        with self._call():
            if self.gone:
                raise _error(errno.ENOENT, path)
            key = path, self.unmounted
            if key not in self._roots:
                self._roots[key] = _Directory(self._next(), device=2 if self.unmounted else 1)
            return self._open(self._roots[key])

    def open_directory(self, directory: int, name: str) -> int:
        """Open a directory."""
        with self._call():
            node = self._entry(directory, name)
            if not isinstance(node, _Directory):
                raise _error(errno.ENOTDIR, name)
            return self._open(node)

    def open_file(self, directory: int, name: str) -> int:
        """Open for reading."""
        with self._call():
            return self._open(self._entry(directory, name))

    def create(self, directory: int, name: str) -> int:
        """Make a new file."""
        with self._call(changes=True):
            file = _File(self._next())
            self._add(self._directory(directory), name, file, Sync.RENAME)
            return self._open(file)

    def close(self, handle: int) -> None:
        """Give a handle back."""
        with self._lock:  # never fails, so that a cut can be told from a leak
            self._handles.pop(handle, None)

    def write(self, file: int, parts: Sequence[Buffer]) -> int:
        """Append some of the parts."""
        with self._call(changes=True):
            node = self._file(file)
            data = b"".join(parts)
            if self.short and len(data) > 1:
                data = data[: self._choose.randint(1, len(data))]
            room = self._room()
            if data and room <= 0:
                raise _error(errno.ENOSPC)
            data = data[:room]
            node.content += data
            return len(data)

    def read(self, file: int, start: int, buffer: memoryview) -> int:
        """Read into the buffer."""
        with self._call():
            data = self._file(file).content[start : start + len(buffer)]
            if self.short and len(data) > 1:
                data = data[: self._choose.randint(1, len(data))]
            buffer[: len(data)] = data
            return len(data)

    def start_write_back(self, file: int, start: int, length: int) -> None:
        """Promise nothing, so do nothing."""
        with self._call():
            assert start + length <= len(self._file(file).content)

    def sync_file(self, file: int) -> None:
        """Make content and flags durable."""
        with self._call():
            node = self._file(file)
            if Sync.FILE not in self._ignore:
                node.durable = bytes(node.content)
                node.immutable_durable = node.immutable
                node.sealed_durable = node.sealed

    def sync_directory(self, directory: int) -> None:
        """Make the entries durable."""
        with self._call():
            node = self._directory(directory)
            kept = []
            for change in node.pending:
                if change.kind in self._ignore:
                    kept.append(change)
                else:
                    change.apply(node.durable)
            node.pending = kept
            node.sealed_durable = node.sealed

    def make_directory(self, directory: int, name: str) -> None:
        """Make a directory."""
        with self._call(changes=True):
            parent = self._directory(directory)
            self._add(parent, name, _Directory(self._next(), parent.device), Sync.MKDIR)

    def rename(self, directory: int, source: str, target: str) -> None:
        """Rename without replacing."""
        with self._call(changes=True):
            parent = self._directory(directory)
            node = self._entry(directory, source)
            if target in parent.entries:
                raise _error(errno.EEXIST, target)
            self._require_mutable(node, source, parent)
            self._change(parent, _Change(Sync.RENAME, removed=source, added=target, node=node))

    def unlink(self, directory: int, name: str) -> None:
        """Remove a file."""
        with self._call(changes=True):
            node = self._entry(directory, name)
            if isinstance(node, _Directory):
                raise _error(errno.EISDIR, name)
            self._require_mutable(node, name, self._directory(directory))
            node.links = 0
            self._change(self._directory(directory), _Change(Sync.UNLINK, removed=name))

    def scan(self, directory: int) -> list[Entry]:
        """Return the entries, in any order."""
        with self._call():
            entries = [
                Entry(name, _status(node).kind, _status(node).size)
                for name, node in self._directory(directory).entries.items()
            ]
            self._choose.shuffle(entries)
            return entries

    def status(self, handle: int) -> Status:
        """Describe what a handle is."""
        with self._call():
            return _status(self._node(handle))

    def status_at(self, directory: int, name: str) -> Status:
        """Describe an entry."""
        with self._call():
            return _status(self._entry(directory, name))

    def free(self, directory: int) -> int:
        """Return the bytes that fit."""
        with self._call():
            self._directory(directory)
            return max(0, self._room())

    def is_immutable(self, file: int) -> bool:
        """Tell whether the immutable flag is set."""
        with self._call():
            if self.without_flags:
                raise _error(errno.ENOTTY)
            return self._file(file).immutable

    def set_immutable(self, file: int, *, immutable: bool) -> None:
        """Set or clear the immutable flag."""
        with self._call(changes=True):
            if self.without_flags:
                raise _error(errno.ENOTTY)
            if not self.flags_ignored:
                self._file(file).immutable = immutable
                self._file(file).sealed = False

    def is_sealed(self, handle: int) -> bool:
        """Tell whether a file or directory is sealed."""
        with self._call():
            if self.without_flags:
                raise _error(errno.ENOTTY)
            return self._node(handle).sealed

    def set_sealed(self, handle: int, *, sealed: bool) -> None:
        """Seal a file or directory, or lift its seal."""
        with self._call(changes=True):
            if self.without_flags:
                raise _error(errno.ENOTTY)
            if not self.flags_ignored:
                node = self._node(handle)
                node.sealed = sealed
                if isinstance(node, _File):
                    node.immutable = False

    # How it works inside.

    @contextlib.contextmanager
    def _call(self, *, changes: bool = False) -> Iterator[None]:
        with self._lock:
            if self._dark or (self._cut_at is not None and self.calls >= self._cut_at):
                self._dark = True
                raise PowerFailure
            self.calls += 1
            if changes and self.read_only:
                raise _error(errno.EROFS)
            yield

    def _room(self) -> int:
        # Counting takes long with many files; a disk without a limit need not.
        return self.capacity - self.used() if self.capacity < _UNLIMITED else _UNLIMITED

    def _next(self) -> int:
        self._number += 1
        return self._number

    def _open(self, node: _Node) -> int:
        self._handle += 1
        self._handles[self._handle] = node
        return self._handle

    def _node(self, handle: int) -> _Node:
        if self.gone:
            raise _error(errno.ENODEV)
        if handle not in self._handles:
            raise _error(errno.EBADF)
        return self._handles[handle]

    def _file(self, handle: int) -> _File:
        node = self._node(handle)
        if isinstance(node, _Directory):
            raise _error(errno.EISDIR)
        return node

    def _directory(self, handle: int) -> _Directory:
        node = self._node(handle)
        assert isinstance(node, _Directory), "the handle of a file where a directory belongs"
        return node

    def _entry(self, directory: int, name: str) -> _Node:
        node = self._directory(directory).entries.get(name)
        if node is None:
            raise _error(errno.ENOENT, name)
        return node

    def _add(self, parent: _Directory, name: str, node: _Node, kind: Sync) -> None:
        if name in parent.entries:
            raise _error(errno.EEXIST, name)
        self._change(parent, _Change(kind, added=name, node=node))

    def _change(self, parent: _Directory, change: _Change) -> None:
        change.apply(parent.entries)
        parent.pending.append(change)

    def _require_mutable(self, node: _Node, name: str, parent: _Directory) -> None:
        immutable = isinstance(node, _File) and node.immutable
        if immutable or node.sealed or parent.sealed:
            raise _error(errno.EPERM, name)

    def _crash_directory(self, directory: _Directory) -> None:
        for change in directory.pending:
            if self._choose.random() < 0.5:
                change.apply(directory.durable)
        directory.pending = []
        directory.entries = dict(directory.durable)
        directory.sealed = directory.sealed_durable
        for node in directory.entries.values():
            if isinstance(node, _Directory):
                self._crash_directory(node)
            else:
                self._crash_file(node)

    def _crash_file(self, file: _File) -> None:
        file.links = 1
        file.immutable = file.immutable_durable
        file.sealed = file.sealed_durable
        unsynced = bytearray(file.content[len(file.durable) :])
        fate = self._choose.choice(("lost", "cut", "zeros", "there"))
        if fate == "lost":
            unsynced.clear()
        elif fate == "cut":
            del unsynced[self._choose.randint(0, len(unsynced)) :]
        elif fate == "zeros":
            for start in range(0, len(unsynced), _BLOCK):
                if self._choose.random() < 0.5:
                    end = min(start + _BLOCK, len(unsynced))
                    unsynced[start:end] = bytes(end - start)
        file.durable += unsynced
        file.content = bytearray(file.durable)


def _files(directory: _Directory) -> Iterator[_File]:
    for node in directory.entries.values():
        if isinstance(node, _Directory):
            yield from _files(node)
        else:
            yield node


def _status(node: _Node) -> Status:
    if isinstance(node, _Directory):
        return Status(Kind.DIRECTORY, 0, 1, (node.device, node.number))
    return Status(Kind.FILE, len(node.content), node.links, (1, node.number))


def _error(number: int, name: str = "") -> OSError:
    return OSError(number, os.strerror(number), name)
