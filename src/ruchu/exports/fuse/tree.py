"""What a mount shows: `NAME.raw` for each disk, `volumes/NAME/` for each file system.

Names of a guest's files are bytes; everything here is. A guest's file system may be damaged or
hostile: a name that Linux cannot have is left out and reported, a directory that holds itself is
an error, of one that is damaged the rest is shown, and what is remembered is bounded.
"""

import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ruchu.blocks.devices import BlockDevice, PeekingReader
from ruchu.errors import (
    Damaged,
    GuestDamaged,
    GuestError,
    NotFound,
    ObjectMissing,
    ObjectShort,
    RuchuError,
    UsageError,
)

VOLUMES = b"volumes"
RAW_SUFFIX = b".raw"
# What the kernel takes from a FUSE file system (FUSE_NAME_MAX).
NAME_BYTES_MAX = 1024
# Names of directories that are remembered, over all of them; a name takes about 200 bytes.
_NAMES_MAX = 500_000


class Kind(Protocol):
    """What a node is."""

    @property
    def value(self) -> str:
        """Such as `file` or `directory`."""


class Entry(Protocol):
    """A name in a directory."""

    @property
    def name(self) -> bytes:
        """As Linux shows it."""

    @property
    def node(self) -> int:
        """What it names."""

    @property
    def kind(self) -> Kind:
        """What that is."""


class Stat(Protocol):
    """What is known of a node; times in nanoseconds since 1970."""

    @property
    def kind(self) -> Kind: ...  # noqa: D102 - named as in stat(2)
    @property
    def size(self) -> int: ...  # noqa: D102
    @property
    def allocated(self) -> int: ...  # noqa: D102
    @property
    def mode(self) -> int: ...  # noqa: D102
    @property
    def owner(self) -> int: ...  # noqa: D102
    @property
    def group(self) -> int: ...  # noqa: D102
    @property
    def links(self) -> int: ...  # noqa: D102
    @property
    def modified(self) -> int: ...  # noqa: D102
    @property
    def accessed(self) -> int: ...  # noqa: D102
    @property
    def changed(self) -> int: ...  # noqa: D102
    @property
    def device(self) -> tuple[int, int]: ...  # noqa: D102


class FileSystem(Protocol):
    """A guest's file system, read-only, as far as a mount needs it."""

    @property
    def root(self) -> int:
        """The node of its root directory."""

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names."""

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""

    def read_into(self, node: int, start: int, buffer: memoryview) -> None:
        """Fill the buffer; the caller stays inside the size."""

    def link_target(self, node: int) -> bytes:
        """Return the target of a symbolic link."""

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return extended attributes."""


@dataclass(frozen=True, slots=True)
class RawDisk:
    """A disk that is shown as a file.

    Attributes:
        name: without the suffix `.raw`.
        reader: its content.
        device: what takes writes, of the same content; None for a read-only file.
    """

    name: str
    reader: PeekingReader
    device: BlockDevice | None = None


@dataclass(frozen=True, slots=True)
class Inside:
    """A node of a guest's file system; `volume` is its number in the mount."""

    volume: int
    system: FileSystem
    node: int


@dataclass(frozen=True, slots=True)
class Listing:
    """A directory of the mount itself: names, and whether each is a directory."""

    names: Mapping[bytes, bool]


@dataclass(frozen=True, slots=True)
class Names:
    """What a directory of a guest names.

    Attributes:
        entries: name to what it names, as far as the directory could be read.
        problem: why the rest could not; None if it is whole.
    """

    entries: Mapping[bytes, Entry]
    problem: RuchuError | None = None


Place = Listing | RawDisk | Inside
Report = Callable[[str], None]
# What is wrong with a guest, or with what is kept of it, and will be when it is read again.
_CONTAINED = (GuestError, Damaged, ObjectMissing, ObjectShort)


class Tree:
    """Finds places by their paths. Safe in several threads.

    Args:
        disks: shown as files.
        volumes: name → file system, shown as trees.
        report: told what was left out.

    Raises:
        UsageError: a name cannot be that of a file.
    """

    def __init__(
        self,
        disks: list[RawDisk],
        volumes: Mapping[str, FileSystem],
        report: Report = lambda _: None,
    ) -> None:
        for name in [*(disk.name for disk in disks), *volumes]:
            if not _is_name(name.encode()):
                raise UsageError(f"(the name {name!r} is no file name)")
        self.disks = {disk.name.encode() + RAW_SUFFIX: disk for disk in disks}
        if len(self.disks) < len(disks):
            raise UsageError("(two disks of the same name)")
        self._volumes = {
            name.encode(): Inside(number, system, system.root)
            for number, (name, system) in enumerate(volumes.items(), 1)
        }
        self._top = Listing(dict.fromkeys(self.disks, False) | ({VOLUMES: True} if volumes else {}))
        self._report = report
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[int, int], Names] = OrderedDict()
        self._kept_names = 0

    @property
    def writable(self) -> bool:
        """Whether any disk takes writes."""
        return any(disk.device is not None for disk in self.disks.values())

    def find(self, path: bytes) -> Place:
        """Return what is at an absolute path.

        Raises:
            NotFound: nothing is.
            GuestDamaged: a directory holds itself, or cannot be read.
        """
        names = [name for name in path.split(b"/") if name]
        if not names:
            return self._top
        if names[0] != VOLUMES or not self._volumes:
            if len(names) > 1 or names[0] not in self.disks:
                raise NotFound
            return self.disks[names[0]]
        if len(names) == 1:
            return Listing(dict.fromkeys(self._volumes, True))
        volume = self._volumes.get(names[1])
        if volume is None:
            raise NotFound
        return self._walk(volume, names[2:])

    def _walk(self, volume: Inside, names: list[bytes]) -> Inside:
        node, passed = volume.node, {volume.node}
        for name in names:
            listed = self.entries(Inside(volume.volume, volume.system, node))
            entry = listed.entries.get(name)
            if entry is None:
                # In what could not be read there may be such a name.
                raise listed.problem.with_traceback(None) if listed.problem else NotFound
            node = entry.node
            if node in passed:
                raise GuestDamaged(f"directory {node} holds itself")
            passed.add(node)
        return Inside(volume.volume, volume.system, node)

    def entries(self, place: Inside) -> Names:
        """Return what a directory of a guest names, as far as it can be read."""
        key = place.volume, place.node
        with self._lock:
            found = self._kept.get(key)
            if found is not None:
                self._kept.move_to_end(key)
                return found
        found = self._read(place)
        with self._lock:
            if key not in self._kept:
                self._kept[key] = found
                self._kept_names += len(found.entries) + 1
            while self._kept_names > _NAMES_MAX and len(self._kept) > 1:
                self._kept_names -= len(self._kept.popitem(last=False)[1].entries) + 1
        return found

    def _read(self, place: Inside) -> Names:
        found: dict[bytes, Entry] = {}
        try:
            for entry in place.system.entries(place.node):
                if _is_name(entry.name):
                    found[entry.name] = entry
                else:
                    self._report(
                        f"left out: {entry.name!r} in directory {place.node} is no file name"
                    )
        except _CONTAINED as error:
            return Names(found, error)
        return Names(found)


def _is_name(name: bytes) -> bool:
    if not 0 < len(name) <= NAME_BYTES_MAX or name in {b".", b".."}:
        return False
    return b"/" not in name and b"\0" not in name
