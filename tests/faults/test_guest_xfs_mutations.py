"""An XFS that is damaged or hostile: known errors only, no hang, nothing read outside.

RUCHU_PROFILE=faults tries many more. The image is a small real one; what is overwritten are bytes
of its metadata, and of the log of one that was shut down in the middle of its work.
"""

import fcntl
import os
import random
import struct
import subprocess
from pathlib import Path

import pytest

from ruchu.blocks import crc32c
from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import xfs
from ruchu.guests.contract import NodeKind
from ruchu.guests.volume_reading import VolumeReader
from ruchu.guests.xfs import superblock
from ruchu.guests.xfs.log_ring import LogRing

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

MUTATIONS = 2000 if os.environ.get("RUCHU_PROFILE") == "faults" else 60
NODES_MAX = 600
READ_MAX = 1 << 20
KNOWN = (GuestDamaged, GuestUnsupported, NotFound)
SIZE = 48 << 20


class Mutable:
    """A BlockReader over the pieces of an image that hold something, some of them overwritten."""

    def __init__(self, path):
        self.size = path.stat().st_size
        self.preferred_io = 1 << 20
        self.blocks = {}
        self.changed = {}
        self.reads = 0
        with path.open("rb") as file:
            for start in range(0, self.size, 4096):
                part = file.read(4096)
                if any(part):
                    self.blocks[start] = part

    def change(self, start, content):
        block = start // 4096 * 4096
        part = bytearray(self.changed.get(block, self.blocks.get(block, bytes(4096))))
        content = content[: 4096 - (start - block)]
        part[start - block : start - block + len(content)] = content
        self.changed[block] = bytes(part)

    def read_into(self, start, buffer):
        assert start >= 0
        assert start + len(buffer) <= self.size
        self.reads += len(buffer)
        assert self.reads < 4 << 30, "unbounded work"
        done = 0
        while done < len(buffer):
            block = (start + done) // 4096 * 4096
            skip = start + done - block
            part = self.changed.get(block, self.blocks.get(block, bytes(4096)))[skip:]
            part = part[: len(buffer) - done]
            buffer[done : done + len(part)] = part
            done += len(part)

    def extents(self):
        raise AssertionError("a reader of guests does not ask for extents")


def run(*words):
    done = subprocess.run(words, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, (words, done.stderr)
    return done.stdout


def filled(root):
    for index in range(80):
        (root / f"name {index}").write_bytes(b"")
    for index in range(30):
        folder = root / f"folder {index}"
        folder.mkdir()
        (folder / "file").write_bytes(b"content" * 1000)
    os.symlink("y" * 900, root / "long link")
    os.symlink("x", root / "link")
    with (root / "scattered").open("wb") as file:
        for index in range(400):
            file.seek(index * 8192)
            file.write(b"z" * 4096)
    for index in range(60):
        os.setxattr(root / "link target", f"user.{index}", b"v" * 300) if index else (
            root / "link target"
        ).write_bytes(b"")
    os.setxattr(root / "scattered", "user.remote", b"r" * 20000)
    run("setfacl", "-m", "u:1000:rw", root / "folder 1")


@pytest.fixture(scope="module", params=["v5", "v4"])
def image(request, tmp_path_factory):
    folder = tmp_path_factory.mktemp("xfs")
    path = folder / "xfs.img"
    with path.open("wb") as file:
        file.truncate(SIZE)
    made = ["-q", "--unsupported", "-d", "agcount=2", "-l", "size=10m"]
    if request.param == "v5":
        run("mkfs.xfs", *made, "-m", "rmapbt=0", path)
        root = folder / "mount"
        root.mkdir()
        run("mount", "-o", "loop", path, root)
        try:
            filled(root)
        finally:
            run("umount", root)
        return path
    content, prototype = folder / "content", folder / "prototype"
    content.write_bytes(b"content" * 1000)
    many = "\n".join(f"name-{index} ---600 0 0 {content}" for index in range(80))
    link = f"link l--777 0 0 {'t' * 600}"
    prototype.write_text(
        f"/nothing\n0 0\nd--755 0 0\nfolder d--755 0 0\n{many}\n$\n{link}\npipe p--600 0 0\n$\n"
    )
    run("mkfs.xfs", *made, "-m", "crc=0", "-p", prototype, path)
    return path


def metadata_places(device):
    """Return the blocks that begin like metadata: what content holds is of no interest."""
    magics = {
        b"XFSB",
        b"XD2B",
        b"XDB3",
        b"XD2D",
        b"XDD3",
        b"AB3B",
        b"ABTB",
        b"AB3C",
        b"ABTC",
        b"BMA3",
        b"BMAP",
    }
    magics |= {b"\xfe\xed\xba\xbe", b"XSLM", b"XARM"}
    return [
        start
        for start, part in device.blocks.items()
        if part[:4] in magics or part[:2] == b"IN" or part[8:10] in {b"\x3b\xee", b"\xfb\xee"}
    ]


def spoil(device, places, rng):
    device.changed.clear()
    for _ in range(rng.choice((1, 1, 2, 8))):
        start = rng.choice(places)
        part = device.blocks[start]
        # The sectors of the headers of a group, the beginning of blocks, or anywhere.
        where = rng.choice((rng.randrange(64), rng.randrange(256), rng.randrange(4096)))
        length = rng.choice((1, 1, 2, 4, 8))
        old = int.from_bytes(part[where : where + length], "big")
        wide = (1 << 8 * length) - 1
        new = rng.choice((0, wide, wide >> 1, old ^ (1 << rng.randrange(8 * length)), old + 1))
        device.change(start + where, (new & wide).to_bytes(length, "big"))


# Magic of a block of version 5 to where its checksum is, and the bytes that it is of.
SUMS = {
    b"XFSB": (224, 512), b"XAGF": (216, 512), b"XAGI": (312, 512), b"XAFL": (32, 512),
    b"AB3B": (52, 4096), b"AB3C": (52, 4096), b"IAB3": (52, 4096), b"FIB3": (52, 4096),
    b"BMA3": (64, 4096), b"XDB3": (4, 4096), b"XDD3": (4, 4096), b"XDF3": (4, 4096),
    b"XSLM": (12, 4096), b"XARM": (12, 4096),
}  # fmt: skip
SECTOR, INODE = 512, 512


def sealed(device):
    """Make the checksums of changed blocks right, as somebody would who wants to do harm."""
    for block in list(device.changed):
        content = bytearray(device.changed[block])
        for at in range(0, len(content), SECTOR):
            magic = bytes(content[at : at + 4])
            place, length = SUMS.get(magic, (0, 0))
            if magic[:2] == b"IN":
                place, length = 100, INODE
            elif not at and bytes(content[8:10]) in {
                b"\x3b\xee",
                b"\x3e\xbe",
                b"\x3d\xf1",
                b"\x3d\xff",
            }:
                place, length = 12, 4096
            if not length or at + length > len(content):
                continue
            content[at + place : at + place + 4] = bytes(4)
            crc = crc32c.checksum(bytes(content[at : at + length]))
            content[at + place : at + place + 4] = crc.to_bytes(4, "little")
        device.changed[block] = bytes(content)


def look(system):
    """Walk and read all, as far as it goes; return how many nodes were seen."""
    waiting, seen = [system.root], set()
    while waiting and len(seen) < NODES_MAX:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        for use in (look_at, listed, attributes):
            try:
                waiting += use(system, node)
            except KNOWN:
                continue
    return len(seen)


def look_at(system, node):
    told = system.stat(node)
    if told.kind is NodeKind.SYMLINK:
        system.link_target(node)
    if told.kind is NodeKind.FILE:
        system.placed(node)
        end = 0
        for extent in system.extents(node):
            assert extent.start == end
            assert extent.length > 0
            end = extent.end
        assert end == told.size
        buffer = bytearray(min(told.size, READ_MAX))
        system.read_into(node, 0, memoryview(buffer))
    return []


def listed(system, node):
    if system.stat(node).kind is not NodeKind.DIRECTORY:
        return []
    return [entry.node for entry, _ in zip(system.entries(node), range(NODES_MAX), strict=False)]


def attributes(system, node):
    system.xattrs(node)
    return []


def test_what_is_overwritten_raises_what_is_known(image, seed):
    device = Mutable(Path(image))
    places = metadata_places(device)
    assert len(places) > 15
    assert look(xfs.open_file_system(device)) > 80
    assert xfs.allocation(device, frozen=False).doubt == ""
    # What is sealed without a change is as it was.
    device.changed = {place: device.blocks[place] for place in places}
    checked = image.parent.name.startswith("xfs") and b"XAFL" in device.blocks[0]
    if checked:
        sealed(device)
        assert all(device.blocks[place] == part for place, part in device.changed.items())
    doubts = opened = 0
    for number in range(MUTATIONS):
        rng = random.Random(seed << 32 | number)
        device.reads = 0
        spoil(device, places, rng)
        if checked and rng.random() < 0.8:
            sealed(device)
        xfs.recognise(device)
        for frozen in (False, True):
            taken = xfs.allocation(device, frozen=frozen)
            assert taken.used[-1, 1] <= device.size
            doubts += bool(taken.doubt)
        try:
            opened += look(xfs.open_file_system(device)) > 0
        except KNOWN:
            continue
    assert doubts
    assert opened


# XFS_IOC_GOINGDOWN, which writes the log and nothing else.
SHUTDOWN, FLUSH_LOG = 0x8004587D, 1


@pytest.fixture(scope="module")
def dirty(tmp_path_factory):
    """Return an image of which all that was ever made is in the log alone."""
    folder = tmp_path_factory.mktemp("xfs-dirty")
    path, root = folder / "xfs.img", folder / "mount"
    with path.open("wb") as file:
        file.truncate(SIZE)
    run("mkfs.xfs", "-q", "--unsupported", "-d", "agcount=2", "-l", "size=10m", path)
    root.mkdir()
    run("mount", "-o", "loop", path, root)
    try:
        filled(root)
        for index in range(0, 80, 3):
            (root / f"name {index}").unlink()
        place = os.open(root, os.O_RDONLY)
        fcntl.ioctl(place, SHUTDOWN, struct.pack("I", FLUSH_LOG))
        os.close(place)
    finally:
        run("umount", root)
    return path


def active_records(device):
    """Return start and bytes of the header and of the content of the records to be replayed."""
    volume = VolumeReader(device)
    found = superblock.load(volume)
    ring = LogRing(volume, found)
    start = found.address(found.log_start, found.log_blocks)
    records = ring.since_tail(ring.last_whole())
    return [(start + each.at * SECTOR, (each.sectors - 1) * SECTOR) for each in records]


def read(device, start, length):
    content = bytearray(length)
    device.read_into(start, memoryview(content))
    return content


def write(device, start, content):
    for at in range(0, len(content), SECTOR):
        device.change(start + at, bytes(content[at : at + SECTOR]))


def spoil_log(device, records, rng):
    """Change a record where its operations and items begin, or anywhere; make it right again."""
    device.changed.clear()
    start, length = rng.choice(records)
    content = read(device, start, SECTOR + length)
    heads = [at for at in range(SECTOR, len(content) - 16, 4) if content[at + 1] == 0x12]
    for _ in range(rng.choice((1, 1, 2, 5))):
        where = rng.choice((rng.randrange(SECTOR, SECTOR + length), rng.choice(heads or [SECTOR])))
        where = min(where + rng.choice((0, 0, 2, 4, 8, 16, 20)), len(content) - 8)
        width = rng.choice((1, 1, 2, 4, 8))
        new = rng.choice((bytes(width), b"\xff" * width, rng.randbytes(width), b"\x01" * width))
        content[where : where + width] = new
    if rng.random() < 0.2:
        # The number of operations, or the length.
        struct.pack_into(">I", content, rng.choice((40, 12)), rng.randrange(1 << 17))
    for at in range(SECTOR, len(content), SECTOR):
        content[at : at + 4] = content[4:8]
    content[32:36] = bytes(4)
    told = min(length, int.from_bytes(content[12:16], "big"))
    crc = crc32c.checksum(bytes(content[:328] + content[SECTOR : SECTOR + told]))
    content[32:36] = crc.to_bytes(4, "little")
    write(device, start, content)


def test_a_hostile_log_is_replayed_or_left_aside(dirty, seed):
    device = Mutable(dirty)
    records = active_records(device)
    assert len(records) > 1
    system = xfs.open_file_system(device)
    assert "replayed" in system.facts.notes[0]
    assert look(system) > 80
    replayed = left = 0
    for number in range(MUTATIONS):
        rng = random.Random(seed << 32 | number)
        device.reads = 0
        spoil_log(device, records, rng)
        assert xfs.allocation(device, frozen=False).doubt
        xfs.allocation(device, frozen=True)
        try:
            system = xfs.open_file_system(device)
        except KNOWN:
            continue
        replayed += "replayed" in system.facts.notes[-1]
        left += "missing" in system.facts.notes[-1]
        look(system)
    assert replayed
    assert left
