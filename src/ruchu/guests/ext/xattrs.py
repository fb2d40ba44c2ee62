"""Extended attributes: within the inode, in a block, with values in inodes of their own.

Source: Documentation/filesystems/ext4/{attributes,eainode}.rst of the Linux kernel; the form of
ACLs after fs/ext4/acl.h (on the disk) and include/uapi/linux/posix_acl_xattr.h (system call).
"""

import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged
from ruchu.guests.contract import XATTR_BYTES_MAX
from ruchu.guests.ext.superblock import Superblock

INDEX_SYSTEM = 7
INLINE_NAME = b"data"
_MAGIC = 0xEA020000
_BLOCK_HEADER = 32
_BLOCK_SUM = 0x10
# Length and class of the name, place of the value, inode and size of the value, hash.
_ENTRY = struct.Struct("<BBHIII")
# What Linux shows. Encryption contexts (9) and inline data (7) are not shown.
_PREFIXES = {1: "user.", 4: "trusted.", 6: "security.", 8: "system.richacl", 10: "gnu."}
_ACLS = {2: "system.posix_acl_access", 3: "system.posix_acl_default"}

_ACL_VERSION, _ACL_VERSION_SHOWN = 1, 2
_ACL_SHORT, _ACL_LONG = struct.Struct("<HH"), struct.Struct("<HHI")
# Owner, group, mask and others have no number; a named user (2) or group (8) has one.
_ACL_PLAIN, _ACL_NAMED = {0x1, 0x4, 0x10, 0x20}, {0x2, 0x8}
_ACL_NOBODY = 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Attribute:
    """An attribute as it is on the disk.

    Attributes:
        index: class of its name.
        name: without the prefix of the class.
        value: empty if it lies in an inode of its own.
        inode: that inode, or 0.
        size: bytes of the value.
    """

    index: int
    name: bytes
    value: bytes
    inode: int
    size: int


def within_inode(tail: bytes) -> list[Attribute]:
    """Return the attributes that follow the fields of an inode.

    Raises:
        GuestDamaged: they contradict themselves.
    """
    if len(tail) < 8 or int.from_bytes(tail[:4], "little") != _MAGIC:
        return []
    return list(_entries(tail[4:], 0))


def within_block(raw: bytes, number: int, superblock: Superblock) -> list[Attribute]:
    """Return the attributes of a block.

    Raises:
        GuestDamaged: its checksum is wrong, or it contradicts itself.
    """
    if int.from_bytes(raw[:4], "little") != _MAGIC:
        raise GuestDamaged(f"block {number} holds no extended attributes")
    if superblock.checked:
        blank = raw[:_BLOCK_SUM] + bytes(4) + raw[_BLOCK_SUM + 4 :]
        right = crc32c.register(number.to_bytes(8, "little") + blank, superblock.seed)
        if right != int.from_bytes(raw[_BLOCK_SUM : _BLOCK_SUM + 4], "little"):
            raise GuestDamaged(f"the checksum of the attributes in block {number} is wrong")
    return list(_entries(raw, _BLOCK_HEADER))


def shown(attributes: list[Attribute], value_of: Callable[[Attribute], bytes]) -> dict[str, bytes]:
    """Return attributes as Linux shows them.

    Raises:
        GuestDamaged: an ACL contradicts itself, or there is too much of them.
    """
    found = {}
    left = XATTR_BYTES_MAX
    for attribute in attributes:
        left -= attribute.size
        if left < 0:
            raise GuestDamaged(f"more than {XATTR_BYTES_MAX} bytes of extended attributes")
        if attribute.index in _ACLS:
            found[_ACLS[attribute.index]] = _acl(value_of(attribute))
        elif attribute.index in _PREFIXES:
            name = attribute.name.decode("utf-8", "surrogateescape")
            found[_PREFIXES[attribute.index] + name] = value_of(attribute)
    return found


def _entries(area: bytes, at: int) -> Iterator[Attribute]:
    while at + 4 <= len(area) and area[at : at + 4] != b"\0\0\0\0":
        if at + _ENTRY.size > len(area):
            raise GuestDamaged("extended attributes end too early")
        length, index, place, inode, size, _ = _ENTRY.unpack_from(area, at)
        name = area[at + _ENTRY.size : at + _ENTRY.size + length]
        if len(name) != length or (not inode and place + size > len(area)):
            raise GuestDamaged("an extended attribute lies outside of its block")
        yield Attribute(index, name, b"" if inode else area[place : place + size], inode, size)
        at += (_ENTRY.size + length + 3) & ~3


def _acl(raw: bytes) -> bytes:
    if len(raw) < 4 or int.from_bytes(raw[:4], "little") != _ACL_VERSION:
        raise GuestDamaged("an ACL of an unknown version")
    found = [_ACL_VERSION_SHOWN.to_bytes(4, "little")]
    at = 4
    while at + _ACL_SHORT.size <= len(raw):
        tag, rights = _ACL_SHORT.unpack_from(raw, at)
        if tag in _ACL_PLAIN:
            found.append(_ACL_LONG.pack(tag, rights, _ACL_NOBODY))
            at += _ACL_SHORT.size
        elif tag in _ACL_NAMED and at + _ACL_LONG.size <= len(raw):
            found.append(raw[at : at + _ACL_LONG.size])
            at += _ACL_LONG.size
        else:
            raise GuestDamaged("an ACL has an entry of an unknown kind")
    return b"".join(found)
