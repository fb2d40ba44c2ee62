"""A volume: its geometry, its records, the streams and indexes of its nodes.

Source: the Linux-NTFS documentation, `Files` (the metadata files and their numbers).
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass

from ruchu.blocks.devices import BlockReader
from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests.contract import XATTR_BYTES_MAX
from ruchu.guests.ntfs import attributes, boot_sector, streams
from ruchu.guests.ntfs.attributes import Attribute
from ruchu.guests.ntfs.indexes import Index
from ruchu.guests.ntfs.keeping import Kept
from ruchu.guests.ntfs.records import MasterFileTable, Record
from ruchu.guests.ntfs.streams import Layout, StreamReader
from ruchu.guests.volume_reading import VolumeReader

MFT, MIRROR, LOG_FILE, VOLUME, ROOT, BITMAP, BOOT, SECURE = 0, 1, 2, 3, 5, 6, 7, 9
FIRST_USER_RECORD = 24
"""Records before belong to NTFS itself; the root does not show them."""

I30 = "$I30".encode("utf-16-le")
"""Name of the index of names of a directory."""

_VERSIONS = {(1, 2), (3, 0), (3, 1)}
_INFORMATION = struct.Struct("<8xBBH")
_DIRTY, _DELETING_USN, _CHKDSK_UNDERWAY = 0x0001, 0x0010, 0x4000

_NODES_ROOM = 32 << 20
_LAYOUTS_ROOM = 64 << 20


@dataclass(frozen=True, slots=True)
class Node:
    """A record with its attributes, wherever they are.

    Attributes:
        record: the record that the others continue.
        attributes: all of them, in no order.
        weight: bytes that they take.
    """

    record: Record
    attributes: list[Attribute]
    weight: int

    @property
    def number(self) -> int:
        """Number of its record."""
        return self.record.number

    def parts(self, kind: int, name: bytes = b"") -> list[Attribute]:
        """Return the parts of an attribute; none if it has no such."""
        return [a for a in self.attributes if a.kind == kind and a.name == name]

    def resident(self, kind: int) -> bytes | None:
        """Return the value of an unnamed attribute that is always resident."""
        for found in self.attributes:
            if found.kind == kind and found.resident and not found.name:
                return found.value
        return None


@dataclass(frozen=True, slots=True)
class VolumeState:
    """What `$Volume` tells.

    Attributes:
        label: name of the volume.
        version: of NTFS: 1.2 (NT 4), 3.0 (2000), 3.1 (XP and later).
        trouble: why Windows would check the volume before it trusts it; empty if it would not.
    """

    label: str
    version: tuple[int, int]
    trouble: str


class Volume:
    """Reads nodes. Safe in several threads.

    Raises:
        GuestDamaged: boot sector or MFT do not make sense.
    """

    def __init__(self, device: BlockReader) -> None:
        self.reader = VolumeReader(device)
        head = self.reader.read(0, min(boot_sector.BOOT_BYTES, device.size))
        self.geometry = boot_sector.parse(head, device.size)
        self.table = MasterFileTable(self.reader, self.geometry)
        self.streams = StreamReader(self.reader)
        self._nodes: Kept[int, Node] = Kept(_NODES_ROOM, lambda node: 512 + 4 * node.weight)
        self._layouts: Kept[tuple[int, int, bytes], Layout] = Kept(
            _LAYOUTS_ROOM, lambda kept: kept.weight
        )

    def node(self, number: int) -> Node:
        """Return a node.

        Raises:
            NotFound: there is none of this number.
            GuestDamaged: its records contradict themselves.
        """
        return self._nodes.get(number, lambda: Node(*self.table.gathered(number)))

    def layout(self, node: Node, kind: int, name: bytes = b"") -> Layout:
        """Return where the content of an attribute lies.

        Raises:
            NotFound: the node has none.
            GuestDamaged, GuestUnsupported: see `streams.layout`.
        """
        return self._layouts.get((node.number, kind, name), lambda: self._laid(node, kind, name))

    def content(self, node: Node, kind: int, name: bytes = b"") -> bytes:
        """Return the whole content of a small attribute; empty if there is none.

        Raises:
            GuestDamaged: it is longer than an attribute of its kind can be, or damaged.
        """
        if not node.parts(kind, name):
            return b""
        where = self.layout(node, kind, name)
        if where.size > XATTR_BYTES_MAX:
            raise GuestDamaged(f"(an attribute {kind:#x} of {where.size} bytes)")
        return self.streams.read(where, 0, where.size)

    def index(self, node: Node, name: bytes) -> Index:
        """Return an index of a node.

        Raises:
            NotFound: it has none of this name.
            GuestDamaged, GuestUnsupported: it cannot be.
        """
        root = self.layout(node, attributes.INDEX_ROOT, name)
        if root.value is None:
            raise GuestDamaged("(the root of an index is not in its record)")
        blocks = None
        if node.parts(attributes.INDEX_ALLOCATION, name):
            blocks = self.layout(node, attributes.INDEX_ALLOCATION, name)
            if blocks.unit:
                raise GuestUnsupported("(a compressed index)")
        return Index(self.streams, root.value, blocks, self.geometry.cluster)

    def state(self) -> VolumeState:
        """Return what `$Volume` tells.

        Raises:
            GuestDamaged: it tells nothing.
            GuestUnsupported: the version of NTFS is not known.
        """
        node = self._metadata(VOLUME)
        told = node.resident(attributes.VOLUME_INFORMATION)
        if told is None or len(told) < _INFORMATION.size:
            raise GuestDamaged("($Volume has no information)")
        major, minor, flags = _INFORMATION.unpack_from(told)
        if (major, minor) not in _VERSIONS:
            raise GuestUnsupported(f"(NTFS version {major}.{minor})")
        trouble = ""
        if flags & _DIRTY:
            trouble = "Windows marked the volume as dirty: it wants chkdsk"
        elif flags & (_CHKDSK_UNDERWAY | _DELETING_USN):
            trouble = "chkdsk, or the deletion of the change journal, was under way"
        label = node.resident(attributes.VOLUME_NAME) or b""
        return VolumeState(label.decode("utf-16-le", "replace"), (major, minor), trouble)

    def names(self, number: int) -> Iterator[tuple[bytes, list[int]]]:
        """Yield blocks of a directory's index and where in them entries begin.

        Raises:
            NotFound: there is no such node, or it is no directory.
            GuestDamaged, GuestUnsupported: see `Index`.
        """
        node = self.node(number)
        if not node.record.directory:
            raise NotFound(f"(file record {number} is no directory)")
        yield from self.index(node, I30).nodes()

    def metadata_layout(self, number: int) -> Layout:
        """Return where the content of a metadata file lies.

        Raises:
            GuestDamaged: it is not there.
            GuestUnsupported: see `streams.layout`.
        """
        try:
            return self.layout(self._metadata(number), attributes.DATA)
        except NotFound:
            raise GuestDamaged(f"(metadata file {number} has no content)") from None

    def _metadata(self, number: int) -> Node:
        try:
            return self.node(number)
        except NotFound:
            raise GuestDamaged(f"(metadata file {number} is missing)") from None

    def _laid(self, node: Node, kind: int, name: bytes) -> Layout:
        parts = node.parts(kind, name)
        if not parts:
            told = name.decode("utf-16-le", "replace")
            raise NotFound(f"(attribute {kind:#x} {told!r} of file record {node.number})")
        return streams.layout(parts, self.geometry)
