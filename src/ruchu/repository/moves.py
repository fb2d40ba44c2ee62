"""Where the chunks of a compacted pack are now (`docs/formats/vds.md`, section 7). Pure."""

import struct
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from blake3 import blake3
from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM

from ruchu.errors import Damaged, UnknownFormat

HOPS_MAX = 64
MOVED_BYTES_MAX = 512 << 20
_FRONT = struct.Struct("<8sII16s16s12sI")
_COUNTS = struct.Struct("<II")
_MAGIC = b"RUCHUMV1"
_SUM_BYTES = 32
assert _FRONT.size == 64

U32 = npt.NDArray[np.uint32]


@dataclass(frozen=True, slots=True)
class Moves:
    """A table: `old[i]` (ascending offsets in the old pack) is now `new[i]` in `targets[to[i]]`."""

    targets: tuple[bytes, ...]
    old: U32
    to: U32
    new: U32

    def find(self, offset: int) -> tuple[bytes, int] | None:
        """Return the pack and offset where a record is now; None if it was dropped."""
        at = int(np.searchsorted(self.old, offset))
        if at == len(self.old) or int(self.old[at]) != offset:
            return None
        return self.targets[int(self.to[at])], int(self.new[at])

    def packed(self, pack: bytes, chain: bytes, nonce: bytes, cipher: AESGCM | None) -> bytes:
        """Return the whole object."""
        body = b"".join(
            (
                _COUNTS.pack(len(self.targets), len(self.old)),
                *self.targets,
                *(np.ascontiguousarray(c, "<u4").tobytes() for c in (self.old, self.to, self.new)),
            )
        )
        flags = 1 if cipher else 0
        front = _FRONT.pack(_MAGIC, 1, flags, pack, chain, nonce if cipher else bytes(12), 0)
        stored = cipher.encrypt(nonce, body, front) if cipher else body
        return front + stored + blake3(front + stored).digest()


def parse(name: str, data: bytes, pack: bytes, chain: bytes, cipher: AESGCM | None) -> Moves:
    """Return the table in an object.

    Raises:
        Damaged, UnknownFormat: it is not what was written.
    """
    if len(data) < _FRONT.size + _SUM_BYTES or blake3(data[:-32]).digest() != data[-32:]:
        raise Damaged(f"{name}: its sum is wrong")
    magic, version, flags, found_pack, found_chain, nonce, zero = _FRONT.unpack_from(data)
    if magic != _MAGIC or version != 1 or flags > 1 or zero:
        raise UnknownFormat(f"{name}: version {version}")
    if found_pack != pack or found_chain != chain or bool(flags) != (cipher is not None):
        raise Damaged(f"{name} belongs to another pack")
    body = data[_FRONT.size : -_SUM_BYTES]
    try:
        plain = cipher.decrypt(nonce, body, data[:64]) if cipher else body
    except InvalidTag:
        raise Damaged(f"{name} does not decrypt") from None
    return _table(name, plain)


def _table(name: str, plain: bytes) -> Moves:
    if len(plain) < _COUNTS.size:
        raise Damaged(f"{name}: a body of {len(plain)} bytes")
    targets, rows = _COUNTS.unpack_from(plain)
    if len(plain) != _COUNTS.size + 16 * targets + 12 * rows:
        raise Damaged(f"{name}: {len(plain)} bytes for {targets} targets and {rows} rows")
    start = _COUNTS.size + 16 * targets
    ids = tuple(plain[_COUNTS.size + 16 * i :][:16] for i in range(targets))
    columns = np.frombuffer(plain, "<u4", 3 * rows, start).reshape(3, rows)
    if rows and (int(columns[1].max()) >= targets or (np.diff(columns[0].astype("i8")) <= 0).any()):
        raise Damaged(f"{name}: rows out of order")
    return Moves(ids, columns[0], columns[1], columns[2])
