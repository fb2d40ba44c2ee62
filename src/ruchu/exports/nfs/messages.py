"""NFS version 3 (RFC 1813) as numbers and bytes: no I/O and no state."""

import errno
import struct
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from ruchu.errors import RuchuError, StorageFull, StorageReadOnly
from ruchu.exports.nfs.xdr import FALSE, TRUE, U32, Reader, XdrError, opaque
from ruchu.units import KIB, MIB

PROGRAM: Final = 100003
VERSION: Final = 3

# What every client takes; larger ones are rare, and each costs memory on both sides.
TRANSFER_MAX: Final = 1 * MIB
LISTING_PREFERRED: Final = 64 * KIB
HANDLE_MAX: Final = 64
HANDLE_SIZE: Final = 32
VERIFIER_SIZE: Final = 8
FILE_SIZE_MAX: Final = (1 << 63) - 1

REGULAR: Final = 1
DIRECTORY: Final = 2

ACCESS_READ: Final = 0x01
ACCESS_LOOKUP: Final = 0x02
ACCESS_MODIFY: Final = 0x04
ACCESS_EXTEND: Final = 0x08
ACCESS_DELETE: Final = 0x10

UNSTABLE: Final = 0
DATA_SYNC: Final = 1
FILE_SYNC: Final = 2

UNCHECKED: Final = 0
GUARDED: Final = 1
EXCLUSIVE: Final = 2

# FSINFO: all files of a directory have the same PATHCONF, and times can be set.
PROPERTIES: Final = 0x08 | 0x10


class Status(IntEnum):
    """Status of a reply (RFC 1813, section 2.6)."""

    OK = 0
    PERM = 1
    NOENT = 2
    IO = 5
    DENIED = 13
    EXIST = 17
    NOTDIR = 20
    ISDIR = 21
    INVAL = 22
    FBIG = 27
    NOSPC = 28
    ROFS = 30
    NAMETOOLONG = 63
    NOTEMPTY = 66
    DQUOT = 69
    STALE = 70
    BADHANDLE = 10001
    NOT_SYNC = 10002
    BAD_COOKIE = 10003
    NOTSUPP = 10004
    TOOSMALL = 10005
    SERVERFAULT = 10006
    BADTYPE = 10007


_STATUS_OF_ERRNO = {
    errno.ENOSPC: Status.NOSPC,
    errno.EDQUOT: Status.DQUOT,
    errno.EROFS: Status.ROFS,
    errno.EFBIG: Status.FBIG,
}


class Refused(Exception):
    """A call is answered with a status that is not OK."""

    def __init__(self, status: Status) -> None:
        super().__init__(status.name)
        self.status = status


def status_of(error: Exception) -> Status:
    """Return how an error of a device or of this host is told to a client."""
    if isinstance(error, Refused):
        return error.status
    if isinstance(error, StorageFull):
        return Status.NOSPC
    if isinstance(error, StorageReadOnly):
        return Status.ROFS
    if isinstance(error, OSError):
        return _STATUS_OF_ERRNO.get(error.errno or 0, Status.IO)
    return Status.IO if isinstance(error, RuchuError) else Status.SERVERFAULT


_ATTRIBUTES = struct.Struct(">5I2Q2I2Q6I")


@dataclass(slots=True)
class Attributes:
    """Attributes of a file (fattr3). Times are nanoseconds since 1970, UTC."""

    kind: int
    mode: int
    owner: int
    group: int
    size: int
    filesystem: int
    file_id: int
    accessed: int
    modified: int
    changed: int

    def pack(self) -> bytes:
        """Return them as fattr3."""
        links = 2 if self.kind == DIRECTORY else 1
        times = [
            part
            for moment in (self.accessed, self.modified, self.changed)
            for part in divmod(moment, 1_000_000_000)
        ]
        head = (self.kind, self.mode, links, self.owner, self.group, self.size, self.size, 0, 0)
        return _ATTRIBUTES.pack(*head, self.filesystem, self.file_id, *times)


@dataclass(frozen=True, slots=True)
class NewAttributes:
    """What a client wants to set (sattr3); None leaves it. Times: see `Attributes`.

    A time of -1 is the time of the server.
    """

    mode: int | None = None
    owner: int | None = None
    group: int | None = None
    size: int | None = None
    accessed: int | None = None
    modified: int | None = None


def read_new_attributes(reader: Reader) -> NewAttributes:
    """Take a sattr3."""
    mode = reader.u32() if reader.flag() else None
    owner = reader.u32() if reader.flag() else None
    group = reader.u32() if reader.flag() else None
    size = reader.u64() if reader.flag() else None
    return NewAttributes(mode, owner, group, size, _read_time(reader), _read_time(reader))


def _read_time(reader: Reader) -> int | None:
    how = reader.u32()
    if how == 0:
        return None
    if how == 1:
        return -1
    if how == 2:
        return read_moment(reader)
    raise XdrError(f"a way {how} to set a time")


def read_moment(reader: Reader) -> int:
    """Take an nfstime3, as nanoseconds."""
    return reader.u32() * 1_000_000_000 + reader.u32() % 1_000_000_000


def changed_only(after: bytes) -> bytes:
    """Return wcc_data that names no attributes from before."""
    return FALSE + after


def created(handle: bytes, attributes: bytes, directory: bytes) -> bytes:
    """Return the result of CREATE and MKDIR; the last two are post_op_attr."""
    return U32.pack(Status.OK) + TRUE + opaque(handle) + attributes + changed_only(directory)
