"""Directories of XFS: in the inode, or in data blocks.

Data blocks alone tell every name. Where a directory has more than one, what lies from 32 GiB on
only finds names by their hash, and is not read. Source: "XFS Algorithms & Data Structures",
chapter Directories.
"""

import struct
from collections.abc import Callable, Iterator

from ruchu.errors import GuestDamaged
from ruchu.guests.contract import Entry, NodeKind
from ruchu.guests.xfs.inodes import Fork
from ruchu.guests.xfs.mapping import BlockMap
from ruchu.guests.xfs.superblock import Superblock

# Directory data ends here, and what finds names begins.
_DATA_MAX = 32 << 30
_MAGICS = {b"XD2B": False, b"XD2D": False, b"XDB3": True, b"XDD3": True}
_WITH_TAIL = {b"XD2B", b"XDB3"}
_HEAD, _HEAD_CRC = 16, 64
_OWNER_AT = 40
_FREE = 0xFFFF
_ENTRY = struct.Struct(">QB")
_UNUSED = struct.Struct(">HH")
_TAIL = struct.Struct(">II")
_NAMELESS = (b".", b"..")

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

ContentReader = Callable[[int, int], bytes]
"""Reads bytes of the directory's content: start, length."""


def short(found: Superblock, fork: Fork, size: int) -> Iterator[Entry]:
    """Yield the names of a directory that is kept in its inode.

    Raises:
        GuestDamaged: it contradicts itself.
    """
    raw = fork.raw[:size]
    if len(raw) < 6:
        raise GuestDamaged("a directory of XFS in its inode")
    wide = 8 if raw[1] else 4
    at = 2 + wide
    typed = 1 if found.ftype else 0
    for _ in range(raw[0]):
        name_at = at + 3
        end = name_at + (raw[at] if at < len(raw) else 0)
        at = end + typed + wide
        if at > len(raw):
            raise GuestDamaged("a directory of XFS leaves its inode")
        node = int.from_bytes(raw[end + typed : at], "big")
        yield Entry(_checked(raw[name_at:end]), node, _kind(raw[end]) if typed else NodeKind.OTHER)


def long(found: Superblock, owner: int, blocks: BlockMap, read: ContentReader) -> Iterator[Entry]:
    """Yield the names of a directory that is kept in blocks.

    Raises:
        GuestDamaged: it contradicts itself.
    """
    length = found.directory_block
    each = length // found.block
    after = budget = 0
    for first, end in blocks.mapped(_DATA_MAX // found.block):
        for number in range(max(after, first // each), -(-end // each)):
            budget += each
            if budget > found.blocks + each:
                raise GuestDamaged(f"XFS directory {owner} is larger than its volume")
            yield from _block(found, owner, read(number * length, length))
        after = max(after, -(-end // each))


def _block(found: Superblock, owner: int, raw: bytes) -> Iterator[Entry]:
    magic = raw[:4]
    if _MAGICS.get(magic) is not found.crc:
        raise GuestDamaged(f"a block of XFS directory {owner}")
    if found.crc and int.from_bytes(raw[_OWNER_AT : _OWNER_AT + 8], "big") != owner:
        raise GuestDamaged(f"a block of XFS directory {owner} belongs to another one")
    at = _HEAD_CRC if found.crc else _HEAD
    end = len(raw)
    if magic in _WITH_TAIL:
        count, _ = _TAIL.unpack_from(raw, end - _TAIL.size)
        end -= _TAIL.size + 8 * count
        if end < at:
            raise GuestDamaged(f"a block of XFS directory {owner} has {count} names")
    yield from _records(found, owner, raw, (at, end))


def _records(found: Superblock, owner: int, raw: bytes, bounds: tuple[int, int]) -> Iterator[Entry]:
    """Yield the names of a block: each record is a multiple of 8 bytes and begins at one."""
    at, end = bounds
    typed = 1 if found.ftype else 0
    while at < end:
        if end - at < 16:
            # Only free room may be so small.
            at = _after_unused(owner, raw, at)
            continue
        node, length = _ENTRY.unpack_from(raw, at)
        if node >> 48 == _FREE:
            at = _after_unused(owner, raw, at)
            continue
        name_end = at + 9 + length
        name = raw[at + 9 : name_end]
        at = (name_end + typed + 9) & ~7
        if at > end:
            raise GuestDamaged(f"a name leaves its block of XFS directory {owner}")
        if name not in _NAMELESS:
            yield Entry(_checked(name), node, _kind(raw[name_end]) if typed else NodeKind.OTHER)


def _after_unused(owner: int, raw: bytes, at: int) -> int:
    mark, length = _UNUSED.unpack_from(raw, at)
    if mark != _FREE or not length or length % 8:
        raise GuestDamaged(f"free room in a block of XFS directory {owner}")
    return int(at + length)


def _kind(number: int) -> NodeKind:
    return _KINDS[number] if number < len(_KINDS) else NodeKind.OTHER


def _checked(name: bytes) -> bytes:
    if not name or b"/" in name or b"\0" in name or name in _NAMELESS:
        raise GuestDamaged(f"the name {name!r} in a directory of XFS")
    return name
