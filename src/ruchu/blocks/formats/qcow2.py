"""Reading qcow2 images, versions 2 and 3.

The format is docs/interop/qcow2.txt of QEMU. Internal snapshots are passed over: what is read is the
current state. A backing file is never opened because an image names it: the caller gives it.
"""

import struct
import zlib
from dataclasses import dataclass
from typing import Final

import numpy as np
import zstandard

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
from ruchu.errors import ImageDamaged, Unsupported
from ruchu.model.extents import Content
from ruchu.units import KIB, MIB

MAGIC: Final = b"QFI\xfb"
# v2 ends after 72 bytes; v3 says how long it is.
HEADER: Final = struct.Struct(">4sIQIIQIIQQIIQ")
HEADER_V3: Final = struct.Struct(">QQQII")
HEADER_V3_SIZE: Final = 104
CLUSTER_BITS_MIN: Final = 9
CLUSTER_BITS_MAX: Final = 21
COPIED: Final = 1 << 63
COMPRESSED: Final = 1 << 62
OFFSET_MASK: Final = 0x00FFFFFFFFFFFE00
READS_AS_ZEROS: Final = 1

_DIRTY, _CORRUPT, _EXTERNAL_DATA, _COMPRESSION_TYPE, _EXTENDED_L2 = 1, 2, 4, 8, 16
_ZLIB, _ZSTD = 0, 1
_BACKING_NAME_MAX = 1023
# A window above this cannot be needed: a cluster is at most 2 MiB.
_ZSTD_WINDOW_MAX = 8 * MIB
_LEVEL_2_KEPT = 256
_DECODED_KEPT = 16


@dataclass(frozen=True, slots=True)
class Header:
    """What a header says: sizes in bytes.

    Attributes:
        version: 2 or 3.
        backing: what the image calls its backing file; empty for none.
        cluster_bits: a cluster has two to the power of it bytes.
        size: of the disk.
        level_1: offset of the first table.
        level_1_count: its entries.
        zstd: clusters are compressed by zstd, not zlib.
    """

    version: int
    backing: str
    cluster_bits: int
    size: int
    level_1: int
    level_1_count: int
    zstd: bool


def read_header(source: BlockReader) -> Header:
    """Return the header of an image.

    Raises:
        ImageDamaged: it contradicts itself.
        Unsupported: it needs something that this reader does not know.
    """
    fields = HEADER.unpack(read_bytes(source, 0, HEADER.size))
    magic, version, backing, backing_size, bits, size, encryption, count, level_1 = fields[:9]
    if magic != MAGIC:
        raise ImageDamaged("(no qcow2 image)")
    if version not in {2, 3}:
        raise Unsupported(f"(qcow2 version {version})")
    if encryption:
        raise Unsupported("(an encrypted qcow2 image)", hint="Decrypt it with `qemu-img convert`.")
    if not CLUSTER_BITS_MIN <= bits <= CLUSTER_BITS_MAX:
        raise ImageDamaged(f"(qcow2 clusters of 2^{bits} bytes)")
    covered = 1 << (2 * bits - 3)
    if count > 8 * ENTRIES_MAX or count < -(-size // covered):
        raise ImageDamaged(f"(a first table of {count} entries for {size} bytes)")
    zstd = _read_features(source) if version == 3 else False
    name = _backing_name(source, backing, backing_size)
    return Header(version, name, bits, size, level_1, count, zstd)


def _backing_name(source: BlockReader, offset: int, length: int) -> str:
    if not offset:
        return ""
    if length > _BACKING_NAME_MAX:
        raise ImageDamaged(f"(a backing file name of {length} bytes)")
    return read_bytes(source, offset, length).decode(errors="replace") or "?"


def _read_features(source: BlockReader) -> bool:
    """Refuse what is not understood; return whether clusters are compressed by zstd."""
    data = read_bytes(source, HEADER.size, HEADER_V3.size)
    incompatible, _, _, _, length = HEADER_V3.unpack(data)
    if incompatible & _CORRUPT:
        raise ImageDamaged("(it is marked as corrupt)")
    if incompatible & _EXTERNAL_DATA:
        raise Unsupported("(a qcow2 image with an external data file)", hint=_FLATTEN)
    if incompatible & _EXTENDED_L2:
        raise Unsupported("(a qcow2 image with subclusters)", hint=_FLATTEN)
    if incompatible & ~(_DIRTY | _COMPRESSION_TYPE):
        raise Unsupported(f"(a qcow2 image with unknown features {incompatible:#x})")
    if not incompatible & _COMPRESSION_TYPE:
        return False
    if length <= HEADER_V3_SIZE:
        raise ImageDamaged("(a compression without its kind)")
    kind = read_bytes(source, HEADER_V3_SIZE, 1)[0]
    if kind not in {_ZLIB, _ZSTD}:
        raise Unsupported(f"(qcow2 compression of kind {kind})")
    return kind == _ZSTD


_FLATTEN = "Make one file of it: `qemu-img convert -O qcow2 SOURCE TARGET`."


class Qcow2Disk(MappedDisk):
    """The disk in a qcow2 image.

    Args:
        source: the image.
        backing: what lies below it, if it has a backing file; shorter ones read as zeros behind
            their end.

    Raises:
        ImageDamaged: the image contradicts itself.
        Unsupported: it has a backing file that was not given, or needs what is not known here.
    """

    def __init__(self, source: BlockReader, backing: BlockReader | None = None) -> None:
        header = read_header(source)
        if header.backing and backing is None:
            detail = f"(the image is a change to another one, {header.backing[:200]!r})"
            raise Unsupported(detail, hint=_FLATTEN)
        super().__init__(header.size)
        self._source = source
        self._backing = backing if header.backing else None
        self._header = header
        self._cluster = 1 << header.cluster_bits
        self._per_table = self._cluster // 8
        self._level_1 = Table(source, header.level_1, header.level_1_count, ">u8")
        self._level_2: Kept[int, Table] = Kept(_LEVEL_2_KEPT)
        self._decoded: Kept[int, bytes] = Kept(_DECODED_KEPT)

    def span(self, start: int) -> Span:
        """Return where the piece that begins at `start` is."""
        cluster, within = divmod(start, self._cluster)
        outer, inner = divmod(cluster, self._per_table)
        entries = self._level_1.entries(outer)
        table = int(entries[0]) & OFFSET_MASK
        if not table:
            empty = run_of(entries & np.uint64(OFFSET_MASK))
            end = (outer + empty) * self._per_table * self._cluster
            return self._below(start, end - start)
        return self._in_table(table, inner, start, within)

    def _in_table(self, table: int, inner: int, start: int, within: int) -> Span:
        if table % self._cluster:
            raise ImageDamaged(f"(a second table at {table}, which is no cluster)")
        entries = self._level_2.get(table, self._open_table).entries(inner)
        entry = int(entries[0])
        if entry & COMPRESSED:
            return Span(
                self._cluster - within,
                Content.DATA,
                load=lambda: self._decoded.get(entry, self._decode)[within:],
            )
        offset = entry & OFFSET_MASK
        if entry & READS_AS_ZEROS and self._header.version > 2:
            content = Content.ZERO if offset else Content.HOLE
            return Span(run_of(entries) * self._cluster - within, content)
        if not offset:
            return self._below(start, run_of(entries) * self._cluster - within)
        if offset % self._cluster:
            raise ImageDamaged(f"(data at {offset}, which is no cluster)")
        length = run_of(entries, step=self._cluster) * self._cluster - within
        length = min(length, self._size - start)
        # The last cluster of an image may be cut off where the disk ends within it.
        check_inside(self._source, offset + within, length, "data")
        return Span(length, Content.DATA, self._source, offset + within)

    def _open_table(self, offset: int) -> Table:
        return Table(self._source, offset, self._per_table, ">u8")

    def _below(self, start: int, length: int) -> Span:
        if self._backing is None or start >= self._backing.size:
            return Span(length, Content.HOLE)
        length = min(length, self._backing.size - start)
        return Span(length, Content.UNKNOWN, self._backing, start)

    def _decode(self, entry: int) -> bytes:
        offset_bits = 62 - (self._header.cluster_bits - 8)
        offset = entry & ((1 << offset_bits) - 1)
        sectors = (entry & (COMPRESSED - 1)) >> offset_bits
        length = (sectors + 1) * 512 - offset % 512
        # The last sector of an image may be cut off behind the compressed data.
        length = min(length, max(0, self._source.size - offset))
        data = read_bytes(self._source, offset, length)
        try:
            decode = _decode_zstd if self._header.zstd else _decode_zlib
            cluster = decode(data, self._cluster)
        except (zlib.error, zstandard.ZstdError) as error:
            raise ImageDamaged(f"(a compressed cluster at {offset}: {error})") from error
        if len(cluster) != self._cluster:
            raise ImageDamaged(f"(a compressed cluster at {offset} of {len(cluster)} bytes)")
        return cluster


def _decode_zlib(data: bytes, size: int) -> bytes:
    return zlib.decompressobj(-12).decompress(data, size)


def _decode_zstd(data: bytes, size: int) -> bytes:
    decoder = zstandard.ZstdDecompressor(max_window_size=_ZSTD_WINDOW_MAX)
    with decoder.stream_reader(data, read_across_frames=True, read_size=64 * KIB) as reader:
        return reader.read(size)
