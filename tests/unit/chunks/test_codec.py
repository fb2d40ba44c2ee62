import contextlib
import os

import pytest
import zstandard
from blake3 import blake3
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from hypothesis import given
from hypothesis import strategies as st

from ruchu.chunks import codec
from ruchu.chunks.keys import ChainKeys


@given(st.binary(min_size=1, max_size=5000) | st.builds(lambda b, n: b * n, st.binary(
    min_size=1, max_size=9), st.integers(1, 9000)), st.integers(0, 5))  # fmt: skip
def test_a_chunk_comes_back(chunk, level):
    used, payload = codec.Compressor(level).compress(chunk)
    assert bytes(codec.decompress(used, payload, len(chunk))) == chunk
    assert len(payload) <= len(chunk)
    if level == 0:
        assert used == codec.RAW


def test_noise_is_stored_as_it_is():
    chunk = os.urandom(65536)
    compressor = codec.Compressor()
    assert compressor.compress(chunk) == (codec.RAW, chunk)
    used, payload = compressor.compress(memoryview(bytes(65536)))
    assert used == codec.ZSTD
    assert zstandard.frame_content_size(payload) == 65536


@pytest.mark.parametrize("wrong", [
    (codec.RAW, b"abc", 4), (2, b"abc", 3), (codec.ZSTD, b"abc", 3), (codec.ZSTD, b"", 3),
    (codec.ZSTD, zstandard.compress(b"abc"), 4), (codec.ZSTD, zstandard.compress(b"abc")[:-1], 3),
    (codec.RAW, b"", codec.PLAIN_BYTES_MAX + 1),
    (codec.ZSTD, zstandard.ZstdCompressor(write_content_size=False).compress(b"abc"), 3),
], ids=range(8))  # fmt: skip
def test_what_is_no_payload(wrong):
    with pytest.raises(ValueError):  # noqa: PT011 - the callers add what it was
        codec.decompress(*wrong)


@given(st.data())
def test_a_damaged_payload_raises_nothing_else(data):
    chunk = b"again and again " * 300
    payload = bytearray(zstandard.compress(chunk))
    for _ in range(data.draw(st.integers(1, 3))):
        payload[data.draw(st.integers(0, len(payload) - 1))] ^= data.draw(st.integers(1, 255))
    with contextlib.suppress(ValueError):
        assert len(codec.decompress(codec.ZSTD, bytes(payload), len(chunk))) == len(chunk)
    room = memoryview(bytearray(len(chunk) + 2))
    with contextlib.suppress(ValueError):
        codec.decompress_into(codec.ZSTD, bytes(payload), len(chunk), room[1:-1])
    assert not room[0]
    assert not room[-1]


def test_the_keys_are_those_of_the_specification():
    key = bytes(range(32))
    keys = ChainKeys.derive(key)

    def derived(context):
        return blake3(key, derive_key_context=context).digest()

    assert keys.chunk_id == derived("ruchu vds 1 chunk id")
    assert keys.head == derived("ruchu vds 1 head")
    assert keys.packs == derived("ruchu vds 1 packs")
    assert keys.seal(b"text") == blake3(b"text", key=keys.head).hexdigest()
    assert codec.chunk_id(keys.chunk_id, b"x") == blake3(b"x", key=keys.chunk_id).digest()
    pack = bytes(16)
    expected = AESGCM(blake3(pack, key=keys.packs).digest())
    assert keys.pack_cipher(pack).encrypt(bytes(12), b"x", b"") == expected.encrypt(
        bytes(12), b"x", b""
    )
    assert key.hex() not in repr(keys)
    assert repr(keys.packs) not in repr(keys)


@pytest.mark.parametrize("level", [0, 2])
def test_a_chunk_is_put_where_it_belongs(level, rng):
    chunk = rng.randbytes(1000) * 9
    used, payload = codec.Compressor(level).compress(chunk)
    room = memoryview(bytearray(len(chunk) + 10))
    codec.decompress_into(used, payload, len(chunk), room[5:-5])
    assert room == bytes(5) + chunk + bytes(5)
    for length, target in ((len(chunk), room), (len(chunk) - 1, room[1:-10])):
        with pytest.raises(ValueError, match=r"bytes|length"):
            codec.decompress_into(used, payload, length, target)
    with pytest.raises(ValueError, match=r"."):
        codec.decompress_into(used, payload[:-1], len(chunk), room[5:-5])
    with pytest.raises(ValueError, match="codec 7"):
        codec.decompress_into(7, payload, len(chunk), room[5:-5])


def test_what_is_no_frame_is_put_nowhere():
    with pytest.raises(ValueError, match=r"."):
        codec.decompress_into(codec.ZSTD, b"no frame", 10, memoryview(bytearray(10)))
