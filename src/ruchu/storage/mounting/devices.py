"""Block devices: what is on one, a new file system, growing it."""

import contextlib
import json
import os
import stat
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from ruchu import commands, errors, units

# Reading signatures takes a moment; a disk that fails may take long to say so.
LOOK_LIMIT_S = 60.0
FORMAT_LIMIT_S = 1800.0  # a large disk whose whole surface is discarded first
GROW_LIMIT_S = 3600.0
FILE_SYSTEMS = ("ext4", "xfs")
# Something is there that no tool knows, if the ends of a device are not empty.
_EDGE_BYTES = units.MIB
# mkfs.xfs makes none smaller; less is no storage anyway.
SIZE_MIN = 300 * units.MIB
_SYSFS = Path("/sys/class/block")


@dataclass(frozen=True, slots=True)
class Contents:
    """What is on a device.

    Attributes:
        size: in bytes.
        signatures: what the beginnings of file systems, partition tables, LVM, LUKS, RAID say.
        unknown: there are bytes that no tool knows.
        used_by: what uses the device now; empty if nothing does.
    """

    size: int
    signatures: tuple[str, ...] = ()
    unknown: bool = False
    used_by: str = ""

    @property
    def empty(self) -> bool:
        """Whether nothing would be lost."""
        return not (self.signatures or self.unknown or self.used_by)

    def __str__(self) -> str:
        found = [*self.signatures, *(["data that nothing recognises"] if self.unknown else [])]
        used = f", used by {self.used_by}" if self.used_by else ""
        return f"{', '.join(found) or 'nothing'}{used}"


def number_of(path: str) -> str:
    """Return the device number, as the kernel's table of mounts has it.

    Raises:
        StorageGone: it is not there, or no block device.
    """
    try:
        status = Path(path).stat()
    except OSError as error:
        raise errors.StorageGone(f"({path}: {error.strerror})") from None
    if not stat.S_ISBLK(status.st_mode):
        raise errors.StorageGone(f"({path} is no block device)")
    return f"{os.major(status.st_rdev)}:{os.minor(status.st_rdev)}"


def inspect(path: str) -> Contents:
    """Return what is on a device; it is only read.

    Raises:
        StorageGone: it is not there, or no block device.
        CommandFailed: wipefs failed.
    """
    number_of(path)
    used = _used_by(path)
    with _opened(path) as device:
        size = os.lseek(device, 0, os.SEEK_END)
        edges = os.pread(device, _EDGE_BYTES, 0)
        edges += os.pread(device, _EDGE_BYTES, max(0, size - _EDGE_BYTES))
    said = commands.run(["wipefs", "--json", "--", path], timeout_s=LOOK_LIMIT_S).text
    found = json.loads(said or "{}").get("signatures", [])
    signatures = tuple(dict.fromkeys(str(each.get("type")) for each in found))
    return Contents(size, signatures, not signatures and any(edges), used)


@contextlib.contextmanager
def _opened(path: str) -> Iterator[int]:
    try:
        device = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise errors.StorageGone(f"({path}: {error.strerror})") from None
    try:
        yield device
    finally:
        os.close(device)


def _used_by(path: str) -> str:
    folder = _SYSFS / _name_of(path)
    holders = sorted(each.name for each in folder.glob("holders/*"))
    partitions = sorted(each.parent.name for each in folder.glob("*/partition"))
    users = [*holders, *(f"partition {each}" for each in partitions)]
    try:
        # The kernel refuses this while the device is mounted or part of something else.
        os.close(os.open(path, os.O_RDONLY | os.O_EXCL | os.O_CLOEXEC))
    except OSError:
        users = users or ["a mount or another program"]
    return ", ".join(users)


def make_file_system(path: str, kind: str, identity: bytes, *, erase: bool) -> str:
    """Make a new file system; return its UUID.

    Args:
        path: the device.
        kind: one of `FILE_SYSTEMS`.
        identity: 16 random bytes that become the UUID.
        erase: what is there may go. It is never done to a device that is in use.

    Raises:
        ForeignDirectory: something is there, and `erase` is not given.
        StorageError: the device is in use, too small, or the maker failed.
    """
    contents = inspect(path)
    if contents.used_by:
        raise errors.StorageError(f"({path} is in use: {contents.used_by})")
    if contents.size < SIZE_MIN:
        raise errors.StorageError(f"({path} has {units.format_size(contents.size)} only)")
    if not contents.empty and not erase:
        hint = "If all of it may go, say so by its name: --erase " + path
        raise errors.ForeignDirectory(f"({path} holds: {contents})", hint=hint)
    label = str(uuid.UUID(bytes=identity, version=4))
    make = {
        # No blocks for root alone: the reserve of a storage is its own affair.
        "ext4": ["mkfs.ext4", "-q", "-F", "-m", "0", "-U", label, path],
        "xfs": ["mkfs.xfs", "-q", "-f", "-m", f"uuid={label}", path],
    }[kind]
    try:
        commands.run(["wipefs", "--all", "--quiet", "--", path], timeout_s=LOOK_LIMIT_S)
        commands.run(make, timeout_s=FORMAT_LIMIT_S)
    except errors.CommandFailed as error:
        raise errors.StorageError(f"({error.detail})") from error
    return label


def file_system_of(path: str) -> tuple[str, str]:
    """Return kind and UUID of the file system on a device, empty if there is none."""
    words = ["blkid", "-p", "-o", "export", "--", path]
    said = commands.run(words, timeout_s=LOOK_LIMIT_S, check=False).text
    fields = dict(line.split("=", 1) for line in said.splitlines() if "=" in line)
    return fields.get("TYPE", ""), fields.get("UUID", "")


def find(path: str, label: str) -> str:
    """Return the device with the file system of that UUID: `path`, or what it is called today.

    Raises:
        StorageGone: it is not there.
    """
    if Path(path).exists() and (not label or file_system_of(path)[1] == label):
        return path
    if label:
        # Without the cache of an earlier time: after a reboot disks may have other names.
        words = ["blkid", "-c", "/dev/null", "-o", "device", "-t", f"UUID={label}"]
        found = commands.run(words, timeout_s=LOOK_LIMIT_S, check=False).text.split()
        if found:
            return found[0]
    raise errors.StorageGone(f"({path}: no such device, or another file system is on it)")


def grow(path: str, kind: str, point: Path) -> tuple[int, int]:
    """Grow a mounted file system to the size of its device; return bytes before and after.

    Raises:
        StorageError: it did not work; what is stored is untouched.
    """
    before = _size_of(point)
    _rescan(path)
    words = ["resize2fs", path] if kind == "ext4" else ["xfs_growfs", str(point)]
    try:
        commands.run(words, timeout_s=GROW_LIMIT_S)
    except errors.CommandFailed as error:
        raise errors.StorageError(f"({error.detail})") from error
    return before, _size_of(point)


def _rescan(path: str) -> None:
    """Ask a SCSI disk for its size of today; other devices tell by themselves."""
    rescan = _SYSFS / _name_of(path) / "device" / "rescan"
    if rescan.exists():
        rescan.write_text("1")


def _name_of(path: str) -> str:
    """Return what the kernel calls a device, whatever links lead to it."""
    return Path(path).resolve().name


def _size_of(point: Path) -> int:
    room = os.statvfs(point)
    return room.f_blocks * room.f_frsize
