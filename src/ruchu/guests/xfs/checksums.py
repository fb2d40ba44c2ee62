"""The checksums of metadata of XFS version 5: CRC-32C (RFC 3720, appendix B.4).

A CRC is linear: the sum of two halves is that of the first, moved on by the length of the second,
xor that of the second. So the words of many blocks are folded in pairs, all at once.
"""

import functools

import numpy as np
import numpy.typing as npt

Rows = npt.NDArray[np.uint8]
"""Shape (n, length): one block a row."""
Words = npt.NDArray[np.uint32]

_POLYNOMIAL = 0x82F63B78
_SEED = 0xFFFFFFFF
# Bytes folded at once, so that the words stay in the processor's cache.
_BATCH = 1 << 20


def right(rows: Rows, at: int) -> bool:
    """Return whether every row carries its own checksum, little-endian, at byte `at`."""
    step = max(1, _BATCH // max(1, rows.shape[1]))
    for first in range(0, len(rows), step):
        part = rows[first : first + step].copy()
        stored = part[:, at : at + 4].copy().view("<u4").reshape(-1)
        part[:, at : at + 4] = 0
        if not np.array_equal(_of_rows(part), stored):
            return False
    return True


def right_one(block: bytes, at: int) -> bool:
    """Return whether one block carries its own checksum at byte `at`."""
    return right(np.frombuffer(block, np.uint8).reshape(1, -1), at)


def _of_rows(rows: Rows) -> Words:
    """Return the checksum of each row of at least four bytes."""
    count, length = rows.shape
    whole = 1 << max(2, (length - 1).bit_length())
    # Zeros in front of a register of zeros change nothing.
    padded = np.zeros((count, whole), np.uint8)
    padded[:, whole - length :] = rows
    padded[:, whole - length : whole - length + 4] ^= np.uint8(_SEED & 0xFF)
    words: Words = padded.view("<u4").astype(np.uint32)
    level = 0
    while words.shape[1] > 1:
        words = _moved(words[:, 0::2], _shift(level)) ^ words[:, 1::2]
        level += 1
    return ~_moved(words[:, 0], _shift(0))


@functools.cache
def _shift(level: int) -> Words:
    """Return tables (4, 256): what 4 * 2**level bytes of zeros make of each byte of a word."""
    if level:
        below = _shift(level - 1)
        return _moved(below, below)
    words = np.arange(256, dtype=np.uint32) << (8 * np.arange(4, dtype=np.uint32)[:, None])
    for _ in range(32):
        words = np.where(words & 1, (words >> 1) ^ np.uint32(_POLYNOMIAL), words >> 1)
    return words.astype(np.uint32)


def _moved(words: Words, tables: Words) -> Words:
    moved: Words = tables[0][words & 0xFF]
    moved ^= tables[1][(words >> 8) & 0xFF]
    moved ^= tables[2][(words >> 16) & 0xFF]
    moved ^= tables[3][words >> 24]
    return moved
