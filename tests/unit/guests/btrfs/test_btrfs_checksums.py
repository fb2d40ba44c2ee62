import hashlib
import struct

import numpy as np
import pytest

from ruchu.blocks import crc32c
from ruchu.errors import GuestUnsupported
from ruchu.guests import btrfs
from ruchu.guests.btrfs import checksums


def blocks_of(rng, count=5, length=4096):
    return np.frombuffer(rng.randbytes(count * length), np.uint8).reshape(count, length).copy()


@pytest.mark.parametrize("length", [512, 4096, 65536])
def test_crc32c_of_many_blocks_is_that_of_each(rng, length):
    blocks = blocks_of(rng, 3, length)
    for row in blocks:
        state = crc32c.checksum(row[checksums.ROOM :].tobytes())
        row[:4] = np.frombuffer(struct.pack("<I", state), np.uint8)
    assert checksums.right(blocks, checksums.CRC32C).tolist() == [True] * 3
    blocks[1, length - 1] ^= 1
    blocks[2, checksums.ROOM] ^= 128
    assert checksums.right(blocks, checksums.CRC32C).tolist() == [True, False, False]


@pytest.mark.parametrize("kind", [checksums.SHA256, checksums.BLAKE2B])
def test_cryptographic_checksums(rng, kind):
    blocks = blocks_of(rng)
    for row in blocks:
        rest = row[checksums.ROOM :].tobytes()
        plain = (
            hashlib.sha256(rest)
            if kind == checksums.SHA256
            else hashlib.blake2b(rest, digest_size=32)
        )
        row[: checksums.ROOM] = np.frombuffer(plain.digest(), np.uint8)
    blocks[3, 2000] ^= 4
    assert checksums.right(blocks, kind).tolist() == [True, True, True, False, True]


def test_xxhash64_is_that_of_mkfs(xxhash_image):
    """All nodes of an image that btrfs-progs made are right, and not after a change."""
    assert btrfs.allocation(xxhash_image, frozen=True).doubt == ""
    block = xxhash_image.bytes_at(64 << 10, 4096)
    assert checksums.right_one(block, checksums.XXHASH64)
    assert not checksums.right_one(block[:-1] + b"\1", checksums.XXHASH64)


def test_an_unknown_checksum_is_not_taken_for_right():
    with pytest.raises(GuestUnsupported, match="kind 4"):
        checksums.right_one(bytes(4096), 4)
