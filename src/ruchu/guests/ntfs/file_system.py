"""NTFS for browsing: every name, stream and attribute that Windows would show.

Owners are not translated: Windows knows users by SID, so `owner` and `group` are 0 and the modes
the defaults of the contract; the descriptor itself is `system.ntfs_acl`, byte for byte as
ntfs-3g shows it. Files compressed by the Windows Overlay Filter are read. Those that are
encrypted (EFS), deduplicated or kept elsewhere are listed; reading their content raises
GuestUnsupported.

Sources: the Linux-NTFS documentation (flatcap.github.io/linux-ntfs), MS-FSCC. No Windows was at
hand: verified against ntfs-3g and what mkntfs makes.
"""

import struct
from collections.abc import Iterator, Mapping

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import ranges
from ruchu.guests.contract import Entry, Facts, NodeKind, Ranges, Stat
from ruchu.guests.ntfs import attributes, clusters, file_names, overlay, reparse, streams
from ruchu.guests.ntfs.overlay import OverlayReader
from ruchu.guests.ntfs.security import Descriptors
from ruchu.guests.ntfs.streams import Layout
from ruchu.guests.ntfs.volume import FIRST_USER_RECORD, I30, ROOT, Node, Volume
from ruchu.model.extents import Extent

_TIMES = struct.Struct("<QQQQI")
_EPOCH = 116_444_736_000_000_000
"""1970 in units of 100 ns since 1601."""
_REPARSE_MAX = 64 << 10
_AWAY = file_names.OFFLINE | file_names.RECALL_ON_DATA_ACCESS
_DEVICES = {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}


class Ntfs:
    """An NTFS volume, read-only. Safe in several threads; see `contract.FileSystem`.

    Raises:
        GuestDamaged: boot sector, MFT or `$Volume` do not make sense.
        GuestUnsupported: its version is not known.
    """

    def __init__(self, device: BlockReader) -> None:
        self._volume = Volume(device)
        self._descriptors = Descriptors(self._volume)
        self._overlays = OverlayReader(self._volume.streams)
        self._state = self._volume.state()
        self._metadata: Ranges | None = None

    @property
    def facts(self) -> Facts:
        """What it says of itself."""
        geometry = self._volume.geometry
        try:
            note = clusters.trouble(self._volume, frozen=False)
        except (GuestDamaged, GuestUnsupported, NotFound) as error:
            note = str(error)
        return Facts(
            kind="ntfs",
            label=self._state.label,
            uuid=f"{geometry.serial:016X}",
            size=geometry.size,
            block=geometry.cluster,
            notes=(note,) if note else (),
        )

    @property
    def root(self) -> int:
        """The record of the root directory."""
        return ROOT

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names; DOS names and metadata files are not shown."""
        below = FIRST_USER_RECORD if node == ROOT else 0
        for block, starts in self._volume.names(node):
            yield from file_names.shown(block, starts, below=below)

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""
        found = self._volume.node(node)
        told = found.resident(attributes.STANDARD_INFORMATION) or b""
        if len(told) < _TIMES.size:
            raise GuestDamaged(f"(file record {node} has no times)")
        created, modified, changed, accessed, flags = _TIMES.unpack_from(told)
        kind = self._kind(found, flags)
        size, allocated = self._sizes(found, kind)
        names = [a.value for a in found.attributes if a.kind == attributes.FILE_NAME]
        return Stat(
            kind=kind,
            size=size,
            allocated=allocated,
            mode=_mode(kind, flags),
            links=max(1, sum(len(n) > 65 and n[65] != file_names.DOS for n in names)),
            modified=_nanoseconds(modified),
            accessed=_nanoseconds(accessed),
            changed=_nanoseconds(changed),
            created=_nanoseconds(created),
            device=self._device(found) if kind in _DEVICES else (0, 0),
            attributes=flags,
        )

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA and HOLE of a stream."""
        where = self._content(node, stream)
        if self._overlaid(node, stream):
            return iter([Extent(0, where.size)] if where.size else [])
        return streams.extents(where)

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content of a stream."""
        where = self._content(node, stream)
        step = self._overlaid(node, stream)
        if not step:
            self._volume.streams.read_into(where, start, buffer)
            return
        packed = self._content(node, overlay.STREAM)
        self._overlays.read_into(node, packed, (where.size, step), start, buffer)

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return the clusters of a stream; None if it is compressed or lies in the MFT."""
        if node < FIRST_USER_RECORD:
            return None
        where = self._volume.layout(self._volume.node(node), attributes.DATA, _packed(stream))
        inline = where.value is not None or where.flags & attributes.COMPRESSED
        if inline or self._is_overlaid(node, stream):
            return None
        found = streams.places(where)
        if self._metadata is None:
            self._metadata = clusters.metadata(self._volume)
        # A run list that claims clusters twice, or those of the metadata, is damaged or hostile.
        claimed_twice = ranges.total(found) != _clusters_of(where)
        shared = len(ranges.intersection(found, self._metadata, self._volume.reader.size))
        return None if claimed_twice or shared else found

    def link_target(self, node: int) -> bytes:
        """Return the target of a link or junction; see `reparse.target` for its form."""
        found = self._volume.node(node)
        data = self._reparse(found)
        if data:
            return reparse.target(data)
        content = self._interix(found)
        if reparse.interix_kind(content) is not NodeKind.SYMLINK:
            raise NotFound(f"(file record {node} is no link)")
        return reparse.interix_target(content)

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return `system.ntfs_acl`, `system.ntfs_reparse_data`, `system.ntfs_ea` as ntfs-3g does.

        Alternate data streams, which ntfs-3g may show as `user.*`, are `streams` here.
        """
        found = self._volume.node(node)
        every = {
            "system.ntfs_acl": self._descriptors.of(found),
            "system.ntfs_reparse_data": self._reparse(found),
            "system.ntfs_ea": self._volume.content(found, attributes.EXTENDED),
        }
        return {name: value for name, value in every.items() if value}

    def streams(self, node: int) -> Mapping[str, int]:
        """Return names and sizes of alternate data streams."""
        found = self._volume.node(node)
        overlaid = self._is_overlaid(node, "")
        return {
            part.name.decode("utf-16-le", "surrogatepass"): part.size
            for part in found.attributes
            if part.kind == attributes.DATA
            and part.name
            and not part.first
            and not (overlaid and part.name == _packed(overlay.STREAM))
        }

    def _content(self, node: int, stream: str) -> Layout:
        """Return where a stream lies, if what lies there is its content."""
        found = self._volume.node(node)
        where = self._volume.layout(found, attributes.DATA, _packed(stream))
        if not stream and found.parts(attributes.REPARSE_POINT):
            tag = reparse.tag_of(self._reparse(found))
            told = found.resident(attributes.STANDARD_INFORMATION) or b""
            flags = int.from_bytes(told[32:36], "little")
            away = reparse.ELSEWHERE.get(tag) or ("kept elsewhere" if flags & _AWAY else "")
            if away:
                raise GuestUnsupported(f"(file record {node} is {away})")
        if where.flags & attributes.ENCRYPTED:
            raise GuestUnsupported(f"(file record {node} is encrypted by EFS)")
        return where

    def _is_overlaid(self, node: int, stream: str) -> bool:
        """Tell whether the overlay filter of Windows shows something else as this stream."""
        found = self._volume.node(node)
        return not stream and reparse.tag_of(self._reparse(found)) == reparse.WOF

    def _overlaid(self, node: int, stream: str) -> int:
        """Return the bytes of a chunk if the stream is what the overlay filter shows, else 0."""
        if not self._is_overlaid(node, stream):
            return 0
        return overlay.chunk_size(self._reparse(self._volume.node(node)))

    def _kind(self, node: Node, flags: int) -> NodeKind:
        directory = node.record.directory
        if node.parts(attributes.REPARSE_POINT):
            return reparse.kind(reparse.tag_of(self._reparse(node)), directory=directory)
        if directory:
            return NodeKind.DIRECTORY
        if flags & file_names.SYSTEM:
            return reparse.interix_kind(self._interix(node))
        return NodeKind.FILE

    def _sizes(self, node: Node, kind: NodeKind) -> tuple[int, int]:
        """Return size and allocated bytes: of a directory, those of its index."""
        if kind is NodeKind.SYMLINK:
            return len(self.link_target(node.number)), 0
        wanted, name = attributes.DATA, b""
        if kind is NodeKind.DIRECTORY:
            wanted, name = attributes.INDEX_ALLOCATION, I30
        for found in node.attributes:
            if found.kind == wanted and found.name == name and not found.first:
                allocated = 0 if found.resident else found.allocated
                return (0 if kind in _DEVICES else found.size), allocated
        return 0, 0

    def _device(self, node: Node) -> tuple[int, int]:
        return reparse.interix_device(self._interix(node))

    def _reparse(self, node: Node) -> bytes:
        data = self._volume.content(node, attributes.REPARSE_POINT)
        if len(data) > _REPARSE_MAX:
            raise GuestDamaged(f"(reparse data of {len(data)} bytes)")
        return data

    def _interix(self, node: Node) -> bytes:
        """Return the content of a system file that is small enough to be a link or device."""
        if not node.parts(attributes.DATA):
            return b""
        where = self._volume.layout(node, attributes.DATA)
        if where.size > reparse.INTERIX_BYTES_MAX or where.flags & attributes.ENCRYPTED:
            return b""
        return self._volume.streams.read(where, 0, where.size)


def _nanoseconds(filetime: int) -> int:
    """Return nanoseconds since 1970; 0 for what is not set, or negative for Windows."""
    return (filetime - _EPOCH) * 100 if 0 < filetime < 1 << 63 else 0


def _packed(stream: str) -> bytes:
    return stream.encode("utf-16-le", "surrogatepass")


def _clusters_of(where: Layout) -> int:
    there = where.rows[where.rows[:, 2] >= 0]
    return int((there[:, 1] - there[:, 0]).sum())


def _mode(kind: NodeKind, flags: int) -> int:
    if kind is NodeKind.SYMLINK:
        return 0o777
    if kind is NodeKind.DIRECTORY:
        return 0o755
    return 0o444 if flags & file_names.READ_ONLY else 0o644
