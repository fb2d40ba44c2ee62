"""The checksums of metadata of XFS version 5: CRC-32C of a block in which its own place is zeros."""

import numpy as np
import numpy.typing as npt

from ruchu.blocks import crc32c

Rows = npt.NDArray[np.uint8]
"""Shape (n, length): one block a row."""

# Bytes copied at once.
_BATCH = 1 << 20


def right(rows: Rows, at: int) -> bool:
    """Return whether every row carries its own checksum, little-endian, at byte `at`."""
    step = max(1, _BATCH // max(1, rows.shape[1]))
    for first in range(0, len(rows), step):
        part = rows[first : first + step].copy()
        stored = part[:, at : at + 4].copy().view("<u4").reshape(-1)
        part[:, at : at + 4] = 0
        if not np.array_equal(~crc32c.registers(part), stored):
            return False
    return True


def right_one(block: bytes, at: int) -> bool:
    """Return whether one block carries its own checksum at byte `at`."""
    return right(np.frombuffer(block, np.uint8).reshape(1, -1), at)
