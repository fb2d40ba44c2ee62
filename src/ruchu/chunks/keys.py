"""The keys of a chain, derived from its one secret (`docs/formats/vds.md`, section 4)."""

from dataclasses import dataclass

from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

KEY_BYTES = 32
ID_BYTES = 32


@dataclass(frozen=True, slots=True, repr=False)
class ChainKeys:
    """Keys derived from the chain key. Never printed."""

    chunk_id: bytes
    head: bytes
    packs: bytes

    @classmethod
    def derive(cls, chain_key: bytes) -> "ChainKeys":
        """Derive all keys from the 32-byte chain key."""
        assert len(chain_key) == KEY_BYTES
        return cls(
            chunk_id=_derived("ruchu vds 1 chunk id", chain_key),
            head=_derived("ruchu vds 1 head", chain_key),
            packs=_derived("ruchu vds 1 packs", chain_key),
        )

    def pack_cipher(self, pack: bytes) -> AESGCM:
        """Return the cipher of one pack, by its 16-byte id."""
        return AESGCM(blake3(pack, key=self.packs).digest())

    def seal(self, text: bytes) -> str:
        """Return the keyed seal of a head's canonical text, in hex."""
        return blake3(text, key=self.head).hexdigest()


def _derived(context: str, material: bytes) -> bytes:
    return blake3(material, derive_key_context=context).digest()
