"""ext2, ext3 and ext4 as a file system that can be browsed and read."""

import threading
from collections import OrderedDict
from collections.abc import Iterator, Mapping

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestError, GuestUnsupported, NotFound
from ruchu.guests import ranges
from ruchu.guests.contract import XATTR_BYTES_MAX, Entry, Facts, NodeKind, Ranges, Stat
from ruchu.guests.ext import directories, groups, inodes, journal_replay, mapping, xattrs
from ruchu.guests.ext import superblock as superblocks
from ruchu.guests.ext.inodes import Inode
from ruchu.guests.ext.superblock import Superblock
from ruchu.guests.ext.xattrs import Attribute
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Content, Extent

# Rows of maps that are kept: 128 MiB, so that reading a file in many pieces maps it once.
_ROWS_KEPT = 4 << 20
_MAPS_KEPT = 4096
# Blocks of attributes that are kept decoded: whole trees share a few (ACLs, SELinux labels).
_ATTRIBUTES_KEPT = 256
# A directory is read in pieces of this size.
_DIRECTORY_READ = 64 << 10
# PATH_MAX of Linux, and the largest block, which holds a target.
_TARGET_MAX = 64 << 10
_ZEROS = bytes(1 << 20)


class ExtFileSystem:
    """ext2, ext3 or ext4 on a volume; see `FileSystem`."""

    def __init__(self, device: BlockReader) -> None:
        device, self._notes = _replayed(device)
        self._volume = VolumeReader(device)
        self._superblock = superblocks.read(self._volume)
        foreign = self._superblock.incompat & ~superblocks.INCOMPAT_KNOWN
        if foreign:
            raise GuestUnsupported(f"ext4 with unknown features ({foreign:#x})")
        table = groups.read(self._volume, self._superblock)
        self._inodes = inodes.InodeTable(self._volume, self._superblock, table)
        self._maps: OrderedDict[int, mapping.Runs] = OrderedDict()
        self._rows = 0
        self._attributes: OrderedDict[int, list[Attribute]] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def facts(self) -> Facts:
        """What it says of itself."""
        found = self._superblock
        label = found.label.decode("utf-8", "replace")
        notes = (*self._notes, *_notes(found))
        return Facts(found.kind, label, found.printed_uuid, found.size, found.block, notes)

    @property
    def root(self) -> int:
        """The node of its root directory."""
        return inodes.ROOT

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names; see `FileSystem.entries`."""
        inode = self._inodes.read(node)
        if inode.kind is not NodeKind.DIRECTORY:
            raise NotFound(f"(inode {node} is not a directory)")
        _check_plain(inode)
        if inode.flags & inodes.FLAG_INLINE_DATA:
            # Four bytes name the parent; what does not fit into the inode is an attribute.
            for area in (inode.pointers[4:], self._inline_rest(inode)):
                yield from directories.entries(area, inode, self._superblock)
            return
        block = self._superblock.block
        for piece in self._directory_pieces(inode):
            directories.check_sums(piece, inode, self._superblock)
            for at in range(0, len(piece), block):
                yield from directories.entries(piece[at : at + block], inode, self._superblock)

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""
        return self._inodes.read(node).stat()

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA and HOLE of a file's content; see `FileSystem.extents`."""
        inode = self._content(node, stream)
        if inode.flags & inodes.FLAG_INLINE_DATA:
            if inode.size:
                yield Extent(0, inode.size)
            return
        block, at = self._superblock.block, 0
        for logical, count in _data(self._runs(inode)):
            start, end = (
                min(logical * block, inode.size),
                min((logical + count) * block, inode.size),
            )
            if start > at:
                yield Extent(at, start - at, Content.HOLE)
            if end > start:
                yield Extent(start, end - start)
            at = end
        if at < inode.size:
            yield Extent(at, inode.size - at, Content.HOLE)

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content from `start`; see `FileSystem.read_into`."""
        inode = self._content(node, stream)
        self._fill(inode, start, buffer)

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return where the content lies whole blocks at a time; see `FileSystem.placed`."""
        inode = self._content(node, stream)
        shared = self._superblock.ro_compat & superblocks.RO_SHARED_BLOCKS
        if inode.flags & inodes.FLAG_INLINE_DATA or shared:
            return None
        runs = self._runs(inode)
        starts = runs[:, mapping.PHYSICAL]
        rows = np.column_stack((starts, starts + runs[:, mapping.COUNT]))
        return ranges.joined(rows * self._superblock.block)

    def link_target(self, node: int) -> bytes:
        """Return the target of a symbolic link."""
        inode = self._inodes.read(node)
        if inode.kind is not NodeKind.SYMLINK:
            raise NotFound(f"(inode {node} is not a symbolic link)")
        _check_plain(inode)
        if inode.size > _TARGET_MAX:
            raise GuestDamaged(f"link {node} has a target of {inode.size} bytes")
        if self._is_short(inode):
            return inode.pointers[: inode.size]
        return self._whole(inode)

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return extended attributes as Linux shows them."""
        return xattrs.shown(self._all_attributes(self._inodes.read(node)), self._value)

    def streams(self, node: int) -> Mapping[str, int]:
        """Return nothing: there are no streams here."""
        self._inodes.read(node)
        return {}

    def _content(self, node: int, stream: str) -> Inode:
        inode = self._inodes.read(node)
        if stream:
            raise NotFound(f"(inode {node} has no streams)")
        if inode.kind is not NodeKind.FILE:
            raise NotFound(f"(inode {node} is not a file)")
        _check_plain(inode)
        return inode

    def _is_short(self, inode: Inode) -> bool:
        """Tell whether the target of a link stands where others have pointers."""
        if inode.flags & inodes.FLAG_INLINE_DATA or inode.size >= inodes.POINTERS:
            return False
        attributes = self._superblock.cluster // 512 if inode.attributes else 0
        return inode.blocks <= attributes

    def _runs(self, inode: Inode) -> mapping.Runs:
        with self._lock:
            kept = self._maps.get(inode.number)
            if kept is not None:
                self._maps.move_to_end(inode.number)
                return kept
        found = mapping.runs(self._volume, self._superblock, inode)
        with self._lock:
            if inode.number not in self._maps:
                self._maps[inode.number] = found
                self._rows += len(found)
            while len(self._maps) > _MAPS_KEPT or (self._rows > _ROWS_KEPT and len(self._maps) > 1):
                self._rows -= len(self._maps.popitem(last=False)[1])
        return found

    def _fill(self, inode: Inode, start: int, buffer: memoryview) -> None:
        if inode.flags & inodes.FLAG_INLINE_DATA:
            content = inode.pointers + self._inline_rest(inode)
            if start + len(buffer) > len(content):
                raise GuestDamaged(f"inode {inode.number} holds less than its size")
            buffer[:] = content[start : start + len(buffer)]
            return
        block, end = self._superblock.block, start + len(buffer)
        runs = self._runs(inode)
        first = int(np.searchsorted(runs[:, mapping.LOGICAL], start // block, "right")) - 1
        at = start
        for row in range(max(0, first), len(runs)):
            logical, count, physical, written = runs[row].tolist()
            begin, stop = max(at, logical * block), min(end, (logical + count) * block)
            if logical * block >= end:
                break
            if not written or stop <= begin:
                continue
            _zero(buffer[at - start : begin - start])
            place = physical * block + begin - logical * block
            self._volume.read_into(place, buffer[begin - start : stop - start])
            at = stop
        _zero(buffer[at - start :])

    def _whole(self, inode: Inode) -> bytes:
        content = bytearray(inode.size)
        self._fill(inode, 0, memoryview(content))
        return bytes(content)

    def _directory_pieces(self, inode: Inode) -> Iterator[bytes]:
        block = self._superblock.block
        expected, blocks = 0, -(-inode.size // block)
        if blocks > self._superblock.blocks:
            raise GuestDamaged(f"directory {inode.number} is larger than the volume")
        for logical, count, physical, _ in self._runs(inode).tolist():
            if expected >= blocks:
                return
            if logical != expected:
                break
            expected = logical + count
            size, start = min(count, blocks - logical) * block, physical * block
            for at in range(0, size, _DIRECTORY_READ):
                yield self._volume.read(start + at, min(_DIRECTORY_READ, size - at))
        if expected < blocks:
            raise GuestDamaged(f"directory {inode.number} has a hole")

    def _all_attributes(self, inode: Inode) -> list[Attribute]:
        found = xattrs.within_inode(inode.tail)
        if inode.attributes:
            found = found + self._attribute_block(inode.attributes)
        return found

    def _attribute_block(self, number: int) -> list[Attribute]:
        with self._lock:
            kept = self._attributes.get(number)
            if kept is not None:
                self._attributes.move_to_end(number)
                return kept
        superblock = self._superblock
        if not superblock.first <= number < superblock.blocks:
            raise GuestDamaged(f"extended attributes in block {number}")
        raw = self._volume.read(number * superblock.block, superblock.block)
        found = xattrs.within_block(raw, number, superblock)
        with self._lock:
            self._attributes[number] = found
            if len(self._attributes) > _ATTRIBUTES_KEPT:
                self._attributes.popitem(last=False)
        return found

    def _value(self, attribute: Attribute) -> bytes:
        if not attribute.inode:
            return attribute.value
        try:
            inode = self._inodes.read(attribute.inode)
        except NotFound:
            raise GuestDamaged(f"inode {attribute.inode} of an extended attribute") from None
        sound = inode.flags & inodes.FLAG_EA_INODE and inode.size == attribute.size
        if not sound or inode.size > XATTR_BYTES_MAX or inode.flags & inodes.FLAG_INLINE_DATA:
            raise GuestDamaged(f"inode {attribute.inode} of an extended attribute")
        return self._whole(inode)

    def _inline_rest(self, inode: Inode) -> bytes:
        for attribute in xattrs.within_inode(inode.tail):
            if (attribute.index, attribute.name) == (xattrs.INDEX_SYSTEM, xattrs.INLINE_NAME):
                return self._value(attribute)
        return b""


def _data(runs: mapping.Runs) -> Iterator[tuple[int, int]]:
    """Yield first block and count of what was written; what follows without a gap is one."""
    first = end = -1
    for logical, count, _, written in runs.tolist():
        if not written:
            continue
        if logical != end:
            if end > first:
                yield first, end - first
            first = logical
        end = logical + count
    if end > first:
        yield first, end - first


def _check_plain(inode: Inode) -> None:
    if inode.flags & inodes.FLAG_ENCRYPTED:
        raise GuestUnsupported(f"inode {inode.number} is encrypted")


def _zero(view: memoryview) -> None:
    for at in range(0, len(view), len(_ZEROS)):
        part = view[at : at + len(_ZEROS)]
        part[:] = _ZEROS[: len(part)]


def _replayed(device: BlockReader) -> tuple[BlockReader, tuple[str, ...]]:
    """Return the volume with what its journal holds, and what a person should know of that."""
    try:
        found = journal_replay.replayed(device)
    except GuestError as error:
        return device, (f"its journal is in use and is not shown: {error.detail}",)
    if found is device:
        return device, ()
    return found, ("it was in use and not frozen: it is shown as after its journal was replayed",)


def _notes(superblock: Superblock) -> tuple[str, ...]:
    orphans = superblock.last_orphan or superblock.ro_compat & superblocks.RO_ORPHAN_PRESENT
    cases = (
        (not superblock.intact, "the checksum of its superblock is wrong"),
        (superblock.state & superblocks.STATE_ERROR, "it has flagged errors and wants fsck"),
        (
            not superblock.state & superblocks.STATE_VALID,
            "it was not unmounted, and has no journal",
        ),
        (orphans, "files that were deleted while open still take room"),
    )
    return tuple(note for holds, note in cases if holds)
