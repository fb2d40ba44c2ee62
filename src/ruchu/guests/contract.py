"""What every reader of a file system offers. Browsing, extraction and mounting know only this.

A reader never writes, and never trusts what it reads: everything on a guest's disk may be damaged
or hostile. Whatever is impossible raises `GuestDamaged`; whatever this release does not understand
raises `GuestUnsupported`. No loop is unbounded, no length from a disk is believed before it was
held against the size of the device and a limit, and no read leaves the device.
"""

import enum
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
import numpy.typing as npt

from ruchu.blocks.devices import BlockReader
from ruchu.model.extents import Extent

Ranges = npt.NDArray[np.int64]
"""Shape (n, 2): first byte and the byte after the last; sorted, disjoint, not touching."""

NAME_BYTES_MAX = 1024
"""No file system has longer names (NTFS: 255 UTF-16 units, at most 765 bytes)."""
XATTR_BYTES_MAX = 16 << 20
"""Bytes of all extended attributes of a file that are read; more is damage or an attack."""


class NodeKind(enum.Enum):
    """What an entry of a directory is."""

    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    CHARACTER_DEVICE = "character-device"
    BLOCK_DEVICE = "block-device"
    FIFO = "fifo"
    SOCKET = "socket"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Entry:
    """A name in a directory.

    Attributes:
        name: as bytes: what Linux shows for it; NTFS, FAT and exFAT names are UTF-8 (lone
            surrogates as `surrogatepass` encodes them).
        node: number of what it names: inode, MFT record, or what the reader finds it by.
        kind: what it is; OTHER where only `stat` can tell.
    """

    name: bytes
    node: int
    kind: NodeKind


@dataclass(frozen=True, slots=True)
class Stat:
    """What is known of a node.

    Attributes:
        kind: what it is.
        size: bytes of its content (of a link: of its target).
        allocated: bytes that it takes on the volume, as `st_blocks * 512` would tell.
        mode: permission bits incl. setuid, setgid, sticky; without the type. File systems without
            modes give 0o755 for directories, 0o644 for files (0o444 if read-only).
        owner, group: numbers; 0 where there are none.
        links: number of hard links.
        modified, accessed, changed: nanoseconds since 1970 UTC; 0 where it is not kept.
        created: nanoseconds since 1970; None where it is not kept.
        device: major and minor of a device node.
        attributes: flags of DOS and NTFS (FILE_ATTRIBUTE_*); 0 elsewhere.
    """

    kind: NodeKind
    size: int
    allocated: int
    mode: int
    owner: int = 0
    group: int = 0
    links: int = 1
    modified: int = 0
    accessed: int = 0
    changed: int = 0
    created: int | None = None
    device: tuple[int, int] = (0, 0)
    attributes: int = 0


@dataclass(frozen=True, slots=True)
class Allocation:
    """Which bytes of a volume hold something that counts.

    Attributes:
        used: ranges of bytes of the volume. Always a superset of what is in use.
        doubt: why everything was taken; empty if the map is understood and up to date.
        suspended: the memory of a hibernated guest lies here. What it knows of its other volumes
            may differ from what they say themselves.
    """

    used: Ranges
    doubt: str = ""
    suspended: bool = False


def everything(size: int, doubt: str, *, suspended: bool = False) -> Allocation:
    """Return the allocation of a volume of `size` bytes that is not understood."""
    whole = np.array([[0, size]], np.int64)[: 1 if size else 0]
    return Allocation(whole, doubt, suspended)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a file system says of itself.

    Attributes:
        kind: such as `ext4`, `xfs`, `btrfs`, `ntfs`, `fat32`, `exfat`.
        label: its label; may be empty.
        uuid: its UUID or serial number as the system's tools print it.
        size: bytes that it says it spans.
        block: bytes of a block (cluster).
        notes: what a person should know: a dirty journal, errors flagged.
    """

    kind: str
    label: str
    uuid: str
    size: int
    block: int
    notes: tuple[str, ...] = field(default=())


class FileSystem(Protocol):
    """A file system on a volume, read-only. Safe in several threads.

    Raises:
        GuestDamaged: of any method: what it read contradicts itself.
        GuestUnsupported: it uses something that is not understood.
        NotFound: there is no such node or stream. Who has a node from a directory takes this for
            damage, as `volumes.open_file_system` does.
    """

    @property
    def facts(self) -> Facts:
        """What it says of itself."""

    @property
    def root(self) -> int:
        """The node of its root directory."""

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names, without `.` and `..`, in any order."""

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA and HOLE of a file's content: sorted, disjoint, covering `size`.

        HOLE is what reads as zeros and takes no room (also: preallocated and never written).
        """

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content from `start`; the caller stays inside `size`."""

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return where on the volume the content lies whole blocks at a time, sorted.

        For leaving out content that does not count: only blocks that hold nothing else. None:
        this cannot be said (compressed, inline, shared, not understood).
        """

    def link_target(self, node: int) -> bytes:
        """Return the target of a symbolic link."""

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return extended attributes under the names and with the values that Linux shows.

        POSIX ACLs are `system.posix_acl_access` and `system.posix_acl_default` in the form of the
        system call (version 2); NTFS gives `system.ntfs_acl` (the security descriptor) where it
        has one.
        """

    def streams(self, node: int) -> Mapping[str, int]:
        """Return name and size of alternate data streams (NTFS); empty elsewhere."""


class Opener(Protocol):
    """The module of a kind of file system."""

    def recognise(self, device: BlockReader) -> str:
        """Return the kind if this is one, else an empty text. Reads little, raises nothing."""

    def open_file_system(self, device: BlockReader) -> FileSystem:
        """Open it for browsing."""

    def allocation(self, device: BlockReader, *, frozen: bool) -> Allocation:
        """Return which bytes count. Never raises for what it finds: doubt takes everything.

        Args:
            device: the volume.
            frozen: its guest had flushed and frozen it at the moment of the point, so a journal
                that only looks in use holds nothing that is not in place.
        """
