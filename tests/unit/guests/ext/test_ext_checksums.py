"""Checksums of ext4: the vectors that everybody uses, in rows of any length."""

import numpy as np
import pytest

from ruchu.guests.ext import checksums


def plain(polynomial: int, data: bytes, register: int) -> int:
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (polynomial if register & 1 else 0)
    return register


def test_the_usual_vectors():
    # The catalogue inverts CRC-32C at the end; CRC-16/MODBUS is not inverted.
    assert checksums.crc32c().of(b"123456789") ^ 0xFFFFFFFF == 0xE3069283
    assert checksums.crc16().of(b"123456789", seed=0xFFFF) == 0x4B37


@pytest.mark.parametrize("length", [4, 5, 7, 8, 50, 68, 127, 1020, 4096])
def test_rows_of_any_length(rng, length):
    rows = np.frombuffer(rng.randbytes(length * 3), np.uint8).reshape(3, length)
    for crc, polynomial, seed in (
        (checksums.crc32c(), 0x82F63B78, 0x12345678),
        (checksums.crc16(), 0xA001, 0xBEEF),
    ):
        wanted = [plain(polynomial, row.tobytes(), seed) for row in rows]
        assert crc.of_rows(rows, seed).tolist() == wanted


def test_more_rows_than_one_batch(rng):
    rows = np.frombuffer(rng.randbytes(8 * 300_000), np.uint8).reshape(-1, 8)
    sums = checksums.crc32c().of_rows(rows)
    for number in (0, 131_071, 131_072, 299_999):
        assert sums[number] == checksums.crc32c().of(rows[number].tobytes())
