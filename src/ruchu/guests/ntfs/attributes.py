"""Attributes: what an MFT record is made of.

Source: the Linux-NTFS documentation, `Attributes`.
"""

import struct
from typing import NamedTuple

from ruchu.errors import GuestDamaged

STANDARD_INFORMATION = 0x10
ATTRIBUTE_LIST = 0x20
FILE_NAME = 0x30
SECURITY_DESCRIPTOR = 0x50
VOLUME_NAME = 0x60
VOLUME_INFORMATION = 0x70
DATA = 0x80
INDEX_ROOT = 0x90
INDEX_ALLOCATION = 0xA0
REPARSE_POINT = 0xC0
EXTENDED = 0xE0

COMPRESSED, ENCRYPTED, SPARSE = 0x00FF, 0x4000, 0x8000

_HEAD = struct.Struct("<IIBBHHH")
_RESIDENT = struct.Struct("<IH")
_PLACED = struct.Struct("<QQHB5xQQQ")
_PACKED = struct.Struct("<Q")


class Attribute(NamedTuple):
    """One attribute, or a part of one.

    Attributes:
        kind: its type, such as `DATA`.
        name: its name as UTF-16, little endian.
        flags: COMPRESSED, ENCRYPTED, SPARSE.
        number: tells it from the other attributes of its record.
        resident: whether `value` is its content; else `value` is its packed run list.
        first: cluster of the attribute that the run list begins with.
        unit: power of two of clusters that are compressed together; 0 if none.
        allocated: bytes of all its clusters; of compressed and sparse ones, those that are there.
        size: bytes of its content.
        initialised: bytes that were ever written; what is behind reads as zeros.
    """

    kind: int
    name: bytes
    flags: int
    number: int
    resident: bool
    value: bytes
    first: int = 0
    unit: int = 0
    allocated: int = 0
    size: int = 0
    initialised: int = 0


def parsed(record: bytes, at: int, end: int) -> list[Attribute]:
    """Return the attributes that lie in a record from `at` on.

    Raises:
        GuestDamaged: one reaches out of the record.
    """
    found: list[Attribute] = []
    while at + 4 <= end:
        if record[at : at + 4] == b"\xff\xff\xff\xff":
            return found
        if at + 24 > end:
            break
        kind, length, placed, name_units, name_at, flags, number = _HEAD.unpack_from(record, at)
        after = at + length
        if length < 24 or after > end or name_at + 2 * name_units > length:
            break
        name = record[at + name_at : at + name_at + 2 * name_units] if name_units else b""
        if placed:
            found.append(_placed(record[at:after], kind, name, flags, number))
        else:
            size, value_at = _RESIDENT.unpack_from(record, at + 16)
            if value_at + size > length:
                break
            value = record[at + value_at : at + value_at + size]
            found.append(Attribute(kind, name, flags, number, True, value, 0, 0, 0, size, size))
        at = after
    raise GuestDamaged("(an attribute reaches out of its record)")


def _placed(whole: bytes, kind: int, name: bytes, flags: int, number: int) -> Attribute:
    if len(whole) < 64:
        raise GuestDamaged("(an attribute is too short)")
    first, _, runs_at, unit, allocated, size, initialised = _PLACED.unpack_from(whole, 16)
    # Compressed and sparse attributes have one more field, in their first part only.
    if flags & (COMPRESSED | SPARSE) and not first and runs_at >= 72 and len(whole) >= 72:
        allocated = _PACKED.unpack_from(whole, 64)[0]
    if max(size, allocated, initialised) >= 1 << 62 or (not first and initialised > size):
        raise GuestDamaged("(the sizes of an attribute cannot be)")
    if not 64 <= runs_at <= len(whole):
        raise GuestDamaged("(an attribute's run list is outside it)")
    runs = whole[runs_at:]
    return Attribute(
        kind, name, flags, number, False, runs, first, unit, allocated, size, initialised
    )
