"""Damaged and hostile Btrfs images: every read ends, inside the device, with an error of ours.

Bytes of superblocks and nodes are overwritten, most of the time with the checksum made right
again, as somebody would who wants to do harm. RUCHU_PROFILE=faults tries many more.
"""

import itertools
import os
import random
import struct
import subprocess

import numpy as np
import pytest

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import btrfs
from ruchu.guests.btrfs import trees
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Extent

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE = 48 << 20
NODE = 4096
SUPERBLOCK = 64 << 10
ROUNDS = 6000 if os.environ.get("RUCHU_PROFILE") == "faults" else 150
BATCHES = 6
ENTRIES_MAX = 3000
EXPECTED = (GuestDamaged, GuestUnsupported, NotFound)


class Patched:
    """An image in memory with some bytes changed; reading outside it is a failure."""

    preferred_io = 1 << 20

    def __init__(self, content, patches):
        self.content = content
        self.patches = patches
        self.size = len(content)

    def read_into(self, start, buffer):
        end = start + len(buffer)
        assert 0 <= start <= end <= self.size
        buffer[:] = self.content[start:end]
        for at, data in self.patches:
            first, last = max(at, start), min(at + len(data), end)
            if first < last:
                buffer[first - start : last - start] = data[first - at : last - at]

    def extents(self):
        yield Extent(0, self.size)


def run(*words):
    subprocess.run([str(word) for word in words], check=True, capture_output=True, timeout=60)


def plant(root):
    for packing in ("zlib", "lzo", "zstd", "none"):
        folder = root / packing
        folder.mkdir()
        if packing != "none":
            run("btrfs", "property", "set", folder, "compression", packing)
        (folder / "text").write_text("".join(f"line {number}\n" for number in range(30_000)))
        (folder / "inline").write_text("small" * 100)
        (folder / "sparse").write_bytes(b"x")
        os.truncate(folder / "sparse", 1 << 40)
    for number in range(150):
        (root / f"entry{number}").write_bytes(b"%d" % number)
    with open(root / "preallocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 100_000)
    with open(root / "fragments", "wb") as file:
        for at in range(60, 0, -1):
            os.pwrite(file.fileno(), b"f" * 4096, at * 8192)
    os.symlink("target", root / "link")
    os.setxattr(root / "zlib", "user.long", b"v" * 1500)
    run("setfacl", "-m", "u:5:rwx", root / "lzo")
    run("btrfs", "subvolume", "create", root / "subvolume")
    (root / "subvolume" / "inside").write_text("inside")
    run("btrfs", "subvolume", "snapshot", root, root / "subvolume" / "snapshot")


@pytest.fixture(scope="module")
def image(tmp_path_factory):
    folder = tmp_path_factory.mktemp("btrfs")
    path, mount = folder / "image", folder / "mount"
    with open(path, "wb") as file:
        file.truncate(SIZE)
    run("mkfs.btrfs", "-q", "--mixed", "-n", NODE, "-m", "single", "-d", "single", path)
    mount.mkdir()
    run("mount", "-o", "loop", path, mount)
    try:
        plant(mount)
    finally:
        run("umount", mount)
    return path.read_bytes()


@pytest.fixture(scope="module")
def places(image):
    """Return where nodes lie that are in use, and the superblock."""
    uuid = image[SUPERBLOCK + 32 : SUPERBLOCK + 48]
    used = btrfs.allocation(Patched(image, []), frozen=True).used
    return [SUPERBLOCK] + [
        at
        for first, end in used.tolist()
        for at in range(max(first, 1 << 20), end, NODE)
        if image[at + 32 : at + 48] == uuid
    ]


def sealed(block):
    """Return a block with its CRC-32C made right."""
    state = crc32c.checksum(bytes(block[32:]))
    return struct.pack("<I", state) + bytes(block[4:])


def mutated(block, rng):
    """Return a block with some of its bytes overwritten, at places that matter."""
    block = bytearray(block)
    count = min(struct.unpack_from("<I", block, 96)[0], NODE // 25)
    for _ in range(rng.choice((1, 1, 2, 5))):
        kind = rng.randrange(4)
        if kind == 0:
            at = rng.randrange(48, trees.HEADER)
        elif kind == 1:
            at = trees.HEADER + rng.randrange(25 * count + 1)
        else:
            at = rng.randrange(trees.HEADER, NODE - 8)
        filling = rng.choice((b"\xff", b"\0", rng.randbytes(1), rng.randbytes(8), b"\xff" * 8))
        block[at : at + len(filling)] = filling
    block = block[:NODE]
    return sealed(block) if rng.random() < 0.85 else bytes(block)


def read_some(fs, entry):
    found = fs.stat(entry.node)
    fs.xattrs(entry.node)
    if found.kind is NodeKind.SYMLINK:
        assert len(fs.link_target(entry.node)) == found.size
    if found.kind is NodeKind.FILE:
        covered = 0
        for extent in itertools.islice(fs.extents(entry.node), 1000):
            assert extent.start == covered
            assert extent.length > 0
            covered = extent.end
        fs.placed(entry.node)
        for start in {0, max(0, found.size - 70_000), found.size // 2}:
            buffer = bytearray(min(200_000, found.size - start))
            fs.read_into(entry.node, start, memoryview(buffer))


def walk(fs):
    """Read all that can be read, past what is damaged; return how much went wrong."""
    waiting, seen, wrong, count = [fs.root], set(), 0, 0
    while waiting and count < ENTRIES_MAX:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        try:
            for entry in fs.entries(node):
                count += 1
                if count >= ENTRIES_MAX:
                    break
                try:
                    read_some(fs, entry)
                except EXPECTED:
                    wrong += 1
                if entry.kind is NodeKind.DIRECTORY:
                    waiting.append(entry.node)
        except EXPECTED:
            wrong += 1
    return wrong


def attempt(device):
    """Return whether anything was noticed, or shown otherwise than it is."""
    assert btrfs.recognise(device) in {"", "btrfs"}
    allocation = btrfs.allocation(device, frozen=False)
    used = allocation.used
    assert used.dtype == np.int64
    assert (used[:, 0] < used[:, 1]).all()
    assert (used[1:, 0] > used[:-1, 1]).all()
    assert used[0, 0] == 0
    assert used[-1, 1] <= device.size
    if allocation.doubt:
        assert used.tolist() == [[0, device.size]]
    try:
        fs = btrfs.open_file_system(device)
        _ = fs.facts
        wrong = walk(fs)
    except EXPECTED:
        return True
    return bool(allocation.doubt or wrong)


def test_the_image_is_read_without_a_fault(image, places):
    device = Patched(image, [])
    assert btrfs.allocation(device, frozen=True).doubt == ""
    assert walk(btrfs.open_file_system(device)) == 0
    assert len(places) > 30


@pytest.mark.parametrize("batch", range(BATCHES))
@pytest.mark.timeout(1800)
def test_mutations_end_in_an_error_of_ours_or_in_nothing(image, places, batch, seed):
    noticed = 0
    for number in range(batch, ROUNDS, BATCHES):
        rng = random.Random(f"{seed} {number}")
        chosen = [rng.choice(places) for _ in range(rng.choice((1, 1, 1, 3)))]
        patches = [(at, mutated(image[at : at + NODE], rng)) for at in chosen]
        try:
            noticed += attempt(Patched(image, patches))
        except Exception as error:
            error.add_note(f"mutation {number} of seed {seed}, at {chosen}")
            raise
    assert noticed > ROUNDS // BATCHES // 4


def test_a_node_that_refers_to_itself_is_refused(image, places):
    """Every pointer of every inner node is led back to the node itself, or to its first child."""
    for at in places[1:]:
        block = bytearray(image[at : at + NODE])
        count, level = struct.unpack_from("<IB", block, 96)
        if not level or count < 2:
            continue
        own = block[48:56]
        first = block[trees.HEADER + 17 : trees.HEADER + 33]
        for lead in (own + block[80:88], first):
            for index in range(count):
                place = trees.HEADER + 33 * index + 17
                block[place : place + 16] = lead
            assert attempt(Patched(image, [(at, sealed(block))]))


@pytest.mark.parametrize("cut", [0, 4096, 65536, 65536 + 4096, 1 << 20, SIZE // 2, SIZE - 4096])
def test_a_volume_that_is_cut_short_is_taken_whole(image, cut):
    device = Patched(image[:cut], [])
    allocation = btrfs.allocation(device, frozen=True)
    assert allocation.doubt
    assert allocation.used.tolist() == ([[0, cut]] if cut else [])
    with pytest.raises(GuestDamaged):
        btrfs.open_file_system(device)
