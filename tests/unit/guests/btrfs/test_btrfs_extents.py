import struct
import zlib

import pytest
import zstandard

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.btrfs import extents

KIB = 1 << 10


def item(kind=1, *, ram=8192, packing=0, encryption=0, encoding=0, place=(1 << 20, 8192, 0, 8192)):
    head = struct.pack("<QQBBHB", 7, ram, packing, encryption, encoding, kind)
    return head + (struct.pack("<QQQQ", *place) if isinstance(place, tuple) else place)


def test_a_regular_extent():
    found = extents.parse(4096, item(place=(1 << 20, 65536, 8192, 16384)))
    assert (found.start, found.end, found.written) == (4096, 20480, 7)
    assert (found.address, found.stored, found.offset) == (1 << 20, 65536, 8192)
    assert not found.is_hole


def test_what_reads_as_zeros():
    assert extents.parse(0, item(place=(0, 0, 0, 4096))).is_hole
    preallocated = extents.parse(0, item(2))
    assert preallocated.is_hole
    assert preallocated.address == 1 << 20
    assert not extents.parse(0, item(0, place=b"")).is_hole


@pytest.mark.parametrize(
    "malformed",
    [
        b"",
        item()[:-1],
        item(3),
        item(place=(1 << 20, 8192, 0, 0)),
        item(place=(1 << 20, 8192, 4096, 8192)),
        item(place=(1 << 63, 8192, 0, 8192)),
        item(packing=1, place=(1 << 20, 4096, 4096, 8192)),
        item(packing=1, ram=256 * KIB),
        item(packing=1, place=(1 << 20, 256 * KIB, 0, 4096)),
        item(0, packing=1, ram=256 * KIB, place=b"x"),
    ],
)
def test_what_contradicts_itself(malformed):
    with pytest.raises(GuestDamaged):
        extents.parse(0, malformed)


@pytest.mark.parametrize("unknown", [{"packing": 4}, {"encryption": 1}, {"encoding": 1}])
def test_what_is_not_understood(unknown):
    with pytest.raises(GuestUnsupported):
        extents.parse(0, item(**unknown))


@pytest.mark.parametrize("size", [1, 4096, 100_000])
def test_unpacking_stops_at_the_size_and_fills_with_zeros(size):
    plain = b"0123456789" * 5000
    expected = plain[:size].ljust(size, b"\0")
    packer = zstandard.ZstdCompressor(write_content_size=False).compressobj()
    zstd = packer.compress(plain) + packer.flush()
    for packing, packed in ((0, plain), (1, zlib.compress(plain)), (3, zstd)):
        assert extents.unpack(packed + bytes(999), packing, size, 4096) == expected


def test_what_unpacks_to_far_more_is_not_unpacked_whole():
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    assert extents.unpack(bomb, 3, 4096, 4096) == bytes(4096)


@pytest.mark.parametrize("packing", [1, 2, 3])
def test_damaged_packing(packing):
    with pytest.raises(GuestDamaged):
        extents.unpack(b"\xff" * 4096, packing, 4096, 4096)
