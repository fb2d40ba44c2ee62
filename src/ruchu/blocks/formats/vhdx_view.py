"""A disk shown as a fixed VHDX: all blocks are there, one after the other.

The structures are those of `vhdx`. In the file lie: identifier, headers and region tables (1 MiB),
log (1 MiB, empty), metadata (1 MiB), BAT, and the blocks.
"""

import hashlib
import struct
from typing import Final

import numpy as np

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats import vhdx
from ruchu.blocks.formats.mapping import BytesDisk, ComposedDisk, ComputedDisk, Part
from ruchu.errors import UsageError
from ruchu.units import KIB, MIB

# The larger the blocks, the smaller the table: 2.5 MiB for 10 TiB.
BLOCK: Final = 32 * MIB
SECTOR: Final = 512
_LOG: Final = (1 * MIB, 1 * MIB)
_METADATA: Final = (2 * MIB, 1 * MIB)
_BAT_OFFSET: Final = 3 * MIB
_TABLE_PIECE: Final = 64 * KIB
_CREATOR = "Ruchu".encode("utf-16-le").ljust(512, b"\0")
_RATIO: Final = vhdx.chunk_ratio(BLOCK, SECTOR)


def show_fixed(device: BlockReader, name: str) -> BlockReader:
    """Return a fixed VHDX of a disk; what is missing to a whole sector is zeros.

    Raises:
        UsageError: the disk is too large for the format, or empty.
    """
    size = -(-device.size // SECTOR) * SECTOR
    if not 0 < size <= vhdx.DISK_MAX:
        raise UsageError("(a VHDX holds up to 64 TiB)", hint="Choose raw.")
    blocks = -(-size // BLOCK)
    entries = blocks + (blocks - 1) // _RATIO
    table_size = -(-entries * 8 // MIB) * MIB
    data = _BAT_OFFSET + table_size

    def table_piece(number: int) -> bytes:
        """Return entries of the BAT: each chunk of blocks is followed by one for its bitmap."""
        first = number * (_TABLE_PIECE // 8)
        index = np.arange(first, first + _TABLE_PIECE // 8, dtype=np.uint64)
        chunk, within = np.divmod(index, np.uint64(_RATIO + 1))
        block = chunk * np.uint64(_RATIO) + within
        offset_mib = np.uint64(data // MIB) + block * np.uint64(BLOCK // MIB)
        entry = offset_mib << np.uint64(20) | np.uint64(vhdx.PRESENT)
        entry[(within == _RATIO) | (index >= entries)] = 0
        return entry.astype("<u8").tobytes()

    table = ComputedDisk(table_size, _TABLE_PIECE, table_piece)
    parts = [
        *_front(table_size, name, size),
        Part(_BAT_OFFSET, table_size, table),
        Part(data, device.size, device),
    ]
    return ComposedDisk(data + blocks * BLOCK, parts)


def _identity(kind: str, name: str, size: int) -> bytes:
    """Return a GUID that is the same each time the same disk is shown."""
    return hashlib.sha256(f"vhdx {kind} {name} {size}".encode()).digest()[:16]


def _front(table_size: int, name: str, size: int) -> list[Part]:
    regions = _region_table(table_size)
    places = {
        0: vhdx.FILE_MAGIC + _CREATOR,
        **{
            offset: _header(sequence, name, size)
            for sequence, offset in enumerate(vhdx.HEADER_OFFSETS)
        },
        **dict.fromkeys(vhdx.REGION_OFFSETS, regions),
        _METADATA[0]: _metadata(name, size),
    }
    return [Part(at, len(content), BytesDisk(content)) for at, content in places.items()]


def _header(sequence: int, name: str, size: int) -> bytes:
    written = (_identity("file", name, size), _identity("data", name, size))
    # An empty log has no identity; version 0 of the log, version 1 of the format.
    fields = (b"head", 0, sequence, *written, bytes(16), 0, 1, _LOG[1], _LOG[0])
    return vhdx.sealed(vhdx.HEADER.pack(*fields).ljust(vhdx.HEADER_SIZE, b"\0"))


def _region_table(table_size: int) -> bytes:
    regions = {vhdx.BAT_REGION: (_BAT_OFFSET, table_size), vhdx.METADATA_REGION: _METADATA}
    data = vhdx.REGION_HEADER.pack(b"regi", 0, len(regions), 0)
    for region, (offset, length) in regions.items():
        data += vhdx.REGION_ENTRY.pack(region.bytes_le, offset, length, vhdx.REQUIRED)
    return vhdx.sealed(data.ljust(vhdx.REGION_SIZE, b"\0"))


def _metadata(name: str, size: int) -> bytes:
    # Flags of an item: bit 1, it is of the disk; bit 2, it is required.
    items = [
        (vhdx.FILE_PARAMETERS, struct.pack("<II", BLOCK, vhdx.LEAVE_ALLOCATED), 4),
        (vhdx.DISK_SIZE, struct.pack("<Q", size), 6),
        (vhdx.DISK_ID, _identity("disk", name, size), 6),
        (vhdx.LOGICAL_SECTOR, struct.pack("<I", SECTOR), 6),
        (vhdx.PHYSICAL_SECTOR, struct.pack("<I", 4 * KIB), 6),
    ]
    table = vhdx.METADATA_HEADER.pack(b"metadata", 0, len(items), bytes(20))
    content = b""
    for item, value, flags in items:
        offset = vhdx.METADATA_TABLE_SIZE + len(content)
        table += vhdx.METADATA_ENTRY.pack(item.bytes_le, offset, len(value), flags, 0)
        content += value
    return table.ljust(vhdx.METADATA_TABLE_SIZE, b"\0") + content
