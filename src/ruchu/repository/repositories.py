"""A storage as a repository: created, opened with a secret, its chains."""

import contextlib
from dataclasses import dataclass
from importlib import resources

from blake3 import blake3

from ruchu import clock
from ruchu.chunks.keys import KEY_BYTES
from ruchu.errors import (
    AlreadyExists,
    Damaged,
    ForeignDirectory,
    ObjectMissing,
    StorageGone,
    WrongKey,
)
from ruchu.model.ids import is_id, new_id
from ruchu.repository import chains, documents, keyring, layout, maps
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.contract import Storage

FORMAT = "ruchu-storage"
KEY_FORMAT = "ruchu-key"


@dataclass(frozen=True, slots=True)
class StorageFacts:
    """What `ruchu-storage.json` says; `kit` maps file names to their hashes."""

    id: str
    name: str
    role: str
    created: str
    encrypted: bool
    kit: dict[str, str]


def exit_kit() -> dict[str, bytes]:
    """Return the files of the exit kit of this release, by name."""
    folder = resources.files("ruchu.repository.exitkit")
    return {name: (folder / name).read_bytes() for name in layout.KIT}


def create(
    storage: Storage,
    name: str,
    secret: keyring.Secret,
    surroundings: Surroundings,
    *,
    role: str = "backup",
    costs: keyring.Costs | None = None,
) -> "Repository":
    """Make an empty storage a repository.

    Raises:
        AlreadyExists: it is one already.
        ForeignDirectory: it holds other files.
    """
    with contextlib.suppress(ObjectMissing, StorageGone):
        storage.size(layout.STORAGE)
        raise AlreadyExists(f"({name}: this directory is a Ruchu storage; adopt it)")
    _clear_leftovers(storage)
    entropy = surroundings.entropy
    storage_id, slot, key = new_id(entropy), new_id(entropy), entropy(KEY_BYTES)
    created = clock.to_text(surroundings.clock.now())
    kit = exit_kit()
    for file, content in kit.items():
        storage.put(file, content)
    fields = keyring.new_slot(storage_id, slot, key, secret, entropy, costs or keyring.Costs()) | {
        "created": created
    }
    storage.put(layout.key_slot(slot), documents.sealed(KEY_FORMAT, fields))
    facts = {
        "storage": storage_id,
        "name": name,
        "role": role,
        "created": created,
        "encryption": "none" if secret.method == "none" else "aes-256-gcm",
        "kit": {file: blake3(content).hexdigest() for file, content in kit.items()},
    }
    # Last: a directory without it is no storage, whatever a crash left there.
    storage.put(layout.STORAGE, documents.sealed(FORMAT, facts))
    return open_repository(storage, secret, surroundings)


def _clear_leftovers(storage: Storage) -> None:
    """Remove what an interrupted `create` left; anything else is somebody's."""
    names = [info.name for info in storage.list("")]
    ours = {name for name in names if name in layout.KIT or name.startswith(f"{layout.KEYS}/")}
    foreign = [*storage.foreign(), *(name for name in names if name not in ours)]
    if foreign:
        raise ForeignDirectory(f"(for example {foreign[0]!r})")
    for name in sorted(ours):
        storage.delete(name)


def read_facts(storage: Storage) -> StorageFacts:
    """Return what the storage says of itself.

    Raises:
        StorageGone: it is not there.
    """
    try:
        data = storage.get(layout.STORAGE, documents.DOCUMENT_BYTES_MAX)
    except ObjectMissing:
        raise StorageGone(f"({layout.STORAGE} is missing)") from None
    name = layout.STORAGE
    value = documents.opened(name, data, FORMAT)
    kit = documents.field(name, value, "kit", dict)
    texts = {key: documents.field(name, value, key, str) for key in
             ("storage", "name", "role", "created", "encryption")}  # fmt: skip
    if not is_id(texts["storage"]):
        raise Damaged(f"{name}: its id")
    encrypted = texts["encryption"] != "none"
    return StorageFacts(
        texts["storage"], texts["name"], texts["role"], texts["created"], encrypted, kit
    )


def open_repository(
    storage: Storage, secret: keyring.Secret | None, surroundings: Surroundings
) -> "Repository":
    """Open a repository.

    Raises:
        WrongKey: the secret fits no slot.
    """
    facts = read_facts(storage)
    damaged: Damaged | None = None
    for name in _slot_names(storage):
        try:
            key = _try_slot(storage, name, facts, secret)
        except Damaged as error:
            # Another slot may be whole, and one is enough.
            damaged = error
            continue
        if key is not None:
            return Repository(storage, facts, key, surroundings)
    if damaged is not None:
        raise damaged
    raise WrongKey("" if secret is not None else "(none was given)")


def _try_slot(
    storage: Storage, name: str, facts: StorageFacts, secret: keyring.Secret | None
) -> bytes | None:
    fields = documents.opened(name, storage.get(name, documents.DOCUMENT_BYTES_MAX), KEY_FORMAT)
    if fields.get("storage") != facts.id:
        raise Damaged(f"{name} belongs to another storage")
    if facts.encrypted and fields.get("method") == "none":
        # Planted: its key would be that of whoever wrote it, and new chains would be theirs.
        return None
    if not facts.encrypted and fields.get("method") != "none":
        # Tampered with: new backups would lie there in the clear.
        raise Damaged(f"{layout.STORAGE} denies the encryption that {name} has")
    return keyring.open_slot(name, fields, secret)


def _slot_names(storage: Storage) -> list[str]:
    names = (info.name for info in storage.list(layout.KEYS))
    return sorted(name for name in names if is_id(layout.stem_of(name)))


class Repository:
    """An open repository."""

    def __init__(
        self, storage: Storage, facts: StorageFacts, key: bytes, surroundings: Surroundings
    ) -> None:
        self.storage = storage
        self.facts = facts
        self.surroundings = surroundings
        self._key = key
        cache = surroundings.cache
        self._cache = cache / facts.id if cache is not None else None

    def chain_ids(self) -> list[str]:
        """Return the ids of all chains."""
        found = []
        for folder in self.storage.folders(layout.CHAINS):
            if is_id(folder):
                # A crash may leave the directory of a chain that was never made.
                with contextlib.suppress(ObjectMissing):
                    self.storage.size(layout.chain_document(folder))
                    found.append(folder)
        return sorted(found)

    def open_chain(self, chain: str) -> chains.Chain:
        """Open a chain."""
        fields = chains.read_document(self.storage, chain)
        name = layout.chain_document(chain)
        if (fields.get("encryption") != "none") != self.facts.encrypted:
            raise Damaged(f"{name}: its encryption differs from the storage's")
        key = keyring.unwrap_chain_key(name, self._key, fields)
        return chains.Chain(self.storage, fields, key, self.surroundings, self._cache)

    def welcome(self, chain: str, other: "Repository") -> bytes:
        """Return the document of a chain of another storage as it must be here.

        Everything stays but the wrapping of the chain's key. Not stored yet: whoever copies the
        chain stores it when the rest of the chain is there.

        Raises:
            WrongKey: one of the two is encrypted, the other is not; what is in a chain shows it.
        """
        if self.facts.encrypted != other.facts.encrypted:
            both = f"{other.facts.name!r} and {self.facts.name!r}"
            raise WrongKey(f"(of {both} one is encrypted, the other is not)")
        fields = chains.read_document(other.storage, chain)
        other_key = other._key  # noqa: SLF001 - of the same class
        key = keyring.unwrap_chain_key(layout.chain_document(chain), other_key, fields)
        nonce = self.surroundings.entropy(12)
        fields |= {
            "nonce": nonce.hex(),
            "wrapped": keyring.wrap_chain_key(self._key, chain, key, nonce).hex(),
        }
        return documents.sealed(chains.FORMAT, fields)

    def all_chains(self) -> list[chains.Chain]:
        """Open all chains."""
        return [self.open_chain(chain) for chain in self.chain_ids()]

    def find_chain(self, what: chains.ProtectedObject) -> chains.Chain | None:
        """Return the newest chain of a protected object (same kind, platform and id or name)."""
        found = [chain for chain in self.all_chains() if _same(chain.object, what)]
        return max(found, key=lambda chain: (len(chain.stems()), chain.id)) if found else None

    def create_chain(
        self, what: chains.ProtectedObject, largest_disk: int, *, block_size: int | None = None
    ) -> chains.Chain:
        """Begin a chain for an object whose largest disk has so many bytes."""
        large = largest_disk > maps.LARGE_DISK_BYTES
        default = maps.BLOCK_BYTES_LARGE if large else maps.BLOCK_BYTES_DEFAULT
        chain = chains.create(
            self.storage, self._key, what, block_size or default, self.surroundings,
            encrypted=self.facts.encrypted,
        )  # fmt: skip
        return self.open_chain(chain)

    def add_secret(self, secret: keyring.Secret, costs: keyring.Costs | None = None) -> str:
        """Add a way to open the storage; return the slot's id."""
        slot = new_id(self.surroundings.entropy)
        fields = keyring.new_slot(
            self.facts.id, slot, self._key, secret, self.surroundings.entropy,
            costs or keyring.Costs(),
        )  # fmt: skip
        fields["created"] = clock.to_text(self.surroundings.clock.now())
        self.storage.put(layout.key_slot(slot), documents.sealed(KEY_FORMAT, fields))
        return slot

    def rotate_secret(self, secret: keyring.Secret, costs: keyring.Costs | None = None) -> None:
        """Replace every way to open the storage by one. No backup data is touched."""
        if not self.facts.encrypted or secret.method == "none":
            raise WrongKey("(encryption is chosen when the storage is made)")
        old = _slot_names(self.storage)
        new = layout.key_slot(self.add_secret(secret, costs))
        # Only after the new slot is proven to open the storage do the old ones go.
        data = self.storage.get(new, documents.DOCUMENT_BYTES_MAX)
        opened = keyring.open_slot(new, documents.opened(new, data, KEY_FORMAT), secret)
        if opened != self._key:
            raise Damaged(f"{new}: the new key slot does not open the storage; the old ones stay")
        for name in old:
            self.storage.delete(name)


def _same(one: chains.ProtectedObject, other: chains.ProtectedObject) -> bool:
    if one.kind != other.kind or one.platform != other.platform:
        return False
    return one.id == other.id if one.id and other.id else one.name == other.name
