"""Volumes made of pieces of disks: what is read and where it lies agree with a plain model."""

import random

import numpy as np
import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ranges, segments
from ruchu.model.extents import Content
from ruchu.testing.memory_disk import MemoryDisk

DISKS = {name: random.Random(name).randbytes(1000) for name in ("vda", "vdb", "vdc")}


def pieces(rng, depth=0):
    """Return a volume built at random, and what each of its bytes is: (disk, position) or None."""
    if depth > 3 or rng.random() < 0.3:
        name = rng.choice(list(DISKS))
        whole = segments.whole(name, MemoryDisk(DISKS[name]))
        start = rng.randrange(900)
        length = rng.randrange(1, 1000 - start)
        return whole.part(start, length), [(name, at) for at in range(start, start + length)]
    kind = rng.choice(["hole", "join", "part", "gather"])
    if kind == "hole":
        length = rng.randrange(1, 50)
        return segments.hole(length), [None] * length
    if kind == "join":
        made = [pieces(rng, depth + 1) for _ in range(rng.randrange(1, 4))]
        return segments.concatenated(one for one, _ in made), [at for _, two in made for at in two]
    volume, model = pieces(rng, depth + 1)
    if not model:
        return volume, model
    if kind == "part":
        start = rng.randrange(len(model))
        length = rng.randrange(len(model) - start + 1)
        return volume.part(start, length), model[start : start + length]
    rows, result = [], []
    for _ in range(rng.randrange(1, 6)):
        start = rng.choice([-1, rng.randrange(len(model))])
        length = rng.randrange(30) if start < 0 else rng.randrange(len(model) - start + 1)
        rows.append((start, length))
        result += [None] * length if start < 0 else model[start : start + length]
    return volume.gathered(np.array(rows, np.int64)), result


@pytest.mark.parametrize("seed", range(60))
def test_a_volume_of_pieces_reads_and_lies_as_its_model(seed):
    rng = random.Random(seed)
    volume, model = pieces(rng)
    expected = bytes(0 if at is None else DISKS[at[0]][at[1]] for at in model)
    assert volume.size == len(model)
    for _ in range(5):
        start = rng.randrange(len(model) + 1)
        length = rng.randrange(len(model) - start + 1)
        buffer = bytearray(b"\xaa" * length)
        volume.read_into(start, memoryview(buffer))
        assert bytes(buffer) == expected[start : start + length]
        found = {
            (key, at)
            for key, many in volume.physical(ranges.of_pairs([(start, start + length)])).items()
            for first, end in many.tolist()
            for at in range(first, end)
        }
        assert found == {at for at in model[start : start + length] if at is not None}
    extents = list(volume.extents())
    assert not extents or [(e.start, e.end) for e in extents] == list(
        zip([0, *(e.end for e in extents[:-1])], (e.end for e in extents), strict=True)
    )
    assert sum(e.length for e in extents) == len(model)
    for extent in extents:
        inside = model[extent.start : extent.end]
        assert all((at is None) == (extent.content is Content.HOLE) for at in inside)
    assert set(volume.disks) == {at[0] for at in model if at is not None}


def test_stripes_take_turns():
    volumes = [segments.whole(name, MemoryDisk(DISKS[name][:120])) for name in ("vda", "vdb")]
    striped = segments.interleaved(volumes, 30)
    buffer = bytearray(striped.size)
    striped.read_into(0, memoryview(buffer))
    expected = b"".join(
        DISKS[name][at : at + 30] for at in range(0, 120, 30) for name in ("vda", "vdb")
    )
    assert bytes(buffer) == expected


def test_what_cannot_be_put_together_is_refused():
    disk = segments.whole("vda", MemoryDisk(DISKS["vda"]))
    with pytest.raises(GuestDamaged):
        disk.part(900, 101)
    with pytest.raises(GuestDamaged):
        disk.part(-1, 10)
    with pytest.raises(GuestDamaged):
        disk.gathered(np.array([[0, 10], [995, 6]], np.int64))
    with pytest.raises(GuestDamaged):
        disk.read_into(990, memoryview(bytearray(11)))
    with pytest.raises(GuestDamaged):
        segments.interleaved([disk, disk.part(0, 500)], 10)
    with pytest.raises(GuestUnsupported):
        segments.interleaved([disk, disk], 300)


def test_too_many_pieces_are_refused(monkeypatch):
    monkeypatch.setattr(segments, "PIECES_MAX", 10)
    disk = segments.whole("vda", MemoryDisk(DISKS["vda"]))
    with pytest.raises(GuestUnsupported):
        segments.interleaved([disk, disk], 10)
    with pytest.raises(GuestUnsupported):
        disk.gathered(np.array([[at * 2, 1] for at in range(11)], np.int64))
