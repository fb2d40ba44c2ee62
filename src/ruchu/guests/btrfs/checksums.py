"""The checksums of Btrfs over many blocks at once: CRC-32C, xxHash64, SHA-256, BLAKE2b.

xxHash64 follows the specification of its author (xxHash fast digest algorithm, version 0.1.1).
"""

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from ruchu.blocks import crc32c
from ruchu.errors import GuestUnsupported

CRC32C, XXHASH64, SHA256, BLAKE2B = range(4)

Blocks = npt.NDArray[np.uint8]
"""Shape (n, length): one block a row; `length` a power of two, at least 512."""

# A block begins with this room for its own checksum, which the checksum leaves out.
ROOM = 32
_U64 = np.uint64


def right(blocks: Blocks, kind: int) -> npt.NDArray[np.bool_]:
    """Return for each block whether its first bytes are the checksum of the rest.

    Raises:
        GuestUnsupported: the kind of checksum is not known.
    """
    same: npt.NDArray[np.bool_]
    if kind == CRC32C:
        wanted = blocks[:, :4].copy().view("<u4").reshape(-1)
        same = ~crc32c.registers(blocks[:, ROOM:]) == wanted
        return same
    if kind == XXHASH64:
        wanted_long = blocks[:, :8].copy().view("<u8").reshape(-1)
        same = _xxhash64_of_rest(blocks) == wanted_long
        return same
    if kind not in {SHA256, BLAKE2B}:
        raise GuestUnsupported(f"Btrfs checksums of kind {kind}")
    digest = (
        hashlib.sha256 if kind == SHA256 else functools.partial(hashlib.blake2b, digest_size=32)
    )
    return np.array(
        [digest(row[ROOM:].tobytes()).digest() == row[:ROOM].tobytes() for row in blocks],
        np.bool_,
    )


def right_one(block: bytes, kind: int) -> bool:
    """Return whether the first bytes of one block are the checksum of the rest."""
    return bool(right(np.frombuffer(block, np.uint8).reshape(1, -1), kind)[0])


_PRIME_1, _PRIME_2, _PRIME_3, _PRIME_4 = (
    _U64(0x9E3779B185EBCA87),
    _U64(0xC2B2AE3D27D4EB4F),
    _U64(0x165667B19E3779F9),
    _U64(0x85EBCA77C2B2AE63),
)
_MASK = (1 << 64) - 1


def _rotated(words: npt.NDArray[np.uint64], bits: int) -> npt.NDArray[np.uint64]:
    return (words << _U64(bits)) | (words >> _U64(64 - bits))


def _xxhash64_of_rest(blocks: Blocks) -> npt.NDArray[np.uint64]:
    """Return xxHash64, seed 0, of what follows the room: a multiple of 32 bytes, so no tail."""
    words = blocks[:, ROOM:].copy().view("<u8").astype(np.uint64)
    lanes = words.reshape(len(blocks), -1, 4)
    start = [int(_PRIME_1) + int(_PRIME_2), int(_PRIME_2), 0, -int(_PRIME_1)]
    state = np.tile(np.array([value & _MASK for value in start], np.uint64), (len(blocks), 1))
    lanes *= _PRIME_2
    for stripe in range(lanes.shape[1]):
        state = _rotated(state + lanes[:, stripe], 31) * _PRIME_1
    total = np.zeros(len(blocks), np.uint64)
    for lane, bits in enumerate((1, 7, 12, 18)):
        total += _rotated(state[:, lane], bits)
    for lane in range(4):
        total ^= _rotated(state[:, lane] * _PRIME_2, 31) * _PRIME_1
        total = total * _PRIME_1 + _PRIME_4
    total += _U64(blocks.shape[1] - ROOM)
    total = (total ^ (total >> _U64(33))) * _PRIME_2
    total = (total ^ (total >> _U64(29))) * _PRIME_3
    return total ^ (total >> _U64(32))
