"""Cyclic checksums of many rows at once, with numpy: what ext4 guards its metadata with.

A CRC is linear, so the words of a row need not be taken one after the other: neighbours are
joined pairwise, the first moved on by the length of the second. That is log2(words) steps for all
rows together. Sources: Documentation/filesystems/ext4/checksums.rst (crc32c, not inverted at the
end) and group_descr.rst (crc16 of `uninit_bg`) of the Linux kernel.
"""

import functools

import numpy as np
import numpy.typing as npt

Words = npt.NDArray[np.uint32]

_CRC32C = 0x82F63B78
_CRC16 = 0xA001
# Rows of up to 64 KiB: the largest block of the format, with the numbers put before it.
_LEVELS = 15
# Bytes worked on at once: the pieces stay in the processor's cache.
_BATCH = 1 << 20
SEED = 0xFFFFFFFF


class Crc:
    """A reflected CRC of at most 32 bits."""

    def __init__(self, polynomial: int) -> None:
        step = np.arange(256, dtype=np.uint32)
        for _ in range(8):
            step = np.where(step & 1, (step >> 1) ^ np.uint32(polynomial), step >> 1)
        moved = np.arange(256, dtype=np.uint32) << (np.arange(4, dtype=np.uint32)[:, None] * 8)
        for _ in range(4):
            moved = (moved >> 8) ^ step[moved & 0xFF]
        # Level k tells what 4 * 2**k zero bytes make of each of the four bytes of a register.
        self._levels = [moved]
        for _ in range(_LEVELS):
            self._levels.append(_moved(self._levels[-1], self._levels[-1]))

    def of_rows(self, rows: npt.NDArray[np.uint8], seed: int = SEED) -> Words:
        """Return the CRC of each row of shape (n, bytes), bytes at least 4, begun with `seed`."""
        length = rows.shape[1]
        levels = max(0, (-(-length // 4) - 1).bit_length())
        whole = 4 << levels
        sums = np.empty(len(rows), np.uint32)
        at_once = max(1, _BATCH // whole)
        for first in range(0, len(rows), at_once):
            part = rows[first : first + at_once]
            # Zeros in front of a register of zeros change nothing.
            padded = np.zeros((len(part), whole), np.uint8)
            padded[:, whole - length :] = part
            begun = np.array([seed], "<u4").view(np.uint8)
            padded[:, whole - length : whole - length + 4] ^= begun
            sums[first : first + at_once] = self._folded(padded.view("<u4"), levels)
        return sums

    def of(self, *parts: bytes, seed: int = SEED) -> int:
        """Return the CRC of the parts one after another, begun with `seed`."""
        row = np.frombuffer(b"".join(parts), np.uint8)
        return int(self.of_rows(row.reshape(1, -1), seed)[0])

    def _folded(self, words: Words, levels: int) -> Words:
        for level in range(levels):
            words = _moved(self._levels[level], words[:, 0::2]) ^ words[:, 1::2]
        return _moved(self._levels[0], words[:, 0])


def _moved(tables: Words, words: Words) -> Words:
    moved: Words = (
        tables[0][words & 0xFF]
        ^ tables[1][(words >> 8) & 0xFF]
        ^ tables[2][(words >> 16) & 0xFF]
        ^ tables[3][words >> 24]
    )
    return moved


@functools.cache
def crc32c() -> Crc:
    """Return the CRC of `metadata_csum`."""
    return Crc(_CRC32C)


@functools.cache
def crc16() -> Crc:
    """Return the CRC of `uninit_bg`; begin it with 0xFFFF."""
    return Crc(_CRC16)
