"""The keys of a storage: slots that open it, and wrapping of chain keys (section 4)."""

from dataclasses import dataclass
from typing import Any

from argon2.low_level import Type, hash_secret_raw
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ruchu.chunks.keys import KEY_BYTES
from ruchu.errors import Damaged, WrongKey
from ruchu.model.ids import Entropy
from ruchu.repository import documents

_NONCE_BYTES = 12
_TAG_BYTES = 16
_SALT_BYTES = 16
_STORAGE_AAD = b"ruchu vds 1 storage key"
_CHAIN_AAD = b"ruchu vds 1 chain key"
# A slot that asks for more than this is an attack on the reader's memory, or damage.
_MEMORY_KIB_MAX = 4 << 20
_ITERATIONS_MAX = 64


@dataclass(frozen=True, slots=True)
class Costs:
    """Costs of Argon2id; the default takes about 0.1 s and 64 MiB (RFC 9106, second choice)."""

    memory_kib: int = 64 << 10
    iterations: int = 3
    lanes: int = 4


@dataclass(frozen=True, slots=True, repr=False)
class Secret:
    """What an administrator gives to open a storage: a passphrase, or the bytes of a key file."""

    method: str  # none, passphrase, keyfile
    value: bytes = b""


NO_SECRET = Secret("none")


def new_slot(
    storage: str, slot: str, key: bytes, secret: Secret, entropy: Entropy, costs: Costs
) -> documents.Document:
    """Return the fields of a key slot that opens the storage key with the secret."""
    fields: documents.Document = {"storage": storage, "slot": slot, "method": secret.method}
    if secret.method == "none":
        return {**fields, "key": key.hex()}
    if secret.method == "passphrase":
        fields |= {
            "memory_kib": costs.memory_kib,
            "iterations": costs.iterations,
            "lanes": costs.lanes,
            "salt": entropy(_SALT_BYTES).hex(),
        }
    nonce = entropy(_NONCE_BYTES)
    cipher = AESGCM(_slot_key(fields, secret))
    wrapped = cipher.encrypt(nonce, key, _STORAGE_AAD + bytes.fromhex(storage))
    return {**fields, "nonce": nonce.hex(), "wrapped": wrapped.hex()}


def open_slot(name: str, fields: documents.Document, secret: Secret | None) -> bytes | None:
    """Return the storage key, or None if this slot is for another method or secret."""
    method = documents.field(name, fields, "method", str)
    if method == "none":
        return documents.hex_field(name, fields, "key", KEY_BYTES)
    if secret is None or secret.method != method:
        return None
    nonce = documents.hex_field(name, fields, "nonce", _NONCE_BYTES)
    wrapped = documents.hex_field(name, fields, "wrapped", KEY_BYTES + _TAG_BYTES)
    storage = documents.hex_field(name, fields, "storage", 16)
    try:
        return AESGCM(_slot_key(fields, secret)).decrypt(nonce, wrapped, _STORAGE_AAD + storage)
    except InvalidTag:
        return None


def _slot_key(fields: documents.Document, secret: Secret) -> bytes:
    if secret.method == "keyfile":
        return blake3(secret.value, derive_key_context="ruchu vds 1 key file").digest()
    costs: dict[str, Any] = {}
    for key, low, high in (
        ("memory_kib", 8, _MEMORY_KIB_MAX),
        ("iterations", 1, _ITERATIONS_MAX),
        ("lanes", 1, 64),
    ):
        costs[key] = documents.field("key slot", fields, key, int)
        if not low <= costs[key] <= high:
            raise Damaged(f"key slot: {key} is {costs[key]}")
    if costs["memory_kib"] < 8 * costs["lanes"]:
        raise Damaged(f"key slot: memory_kib is {costs['memory_kib']}")
    return hash_secret_raw(
        secret.value,
        documents.hex_field("key slot", fields, "salt", _SALT_BYTES),
        costs["iterations"],
        costs["memory_kib"],
        costs["lanes"],
        KEY_BYTES,
        Type.ID,
    )


def wrap_chain_key(storage_key: bytes, chain: str, key: bytes, nonce: bytes) -> bytes:
    """Return the chain key, wrapped by the storage key."""
    return AESGCM(storage_key).encrypt(nonce, key, _CHAIN_AAD + bytes.fromhex(chain))


def unwrap_chain_key(name: str, storage_key: bytes, fields: documents.Document) -> bytes:
    """Return the chain key out of the fields of `chain.json`.

    Raises:
        WrongKey: the storage key does not open it.
    """
    nonce = documents.hex_field(name, fields, "nonce", _NONCE_BYTES)
    wrapped = documents.hex_field(name, fields, "wrapped", KEY_BYTES + _TAG_BYTES)
    chain = documents.hex_field(name, fields, "chain", 16)
    try:
        return AESGCM(storage_key).decrypt(nonce, wrapped, _CHAIN_AAD + chain)
    except InvalidTag:
        raise WrongKey(f"({name} does not open)") from None
