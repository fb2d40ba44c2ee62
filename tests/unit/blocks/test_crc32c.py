"""CRC-32C: the vectors of RFC 3720, and rows of any length against one bit after the other."""

import numpy as np
import pytest

from ruchu.blocks import crc32c

# RFC 3720, appendix B.4, as numbers: it lists the bytes in the order of the wire.
READ_10 = bytes.fromhex(
    "01c000000000000000000000000000001400000000000400000000140000001828000000000000000200000000000000"
)
VECTORS = {
    "zeros": (bytes(32), 0x8A9136AA),
    "ones": (b"\xff" * 32, 0x62A8AB43),
    "incrementing": (bytes(range(32)), 0x46DD794E),
    "decrementing": (bytes(range(31, -1, -1)), 0x113FDB5C),
    "read (10)": (READ_10, 0xD9963A56),
    "the usual": (b"123456789", 0xE3069283),
    "nothing": (b"", 0),
}


def plain(data, register, polynomial=0x82F63B78):
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (polynomial if register & 1 else 0)
    return register


@pytest.mark.parametrize("name", list(VECTORS))
def test_the_vectors_of_rfc_3720(name):
    data, wanted = VECTORS[name]
    assert crc32c.checksum(data) == wanted
    if len(data) >= 4:
        rows = np.frombuffer(data * 3, np.uint8).reshape(3, -1)
        assert (crc32c.registers(rows) ^ 0xFFFFFFFF).tolist() == [wanted] * 3


@pytest.mark.parametrize("length", [4, 5, 7, 8, 50, 68, 127, 128, 129, 1020, 4092, 4096])
@pytest.mark.parametrize("polynomial", [0x82F63B78, 0xA001])
def test_rows_of_any_length(rng, length, polynomial):
    rows = np.frombuffer(rng.randbytes(length * 3), np.uint8).reshape(3, length)
    seed = rng.getrandbits(32 if polynomial > 0xFFFF else 16)
    wanted = [plain(row.tobytes(), seed, polynomial) for row in rows]
    crc = crc32c.Crc(polynomial)
    assert crc.registers(rows, seed).tolist() == wanted
    assert [crc.register(row.tobytes(), seed) for row in rows] == wanted


def test_rows_need_not_lie_together(rng):
    wide = np.frombuffer(rng.randbytes(8 * 512), np.uint8).reshape(8, 512)
    rows = wide[::2, 100:300]
    assert crc32c.registers(rows).tolist() == [plain(row.tobytes(), crc32c.SEED) for row in rows]


def test_more_rows_than_one_batch(rng):
    rows = np.frombuffer(rng.randbytes(8 * 100_000), np.uint8).reshape(-1, 8)
    found = crc32c.registers(rows)
    for number in (0, 32_767, 32_768, 99_999):
        assert found[number] == plain(rows[number].tobytes(), crc32c.SEED)


@pytest.mark.parametrize("cut", [0, 1, 32, 128, 129, 1000, 5000])
def test_a_register_goes_on_where_another_stopped(rng, cut):
    data = rng.randbytes(5000)
    before = crc32c.register(data[:cut])
    assert crc32c.register(data[cut:], before) == crc32c.register(data)
