"""Hostile FAT and exFAT: mapping, walking and reading end, with one of three errors at most.

Checksums of exFAT are made right again after a change, as somebody would who wants to do harm.
RUCHU_PROFILE=faults tries many more.
"""

import contextlib
import os
import random
import subprocess
import time

import pytest

from ruchu.errors import GuestDamaged, GuestUnsupported, NotFound
from ruchu.guests import fat
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Extent

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

EXPECTED = (GuestDamaged, GuestUnsupported, NotFound)
MIB = 1 << 20
FAULTS = os.environ.get("RUCHU_PROFILE") == "faults"
ROUNDS = dict.fromkeys(("fat12", "fat16", "exfat"), 5000 if FAULTS else 300)
# Its image is larger: there is no FAT32 of less than 65525 clusters.
ROUNDS["fat32"] = 1000 if FAULTS else 100
# A directory of 2 MiB that all directories of a circle share is what costs most.
READS_MAX, BYTES_MAX = 40_000, 1200 * MIB
ENTRIES_MAX, CONTENT_MAX = 2000, 64 << 10
STRIKING = [0, 1, 2, 3, 0x7F, 0xE5, 0xFF, 0xFFF7, 0xFFFF, 0x0FFFFFF7, 0x0FFFFFFF, 0xFFFFFFFF,
            (1 << 63) - 1, (1 << 64) - 1]  # fmt: skip


class Memory:
    """An image in memory that counts what is read and refuses what is outside."""

    preferred_io = 1 << 20

    def __init__(self, content):
        self.content = content
        self.size = len(content)
        self.reads = self.bytes = 0

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size
        self.reads += 1
        self.bytes += len(buffer)
        buffer[:] = self.content[start : start + len(buffer)]

    def extents(self):
        yield Extent(0, self.size)


def run(*arguments):
    environment = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1"}
    subprocess.run(arguments, check=True, capture_output=True, env=environment)


@contextlib.contextmanager
def mounted(image, folder):
    """Mount exFAT; at the end everything is in the image."""
    device = subprocess.check_output(["losetup", "-f", "--show", image], text=True).strip()
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    try:
        driver = subprocess.Popen(["mount.exfat-fuse", "-d", device, str(folder)], **quiet)
        try:
            while not folder.is_mount():
                assert driver.poll() is None
                time.sleep(0.01)
            yield
        finally:
            run("umount", str(folder))
            assert driver.wait(timeout=60) == 0
    finally:
        run("losetup", "-d", device)


@pytest.fixture(scope="module")
def tree(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tree")
    rng = random.Random(2)
    inner = folder / "目录 of files" / "inner"
    inner.mkdir(parents=True)
    for number in range(40):
        (inner / f"a long file name {number}").write_bytes(rng.randbytes(rng.randrange(6000)))
    (folder / "large").write_bytes(rng.randbytes(60_000))
    return folder


@pytest.fixture(scope="module")
def images(tree, tmp_path_factory):
    folder = tmp_path_factory.mktemp("images")
    made = {}
    # mtools takes a FAT32 of fewer clusters for a FAT16.
    for bits, per_cluster, size in (("12", "8", 4), ("16", "1", 4), ("32", "1", 34)):
        path = folder / bits
        with path.open("wb") as file:
            file.truncate(size * MIB)
        run("mkfs.fat", "-F", bits, "-s", per_cluster, str(path))
        run("mcopy", "-i", str(path), "-s", *map(str, sorted(tree.iterdir())), "::/")
        made[f"fat{bits}"] = path.read_bytes()
    path = folder / "exfat"
    with path.open("wb") as file:
        file.truncate(4 * MIB)
    run("mkfs.exfat", "-c", "512", str(path))
    mount = folder / "mount"
    mount.mkdir()
    with mounted(path, mount):
        run("cp", "-r", *map(str, sorted(tree.iterdir())), str(mount))
    made["exfat"] = path.read_bytes()
    return made


def sealed(content):
    """Make the checksums of exFAT right: of the boot region and of sets of entries."""
    if content[3:8] != b"EXFAT":
        return content
    total = 0
    for at in range(11 * 512):
        if at not in (106, 107, 112):
            total = ((total >> 1 | total << 31) + content[at]) & 0xFFFFFFFF
    content[11 * 512 : 12 * 512] = total.to_bytes(4, "little") * 128
    at = content.find(b"\x85", 24 * 512)
    while at >= 0:
        end = at + 32 * (content[at + 1] + 1)
        if (
            at % 32 == 0
            and content[at + 1] < 19
            and end <= len(content)
            and content[at + 32] == (0xC0)
        ):
            total = 0
            for byte in content[at : at + 2] + content[at + 4 : end]:
                total = ((total >> 1 | total << 15) + byte) & 0xFFFF
            content[at + 2 : at + 4] = total.to_bytes(2, "little")
        at = content.find(b"\x85", at + 1)
    return content


def walked(device):
    """Map, walk and read, within bounds; return how many entries there were."""
    found = fat.allocation(device, frozen=False)
    assert not len(found.used) or 0 <= found.used[0, 0] <= found.used[-1, 1] <= device.size
    fat.recognise(device)
    system = fat.open_file_system(device)
    assert system.facts.kind
    waiting, count = [system.root], 0
    while waiting and count < ENTRIES_MAX:
        node = waiting.pop()
        with contextlib.suppress(*EXPECTED):
            for entry in system.entries(node):
                count += 1
                assert b"/" not in entry.name
                assert entry.name not in {b"", b".", b".."}
                if count > ENTRIES_MAX:
                    break
                if entry.kind is NodeKind.DIRECTORY:
                    waiting.append(entry.node)
                with contextlib.suppress(*EXPECTED):
                    looked_at(system, entry.node)
    return count


def looked_at(system, node):
    stat = system.stat(node)
    if stat.kind is not NodeKind.FILE:
        return
    assert sum(extent.length for extent in system.extents(node)) == stat.size
    buffer = bytearray(min(stat.size, CONTENT_MAX))
    system.read_into(node, 0, memoryview(buffer))
    system.read_into(node, stat.size - len(buffer), memoryview(buffer))
    system.placed(node)


def metadata(content, kind):
    """Return ranges worth to be harmed: boot sector, tables, directories."""
    places = [(11, 120), (11, 120)]
    text = ("a long" if kind == "exfat" else "a lon").encode("utf-16-le")
    at = content.find(text)
    places.append((at & ~4095, (at & ~4095) + 8192))
    root = content.find(
        ("large" if kind == "exfat" else "L").encode("utf-16-le" if kind == "exfat" else "ascii"),
        40 * 512,
    )
    places.append((root & ~511, (root & ~511) + 512))
    start = (
        int.from_bytes(content[80:84], "little") * 512
        if kind == "exfat"
        else (int.from_bytes(content[14:16], "little") * 512)
    )
    places += [(start, start + 64), (start, start + 1200)]
    return places


@pytest.mark.parametrize("kind", ["fat12", "fat16", "fat32", "exfat"])
def test_hostile_metadata(images, kind):
    original = images[kind]
    assert walked(Memory(original)) == 43
    places = metadata(original, kind)
    for seed in range(ROUNDS[kind]):
        rng = random.Random(seed)
        content = bytearray(original)
        first, end = rng.choice(places)
        for _ in range(rng.randrange(1, 5)):
            at = rng.randrange(first, end)
            width = rng.choice([1, 2, 4, 8])
            value = rng.choice([*STRIKING, rng.getrandbits(64), rng.randrange(8000)])
            value &= (1 << 8 * width) - 1
            content[at : at + width] = value.to_bytes(width, "little")
        device = Memory(bytes(sealed(content) if rng.random() < 0.9 else content))
        with contextlib.suppress(*EXPECTED):
            walked(device)
        assert device.reads < READS_MAX, seed
        assert device.bytes < BYTES_MAX, seed


def test_directories_that_contain_themselves_end(images):
    """Each entry of a directory is made to name the directory itself."""
    for kind in ("fat16", "fat32"):
        content = bytearray(images[kind])
        at = content.find(b".          \x10")
        cluster = content[at + 26 : at + 28]
        for slot in range(at + 64, at + 512, 32):
            if content[slot + 11] != 0x0F:
                content[slot + 11] = 0x10
                content[slot + 26 : slot + 28] = cluster
        device = Memory(bytes(content))
        assert walked(device) >= 4
        assert device.reads < READS_MAX
