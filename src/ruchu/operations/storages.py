"""Storages: made, adopted, opened, listed, verified, repaired."""

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from ruchu.clock import SYSTEM, Clock
from ruchu.errors import RuchuError, StorageError, StorageGone, UsageError
from ruchu.operations import secrets, storage_places, storage_room
from ruchu.operations.registry import Registry, StorageEntry
from ruchu.operations.secrets import Ask, Credentials, SecretSource
from ruchu.operations.storage_places import Place, Places, Preparation
from ruchu.operations.storage_room import Room
from ruchu.recovery import instant_records
from ruchu.repository import layout, locking, repositories
from ruchu.repository.chains import Chain
from ruchu.repository.repositories import Repository
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.contract import Storage
from ruchu.storage.free_space import RESERVE_DEFAULT
from ruchu.storage.limited import Bandwidth, Limited
from ruchu.storage.locations import Location

ROLES = ("backup", "copy")
EVACUATING, EVACUATED = "evacuating", "evacuated"


@dataclass(frozen=True, slots=True)
class StorageState:
    """A storage and how it is: room, chains; `problem` says why it cannot be read."""

    entry: StorageEntry
    free: int | None = None
    chains: int | None = None
    encrypted: bool | None = None
    problem: str = ""
    room: Room | None = None

    def fields(self) -> dict[str, Any]:
        """Return it for a document."""
        entry, room = self.entry, self.room
        return {
            "name": entry.name,
            "id": entry.id,
            "directory": entry.directory,
            "location": str(entry.place),
            "role": entry.role,
            "secret": entry.secret,
            "encrypted": self.encrypted,
            "chains": self.chains,
            "free": self.free,
            "total": room.total if room else None,
            "used": room.used if room else None,
            "warn": entry.warn or None,
            "stop": entry.stop or None,
            "room": room.state if room else None,
            "state": entry.state or None,
            "probe": entry.probe or None,
            "problem": self.problem,
        }


@dataclass(frozen=True, slots=True)
class Setup:
    """What a storage may be set up with.

    Attributes:
        role: one of `ROLES`.
        credentials: file with the credentials of its server, or `ask`.
        warn, stop: limits of room; see `storage_room`.
        preparation: what its place may need.
    """

    role: str = "backup"
    credentials: str = ""
    warn: str = ""
    stop: str = ""
    preparation: Preparation = field(default_factory=Preparation)


class Storages:
    """The storages of a state directory.

    Args:
        registry: the local state.
        ask: asks a person for secrets.
        clock: tells the time.
        credentials: of servers, by the name of the storage, for a caller that keeps them itself;
            they are used before any file, and never stored.
        bandwidth: what reading and writing together may take.
    """

    def __init__(
        self,
        registry: Registry,
        ask: Ask | None = None,
        clock: Clock = SYSTEM,
        credentials: Mapping[str, Credentials] | None = None,
        bandwidth: Bandwidth | None = None,
    ) -> None:
        self.registry = registry
        self._bandwidth = bandwidth
        self._ask = ask
        self._credentials = dict(credentials or {})
        self.places = Places(registry.directory, clock)
        needed = instant_records.needed(registry.directory / instant_records.FOLDER)
        self.surroundings = Surroundings(clock=clock, cache=registry.cache, needed=needed)
        self._opened: dict[str, Repository] = {}

    def add(
        self,
        name: str,
        where: Path | Location,
        source: SecretSource,
        role: str = "backup",
        setup: Setup | None = None,
    ) -> StorageEntry:
        """Make an empty place a storage, and know it from now on.

        Raises:
            InvalidName, AlreadyExists, ForeignDirectory: it cannot be.
            StorageGone, StorageRefused: the place is not there, or lacks what a storage needs.
        """
        self.registry.require_free(name)
        setup = setup or Setup(role)
        place = self._new_place(name, where, setup)
        secret = secrets.read(source, self._ask, new=True)
        if place.location.scheme == "file":
            _make(Path(place.location.path))
        with self._left_on_failure(place):
            identity = self.surroundings.entropy(16)
            location = self.places.prepare(place, setup.preparation, identity)
            place = replace(place, location=location)
            storage = self.places.open(place)
            repository = repositories.create(
                storage, name, secret, self.surroundings, role=setup.role
            )
            return self._know(place, source, setup, repository)

    def adopt(
        self,
        name: str,
        where: Path | Location,
        source: SecretSource | None,
        setup: Setup | None = None,
    ) -> StorageEntry:
        """Know a storage that exists, such as one of another host, with all its points.

        Without a source: a storage that is not encrypted needs none, another one is asked for.
        """
        self.registry.require_free(name)
        setup = setup or Setup()
        place = self._new_place(name, where, setup, known=True)
        with self._left_on_failure(place):
            location = self.places.prepare(place, Preparation(), b"")
            place = replace(place, location=location)
            storage = self.places.open(place)
            facts = repositories.read_facts(storage)
            if not facts.encrypted:
                source = SecretSource("none")
            elif source is None:
                source = secrets.choose(None, None, none=False, ask=self._ask)
            secret = secrets.read(source, self._ask)
            repository = repositories.open_repository(storage, secret, self.surroundings)
            return self._know(place, source, setup, repository)

    def _new_place(
        self, name: str, where: Path | Location, setup: Setup, *, known: bool = False
    ) -> Place:
        """Return the place of a storage that is to be known here, with what its server can do."""
        if setup.role not in ROLES:
            raise UsageError(f"(role {setup.role!r})", hint=f"One of: {', '.join(ROLES)}.")
        for limit in (setup.warn, setup.stop):
            storage_room.check(limit)
        location = where if isinstance(where, Location) else Location("file", path=str(where))
        if location.scheme == "file":
            location = replace(location, path=str(Path(location.path).absolute()))
        given = self._credentials_of(name, setup.credentials)
        if location.scheme != "s3":
            return Place(name, location, given)
        place = Place(name, location, given, {}, self.registry.identity(self.surroundings.entropy))
        found = storage_places.probe_bucket(place, setup.preparation, known=known)
        return replace(place, probe=found)

    @contextlib.contextmanager
    def _left_on_failure(self, place: Place) -> Iterator[None]:
        """Unmount again what was mounted for a storage that came to nothing."""
        try:
            yield
        except BaseException as error:
            try:
                self.places.leave(place)
            except RuchuError as failure:
                error.add_note(f"Leaving {place.location} failed, too: {failure}")
            raise

    def _know(
        self, place: Place, source: SecretSource, setup: Setup, repository: Repository
    ) -> StorageEntry:
        facts, location = repository.facts, place.location
        plain = location.scheme == "file"
        decided = bool(place.probe.get("conditional_put"))
        entry = StorageEntry(
            place.name,
            location.path if plain else "",
            facts.id,
            facts.role,
            source.method,
            source.file,
            location="" if plain else str(location),
            credentials=setup.credentials,
            probe=dict(place.probe),
            warn=setup.warn,
            stop=setup.stop,
            writer="" if decided else place.writer,
        )
        self.registry.put_storage(entry)
        return entry

    def _credentials_of(self, name: str, source: str) -> Credentials:
        if name not in self._credentials:
            self._credentials[name] = secrets.read_credentials(source, self._ask, name)
        return self._credentials[name]

    def place_of(self, entry: StorageEntry) -> Place:
        """Return where a storage is, with the credentials to get there."""
        given = self._credentials_of(entry.name, entry.credentials)
        return Place(entry.name, entry.place, given, entry.probe, entry.writer)

    def raw(self, entry: StorageEntry, reserve_bytes: int = RESERVE_DEFAULT) -> Storage:
        """Return the storage behind an entry, once it is sure that it is the one.

        Raises:
            StorageGone: it is not there, or another one is.
        """
        storage = self.places.open(self.place_of(entry), reserve_bytes)
        facts = repositories.read_facts(storage)
        if facts.id != entry.id:
            raise StorageGone(f"({entry.where} holds another storage than {entry.name!r})")
        if self._bandwidth is not None:
            return Limited(storage, reads=self._bandwidth, writes=self._bandwidth)
        return storage

    def open(self, name: str) -> Repository:
        """Open a storage with its secret.

        Raises:
            NotFound, StorageGone, WrongKey: it cannot be.
        """
        if name not in self._opened:
            entry = self.registry.storage(name)
            self._opened[name] = self._open(entry, self.raw(entry))
        return self._opened[name]

    def open_for_backup(self, name: str) -> Repository:
        """Open a storage for new points: there must be room, and it must not be given up.

        What is written through it stops before less is free than its limit says.

        Raises:
            StorageFull: too little is free already.
            UsageError: it is being evacuated, or is.
        """
        entry = self.registry.storage(name)
        if entry.state:
            hint = "Back up to the storage that took its points, or `ruchu storage set --active`."
            raise UsageError(f"(storage {name!r} is {entry.state})", hint=hint)
        room = self.room(entry)
        storage_room.require(entry, room)
        return self._open(entry, self.raw(entry, room.stop if room else RESERVE_DEFAULT))

    def _open(self, entry: StorageEntry, storage: Storage) -> Repository:
        secret = secrets.read(secrets.of_entry(entry), self._ask)
        return repositories.open_repository(storage, secret, self.surroundings)

    def room(self, entry: StorageEntry) -> Room | None:
        """Return how much room a storage has; None if there is no telling."""
        return storage_room.room_of(entry, self.places.room(self.place_of(entry)))

    def list(self) -> list[StorageState]:
        """Return all storages; one that cannot be read says why."""
        return [self._state(entry) for entry in self.registry.storages()]

    def _state(self, entry: StorageEntry) -> StorageState:
        try:
            storage = self.raw(entry)
            facts = repositories.read_facts(storage)
            chains = sum(1 for _ in storage.folders(layout.CHAINS))
            free, room = storage.free_space(), self.room(entry)
            return StorageState(entry, free, chains, facts.encrypted, room=room)
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
