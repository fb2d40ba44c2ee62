"""Storages: made, adopted, opened, listed, verified, repaired."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from ruchu.clock import SYSTEM, Clock
from ruchu.errors import RuchuError, StorageError, StorageGone, UsageError
from ruchu.operations import secrets
from ruchu.operations.registry import Registry, StorageEntry
from ruchu.operations.secrets import Ask, SecretSource
from ruchu.recovery import instant_records
from ruchu.repository import layout, locking, repositories
from ruchu.repository.chains import Chain
from ruchu.repository.repositories import Repository
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.contract import Storage
from ruchu.storage.directory import DirectoryStorage

ROLES = ("backup", "copy")


@dataclass(frozen=True, slots=True)
class StorageState:
    """A storage and how it is: bytes free, chains; `problem` says why it cannot be read."""

    entry: StorageEntry
    free: int | None = None
    chains: int | None = None
    encrypted: bool | None = None
    problem: str = ""

    def fields(self) -> dict[str, Any]:
        """Return it for a document."""
        entry = self.entry
        return {
            "name": entry.name,
            "id": entry.id,
            "directory": entry.directory,
            "role": entry.role,
            "secret": entry.secret,
            "encrypted": self.encrypted,
            "chains": self.chains,
            "free": self.free,
            "problem": self.problem,
        }


class Storages:
    """The storages of a state directory."""

    def __init__(self, registry: Registry, ask: Ask | None = None, clock: Clock = SYSTEM) -> None:
        self.registry = registry
        self._ask = ask
        needed = instant_records.needed(registry.directory / instant_records.FOLDER)
        self.surroundings = Surroundings(clock=clock, cache=registry.cache, needed=needed)
        self._opened: dict[str, Repository] = {}

    def add(
        self, name: str, directory: Path, source: SecretSource, role: str = "backup"
    ) -> StorageEntry:
        """Make an empty directory a storage, and know it from now on.

        Raises:
            InvalidName, AlreadyExists, ForeignDirectory: it cannot be.
        """
        self.registry.require_free(name)
        if role not in ROLES:
            raise UsageError(f"(role {role!r})", hint=f"One of: {', '.join(ROLES)}.")
        secret = secrets.read(source, self._ask, new=True)
        directory = directory.absolute()
        _make(directory)
        storage = DirectoryStorage(directory)
        repository = repositories.create(storage, name, secret, self.surroundings, role=role)
        return self._know(name, directory, source, repository)

    def adopt(self, name: str, directory: Path, source: SecretSource | None) -> StorageEntry:
        """Know a storage that exists, such as one of another host, with all its points.

        Without a source: a storage that is not encrypted needs none, another one is asked for.
        """
        self.registry.require_free(name)
        directory = directory.absolute()
        storage = DirectoryStorage(directory)
        facts = repositories.read_facts(storage)
        if not facts.encrypted:
            source = SecretSource("none")
        elif source is None:
            source = secrets.choose(None, None, none=False, ask=self._ask)
        secret = secrets.read(source, self._ask)
        repository = repositories.open_repository(storage, secret, self.surroundings)
        return self._know(name, directory, source, repository)

    def _know(
        self, name: str, directory: Path, source: SecretSource, repository: Repository
    ) -> StorageEntry:
        facts = repository.facts
        entry = StorageEntry(name, str(directory), facts.id, facts.role, source.method, source.file)
        self.registry.put_storage(entry)
        return entry

    def raw(self, entry: StorageEntry) -> Storage:
        """Return the storage behind an entry, once it is sure that it is the one.

        Raises:
            StorageGone: it is not there, or another one is.
        """
        storage = DirectoryStorage(entry.directory)
        facts = repositories.read_facts(storage)
        if facts.id != entry.id:
            raise StorageGone(f"({entry.directory} holds another storage than {entry.name!r})")
        return storage

    def open(self, name: str) -> Repository:
        """Open a storage with its secret.

        Raises:
            NotFound, StorageGone, WrongKey: it cannot be.
        """
        if name not in self._opened:
            entry = self.registry.storage(name)
            storage = self.raw(entry)
            secret = secrets.read(secrets.of_entry(entry), self._ask)
            self._opened[name] = repositories.open_repository(storage, secret, self.surroundings)
        return self._opened[name]

    def list(self) -> list[StorageState]:
        """Return all storages; one that cannot be read says why."""
        return [self._state(entry) for entry in self.registry.storages()]

    def _state(self, entry: StorageEntry) -> StorageState:
        try:
            storage = self.raw(entry)
            facts = repositories.read_facts(storage)
            chains = sum(1 for _ in storage.folders(layout.CHAINS))
            return StorageState(entry, storage.free_space(), chains, facts.encrypted)
        except RuchuError as error:
            return StorageState(entry, problem=str(error))

    def show(self, name: str) -> dict[str, Any]:
        """Return what there is to know of a storage: its state, its chains and their sizes."""
        entry = self.registry.storage(name)
        repository = self.open(name)
        state = self._state(entry)
        return {**state.fields(), "objects": [_chain_facts(c) for c in repository.all_chains()]}

    def rotate(self, name: str, source: SecretSource) -> None:
        """Replace the secret of a storage; no backup data is touched."""
        entry = self.registry.storage(name)
        repository = self.open(name)
        repository.rotate_secret(secrets.read(source, self._ask, new=True))
        entry = replace(entry, secret=source.method, file=source.file)
        self.registry.put_storage(entry, replace=True)

    def unlock(self, name: str, chain: str) -> str | None:
        """End the lock of a holder that is known to be dead; return who held it."""
        found = find_chain(self.open(name), chain)
        held = locking.break_lock(found.storage, found.id)
        return str(held) if held is not None else None


def find_chain(repository: Repository, prefix: str) -> Chain:
    """Return the chain whose id begins with a prefix, or whose object has that name."""
    chains = repository.all_chains()
    found = [chain for chain in chains if chain.id.startswith(prefix)] if prefix else []
    found = found or [chain for chain in chains if chain.object.name == prefix]
    if len(found) != 1:
        names = ", ".join(f"{chain.id[:8]} ({chain.object.name})" for chain in chains[:20])
        raise UsageError(f"(chain {prefix!r}: {len(found)} match; there are: {names or 'none'})")
    return found[0]


def _chain_facts(chain: Chain) -> dict[str, Any]:
    held = locking.holder_of(chain.storage, chain.id)
    return {
        "chain": chain.id,
        "name": chain.object.name,
        "kind": chain.object.kind,
        "platform": chain.object.platform,
        "points": len(chain.stems()),
        "bytes_stored": sum(info.size for info in chain.storage.list(layout.packs(chain.id))),
        "block_size": chain.block_size,
        "locked_by": str(held) if held is not None else None,
    }


def _make(directory: Path) -> None:
    try:
        directory.mkdir(mode=0o700, exist_ok=True)
    except FileNotFoundError:
        hint = "Make or mount it first."
        raise StorageGone(f"({directory.parent} is not there)", hint=hint) from None
    except OSError as error:
        raise StorageError(f"({directory}: {error.strerror})") from None
