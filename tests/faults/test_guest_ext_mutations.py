"""ext4 with bytes of its metadata changed: it is refused or read, and never anything else.

What is shown is bounded too: each image is walked to a limit, and no read leaves the device.
"""

import os
import random
import subprocess
from pathlib import Path

import hypothesis
import numpy as np
import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import ext, ranges
from ruchu.guests.contract import NodeKind
from ruchu.guests.ext import groups, superblock
from ruchu.guests.volume_reading import VolumeReader
from ruchu.model.extents import Content

MIB = 1 << 20
# Every reachable name of the images is seen within this; more would be a loop.
ENTRIES_MAX = 3000
# Bytes that one walk may read from the device: what a loop would pass at once.
READ_MAX = 1 << 30
REFUSED = (GuestDamaged, GuestUnsupported, NotFound)
MARKS = (0, 1, 2, 0xFF, 0x7F, 0x80, 0xFFFF, 0xFFFFFFFF, 0x7FFFFFFF, 0xF30A, 0xEA020000)
FORMATS = {
    "ext4": "-t ext4 -b 1024 -I 256 -O inline_data",
    "ext4-unchecked": "-t ext4 -b 1024 -O ^metadata_csum,^64bit,inline_data,extent",
    "ext2": "-t ext2 -b 1024",
}


class Memory:
    """A volume in memory that tells how much was read."""

    preferred_io = MIB

    def __init__(self, content: bytes | bytearray) -> None:
        self.content = memoryview(content)
        self.size = len(content)
        self.read = 0

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        self.read += len(buffer)
        assert self.read < READ_MAX
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        raise AssertionError


@pytest.fixture(scope="module", params=FORMATS)
def volume(request, tmp_path_factory):
    """Return an image of 4 MiB, and the places of its metadata that are worth a change."""
    content = made(tmp_path_factory.mktemp("ext"), FORMATS[request.param], 4 * MIB)
    used = ext.allocation(Memory(content), frozen=False)
    assert not used.doubt
    return content, places(content, used.used)


def made(place: Path, options: str, size: int) -> bytes:
    """Return an image with a little of everything, made without mounting it."""
    tree = place / "tree"
    (tree / "folder" / "deeper").mkdir(parents=True)
    (tree / "small").write_bytes(b"small")
    (tree / "folder" / "large").write_bytes(random.Random(1).randbytes(300_000))
    (tree / "link").symlink_to("short")
    (tree / "long link").symlink_to("long" * 100)
    with (tree / "sparse").open("wb") as file:
        for number in range(40):
            file.seek(number * 20_000)
            file.write(b"some")
    for number in range(300):
        (tree / "folder" / f"file {number} with a longer name").touch()
    os.setxattr(tree / "small", "user.short", b"value")
    os.setxattr(tree / "folder", "user.long", b"v" * 500)
    image = place / "volume.img"
    with image.open("wb") as file:
        file.truncate(size)
    command = ["mke2fs", "-q", "-F", "-N", "1024", "-d", str(tree), *options.split(), str(image)]
    subprocess.run(command, check=True, capture_output=True, timeout=60)
    return image.read_bytes()


def places(content: bytes, used: np.ndarray) -> np.ndarray:
    """Return places of bytes that are not zero in what is used, without what files hold."""
    device = Memory(content)
    files = ext.open_file_system(device)
    held = [ranges.empty()]
    for node, kind in walked(files):
        if kind is NodeKind.FILE and (placed := files.placed(node)) is not None:
            held.append(placed)
    metadata = ranges.difference(used, ranges.union(*held), len(content))
    marked = np.frombuffer(content, np.uint8) != 0
    return np.concatenate([np.flatnonzero(marked[a:b]) + a for a, b in metadata.tolist()])


def walked(files: ext.ExtFileSystem):
    """Yield nodes and kinds of all that can be reached, to a limit."""
    stack, seen = [(files.root, NodeKind.DIRECTORY)], set()
    while stack and len(seen) < ENTRIES_MAX:
        node, kind = stack.pop()
        if node in seen:
            continue
        seen.add(node)
        yield node, kind
        if kind is NodeKind.DIRECTORY:
            try:
                stack += [(entry.node, entry.kind) for entry in files.entries(node)]
            except REFUSED:
                continue


def look(files: ext.ExtFileSystem, node: int, kind: NodeKind) -> None:
    seen = files.stat(node)
    files.xattrs(node)
    if kind is NodeKind.SYMLINK:
        files.link_target(node)
    if kind is NodeKind.FILE:
        files.placed(node)
        at = 0
        for number, extent in enumerate(files.extents(node)):
            assert extent.start == at
            assert extent.length > 0
            at = extent.end
            if extent.content is Content.DATA and number < 64:
                files.read_into(node, extent.start, memoryview(bytearray(min(MIB, extent.length))))
        assert at == seen.size


def use(content: bytearray) -> bool:
    """Do everything with an image; return whether all of it was read without complaint."""
    device = Memory(content)
    found = ext.allocation(device, frozen=False)
    assert len(found.used) == 0 or 0 <= found.used.min() <= found.used.max() <= device.size
    assert found.doubt == "" or ranges.total(found.used) == device.size
    ext.recognise(device)
    clean = not found.doubt
    try:
        files = ext.open_file_system(device)
        assert files.facts.size <= device.size
    except REFUSED:
        return False
    for node, kind in walked(files):
        try:
            look(files, node, kind)
        except REFUSED:
            clean = False
    return clean


def changed(content: bytes, where: np.ndarray, rng) -> bytearray:
    damaged = bytearray(content)
    for _ in range(rng.choice((1, 1, 1, 2, 8))):
        at = int(where[rng.randrange(len(where))]) + rng.choice((0, 0, 0, -4, 4, 1))
        at = min(max(at, 0), len(damaged) - 4)
        match rng.randrange(4):
            case 0:
                damaged[at] ^= 1 << rng.randrange(8)
            case 1:
                damaged[at] = rng.randrange(256)
            case 2:
                at = at // 4 * 4
                damaged[at : at + 4] = rng.choice(MARKS).to_bytes(4, "little")
            case _:
                source = int(where[rng.randrange(len(where))])
                length = min(rng.choice((4, 32, 128, 1024)), len(damaged) - max(source, at))
                damaged[at : at + length] = content[source : source + length]
    return damaged


@pytest.mark.slow
def test_changed_metadata_is_refused_or_read(volume, rng):
    content, where = volume
    assert use(bytearray(content))
    count = 1500 if hypothesis.settings().get_current_profile_name() == "faults" else 120
    wanted = ext.allocation(Memory(content), frozen=False).used
    summed = superblock.read(VolumeReader(Memory(content))).checked
    refused = 0
    for _ in range(count):
        damaged = changed(content, where, rng)
        refused += not use(damaged)
        if summed:
            # What carries checksums is never believed to hold less than it does.
            found = ext.allocation(Memory(damaged), frozen=False).used
            assert not len(ranges.difference(wanted, found, len(content)))
    assert refused > 0


def test_a_bit_of_a_superblock_a_descriptor_or_a_bitmap_makes_doubt(volume, rng):
    """What the map is made of carries a checksum or a count: no single change goes unseen."""
    content, _ = volume
    device = Memory(content)
    layout = superblock.read(VolumeReader(device))
    table = groups.read(VolumeReader(device), layout)
    for block in table.block_bitmaps.tolist():
        bits = min(layout.group_blocks, layout.blocks - layout.first)
        for _ in range(50):
            damaged = bytearray(content)
            bit = rng.randrange(bits)
            damaged[block * layout.block + bit // 8] ^= 1 << bit % 8
            assert ext.allocation(Memory(damaged), frozen=False).doubt
    if layout.checked:
        for start, length in ((1024, 1024), (2048, 64)):
            for _ in range(100):
                damaged = bytearray(content)
                damaged[start + rng.randrange(length)] ^= 1 << rng.randrange(8)
                assert ext.allocation(Memory(damaged), frozen=False).doubt


def test_a_volume_cut_short_is_refused(volume, rng):
    content, _ = volume
    for size in (0, 1, 1024, 2047, 2048, 4096, 100_000, len(content) - 1):
        use(bytearray(content[:size]))
        assert ext.allocation(Memory(content[:size]), frozen=True).doubt


@pytest.mark.slow
def test_a_changed_journal_is_refused_or_replayed(tmp_path, rng):
    made(tmp_path, "-t ext4 -b 1024 -I 256", 4 * MIB)
    image = tmp_path / "volume.img"
    clean = image.read_bytes()
    layout = superblock.read(VolumeReader(Memory(clean)))
    table = int(groups.read(VolumeReader(Memory(clean)), layout).inode_tables[0])
    copies, script = tmp_path / "copies", tmp_path / "script"
    copies.write_bytes(clean[table * 1024 : (table + 8) * 1024])
    blocks = f"{table}-{table + 7}"
    script.write_text(
        f"jo -c\njw -b {blocks} {copies}\njw -r 100-200\njw -b {blocks} {copies}\njc\n"
    )
    subprocess.run(
        ["debugfs", "-w", "-f", script, image], check=True, capture_output=True, timeout=60
    )
    content = image.read_bytes()
    assert "journal" in ext.allocation(Memory(content), frozen=True).doubt
    files = ext.open_file_system(Memory(content))
    assert any("replayed" in note for note in files.facts.notes)
    reached = len(list(walked(files)))
    assert reached > 300
    first = content.index(b"\xc0\x3b\x39\x98\x00\x00\x00\x04")
    where = np.flatnonzero(np.frombuffer(content, np.uint8)[first : first + 40 * 1024]) + first
    for _ in range(600 if hypothesis.settings().get_current_profile_name() == "faults" else 80):
        use(changed(content, where, rng))
