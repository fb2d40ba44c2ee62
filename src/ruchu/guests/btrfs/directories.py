"""Names in directories and extended attributes: items of one shape.

Source: btrfs.readthedocs.io, "On-disk Format", DIR_ITEM, DIR_INDEX, XATTR_ITEM.
"""

import struct
from collections.abc import Iterator, Mapping

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests.btrfs.inodes import INODE_ITEM
from ruchu.guests.btrfs.subvolumes import DIR_INDEX, ROOT_ITEM, U64_MAX, Forest
from ruchu.guests.btrfs.trees import Tree
from ruchu.guests.contract import NAME_BYTES_MAX, XATTR_BYTES_MAX, Entry, NodeKind

XATTR_ITEM = 24
# Object, type and offset of what is named; generation; length of data and name; kind.
_HEAD = struct.Struct("<QBQQHHB")
_ENCRYPTED = 0x80
_KINDS = (
    NodeKind.OTHER,
    NodeKind.FILE,
    NodeKind.DIRECTORY,
    NodeKind.CHARACTER_DEVICE,
    NodeKind.BLOCK_DEVICE,
    NodeKind.FIFO,
    NodeKind.SOCKET,
    NodeKind.SYMLINK,
)
# Where the name of a subvolume was copied by a snapshot, the kernel shows an empty directory
# with this inode number (BTRFS_EMPTY_SUBVOL_DIR_OBJECTID).
EMPTY_DIRECTORY = 2
INODE_BITS = 64


def entries(forest: Forest, subvolume: int, inode: int) -> Iterator[Entry]:
    """Yield what a directory names; subvolumes are directories.

    Raises:
        GuestDamaged: an item is malformed.
        GuestUnsupported: a name is encrypted.
    """
    own = subvolume << INODE_BITS
    tree = forest.tree(subvolume)
    first, last = (inode, DIR_INDEX, 0), (inode, DIR_INDEX, U64_MAX)
    unpack, head = _HEAD.unpack_from, _HEAD.size
    for _, _, _, item in tree.items(first, last):
        if len(item) < head:
            raise GuestDamaged("a Btrfs directory entry is cut short")
        target, kind, _, _, data, length, shape = unpack(item)
        name = item[head : head + length]
        if len(name) != length or data or not _is_name(name):
            raise GuestDamaged("a Btrfs directory entry is malformed")
        if shape >= len(_KINDS):
            raise _of_shape(shape)
        if kind == INODE_ITEM:
            yield Entry(name, own | target, _KINDS[shape])
        elif kind == ROOT_ITEM:
            yield _subvolume(forest, (subvolume, target, inode), name)
        else:
            raise GuestDamaged(f"a Btrfs directory names an item of type {kind}")


def _of_shape(shape: int) -> GuestUnsupported | GuestDamaged:
    if shape & _ENCRYPTED:
        return GuestUnsupported("encrypted names in Btrfs")
    return GuestDamaged(f"a Btrfs directory names a thing of type {shape}")


def _is_name(name: bytes) -> bool:
    if name in {b"", b".", b".."} or len(name) > NAME_BYTES_MAX:
        return False
    return b"/" not in name and b"\0" not in name


def _subvolume(forest: Forest, link: tuple[int, int, int], name: bytes) -> Entry:
    parent, child, directory = link
    node = parent << INODE_BITS | EMPTY_DIRECTORY
    if forest.is_named(parent, child, directory, name):
        try:
            node = child << INODE_BITS | forest.about(child).directory
        except NotFound:
            raise GuestDamaged(f"Btrfs subvolume {child} is named but is not there") from None
    return Entry(name, node, NodeKind.DIRECTORY)


def xattrs(tree: Tree, inode: int) -> Mapping[str, bytes]:
    """Return the extended attributes of an inode, as they are stored: Linux shows them so.

    ACLs, too, are stored in the form of the system call.

    Raises:
        GuestDamaged: an item is malformed, or they are absurdly long.
    """
    found: dict[str, bytes] = {}
    total = 0
    first, last = (inode, XATTR_ITEM, 0), (inode, XATTR_ITEM, U64_MAX)
    for _, _, _, item in tree.items(first, last):
        # Names with the same hash share an item.
        at = 0
        while at < len(item):
            if at + _HEAD.size > len(item):
                raise GuestDamaged("an extended attribute of Btrfs is cut short")
            *_, data, length, _ = _HEAD.unpack_from(item, at)
            at += _HEAD.size
            middle, end = at + length, at + length + data
            total += length + data
            if not length or end > len(item) or total > XATTR_BYTES_MAX:
                raise GuestDamaged("an extended attribute of Btrfs is malformed")
            found[item[at:middle].decode("utf-8", "surrogateescape")] = item[middle:end]
            at = end
    return found
