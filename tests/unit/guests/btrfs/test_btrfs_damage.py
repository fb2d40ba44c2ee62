"""Single items of a real image made impossible, with the checksums made right again."""

import itertools
import struct

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import btrfs
from ruchu.guests.btrfs import trees
from ruchu.guests.contract import NodeKind

NODE = 16384
INODE, DIR_INDEX, EXTENT_DATA = 1, 96, 108
METADATA_ITEM, ROOT_ITEM = 169, 132
FS_TREE, EXTENT_TREE, ROOT_TREE = 5, 2, 1


def leaves(image, owner):
    """Yield place and parsed content of both copies of each leaf of a tree."""
    uuid = image.bytes_at((64 << 10) + 32, 16)
    for first, end in btrfs.allocation(image, frozen=True).used.tolist():
        for place in range(max(first, 1 << 20), end - NODE + 1, 4096):
            raw = image.bytes_at(place, NODE)
            if (
                raw[32:48] == uuid
                and struct.unpack_from("<Q", raw, 88)[0] == owner
                and not raw[100]
            ):
                yield place, trees.parse(raw)


def change_items(image, owner, kind, at, data):
    """Overwrite a part of every item of a type, in every copy."""
    changed = 0
    for place, leaf in list(leaves(image, owner)):
        for _, found, _, start, length in leaf.items:
            if found == kind and at + len(data) <= length:
                image.overwrite(place + trees.HEADER + start + at, data)
                changed += 1
        image.seal(place, NODE)
    assert changed


def read_all(fs):
    for entry in fs.entries(fs.root):
        fs.xattrs(entry.node)
        shown = fs.stat(entry.node)
        if shown.kind is NodeKind.SYMLINK:
            fs.link_target(entry.node)
        if shown.kind is NodeKind.FILE:
            list(fs.extents(entry.node))
            fs.read_into(entry.node, 0, memoryview(bytearray(min(shown.size, 1 << 20))))


@pytest.mark.parametrize(
    ("kind", "at", "data"),
    [
        (INODE, 16, b"\xff" * 8),
        (INODE, 24, b"\xff" * 8),
        (DIR_INDEX, 8, b"\x07"),
        (DIR_INDEX, 25, b"\1\0"),
        (DIR_INDEX, 27, b"\0\0"),
        (DIR_INDEX, 27, b"\xff\xff"),
        (DIR_INDEX, 29, b"\x09"),
        (DIR_INDEX, 30, b"/"),
        (DIR_INDEX, 30, b"\0"),
        (EXTENT_DATA, 20, b"\x05"),
        (EXTENT_DATA, 16, b"\x01"),
        (EXTENT_DATA, 45, b"\xff" * 8),
        (EXTENT_DATA, 21, struct.pack("<Q", 1 << 50)),
    ],
)
def test_impossible_items_are_damage(image, kind, at, data):
    change_items(image, FS_TREE, kind, at, data)
    with pytest.raises(GuestDamaged):
        read_all(btrfs.open_file_system(image))


@pytest.mark.parametrize(
    ("kind", "at", "data"), [(DIR_INDEX, 29, b"\x81"), (EXTENT_DATA, 17, b"\1")]
)
def test_encryption_is_not_understood(image, kind, at, data):
    change_items(image, FS_TREE, kind, at, data)
    with pytest.raises(GuestUnsupported):
        read_all(btrfs.open_file_system(image))


def test_names_of_subvolumes_that_a_snapshot_left_out_are_empty_directories(image):
    change_items(image, FS_TREE, DIR_INDEX, 8, bytes([ROOT_ITEM]))
    fs = btrfs.open_file_system(image)
    shown = list(fs.entries(fs.root))
    assert len(shown) > 300
    assert {entry.kind for entry in shown} == {NodeKind.DIRECTORY}
    assert list(itertools.chain(*(fs.entries(entry.node) for entry in shown))) == []
    assert {fs.stat(entry.node).mode for entry in shown} == {0o755}


@pytest.mark.parametrize(("at", "data"), [(238, b"\x08"), (176, b"\1" * 8), (160, b"\xff" * 8)])
def test_roots_that_mislead(image, at, data):
    change_items(image, ROOT_TREE, ROOT_ITEM, at, data)
    assert btrfs.allocation(image, frozen=True).doubt
    with pytest.raises(GuestDamaged):
        read_all(btrfs.open_file_system(image))


def key_places(image, owner, kinds):
    for place, leaf in list(leaves(image, owner)):
        for index, (_, kind, *_) in enumerate(leaf.items):
            if kind in kinds:
                yield place, trees.HEADER + 25 * index


@pytest.mark.parametrize(
    ("at", "data"),
    [(0, struct.pack("<Q", 1 << 62)), (0, b"\0" * 8), (8, b"\xa8"), (8, b"\xaa")],
)
def test_an_extent_tree_that_misleads_puts_all_in_doubt(image, at, data):
    """Extents elsewhere, of another length, or left out."""
    for place, key in list(key_places(image, EXTENT_TREE, {METADATA_ITEM})):
        image.change(place, NODE, key + at, data)
    allocation = btrfs.allocation(image, frozen=True)
    assert allocation.doubt
    assert allocation.used.tolist() == [[0, image.size]]


@pytest.mark.parametrize(
    ("at", "data"),
    [
        (96, struct.pack("<I", 10_000)),
        (100, b"\x01"),
        (100, b"\x08"),
        (80, b"\xff" * 8),
        (48, b"\xff" * 8),
        (32, b"\xff" * 8),
        (trees.HEADER + 17, b"\xff" * 4),
        (trees.HEADER, b"\xff" * 8),
    ],
)
def test_nodes_that_are_others(image, at, data):
    for owner in (FS_TREE, EXTENT_TREE):
        for place, _ in list(leaves(image, owner)):
            image.change(place, NODE, at, data)
    with pytest.raises(GuestDamaged):
        read_all(btrfs.open_file_system(image))
    if at != trees.HEADER + 17:
        # Where the content of an extent item lies makes no difference to the map.
        assert btrfs.allocation(image, frozen=True).doubt
