"""A whole disk that is damaged or hostile: GPT, a volume group, file systems, all of it at once.

Known errors only, bounded work, no read outside a disk; and what is left out of a backup is never
what a table takes, nor what counted before, unless what was overwritten is what tells of it.
RUCHU_PROFILE=faults tries many more.
"""

import itertools
import os
import random
import struct
import subprocess
import zlib

import numpy as np
import pytest

from ruchu.errors import GuestError, NotFound
from ruchu.guests import extraction, ranges, volumes
from ruchu.guests.contract import NodeKind
from ruchu.testing import disk_layouts
from ruchu.testing.disk_layouts import linear, volume
from ruchu.testing.memory_disk import MemoryDisk
from ruchu.units import KIB, MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(1800)]

ROUNDS = 1000 if os.environ.get("RUCHU_PROFILE") == "faults" else 30
ALL = frozenset(extraction.REASONS)
READS_MAX, BYTES_MAX = 40_000, 1 << 30
NODES_MAX, FILE_MAX = 60, MIB
STRIKING = [0, 1, 2, 0x7F, 0xFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0xFFFFFFFF, 1 << 48, (1 << 64) - 1]
# Where partitions begin, in MiB, and what is in them.
PLACES = {"ext4": 1, "swap": 9, "ntfs": 13, "pv": 21}
SIZE = 52 * MIB


class Guarded(MemoryDisk):
    """A disk that refuses reads outside, and more work than any look at it can need."""

    def read_into(self, start, buffer):
        assert 0 <= start <= start + len(buffer) <= self.size, "a read outside the disk"
        assert len(self.reads) < READS_MAX, "unbounded work"
        assert sum(length for _, length in self.reads[-64:]) < BYTES_MAX
        super().read_into(start, buffer)


def run(*words):
    done = subprocess.run([str(word) for word in words], check=False, capture_output=True)
    assert done.returncode == 0, (words, done.stderr)


def blank(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


@pytest.fixture(scope="module")
def disk(tmp_path_factory):
    """A GPT with ext4, swap, NTFS with files of Windows, and a group with ext4 and FAT."""
    folder = tmp_path_factory.mktemp("disk")
    content = bytearray(os.urandom(SIZE))
    for first, end in ((0, 1), (51, 52)):
        content[first * MIB : end * MIB] = bytes((end - first) * MIB)
    tree = folder / "tree"
    tree.mkdir()
    for number in range(10):
        (tree / f"file {number}").write_bytes(os.urandom(50_000))
    extended = blank(folder / "ext4", 8 * MIB)
    run("mke2fs", "-q", "-F", "-t", "ext4", "-d", tree, extended)
    windows = blank(folder / "ntfs", 8 * MIB)
    run("mkntfs", "-q", "-F", "-f", "-c", 4096, windows)
    for name in ("pagefile.sys", "hiberfil.sys", "a"):
        (folder / name).write_bytes(bytes(4096) + os.urandom(300_000))
        run("ntfscp", "-q", windows, folder / name, name)
    fat = blank(folder / "fat", 4 * MIB)
    run("mkfs.fat", "-F", 12, fat)
    group = volume("ext", linear("pv0", 2, 5), linear("pv0", 20, 3))
    group += volume("fat", linear("pv0", 9, 4))
    text = disk_layouts.group("vg", {"pv0": ("0" * 32, 28 * MIB)}, group)
    pv = bytearray(os.urandom(28 * MIB))
    pv[:MIB] = bytes(MIB)
    pv[3 * MIB : 8 * MIB], pv[21 * MIB : 24 * MIB] = split(extended.read_bytes(), 5 * MIB)
    pv[10 * MIB : 14 * MIB] = fat.read_bytes()
    swap = blank(folder / "swap", 4 * MIB)
    run("mkswap", "-q", swap)
    parts = {
        "ext4": extended.read_bytes(),
        "swap": swap.read_bytes(),
        "ntfs": windows.read_bytes(),
        "pv": bytes(disk_layouts.with_label(pv, "0" * 32, text)),
    }
    path = folder / "disk"
    for name, start in PLACES.items():
        content[start * MIB : start * MIB + len(parts[name])] = parts[name]
    path.write_bytes(content)
    words = []
    for number, (name, start) in enumerate(PLACES.items(), 1):
        last = start * 2048 + len(parts[name]) // 512 - 1
        words += [f"-n{number}:{start * 2048}:{last}"]
        words += [f"-t{number}:{'8200' if name == 'swap' else '8300'}"]
    run("sgdisk", "-a1", *words, path)
    return path.read_bytes()


def split(content, at):
    return content[:at], content[at:]


def marked(found, size):
    bits = np.zeros(size, bool)
    for first, end in found.tolist():
        bits[first:end] = True
    return bits


def looked_at(content):
    """Discover, tell what may be left out, walk and read all volumes."""
    reader = Guarded(bytes(content))
    found = extraction.in_use({"vda": reader}, ALL, frozen=False)["vda"]
    layout = volumes.discover({"vda": reader})
    for one in layout.volumes:
        try:
            system = volumes.open_file_system(one)
            walked(system)
        except (GuestError, NotFound):
            continue
    every = [ranges.empty(), *found.left_out.values()]
    gone = ranges.union(*every)
    assert ranges.total(gone) == sum(ranges.total(one) for one in every)
    structure = layout.structure["vda"]
    assert not len(ranges.intersection(gone, structure, len(content)))
    return marked(gone, len(content)), layout


def walked(system):
    waiting, seen = [system.root], set()
    while waiting and len(seen) < NODES_MAX:
        node = waiting.pop()
        if node in seen:
            continue
        seen.add(node)
        try:
            waiting += [entry.node for entry in children(system, node)]
        except (GuestError, NotFound):
            continue


def children(system, node):
    told = system.stat(node)
    system.xattrs(node)
    if told.kind is NodeKind.FILE:
        buffer = bytearray(min(told.size, FILE_MAX))
        system.read_into(node, 0, memoryview(buffer))
        system.placed(node)
    if told.kind is NodeKind.DIRECTORY:
        return list(itertools.islice(system.entries(node), NODES_MAX))
    return []


def struck(content, rng, first, end):
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(first, end)
        width = rng.choice([1, 2, 4, 8])
        value = rng.choice([*STRIKING, rng.getrandbits(64)]) & ((1 << 8 * width) - 1)
        content[at : min(at + width, end)] = value.to_bytes(width, "little")[: end - at]


def sealed(content):
    """Make the checksums of the first GPT right."""
    length = min(512, int.from_bytes(content[524:528], "little"))
    entries = zlib.crc32(content[1024 : 1024 + 128 * 128])
    content[600:604] = struct.pack("<I", entries)
    content[528:532] = bytes(4)
    content[528:532] = struct.pack("<I", zlib.crc32(content[512 : 512 + length]))


def places(disk):
    """Return where what tells of the rest is, in groups: tables, starts of volumes, the MFT."""
    pv, ntfs = PLACES["pv"] * MIB, PLACES["ntfs"] * MIB
    starts = [start * MIB for start in PLACES.values()] + [pv + 3 * MIB, pv + 10 * MIB]
    mft = [at for at in range(ntfs, ntfs + 8 * MIB, KIB) if disk[at : at + 4] == b"FILE"]
    return [
        [(446, 512), (512, 604), (1024, 1536)],
        [(pv + 512, pv + 1024), (pv + 4096, pv + 8192)],
        [(start + 1024, start + 1536) for start in starts] + [(ntfs, ntfs + 512)],
        [(start, start + 64 * KIB) for start in starts],
        [(at, at + 1024) for at in mft],
    ]


def test_the_disk_as_it_is(disk):
    gone, layout = looked_at(disk)
    kinds = [one.kind for one in layout.leaves]
    assert kinds == ["ext4", "swap", "ntfs", "ext4", "fat12"]
    assert gone.sum() > 30 * MIB
    assert not layout.doubts


def test_what_is_overwritten_raises_what_is_known_and_leaves_out_no_structure(disk, seed):
    where = places(disk)
    truth, _ = looked_at(disk)
    noticed = 0
    for number in range(ROUNDS):
        rng = random.Random(seed << 32 | number)
        content = bytearray(disk)
        for _ in range(rng.choice((1, 1, 3))):
            struck(content, rng, *rng.choice(rng.choice(where)))
        if rng.random() < 0.5:
            sealed(content)
        gone, _ = looked_at(content)
        noticed += gone.sum() < truth.sum()
    assert noticed > ROUNDS // 10


def test_overwritten_content_changes_nothing_that_is_left_out(disk, seed):
    """What is in files and in free space is nobody's metadata, whatever it looks like."""
    truth, layout = looked_at(disk)
    ntfs = next(one for one in layout.volumes if one.kind == "ntfs").device
    system = volumes.open_file_system(next(one for one in layout.volumes if one.kind == "ntfs"))
    node = next(entry.node for entry in system.entries(system.root) if entry.name == b"a")
    (content_at,) = (first for first, _ in ntfs.physical(system.placed(node))["vda"].tolist())
    free = np.flatnonzero(truth[9 * MIB + 64 * KIB : 51 * MIB])
    for number in range(ROUNDS // 4):
        rng = random.Random(seed << 32 | number)
        content = bytearray(disk)
        at = 9 * MIB + 64 * KIB + int(free[rng.randrange(len(free))])
        # Neither the first sectors nor the last of a volume, where others keep their signatures.
        if at % MIB > 128 * KIB and at % MIB < MIB - 128 * KIB:
            content[at] ^= 1 << rng.randrange(8)
        content[content_at + rng.randrange(100_000)] ^= 1 << rng.randrange(8)
        gone, _ = looked_at(content)
        assert (gone == truth).all()
