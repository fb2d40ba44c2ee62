"""ext2, ext3, ext4 made by mke2fs, without mounting: kinds, features, doubts, contents."""

import os
import random
import struct
import subprocess
import threading
from pathlib import Path

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import ext, ranges
from ruchu.guests.contract import NodeKind
from ruchu.guests.ext import groups, superblock
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Content

MIB = 1 << 20
INCOMPAT, RO_COMPAT, STATE = 1024 + 0x60, 1024 + 0x64, 1024 + 0x3A
UNCHECKED = "-t ext4 -b 1024 -O ^metadata_csum,^64bit"
LARGE = random.Random(5).randbytes(400_000)


class Memory:
    """A volume in memory."""

    preferred_io = MIB

    def __init__(self, content):
        self.content = memoryview(content)
        self.size = len(content)

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        raise AssertionError


def made(place: Path, options: str, size: int = 8 * MIB) -> Path:
    tree = place / "tree"
    if not tree.exists():
        (tree / "folder").mkdir(parents=True)
        (tree / "large").write_bytes(LARGE)
        (tree / "folder" / "small").write_bytes(b"small")
        (tree / "folder" / "名前").symlink_to("../large")
        (tree / "long").symlink_to("x" * 200)
        os.link(tree / "large", tree / "folder" / "again")
        with (tree / "sparse").open("wb") as file:
            file.truncate(3 * MIB)
            file.seek(MIB)
            file.write(b"middle")
    image = place / "volume.img"
    with image.open("wb") as file:
        file.truncate(0)
        file.truncate(size)
    command = ["mke2fs", "-q", "-F", "-d", str(tree), *options.split(), str(image)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return image


def names(files, node=None):
    return {entry.name: entry for entry in files.entries(files.root if node is None else node)}


def content(files, node):
    buffer = bytearray(files.stat(node).size)
    files.read_into(node, 0, memoryview(buffer))
    return bytes(buffer)


def assert_whole(device, files):
    top = names(files)
    assert set(top) == {b"large", b"folder", b"long", b"sparse", b"lost+found"}
    folder = names(files, top[b"folder"].node)
    assert content(files, top[b"large"].node) == LARGE
    assert content(files, folder[b"again"].node) == LARGE
    assert files.stat(folder[b"again"].node).links == 2
    assert content(files, folder[b"small"].node) == b"small"
    assert files.link_target(folder["名前".encode()].node) == b"../large"
    assert files.link_target(top[b"long"].node) == b"x" * 200
    sparse = content(files, top[b"sparse"].node)
    assert sparse == bytes(MIB) + b"middle" + bytes(2 * MIB - 6)
    assert [e.content for e in files.extents(top[b"sparse"].node)] == [
        Content.HOLE,
        Content.DATA,
        Content.HOLE,
    ]


@pytest.mark.parametrize(
    ("options", "kind"),
    [
        ("-t ext2 -b 1024", "ext2"),
        ("-t ext3 -b 2048", "ext3"),
        ("-t ext4 -b 4096", "ext4"),
        ("-t ext2 -b 65536", "ext2"),
        ("-t ext4 -b 65536 -O ^has_journal", "ext4"),
        ("-t ext4 -b 32768 -O ^has_journal", "ext4"),
        ("-t ext4 -b 4096 -O casefold,verity,encrypt,stable_inodes", "ext4"),
        ("-t ext4 -b 4096 -O quota,project,orphan_file,mmp,fast_commit", "ext4"),
        ("-t ext4 -b 1024 -O bigalloc,^resize_inode -C 4096", "ext4"),
        ("-t ext4 -b 1024 -O meta_bg,^resize_inode -g 256", "ext4"),
        (UNCHECKED + ",uninit_bg -g 1024", "ext4"),
    ],
)
def test_kinds_and_features(tmp_path, options, kind):
    image = made(tmp_path, options, 32 * MIB)
    device = Memory(image.read_bytes())
    assert ext.recognise(device) == kind
    files = ext.open_file_system(device)
    assert files.facts.kind == kind
    assert files.facts.size == device.size
    assert_whole(device, files)
    found = ext.allocation(device, frozen=False)
    assert found.doubt == ""
    assert ranges.total(found.used) < device.size
    copy = bytearray(device.size)
    for first, end in found.used.tolist():
        copy[first:end] = device.content[first:end]
    # mke2fs itself counts quota wrongly: what e2fsck says must be the same of both.
    judge = ["e2fsck", "-fn", str(image)]
    before = subprocess.run(judge, check=False, capture_output=True, timeout=60)
    image.write_bytes(copy)
    after = subprocess.run(judge, check=False, capture_output=True, timeout=60)
    assert (after.returncode, after.stdout) == (before.returncode, before.stdout)
    assert after.returncode == 0 or "quota" in options
    assert_whole(Memory(copy), ext.open_file_system(Memory(copy)))


def test_what_is_none():
    for size in (0, 1, 1024, 2048, 100_000):
        assert ext.recognise(Memory(bytes(size))) == ""
        with pytest.raises(GuestDamaged):
            ext.open_file_system(Memory(bytes(size)))
        assert ext.allocation(Memory(bytes(size)), frozen=True).doubt
    journal = bytearray(4096)
    struct.pack_into("<I", journal, 1024 + 32, 8192)
    struct.pack_into("<H", journal, 1024 + 0x38, 0xEF53)
    struct.pack_into("<I", journal, 1024 + 0x4C, 1)
    struct.pack_into("<I", journal, INCOMPAT, 8)
    assert ext.recognise(Memory(journal)) == ""
    with pytest.raises(GuestUnsupported):
        ext.open_file_system(Memory(journal))


@pytest.mark.parametrize(
    ("offset", "bits", "doubt"),
    [
        (INCOMPAT, 0x4, "journal"),
        (INCOMPAT, 0x1, "unknown features"),
        (INCOMPAT, 0x1000, "unknown features"),
        (INCOMPAT, 0x4000_0000, "unknown features"),
        (RO_COMPAT, 0x80, "unknown features"),
        (STATE, 0x2, "errors"),
    ],
)
def test_flags_that_take_everything(tmp_path, offset, bits, doubt):
    image = bytearray(made(tmp_path, UNCHECKED).read_bytes())
    assert not ext.allocation(Memory(image), frozen=True).doubt
    image[offset : offset + 4] = (
        int.from_bytes(image[offset : offset + 4], "little") | bits
    ).to_bytes(4, "little")
    found = ext.allocation(Memory(image), frozen=True)
    assert doubt in found.doubt
    assert found.used.tolist() == [[0, len(image)]]


def test_features_that_nobody_can_read(tmp_path):
    image = bytearray(made(tmp_path, UNCHECKED).read_bytes())
    image[INCOMPAT] |= 1
    with pytest.raises(GuestUnsupported):
        ext.open_file_system(Memory(image))
    assert ext.recognise(Memory(image)) == "ext4"


def test_a_journal_that_denies_itself(tmp_path):
    image = bytearray(made(tmp_path, UNCHECKED).read_bytes())
    place = image.index(struct.pack(">II", 0xC03B3998, 4))
    struct.pack_into(">I", image, place + 0x1C, 1)
    assert "journal" in ext.allocation(Memory(image), frozen=True).doubt
    struct.pack_into(">II", image, place + 0x1C, 0, 5)
    assert "error" in ext.allocation(Memory(image), frozen=True).doubt
    struct.pack_into(">I", image, place, 0)
    assert "journal" in ext.allocation(Memory(image), frozen=True).doubt


def test_one_that_was_not_unmounted(tmp_path):
    image = bytearray(made(tmp_path, "-t ext2 -b 1024").read_bytes())
    image[STATE] &= ~1
    assert "not unmounted" in ext.allocation(Memory(image), frozen=True).doubt
    assert any("not unmounted" in note for note in ext.open_file_system(Memory(image)).facts.notes)


def test_a_wrong_checksum_of_an_inode_is_damage(tmp_path):
    image = bytearray(made(tmp_path, "-t ext4 -b 4096").read_bytes())
    files = ext.open_file_system(Memory(image))
    node = names(files)[b"large"].node
    place = image.index(struct.pack("<H", 0o100644) + bytes(2) + struct.pack("<I", len(LARGE)))
    image[place + 0x2C] ^= 1
    files = ext.open_file_system(Memory(image))
    with pytest.raises(GuestDamaged):
        files.stat(node)
    assert files.stat(names(files)[b"sparse"].node).size == 3 * MIB


def test_what_is_not_there(tmp_path):
    files = ext.open_file_system(Memory(made(tmp_path, "-t ext4 -b 4096").read_bytes()))
    top = names(files)
    file, folder = top[b"large"].node, top[b"folder"].node
    assert top[b"folder"].kind is NodeKind.DIRECTORY
    assert files.streams(file) == {}
    for node in (0, -1, 10**9, 500):
        with pytest.raises(NotFound):
            files.stat(node)
    with pytest.raises(NotFound):
        list(files.entries(file))
    with pytest.raises(NotFound):
        list(files.extents(folder))
    with pytest.raises(NotFound):
        files.link_target(file)
    with pytest.raises(NotFound):
        files.placed(file, "stream")


def test_a_deleted_file_is_not_shown(tmp_path):
    image = made(tmp_path, "-t ext4 -b 4096")
    before = ext.open_file_system(Memory(image.read_bytes()))
    node = names(before, names(before)[b"folder"].node)[b"small"].node
    subprocess.run(
        ["debugfs", "-w", "-R", "rm /folder/small", str(image)],
        check=True,
        capture_output=True,
        timeout=60,
    )
    files = ext.open_file_system(Memory(image.read_bytes()))
    assert b"small" not in names(files, names(files)[b"folder"].node)
    with pytest.raises(NotFound):
        files.stat(node)


def test_placed_is_where_the_content_is(tmp_path):
    device = Memory(made(tmp_path, "-t ext4 -b 1024").read_bytes())
    files = ext.open_file_system(device)
    node = names(files)[b"large"].node
    placed = files.placed(node)
    assert ranges.total(placed) == -(-len(LARGE) // 1024) * 1024
    found = b"".join(bytes(device.content[first:end]) for first, end in placed.tolist())
    assert sorted(found[:1024]) == sorted(LARGE[:1024]) or len(placed) > 1
    inline = Memory(made(tmp_path, "-t ext4 -b 1024 -I 256 -O inline_data").read_bytes())
    files = ext.open_file_system(inline)
    assert files.placed(names(files, names(files)[b"folder"].node)[b"small"].node) is None


def test_reading_from_several_threads(tmp_path):
    files = ext.open_file_system(Memory(made(tmp_path, "-t ext3 -b 1024").read_bytes()))
    wrong = []

    def look():
        for _ in range(20):
            top = names(files)
            if content(files, top[b"large"].node) != LARGE or len(top) != 5:
                wrong.append(top)

    threads = [threading.Thread(target=look) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_reading_any_range(tmp_path, rng):
    files = ext.open_file_system(Memory(made(tmp_path, "-t ext4 -b 1024").read_bytes()))
    for name, whole in (
        (b"large", LARGE),
        (b"sparse", bytes(MIB) + b"middle" + bytes(2 * MIB - 6)),
    ):
        node = names(files)[name].node
        for _ in range(200):
            start = rng.randrange(len(whole))
            length = rng.randrange(len(whole) - start + 1)
            buffer = bytearray(b"\xaa" * length)
            files.read_into(node, start, memoryview(buffer))
            assert buffer == whole[start : start + length]


def test_what_lies_behind_the_file_system_is_not_taken(tmp_path):
    image = made(tmp_path, "-t ext4 -b 4096").read_bytes()
    longer = Memory(image + b"x" * MIB)
    assert ext.allocation(longer, frozen=False).used.max() <= len(image)
    assert ext.open_file_system(longer).facts.size == len(image)


def test_a_block_that_belongs_to_metadata_and_is_marked_free(tmp_path):
    """The count of free blocks agrees, and still something is wrong: take everything."""
    image = bytearray(made(tmp_path, "-t ext2 -b 1024").read_bytes())
    layout = superblock.read(VolumeReader(Memory(image)))
    table = groups.read(VolumeReader(Memory(image)), layout)
    bitmap = int(table.block_bitmaps[0]) * 1024
    bit = int(table.inode_tables[0]) - layout.first
    image[bitmap + bit // 8] &= ~(1 << bit % 8)
    free = 2048 + 0xC
    image[free : free + 2] = (int(table.free[0]) + 1).to_bytes(2, "little")
    assert "metadata free" in ext.allocation(Memory(image), frozen=False).doubt
