"""An XFS, read-only.

Nodes are inode numbers. A log that holds more than is in place is replayed in memory. Where that
cannot be done, what had just been written may be shown as it was before; `facts` tells. Not read:
content on a realtime device.
"""

import struct
import threading
import uuid
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestError, GuestUnsupported, NotFound
from ruchu.guests.contract import Entry, Facts, NodeKind, Ranges, Stat
from ruchu.guests.volume_reading import READ_MAX, VolumeReader
from ruchu.guests.xfs import directories, inodes, log, log_replay, mapping, superblock, xattrs
from ruchu.guests.xfs.inodes import Fork, Inode
from ruchu.guests.xfs.mapping import BlockMap
from ruchu.model.extents import Content, Extent

# Longest target that XFS keeps.
_TARGET_MAX = 1024
_TARGET_HEAD = 56
_TARGET = struct.Struct(">4sII20xQ")
# Reading a file piece by piece asks for its extents again and again: 32 bytes each are kept.
_MAPS_KEPT = 64
_ROWS_KEPT = 1 << 20
_ZEROS = bytes(1 << 20)


class XfsFileSystem:
    """An XFS of version 4 or 5. Safe in several threads."""

    def __init__(self, device: BlockReader) -> None:
        """Open it.

        Raises:
            GuestDamaged: it is none, or its superblock is damaged.
            GuestUnsupported: it needs something that is not understood.
        """
        self._volume, self._superblock, told = _replayed(VolumeReader(device))
        self._maps: OrderedDict[int, BlockMap] = OrderedDict()
        self._rows_kept = 0
        self._lock = threading.Lock()
        self._notes = (*_notes(self._superblock), *told)

    @property
    def facts(self) -> Facts:
        """What it says of itself."""
        found = self._superblock
        return Facts(
            kind="xfs",
            label=found.label.decode("utf-8", "replace"),
            uuid=str(uuid.UUID(bytes=found.uuid)),
            size=found.size,
            block=found.block,
            notes=self._notes,
        )

    @property
    def root(self) -> int:
        """The inode of its root directory."""
        return self._superblock.root

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names."""
        inode = self._inode(node)
        if inode.stat.kind is not NodeKind.DIRECTORY:
            raise NotFound(f"(XFS inode {node} is no directory)")
        if inode.content.form == inodes.FORMAT_LOCAL:
            yield from directories.short(self._superblock, inode.content, inode.stat.size)
            return
        blocks = self._blocks(inode.content, node)
        read = self._reader(blocks)
        yield from directories.long(self._superblock, node, blocks, read)

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""
        return self._inode(node).stat

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA and HOLE of a file's content; what was never written is a hole."""
        inode = self._file(node, stream)
        start, content = 0, None
        for piece in self._content(inode).pieces(0, inode.stat.size):
            kind = Content.HOLE if piece.address < 0 else Content.DATA
            if content is not None and kind is not content:
                yield Extent(start, piece.start - start, content)
                start = piece.start
            content = kind
        if content is not None:
            yield Extent(start, inode.stat.size - start, content)

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content from `start`."""
        inode = self._file(node, stream)
        buffer = buffer.cast("B")
        if start < 0 or start + len(buffer) > inode.stat.size:
            raise NotFound(f"({len(buffer)} bytes at {start} of a file of {inode.stat.size})")
        self._fill(self._content(inode), start, buffer)

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return where the content lies; None if blocks may be shared, or lie on another device."""
        inode = self._file(node, stream)
        if inode.shared or inode.realtime:
            return None
        return self._content(inode).placed()

    def link_target(self, node: int) -> bytes:
        """Return the target of a symbolic link."""
        inode = self._inode(node)
        size = inode.stat.size
        if inode.stat.kind is not NodeKind.SYMLINK:
            raise NotFound(f"(XFS inode {node} is no symbolic link)")
        if not 0 < size <= _TARGET_MAX:
            raise GuestDamaged(f"a symbolic link of {size} bytes")
        if inode.content.form == inodes.FORMAT_LOCAL:
            target = inode.content.raw[:size]
        else:
            target = self._remote_target(inode)
        if len(target) != size:
            raise GuestDamaged(f"the target of XFS inode {node} is not as long as it says")
        return target

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return extended attributes; POSIX ACLs under the system's names."""
        inode = self._inode(node)
        fork = inode.attributes
        if fork is None or (fork.form == inodes.FORMAT_EXTENTS and not fork.extents):
            return {}
        if fork.form == inodes.FORMAT_LOCAL:
            return xattrs.shown(xattrs.short(fork.raw))
        read = self._reader(mapping.of_fork(self._volume, self._superblock, fork, node))
        return xattrs.shown(xattrs.long(self._superblock, node, read))

    def streams(self, node: int) -> Mapping[str, int]:
        """Return nothing: XFS has no streams."""
        self._inode(node)
        return {}

    def _inode(self, node: int) -> Inode:
        return inodes.load(self._volume, self._superblock, node)

    def _file(self, node: int, stream: str) -> Inode:
        if stream:
            raise NotFound(f"(stream {stream!r}: XFS has none)")
        inode = self._inode(node)
        if inode.stat.kind is not NodeKind.FILE:
            raise NotFound(f"(XFS inode {node} is no file)")
        return inode

    def _content(self, inode: Inode) -> BlockMap:
        if inode.realtime and inode.content.extents:
            raise GuestUnsupported("the content of this file is on a realtime device of XFS")
        return self._blocks(inode.content, inode.number)

    def _blocks(self, fork: Fork, node: int) -> BlockMap:
        """Return the extents of content; those of big files are kept."""
        if fork.form != inodes.FORMAT_BTREE:
            return mapping.of_fork(self._volume, self._superblock, fork, node)
        with self._lock:
            found = self._maps.get(node)
            if found is not None:
                self._maps.move_to_end(node)
                return found
        found = mapping.of_fork(self._volume, self._superblock, fork, node)
        with self._lock:
            if node not in self._maps:
                self._maps[node] = found
                self._rows_kept += len(found.rows)
            while len(self._maps) > 1 and (
                len(self._maps) > _MAPS_KEPT or self._rows_kept > _ROWS_KEPT
            ):
                _, dropped = self._maps.popitem(last=False)
                self._rows_kept -= len(dropped.rows)
        return found

    def _fill(self, blocks: BlockMap, start: int, buffer: memoryview) -> None:
        for piece in blocks.pieces(start, start + len(buffer)):
            part = buffer[piece.start - start : piece.end - start]
            if piece.address >= 0:
                self._volume.read_into(piece.address, part)
                continue
            for at in range(0, len(part), len(_ZEROS)):
                rest = part[at : at + len(_ZEROS)]
                rest[:] = _ZEROS[: len(rest)]

    def _reader(self, blocks: BlockMap) -> Callable[[int, int], bytes]:
        """Return what reads metadata out of a fork, through the kept pages."""

        def read(start: int, length: int) -> bytes:
            if length > READ_MAX:
                raise GuestDamaged(f"{length} bytes of metadata of XFS")
            pieces = list(blocks.pieces(start, start + length))
            if any(piece.address < 0 for piece in pieces):
                raise GuestDamaged("metadata of XFS in blocks that are not there")
            return b"".join(
                self._volume.read(piece.address, piece.end - piece.start) for piece in pieces
            )

        return read

    def _remote_target(self, inode: Inode) -> bytes:
        """Return a target that has blocks of its own; in version 5 each run has a header."""
        found, size = self._superblock, inode.stat.size
        blocks = mapping.of_fork(self._volume, found, inode.content, inode.number)
        if not found.crc:
            return self._reader(blocks)(0, size)
        target = b""
        for first, end in blocks.mapped(-(-2 * _TARGET_MAX // found.block) + 1):
            raw = self._reader(blocks)(first * found.block, (end - first) * found.block)
            magic, offset, length, own = _TARGET.unpack_from(raw)
            if magic != b"XSLM" or offset != len(target) or own != inode.number:
                raise GuestDamaged(f"the target of XFS inode {inode.number}")
            target += raw[_TARGET_HEAD : _TARGET_HEAD + length]
        return target


def _replayed(volume: VolumeReader) -> tuple[VolumeReader, superblock.Superblock, tuple[str, ...]]:
    """Return the volume with what its log holds, and what a person should know of that."""
    found = superblock.load(volume)
    try:
        why = log.unsettled(volume, found, frozen=False)
    except GuestError as error:
        why = error.detail
    if not why:
        return volume, found, ()
    try:
        replayed = log_replay.replayed(volume, found)
        newer = VolumeReader(replayed.device)
        found = superblock.load(newer)
    except GuestError as error:
        cause = "" if error.detail == why else f" ({error.detail})"
        return volume, found, (f"{why}; what was written last may be missing{cause}",)
    told = "it was not unmounted cleanly: it is shown as after its log was replayed"
    if replayed.unfinished:
        told += f"; {replayed.unfinished} operations that had begun were not finished"
    return newer, found, (told,)


def _notes(found: superblock.Superblock) -> Iterator[str]:
    if not found.intact:
        yield "the checksum of its superblock is wrong"
    if found.unfinished:
        yield "making it was never finished"
    if found.incompat & superblock.INCOMPAT_NEEDSREPAIR:
        yield "it says that it must be repaired"
    if found.realtime:
        yield "it has a realtime device, whose files cannot be read"
