"""A tar stream in the pax format, with extended attributes as GNU tar, star and libarchive keep them.

Sources: POSIX.1-2017, pax, "ustar Interchange Format" and "pax Extended Header"; `SCHILY.xattr.` of
star(5). ACLs are there twice, as attributes and as text (`SCHILY.acl.`): each of those programs
takes one of the two. Records hold raw bytes, as those programs write them: a name of a guest need not be UTF-8.
"""

import struct
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

from ruchu.guests.contract import NodeKind, Stat

Write = Callable[[bytes | memoryview], None]

_BLOCK = 512
_END_BYTES = 20 * _BLOCK
"""An archive is written in records of 20 blocks; two blocks of zeros end it."""
_NAME, _PREFIX_NUMBER, _SIZE_MAX = 100, 0o7777777, 0o77777777777
_NS = 1_000_000_000
LINK = b"1"
_ACLS = {
    "system.posix_acl_access": b"SCHILY.acl.access",
    "system.posix_acl_default": b"SCHILY.acl.default",
}
# As in linux/posix_acl_xattr.h: a version, then tag, permissions and number of each entry.
_ACL_VERSION, _ACL_ENTRY = struct.Struct("<I"), struct.Struct("<HHI")
_ACL_TAGS = {1: b"user", 2: b"user", 4: b"group", 8: b"group", 16: b"mask", 32: b"other"}
_ACL_NUMBERED = {2, 8}
TYPES = {
    NodeKind.FILE: b"0",
    NodeKind.SYMLINK: b"2",
    NodeKind.CHARACTER_DEVICE: b"3",
    NodeKind.BLOCK_DEVICE: b"4",
    NodeKind.DIRECTORY: b"5",
    NodeKind.FIFO: b"6",
}


@dataclass(frozen=True, slots=True)
class Member:
    """What a header says: path, type, bytes of content that follow, target, attributes."""

    name: bytes
    type: bytes
    stat: Stat
    size: int = 0
    target: bytes = b""
    xattrs: Mapping[str, bytes] = field(default_factory=dict)


class TarStream:
    """Writes members one after the other. For one thread."""

    def __init__(self, write: Write) -> None:
        self._write = write
        self._written = 0

    def add(self, member: Member, content: Iterable[bytes | memoryview] = ()) -> None:
        """Write a member; the content must be as long as it says."""
        records = _records(member)
        if records:
            head = Member(
                b"PaxHeaders/" + member.name[-80:], b"x", Stat(NodeKind.FILE, 0, 0, 0o644)
            )
            self._put(_header(head, len(records)))
            self._put(records)
            self._pad()
        self._put(_header(member, member.size))
        begin = self._written
        for piece in content:
            self._put(piece)
        assert self._written - begin == member.size
        self._pad()

    def finish(self) -> None:
        """Write the end."""
        self._put(bytes(2 * _BLOCK))
        self._put(bytes(-self._written % _END_BYTES))

    def _put(self, piece: bytes | memoryview) -> None:
        self._write(piece)
        self._written += len(piece)

    def _pad(self) -> None:
        self._put(bytes(-self._written % _BLOCK))


def _header(member: Member, size: int) -> bytes:
    stat = member.stat
    major, minor = stat.device if member.type in {b"3", b"4"} else (0, 0)
    raw = bytearray(_BLOCK)
    fields = (
        (0, _cut(member.name)),
        (100, _octal(stat.mode & 0o7777, 8)),
        (108, _octal(stat.owner, 8)),
        (116, _octal(stat.group, 8)),
        (124, _octal(size, 12)),
        (136, _octal(stat.modified // _NS, 12)),
        (148, b" " * 8),
        (156, member.type),
        (157, _cut(member.target)),
        (257, b"ustar\x0000"),
        (329, _octal(major, 8)),
        (337, _octal(minor, 8)),
    )
    for at, value in fields:
        raw[at : at + len(value)] = value
    raw[148:156] = b"%06o\0 " % sum(raw)
    return bytes(raw)


def _cut(text: bytes) -> bytes:
    """Return what of a text fits; where that is not all, a record holds the whole."""
    return text[:_NAME]


def _octal(number: int, width: int) -> bytes:
    """Return a number if it fits, else zero: then a record holds it."""
    digits = width - 1
    fits = 0 <= number < 1 << 3 * digits
    return b"%0*o\0" % (digits, number if fits else 0)


def _records(member: Member) -> bytes:
    """Return the records of what a header cannot hold."""
    stat = member.stat
    found: list[tuple[bytes, bytes]] = []
    if _needs_record(member.name):
        found.append((b"path", member.name))
    if _needs_record(member.target):
        found.append((b"linkpath", member.target))
    numbers = ((b"uid", stat.owner, _PREFIX_NUMBER), (b"gid", stat.group, _PREFIX_NUMBER))
    for key, number, most in (*numbers, (b"size", member.size, _SIZE_MAX)):
        if number > most:
            found.append((key, b"%d" % number))
    if member.type != LINK:
        found.append((b"mtime", _seconds(stat.modified)))
        if stat.accessed:
            found.append((b"atime", _seconds(stat.accessed)))
        for name, value in member.xattrs.items():
            key = name.encode("utf-8", "surrogateescape")
            # A sign of equality ends the key, so no key can have one.
            if b"=" not in key:
                found.append((b"SCHILY.xattr." + key, value))
            if name in _ACLS and (text := acl_text(value)):
                found.append((_ACLS[name], text))
    return b"".join(_record(key, value) for key, value in found)


def _needs_record(text: bytes) -> bool:
    return len(text) > _NAME or not text.isascii()


def _record(key: bytes, value: bytes) -> bytes:
    # A record begins with its own length, the digits of that included.
    rest = len(key) + len(value) + 3
    length = rest + len(str(rest))
    length = rest + len(str(length))
    return b"%d %s=%s\n" % (length, key, value)


def _seconds(nanoseconds: int) -> bytes:
    sign = b"-" if nanoseconds < 0 else b""
    whole, part = divmod(abs(nanoseconds), _NS)
    return sign + b"%d" % whole + (b".%09d" % part if part else b"")


def acl_text(raw: bytes) -> bytes:
    """Return an ACL in the form of acl(5); empty if it is none."""
    body = raw[_ACL_VERSION.size :]
    if raw[: _ACL_VERSION.size] != _ACL_VERSION.pack(2) or len(body) % _ACL_ENTRY.size:
        return b""
    entries = []
    for tag, rights, number in _ACL_ENTRY.iter_unpack(body):
        if tag not in _ACL_TAGS:
            return b""
        who = b"%d" % number if tag in _ACL_NUMBERED else b""
        letters = bytes(
            letter if rights & bit else 0x2D for letter, bit in zip(b"rwx", (4, 2, 1), strict=True)
        )
        entries.append(b":".join((_ACL_TAGS[tag], who, letters)))
    return b",".join(entries)
