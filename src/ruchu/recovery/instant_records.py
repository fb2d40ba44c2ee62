"""What is known of each instant restore: a document of its own, so that a restart finds it.

The document is the first thing that a start writes and the last one that an end removes. A lock
file beside it keeps two commands from working on one instant restore at once.
"""

import contextlib
import fcntl
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ruchu.errors import (
    AlreadyExists,
    ExportError,
    InvalidName,
    NotFound,
    SourceBusy,
    StorageError,
    UsageError,
)
from ruchu.model.ids import is_id
from ruchu.model.machines import ServedDisk

FORMAT, VERSION = "ruchu-instant", 1
DOCUMENT_BYTES_MAX = 1 << 20
PREFIX_MIN = 4
# sun_path of unix(7) has 108 bytes with the zero at its end.
SOCKET_PATH_MAX = 107
# In the state directory.
FOLDER = "instants"
_DOCUMENT, _LOCK = "instant.json", "lock"
# Keys become names of files; they come out of a backup.
_KEY = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")


@dataclass(frozen=True, slots=True)
class Instant:
    """An instant restore.

    Attributes:
        id: its identity.
        state: `starting`, `running`, `moved` (it runs from own disks, and is to be tidied up).
        point, storage: what it runs from.
        platform: name of the platform.
        machine, name: id (empty before it is defined) and name of the machine there.
        protocol: `nbd` or `nfs`.
        host: NFS: the address that is served on.
        clients: NFS: networks that may connect.
        disks: keys, in the order of the machine.
        cache: directory of the write caches, of this instant restore alone.
        runtime: directory of its sockets, which a restart of the host empties.
        created: when, RFC 3339.
    """

    id: str
    state: str
    point: str
    storage: str
    platform: str
    machine: str
    name: str
    protocol: str
    host: str
    clients: tuple[str, ...]
    disks: tuple[str, ...]
    cache: str
    runtime: str
    created: str

    def cache_of(self, key: str) -> Path:
        """Return the path of the write cache of a disk."""
        return Path(self.cache) / f"{key}.cache"

    @property
    def token(self) -> str:
        """What names its migration on the platform."""
        return self.id[:16]

    @property
    def export(self) -> str:
        """The path that NFS serves; nobody guesses it."""
        return f"/ruchu-{self.id}"


class Instants:
    """The instant restores of a state directory, and where the sockets of new ones go."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory.absolute()
        self._runtime = runtime.absolute()

    def all(self) -> list[Instant]:
        """Return all, the oldest first."""
        return sorted(self._found(), key=lambda each: each.created)

    def find(self, prefix: str) -> Instant:
        """Return the one whose id begins with a prefix, or whose machine has that name.

        Raises:
            NotFound: there is none, or there are several.
        """
        known = self.all()
        found = [each for each in known if each.name == prefix]
        if not found and len(prefix) >= PREFIX_MIN:
            found = [each for each in known if each.id.startswith(prefix)]
        if len(found) != 1:
            hint = "See `ruchu instant list`."
            raise NotFound(f"(instant restore {prefix!r}: {len(found)} match)", hint=hint)
        return found[0]

    def get(self, identity: str) -> Instant:
        """Return one by its whole id, as it is now.

        Raises:
            NotFound: it has ended.
        """
        path = self.directory / identity / _DOCUMENT
        if not is_id(identity) or not path.exists():
            raise NotFound(f"(instant restore {identity[:8]} has ended)")
        return _read(path)

    def folder(self, instant: Instant) -> Path:
        """Return the directory of an instant restore."""
        return self.directory / instant.id

    def runtime_of(self, identity: str) -> str:
        """Return the directory for the sockets of a new instant restore."""
        return str(self._runtime / identity[:16])

    def cache_for(self, identity: str, directory: str) -> str:
        """Return the directory for the write caches of a new instant restore, its own alone."""
        if not directory:
            return str(self.directory / identity / "cache")
        return str(Path(directory).absolute() / f"ruchu-{identity}")

    def control(self, instant: Instant) -> Path:
        """Return the control socket of its export."""
        return Path(instant.runtime) / "control.sock"

    def nbd(self, instant: Instant) -> Path:
        """Return the socket on which its disks are served over NBD, whatever else they are."""
        return Path(instant.runtime) / "disks" / "disks.sock"

    def served(self, instant: Instant) -> tuple[ServedDisk, ...]:
        """Return how the hypervisor reaches its disks."""
        if instant.protocol == "nfs":
            return tuple(
                ServedDisk(key, "nfs", f"{instant.export}/{key}.raw", host=instant.host)
                for key in instant.disks
            )
        socket = str(self.nbd(instant))
        return tuple(ServedDisk(key, "nbd", key, socket=socket) for key in instant.disks)

    def add(self, instant: Instant) -> Instant:
        """Write the document of a new instant restore.

        Raises:
            AlreadyExists: one of that name runs on that platform.
            InvalidName: a disk has a name that cannot be one of a file.
            UsageError: the path of its sockets is too long.
            StorageError: it could not be written.
        """
        for key in instant.disks:
            if not _KEY.fullmatch(key):
                raise InvalidName(f"(disk {key[:80]!r})")
        if len(os.fsencode(self.nbd(instant))) > SOCKET_PATH_MAX:
            hint = "Give a shorter directory for sockets: RUCHU_RUNTIME."
            raise UsageError(f"({self.nbd(instant)}: too long for a socket)", hint=hint)
        with _reporting():
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(self.directory / _LOCK, wait=True):
            for other in self.all():
                if (other.platform, other.name) == (instant.platform, instant.name):
                    hint = "Give it another name: --as NAME. Or end that one: `ruchu instant stop`."
                    raise AlreadyExists(f"(instant restore {other.name})", hint=hint)
            with _reporting():
                self._remove_unfinished()
                self.folder(instant).mkdir(mode=0o700)
                _sync(self.directory)
            return self.store(instant)

    @contextlib.contextmanager
    def exclusive(self, instant: Instant) -> Iterator[Instant]:
        """Keep other commands from an instant restore; yield it as it is now.

        Raises:
            NotFound: it has ended.
            SourceBusy: another command works on it.
        """
        self.get(instant.id)
        with _locked(self.folder(instant) / _LOCK, wait=False):
            yield self.get(instant.id)

    def prepare(self, instant: Instant) -> None:
        """Make the directories of an instant restore; QEMU may pass through to the disks.

        Raises:
            ExportError: somebody else owns the directory for sockets.
            StorageError: they could not be made.
        """
        disks = self.nbd(instant).parent
        runtime = Path(instant.runtime)
        with _reporting():
            cache = Path(instant.cache)
            cache.mkdir(mode=0o700, parents=True, exist_ok=True)
            _sync(cache.parent)
            runtime.parent.mkdir(mode=0o711, parents=True, exist_ok=True)
            found = runtime.parent.lstat()
            if found.st_uid not in {0, os.getuid()} or runtime.parent.is_symlink():
                raise ExportError(f"({runtime.parent} belongs to somebody else)")
            runtime.mkdir(mode=0o711, exist_ok=True)
            disks.mkdir(mode=0o700, exist_ok=True)
            # An earlier export gave it away to QEMU's user.
            os.chown(disks, os.getuid(), os.getgid())

    def store(self, instant: Instant) -> Instant:
        """Write the document of an instant restore, durably; return the instant."""
        path = self.folder(instant) / _DOCUMENT
        value = {"format": FORMAT, "version": VERSION, **asdict(instant)}
        store_document(path, value)
        return instant

    def change(self, instant: Instant, **changes: Any) -> Instant:
        """Write and return an instant restore with some things changed."""
        return self.store(replace(instant, **changes))

    def remove(self, instant: Instant) -> None:
        """Remove an instant restore with its write caches; the document goes last."""
        with _reporting():
            for key in instant.disks:
                with contextlib.suppress(FileNotFoundError, NotADirectoryError):
                    instant.cache_of(key).unlink()
            # What NFS clients created beside the disks.
            shutil.rmtree(Path(instant.cache) / ".nfs", ignore_errors=True)
            with contextlib.suppress(OSError):  # somebody put files of his own there
                Path(instant.cache).rmdir()
            shutil.rmtree(instant.runtime, ignore_errors=True)
            folder = self.folder(instant)
            for each in folder.iterdir():
                if each.is_dir():
                    shutil.rmtree(each)
                elif each.name not in {_DOCUMENT, _LOCK}:
                    each.unlink()
            (folder / _DOCUMENT).unlink()
            # Somebody who waits may make the lock anew: the next start removes it then.
            shutil.rmtree(folder, ignore_errors=True)

    def _remove_unfinished(self) -> None:
        """Remove folders without a document: nothing was begun from them."""
        for folder in self.directory.iterdir():
            if is_id(folder.name) and not (folder / _DOCUMENT).exists():
                shutil.rmtree(folder, ignore_errors=True)

    def _found(self) -> Iterator[Instant]:
        if not self.directory.is_dir():
            return
        for folder in self.directory.iterdir():
            path = folder / _DOCUMENT
            # A folder without a document is of a start that ended before anything was begun.
            if is_id(folder.name) and path.exists():
                # It may end between the look and the reading.
                with contextlib.suppress(NotFound):
                    yield _read(path)


def needed(directory: Path) -> Callable[[], dict[str, str]]:
    """Return what tells the points that instant restores in a directory need, and for which.

    Their exports hold leases; this is for the time when one has died.
    """

    def found() -> dict[str, str]:
        known = Instants(directory, directory).all()
        return {
            each.point: f"instant restore {each.name}" for each in known if each.state != "moved"
        }

    return found


def _read(path: Path) -> Instant:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(DOCUMENT_BYTES_MAX))
        right = value.pop("format") == FORMAT and value.pop("version") == VERSION
        instant = Instant(
            **{**value, "disks": tuple(value["disks"]), "clients": tuple(value["clients"])}
        )
    except FileNotFoundError:
        raise NotFound(f"(instant restore {path.parent.name[:8]} has ended)") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"({path} is not what Ruchu wrote: {error})") from None
    if not right or instant.id != path.parent.name:
        raise UsageError(f"({path} is not what Ruchu wrote)")
    return instant


def store_document(path: Path, value: dict[str, Any]) -> None:
    """Write a document durably, whole or not at all.

    Raises:
        StorageError: it could not be; what was there before stays.
    """
    temporary = path.with_suffix(".partial")
    with _reporting():
        with temporary.open("w") as file:
            json.dump(value, file, indent=1, sort_keys=True)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        _sync(path.parent)


@contextlib.contextmanager
def _locked(path: Path, *, wait: bool) -> Iterator[None]:
    with _reporting():
        flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
        descriptor = os.open(path, flags, 0o600)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            hint = "Wait for the other `ruchu instant` command to end."
            raise SourceBusy("(of this instant restore)", hint=hint) from None
        yield
    finally:
        os.close(descriptor)


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def _reporting() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"({error.filename}: {error.strerror})") from None
