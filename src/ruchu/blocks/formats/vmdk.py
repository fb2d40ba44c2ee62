"""VMDK images: sparse and stream-optimized extents read, descriptors parsed and made.

The format is VMware's "Virtual Disk Format 5.0" technical note.
"""

import hashlib
import re
import struct
import zlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats.mapping import (
    ENTRIES_MAX,
    Kept,
    MappedDisk,
    Span,
    Table,
    check_inside,
    read_bytes,
    run_of,
)
from ruchu.errors import ImageDamaged, InvalidName, Unsupported
from ruchu.model.extents import Content
from ruchu.units import KIB

SPARSE_MAGIC: Final = b"KDMV"
ESX_MAGIC: Final = b"COWD"
DESCRIPTOR_MAGIC: Final = b"# Disk DescriptorFile"
SECTOR: Final = 512
# VMware writes about 1 KiB; a disk split into 2 GB pieces has a line for each.
DESCRIPTOR_MAX: Final = 512 * KIB
EXTENTS_MAX: Final = 4096

_HEADER = struct.Struct("<4sIIQQQQIQQQB4sH")
_MARKER = struct.Struct("<QI")
_AT_END = 2**64 - 1
_FOOTER_FROM_END = 2 * SECTOR
_ZEROED_GRAINS, _COMPRESSED = 1 << 2, 1 << 16
_DEFLATE = 1
_GRAIN_SECTORS_MAX = 2048
_TABLES_KEPT = 256
_DECODED_KEPT = 16
_NO_PARENT = "ffffffff"
_FLATTEN = "Make one file of it: `qemu-img convert -O vmdk SOURCE TARGET`, or merge it in VMware."
_EXTENT_LINE = re.compile(
    r"(?P<access>RW|RDONLY|NOACCESS)\s+(?P<sectors>\d{1,15})\s+(?P<kind>[A-Z]+)"
    r'(?:\s+"(?P<name>[^"]{1,255})"(?:\s+(?P<offset>\d{1,15}))?)?\s*(?:\S+\s+\S+\s*)?'
)


@dataclass(frozen=True, slots=True)
class DiskExtent:
    """A line of a descriptor: what a piece of the disk is made of. Sizes are in bytes.

    Attributes:
        size: of the piece.
        kind: FLAT, VMFS, SPARSE or ZERO.
        name: of its file; empty for ZERO.
        offset: where in a flat file it begins.
    """

    size: int
    kind: str
    name: str
    offset: int


def parse_descriptor(text: str) -> list[DiskExtent]:
    """Return the pieces that a descriptor lists.

    Raises:
        ImageDamaged: there is none, or a line is wrong.
        Unsupported: it is a change to another image, or of a kind not known here.
        InvalidName: a file is not named plainly: it would lie in another directory.
    """
    values = _values(text)
    if values.get("parentcid", _NO_PARENT) != _NO_PARENT:
        raise Unsupported("(a VMDK that is a change to another one)", hint=_FLATTEN)
    found = []
    for line in text.splitlines():
        if re.match(r"\s*(RW|RDONLY|NOACCESS)\s", line):
            found.append(_parse_extent(line.strip()))
        if len(found) > EXTENTS_MAX:
            raise ImageDamaged(f"(a VMDK of more than {EXTENTS_MAX} pieces)")
    if not found:
        raise ImageDamaged("(a VMDK descriptor without extents)")
    return found


def _values(text: str) -> Mapping[str, str]:
    pairs = (line.partition("=") for line in text.splitlines() if not line.startswith("#"))
    return {key.strip().lower(): value.strip().strip('"').lower() for key, _, value in pairs}


def _parse_extent(line: str) -> DiskExtent:
    match = _EXTENT_LINE.fullmatch(line)
    if match is None:
        raise ImageDamaged(f"(a VMDK descriptor says {line[:200]!r})")
    kind, name = match["kind"], match["name"] or ""
    if kind not in {"FLAT", "VMFS", "SPARSE", "ZERO"} or match["access"] == "NOACCESS":
        raise Unsupported(f"(a VMDK with a piece {line[:200]!r})", hint=_FLATTEN)
    if kind != "ZERO":
        check_name(name)
    size, offset = int(match["sectors"]) * SECTOR, int(match["offset"] or 0) * SECTOR
    return DiskExtent(size, kind, name, offset)


def check_name(name: str) -> str:
    """Return the name of a file beside the descriptor, if it cannot be anything else.

    Raises:
        InvalidName: it could.
    """
    if not name or name in {".", ".."} or not name.isprintable() or set(name) & set('/\\"'):
        raise InvalidName(f"({name!r} is no plain name of a file beside its descriptor)")
    return name


def make_descriptor(size: int, flat_name: str) -> str:
    """Return the descriptor of a monolithic flat image; `size` is a multiple of 512."""
    sectors = size // SECTOR
    identity = hashlib.sha256(f"vmdk {flat_name} {size}".encode()).hexdigest()[:8]
    # All ones mean that there is none.
    identity = identity if identity != _NO_PARENT else "fffffffe"
    return "\n".join(
        [
            DESCRIPTOR_MAGIC.decode(),
            "version=1",
            'encoding="UTF-8"',
            f"CID={identity}",
            f"parentCID={_NO_PARENT}",
            'createType="monolithicFlat"',
            "",
            "# Extent description",
            f'RW {sectors} FLAT "{flat_name}" 0',
            "",
            "# The Disk Data Base",
            "#DDB",
            "",
            'ddb.virtualHWVersion = "4"',
            f'ddb.geometry.cylinders = "{min(sectors // (16 * 63), 16383)}"',
            'ddb.geometry.heads = "16"',
            'ddb.geometry.sectors = "63"',
            'ddb.adapterType = "lsilogic"',
            "",
        ]
    )


@dataclass(frozen=True, slots=True)
class _Header:
    flags: int
    capacity: int
    grain: int
    descriptor: int
    descriptor_size: int
    per_table: int
    directory: int
    compression: int


def _read_header(source: BlockReader, offset: int) -> _Header:
    fields = _HEADER.unpack(read_bytes(source, offset, _HEADER.size))
    (magic, version, flags, capacity, grain, descriptor, length, count, _, directory) = fields[:10]
    if magic != SPARSE_MAGIC:
        raise ImageDamaged("(no sparse VMDK)")
    if not 1 <= version <= 3:
        raise Unsupported(f"(VMDK version {version})")
    if not 1 <= grain <= _GRAIN_SECTORS_MAX or not 1 <= count <= ENTRIES_MAX:
        raise ImageDamaged(f"(VMDK grains of {grain} sectors, tables of {count})")
    return _Header(
        flags, capacity * SECTOR, grain * SECTOR, descriptor * SECTOR, length * SECTOR, count,
        directory, fields[-1],
    )  # fmt: skip


class SparseVmdk(MappedDisk):
    """The disk in a sparse or stream-optimized VMDK, or a piece of one.

    Raises:
        ImageDamaged: the image contradicts itself.
        Unsupported: it is a change to another image, or needs what is not known here.
    """

    def __init__(self, source: BlockReader) -> None:
        header = _read_header(source, 0)
        if header.descriptor:
            _check_embedded(source, header)
        if header.directory == _AT_END:
            # A stream is written from its front to its end, and ends with what was not known before.
            header = _read_header(source, source.size - _FOOTER_FROM_END)
        compressed = bool(header.flags & _COMPRESSED)
        if compressed and header.compression != _DEFLATE:
            raise Unsupported(f"(VMDK compression {header.compression})", hint=_FLATTEN)
        super().__init__(header.capacity)
        self._source = source
        self._header = header
        self._compressed = compressed
        grains = -(-header.capacity // header.grain)
        tables = -(-grains // header.per_table)
        if tables > ENTRIES_MAX:
            raise ImageDamaged(f"(a VMDK of {tables} grain tables)")
        self._directory = Table(source, header.directory * SECTOR, tables, "<u4")
        self._tables: Kept[int, Table] = Kept(_TABLES_KEPT)
        self._decoded: Kept[tuple[int, int], bytes] = Kept(_DECODED_KEPT)

    def span(self, start: int) -> Span:
        """Return where the piece that begins at `start` is."""
        header = self._header
        grain, within = divmod(start, header.grain)
        outer, inner = divmod(grain, header.per_table)
        outer_entries = self._directory.entries(outer)
        if not outer_entries[0]:
            end = (outer + run_of(outer_entries)) * header.per_table * header.grain
            return Span(end - start, Content.HOLE)
        entries = self._tables.get(int(outer_entries[0]), self._open_table).entries(inner)
        sector = int(entries[0])
        if not sector:
            return Span(run_of(entries) * header.grain - within, Content.HOLE)
        if sector == 1 and header.flags & _ZEROED_GRAINS:
            return Span(run_of(entries) * header.grain - within, Content.ZERO)
        if self._compressed:
            return Span(
                header.grain - within,
                Content.DATA,
                load=lambda: self._decoded.get((grain, sector), self._decode)[within:],
            )
        length = run_of(entries, step=header.grain // SECTOR) * header.grain - within
        length = min(length, self._size - start)
        check_inside(self._source, sector * SECTOR + within, length, "grains")
        return Span(length, Content.DATA, self._source, sector * SECTOR + within)

    def _open_table(self, sector: int) -> Table:
        return Table(self._source, sector * SECTOR, self._header.per_table, "<u4")

    def _decode(self, where: tuple[int, int]) -> bytes:
        grain, sector = where
        offset, size = sector * SECTOR, self._header.grain
        place, length = _MARKER.unpack(read_bytes(self._source, offset, _MARKER.size))
        # What does not become smaller is stored a little larger.
        if place * SECTOR != grain * size or length > 2 * size:
            raise ImageDamaged(f"(a compressed grain at {offset} for another place)")
        try:
            data = zlib.decompressobj().decompress(
                read_bytes(self._source, offset + _MARKER.size, length), size
            )
        except zlib.error as error:
            raise ImageDamaged(f"(a compressed grain at {offset}: {error})") from error
        # The last grain may end where the disk does.
        if len(data) < min(size, self._size - grain * size):
            raise ImageDamaged(f"(a compressed grain at {offset} of {len(data)} bytes)")
        return data


def _check_embedded(source: BlockReader, header: _Header) -> None:
    """Refuse an image whose own descriptor makes it a change to another one."""
    length = min(header.descriptor_size, DESCRIPTOR_MAX)
    text = read_bytes(source, header.descriptor, length).partition(b"\0")[0]
    values = _values(text.decode(errors="replace"))
    if values.get("parentcid", _NO_PARENT) != _NO_PARENT:
        raise Unsupported("(a VMDK that is a change to another one)", hint=_FLATTEN)
