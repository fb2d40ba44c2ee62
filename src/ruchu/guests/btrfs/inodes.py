"""Inodes of Btrfs. Source: btrfs.readthedocs.io, "On-disk Format", INODE_ITEM."""

import stat
import struct

from ruchu.errors import GuestDamaged
from ruchu.guests.contract import NodeKind, Stat

INODE_ITEM = 1
_FIELDS = struct.Struct("<QQQQQIIIIQQQ32xqIqIqIqI")
# The kernel's limit of a file (MAX_LFS_FILESIZE).
_SIZE_MAX = (1 << 63) - 1
_SECOND = 1_000_000_000
KINDS = {
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFLNK: NodeKind.SYMLINK,
    stat.S_IFCHR: NodeKind.CHARACTER_DEVICE,
    stat.S_IFBLK: NodeKind.BLOCK_DEVICE,
    stat.S_IFIFO: NodeKind.FIFO,
    stat.S_IFSOCK: NodeKind.SOCKET,
}


def parse(item: bytes, sector: int) -> Stat:
    """Return what an INODE_ITEM says.

    Raises:
        GuestDamaged: it is cut short, or its size is impossible.
    """
    if len(item) < _FIELDS.size:
        raise GuestDamaged("a Btrfs inode is cut short")
    fields = _FIELDS.unpack_from(item)
    _, _, size, taken, _, links, owner, group, mode, device, _, _ = fields[:12]
    kind = KINDS.get(stat.S_IFMT(mode), NodeKind.OTHER)
    if max(size, taken) > _SIZE_MAX:
        raise GuestDamaged(f"a Btrfs inode of {size} bytes, {taken} taken")
    times = fields[12:]
    accessed, changed, modified, created = (
        times[at] * _SECOND + times[at + 1] for at in range(0, 8, 2)
    )
    node = kind in {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}
    return Stat(
        kind=kind,
        size=size,
        allocated=-(-taken // sector) * sector,
        mode=stat.S_IMODE(mode),
        owner=owner,
        group=group,
        links=links,
        modified=modified,
        accessed=accessed,
        changed=changed,
        created=created,
        device=(device >> 20 & 0xFFF, device & 0xFFFFF) if node else (0, 0),
    )
