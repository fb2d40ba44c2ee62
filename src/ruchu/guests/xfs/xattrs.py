"""Extended attributes of XFS: in the inode, in one block, or in a tree of blocks.

Source: "XFS Algorithms & Data Structures", chapters Extended Attributes and Remote Attribute
Values. POSIX ACLs are attributes of the root namespace with names of IRIX; users see them as the
system's own. Parent pointers are attributes too, and nobody's but the file system's.
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ruchu.errors import GuestDamaged
from ruchu.guests.contract import XATTR_BYTES_MAX
from ruchu.guests.xfs.superblock import Superblock

_LOCAL, _ROOT, _SECURE, _PARENT, _INCOMPLETE = 0x01, 0x02, 0x04, 0x08, 0x80
_LEAF, _LEAF_CRC, _NODE, _NODE_CRC = 0xFBEE, 0x3BEE, 0xFEBE, 0x3EBE
_ENTRY = struct.Struct(">4xHBx")
_LOCAL_VALUE = struct.Struct(">HB")
_REMOTE_VALUE = struct.Struct(">IIB")
_REMOTE_HEAD = 56
_REMOTE_OWNER = struct.Struct(">4sII20xQ")
_OWNER_AT = 48
_LEVELS_MAX = 8
# Linux takes values of at most 64 KiB.
_VALUE_MAX = 64 << 10
# Names and values of `XATTR_BYTES_MAX` in the smallest blocks, each barely filled.
_LEAVES_MAX = 1 << 16

_ACL_NAMES = {
    b"SGI_ACL_FILE": "system.posix_acl_access",
    b"SGI_ACL_DEFAULT": "system.posix_acl_default",
}
_ACL_ENTRY = struct.Struct(">IIHxx")
_ACL_NUMBERED = (0x02, 0x08)
_ACL_VERSION = struct.pack("<I", 2)
_ACL_NOBODY = 0xFFFFFFFF

BlockReader = Callable[[int, int], bytes]
"""Reads bytes of the fork of attributes: start, length."""


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute as it is stored."""

    name: bytes
    value: bytes
    flags: int


def shown(attributes: Iterator[Attribute]) -> dict[str, bytes]:
    """Return attributes under the names and with the values that Linux shows.

    Raises:
        GuestDamaged: there are more than `XATTR_BYTES_MAX` bytes of them, or an ACL is none.
    """
    found: dict[str, bytes] = {}
    total = 0
    for attribute in attributes:
        total += len(attribute.name) + len(attribute.value)
        if total > XATTR_BYTES_MAX:
            raise GuestDamaged(f"extended attributes of more than {XATTR_BYTES_MAX} bytes")
        if attribute.flags & (_PARENT | _INCOMPLETE):
            continue
        if attribute.flags & _ROOT and attribute.name in _ACL_NAMES:
            found[_ACL_NAMES[attribute.name]] = _acl(attribute.value)
            continue
        space = "user."
        if attribute.flags & _ROOT:
            space = "trusted."
        elif attribute.flags & _SECURE:
            space = "security."
        found[space + attribute.name.decode("utf-8", "surrogateescape")] = attribute.value
    return found


def _acl(raw: bytes) -> bytes:
    """Return an ACL of XFS in the form of the system call."""
    count = int.from_bytes(raw[:4], "big")
    if len(raw) < 4 or 4 + count * _ACL_ENTRY.size > len(raw):
        raise GuestDamaged(f"an ACL of {count} entries in {len(raw)} bytes")
    entries = _ACL_ENTRY.iter_unpack(raw[4 : 4 + count * _ACL_ENTRY.size])
    return _ACL_VERSION + b"".join(
        struct.pack("<HHI", tag & 0xFFFF, permissions, who if tag in _ACL_NUMBERED else _ACL_NOBODY)
        for tag, who, permissions in entries
    )


def short(raw: bytes) -> Iterator[Attribute]:
    """Yield the attributes that are kept in the inode.

    Raises:
        GuestDamaged: they leave it.
    """
    if len(raw) < 4:
        raise GuestDamaged("extended attributes in an XFS inode without room")
    at = 4
    for _ in range(raw[2]):
        if at + 3 > len(raw):
            raise GuestDamaged("extended attributes leave their XFS inode")
        name_length, value_length, flags = raw[at : at + 3]
        name_end = at + 3 + name_length
        end = name_end + value_length
        if not name_length or end > len(raw):
            raise GuestDamaged("extended attributes leave their XFS inode")
        yield Attribute(raw[at + 3 : name_end], raw[name_end:end], flags)
        at = end


def long(found: Superblock, owner: int, read: BlockReader) -> Iterator[Attribute]:
    """Yield the attributes that are kept in blocks.

    Raises:
        GuestDamaged: they contradict themselves.
    """
    number = _first_leaf(found, owner, read)
    seen: set[int] = set()
    while True:
        if number in seen or len(seen) > _LEAVES_MAX:
            raise GuestDamaged(f"the attributes of XFS inode {owner} go in a circle")
        seen.add(number)
        raw = _block(found, owner, read, number)
        if _magic(raw) not in {_LEAF, _LEAF_CRC}:
            raise GuestDamaged(f"the attributes of XFS inode {owner}")
        yield from _leaf(found, owner, read, raw)
        number = int.from_bytes(raw[:4], "big")
        if not number:
            return


def _first_leaf(found: Superblock, owner: int, read: BlockReader) -> int:
    number = 0
    for _ in range(_LEVELS_MAX):
        raw = _block(found, owner, read, number)
        if _magic(raw) not in {_NODE, _NODE_CRC}:
            return number
        # The first entry behind the header: hash, then the block below.
        head = 64 if found.crc else 16
        number = int.from_bytes(raw[head + 4 : head + 8], "big")
    raise GuestDamaged(f"the tree of attributes of XFS inode {owner} is too tall")


def _block(found: Superblock, owner: int, read: BlockReader, number: int) -> bytes:
    raw = read(number * found.block, found.block)
    known = (_LEAF_CRC, _NODE_CRC) if found.crc else (_LEAF, _NODE)
    own = int.from_bytes(raw[_OWNER_AT : _OWNER_AT + 8], "big")
    if _magic(raw) not in known or (found.crc and own != owner):
        raise GuestDamaged(f"a block of attributes of XFS inode {owner}")
    return raw


def _magic(raw: bytes) -> int:
    return int.from_bytes(raw[8:10], "big")


def _leaf(found: Superblock, owner: int, read: BlockReader, raw: bytes) -> Iterator[Attribute]:
    count_at, head = (56, 80) if found.crc else (12, 32)
    count = int.from_bytes(raw[count_at : count_at + 2], "big")
    if head + count * _ENTRY.size > len(raw):
        raise GuestDamaged(f"{count} attributes in a block of XFS inode {owner}")
    for at, flags in _ENTRY.iter_unpack(raw[head : head + count * _ENTRY.size]):
        fixed = _LOCAL_VALUE if flags & _LOCAL else _REMOTE_VALUE
        if at < head or at + fixed.size > len(raw):
            raise GuestDamaged(f"an attribute of XFS inode {owner} leaves its block")
        if flags & _LOCAL:
            value_length, name_length = _LOCAL_VALUE.unpack_from(raw, at)
            name_at = at + _LOCAL_VALUE.size
            value_at = name_at + name_length
            value = raw[value_at : value_at + value_length]
            short_of = len(value) < value_length
        else:
            first, value_length, name_length = _REMOTE_VALUE.unpack_from(raw, at)
            name_at = at + _REMOTE_VALUE.size
            short_of = name_at + name_length > len(raw)
            hidden = flags & (_INCOMPLETE | _PARENT)
            value = b"" if hidden else _remote(found, owner, read, (first, value_length))
        if short_of or not name_length:
            raise GuestDamaged(f"an attribute of XFS inode {owner} leaves its block")
        yield Attribute(raw[name_at : name_at + name_length], value, flags)


def _remote(found: Superblock, owner: int, read: BlockReader, where: tuple[int, int]) -> bytes:
    """Return a value that has blocks of its own; in version 5 each has a header."""
    first, length = where
    if length > _VALUE_MAX:
        raise GuestDamaged(f"an attribute of {length} bytes in XFS inode {owner}")
    if not found.crc:
        return read(first * found.block, length)
    room = found.block - _REMOTE_HEAD
    parts = []
    for index in range(-(-length // room)):
        raw = read((first + index) * found.block, found.block)
        magic, offset, size, own = _REMOTE_OWNER.unpack_from(raw)
        expected = min(room, length - index * room)
        if magic != b"XARM" or own != owner or (offset, size) != (index * room, expected):
            raise GuestDamaged(f"the value of an attribute of XFS inode {owner}")
        parts.append(raw[_REMOTE_HEAD : _REMOTE_HEAD + size])
    return b"".join(parts)
