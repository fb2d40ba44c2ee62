"""Disks made up byte by byte: partition tables and volume groups, without root and programs."""

import struct
from collections.abc import Iterable, Mapping

from ruchu.guests import lvm_metadata
from ruchu.units import KIB, MIB

SECTOR = 512
EXTENT = MIB
"""Bytes of an extent of a volume group made here; a physical volume has its first one at 1 MiB."""

_AREA = (4096, 64 * KIB)
_TEXT_AT = 512


def with_mbr(content: bytearray, parts: Iterable[tuple[int, int, int]]) -> bytearray:
    """Write an MBR of at most four partitions (start and length in bytes, type) into a disk."""
    content[440:512] = bytes(72)
    for number, (start, length, kind) in enumerate(parts):
        entry = struct.pack("<B3sB3sII", 0, b"", kind, b"", start // SECTOR, length // SECTOR)
        content[446 + 16 * number : 462 + 16 * number] = entry
    content[510:512] = b"\x55\xaa"
    return content


def with_label(content: bytearray, uuid: str, text: str) -> bytearray:
    """Make a volume a physical one of LVM2: label, header, and the text that describes its group.

    Args:
        content: the volume.
        uuid: 32 characters.
        text: metadata, as `group` makes it; less than 63 KiB.
    """
    start, size = _AREA
    header = uuid.encode() + struct.pack("<Q", len(content))
    header += struct.pack("<QQQQ", MIB, 0, 0, 0) + struct.pack("<QQQQ", start, size, 0, 0)
    sector = bytearray(SECTOR)
    sector[32 : 32 + len(header)] = header
    sector[:32] = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001")
    sector[16:20] = struct.pack("<I", lvm_metadata.checksum(bytes(sector[20:])))
    content[SECTOR : 2 * SECTOR] = sector
    data = text.encode() + b"\0"
    assert _TEXT_AT + len(data) <= size
    found = struct.pack("<QQII", _TEXT_AT, len(data), lvm_metadata.checksum(data), 0)
    head = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, start, size) + found
    head = head.ljust(SECTOR - 4, b"\0")
    content[start : start + SECTOR] = struct.pack("<I", lvm_metadata.checksum(head)) + head
    content[start + _TEXT_AT : start + _TEXT_AT + len(data)] = data
    return content


def group(name: str, members: Mapping[str, tuple[str, int]], volumes: str) -> str:
    """Return the metadata of a volume group.

    Args:
        name: of the group.
        members: key that segments use to UUID and bytes of a physical volume.
        volumes: what `volume` returns, one after another.
    """
    physical = "".join(
        f'{key} {{ id = "{uuid}" status = ["ALLOCATABLE"] flags = [] '
        f"pe_start = {MIB // SECTOR} pe_count = {size // EXTENT - 1} }}\n"
        for key, (uuid, size) in members.items()
    )
    return (
        f'{name} {{ id = "id-{name}" seqno = 1 extent_size = {EXTENT // SECTOR} status = []\n'
        f"physical_volumes {{ {physical} }}\nlogical_volumes {{ {volumes} }}\n}}\n"
    )


def volume(name: str, *segments: str, visible: bool = True) -> str:
    """Return the metadata of a logical volume of segments without `start_extent`."""
    status = '"VISIBLE"' if visible else ""
    parts, start = [], 0
    for number, (segment, count) in enumerate((each, _count(each)) for each in segments):
        parts.append(f"segment{number + 1} {{ start_extent = {start} {segment} }}\n")
        start += count
    return f'{name} {{ id = "{name}" status = [{status}] {"".join(parts)} }}\n'


def linear(member: str, first: int, count: int) -> str:
    """Return a segment of extents of one physical volume."""
    return f'extent_count = {count} type = "striped" stripe_count = 1 stripes = [ "{member}", {first} ]'


def _count(segment: str) -> int:
    return int(segment.split("extent_count = ")[1].split(maxsplit=1)[0])
