"""VHD images: fixed ones read and shown, dynamic ones read.

The format is Microsoft's "Virtual Hard Disk Image Format Specification", version 1.0.
"""

import hashlib
import struct
from dataclasses import dataclass
from typing import Final

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats.mapping import (
    ENTRIES_MAX,
    BytesDisk,
    ComposedDisk,
    MappedDisk,
    Part,
    Span,
    Table,
    check_inside,
    read_bytes,
    run_of,
)
from ruchu.errors import ImageDamaged, Unsupported, UsageError
from ruchu.model.extents import Content
from ruchu.units import GIB

COOKIE: Final = b"conectix"
SECTOR: Final = 512
FIXED, DYNAMIC, DIFFERENCING = 2, 3, 4
# What Hyper-V and Azure take as the largest VHD.
SIZE_MAX: Final = 2040 * GIB

_FOOTER = struct.Struct(">8sIIQI4sI4sQQHBBII16sB427s")
_CHECKSUM = slice(64, 68)
_DYNAMIC = struct.Struct(">8sQQIIII")
_DYNAMIC_SIZE = 1024
_DYNAMIC_CHECKSUM = slice(36, 40)
_UNUSED = 0xFFFFFFFF
_NO_OFFSET = 2**64 - 1
_CYLINDERS_MAX = 65535


@dataclass(frozen=True, slots=True)
class Footer:
    """What a footer says: kind of the image, bytes of the disk, offset of the dynamic header."""

    kind: int
    size: int
    dynamic: int


def geometry(sectors: int) -> tuple[int, int, int]:
    """Return cylinders, heads and sectors per track, as the appendix of the specification does."""
    sectors = min(sectors, _CYLINDERS_MAX * 16 * 255)
    if sectors >= _CYLINDERS_MAX * 16 * 63:
        return sectors // 255 // 16, 16, 255
    per_track = 17
    rows = sectors // per_track
    heads = max(4, (rows + 1023) // 1024)
    if rows >= heads * 1024 or heads > 16:
        per_track, heads = 31, 16
        rows = sectors // per_track
    if rows >= heads * 1024:
        per_track, heads = 63, 16
        rows = sectors // per_track
    return rows // heads, heads, per_track


def _checksum(data: bytes, place: slice) -> int:
    """Return the ones' complement of the sum of all bytes but those of the checksum."""
    return ~(sum(data) - sum(data[place])) & 0xFFFFFFFF


def make_footer(size: int, name: str) -> bytes:
    """Return the footer of a fixed image of `size` bytes, a multiple of 512."""
    identity = hashlib.sha256(f"vhd {name} {size}".encode()).digest()[:16]
    fields = (
        COOKIE, 2, 0x00010000, _NO_OFFSET, 0,
        # "win " has every reader take the size as it stands, not the geometry's, which is rounded.
        b"win ", 0x000A0000, b"Wi2k", size, size, *geometry(size // SECTOR), FIXED, 0, identity, 0,
        bytes(427),
    )  # fmt: skip
    footer = bytearray(_FOOTER.pack(*fields))
    footer[_CHECKSUM] = struct.pack(">I", _checksum(bytes(footer), _CHECKSUM))
    return bytes(footer)


def parse_footer(data: bytes) -> Footer | None:
    """Return what a footer says, or None if it is none."""
    if len(data) != SECTOR or not data.startswith(COOKIE):
        return None
    fields = _FOOTER.unpack(data)
    if fields[14] != _checksum(data, _CHECKSUM):
        return None
    return Footer(kind=fields[13], size=fields[9], dynamic=fields[3])


def find_footer(source: BlockReader) -> Footer | None:
    """Return the footer at the end of an image, or its copy in front; None if there is none."""
    if source.size < 2 * SECTOR:
        return None
    last = parse_footer(read_bytes(source, source.size - SECTOR, SECTOR))
    if last is not None and (last.kind != FIXED or last.size + SECTOR == source.size):
        return last
    first = parse_footer(read_bytes(source, 0, SECTOR))
    return first if first is not None and first.kind != FIXED else None


def open_vhd(source: BlockReader) -> BlockReader:
    """Return the disk in an image.

    Raises:
        ImageDamaged: it contradicts itself.
        Unsupported: it is a change to another image.
    """
    footer = find_footer(source)
    if footer is None:
        raise ImageDamaged("(a VHD without a whole footer)")
    if footer.kind == FIXED:
        return ComposedDisk(footer.size, [Part(0, footer.size, source)])
    if footer.kind == DIFFERENCING:
        hint = "Merge it with its parent, in Hyper-V or by `qemu-img convert`."
        raise Unsupported("(a VHD that is a change to another one)", hint=hint)
    if footer.kind != DYNAMIC:
        raise Unsupported(f"(a VHD of kind {footer.kind})")
    return DynamicVhd(source, footer)


class DynamicVhd(MappedDisk):
    """The disk in a dynamic VHD.

    Raises:
        ImageDamaged: the image contradicts itself.
    """

    def __init__(self, source: BlockReader, footer: Footer) -> None:
        super().__init__(footer.size)
        header = read_bytes(source, footer.dynamic, _DYNAMIC_SIZE)
        cookie, _, table, _, count, block, checksum = _DYNAMIC.unpack_from(header)
        if cookie != b"cxsparse" or checksum != _checksum(header, _DYNAMIC_CHECKSUM):
            raise ImageDamaged("(the header of a dynamic VHD)")
        if block < SECTOR or block & (block - 1):
            raise ImageDamaged(f"(VHD blocks of {block} bytes)")
        needed = -(-footer.size // block)
        if needed > min(count, ENTRIES_MAX):
            raise ImageDamaged(f"(a table of {count} blocks for {needed})")
        self._source = source
        self._block = block
        # A bit for each sector lies in front of the block, in whole sectors.
        self._bitmap = -(-(block // SECTOR // 8) // SECTOR) * SECTOR or SECTOR
        self._table = Table(source, table, needed, ">u4")

    def span(self, start: int) -> Span:
        """Return where the piece that begins at `start` is."""
        number, within = divmod(start, self._block)
        entries = self._table.entries(number)
        sector = int(entries[0])
        if sector == _UNUSED:
            return Span(run_of(entries) * self._block - within, Content.HOLE)
        length = min(self._block - within, self._size - start)
        offset = sector * SECTOR + self._bitmap + within
        check_inside(self._source, offset, length, "a block")
        return Span(length, Content.DATA, self._source, offset)


def show_fixed(device: BlockReader, name: str) -> BlockReader:
    """Return a fixed VHD of a disk; what is missing to a whole sector is zeros.

    Raises:
        UsageError: the disk is too large for the format.
    """
    size = -(-device.size // SECTOR) * SECTOR
    if size > SIZE_MAX:
        raise UsageError("(a VHD holds at most 2040 GiB)", hint="Choose VHDX.")
    footer = BytesDisk(make_footer(size, name))
    return ComposedDisk(size + SECTOR, [Part(0, device.size, device), Part(size, SECTOR, footer)])
