"""The superblock: sizes, features, state. Nothing in it is believed before it was checked.

Source: Documentation/filesystems/ext4/super.rst of the Linux kernel; how the kinds are told apart
is as libblkid does it.
"""

import struct
import uuid
from dataclasses import dataclass

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.volume_reading import VolumeReader

OFFSET = 1024
SIZE = 1024
MAGIC = 0xEF53
# 128 TiB of 4 KiB blocks, more than any virtual disk; with 64 bytes each, a table of 64 MiB.
GROUPS_MAX = 1 << 20

COMPAT_HAS_JOURNAL = 0x4
COMPAT_SPARSE_SUPER2 = 0x200

INCOMPAT_COMPRESSION = 0x1
INCOMPAT_FILETYPE = 0x2
INCOMPAT_RECOVER = 0x4
INCOMPAT_JOURNAL_DEV = 0x8
INCOMPAT_META_BG = 0x10
INCOMPAT_64BIT = 0x80
INCOMPAT_CSUM_SEED = 0x2000
INCOMPAT_LARGEDIR = 0x4000
# FILETYPE, RECOVER, META_BG, EXTENTS, 64BIT, MMP, FLEX_BG, EA_INODE, CSUM_SEED, LARGEDIR,
# INLINE_DATA, ENCRYPT, CASEFOLD. Encrypted names and contents are refused where they are met.
INCOMPAT_KNOWN = 0x3E7D6

RO_SPARSE_SUPER = 0x1
RO_HUGE_FILE = 0x8
RO_GDT_CSUM = 0x10
RO_BIGALLOC = 0x200
RO_METADATA_CSUM = 0x400
RO_SHARED_BLOCKS = 0x4000
RO_ORPHAN_PRESENT = 0x10000
# SPARSE_SUPER, LARGE_FILE, BTREE_DIR, HUGE_FILE, GDT_CSUM, DIR_NLINK, EXTRA_ISIZE, QUOTA,
# BIGALLOC, METADATA_CSUM, READONLY, PROJECT, SHARED_BLOCKS, VERITY, ORPHAN_PRESENT.
RO_KNOWN = 0x1F77F

STATE_VALID = 0x1
STATE_ERROR = 0x2

# What a file system of the older kinds may have, after libblkid.
_EXT3_INCOMPAT = 0x16
_EXT3_RO = 0x7

_HEAD = struct.Struct("<14I4H4I2HI2H3I")
_HEAD_FIELDS = (
    "inodes",
    "blocks_low",
    "reserved",
    "free_low",
    "free_inodes",
    "first",
    "log_block",
    "log_cluster",
    "group_blocks",
    "group_clusters",
    "group_inodes",
    "mounted",
    "written",
    "mounts_pair",
    "magic",
    "state",
    "errors",
    "minor",
    "checked",
    "interval",
    "creator",
    "revision",
    "reserved_user",
    "reserved_group",
    "first_inode",
    "inode_size",
    "number",
    "compat",
    "incompat",
    "ro_compat",
)


@dataclass(frozen=True, slots=True)
class Superblock:
    """What the superblock says.

    Attributes:
        blocks, inodes: how many there are.
        block: bytes of a block.
        first: number of the first block that belongs to a group.
        group_blocks, group_clusters, group_inodes: how many of each a group has.
        groups: how many groups.
        inode_size: bytes of an inode.
        descriptor: bytes of a group's descriptor.
        reserved_table: blocks kept after each table of descriptors.
        first_meta: descriptor blocks that lie in one piece, where META_BG is used.
        backups: the groups with copies, where SPARSE_SUPER2 is used.
        compat, incompat, ro_compat: feature flags.
        state: VALID and ERROR.
        journal: inode of the journal, 0 if it is on another device.
        last_orphan: first inode of the list of orphans.
        uuid, label: raw.
        seed: what checksums of metadata begin with.
        intact: whether its own checksum is right (or it has none).
    """

    blocks: int
    inodes: int
    block: int
    first: int
    group_blocks: int
    group_clusters: int
    group_inodes: int
    groups: int
    inode_size: int
    descriptor: int
    reserved_table: int
    first_meta: int
    backups: tuple[int, int]
    compat: int
    incompat: int
    ro_compat: int
    state: int
    journal: int
    last_orphan: int
    uuid: bytes
    label: bytes
    seed: int
    intact: bool

    @property
    def kind(self) -> str:
        """`ext2`, `ext3` or `ext4`."""
        return _kind(self.compat, self.incompat, self.ro_compat)

    @property
    def size(self) -> int:
        """Bytes that it says it spans."""
        return self.blocks * self.block

    @property
    def cluster(self) -> int:
        """Bytes of what a bit of the bitmap stands for."""
        return self.group_blocks // self.group_clusters * self.block

    @property
    def checked(self) -> bool:
        """Whether metadata carries crc32c checksums."""
        return bool(self.ro_compat & RO_METADATA_CSUM)

    @property
    def table_blocks(self) -> int:
        """Blocks of inodes of a group."""
        return -(-self.group_inodes * self.inode_size // self.block)

    @property
    def printed_uuid(self) -> str:
        """The UUID as blkid prints it."""
        return str(uuid.UUID(bytes=self.uuid))

    def group_start(self, group: int) -> int:
        """Return the first block of a group."""
        return self.first + group * self.group_blocks


def recognise(volume: VolumeReader) -> str:
    """Return `ext2`, `ext3` or `ext4` if the volume has such a superblock, else an empty text."""
    if volume.size < OFFSET + SIZE:
        return ""
    head = _head(volume.read(OFFSET, SIZE))
    if head["magic"] != MAGIC or head["log_block"] > 6 or not head["group_blocks"]:
        return ""
    if head["incompat"] & INCOMPAT_JOURNAL_DEV:
        return ""
    return _kind(head["compat"], head["incompat"], head["ro_compat"])


def read(volume: VolumeReader) -> Superblock:
    """Return the superblock.

    Raises:
        GuestDamaged: it contradicts itself or the size of the volume.
        GuestUnsupported: it has more groups than anybody uses, or only is a journal.
    """
    raw = volume.read(OFFSET, SIZE)
    head = _head(raw)
    if head["magic"] != MAGIC or head["log_block"] > 6:
        raise GuestDamaged("the superblock of ext4 is not there")
    if head["incompat"] & INCOMPAT_JOURNAL_DEV:
        raise GuestUnsupported("this volume only holds the journal of another one")
    found = _assembled(raw, head)
    _check(found, head, volume.size)
    return found


def _head(raw: bytes) -> dict[str, int]:
    values = _HEAD.unpack_from(raw)
    head = dict(zip(_HEAD_FIELDS, values, strict=True))
    if head["revision"] == 0:
        head |= {"inode_size": 128, "compat": 0, "incompat": 0, "ro_compat": 0}
    return head


def _kind(compat: int, incompat: int, ro_compat: int) -> str:
    if incompat & ~_EXT3_INCOMPAT or ro_compat & ~_EXT3_RO:
        return "ext4"
    return "ext3" if compat & COMPAT_HAS_JOURNAL else "ext2"


def _assembled(raw: bytes, head: dict[str, int]) -> Superblock:
    def at(offset: int, form: str = "<I") -> int:
        return int(struct.unpack_from(form, raw, offset)[0])

    wide = bool(head["incompat"] & INCOMPAT_64BIT)
    checked = bool(head["ro_compat"] & RO_METADATA_CSUM)
    blocks = head["blocks_low"] | (at(0x150) << 32 if wide else 0)
    group_blocks = head["group_blocks"]
    clustered = bool(head["ro_compat"] & RO_BIGALLOC)
    own_seed = head["incompat"] & INCOMPAT_CSUM_SEED
    return Superblock(
        blocks=blocks,
        inodes=head["inodes"],
        block=1024 << head["log_block"],
        first=head["first"],
        group_blocks=group_blocks,
        group_clusters=head["group_clusters"] if clustered else group_blocks,
        group_inodes=head["group_inodes"],
        groups=-(-max(0, blocks - head["first"]) // group_blocks) if group_blocks else 0,
        inode_size=head["inode_size"],
        descriptor=at(0xFE, "<H") if wide else 32,
        reserved_table=at(0xCE, "<H"),
        first_meta=at(0x104),
        backups=(at(0x24C), at(0x250)),
        compat=head["compat"],
        incompat=head["incompat"],
        ro_compat=head["ro_compat"],
        state=head["state"],
        journal=at(0xE0) if head["compat"] & COMPAT_HAS_JOURNAL else 0,
        last_orphan=at(0xE8),
        uuid=raw[0x68:0x78],
        label=raw[0x78:0x88].split(b"\0")[0],
        seed=at(0x270) if own_seed else crc32c.register(raw[0x68:0x78]),
        intact=not checked or crc32c.register(raw[:0x3FC]) == at(0x3FC),
    )


def _check(found: Superblock, head: dict[str, int], size: int) -> None:
    sane = (
        found.block * 8 >= found.group_clusters > 0
        and found.group_clusters % 8 == 0
        and found.group_blocks % found.group_clusters == 0
        and found.block * 8 >= found.group_inodes > 0
        and found.first <= 1
        and found.blocks > found.first
    )
    if not sane:
        raise GuestDamaged("the superblock of ext4 has impossible sizes")
    if found.ro_compat & RO_BIGALLOC:
        shift = head["log_cluster"] - head["log_block"]
        if not 0 <= shift <= 20 or found.group_blocks != found.group_clusters << shift:
            raise GuestDamaged("the superblock of ext4 has impossible clusters")
    if not _power(found.inode_size, 128, found.block):
        raise GuestDamaged(f"the superblock of ext4 has inodes of {found.inode_size} bytes")
    if not _power(found.descriptor, 32, min(found.block, 1024)):
        raise GuestDamaged(f"the superblock of ext4 has descriptors of {found.descriptor} bytes")
    if found.size > size:
        raise GuestDamaged(f"ext4 says it has {found.size} bytes, the volume has {size}")
    if found.groups * found.descriptor > GROUPS_MAX * 64:
        raise GuestUnsupported(f"ext4 with {found.groups} groups")
    if found.inodes != found.groups * found.group_inodes:
        raise GuestDamaged("the superblock of ext4 counts inodes that do not fit its groups")


def _power(value: int, least: int, most: int) -> bool:
    return least <= value <= most and value & (value - 1) == 0
