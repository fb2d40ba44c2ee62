"""Content of files: where each part of it lies, and unpacking what is compressed.

Source: btrfs.readthedocs.io, "On-disk Format", EXTENT_DATA; "Compression".
"""

import struct
import threading
import zlib
from collections import OrderedDict
from collections.abc import Iterator
from dataclasses import dataclass

import zstandard

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.btrfs import lzo
from ruchu.guests.btrfs.subvolumes import U64_MAX
from ruchu.guests.btrfs.trees import NodeReader, Tree

EXTENT_DATA = 108
_HEAD = struct.Struct("<QQBBHB")
_PLACE = struct.Struct("<QQQQ")
_INLINE, _REGULAR, _PREALLOCATED = range(3)
_NONE, _ZLIB, _LZO, _ZSTD = range(4)
# The kernel compresses this much at a time (BTRFS_MAX_COMPRESSED, BTRFS_MAX_UNCOMPRESSED).
_UNPACKED_MAX = 128 << 10
# What is unpacked is kept: reads are often smaller. At most 16 MiB.
_UNPACKED_KEPT = 128
# zstd levels of Btrfs use windows of at most this (ZSTD_BTRFS_MAX_WINDOWLOG); RFC 8878 asks for
# at least 8 MiB where none is agreed on, and other writers may use it.
_WINDOW_MAX = 8 << 20
_ADDRESS_MAX = 1 << 62


@dataclass(frozen=True, slots=True)
class FileExtent:
    """A part of a file.

    Attributes:
        start, length: bytes of the file.
        written: when, as a generation.
        address: logical address of the whole extent; 0 where there is none.
        stored: bytes of the whole extent as it lies there.
        offset: of this part in the whole extent, unpacked.
        unpacked: bytes of the whole extent, unpacked.
        packing: how it is compressed; 0 if not.
        inline: the content, as stored, if it stands in the tree.
        unwritten: preallocated: there is room at the address, but it reads as zeros.
    """

    start: int
    length: int
    written: int
    address: int
    stored: int
    offset: int
    unpacked: int
    packing: int
    inline: bytes | None
    unwritten: bool = False

    @property
    def end(self) -> int:
        """First byte of the file after it."""
        return self.start + self.length

    @property
    def is_hole(self) -> bool:
        """Whether it reads as zeros."""
        return self.unwritten or (not self.address and self.inline is None)


def parse(start: int, item: bytes) -> FileExtent:
    """Return what an EXTENT_DATA item says.

    Raises:
        GuestDamaged: it contradicts itself.
        GuestUnsupported: it is encrypted, or packed in an unknown way.
    """
    if len(item) < _HEAD.size:
        raise GuestDamaged("a Btrfs file extent is cut short")
    written, unpacked, packing, encryption, encoding, kind = _HEAD.unpack_from(item)
    if packing > _ZSTD or encryption or encoding:
        raise GuestUnsupported(
            f"a Btrfs extent with compression {packing}, {encryption}, {encoding}"
        )
    if kind == _INLINE:
        inline = item[_HEAD.size :]
        length = unpacked if packing else len(inline)
        if length > _UNPACKED_MAX:
            raise GuestDamaged(f"a Btrfs file with {length} bytes inline")
        return FileExtent(start, length, written, 0, len(inline), 0, length, packing, inline)
    if kind > _PREALLOCATED or len(item) < _HEAD.size + _PLACE.size:
        raise GuestDamaged("a Btrfs file extent is malformed")
    address, stored, offset, length = _PLACE.unpack_from(item, _HEAD.size)
    if not length or max(address, stored, offset, length, start) > _ADDRESS_MAX:
        raise GuestDamaged(f"a Btrfs file extent of {length} bytes at {address}")
    if packing and max(stored, unpacked) > _UNPACKED_MAX:
        raise GuestDamaged(f"a Btrfs extent of {stored} bytes unpacks to {unpacked}")
    if address and offset + length > (unpacked if packing else stored):
        raise GuestDamaged("a Btrfs file uses more of an extent than there is")
    return FileExtent(
        start=start,
        length=length,
        written=written,
        address=address,
        stored=stored,
        offset=offset,
        unpacked=unpacked,
        packing=packing,
        inline=None,
        unwritten=kind == _PREALLOCATED,
    )


def of_file(tree: Tree, inode: int, size: int, start: int = 0) -> Iterator[FileExtent]:
    """Yield the extents of a file from the one that holds `start` to its end, in order.

    Raises:
        GuestDamaged: one is malformed, or they overlap.
        GuestUnsupported: one is of an unknown kind.
    """
    reached = 0
    first = (inode, EXTENT_DATA, start)
    for owner, kind, at, item in tree.items(first, (inode, EXTENT_DATA, U64_MAX), floor=True):
        if owner != inode or kind != EXTENT_DATA:
            continue
        if at >= size:
            # Preallocated past the end of the file.
            return
        found = parse(at, item)
        if at < reached:
            raise GuestDamaged(f"extents of Btrfs inode {inode} overlap at {at}")
        reached = found.end
        yield found


def unpack(data: bytes, packing: int, size: int, sector: int) -> bytes:
    """Return exactly `size` bytes: what is missing at the end reads as zeros.

    Raises:
        GuestDamaged: the data is malformed.
    """
    if packing == _NONE:
        plain = data[:size]
    elif packing == _ZLIB:
        try:
            plain = zlib.decompressobj().decompress(data, size)
        except zlib.error as error:
            raise GuestDamaged(f"a zlib extent of Btrfs: {error}") from None
    elif packing == _LZO:
        plain = lzo.unpack_frame(data, size, sector)
    else:
        plain = _unzstd(data, size)
    return plain.ljust(size, b"\0")


def _unzstd(data: bytes, size: int) -> bytes:
    """Return what the one frame holds; zeros follow it, so it must be read with one call."""
    try:
        context = zstandard.ZstdDecompressor(max_window_size=_WINDOW_MAX)
        with context.stream_reader(data) as reader:
            return reader.read(size)
    except (zstandard.ZstdError, MemoryError) as error:
        raise GuestDamaged(f"a zstd extent of Btrfs: {error}") from None


class ContentReader:
    """Reads content by extents. Safe in several threads."""

    def __init__(self, nodes: NodeReader) -> None:
        self._nodes = nodes
        self._sector = nodes.superblock.sector
        self._kept: OrderedDict[int, bytes] = OrderedDict()
        self._lock = threading.Lock()

    def read_into(self, parts: Iterator[FileExtent], start: int, buffer: memoryview) -> None:
        """Fill the buffer with content from `start`; what no part covers reads as zeros.

        Raises:
            GuestDamaged: an extent is malformed or lies nowhere.
        """
        end, at = start + len(buffer), start
        # What is read next: where on the device, and which bytes of the file, if they touch.
        place, first, last = 0, start, start
        for part in parts:
            if part.start >= end:
                break
            begin, until = max(part.start, at), min(part.end, end)
            if begin >= until:
                continue
            _zero(buffer[at - start : begin - start])
            at = until
            if part.is_hole:
                _zero(buffer[begin - start : until - start])
                continue
            if part.packing or part.inline is not None:
                plain = self._plain(part)
                skip = part.offset + begin - part.start
                buffer[begin - start : until - start] = plain[skip : skip + until - begin]
                continue
            where = self._place(part, begin, until)
            if where != place + (begin - first) or begin != last:
                self._fetch(place, buffer[first - start : last - start])
                place, first = where, begin
            last = until
        self._fetch(place, buffer[first - start : last - start])
        _zero(buffer[at - start :])

    def _fetch(self, place: int, buffer: memoryview) -> None:
        if len(buffer):
            self._nodes.volume.read_into(place, buffer)

    def _place(self, part: FileExtent, begin: int, until: int) -> int:
        address = part.address + part.offset + begin - part.start
        return self._nodes.chunks.places(address, until - begin)[0]

    def _plain(self, part: FileExtent) -> bytes:
        """Return the whole extent unpacked, of `unpacked` bytes."""
        if part.inline is not None:
            return unpack(part.inline, part.packing, part.unpacked, self._sector)
        with self._lock:
            found = self._kept.get(part.address)
            if found is not None and len(found) == part.unpacked:
                self._kept.move_to_end(part.address)
                return found
        place = self._nodes.chunks.places(part.address, part.stored)[0]
        stored = self._nodes.volume.read(place, part.stored)
        plain = unpack(stored, part.packing, part.unpacked, self._sector)
        with self._lock:
            self._kept[part.address] = plain
            if len(self._kept) > _UNPACKED_KEPT:
                self._kept.popitem(last=False)
        return plain


_ZEROS = bytes(1 << 20)


def _zero(buffer: memoryview) -> None:
    for at in range(0, len(buffer), len(_ZEROS)):
        piece = buffer[at : at + len(_ZEROS)]
        piece[:] = _ZEROS[: len(piece)]
