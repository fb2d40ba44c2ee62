"""The small files that clients make beside the disks, in a directory of this host.

No name of a client becomes a path: a file lies under a number, and `index.json` says which name,
in which directory, that number has. The index is replaced as a whole, durably, before a client
hears of a change; so names and handles outlive the server.
"""

import dataclasses
import json
import os
import secrets
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from ruchu.errors import CacheDamaged
from ruchu.exports.nfs.exporting import is_served_name
from ruchu.exports.nfs.messages import Refused, Status

# A virtual machine has some dozens beside its disks.
ENTRIES_MAX: Final = 1000
ROOT_ID: Final = 0
_INDEX = "index.json"
_VERSION = 1
# A name is at most 255 bytes, each at most 6 characters in JSON; the rest of an entry is short.
_INDEX_BYTES_MAX = ENTRIES_MAX * 2048


@dataclass(frozen=True, slots=True)
class Entry:
    """A file or directory made by a client.

    Attributes:
        number: its number, never given twice in one scratch directory.
        parent: number of its directory.
        name: its name there.
        directory: it is one.
        mode: what a client set.
        token: verifier of the CREATE that made it, so that the same call twice makes it once.
    """

    number: int
    parent: int
    name: bytes
    directory: bool
    mode: int
    token: bytes = b""


class Scratch:
    """The files in a scratch directory and their index.

    `change` is called by one thread at a time; contents may be used by several.

    Raises:
        CacheDamaged: the index contradicts itself.
        OSError: the directory cannot be used.
    """

    def __init__(self, directory: Path, bytes_max: int) -> None:
        self._directory = directory
        self._bytes_max = bytes_max
        self._lock = threading.Lock()
        self.entries: dict[int, Entry] = {}
        self._next = ROOT_ID + 1
        self.generation = secrets.token_hex(16)
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        if (directory / _INDEX).exists():
            self._load()
        self._remove_unnamed()
        self._used = sum(self.path(number).stat().st_size for number in self._files())

    @property
    def bytes_free(self) -> int:
        """Bytes that the files may still take."""
        return max(0, self._bytes_max - self._used)

    @property
    def bytes_max(self) -> int:
        """Bytes that all files may take together."""
        return self._bytes_max

    def path(self, number: int) -> Path:
        """Return where the content of a file lies."""
        return self._directory / f"{number:08x}.data"

    def new_number(self) -> int:
        """Return a number for a new entry, never used before.

        Raises:
            Refused: there are as many as there may be.
        """
        if len(self.entries) >= ENTRIES_MAX:
            raise Refused(Status.DQUOT)
        self._next += 1
        return self._next - 1

    def change(self, put: Iterable[Entry] = (), remove: Iterable[int] = ()) -> None:
        """Add or replace entries and remove others, in one durable step.

        Raises:
            OSError: nothing changed.
        """
        entries = dict(self.entries)
        gone = [entries.pop(number) for number in remove]
        for entry in put:
            entries[entry.number] = entry
            if not entry.directory and entry.number not in self.entries:
                os.close(os.open(self.path(entry.number), _CREATE, 0o600))
        self._save(entries)
        self.entries = entries
        for entry in gone:
            if not entry.directory:
                self._forget(entry.number)

    def resize(self, number: int, size: int) -> None:
        """Cut a file, or let it grow with zeros.

        Raises:
            Refused: the files would take too much room.
        """
        with self._open(number) as descriptor, self._lock:
            self._grow(size - os.fstat(descriptor).st_size)
            os.ftruncate(descriptor, size)

    def write(self, number: int, start: int, data: memoryview) -> None:
        """Write to a file, which grows where needed.

        Raises:
            Refused: the files would take too much room.
        """
        with self._open(number) as descriptor:
            with self._lock:
                growth = start + len(data) - os.fstat(descriptor).st_size
                if growth > 0:
                    self._grow(growth)
                    os.ftruncate(descriptor, start + len(data))
            while data:
                written = os.pwrite(descriptor, data, start)
                data, start = data[written:], start + written

    def read_into(self, number: int, start: int, buffer: memoryview) -> None:
        """Fill the buffer; what lies behind the end is zeros."""
        with self._open(number) as descriptor:
            while buffer and (count := os.preadv(descriptor, [buffer], start)):
                buffer, start = buffer[count:], start + count
        buffer[:] = bytes(len(buffer))

    def flush(self, number: int) -> None:
        """Make a file durable."""
        with self._open(number) as descriptor:
            os.fsync(descriptor)

    @contextmanager
    def _open(self, number: int) -> Iterator[int]:
        try:
            descriptor = os.open(self.path(number), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        except FileNotFoundError as error:
            raise Refused(Status.STALE) from error
        try:
            yield descriptor
        finally:
            os.close(descriptor)

    def _grow(self, growth: int) -> None:
        if growth > self.bytes_free:
            raise Refused(Status.NOSPC)
        self._used += growth

    def _forget(self, number: int) -> None:
        with self._lock:
            path = self.path(number)
            self._used -= path.stat().st_size
            path.unlink()

    def _files(self) -> list[int]:
        return [entry.number for entry in self.entries.values() if not entry.directory]

    def _save(self, entries: dict[int, Entry]) -> None:
        listed = [
            dataclasses.asdict(entry)
            | {"name": os.fsdecode(entry.name), "token": entry.token.hex()}
            for entry in entries.values()
        ]
        document = {
            "version": _VERSION,
            "generation": self.generation,
            "next": self._next,
            "entries": listed,
        }
        temporary = self._directory / f"{_INDEX}.new"
        with temporary.open("w") as file:
            json.dump(document, file)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._directory / _INDEX)
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _load(self) -> None:
        path = self._directory / _INDEX
        try:
            with path.open() as file:
                document = json.loads(file.read(_INDEX_BYTES_MAX))
            if document["version"] != _VERSION:
                raise CacheDamaged(f"{path} has version {document['version']}")
            self.generation = str(document["generation"])
            self._next = int(document["next"])
            self.entries = {entry.number: entry for entry in map(_entry, document["entries"])}
            self._check()
        except (ValueError, KeyError, TypeError) as error:
            raise CacheDamaged(f"{path}: {error}") from error

    def _check(self) -> None:
        """Refuse an index whose directories form a cycle, or whose names are there twice."""
        names = {(entry.parent, entry.name) for entry in self.entries.values()}
        if len(names) != len(self.entries) or len(names) > ENTRIES_MAX:
            raise ValueError("names are there twice")
        for entry in self.entries.values():
            parent = entry.parent
            # As many steps as there are entries lead to the root, unless in a circle.
            for _ in range(len(self.entries) + 1):
                if parent == ROOT_ID:
                    break
                parent = self.entries[parent].parent
            else:
                raise ValueError("directories form a circle")
            if entry.parent != ROOT_ID and not self.entries[entry.parent].directory:
                raise ValueError("a file is a directory")
            if not ROOT_ID < entry.number < self._next:
                raise ValueError(f"the number {entry.number} was never given")
            if not entry.directory and not self.path(entry.number).is_file():
                raise ValueError(f"the content of {entry.number} is missing")

    def _remove_unnamed(self) -> None:
        """Remove contents that a crash left without a name."""
        known = {self.path(number).name for number in self._files()}
        for path in self._directory.glob("*.data"):
            if path.name not in known:
                path.unlink()


_CREATE = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC


def _entry(fields: dict[str, Any]) -> Entry:
    name = os.fsencode(str(fields["name"]))
    if not is_served_name(name):
        raise ValueError(f"a name {name!r}")
    return Entry(
        number=int(fields["number"]),
        parent=int(fields["parent"]),
        name=name,
        directory=bool(fields["directory"]),
        mode=int(fields["mode"]),
        token=bytes.fromhex(fields["token"]),
    )


class ScratchContent:
    """The bytes of one file: see `file_io.Content`."""

    def __init__(self, scratch: Scratch, number: int) -> None:
        self._scratch = scratch
        self._number = number

    @property
    def size(self) -> int:
        """Bytes of the file; 0 when it was removed meanwhile."""
        try:
            return self._scratch.path(self._number).stat().st_size
        except FileNotFoundError:
            return 0

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return None: reading a file may wait."""
        del start, length
        return None

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer; what lies behind the end is zeros."""
        self._scratch.read_into(self._number, start, buffer)

    def write(self, start: int, buffer: memoryview) -> None:
        """Write, and grow where needed."""
        self._scratch.write(self._number, start, buffer)

    def flush(self) -> None:
        """Make the file durable."""
        self._scratch.flush(self._number)
