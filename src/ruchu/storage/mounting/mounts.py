"""Mounts below a directory of our own: made, recognised, taken away."""

import contextlib
import fcntl
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from ruchu import commands, errors

# A server that does not answer a mount for so long is not there; the kernel gives up later.
MOUNT_LIMIT_S = 90.0
UNMOUNT_LIMIT_S = 120.0  # what was written and is not yet there must go there first
_TABLE = Path("/proc/self/mountinfo")
# Nothing on a storage is a program, a device, or gives rights.
SAFE_OPTIONS = ("nosuid", "nodev", "noexec")
_BUSY_HINT = "Something still uses it: end that (see `lsof` on the directory), then run again."


@dataclass(frozen=True, slots=True)
class Mount:
    """A line of the kernel's table: where, of what kind, from what, and the device number."""

    point: str
    kind: str
    source: str
    device: str
    options: tuple[str, ...] = ()


def table() -> list[Mount]:
    """Return what is mounted for this process."""
    found = []
    for line in _TABLE.read_text(encoding="utf-8", errors="surrogateescape").splitlines():
        before, _, after = line.partition(" - ")
        fields, (kind, source, *more) = before.split(" "), after.split(" ")
        options = (*fields[5].split(","), *(more[0].split(",") if more else ()))
        found.append(Mount(_plain(fields[4]), kind, _plain(source), fields[2], options))
    return found


def _plain(text: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), text)


class Mounts:
    """The mounts of a state directory. Processes and threads may use it at the same time.

    Args:
        directory: below it, each storage has a directory of its name.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    def point(self, name: str) -> Path:
        """Return where the storage of that name is mounted."""
        return self.directory / name

    def find(self, name: str) -> Mount | None:
        """Return what is mounted there; the last mount is the one that is seen."""
        point = os.path.realpath(self.point(name))
        found = [mount for mount in table() if mount.point == point]
        return found[-1] if found else None

    def mount(
        self, name: str, kind: str, source: str, options: Sequence[str], expect: str = ""
    ) -> Path:
        """Mount, unless it is mounted already; return where.

        Args:
            name: of the storage.
            kind: of the file system, as `mount -t` takes it.
            source: what to mount.
            options: of `mount -o`.
            expect: the device number that must be there (of a disk); empty: the source decides.

        Raises:
            StorageGone: it cannot be mounted, or something else is mounted there.
        """
        point = self.point(name)
        with self._changing(name):
            mounted = self.find(name)
            if mounted is None:
                self._prepare(point)
                words = ["mount", "-t", kind, "-o", ",".join([*SAFE_OPTIONS, *options])]
                _run([*words, "--", source, str(point)], source)
                mounted = self.find(name)
            _require(mounted, point, source, expect)
        return point

    def unmount(self, name: str) -> None:
        """Unmount, if it is mounted, and remove the directory.

        Raises:
            StorageError: something still uses it.
        """
        point = self.point(name)
        with self._changing(name):
            while self.find(name) is not None:
                try:
                    commands.run(["umount", "--", str(point)], timeout_s=UNMOUNT_LIMIT_S)
                except errors.CommandFailed as error:
                    raise errors.StorageError(f"({error.detail})", hint=_BUSY_HINT) from error
            # Files that lie there are somebody's, and stay.
            with contextlib.suppress(OSError):
                point.rmdir()

    def _prepare(self, point: Path) -> None:
        try:
            point.mkdir(mode=0o700, exist_ok=True)
            if any(point.iterdir()):
                hint = "Look what it is, and move it away."
                raise errors.StorageError(f"({point}: files lie where the storage goes)", hint=hint)
        except OSError as error:
            raise errors.StorageError(f"({point}: {error.strerror})") from None

    @contextlib.contextmanager
    def _changing(self, name: str) -> Iterator[None]:
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            lock = os.open(self.directory / f".{name}.lock", flags, 0o600)
        except OSError as error:
            raise errors.StorageError(f"({self.directory}: {error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)


def _run(words: Sequence[str], source: str) -> None:
    try:
        commands.run(words, timeout_s=MOUNT_LIMIT_S)
    except errors.CommandFailed as error:
        hint = "Check that it is there, that this host may mount it, and what it is called."
        raise errors.StorageGone(f"({source}: {error.detail})", hint=hint) from error


def _require(mounted: Mount | None, point: Path, source: str, expect: str) -> None:
    if mounted is None:
        raise errors.StorageGone(f"({point}: {source} was mounted and is not there)")
    there = mounted.device == expect if expect else _same(mounted.source, source)
    if not there:
        hint = f"Unmount it: umount {point}"
        raise errors.StorageGone(f"({mounted.source} is mounted on {point})", hint=hint)


def _same(one: str, other: str) -> bool:
    return one.rstrip("/") == other.rstrip("/")
