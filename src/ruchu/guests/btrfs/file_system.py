"""A Btrfs, read-only: subvolumes and snapshots are directories, as below the top subvolume.

A node is `subvolume << 64 | inode`: inode numbers begin anew in each subvolume. The root is always
the top subvolume (5), from where everything can be reached; `facts` tells which subvolume a mount
shows by default. Checksums of metadata are verified; those of content are not, for a repository
checks what it gives out.
"""

import struct
import uuid
from collections import Counter
from collections.abc import Iterator, Mapping

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests import ranges
from ruchu.guests.btrfs import directories, extents, inodes, superblock
from ruchu.guests.btrfs.directories import EMPTY_DIRECTORY, INODE_BITS
from ruchu.guests.btrfs.extents import FileExtent
from ruchu.guests.btrfs.subvolumes import (
    EXTENT_TREE,
    FIRST_FREE,
    LAST_FREE,
    TOP_SUBVOLUME,
    Forest,
)
from ruchu.guests.contract import Entry, Facts, NodeKind, Ranges, Stat
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Content, Extent

_EXTENT_ITEM = 168
_INODE_MASK = (1 << INODE_BITS) - 1
# Longest target that Linux follows.
_TARGET_MAX = 4096
_OFFSET_MAX = 1 << 63
# Extents of one file that `placed` looks up one by one; beyond, it says that it cannot tell.
_PLACED_MAX = 1 << 16
_REFERENCES = struct.Struct("<QQQ")
_EMPTY_STAT = Stat(NodeKind.DIRECTORY, size=0, allocated=0, mode=0o755)


class BtrfsFileSystem:
    """A Btrfs on one device. Safe in several threads."""

    def __init__(self, device: BlockReader) -> None:
        """Open it.

        Raises:
            GuestDamaged: it is none, or its superblock, chunks or roots are damaged.
            GuestUnsupported: it needs something that is not understood, or more devices.
        """
        volume = VolumeReader(device)
        self._superblock = superblock.load(volume)
        self._forest = Forest(volume, self._superblock)
        self._content = extents.ContentReader(self._forest.reader)
        self._sector = self._superblock.sector
        self._root = TOP_SUBVOLUME << INODE_BITS | self._forest.about(TOP_SUBVOLUME).directory

    @property
    def facts(self) -> Facts:
        """What it says of itself; the notes tell of subvolumes, a log, flagged errors."""
        found = self._superblock
        return Facts(
            kind="btrfs",
            label=found.label.decode("utf-8", "replace"),
            uuid=str(uuid.UUID(bytes=found.uuid)),
            size=found.device_size,
            block=found.sector,
            notes=tuple(self._notes()),
        )

    @property
    def root(self) -> int:
        """The root directory of the top subvolume."""
        return self._root

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names."""
        subvolume, inode = self._split(node)
        if self.stat(node).kind is not NodeKind.DIRECTORY:
            raise NotFound(f"(Btrfs inode {inode} of subvolume {subvolume} is no directory)")
        if inode == EMPTY_DIRECTORY:
            return
        yield from directories.entries(self._forest, subvolume, inode)

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""
        subvolume, inode = self._split(node)
        if inode == EMPTY_DIRECTORY:
            return _EMPTY_STAT
        item = self._forest.tree(subvolume).get((inode, inodes.INODE_ITEM, 0))
        if item is None:
            raise NotFound(f"(Btrfs inode {inode} of subvolume {subvolume})")
        return inodes.parse(item, self._sector)

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA and HOLE of a file's content."""
        size = self._size(node, stream)
        # What is yielded next.
        first, last, content = 0, 0, Content.HOLE
        for part in self._parts(node, size):
            spans = ((part.start, Content.HOLE),) if part.start > last else ()
            what = Content.HOLE if part.is_hole else Content.DATA
            for end, kind in (*spans, (min(part.end, size), what)):
                if kind is not content:
                    if last > first:
                        yield Extent(first, last - first, content)
                    first, content = last, kind
                last = end
        if last < size and content is Content.DATA:
            yield Extent(first, last - first, content)
            first, content = last, Content.HOLE
        if size > first:
            yield Extent(first, size - first, content)

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content from `start`."""
        size = self._size(node, stream)
        if start < 0 or start + len(buffer) > size:
            raise NotFound(f"({len(buffer)} bytes at {start} of a file of {size})")
        self._content.read_into(self._parts(node, size, start), start, buffer.cast("B"))

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return where the content lies, all copies, and what is preallocated for it.

        None if it is packed, inline, shared, or too much to tell.
        """
        self._size(node, stream)
        subvolume, _ = self._split(node)
        snapshot = self._forest.about(subvolume).last_snapshot
        parts: list[FileExtent] = []
        # To the end of what is preallocated, which may lie behind the end of the file.
        for part in self._parts(node, _OFFSET_MAX):
            if not part.address and part.inline is None:
                continue
            # What is older than a snapshot of the subvolume may belong to it as well.
            if part.packing or part.inline is not None or part.written <= snapshot:
                return None
            parts.append(part)
            if len(parts) > _PLACED_MAX:
                return None
        uses = Counter((part.address, part.stored) for part in parts)
        if not all(self._only_here(*extent, uses[extent]) for extent in uses):
            return None
        rows = [
            (part.address + part.offset, part.address + part.offset + part.length) for part in parts
        ]
        if not rows:
            return ranges.empty()
        return self._forest.reader.chunks.physical(np.array(rows, np.int64))

    def link_target(self, node: int) -> bytes:
        """Return the target of a symbolic link."""
        found = self.stat(node)
        if found.kind is not NodeKind.SYMLINK:
            raise NotFound(f"(Btrfs inode {node & _INODE_MASK} is no symbolic link)")
        if found.size > _TARGET_MAX:
            raise GuestDamaged(f"a symbolic link of {found.size} bytes")
        target = bytearray(found.size)
        self._content.read_into(self._parts(node, found.size), 0, memoryview(target))
        return bytes(target)

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return extended attributes."""
        subvolume, inode = self._split(node)
        self.stat(node)
        return directories.xattrs(self._forest.tree(subvolume), inode)

    def streams(self, node: int) -> Mapping[str, int]:
        """Return nothing: Btrfs has no streams."""
        self.stat(node)
        return {}

    def _split(self, node: int) -> tuple[int, int]:
        subvolume, inode = node >> INODE_BITS, node & _INODE_MASK
        if subvolume != TOP_SUBVOLUME and not FIRST_FREE <= subvolume <= LAST_FREE:
            raise NotFound(f"(Btrfs subvolume {subvolume})")
        return subvolume, inode

    def _size(self, node: int, stream: str) -> int:
        if stream:
            raise NotFound(f"(stream {stream!r}: Btrfs has none)")
        found = self.stat(node)
        if found.kind is not NodeKind.FILE:
            raise NotFound(f"(Btrfs inode {node & _INODE_MASK} is no file)")
        return found.size

    def _parts(self, node: int, size: int, start: int = 0) -> Iterator[FileExtent]:
        subvolume, inode = self._split(node)
        return extents.of_file(self._forest.tree(subvolume), inode, size, start)

    def _only_here(self, address: int, length: int, uses: int) -> bool:
        """Return whether an extent is referred to as often as this file does."""
        item = self._forest.tree(EXTENT_TREE).get((address, _EXTENT_ITEM, length))
        if item is None or len(item) < _REFERENCES.size:
            raise GuestDamaged(f"the Btrfs extent at {address} is not in the extent tree")
        return bool(_REFERENCES.unpack_from(item)[0] == uses)

    def _notes(self) -> Iterator[str]:
        found = self._superblock
        if found.copy:
            yield f"the first superblock is damaged: copy {found.copy} was read"
        if found.flags & superblock.FLAG_ERROR:
            yield "marked as having errors"
        if found.log_root.address:
            yield "there is a log: what was fsynced after the last commit is not shown"
        default = self._forest.default_subvolume()
        if default != TOP_SUBVOLUME:
            yield f"a mount shows subvolume {default} by default; here it is below the top one"
        if count := self._forest.subvolumes():
            yield f"{count} subvolumes and snapshots"
