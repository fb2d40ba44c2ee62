"""`$LogFile`: whether the volume was left in order.

Only the two restart pages at its beginning are read; nothing is replayed. Sources: the Linux-NTFS
documentation, `$LogFile`. No Windows was at hand when this was written: logs that ntfs-3g and
mkntfs leave were seen, what Windows leaves is known from that documentation.
"""

import struct
from dataclasses import dataclass

from ruchu.errors import GuestDamaged
from ruchu.guests.ntfs import fixups
from ruchu.guests.ntfs.streams import Layout, StreamReader

_PAGE_HEAD = struct.Struct("<16xIIHhH")
_AREA = struct.Struct("<QHHHH")
_PAGE_MAX = 64 << 10
_NO_CLIENT = 0xFFFF
_VOLUME_IS_CLEAN = 0x0002
_LEAST = 4096


@dataclass(frozen=True, slots=True)
class _Restart:
    sequence: int
    client: int
    flags: int


def trouble(streams: StreamReader, log: Layout) -> str:
    """Return why the log holds changes that may not be in place; empty if it does not.

    Raises:
        GuestDamaged: the log is not where it says.
        GuestUnsupported: its content cannot be read.
    """
    if log.size < 2 * _LEAST or log.initialised < 2 * _LEAST:
        return "the NTFS log is too short to be one"
    first = streams.read(log, 0, _LEAST)
    if not first.strip(b"\xff"):
        # Emptied by ntfs-3g, or never used: nothing can be pending, if all of the start is so.
        second = streams.read(log, _LEAST, _LEAST)
        return "the NTFS log is damaged" if second.strip(b"\xff") else ""
    page = _page_size(first) or _page_size(streams.read(log, _LEAST, _LEAST)) or _LEAST
    found = []
    for start in (0, page):
        if start + page <= log.initialised:
            restart = _restart(streams.read(log, start, page))
            if restart is not None:
                found.append(restart)
    if not found:
        return "the NTFS log has no restart page that is understood"
    newest = max(found, key=lambda restart: restart.sequence)
    if newest.flags & _VOLUME_IS_CLEAN or newest.client == _NO_CLIENT:
        return ""
    return "the NTFS log is in use: Windows was running, crashed, or is hibernated"


def _page_size(head: bytes) -> int:
    if head[:4] != b"RSTR":
        return 0
    size = int(_PAGE_HEAD.unpack_from(head)[0])
    valid = _LEAST <= size <= _PAGE_MAX and not size & (size - 1)
    return size if valid else 0


def _restart(raw: bytes) -> _Restart | None:
    """Return what a restart page tells; None if it is none, torn, or of an unknown version."""
    if raw[:4] != b"RSTR":
        return None
    try:
        page = fixups.undone(raw, "a restart page")
    except GuestDamaged:
        return None
    size, _, area, _, major = _PAGE_HEAD.unpack_from(page)
    # Version 2 (Windows 8 and later, while mounted) begins in the same way.
    if size != len(raw) or major not in {0, 1, 2} or area + _AREA.size > len(page):
        return None
    sequence, _, _, client, flags = _AREA.unpack_from(page, area)
    return _Restart(sequence, client, flags)
