"""The storages and platforms that an order names, as this host knows them.

A passphrase lies in a file in memory (tmpfs), of this user only: an instant restore needs it again
when its export is started anew. It never was on a disk, and is gone after a restart of the host.
"""

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu.clock import SYSTEM, Clock, to_text
from ruchu.errors import UsageError
from ruchu.model.ids import is_id
from ruchu.model.tasks import Order
from ruchu.operations.platforms import Platforms
from ruchu.operations.registry import PlatformEntry, Registry, StorageEntry, check_name
from ruchu.operations.secrets import SecretSource
from ruchu.operations.storages import Storages
from ruchu.storage import locations
from ruchu.storage.limited import Bandwidth
from ruchu.storage.locations import Location

# Where a file may lie that is gone after a restart of the host and never was on a disk.
_IN_MEMORY = (Path("/run"), Path("/dev/shm"))  # noqa: S108 - its owner and mode are checked
OF_STORAGE, CREDENTIALS_OF = "storage:", "credentials:"


@dataclass(frozen=True, slots=True)
class Places:
    """What an order works with."""

    storages: Storages
    platforms: Platforms


def known(order: Order, state: Path) -> Places:
    """Return the places of an order.

    Raises:
        UsageError: the order is not as it must be, or this host has no place in memory for files.
    """
    registry = Registry(state)
    for each in order.body.get("storages", ()):
        registry.put_storage(_storage(each, order, state), replace=True)
    for each in order.body.get("platforms", ()):
        value = {key: str(each.get(key) or "") for key in ("name", "uri", "scratch")}
        registry.put_platform(PlatformEntry(**value), replace=True)
    storages = Storages(registry, bandwidth=_bandwidth(order, SYSTEM))
    return Places(storages, Platforms(registry))


def _bandwidth(order: Order, clock: Clock) -> Bandwidth | None:
    """Return the limit of an order: `limits` are moments, each with bytes a second from then on."""
    limits = [(str(at), int(rate)) for at, rate in order.body.get("limits") or ()]
    if not any(rate for _, rate in limits):
        return None

    def rate() -> int:
        now = to_text(clock.now())
        return next((rate for at, rate in reversed(limits) if at <= now), 0)

    return Bandwidth(rate, clock)


def secret_source(order: Order, state: Path, name: str) -> SecretSource:
    """Return where the secret of a storage comes from: a file in memory, or there is none."""
    secret = order.secrets.get(OF_STORAGE + name)
    if secret is None:
        return SecretSource("none")
    return SecretSource("passphrase", _in_memory(state, f"{name} passphrase", secret))


def credentials_file(order: Order, state: Path, name: str) -> str:
    """Return the file in memory with the credentials of a storage's server; empty: none."""
    text = order.secrets.get(CREDENTIALS_OF + name)
    return "" if text is None else _in_memory(state, f"{name} credentials", text)


def location_of(value: Mapping[str, Any]) -> Location:
    """Return where a storage is, from a path or a URL.

    Raises:
        UsageError: it is neither.
    """
    where = str(value.get("directory") or "")
    if "://" in where:
        return locations.parse(where)
    if not Path(where).is_absolute():
        raise UsageError(f"({where[:200]!r} is no absolute path)")
    return Location("file", path=where)


def _in_memory(state: Path, what: str, text: str) -> str:
    """Write something secret into a file in memory; return its path."""
    # Two nodes of one host may know different storages by one name.
    own = hashlib.sha256(f"{state.absolute()} {what}".encode()).hexdigest()
    path = memory_folder() / own[:32]
    temporary = path.with_suffix(f".{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW | os.O_CLOEXEC
    descriptor = os.open(temporary, flags, 0o600)
    try:
        os.write(descriptor, text.encode())
    finally:
        os.close(descriptor)
    temporary.replace(path)
    return str(path)


def _storage(value: Mapping[str, Any], order: Order, state: Path) -> StorageEntry:
    name, identity = check_name(str(value.get("name"))), str(value.get("id"))
    if not is_id(identity):
        raise UsageError(f"(the id of storage {name})")
    source = secret_source(order, state, name)
    location = location_of(value)
    plain = location.scheme == "file"
    return StorageEntry(
        name,
        location.path if plain else "",
        identity,
        str(value.get("role", "backup")),
        source.method,
        source.file,
        location="" if plain else str(location),
        credentials=credentials_file(order, state, name),
        probe={str(key): bool(each) for key, each in dict(value.get("probe") or {}).items()},
        stop=str(value.get("stop") or ""),
        state=str(value.get("state") or ""),
        writer=str(value.get("writer") or ""),
    )


def memory_folder() -> Path:
    """Return a folder of this user only, in memory.

    Raises:
        UsageError: this host has none.
    """
    mounts = _file_systems()
    for top in _IN_MEMORY:
        if mounts.get(str(top)) != "tmpfs":
            continue
        folder = top / f"ruchu-{os.getuid()}"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.lstat()
        if found.st_uid == os.getuid() and not found.st_mode & 0o077:
            return folder
    raise UsageError("(no tmpfs to keep a passphrase in memory)", hint="Mount one on /run.")


def _file_systems() -> dict[str, str]:
    """Return the file system type of each mount point of this process."""
    found = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        found[before.split()[4]] = after.split()[0]
    return found
