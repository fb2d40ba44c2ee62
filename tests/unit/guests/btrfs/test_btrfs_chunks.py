import dataclasses
import struct

import numpy as np
import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests.btrfs import chunks, superblock
from ruchu.guests.btrfs.chunks import Chunk, ChunkMap
from ruchu.guests.volume_reading import VolumeReader

MIB = 1 << 20
DUP, RAID0 = 1 << 5, 1 << 3


@pytest.fixture
def found(image):
    return superblock.load(VolumeReader(image))


def item(places, *, length=8 * MIB, kind=0, device=1, count=None):
    head = struct.pack("<QQQQIIIHH", length, 2, 65536, kind, 0, 0, 4096, count or len(places), 0)
    return head + b"".join(struct.pack("<QQ16s", device, place, b"") for place in places)


def test_one_and_two_copies(found):
    assert chunks.parse(MIB, item([4 * MIB]), found) == Chunk(MIB, 8 * MIB, (4 * MIB,))
    twice = chunks.parse(MIB, item([4 * MIB, 32 * MIB], kind=DUP), found)
    assert twice.copies == (4 * MIB, 32 * MIB)
    assert chunks.parse(MIB, item([4 * MIB], kind=RAID0), found).copies == (4 * MIB,)


@pytest.mark.parametrize(
    ("start", "raw"),
    [
        (0, b""),
        (0, item([MIB])[:-1]),
        (0, item([MIB], kind=DUP)),
        (0, item([MIB, 2 * MIB])),
        (0, item([MIB], kind=DUP, count=2)),
        (0, item([129 * MIB])),
        (0, item([MIB], length=0)),
        (0, item([MIB], length=4095)),
        (100, item([MIB])),
        ((1 << 63) - 4096, item([MIB])),
    ],
)
def test_chunks_that_contradict_themselves(found, start, raw):
    with pytest.raises(GuestDamaged):
        chunks.parse(start, raw, found)


@pytest.mark.parametrize("bit", [4, 6, 7, 8, 9, 10, 11])
def test_chunks_over_several_devices(found, bit):
    with pytest.raises(GuestUnsupported, match="profile"):
        chunks.parse(0, item([MIB, 2 * MIB], kind=1 << bit), found)
    with pytest.raises(GuestUnsupported, match="RAID0"):
        chunks.parse(0, item([MIB, 2 * MIB], kind=RAID0), found)
    with pytest.raises(GuestUnsupported, match="device 2"):
        chunks.parse(0, item([MIB], device=2), found)


@pytest.mark.parametrize("cut", [1, 17, 60, 90])
def test_system_chunks_cut_short(found, cut):
    short = dataclasses.replace(found, system_chunks=found.system_chunks[:-cut])
    with pytest.raises(GuestDamaged, match="cut short"):
        list(chunks.of_system(short))
    other = dataclasses.replace(found, system_chunks=bytes(len(found.system_chunks)))
    with pytest.raises(GuestDamaged, match="something else"):
        list(chunks.of_system(other))


def test_addresses():
    mapped = ChunkMap([Chunk(800, 100, (5000, 9000)), Chunk(200, 100, (1000,))])
    assert mapped.places(200, 100) == (1000,)
    assert mapped.places(850, 50) == (5050, 9050)
    rows = np.array([[210, 220], [800, 810], [805, 900]], np.int64)
    assert mapped.physical(rows).tolist() == [[1010, 1020], [5000, 5100], [9000, 9100]]
    assert mapped.physical(rows[:0]).tolist() == []
    for first, end in ((199, 200), (299, 301), (300, 310), (899, 901), (0, 1000)):
        with pytest.raises(GuestDamaged, match="no chunk"):
            mapped.places(first, end - first)
        with pytest.raises(GuestDamaged, match="no chunk"):
            mapped.physical(np.array([[first, end]], np.int64))


def test_no_chunks_and_chunks_that_overlap():
    with pytest.raises(GuestDamaged, match="no chunks"):
        ChunkMap([]).physical(np.array([[0, 1]], np.int64))
    with pytest.raises(GuestDamaged, match="overlap"):
        ChunkMap([Chunk(0, 100, (0,)), Chunk(99, 100, (500,))])
    assert len(ChunkMap([Chunk(0, 100, (0,)), Chunk(0, 100, (0,))]).chunks) == 1
