"""Inodes as the log of XFS holds them, put into the form that they have in their place.

The core is logged in the byte order of the machine, field by field as on disk; forks are logged as
they are on disk, but for the root of a btree of extents, which is logged as it is in memory.
Sources: `fs/xfs/libxfs/xfs_log_format.h` and `xfs_inode_item_recover.c` of the Linux kernel.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.xfs.log_transactions import Item

_FORMAT = struct.Struct("<HHIHH4xQI12xqii")
_CORE_FIELDS = "HHBBHIIIHHQ8s8s8sQQIIHBBIHHI"
_MORE_FIELDS = "QQQI12s8sQ16s"
_CORE_BYTES, _MORE_AT, _WHOLE_BYTES = 96, 104, 176
_LOGGED_CORE, _LOGGED_MORE = struct.Struct("<" + _CORE_FIELDS), struct.Struct("<" + _MORE_FIELDS)
_PLACED_CORE, _PLACED_MORE = struct.Struct(">" + _CORE_FIELDS), struct.Struct(">" + _MORE_FIELDS)
# Where the tuples of both have what is told in another way.
_OLD_LINKS, _TIMES, _FORK_AT = 4, (11, 12, 13), 19
_LSN, _FLAGS, _PADDING, _CREATED, _NUMBER = 1, 2, 4, 5, 6
_MAGIC = 0x494E
_FLAG_BIGTIME = 0x8

_DATA, _EXTENTS, _ROOT, _DEVICE = 0x2, 0x4, 0x8, 0x10
_ATTRIBUTE_FORMS = {0x40: _DATA, 0x80: _EXTENTS, 0x100: _ROOT}
_NEW_OWNER = 0x200 | 0x400
_KNOWN = 0x7FF
# Header of a btree block in memory, and how many bytes a key and a pointer have together.
_ROOT_HEAD, _PAIR = 72, 16

_BLANK = struct.Struct(">HHB87sII")
_LSN_AT, _NUMBER_AT = 112, 152
_UNLINKED = 0xFFFFFFFF
_NEVER = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class LoggedInode:
    """An inode item.

    Attributes:
        number: of the inode.
        sector, sectors: where the buffer that holds it lies.
        offset: where it begins in that.
        fields: what was logged.
        device: number of a device node.
        core: the core as logged.
        content, attributes: the forks as logged; None if they were not.
    """

    number: int
    sector: int
    sectors: int
    offset: int
    fields: int
    device: int
    core: bytes
    content: bytes | None
    attributes: bytes | None


def parsed(item: Item) -> LoggedInode:
    """Return what an item of the log says of an inode.

    Raises:
        GuestDamaged: it contradicts itself.
        GuestUnsupported: it is of another kind of machine, or moves blocks between files.
    """
    regions = item.regions
    if len(regions) < 2 or len(regions[0]) != _FORMAT.size:
        raise GuestUnsupported("an inode of another form in the log of XFS")
    (_, _, fields, attribute_bytes, content_bytes, number, device, *where) = _FORMAT.unpack(
        regions[0]
    )
    sector, sectors, offset = where
    if fields & ~_KNOWN or fields & _NEW_OWNER:
        raise GuestUnsupported(f"the fields {fields:#x} of an inode in the log of XFS")
    if len(regions[1]) != _WHOLE_BYTES:
        raise GuestDamaged(f"the core of XFS inode {number} in the log")
    forks = list(regions[2:])
    content = attributes = None
    if fields & (_DATA | _EXTENTS | _ROOT) and forks:
        content = forks.pop(0)[:content_bytes]
    if fields & sum(_ATTRIBUTE_FORMS) and forks:
        attributes = forks.pop(0)[:attribute_bytes]
    if forks or sector < 0 or offset < 0:
        raise GuestDamaged(f"XFS inode {number} in the log")
    return LoggedInode(
        number, sector, sectors, offset, fields, device, regions[1], content, attributes
    )


def applied(logged: LoggedInode, here: bytes, lsn: int) -> bytes | None:
    """Return an inode with what was logged; None if what is in place is newer.

    Raises:
        GuestDamaged: there is no inode in place, or what was logged does not fit.
    """
    if here[:2] != b"IN" or here[4] != 3:
        raise GuestDamaged(f"there is no XFS inode {logged.number} to replay the log on")
    age = int.from_bytes(here[_LSN_AT : _LSN_AT + 8], "big")
    if age not in {0, _NEVER} and age > lsn:
        return None
    changed = bytearray(here)
    core = list(_LOGGED_CORE.unpack_from(logged.core))
    more = list(_LOGGED_MORE.unpack_from(logged.core, _MORE_AT))
    if core[0] != _MAGIC or more[_NUMBER] != logged.number:
        raise GuestDamaged(f"the core of XFS inode {logged.number} in the log")
    big = bool(more[_FLAGS] & _FLAG_BIGTIME)
    for index in _TIMES:
        core[index] = _time(core[index], big=big)
    more[_CREATED] = _time(more[_CREATED], big=big)
    core[_OLD_LINKS], more[_LSN], more[_PADDING] = 0, lsn, bytes(12)
    _PLACED_CORE.pack_into(changed, 0, *core)
    _PLACED_MORE.pack_into(changed, _MORE_AT, *more)
    apart = core[_FORK_AT] * 8
    end = _WHOLE_BYTES + apart if apart else len(here)
    if end > len(here):
        raise GuestDamaged(f"the attributes of XFS inode {logged.number} begin behind it")
    _put(changed, (_WHOLE_BYTES, end), logged.fields, logged.content)
    if logged.fields & _DEVICE:
        changed[_WHOLE_BYTES : _WHOLE_BYTES + 4] = logged.device.to_bytes(4, "big")
    if logged.attributes is not None:
        form = sum(_ATTRIBUTE_FORMS[each] for each in _ATTRIBUTE_FORMS if logged.fields & each)
        _put(changed, (end, len(here)), form, logged.attributes)
    return bytes(changed)


def blank(number: int, generation: int, uuid: bytes, size: int) -> bytes:
    """Return an inode that was made and is not in use."""
    head = _BLANK.pack(_MAGIC, 0, 3, bytes(87), generation, _UNLINKED)
    head = head.ljust(_NUMBER_AT, b"\0") + number.to_bytes(8, "big") + uuid
    return head.ljust(size, b"\0")


def _time(logged: bytes, *, big: bool) -> bytes:
    """Return a time as on disk: one number, or seconds before nanoseconds."""
    if big:
        return logged[::-1]
    return logged[3::-1] + logged[:3:-1]


def _put(inode: bytearray, bounds: tuple[int, int], form: int, logged: bytes | None) -> None:
    """Put a fork between its bounds."""
    if logged is None:
        return
    start, end = bounds
    form &= _DATA | _EXTENTS | _ROOT
    if form == _ROOT:
        logged = _root(logged, end - start)
    elif form not in {_DATA, _EXTENTS}:
        raise GuestDamaged("an inode in the log of XFS with a fork of two forms")
    if len(logged) > end - start:
        raise GuestDamaged("an inode in the log of XFS with a fork that does not fit")
    inode[start : start + len(logged)] = logged


def _root(logged: bytes, room: int) -> bytes:
    """Return the root of a btree of extents as on disk, where it has a head of 4 bytes."""
    if len(logged) < _ROOT_HEAD:
        raise GuestDamaged("the root of a btree in the log of XFS")
    level, count = struct.unpack_from(">HH", logged, 4)
    fitting, held = (room - 4) // _PAIR, (len(logged) - _ROOT_HEAD) // _PAIR
    if not level or count > min(fitting, held):
        raise GuestDamaged("the root of a btree in the log of XFS")
    placed = bytearray(4 + fitting * _PAIR)
    placed[:4] = logged[4:8]
    placed[4 : 4 + 8 * count] = logged[_ROOT_HEAD : _ROOT_HEAD + 8 * count]
    pointers = _ROOT_HEAD + 8 * held
    at = 4 + 8 * fitting
    placed[at : at + 8 * count] = logged[pointers : pointers + 8 * count]
    return bytes(placed)
