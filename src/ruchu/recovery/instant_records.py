"""What is known of each instant restore: a document of its own, so that a restart finds it."""

import json
import os
import shutil
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from ruchu.errors import NotFound, StorageError, UsageError
from ruchu.model.ids import is_id
from ruchu.model.machines import ServedDisk

FORMAT, VERSION = "ruchu-instant", 1
DOCUMENT_BYTES_MAX = 1 << 20
PREFIX_MIN = 4
_DOCUMENT = "instant.json"


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
        cache: directory of the write caches.
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
    created: str

    def cache_of(self, key: str) -> Path:
        """Return the path of the write cache of a disk."""
        return Path(self.cache) / f"{key}.cache"

    @property
    def export(self) -> str:
        """The path that NFS serves; nobody guesses it."""
        return f"/ruchu-{self.id}"


class Instants:
    """The instant restores of a state directory, and where their sockets are."""

    def __init__(self, directory: Path, runtime: Path) -> None:
        self.directory = directory
        self._runtime = runtime

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

    def folder(self, instant: Instant) -> Path:
        """Return the directory of an instant restore."""
        return self.directory / instant.id

    def runtime(self, instant: Instant) -> Path:
        """Return the directory of its sockets, which a restart of the host empties."""
        return self._runtime / instant.id[:16]

    def control(self, instant: Instant) -> Path:
        """Return the control socket of its export."""
        return self.runtime(instant) / "control.sock"

    def nbd(self, instant: Instant) -> Path:
        """Return the socket on which its disks are served over NBD, whatever else they are."""
        return self.runtime(instant) / "disks" / "disks.sock"

    def served(self, instant: Instant) -> tuple[ServedDisk, ...]:
        """Return how the hypervisor reaches its disks."""
        if instant.protocol == "nfs":
            return tuple(
                ServedDisk(key, "nfs", f"{instant.export}/{key}.raw", host=instant.host)
                for key in instant.disks
            )
        socket = str(self.nbd(instant))
        return tuple(ServedDisk(key, "nbd", key, socket=socket) for key in instant.disks)

    def prepare(self, instant: Instant) -> None:
        """Make the directories of an instant restore; QEMU may pass through to the disks."""
        disks = self.nbd(instant).parent
        try:
            self.folder(instant).mkdir(mode=0o700, parents=True, exist_ok=True)
            Path(instant.cache).mkdir(mode=0o700, parents=True, exist_ok=True)
            self._runtime.mkdir(mode=0o711, parents=True, exist_ok=True)
            self.runtime(instant).mkdir(mode=0o711, exist_ok=True)
            disks.mkdir(mode=0o700, exist_ok=True)
            # An earlier export gave it away to QEMU's user.
            os.chown(disks, os.getuid(), os.getgid())
        except OSError as error:
            raise StorageError(f"({error.filename}: {error.strerror})") from None

    def store(self, instant: Instant) -> Instant:
        """Write the document of an instant restore, durably; return the instant."""
        path = self.folder(instant) / _DOCUMENT
        value = {"format": FORMAT, "version": VERSION, **asdict(instant)}
        temporary = path.with_suffix(".partial")
        try:
            with temporary.open("w") as file:
                json.dump(value, file, indent=1, sort_keys=True)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except OSError as error:
            raise StorageError(f"({path}: {error.strerror})") from None
        return instant

    def change(self, instant: Instant, **changes: Any) -> Instant:
        """Write and return an instant restore with some things changed."""
        return self.store(replace(instant, **changes))

    def remove(self, instant: Instant) -> None:
        """Remove an instant restore with its write caches."""
        for key in instant.disks:
            instant.cache_of(key).unlink(missing_ok=True)
        # What NFS clients created beside the disks.
        shutil.rmtree(Path(instant.cache) / ".nfs", ignore_errors=True)
        shutil.rmtree(self.runtime(instant), ignore_errors=True)
        shutil.rmtree(self.folder(instant))
        if Path(instant.cache).is_dir() and not any(Path(instant.cache).iterdir()):
            Path(instant.cache).rmdir()

    def _found(self) -> Iterator[Instant]:
        if not self.directory.is_dir():
            return
        for folder in self.directory.iterdir():
            path = folder / _DOCUMENT
            # A folder without a document is of a start that ended before anything was begun.
            if is_id(folder.name) and path.exists():
                yield _read(path)


def _read(path: Path) -> Instant:
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(DOCUMENT_BYTES_MAX))
        right = value.pop("format") == FORMAT and value.pop("version") == VERSION
        instant = Instant(
            **{**value, "disks": tuple(value["disks"]), "clients": tuple(value["clients"])}
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UsageError(f"({path} is not what Ruchu wrote: {error})") from None
    if not right or instant.id != path.parent.name:
        raise UsageError(f"({path} is not what Ruchu wrote)")
    return instant
