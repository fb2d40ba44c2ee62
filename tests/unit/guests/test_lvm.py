"""Volume groups from metadata written here: types, spans, what is missing, what is wrong."""

import re
import struct

import pytest

from ruchu.errors import GuestDamaged
from ruchu.guests import lvm, lvm_metadata, ranges, segments
from ruchu.guests.volume_reading import VolumeReader
from ruchu.testing.memory_disk import MemoryDisk

MIB = 1 << 20
SIZE = 16 * MIB
UUIDS = {f"pv{number}": str(number) * 32 for number in range(3)}


def label(uuid, size, area):
    header = uuid.encode() + struct.pack("<Q", size)
    header += struct.pack("<QQQQ", MIB, 0, 0, 0) + struct.pack("<QQQQ", *area, 0, 0)
    sector = bytearray(512)
    sector[32 : 32 + len(header)] = header
    sector[:32] = struct.pack("<8sQII8s", b"LABELONE", 1, 0, 32, b"LVM2 001")
    sector[16:20] = struct.pack("<I", lvm_metadata.checksum(bytes(sector[20:])))
    return bytes(sector)


def mda(text, area, offset=512):
    """Return the metadata area with a text at an offset, wrapped if it does not fit."""
    start, size = area
    content = bytearray(size)
    data = text.encode() + b"\0"
    locations = struct.pack("<QQII", offset, len(data), lvm_metadata.checksum(data), 0) + bytes(24)
    header = struct.pack("<16sIQQ", b" LVM2 x[5A%r0N*>", 1, start, size) + locations
    header = header.ljust(508, b"\0")
    content[:512] = struct.pack("<I", lvm_metadata.checksum(header)) + header
    head = min(len(data), size - offset)
    content[offset : offset + head] = data[:head]
    content[512 : 512 + len(data) - head] = data[head:]
    return bytes(content)


def disk(name, text, *, size=SIZE, area=(4096, 64 << 10), offset=512):
    content = bytearray(size)
    content[512:1024] = label(UUIDS[name], size, area)
    content[area[0] : sum(area)] = mda(text, area, offset)
    for at in range(MIB, size, MIB):
        content[at] = at // MIB + 16 * int(name[-1])
    return bytes(content)


def group(volumes, members=("pv0", "pv1"), seqno=7, name="vg0"):
    physical = "".join(
        f'{key} {{ id = "{UUIDS[key]}" status = ["ALLOCATABLE"] flags = [] '
        f"pe_start = 2048 pe_count = 15 }}\n"
        for key in members
    )
    return (
        f'{name} {{ # a comment\n id = "g-{name}"\nseqno = {seqno}\nextent_size = 2048\n'
        f"status = [ ]\nphysical_volumes {{ {physical} }}\nlogical_volumes {{ {volumes} }}\n}}\n"
        'contents = "Text Format Volume Group"\nversion = 1\ndescription = "a \\"b\\" \\\\"\n'
    )


def volume(name, *parts, visible=True):
    status = '"READ", "WRITE"' + (', "VISIBLE"' if visible else "")
    listed = "".join(f"segment{number + 1} {{ {part} }}\n" for number, part in enumerate(parts))
    return f'{name} {{ id = "{name}" status = [{status}] {listed} }}\n'


def linear(first, count, *areas, extra=""):
    named = ", ".join(f'"{key}", {at}' for key, at in areas)
    return (
        f'start_extent = {first} extent_count = {count} type = "striped" '
        f"stripe_count = {len(areas)} {extra} stripes = [ {named} ]"
    )


def assembled(*disks):
    return lvm.assemble(
        {
            f"vd{letter}": segments.whole(f"vd{letter}", MemoryDisk(content))
            for letter, content in zip("abc", disks, strict=False)
        }
    )


def marks(device):
    """Return the first byte of each MiB."""
    buffer = bytearray(device.size)
    device.read_into(0, memoryview(buffer))
    return list(buffer[::MIB])


def both(text, **options):
    return disk("pv0", text, **options), disk("pv1", text, **options)


def mib(many):
    return [[first / MIB, end / MIB] for first, end in many.tolist()]


def test_linear_volumes_span_disks_in_the_order_of_their_segments():
    text = group(
        volume("root", linear(2, 2, ("pv1", 5)), linear(0, 2, ("pv0", 3)))
        + volume("data-x_y", linear(0, 1, ("pv0", 0)))
    )
    result = assembled(*both(text))
    assert [(v.name, v.reason) for v in result.volumes] == [("vg0/root", ""), ("vg0/data-x_y", "")]
    assert marks(result.volumes[0].device) == [4, 5, 16 + 6, 16 + 7]
    assert result.broken == {}
    assert mib(result.structure["vda"]) == [[0, 1]]
    assert mib(result.free["vda"]) == [[2, 4], [6, 16]]
    assert mib(result.free["vdb"]) == [[1, 6], [8, 16]]


def test_stripes_alternate():
    text = group(volume("s", linear(0, 4, ("pv0", 0), ("pv1", 0), extra="stripe_size = 2048")))
    assert marks(assembled(*both(text)).volumes[0].device) == [1, 17, 2, 18]


def test_metadata_that_wraps_around_its_area_is_read():
    text = group(volume("root", linear(0, 1, ("pv0", 0))))
    result = assembled(*both(text, area=(4096, 4096), offset=3584))
    assert [v.name for v in result.volumes] == ["vg0/root"]


@pytest.mark.parametrize("kind", ["raid1", "mirror", "cache", "vdo", "integrity", "invented"])
def test_a_type_that_is_not_understood_keeps_all_it_takes(kind):
    text = group(
        volume(
            "m",
            f'start_extent = 0 extent_count = 2 type = "{kind}" raids = [ "meta", "image" ] '
            f'origin = "more"',
        )
        + volume("meta", linear(0, 1, ("pv0", 3)), visible=False)
        + volume("image", linear(0, 2, ("pv1", 4)), visible=False)
        + volume("more", linear(0, 1, ("pv0", 9)), visible=False)
    )
    result = assembled(*both(text))
    (found,) = result.volumes
    assert kind in found.reason
    where = found.device.everywhere()
    assert mib(where["vda"]) == [[4, 5], [10, 11]]
    assert mib(where["vdb"]) == [[5, 7]]
    assert mib(result.free["vda"]) == [[1, 4], [5, 10], [11, 16]]


def test_the_origin_of_a_snapshot_is_readable_and_its_store_is_not():
    text = group(
        volume("root", linear(0, 2, ("pv0", 0)))
        + volume("cow", linear(0, 1, ("pv0", 5)), visible=False)
        + volume(
            "snapshot0",
            'start_extent = 0 extent_count = 2 type = "snapshot" origin = "root" cow_store = "cow"',
        )
    )
    found = {v.name: v for v in assembled(*both(text)).volumes}
    assert found["vg0/root"].reason == ""
    assert "snapshot" in found["vg0/cow"].reason
    merging = {
        v.name: v for v in assembled(*both(text.replace("cow_store", "merging_store"))).volumes
    }
    assert "merged" in merging["vg0/root"].reason


def test_without_a_disk_its_group_is_not_readable_and_all_of_it_counts():
    text = group(
        volume("here", linear(0, 2, ("pv0", 0))) + volume("gone", linear(0, 2, ("pv1", 0)))
    )
    result = assembled(disk("pv0", text))
    assert {v.name: bool(v.reason) for v in result.volumes} == {"vg0/here": True, "vg0/gone": True}
    assert "lacks pv1" in result.broken["vda"]
    assert result.free == {}
    assert result.structure == {}


def test_a_physical_volume_of_no_group_counts():
    blank = bytearray(disk("pv0", ""))
    blank[4096 + 40 : 4096 + 64] = bytes(24)
    blank[4096:4100] = struct.pack("<I", lvm_metadata.checksum(bytes(blank[4100 : 4096 + 512])))
    assert "no volume group" in assembled(bytes(blank)).broken["vda"]


def test_twins_are_not_trusted():
    text = group(volume("root", linear(0, 2, ("pv0", 0))), members=("pv0",))
    result = assembled(disk("pv0", text), disk("pv0", text))
    assert set(result.broken) == {"vda", "vdb"}
    assert result.volumes == []


def test_areas_of_different_age_leave_the_volumes_readable_and_count():
    old = group(volume("root", linear(0, 2, ("pv0", 0))), seqno=6)
    new = group(volume("root", linear(0, 2, ("pv0", 4))), seqno=7)
    result = assembled(disk("pv0", old), disk("pv1", new))
    assert marks(result.volumes[0].device) == [5, 6]
    assert set(result.broken) == {"vda", "vdb"}


def test_groups_of_one_name_are_told_apart():
    one = group(volume("root", linear(0, 2, ("pv0", 0))), members=("pv0",))
    two = group(volume("root", linear(0, 2, ("pv1", 0))), members=("pv1",)).replace(
        "g-vg0", "other"
    )
    result = assembled(disk("pv0", one), disk("pv1", two))
    assert {v.name for v in result.volumes} == {"vg0(g-vg0)/root", "vg0(other)/root"}
    assert result.broken == {}


def test_what_cannot_be_makes_everything_count():
    good = group(volume("root", linear(0, 2, ("pv0", 0))))
    for old, new in [
        ('stripes = [ "pv0", 0 ]', 'stripes = [ "pv0", 14 ]'),
        ('stripes = [ "pv0", 0 ]', 'stripes = [ "pv0", -1 ]'),
        ("pe_count = 15", "pe_count = 16"),
        ("pe_start = 2048", 'pe_start = "x"'),
        ("extent_size = 2048", "extent_size = 0"),
        ("extent_count = 2", "extent_count = 99999999999999999999"),
    ]:
        assert old in good
        result = assembled(*both(good.replace(old, new)))
        assert set(result.broken) == {"vda", "vdb"}, new
        loop = group(volume("a", linear(0, 1, ("b", 0))) + volume("b", linear(0, 1, ("a", 0))))
    found = assembled(*both(loop))
    assert all(v.reason for v in found.volumes)


def test_the_text_is_parsed_as_lvm_writes_it():
    parsed = lvm_metadata.parse(
        'a { b = 5 c = -3 d = 1.5 e = [] f = ["x", 1, "y\\"z"]\n# no = 1\n 2024db { q = "" } }'
    )
    assert parsed == {
        "a": {"b": 5, "c": -3, "d": 1.5, "e": [], "f": ["x", 1, 'y"z'], "2024db": {"q": ""}}
    }


@pytest.mark.parametrize(
    "text",
    ["", "a", "a =", "a = {", "a { b = 1", "a { } }", 'a = "x', "a = [1, [2]]", "a = [1", "= 1",
     "a { b = 1 b = 2 }", "a { " * 50, "\0", "a = " + "9" * 10000, "a = b", "a = " + " # \n" * 5000 + "\0", "a" + " " * 100_000 + "\0"],
)  # fmt: skip
def test_other_text_is_damage(text):
    with pytest.raises(GuestDamaged):
        lvm_metadata.parse(text)


def test_labels_headers_and_texts_are_held_against_their_checksums():
    content = bytearray(disk("pv0", group("")))
    places = {512 + 40: "label", 4096 + 30: "header", 4096 + 512 + 20: "checksum"}
    for at, word in places.items():
        damaged = bytearray(content)
        damaged[at] ^= 1
        reader = VolumeReader(MemoryDisk(bytes(damaged)))
        if word == "label":
            with pytest.raises(GuestDamaged, match=word):
                lvm_metadata.read_physical_volume(reader)
        else:
            faults = lvm_metadata.read_physical_volume(reader).faults
            assert re.search(word, faults[0])
    assert lvm_metadata.read_physical_volume(VolumeReader(MemoryDisk(bytes(content)))).faults == ()


def test_every_byte_is_told_once():
    text = group(
        volume("root", linear(0, 3, ("pv0", 2)))
        + volume("hidden", linear(0, 1, ("pv1", 1)), visible=False)
    )
    result = assembled(*both(text))
    for key in ("vda", "vdb"):
        parts = [result.structure[key], result.free[key]]
        parts += [v.device.everywhere().get(key, ranges.empty()) for v in result.volumes]
        assert sum(map(ranges.total, parts)) == SIZE
        assert ranges.union(*parts).tolist() == [[0, SIZE]]
