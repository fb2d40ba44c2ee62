"""Reparse points: links, junctions, and files whose content is somewhere else.

Sources: MS-FSCC 2.1.2 (tags and data). The system files by which Interix (and ntfs-3g, unless told
otherwise) keeps links and devices: ntfs-3g's manual, `Special files`.
"""

import struct

from ruchu.errors import GuestDamaged
from ruchu.guests.contract import NodeKind

MOUNT_POINT, SYMLINK = 0xA0000003, 0xA000000C
WOF = 0x80000017
"""Windows Overlay Filter: compressed by XPRESS or LZX (`compact /exe`), or in a WIM."""
_AF_UNIX, _LX_FIFO, _LX_CHR, _LX_BLK, _LX_SYMLINK = (
    0x80000023,
    0x80000024,
    0x80000025,
    0x80000026,
    0xA000001D,
)
_HSM, _HSM2, _SIS, _DEDUP = 0xC0000004, 0x80000006, 0x80000007, 0x80000013

ELSEWHERE = {
    _DEDUP: "deduplicated by Windows Server: its content is in the chunk store",
    _HSM: "moved to other storage (HSM)",
    _HSM2: "moved to other storage (HSM)",
    _SIS: "kept in the single instance store",
}
"""What the content that the node seems to have is not its content."""

_KINDS = {
    MOUNT_POINT: NodeKind.SYMLINK,
    SYMLINK: NodeKind.SYMLINK,
    _LX_SYMLINK: NodeKind.SYMLINK,
    _AF_UNIX: NodeKind.SOCKET,
    _LX_FIFO: NodeKind.FIFO,
    _LX_CHR: NodeKind.CHARACTER_DEVICE,
    _LX_BLK: NodeKind.BLOCK_DEVICE,
}
_INTERIX = {
    b"IntxLNK\1": NodeKind.SYMLINK,
    b"IntxCHR\0": NodeKind.CHARACTER_DEVICE,
    b"IntxBLK\0": NodeKind.BLOCK_DEVICE,
}
_INTERIX_HEAD = 8
INTERIX_BYTES_MAX = 8 + 2 * 4096
"""The longest link that Interix knows."""

_HEAD = struct.Struct("<IHxx")
_NAMES = struct.Struct("<HHHH")
_DEVICE = struct.Struct("<8xQQ")


def tag_of(data: bytes) -> int:
    """Return the tag of reparse data; 0 if it is too short."""
    return int.from_bytes(data[:4], "little") if len(data) >= _HEAD.size else 0


def kind(tag: int, *, directory: bool) -> NodeKind:
    """Return what a node with this tag is; tags that are not known change nothing."""
    return _KINDS.get(tag, NodeKind.DIRECTORY if directory else NodeKind.FILE)


def target(data: bytes) -> bytes:
    r"""Return the target of a link or junction, as UTF-8.

    The name meant for people is taken; where it is empty, the one meant for Windows, without its
    `\??\` and with `\??\UNC\` as `\\`. Backslashes become slashes. Drive letters stay (`C:/Users`):
    which volume they mean is known to the registry of the guest alone.

    Raises:
        GuestDamaged: the names are not inside the data, or it is no link.
    """
    tag, length = _HEAD.unpack_from(data) if len(data) >= _HEAD.size else (0, 0)
    body = data[_HEAD.size : _HEAD.size + length]
    if tag == _LX_SYMLINK:
        return body[4:]
    skip = {MOUNT_POINT: 8, SYMLINK: 12}.get(tag, 0)
    if not skip or len(body) < skip:
        raise GuestDamaged("(a reparse point is no link)")
    there_at, there, shown_at, shown = _NAMES.unpack_from(body)
    names = body[skip:]
    if max(there_at + there, shown_at + shown) > len(names):
        raise GuestDamaged("(the target of a link is outside it)")
    name = _text(names[shown_at : shown_at + shown])
    return (name or _plain(_text(names[there_at : there_at + there]))).replace(b"\\", b"/")


def interix_kind(head: bytes) -> NodeKind:
    """Return what a system file is, from how it begins."""
    return _INTERIX.get(head[:_INTERIX_HEAD], NodeKind.FILE)


def interix_target(content: bytes) -> bytes:
    """Return the target of a link of Interix."""
    return _text(content[_INTERIX_HEAD:])


def interix_device(content: bytes) -> tuple[int, int]:
    """Return major and minor of a device of Interix; zeros if they are not there."""
    if len(content) < _DEVICE.size:
        return 0, 0
    major, minor = _DEVICE.unpack_from(content)
    return major, minor


def _plain(name: bytes) -> bytes:
    if name.upper().startswith(b"\\??\\UNC\\"):
        return b"\\\\" + name[8:]
    return name.removeprefix(b"\\??\\")


def _text(packed: bytes) -> bytes:
    whole = packed[: len(packed) // 2 * 2]
    return whole.decode("utf-16-le", "surrogatepass").encode("utf-8", "surrogatepass")
