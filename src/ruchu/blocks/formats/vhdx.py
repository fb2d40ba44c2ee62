"""Reading VHDX images, and the structures that showing one needs too.

The format is Microsoft's [MS-VHDX], version 8.0. An image whose log was not replayed is refused: what
it holds is older than what the guest wrote.
"""

import struct
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ruchu.blocks import crc32c
from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats.mapping import MappedDisk, Span, Table, check_inside, read_bytes, run_of
from ruchu.errors import ImageDamaged, Unsupported
from ruchu.model.extents import Content
from ruchu.units import KIB, MIB, TIB

FILE_MAGIC: Final = b"vhdxfile"
HEADER_OFFSETS: Final = (64 * KIB, 128 * KIB)
HEADER_SIZE: Final = 4 * KIB
REGION_OFFSETS: Final = (192 * KIB, 256 * KIB)
REGION_SIZE: Final = 64 * KIB
METADATA_TABLE_SIZE: Final = 64 * KIB
DISK_MAX: Final = 64 * TIB
BLOCK_MAX: Final = 256 * MIB

HEADER: Final = struct.Struct("<4sIQ16s16s16sHHIQ")
REGION_HEADER: Final = struct.Struct("<4sIII")
REGION_ENTRY: Final = struct.Struct("<16sQII")
METADATA_HEADER: Final = struct.Struct("<8sHH20s")
METADATA_ENTRY: Final = struct.Struct("<16sIIII")
ENTRIES_OF_TABLE_MAX: Final = 2047

BAT_REGION: Final = uuid.UUID("2dc27766-f623-4200-9d64-115e9bfd4a08")
METADATA_REGION: Final = uuid.UUID("8b7ca206-4790-4b9a-b8fe-575f050f886e")
FILE_PARAMETERS: Final = uuid.UUID("caa16737-fa36-4d43-b3b6-33f0aa44e76b")
DISK_SIZE: Final = uuid.UUID("2fa54224-cd1b-4876-b211-5dbed83bf4b8")
DISK_ID: Final = uuid.UUID("beca12ab-b2e6-4523-93ef-c309e000c746")
LOGICAL_SECTOR: Final = uuid.UUID("8141bf1d-a96f-4709-ba47-f233a8faab5f")
PHYSICAL_SECTOR: Final = uuid.UUID("cda348c7-445d-4471-9cc9-e9885251c556")
PARENT_LOCATOR: Final = uuid.UUID("a8d35f2d-b30b-454d-abf7-d3d84834ab0c")
_KNOWN_ITEMS: Final = {
    FILE_PARAMETERS, DISK_SIZE, DISK_ID, LOGICAL_SECTOR, PHYSICAL_SECTOR, PARENT_LOCATOR,
}  # fmt: skip
_ITEM_MAX = 1 * KIB

# State 7, partly there, is of images that are a change to another one.
NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED, PRESENT = 0, 1, 2, 3, 6
LEAVE_ALLOCATED, HAS_PARENT = 1, 2
REQUIRED: Final = 1
STATE_MASK: Final = 7


def sealed(data: bytes) -> bytes:
    """Return a structure with its checksum in bytes 4 to 7."""
    blank = data[:4] + bytes(4) + data[8:]
    return data[:4] + struct.pack("<I", crc32c.checksum(blank)) + data[8:]


def chunk_ratio(block: int, sector: int) -> int:
    """Return after how many blocks an entry for a sector bitmap lies in the BAT."""
    return (1 << 23) * sector // block


@dataclass(frozen=True, slots=True)
class _Region:
    offset: int
    length: int


@dataclass(frozen=True, slots=True)
class _Facts:
    """What the metadata say."""

    size: int
    block: int
    sector: int


def _check_header(source: BlockReader) -> None:
    """Find the current header, and refuse an image with a log that has to be replayed."""
    newest: tuple[int, bytes, int] | None = None
    for offset in HEADER_OFFSETS:
        data = read_bytes(source, offset, HEADER_SIZE)
        magic, _, sequence, _, _, log, _, version, _, _ = HEADER.unpack_from(data)
        if magic == b"head" and data == sealed(data) and (not newest or sequence > newest[0]):
            newest = (sequence, log, version)
    if newest is None:
        raise ImageDamaged("(a VHDX without a whole header)")
    _, log, version = newest
    if version != 1:
        raise Unsupported(f"(VHDX version {version})")
    if log != bytes(16):
        hint = "Attach and detach it once in Hyper-V, or `qemu-img check -r all`, to replay it."
        raise Unsupported("(a VHDX whose log was not replayed)", hint=hint)


def _regions(source: BlockReader) -> Mapping[uuid.UUID, _Region]:
    for offset in REGION_OFFSETS:
        data = read_bytes(source, offset, REGION_SIZE)
        magic, _, count, _ = REGION_HEADER.unpack_from(data)
        if magic == b"regi" and count <= ENTRIES_OF_TABLE_MAX and data == sealed(data):
            return _parse_regions(source, data, count)
    raise ImageDamaged("(a VHDX without a whole region table)")


def _parse_regions(source: BlockReader, data: bytes, count: int) -> Mapping[uuid.UUID, _Region]:
    found: dict[uuid.UUID, _Region] = {}
    for index in range(count):
        place = REGION_HEADER.size + index * REGION_ENTRY.size
        raw, offset, length, required = REGION_ENTRY.unpack_from(data, place)
        name = uuid.UUID(bytes_le=raw)
        if name in {BAT_REGION, METADATA_REGION}:
            check_inside(source, offset, length, "a region")
            found[name] = _Region(offset, length)
        elif required & REQUIRED:
            raise Unsupported(f"(a VHDX with a region {name})")
    if len(found) != 2:
        raise ImageDamaged("(a VHDX without its regions)")
    return found


def _items(source: BlockReader, region: _Region) -> Mapping[uuid.UUID, bytes]:
    check_inside(source, region.offset, METADATA_TABLE_SIZE, "metadata")
    data = read_bytes(source, region.offset, METADATA_TABLE_SIZE)
    magic, _, count, _ = METADATA_HEADER.unpack_from(data)
    if magic != b"metadata" or count > ENTRIES_OF_TABLE_MAX:
        raise ImageDamaged("(the metadata of a VHDX)")
    found: dict[uuid.UUID, bytes] = {}
    for index in range(count):
        place = METADATA_HEADER.size + index * METADATA_ENTRY.size
        raw, offset, length, flags, _ = METADATA_ENTRY.unpack_from(data, place)
        name = uuid.UUID(bytes_le=raw)
        if name not in _KNOWN_ITEMS:
            # Bit 2: whoever does not know it must not open the image.
            if flags & 4:
                raise Unsupported(f"(a VHDX with metadata {name})")
        elif name is not PARENT_LOCATOR and length <= _ITEM_MAX:
            found[name] = read_bytes(source, region.offset + offset, length)
    return found


def _facts(items: Mapping[uuid.UUID, bytes]) -> _Facts:
    try:
        block, flags = struct.unpack("<II", items[FILE_PARAMETERS])
        (size,) = struct.unpack("<Q", items[DISK_SIZE])
        (sector,) = struct.unpack("<I", items[LOGICAL_SECTOR])
    except (KeyError, struct.error) as error:
        raise ImageDamaged("(a VHDX without its metadata)") from error
    if flags & HAS_PARENT:
        hint = "Merge it with its parent in Hyper-V first."
        raise Unsupported("(a VHDX that is a change to another one)", hint=hint)
    if not MIB <= block <= BLOCK_MAX or block & (block - 1) or sector not in {512, 4096}:
        raise ImageDamaged(f"(VHDX blocks of {block} bytes, sectors of {sector})")
    if size > DISK_MAX or size % sector:
        raise ImageDamaged(f"(a VHDX disk of {size} bytes)")
    return _Facts(size, block, sector)


class VhdxDisk(MappedDisk):
    """The disk in a fixed or dynamic VHDX.

    Raises:
        ImageDamaged: the image contradicts itself.
        Unsupported: it is a change to another image, its log was not replayed, or it needs what is
            not known here.
    """

    def __init__(self, source: BlockReader) -> None:
        if read_bytes(source, 0, len(FILE_MAGIC)) != FILE_MAGIC:
            raise ImageDamaged("(no VHDX image)")
        _check_header(source)
        regions = _regions(source)
        facts = _facts(_items(source, regions[METADATA_REGION]))
        super().__init__(facts.size)
        self._source = source
        self._block = facts.block
        self._ratio = chunk_ratio(facts.block, facts.sector)
        blocks = -(-facts.size // facts.block)
        entries = blocks + max(0, blocks - 1) // self._ratio
        region = regions[BAT_REGION]
        if entries * 8 > region.length:
            raise ImageDamaged(f"(a block table of {region.length} bytes for {blocks} blocks)")
        self._table = Table(source, region.offset, entries, "<u8")

    def span(self, start: int) -> Span:
        """Return where the piece that begins at `start` is."""
        number, within = divmod(start, self._block)
        entries = self._table.entries(number + number // self._ratio)
        entry = int(entries[0])
        state = entry & STATE_MASK
        if state == PRESENT:
            offset = (entry >> 20) * MIB + within
            length = min(self._block - within, self._size - start)
            check_inside(self._source, offset, length, "a block")
            return Span(length, Content.DATA, self._source, offset)
        if state not in {NOT_PRESENT, UNDEFINED, ZERO, UNMAPPED}:
            raise ImageDamaged(f"(a block in state {state})")
        # A run ends where the next entry is one of a sector bitmap.
        same = min(run_of(entries), self._ratio - number % self._ratio)
        content = Content.ZERO if state == ZERO else Content.HOLE
        return Span(same * self._block - within, content)
