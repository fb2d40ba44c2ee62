"""Names in directories.

Sources: the Linux-NTFS documentation, `$FILE_NAME`; MS-FSCC 2.6 (file attributes), 2.1.2 (tags).
"""

import struct
from collections.abc import Iterator

from ruchu.errors import GuestDamaged
from ruchu.guests.contract import Entry, NodeKind
from ruchu.guests.ntfs import reparse
from ruchu.guests.ntfs.records import REFERENCE

READ_ONLY, SYSTEM, REPARSE = 0x1, 0x4, 0x400
OFFLINE, RECALL_ON_DATA_ACCESS = 0x1000, 0x400000
DIRECTORY = 0x10000000
"""In names only: the file has an index of names."""

DOS = 2
"""The namespace of the short name that stands beside a long one."""

_KEY_AT = 16
_LEAST = 66
_FILE = struct.Struct("<Q2xH4x")
_KEY = struct.Struct("<48xQIIBB")


def shown(block: bytes, starts: list[int], *, below: int = 0) -> Iterator[Entry]:
    """Yield the entries of a block of a directory: DOS names and metadata files are left out.

    Args:
        block: the block.
        starts: where entries begin.
        below: records with a smaller number are left out: the root names itself and the metadata
            files too.

    Raises:
        GuestDamaged: a name cannot be, such as one with a slash.
    """
    unpack_file, unpack_key = _FILE.unpack_from, _KEY.unpack_from
    for at in starts:
        reference, key = unpack_file(block, at)
        if key < _LEAST:
            raise GuestDamaged("(a name in a directory is too short)")
        size, flags, tag, units, space = unpack_key(block, at + _KEY_AT)
        if space == DOS:
            continue
        node = reference & REFERENCE
        if node < below:
            continue
        if _LEAST + 2 * units > key:
            raise GuestDamaged("(a name in a directory is cut off)")
        first = at + _KEY_AT + _LEAST
        yield Entry(_name(block[first : first + 2 * units]), node, _kind(flags, tag, size))


def _name(packed: bytes) -> bytes:
    name = packed.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")
    if b"/" in name or b"\0" in name or name in {b"", b".", b".."}:
        raise GuestDamaged(f"(a directory names {name!r}, which no file can be called)")
    return name


def _kind(flags: int, tag: int, size: int) -> NodeKind:
    if flags & REPARSE:
        return reparse.kind(tag, directory=bool(flags & DIRECTORY))
    if flags & DIRECTORY:
        return NodeKind.DIRECTORY
    # Devices and links of the Interix subsystem are small system files: their content tells.
    small = size <= reparse.INTERIX_BYTES_MAX
    return NodeKind.OTHER if flags & SYSTEM and small else NodeKind.FILE
