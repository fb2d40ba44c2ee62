"""Inodes of XFS: versions 1 to 3.

Source: "XFS Algorithms & Data Structures", chapter On-disk Inode. The checksums of inodes are not
verified: browsing reads very many of them. An inode of version 3 carries its own number and the
UUID of its file system, which are.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests.contract import NodeKind, Stat
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs.superblock import Superblock

FORMAT_DEVICE, FORMAT_LOCAL, FORMAT_EXTENTS, FORMAT_BTREE = range(4)

_CORE = struct.Struct(">2sHBBHIII12xQQQqQ4xIHBb6xH8x")
_MORE = struct.Struct(">16xQ16xQQ16s")
_CORE_BYTES, _CORE_BYTES_3 = 100, 176
_FLAG_REALTIME = 0x1
_FLAG_REFLINK, _FLAG_BIGTIME, _FLAG_LARGE_COUNTS = 0x2, 0x8, 0x10
_NANOSECONDS = 1_000_000_000
# Big times count from the smallest that 32 bits could tell.
_BIGTIME_EPOCH = (1 << 31) * _NANOSECONDS

_KINDS = {
    0x1: NodeKind.FIFO,
    0x2: NodeKind.CHARACTER_DEVICE,
    0x4: NodeKind.DIRECTORY,
    0x6: NodeKind.BLOCK_DEVICE,
    0x8: NodeKind.FILE,
    0xA: NodeKind.SYMLINK,
    0xC: NodeKind.SOCKET,
}
_DEVICES = {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}
_SIZED = {NodeKind.FILE, NodeKind.DIRECTORY, NodeKind.SYMLINK}


@dataclass(frozen=True, slots=True)
class Fork:
    """What an inode says of its content or its attributes: how it is kept, and the bytes."""

    form: int
    raw: bytes
    extents: int


@dataclass(frozen=True, slots=True)
class Inode:
    """An inode: what is known of it, and its forks.

    Attributes:
        number: as its file system numbers it.
        stat: what users see.
        content: the fork of its data.
        attributes: the fork of its extended attributes; None if it has none.
        realtime: its content is on the realtime device.
        shared: some of its blocks may belong to other files as well.
    """

    number: int
    stat: Stat
    content: Fork
    attributes: Fork | None
    realtime: bool
    shared: bool


def load(volume: VolumeReader, found: Superblock, number: int) -> Inode:
    """Return an inode.

    Raises:
        NotFound: no inode of this number is in use.
        GuestError: it contradicts itself, or its form is not known.
    """
    raw = _read(volume, found, number)
    core = _CORE.unpack_from(raw)
    (magic, mode, version, form, old_links, owner, group, links) = core[:8]
    (accessed, modified, changed, size, blocks, count, count_2, fork_at, form_2, flags) = core[8:]
    if magic != b"IN":
        raise GuestDamaged(f"there is no XFS inode {number}")
    if not mode:
        raise NotFound(f"(XFS inode {number} is not in use)")
    kind = _KINDS.get(mode >> 12)
    if kind is None or size < 0 or version not in {1, 2, 3} or (version == 3) != found.crc:
        raise GuestDamaged(f"XFS inode {number}")
    flags_2, created, head = 0, None, _CORE_BYTES
    if version == 3:
        flags_2, created, own, uuid = _MORE.unpack_from(raw, _CORE_BYTES + 4)
        head = _CORE_BYTES_3
        if own != number or uuid != found.meta_uuid:
            raise GuestDamaged(f"XFS inode {number} says that it is {own}")
    if flags_2 & _FLAG_LARGE_COUNTS:
        count, count_2 = _large_counts(raw)
    when = _big_time if flags_2 & _FLAG_BIGTIME else _small_time
    content, attributes = _forks(raw, head, fork_at * 8, (form, count), (form_2, count_2))
    stat = Stat(
        kind,
        size if kind in _SIZED else 0,
        min(blocks, found.blocks) * found.block,
        mode & 0o7777,
        owner,
        group,
        links if version > 1 else old_links,
        when(modified),
        when(accessed),
        when(changed),
        None if created is None else when(created),
        _device(content) if kind in _DEVICES else (0, 0),
    )
    return Inode(
        number,
        stat,
        content,
        attributes,
        bool(flags & _FLAG_REALTIME and kind is NodeKind.FILE),
        bool(flags_2 & _FLAG_REFLINK),
    )


def _read(volume: VolumeReader, found: Superblock, number: int) -> bytes:
    if number <= 0:
        raise NotFound(f"(XFS inode {number})")
    try:
        address = found.inode_address(number)
    except GuestDamaged as error:
        raise NotFound(f"(XFS inode {number})") from error
    return volume.read(address, found.inode)


def _large_counts(raw: bytes) -> tuple[int, int]:
    """Return the extents of content and of attributes where both have more bits."""
    return struct.unpack_from(">Q", raw, 24)[0], struct.unpack_from(">I", raw, 76)[0]


def _forks(
    raw: bytes, head: int, apart: int, content: tuple[int, int], attributes: tuple[int, int]
) -> tuple[Fork, Fork | None]:
    """Return both forks; those of the attributes begin `apart` bytes behind the head, if at all."""
    if head + apart > len(raw):
        raise GuestDamaged("the attributes of an XFS inode begin behind it")
    end = head + apart if apart else len(raw)
    (form, count), (form_2, count_2) = content, attributes
    if form > FORMAT_BTREE or (apart and form_2 not in range(FORMAT_LOCAL, FORMAT_BTREE + 1)):
        raise GuestUnsupported(f"an XFS inode of the forms {form} and {form_2}")
    first = Fork(form, raw[head:end], count)
    return first, Fork(form_2, raw[end:], count_2) if apart else None


def _small_time(raw: int) -> int:
    seconds = raw >> 32
    if seconds >= 1 << 31:
        seconds -= 1 << 32
    return seconds * _NANOSECONDS + (raw & 0xFFFFFFFF)


def _big_time(raw: int) -> int:
    return raw - _BIGTIME_EPOCH


def _device(fork: Fork) -> tuple[int, int]:
    """Return major and minor: 14 and 18 bits."""
    if fork.form != FORMAT_DEVICE or len(fork.raw) < 4:
        raise GuestDamaged("an XFS device node without a device")
    number = int.from_bytes(fork.raw[:4], "big")
    return (number >> 18) & 0x3FFF, number & 0x3FFFF
