import os
import struct
import threading

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import btrfs, ranges
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Content, Extent

MIB = 1 << 20
MIRROR = 64 * MIB


def tree_of(fs, node):
    found = {}
    for entry in fs.entries(node):
        shown = fs.stat(entry.node)
        content = b""
        if shown.kind is NodeKind.DIRECTORY:
            content = tree_of(fs, entry.node)
        elif shown.kind is NodeKind.SYMLINK:
            content = fs.link_target(entry.node)
        else:
            buffer = bytearray(shown.size)
            fs.read_into(entry.node, 0, memoryview(buffer))
            content = bytes(buffer)
        found[entry.name] = content
    return found


def tree_of_host(path):
    found = {}
    for name in os.listdir(os.fsencode(path)):
        below = os.path.join(os.fsencode(path), name)
        if os.path.islink(below):
            found[name] = os.readlink(below)
        elif os.path.isdir(below):
            found[name] = tree_of_host(below)
        else:
            with open(below, "rb") as file:
                found[name] = file.read()
    return found


def doubt_of(image):
    allocation = btrfs.allocation(image, frozen=True)
    assert allocation.used.tolist() == [[0, image.size]]
    return allocation.doubt


def test_shows_what_mkfs_was_given(planted, image):
    fs = btrfs.open_file_system(image)
    assert btrfs.recognise(image) == "btrfs"
    assert tree_of(fs, fs.root) == tree_of_host(planted[0])
    assert (fs.facts.kind, fs.facts.label, fs.facts.block) == ("btrfs", "label", 4096)
    assert fs.facts.size == image.size
    assert fs.facts.notes == ()


def test_parts_of_a_file(planted, image):
    fs = btrfs.open_file_system(image)
    nodes = {entry.name: entry.node for entry in fs.entries(fs.root)}
    size = 512_003
    assert nodes[b"again"] == nodes[b"large"]
    assert fs.stat(nodes[b"large"]).links == 2
    assert list(fs.extents(nodes[b"large"])) == [Extent(0, size, Content.DATA)]
    assert list(fs.extents(nodes[b"empty"])) == []
    plain = (planted[0] / "large").read_bytes()
    for start, length in ((0, 1), (4095, 2), (size - 3, 3), (100_001, 300_000), (7, 0)):
        buffer = bytearray(length)
        fs.read_into(nodes[b"large"], start, memoryview(buffer))
        assert buffer == plain[start : start + length]
    assert ranges.total(fs.placed(nodes[b"large"])) == 516_096
    assert ranges.total(fs.placed(nodes[b"empty"])) == 0
    assert fs.placed(nodes[b"entry7"]) is None
    assert fs.streams(nodes[b"large"]) == {}


def test_what_is_not_there(image):
    fs = btrfs.open_file_system(image)
    nodes = {entry.name: entry.node for entry in fs.entries(fs.root)}
    for asked in (
        lambda: fs.stat(5 << 64 | 999_999),
        lambda: fs.stat(7 << 64 | 256),
        lambda: fs.stat(300 << 64 | 256),
        lambda: fs.stat(-1),
        lambda: fs.stat(1 << 200),
        lambda: list(fs.entries(nodes[b"large"])),
        lambda: list(fs.extents(fs.root)),
        lambda: list(fs.extents(nodes[b"large"], "stream")),
        lambda: fs.link_target(nodes[b"large"]),
        lambda: fs.read_into(nodes[b"large"], 512_000, memoryview(bytearray(4))),
        lambda: fs.read_into(nodes[b"large"], -1, memoryview(bytearray(4))),
        lambda: fs.xattrs(5 << 64 | 999_999),
        lambda: fs.streams(5 << 64 | 999_999),
    ):
        with pytest.raises(NotFound):
            asked()


def test_several_threads_read_the_same(planted, image):
    fs = btrfs.open_file_system(image)
    expected = tree_of_host(planted[0])
    found = []
    threads = [
        threading.Thread(target=lambda: found.append(tree_of(fs, fs.root) == expected))
        for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [True] * 6


def test_the_map_holds_what_is_fixed_and_little_else(image):
    allocation = btrfs.allocation(image, frozen=False)
    assert allocation.doubt == ""
    assert allocation.used[0].tolist()[0] == 0
    assert ranges.total(ranges.clipped(allocation.used, 0, MIB)) == MIB
    assert ranges.total(ranges.clipped(allocation.used, MIRROR, MIRROR + 4096)) == 4096
    assert ranges.total(allocation.used) < 5 * MIB


def test_another_file_system_is_none(tmp_path, image):
    image.overwrite((64 << 10) + 64, bytes(8))
    assert btrfs.recognise(image) == ""
    image.size = 4096
    assert btrfs.recognise(image) == ""
    assert doubt_of(image)


def test_the_copy_of_the_superblock_opens_it_but_the_map_is_in_doubt(planted, image):
    image.overwrite((64 << 10) + 200, b"\xff" * 8)
    fs = btrfs.open_file_system(image)
    assert tree_of(fs, fs.root) == tree_of_host(planted[0])
    assert any("copy 1" in note for note in fs.facts.notes)
    assert "superblock" in doubt_of(image)
    image.overwrite(MIRROR + 200, b"\xff" * 8)
    with pytest.raises(GuestDamaged, match="checksum"):
        btrfs.open_file_system(image)


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (188, struct.pack("<Q", 1 << 12 | 0x341), "zoned"),
        (188, struct.pack("<Q", 1 << 13 | 0x341), "extent-tree-v2"),
        (188, struct.pack("<Q", 1 << 40 | 0x341), "bit 40"),
        (136, struct.pack("<Q", 2), "2 devices"),
        (56, struct.pack("<Q", 1 << 35 | 1), "conversion"),
        (196, struct.pack("<H", 9), "checksums of kind 9"),
    ],
)
def test_what_is_not_understood_is_taken_whole(image, at, data, words):
    image.change_superblock(at, data)
    assert btrfs.recognise(image) == "btrfs"
    assert words in doubt_of(image)
    with pytest.raises(GuestUnsupported, match=words):
        btrfs.open_file_system(image)


@pytest.mark.parametrize(
    ("at", "data", "words"),
    [
        (180, struct.pack("<Q", 1 << 20), "reading only"),
        (56, struct.pack("<Q", 1 << 2 | 1), "errors"),
        (120, struct.pack("<Q", 4096), "lists"),
    ],
)
def test_what_can_be_read_but_not_mapped(planted, image, at, data, words):
    image.change_superblock(at, data)
    assert words in doubt_of(image)
    fs = btrfs.open_file_system(image)
    assert tree_of(fs, fs.root) == tree_of_host(planted[0])


def test_a_block_group_tree_changes_nothing_for_a_reader(planted, image):
    """Block group items may lie in a tree of their own, whose nodes the extent tree lists."""
    (flags,) = struct.unpack("<Q", image.bytes_at((64 << 10) + 180, 8))
    image.change_superblock(180, struct.pack("<Q", flags | 8))
    fs = btrfs.open_file_system(image)
    assert tree_of(fs, fs.root) == tree_of_host(planted[0])
    assert btrfs.allocation(image, frozen=True).doubt == ""


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (48, struct.pack("<Q", 4096)),
        (144, struct.pack("<I", 4097)),
        (148, struct.pack("<I", 1 << 20)),
        (160, struct.pack("<I", 4096)),
        (198, b"\x09"),
        (209, struct.pack("<Q", 1 << 40)),
        (811 + 8, b"\0"),
        (80, struct.pack("<Q", 1 << 30)),
        (80, struct.pack("<Q", 30408704 + 5)),
        (88, struct.pack("<Q", 0)),
        (72, struct.pack("<Q", 1000)),
        (96, struct.pack("<Q", 30408704)),
    ],
)
def test_a_superblock_that_misleads(image, at, data):
    for copy, place in enumerate((64 << 10, MIRROR)):
        if at == 48 and copy:
            continue
        image.change(place, 4096, at, data)
    assert doubt_of(image)


def test_profiles_over_several_devices_are_refused(image):
    """A RAID1 chunk in the superblock, though it says that there is one device."""
    (kind,) = struct.unpack("<Q", image.bytes_at((64 << 10) + 811 + 17 + 24, 8))
    image.change_superblock(811 + 17 + 24, struct.pack("<Q", kind & ~0x20 | 1 << 4))
    assert "RAID1" in doubt_of(image)
