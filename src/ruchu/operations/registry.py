"""The local state: which storages and platforms this host knows, in documents of its own.

It holds no secret, only where the file with the secret lies. Nothing here is needed to read a
backup: a lost state is made anew with `ruchu storage adopt`.
"""

import contextlib
import fcntl
import json
import os
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from ruchu.errors import AlreadyExists, InvalidName, NotFound, StorageError, UsageError
from ruchu.model.ids import Entropy, is_id, new_id
from ruchu.storage import locations

VERSION = 1
DOCUMENT_BYTES_MAX = 4 << 20
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_STORAGES, _PLATFORMS = "storages", "platforms"


@dataclass(frozen=True, slots=True)
class StorageEntry:
    """A storage that is known here.

    Attributes:
        name: what people call it.
        directory: where it is, absolute; empty if `location` says it.
        id: its identity, so that another one in its place is found out.
        role: `backup` or `copy`.
        secret: how it is opened: `none`, `prompt`, `passphrase` or `keyfile`.
        file: the file that holds the passphrase or key, for the last two.
        location: where it is, as a URL (`storage.locations`); empty for a directory.
        credentials: the file with the credentials of the server it is on, `ask`, or empty.
        probe: what its server can do, as it was found out; of S3.
        warn: people are told when less is free: bytes, or a part such as `15%`; empty: never.
        stop: backups are refused when less is free; empty: when it is full.
        state: empty, `evacuating` or `evacuated`: backups go elsewhere.
        writer: what this host is called where one host alone may write.
    """

    name: str
    directory: str
    id: str
    role: str
    secret: str
    file: str = ""
    location: str = ""
    credentials: str = ""
    probe: dict[str, bool] = field(default_factory=dict)
    warn: str = ""
    stop: str = ""
    state: str = ""
    writer: str = ""

    @property
    def where(self) -> str:
        """Where it is, for people."""
        return self.location or self.directory

    @property
    def place(self) -> locations.Location:
        """Where it is."""
        if self.location:
            return locations.parse(self.location)
        return locations.Location("file", path=self.directory)


@dataclass(frozen=True, slots=True)
class PlatformEntry:
    """A platform that is known here: its address, and a directory for scratch files there."""

    name: str
    uri: str
    scratch: str = ""


_Entry = TypeVar("_Entry", StorageEntry, PlatformEntry)


class Registry:
    """The documents in a state directory. Processes and threads may use it at the same time."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory

    @property
    def cache(self) -> Path:
        """Where indexes are kept; they can be made anew."""
        return self.directory / "cache"

    def identity(self, entropy: Entropy) -> str:
        """Return what this state is called where one host alone may write; made once."""
        path = self.directory / "identity"
        with self._changing():
            try:
                found = path.read_text(encoding="ascii").strip()
            except FileNotFoundError:
                found = new_id(entropy)
                _write(path, found.encode() + b"\n")
            except (OSError, ValueError) as error:
                raise StorageError(f"({path}: {error})") from None
        if not is_id(found):
            raise _unreadable(path)
        return found

    def storages(self) -> list[StorageEntry]:
        """Return the storages, sorted by name."""
        return [_entry(StorageEntry, each) for each in self._load(_STORAGES)]

    def storage(self, name: str) -> StorageEntry:
        """Return a storage, or raise NotFound."""
        found = [entry for entry in self.storages() if entry.name == name]
        if not found:
            hint = "See `ruchu storage list`; add it with `ruchu storage add` or `adopt`."
            raise NotFound(f"(storage {name!r})", hint=hint)
        return found[0]

    def put_storage(self, entry: StorageEntry, *, replace: bool = False) -> None:
        """Take in a storage, or a new version of its entry with `replace`."""
        self._put(_STORAGES, asdict(entry), replace=replace)

    def remove_storage(self, name: str) -> None:
        """Forget a storage; one that is not known is no error."""
        with self._changing():
            entries = self._load(_STORAGES)
            self._store(_STORAGES, [each for each in entries if each["name"] != name])

    def platforms(self) -> list[PlatformEntry]:
        """Return the platforms, sorted by name."""
        return [_entry(PlatformEntry, each) for each in self._load(_PLATFORMS)]

    def platform(self, name: str) -> PlatformEntry:
        """Return a platform, or raise NotFound. Without a name: the only one there is."""
        entries = self.platforms()
        found = [entry for entry in entries if name in {entry.name, ""}]
        if len(found) == 1:
            return found[0]
        if found:
            names = ", ".join(entry.name for entry in found)
            raise UsageError(f"(which platform: {names}?)", hint="Say it with --platform.")
        hint = "See `ruchu platform list`; add it with `ruchu platform add NAME URI`."
        raise NotFound(f"(platform {name!r})" if name else "(no platform is known)", hint=hint)

    def put_platform(self, entry: PlatformEntry, *, replace: bool = False) -> None:
        """Take in a platform, or a new version of its entry with `replace`."""
        self._put(_PLATFORMS, asdict(entry), replace=replace)

    def require_free(self, name: str) -> None:
        """Check that a storage may be called so.

        Raises:
            InvalidName, AlreadyExists: it may not.
        """
        check_name(name)
        if any(entry.name == name for entry in self.storages()):
            raise AlreadyExists(f"(storage {name!r})")

    def _path(self, kind: str) -> Path:
        return self.directory / f"{kind}.json"

    def _load(self, kind: str) -> list[dict[str, Any]]:
        path = self._path(kind)
        try:
            with path.open("rb") as file:
                value = json.loads(file.read(DOCUMENT_BYTES_MAX))
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StorageError(f"({path}: {error.strerror})") from None
        except ValueError:
            raise _unreadable(path) from None
        right = isinstance(value, dict) and value.get("format") == f"ruchu-{kind}"
        if not right or value.get("version") != VERSION or not isinstance(value.get(kind), list):
            raise _unreadable(path)
        return sorted(value[kind], key=lambda entry: str(entry.get("name")))

    def _put(self, kind: str, entry: dict[str, Any], *, replace: bool) -> None:
        check_name(entry["name"])
        with self._changing():
            entries = self._load(kind)
            others = [each for each in entries if each["name"] != entry["name"]]
            if len(others) < len(entries) and not replace:
                raise AlreadyExists(f"({kind[:-1]} {entry['name']!r})")
            self._store(kind, [*others, entry])

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other processes from changing the documents at the same time."""
        try:
            self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
            lock = os.open(self.directory / "registry.lock", flags, 0o600)
        except OSError as error:
            raise StorageError(f"({self.directory}: {error.strerror})") from None
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _store(self, kind: str, entries: list[dict[str, Any]]) -> None:
        value = {"format": f"ruchu-{kind}", "version": VERSION, kind: entries}
        _write(self._path(kind), json.dumps(value, indent=1, sort_keys=True).encode() + b"\n")


def _write(path: Path, data: bytes) -> None:
    """Put a file in the place of another, durably."""
    temporary = path.with_suffix(".partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123 - a mode
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"({path}: {error.strerror})") from None


def check_name(name: str) -> str:
    """Return the name of a storage or platform if it is one.

    Raises:
        InvalidName: it is none.
    """
    if not _NAME.fullmatch(name):
        raise InvalidName(f"({name[:80]!r})")
    return name


def _entry(kind: type[_Entry], value: Any) -> _Entry:
    try:
        return kind(**value)
    except TypeError as error:
        detail = f"(an entry of the local state: {error})"
        raise UsageError(detail, hint="Was it written by a later release?") from None


def _unreadable(path: Path) -> UsageError:
    hint = "Move it away; then `ruchu storage adopt` and `ruchu platform add` what it named."
    return UsageError(f"({path} is not what Ruchu wrote)", hint=hint)
