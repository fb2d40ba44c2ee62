"""The checksums of Btrfs over many blocks at once: CRC-32C, xxHash64, SHA-256, BLAKE2b.

CRC-32C (RFC 3720, appendix B.4) is linear: the checksum of two halves is that of the first,
shifted by the length of the second, xor that of the second. So words are folded in pairs, all
pairs of all blocks in one numpy operation. xxHash64 follows the specification of its author
(xxHash fast digest algorithm, version 0.1.1).
"""

import functools
import hashlib

import numpy as np
import numpy.typing as npt

from ruchu.errors import GuestUnsupported

CRC32C, XXHASH64, SHA256, BLAKE2B = range(4)

Blocks = npt.NDArray[np.uint8]
"""Shape (n, length): one block a row; `length` a power of two, at least 512."""
Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
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
        same = _crc32c_of_rest(blocks) == wanted
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


def crc32c(data: bytes, state: int = 0xFFFFFFFF) -> int:
    """Return the state after `data`, byte by byte: for names, which are short."""
    table = _byte_table()
    for byte in data:
        state = (state >> 8) ^ table[(state ^ byte) & 0xFF]
    return state


@functools.cache
def _byte_table() -> tuple[int, ...]:
    table = []
    for byte in range(256):
        state = byte
        for _ in range(8):
            state = (state >> 1) ^ (_POLYNOMIAL if state & 1 else 0)
        table.append(state)
    return tuple(table)


@functools.cache
def _shift(level: int) -> Words:
    """Return tables (4, 256) that move a word past 4 * 2**level bytes of zeros."""
    if not level:
        short = _byte_table()
        rows = [[byte << (8 * place) for byte in range(256)] for place in range(4)]
        for row in rows:
            for index, word in enumerate(row):
                state = word
                for _ in range(4):
                    state = (state >> 8) ^ short[state & 0xFF]
                row[index] = state
        return np.array(rows, np.uint32)
    below = _shift(level - 1)
    return _moved(below, below)


def _moved(words: Words, tables: Words) -> Words:
    """Return words moved past zeros: the sum of what each of their four bytes becomes."""
    moved: Words = tables[0][words & 0xFF]
    moved ^= tables[1][(words >> 8) & 0xFF]
    moved ^= tables[2][(words >> 16) & 0xFF]
    moved ^= tables[3][words >> 24]
    return moved


def _crc32c_of_rest(blocks: Blocks) -> Words:
    words: Words = blocks.view("<u4").astype(np.uint32)
    # Zeros in front change nothing, so the room of the checksum may stay, emptied.
    words[:, : ROOM // 4] = 0
    words[:, ROOM // 4] ^= np.uint32(0xFFFFFFFF)
    level = 0
    while words.shape[1] > 1:
        words = _moved(words[:, 0::2], _shift(level)) ^ words[:, 1::2]
        level += 1
    return ~_moved(words[:, 0], _shift(0))


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
