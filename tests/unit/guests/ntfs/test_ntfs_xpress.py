"""XPRESS, LZX and the overlay filter, by hand; wimlib judges them in the system tests."""

import random
import struct

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.ntfs import lzx, overlay, reparse, xpress
from ruchu.guests.ntfs.attributes import DATA, Attribute
from ruchu.guests.ntfs.boot_sector import Geometry
from ruchu.guests.ntfs.overlay import OverlayReader
from ruchu.guests.ntfs.streams import StreamReader, layout

GEOMETRY = Geometry(512, 8000, 4096, 1000, 1024, 4096, 4, 8, 0)


def packed(*symbols):
    """Return data where all 512 symbols have codes of 9 bits; (symbol, extra, bits) for matches."""
    bits = ""
    for symbol in symbols:
        number, extra, count = symbol if isinstance(symbol, tuple) else (symbol, 0, 0)
        bits += f"{number:09b}" + (f"{extra:0{count}b}" if count else "")
    bits += "0" * (-len(bits) % 16 + 32)
    words = [int(bits[at : at + 16], 2) for at in range(0, len(bits), 16)]
    return b"\x99" * 256 + struct.pack(f"<{len(words)}H", *words)


def match(length, distance):
    width = distance.bit_length() - 1
    return 256 + (width << 4) + length - 3, distance - (1 << width), width


def test_literals_and_matches():
    assert xpress.decompressed(packed(*b"hello"), 5) == b"hello"
    assert xpress.decompressed(packed(*b"abc", match(6, 3)), 9) == b"abcabcabc"
    assert xpress.decompressed(packed(*b"a", match(9, 1)), 10) == b"a" * 10
    assert xpress.decompressed(packed(*b"abcdefg", match(4, 5), *b"!"), 12) == b"abcdefgcdef!"
    plain = random.Random(1).randbytes(4096)
    assert xpress.decompressed(packed(*plain), 4096) == plain


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", 1),
        (bytes(300), 1),
        (b"\x11" * 300, 1),
        (packed(*b"abc"), 100),
        (packed(*b"a", match(4, 2)), 5),
        (packed(*b"a", match(9, 1)), 9),
        (packed(*b"a", (256 + 15, 0, 0)), 100_000),
    ],
)
def test_what_cannot_be(data, size):
    with pytest.raises(GuestDamaged):
        xpress.decompressed(data, size)


def test_random_data_ends():
    rng, failed = random.Random(2), 0
    for _ in range(300):
        data = rng.choice([b"\x99" * 256, rng.randbytes(256)]) + rng.randbytes(400)
        try:
            assert len(xpress.decompressed(data, 4096)) == 4096
        except GuestDamaged:
            failed += 1
    assert failed > 100


def stream(value):
    found = Attribute(DATA, b"", 0, 0, True, value, size=len(value), initialised=len(value))
    return layout([found], GEOMETRY)


def test_chunks_that_did_not_shrink():
    rng = random.Random(3)
    plain = rng.randbytes(4096)
    content = plain + plain[:10]
    value = struct.pack("<I", 4096) + plain + plain[:10]
    reader = OverlayReader(StreamReader(None))
    buffer = bytearray(len(content))
    reader.read_into(1, stream(value), (len(content), 4096), 0, memoryview(buffer))
    assert buffer == content


@pytest.mark.parametrize(
    "value",
    [b"", b"\xff" * 100, struct.pack("<I", 5000) + bytes(100), struct.pack("<I", 0) + bytes(9000)],
)
def test_chunks_that_are_not_there(value):
    reader = OverlayReader(StreamReader(None))
    with pytest.raises(GuestDamaged):
        reader.read_into(1, stream(value), (8192, 4096), 0, memoryview(bytearray(8192)))


@pytest.mark.parametrize(
    ("data", "words"),
    [(b"", "unknown form"), ((1, 1, 1, 0), "a WIM"), ((1, 2, 1, 9), "algorithm 9")],
)
def test_ways_that_are_not_known(data, words):
    whole = struct.pack("<IHHIIII", reparse.WOF, 16, 0, *data) if data else b""
    with pytest.raises(GuestUnsupported, match=words):
        overlay.chunk_size(whole)


def stored(content, *, recent=(1, 1, 1), turns=1):
    """Return LZX blocks that are stored as they are: 3 bits of kind, 17 of length, 12 of filling."""
    whole = b""
    for _ in range(turns):
        bits = f"{3:03b}0{len(content):016b}" + "0" * 12
        words = [int(bits[at : at + 16], 2) for at in (0, 16)]
        whole += struct.pack("<HHIII", *words, *recent) + content + bytes(len(content) & 1)
    return whole


def test_lzx_stored_blocks():
    assert lzx.decompressed(stored(b"abcdefg"), 7) == b"abcdefg"
    assert lzx.decompressed(stored(b"abcdefg", turns=3), 21) == b"abcdefg" * 3
    assert lzx.decompressed(stored(b"abcd", turns=2), 8) == b"abcdabcd"


def test_lzx_calls_are_relative_again():
    def called(place):
        plain = b"0123\xe8" + struct.pack("<i", place) + bytes(20)
        found = lzx.decompressed(stored(plain), len(plain))
        assert (found[:5], found[9:]) == (plain[:5], plain[9:])
        return struct.unpack_from("<i", found, 5)[0]

    assert called(1000) == 996
    assert called(-4) == 12_000_000 - 4
    assert called(-5) == -5
    assert called(12_000_000) == 12_000_000


@pytest.mark.parametrize(
    ("data", "size"),
    [
        (b"", 1),
        (bytes(100), 5),
        (stored(b"abc"), 2),
        (stored(b"abc"), 4),
        (stored(b"abc")[:10], 3),
        (b"\0\x10\0\x30" + bytes(100), 5),
        (b"\xff" * 500, 500),
    ],
)
def test_lzx_that_cannot_be(data, size):
    with pytest.raises(GuestDamaged):
        lzx.decompressed(data, size)


def test_random_lzx_ends():
    rng, failed = random.Random(5), 0
    for _ in range(200):
        data = rng.choice([b"\x10\x30", b"\x10\x50", b""]) + rng.randbytes(300)
        try:
            assert len(lzx.decompressed(data, 4096)) == 4096
        except GuestDamaged:
            failed += 1
    assert failed > 100
