"""FAT and exFAT against mtools, FUSE exFAT, fsck and partclone: what is seen, what counts."""

import contextlib
import hashlib
import os
import random
import subprocess
import time
from pathlib import Path

import pytest

from ruchu.blocks.files import FileReader
from ruchu.guests import fat, ranges
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Content

pytestmark = [pytest.mark.system, pytest.mark.slow]

MIB = 1 << 20
FATS = {
    "fat12": (4 * MIB, ["-F", "12"]),
    "fat12-wide": (12 * MIB, ["-F", "12", "-s", "16", "-f", "1"]),
    "fat16": (40 * MIB, ["-F", "16"]),
    "fat16-2k-sectors": (60 * MIB, ["-F", "16", "-S", "2048", "-s", "1"]),
    "fat32": (60 * MIB, ["-F", "32", "-s", "1", "-n", "卷".encode().hex()[:8]]),
    "fat32-4k-sectors": (300 * MIB, ["-F", "32", "-S", "4096", "-s", "1"]),
    "fat32-backup-9": (40 * MIB, ["-F", "32", "-s", "1", "-b", "9", "-R", "40"]),
}
EXFATS = {
    "exfat-4k": (32 * MIB, ["-c", "4096"]),
    "exfat-512": (12 * MIB, ["-c", "512"]),
    "exfat-128k": (64 * MIB, ["-c", "131072", "-L", "卷标"]),
}
ENVIRONMENT = {**os.environ, "LC_ALL": "C.UTF-8", "MTOOLS_SKIP_CHECK": "1", "TZ": "UTC"}


def run(*arguments):
    done = subprocess.run(arguments, capture_output=True, check=False, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout.decode()


def planted(folder, *, files=250, seed=1, beyond=False):
    """Make a tree on this host: odd names, many files, nesting, sizes around a cluster."""
    rng = random.Random(seed)
    deep = folder / "目录" / "深い" / "/".join(f"d{number}" for number in range(12))
    deep.mkdir(parents=True)
    (deep / "end.bin").write_bytes(rng.randbytes(70_000))
    (folder / "empty").mkdir()
    (folder / ("长" * 83 + ".dat")).write_bytes(rng.randbytes(9000))
    (folder / "SHORT.TXT").write_bytes(b"short")
    (folder / "lower.txt").write_bytes(b"lower")
    (folder / "UPPER.low").write_bytes(b"mixed")
    (folder / "nothing").write_bytes(b"")
    # mtools cuts characters to 16 bits.
    (folder / ("🙂 ẞ.txt" if beyond else "é ẞ.txt")).write_bytes(b"beyond ASCII")
    many = folder / "many"
    many.mkdir()
    for number in range(files):
        size = rng.choice([0, 1, 511, 512, 513, 4096, rng.randrange(9000)])
        (many / f"a rather long file name, number {number}").write_bytes(rng.randbytes(size))
    for number, path in enumerate(sorted(folder.rglob("*"))):
        if path.is_file():
            os.utime(path, (1_000_000_000, 1_000_000_000 + 2 * number))
    return folder


def shown(folder):
    """Return what the host shows of a tree: kind, size, digest, seconds of change."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = os.fsencode(path.relative_to(folder))
        if path.is_dir():
            found[name] = "directory"
        else:
            digest = hashlib.sha256(path.read_bytes()).hexdigest()
            found[name] = (path.stat().st_size, digest, int(path.stat().st_mtime))
    return found


def walked(system, *, times=True):
    found, waiting = {}, [(system.root, b"")]
    while waiting:
        node, above = waiting.pop()
        for entry in system.entries(node):
            name, stat = above + entry.name, system.stat(entry.node)
            assert stat.kind is entry.kind
            if entry.kind is NodeKind.DIRECTORY:
                found[name] = "directory"
                waiting.append((entry.node, name + b"/"))
                continue
            content = bytearray(stat.size)
            system.read_into(entry.node, 0, memoryview(content))
            assert sum(extent.length for extent in system.extents(entry.node)) == stat.size
            digest = hashlib.sha256(content).hexdigest()
            found[name] = (stat.size, digest, stat.modified // 10**9 if times else 0)
    return found


def blank(path, size):
    with path.open("wb") as file:
        file.truncate(size)
    return path


def fill_fat(image, tree):
    names = [str(path) for path in sorted(tree.iterdir())]
    run("mcopy", "-i", str(image), "-s", "-m", *names, "::/")


def domain(image, kind):
    """Return what partclone takes."""
    out = image.with_suffix(".domain")
    run(f"partclone.{kind}", "-D", "-s", str(image), "-o", str(out), "-L", f"{out}.log")
    rows = [line.split() for line in out.read_text().splitlines() if line.endswith("+")]
    return ranges.of_pairs([(int(a, 16), int(a, 16) + int(b, 16)) for a, b, _ in rows])


def only_mapped(image, used):
    """Return a copy of an image that has nothing but the mapped bytes."""
    copy = blank(image.with_suffix(".copy"), image.stat().st_size)
    with image.open("rb") as source, copy.open("r+b") as target:
        for first, end in used.tolist():
            source.seek(first)
            target.seek(first)
            target.write(source.read(end - first))
    return copy


@contextlib.contextmanager
def mounted(image, folder):
    """Mount exFAT with FUSE."""
    folder.mkdir(exist_ok=True)
    device = run("losetup", "-f", "--show", str(image)).strip()
    try:
        # In the foreground: what was written is on the device when the driver has ended.
        driver = subprocess.Popen(
            ["mount.exfat-fuse", "-d", device, str(folder)],
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        try:
            while not folder.is_mount():
                assert driver.poll() is None
                time.sleep(0.01)
            yield folder
        finally:
            run("umount", str(folder))
            assert driver.wait(timeout=60) == 0
    finally:
        run("losetup", "-d", device)


@pytest.mark.parametrize("name", list(FATS))
def test_fat_shows_and_keeps_what_mtools_wrote(name, tmp_path):
    size, options = FATS[name]
    image = blank(tmp_path / "fat.img", size)
    run("mkfs.fat", *options, str(image))
    tree = planted(tmp_path / "tree", files=250)
    fill_fat(image, tree)
    run("mdel", "-i", str(image), "::/many/*number 1?", "::/many/*number 3*")
    for path in [*tree.glob("many/*number 1?"), *tree.glob("many/*number 3*")]:
        path.unlink()
    run("fsck.fat", "-n", str(image))
    with FileReader(image) as reader:
        assert fat.recognise(reader) == name.split("-")[0]
        system = fat.open_file_system(reader)
        assert walked(system) == shown(tree)
        found = fat.allocation(reader, frozen=False)
        assert found.doubt == ""
        block = system.facts.block
        free = reader.size - ranges.total(found.used)
        assert free > size // 4
    said = run("fsck.fat", "-n", "-v", str(image))
    clusters = int(said.rsplit("files, ", 1)[1].split("/")[0])
    start = int(
        next(line for line in said.splitlines() if "Data area starts at" in line).split()[5]
    )
    assert ranges.total(found.used) == start + clusters * block
    if name in {"fat16", "fat32", "fat32-backup-9"}:
        # partclone.fat knows sectors of 512 bytes only, and loses clusters of a FAT12.
        assert domain(image, "fat").tolist() == found.used.tolist()
    copy = only_mapped(image, found.used)
    run("fsck.fat", "-n", str(copy))
    with FileReader(copy) as reader:
        assert walked(fat.open_file_system(reader)) == shown(tree)


def test_a_full_fragmented_fat_is_kept(tmp_path):
    image = blank(tmp_path / "fat.img", 40 * MIB)
    run("mkfs.fat", "-F", "32", "-s", "1", str(image))
    rng = random.Random(3)
    tree = tmp_path / "tree"
    tree.mkdir()
    for number in range(680):
        (tree / f"f{number}").write_bytes(rng.randbytes(58_000))
    fill_fat(image, tree)
    victims = [f"f{number}" for number in range(0, 680, 3)]
    run("mdel", "-i", str(image), *(f"::/{name}" for name in victims))
    for name in victims:
        (tree / name).unlink()
    (tree / "large").write_bytes(rng.randbytes(225 * 58_000))
    run("mcopy", "-i", str(image), "-m", str(tree / "large"), "::/")
    with FileReader(image) as reader:
        system = fat.open_file_system(reader)
        found = walked(system, times=False)
        assert {name: what[:2] for name, what in found.items()} == {
            name: what[:2] for name, what in shown(tree).items()
        }
        node = next(entry.node for entry in system.entries(system.root) if entry.name == b"large")
        assert len(system.placed(node)) > 50
        used = fat.allocation(reader, frozen=True).used
        assert ranges.total(ranges.difference(system.placed(node), used, reader.size)) == 0
        assert ranges.total(used) > 0.95 * reader.size
    assert domain(image, "fat").tolist() == used.tolist()


@pytest.mark.parametrize("name", list(EXFATS))
def test_exfat_shows_and_keeps_what_its_driver_wrote(name, tmp_path):
    size, options = EXFATS[name]
    image = blank(tmp_path / "exfat.img", size)
    run("mkfs.exfat", *options, str(image))
    tree = planted(tmp_path / "tree", files=120, beyond=True)
    with mounted(image, tmp_path / "mount") as folder:
        run("cp", "-r", "--preserve=timestamps", *map(str, tree.iterdir()), str(folder))
        for path in [*folder.glob("many/*number 1?"), *folder.glob("many/*number 3*")]:
            path.unlink()
        large = folder / "large"
        large.write_bytes(random.Random(4).randbytes(MIB))
        seen = shown(folder)
    run("fsck.exfat", "-n", str(image))
    with FileReader(image) as reader:
        assert fat.recognise(reader) == "exfat"
        system = fat.open_file_system(reader)
        assert system.facts.label == ("卷标" if "128k" in name else "")
        assert walked(system) == seen
        found = fat.allocation(reader, frozen=False)
        assert found.doubt == ""
    assert domain(image, "exfat").tolist() == found.used.tolist()
    copy = only_mapped(image, found.used)
    run("fsck.exfat", "-n", str(copy))
    with FileReader(copy) as reader:
        assert walked(fat.open_file_system(reader)) == seen


def test_a_mounted_exfat_is_a_doubt(tmp_path):
    image = blank(tmp_path / "exfat.img", 8 * MIB)
    run("mkfs.exfat", str(image))
    with image.open("r+b") as file:
        os.pwrite(file.fileno(), b"\x02", 106)
    with FileReader(image) as reader:
        assert "written to" in fat.allocation(reader, frozen=True).doubt


def test_what_was_never_written_reads_as_zeros(tmp_path):
    """The driver sets clusters aside without filling them: their old content must not show."""
    image = blank(tmp_path / "exfat.img", 8 * MIB)
    run("mkfs.exfat", "-c", "4096", str(image))
    with mounted(image, tmp_path / "mount") as folder:
        (folder / "file").write_bytes(b"\xaa" * 20_000)
    content = bytearray(image.read_bytes())
    with FileReader(image) as reader:
        system = fat.open_file_system(reader)
        (entry,) = system.entries(system.root)
        at = entry.node * 32
    content[at + 32 + 8 : at + 32 + 16] = (5000).to_bytes(8, "little")
    entries = content[at : at + 32 * (content[at + 1] + 1)]
    total = 0
    for byte in entries[:2] + entries[4:]:
        total = ((total >> 1 | total << 15) + byte) & 0xFFFF
    content[at + 2 : at + 4] = total.to_bytes(2, "little")
    Path(image).write_bytes(content)
    with FileReader(image) as reader:
        system = fat.open_file_system(reader)
        kinds = [(extent.length, extent.content) for extent in system.extents(entry.node)]
        assert kinds == [(5000, Content.DATA), (15_000, Content.HOLE)]
        buffer = bytearray(20_000)
        system.read_into(entry.node, 0, memoryview(buffer))
        assert bytes(buffer) == b"\xaa" * 5000 + bytes(15_000)
        tail = bytearray(100)
        system.read_into(entry.node, 4950, memoryview(tail))
        assert bytes(tail) == b"\xaa" * 50 + bytes(50)
