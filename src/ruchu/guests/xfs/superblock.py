"""The superblock of XFS and the geometry it tells.

Source: "XFS Algorithms & Data Structures" (xfs-documentation), chapters Superblocks, AG Free Space
Management and Inode Numbers; Documentation/filesystems/xfs of the Linux kernel. All numbers are
big-endian, checksums little-endian.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import checksums

MAGIC = b"XFSB"
NULL_LOG = 0

# Features that a reader has to know.
INCOMPAT_FTYPE = 0x1
INCOMPAT_META_UUID = 0x4
INCOMPAT_BIGTIME = 0x8
INCOMPAT_NEEDSREPAIR = 0x10
# ftype, sparse inodes, meta UUID, bigtime, needs repair, nrext64, exchange-range, parent pointers.
_INCOMPAT_KNOWN = 0xFF
# Free inode btree, reverse mapping, reflink, inode btree counters.
_RO_COMPAT_KNOWN = 0xF
# Version 4 keeps these in the version and in `features2`.
_VERSION_LOGV2 = 0x0400
_VERSION_DIRV2 = 0x2000
_VERSION_MOREBITS = 0x8000
_FEATURES2_FTYPE = 0x200

# What mkfs.xfs makes: blocks of 512 bytes to 64 KiB, sectors to 32 KiB, inodes to 2 KiB.
_BLOCK_LOG = range(9, 17)
_SECTOR_LOG = range(9, 16)
_INODE_LOG = range(8, 12)
_AG_BLOCKS_MIN = 64
_AG_BYTES_MAX = 1 << 40
# An AG takes at least 64 blocks; a million of them is 16 TiB of the smallest that mkfs.xfs makes.
_AGS_MAX = 1 << 20
_DIRECTORY_BLOCK_MAX = 1 << 16
_CRC_AT = 224

_HEAD = struct.Struct(">4sIQQQ16sQQ16xIIIIIHHHH12s7BB")
_LOG = struct.Struct(">BBHIIIIIII")


@dataclass(frozen=True, slots=True)
class Superblock:
    """What a superblock tells, checked.

    Attributes:
        block, sector, inode: bytes of each.
        blocks: blocks of the data device.
        ag_blocks, groups: blocks of an allocation group but the last, and how many there are.
        ag_block_log, inodes_log: bits of a block in its group, of an inode in its block.
        directory_block: bytes.
        log_start, log_blocks: first block of the log as XFS numbers it (0: on another device).
        realtime: whether there is a realtime device.
        uuid, meta_uuid: what users see, and what metadata carries.
        crc: whether this is version 5.
        ftype: whether names carry the kind of what they name.
        incompat, ro_compat: features of version 5.
        unfinished: mkfs or growfs had not ended.
        intact: the checksum is right (or there is none).
    """

    block: int
    sector: int
    inode: int
    blocks: int
    ag_blocks: int
    groups: int
    ag_block_log: int
    inodes_log: int
    directory_block: int
    log_start: int
    log_blocks: int
    root: int
    realtime: bool
    label: bytes
    uuid: bytes
    meta_uuid: bytes
    crc: bool
    ftype: bool
    incompat: int
    ro_compat: int
    unfinished: bool
    intact: bool

    @property
    def size(self) -> int:
        """Bytes that it spans."""
        return self.blocks * self.block

    def ag_length(self, ag: int) -> int:
        """Return the blocks of an allocation group."""
        return min(self.ag_blocks, self.blocks - ag * self.ag_blocks)

    def address(self, number: int, count: int = 1) -> int:
        """Return where `count` blocks from a numbered one (group and block in it) lie, in bytes.

        Raises:
            GuestDamaged: they are not inside one group.
        """
        ag, inside = number >> self.ag_block_log, number & ((1 << self.ag_block_log) - 1)
        if ag >= self.groups or count < 0 or inside + count > self.ag_length(ag):
            raise GuestDamaged(f"{count} blocks at block {inside} of XFS group {ag}")
        return (ag * self.ag_blocks + inside) * self.block

    def inode_address(self, number: int) -> int:
        """Return where an inode lies, in bytes.

        Raises:
            GuestDamaged: it is not inside a group.
        """
        block, inside = number >> self.inodes_log, number & ((1 << self.inodes_log) - 1)
        return self.address(block) + inside * self.inode

    def unknown_writing(self) -> int:
        """Return the features that this release does not know, and that only readers may ignore."""
        return self.ro_compat & ~_RO_COMPAT_KNOWN


def recognised(volume: VolumeReader) -> bool:
    """Return whether a volume begins with a superblock of XFS."""
    if volume.size < 512:
        return False
    sector = volume.read(0, 512)
    return sector[:4] == MAGIC and sector[120] in _BLOCK_LOG


def load(volume: VolumeReader) -> Superblock:
    """Return the superblock of a volume.

    Raises:
        GuestDamaged: it contradicts itself or the size of the volume.
        GuestUnsupported: it needs a feature that is not known.
    """
    if not recognised(volume):
        raise GuestDamaged("there is no superblock of XFS")
    found = _parse(volume)
    _check(found, volume.size)
    return found


def _parse(volume: VolumeReader) -> Superblock:
    raw = volume.read(0, 512)
    head = _HEAD.unpack_from(raw)
    (_, block, blocks, realtime, _, uuid, log_start, root) = head[:8]
    (_, ag_blocks, groups, _, log_blocks, version, sector, inode, inodes, label) = head[8:18]
    (block_log, sector_log, inode_log, inodes_log, ag_log, _, unfinished, _) = head[18:26]
    directory_log, _, _, _, features2, _, _, ro_compat, incompat, _ = _LOG.unpack_from(raw, 192)
    crc = version & 0xF == 5
    if version & 0xF not in {4, 5} or not version & _VERSION_DIRV2:
        raise GuestUnsupported(f"XFS of version {version & 0xF} ({version:#x})")
    _check_logs((block, sector, inode, inodes), (block_log, sector_log, inode_log, inodes_log))
    if not crc:
        ro_compat = incompat = 0
    if incompat & ~_INCOMPAT_KNOWN:
        raise GuestUnsupported(f"XFS with the features {incompat & ~_INCOMPAT_KNOWN:#x}")
    old_ftype = bool(version & _VERSION_MOREBITS and features2 & _FEATURES2_FTYPE)
    return Superblock(
        block=block,
        sector=sector,
        inode=inode,
        blocks=blocks,
        ag_blocks=ag_blocks,
        groups=groups,
        ag_block_log=ag_log,
        inodes_log=inodes_log,
        directory_block=block << min(directory_log, 16),
        log_start=log_start,
        log_blocks=log_blocks,
        root=root,
        realtime=bool(realtime),
        label=label.split(b"\0")[0],
        uuid=uuid,
        meta_uuid=raw[248:264] if incompat & INCOMPAT_META_UUID else uuid,
        crc=crc,
        ftype=bool(incompat & INCOMPAT_FTYPE) if crc else old_ftype,
        incompat=incompat,
        ro_compat=ro_compat,
        unfinished=bool(unfinished),
        intact=not crc or checksums.right_one(volume.read(0, min(sector, volume.size)), _CRC_AT),
    )


def _check_logs(sizes: tuple[int, ...], logs: tuple[int, ...]) -> None:
    """Hold sizes against the logarithms that are kept beside them."""
    block_log, sector_log, inode_log, inodes_log = logs
    known = block_log in _BLOCK_LOG and sector_log in _SECTOR_LOG and inode_log in _INODE_LOG
    if not known or inode_log + inodes_log != block_log or sector_log > block_log:
        raise GuestDamaged("the superblock of XFS tells impossible sizes")
    if sizes != tuple(1 << log for log in logs):
        raise GuestDamaged("the superblock of XFS contradicts itself on its sizes")


def _check(found: Superblock, size: int) -> None:
    if found.size > size:
        raise GuestDamaged(f"XFS of {found.size} bytes on a volume of {size}")
    if not _AG_BLOCKS_MIN <= found.ag_blocks <= _AG_BYTES_MAX // found.block:
        raise GuestDamaged(f"XFS groups of {found.ag_blocks} blocks")
    if found.ag_block_log != (found.ag_blocks - 1).bit_length():
        raise GuestDamaged("the superblock of XFS contradicts itself on its groups")
    if found.groups > _AGS_MAX:
        raise GuestUnsupported(f"XFS with {found.groups} groups")
    # The last group may be short, but it holds its headers.
    last = found.blocks - (found.groups - 1) * found.ag_blocks
    if not found.groups or not 0 < last <= found.ag_blocks or last * found.block < 4 * found.sector:
        raise GuestDamaged(f"XFS of {found.blocks} blocks in {found.groups} groups")
    if found.directory_block > _DIRECTORY_BLOCK_MAX:
        raise GuestDamaged(f"XFS directory blocks of {found.directory_block} bytes")
