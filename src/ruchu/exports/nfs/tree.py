"""The exported tree: one directory with the disks, given files, and what clients make beside them.

Looking is done in the thread of the event loop; changing names waits for a disk, so it is done in
other threads, one at a time.
"""

import functools
import hmac
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Final

from ruchu.exports.nfs import nodes
from ruchu.exports.nfs.exporting import NAME_MAX, ExportedDisk, NfsExport, is_served_name
from ruchu.exports.nfs.file_io import Content, FileIo, Verifier
from ruchu.exports.nfs.messages import (
    DIRECTORY,
    EXCLUSIVE,
    REGULAR,
    UNCHECKED,
    Attributes,
    NewAttributes,
    Refused,
    Status,
)
from ruchu.exports.nfs.nodes import Directory, File, Node
from ruchu.exports.nfs.scratch import ENTRIES_MAX, ROOT_ID, Entry, Scratch, ScratchContent
from ruchu.exports.nfs.workers import Workers

# RFC 1813 sets no limit; a path of a client is at most 4096 bytes, and a lookup costs one call.
DEPTH_MAX: Final = 16
# Cookies 1 and 2 are `.` and `..`; those of disks and files follow, then those of scratch files.
_FIRST_COOKIE = 3
_FIRST_SCRATCH_COOKIE = 1 << 20


@dataclass(frozen=True, slots=True)
class Creation:
    """How a file is to be made: see CREATE in RFC 1813. A directory is always GUARDED."""

    how: int
    attributes: NewAttributes
    token: bytes = b""
    directory: bool = False


class BytesContent:
    """Content that is given: see `file_io.Content`. It is never written."""

    def __init__(self, data: bytes) -> None:
        self._data = memoryview(data)

    @property
    def size(self) -> int:
        """Bytes of the file."""
        return len(self._data)

    def peek(self, start: int, length: int) -> memoryview:
        """Return the bytes."""
        return self._data[start : start + length]

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        buffer[:] = self._data[start : start + len(buffer)]

    def write(self, start: int, buffer: memoryview) -> None:
        """Refuse: nobody gets here, for the file is read-only."""
        del start, buffer
        raise Refused(Status.ROFS)

    def flush(self) -> None:
        """Do nothing: there is nothing to make durable."""


class _Reading:
    """A device that cannot peek, or cannot write, as a content."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.read_into = device.read_into
        self.peek = getattr(device, "peek", self._nothing_at_hand)
        self.write = getattr(device, "write", self._refuse)
        self.write_at_once = getattr(device, "write_at_once", self._not_at_once)
        self.flush = getattr(device, "flush", self._nothing_to_flush)

    @property
    def size(self) -> int:
        return int(self._device.size)

    def _nothing_at_hand(self, start: int, length: int) -> None:
        del start, length

    def _refuse(self, start: int, buffer: memoryview) -> None:
        del start, buffer
        raise Refused(Status.ROFS)

    def _not_at_once(self, start: int, buffer: memoryview) -> bool:
        del start, buffer
        return False

    def _nothing_to_flush(self) -> None:
        pass


class Tree:
    """All files of an export, by handle and by name.

    `create`, `remove`, `rename` and `set_attributes` may wait and may be called in any thread;
    the rest does not wait, and is called in the thread of the event loop.
    """

    def __init__(
        self, export: NfsExport, workers: Workers, verifier: Verifier, now: nodes.Now
    ) -> None:
        self.export = export
        self.now = now
        self._workers = workers
        self._verifier = verifier
        self._lock = threading.Lock()
        self._filesystem = int.from_bytes(self._mac(b"filesystem")[:8], "big") >> 1
        self.by_handle: dict[bytes, Node] = {}
        self.root = Directory(*self._identity(b"root", DIRECTORY, nodes.DIRECTORY_MODE, 0), None)
        self.by_handle[self.root.handle] = self.root
        cookie = _FIRST_COOKIE
        for disk in export.disks:
            self._add_disk(disk, cookie)
            cookie += 1
        for name, data in export.files.items():
            identity = self._identity(
                b"file/" + name.encode(), REGULAR, nodes.READ_ONLY_MODE, cookie
            )
            self._add(self.root, name.encode(), self._file(identity, BytesContent(data)))
            cookie += 1
        self.scratch = Scratch(export.scratch, export.scratch_max) if export.scratch else None
        self._load_scratch()

    def node(self, handle: bytes) -> Node:
        """Return what a handle names.

        Raises:
            Refused: there is no such thing (any longer), or it was never a handle of ours.
        """
        found = self.by_handle.get(handle)
        if found is None:
            raise Refused(Status.STALE)
        return found

    def directory(self, handle: bytes) -> Directory:
        """Return the directory that a handle names."""
        found = self.node(handle)
        if not isinstance(found, Directory):
            raise Refused(Status.NOTDIR)
        return found

    def file(self, handle: bytes) -> File:
        """Return the file that a handle names."""
        found = self.node(handle)
        if not isinstance(found, File):
            raise Refused(Status.ISDIR)
        return found

    def lookup(self, directory: Directory, name: bytes) -> Node:
        """Return what has a name in a directory, `.` and `..` too."""
        if name == b".":
            return directory
        if name == b"..":
            return directory.parent
        if len(name) > NAME_MAX:
            raise Refused(Status.NAMETOOLONG)
        found = directory.entries.get(name)
        if found is None:
            raise Refused(Status.NOENT)
        return found

    def create(self, directory: Directory, name: bytes, creation: Creation) -> Node:
        """Make a file or a directory; see CREATE and MKDIR in RFC 1813."""
        with self._lock:
            scratch = self._writable(name)
            existing = directory.entries.get(name)
            if existing is not None:
                return self._existing(existing, creation)
            self._check_place(directory)
            wanted = creation.attributes
            mode = nodes.DIRECTORY_MODE if creation.directory else nodes.FILE_MODE
            entry = Entry(
                number=scratch.new_number(),
                parent=_number(directory),
                name=name,
                directory=creation.directory,
                mode=mode if wanted.mode is None else wanted.mode & 0o7777,
                token=creation.token,
            )
            scratch.change([entry])
            node = self._add_entry(entry, directory)
            directory.touch(self.now())
            if wanted.size and isinstance(node, File):
                self._resize(node, wanted.size)
            return node

    def remove(self, directory: Directory, name: bytes, *, directories: bool) -> None:
        """Remove a file, or an empty directory."""
        with self._lock:
            scratch = self._writable(name)
            node = self.lookup(directory, name)
            self._check_removable(node, directories=directories)
            scratch.change(remove=[_number(node)])
            self._drop(directory, name, node)
            directory.touch(self.now())

    def rename(self, source: Directory, name: bytes, target: Directory, new_name: bytes) -> None:
        """Give a file or directory another name; what had that name is replaced."""
        with self._lock:
            scratch = self._writable(name)
            self._writable(new_name)
            node = self.lookup(source, name)
            if node.scratch_id is None:
                raise Refused(Status.DENIED)
            replaced = target.entries.get(new_name)
            if replaced is node:
                return
            if replaced is not None:
                self._check_removable(replaced, directories=isinstance(node, Directory))
            self._check_target(node, target)
            entry = replace(scratch.entries[node.scratch_id], parent=_number(target), name=new_name)
            scratch.change([entry], [] if replaced is None else [_number(replaced)])
            if replaced is not None:
                self._drop(target, new_name, replaced)
            del source.entries[name]
            target.entries[new_name] = node
            if isinstance(node, Directory):
                node.parent = target
            moment = self.now()
            source.touch(moment)
            target.touch(moment)

    def set_attributes(self, node: Node, wanted: NewAttributes, guard: int | None) -> None:
        """Set attributes as SETATTR does; `guard` is the ctime that the client expects.

        Owner and group stay as they are: to ask for others is refused, as it is where root is
        squashed, which hypervisors know. A disk keeps its size.
        """
        with self._lock:
            if guard is not None and guard != node.attributes.changed:
                raise Refused(Status.NOT_SYNC)
            for asked, there in (
                (wanted.owner, self.export.owner),
                (wanted.group, self.export.group),
            ):
                if asked not in {None, there}:
                    raise Refused(Status.PERM)
            if wanted.size is not None:
                if not isinstance(node, File):
                    raise Refused(Status.ISDIR)
                self._resize(node, wanted.size)
            if wanted.mode is not None and node.scratch_id is not None and self.scratch:
                entry = self.scratch.entries[node.scratch_id]
                self.scratch.change([replace(entry, mode=wanted.mode & 0o7777)])
            node.set_times_and_mode(wanted, self.now())

    def free_entries(self) -> int:
        """Return how many more files and directories clients may make."""
        return ENTRIES_MAX - len(self.scratch.entries) if self.scratch else 0

    def flushes(self) -> list[Callable[[], None]]:
        """Return what makes each writable disk durable."""
        found = [node for node in self.by_handle.values() if isinstance(node, File)]
        return [node.io.content.flush for node in found if node.writable and not node.growing]

    def _resize(self, node: File, size: int) -> None:
        if size == node.attributes.size:
            return
        if not node.growing or self.scratch is None:
            raise Refused(Status.INVAL if node.writable else Status.ROFS)
        self.scratch.resize(_number(node), size)
        node.written(self.now())

    def _existing(self, node: Node, creation: Creation) -> Node:
        if creation.how == EXCLUSIVE and node.scratch_id is not None and self.scratch:
            if self.scratch.entries[node.scratch_id].token == creation.token:
                return node
        elif creation.how == UNCHECKED and not creation.directory and isinstance(node, File):
            if creation.attributes.size is not None:
                self._resize(node, creation.attributes.size)
            return node
        raise Refused(Status.EXIST)

    def _writable(self, name: bytes) -> Scratch:
        if len(name) > NAME_MAX:
            raise Refused(Status.NAMETOOLONG)
        if name in {b".", b".."}:
            raise Refused(Status.EXIST)
        if not is_served_name(name):
            raise Refused(Status.INVAL)
        if self.scratch is None:
            raise Refused(Status.ROFS)
        return self.scratch

    def _check_place(self, directory: Directory) -> None:
        if self.by_handle.get(directory.handle) is not directory:
            raise Refused(Status.STALE)
        depth = 0
        while directory is not self.root:
            directory = directory.parent
            depth += 1
            if depth >= DEPTH_MAX:
                raise Refused(Status.DQUOT)

    def _check_target(self, node: Node, target: Directory) -> None:
        """Refuse to put a directory into itself."""
        self._check_place(target)
        while target is not self.root:
            if target is node:
                raise Refused(Status.INVAL)
            target = target.parent

    def _check_removable(self, node: Node, *, directories: bool) -> None:
        if node.scratch_id is None:
            raise Refused(Status.DENIED)
        if isinstance(node, Directory) and not directories:
            raise Refused(Status.ISDIR)
        if directories and not isinstance(node, Directory):
            raise Refused(Status.NOTDIR)
        if isinstance(node, Directory) and node.entries:
            raise Refused(Status.NOTEMPTY)

    def _drop(self, directory: Directory, name: bytes, node: Node) -> None:
        del directory.entries[name]
        del self.by_handle[node.handle]

    def _add(self, directory: Directory, name: bytes, node: Node) -> None:
        self.by_handle[node.handle] = node
        directory.entries[name] = node

    def _add_disk(self, disk: ExportedDisk, cookie: int) -> None:
        writable = callable(getattr(disk.device, "write", None))
        mode = nodes.FILE_MODE if writable else nodes.READ_ONLY_MODE
        identity = self._identity(b"disk/" + disk.name.encode(), REGULAR, mode, cookie)
        node = self._file(identity, _Reading(disk.device), writable=writable)
        self._add(self.root, disk.name.encode(), node)

    def _load_scratch(self) -> None:
        if self.scratch is None:
            return
        directories = {ROOT_ID: self.root}
        waiting = sorted(self.scratch.entries.values(), key=lambda entry: entry.number)
        # A directory may have moved into a younger one. Each round places at least one entry; what
        # remains lies in a directory whose name a disk or a given file has taken.
        while ready := [entry for entry in waiting if entry.parent in directories]:
            waiting = [entry for entry in waiting if entry.parent not in directories]
            for entry in ready:
                parent = directories[entry.parent]
                if entry.name in parent.entries:
                    continue
                node = self._add_entry(entry, parent)
                if isinstance(node, Directory):
                    directories[entry.number] = node

    def _add_entry(self, entry: Entry, directory: Directory) -> Node:
        assert self.scratch is not None
        key = f"scratch/{self.scratch.generation}/{entry.number}".encode()
        kind = DIRECTORY if entry.directory else REGULAR
        identity = self._identity(key, kind, entry.mode, _FIRST_SCRATCH_COOKIE + entry.number)
        node: Node
        if entry.directory:
            node = Directory(*identity, directory)
        else:
            content = ScratchContent(self.scratch, entry.number)
            node = self._file(identity, content, writable=True, growing=True)
        node.scratch_id = entry.number
        self._add(directory, entry.name, node)
        return node

    def _file(
        self,
        identity: tuple[bytes, int, Attributes],
        content: Content,
        *,
        writable: bool = False,
        growing: bool = False,
    ) -> File:
        identity[2].size = content.size
        io = FileIo(content, self._workers, self._verifier)
        return File(*identity, io, writable=writable, growing=growing)

    def _identity(
        self, key: bytes, kind: int, mode: int, cookie: int
    ) -> tuple[bytes, int, Attributes]:
        handle = self._mac(key)
        # From the handle, so that it is the same after a restart; 63 bits, as some clients sign it.
        file_id = int.from_bytes(self._mac(b"id/" + key)[:8], "big") >> 1
        moment = self.now()
        attributes = Attributes(
            kind=kind,
            mode=mode,
            owner=self.export.owner,
            group=self.export.group,
            size=4096 if kind == DIRECTORY else 0,
            filesystem=self._filesystem,
            file_id=file_id,
            accessed=moment,
            modified=moment,
            changed=moment,
        )
        return handle, cookie, attributes

    @functools.cached_property
    def cookie_verifier(self) -> bytes:
        """Verifier of listings; cookies stay good for ever, so it never changes."""
        return self._mac(b"cookies")[:8]

    def _mac(self, key: bytes) -> bytes:
        return hmac.digest(self.export.secret, self.export.path.encode() + b"\0" + key, "sha256")


def _number(node: Node) -> int:
    return ROOT_ID if node.scratch_id is None else node.scratch_id
