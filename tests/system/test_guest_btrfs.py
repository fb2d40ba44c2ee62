"""Btrfs as the kernel writes it: shown as a mount shows it, and whole when only the map is kept.

The judges: the kernel (a mount, SEEK_HOLE, scrub), btrfs check, btrfs inspect-internal dump-tree,
partclone.
"""

import contextlib
import fcntl
import hashlib
import os
import re
import socket
import stat
import struct
import subprocess

import numpy as np
import pytest

from ruchu.blocks.files import FileReader
from ruchu.errors import GuestUnsupported
from ruchu.guests import btrfs, ranges
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Content

pytestmark = [pytest.mark.system, pytest.mark.slow]

MIB = 1 << 20
INODE = (1 << 64) - 1
KINDS = {
    NodeKind.FILE: stat.S_ISREG,
    NodeKind.DIRECTORY: stat.S_ISDIR,
    NodeKind.SYMLINK: stat.S_ISLNK,
    NodeKind.CHARACTER_DEVICE: stat.S_ISCHR,
    NodeKind.BLOCK_DEVICE: stat.S_ISBLK,
    NodeKind.FIFO: stat.S_ISFIFO,
    NodeKind.SOCKET: stat.S_ISSOCK,
}
SHAPES = {
    "default": ["-O", "no-holes"],
    "old": [
        *("-n", "4096", "-m", "single", "-R", "^free-space-tree"),
        *("-O", "^no-holes,^skinny-metadata,^extref"),
    ],
    "data twice, xxhash": ["-n", "65536", "-d", "dup", "-m", "dup", "--csum", "xxhash"],
    "mixed, sha256": ["--mixed", "-n", "4096", "-m", "dup", "-d", "dup", "--csum", "sha256"],
    "blake2": ["-n", "32768", "--csum", "blake2"],
}

TUNINGS = {
    "metadata UUID": ["-m"],
    "UUID rewritten": ["-u"],
    "seed": ["-S", "1"],
}


def run(*words, check=True):
    return subprocess.run(
        [os.fsencode(str(word)) for word in words], check=check, capture_output=True, timeout=120
    ).stdout.decode(errors="replace")


def make(path, size=500 * MIB, options=()):
    with open(path, "wb") as file:
        file.truncate(size)
    run("mkfs.btrfs", "-q", *options, path)
    return path


@contextlib.contextmanager
def mounted(image, at, options="noatime"):
    at.mkdir(exist_ok=True)
    run("mount", "-t", "btrfs", "-o", f"loop,{options}", image, at)
    try:
        yield at
    finally:
        run("umount", at)


def noise(size, seed=1):
    return np.random.default_rng(seed).integers(0, 256, size, np.uint8).tobytes()


def clone_range(source, start, length, target, at):
    fcntl.ioctl(target, 0x4020940D, struct.pack("<qQQQ", source.fileno(), start, length, at))


def plant_names(root):
    (root / "空的目录").mkdir()
    names = root / "names"
    names.mkdir()
    for name in ["病历 三月.txt".encode(), b"new\nline", b"\xff\xfe raw", b"n" * 255, b"'\"\\ "]:
        with open(os.path.join(os.fsencode(names), name), "wb") as file:
            file.write(name * 3)
    many = root / "many"
    many.mkdir()
    for number in range(2500):
        (many / f"entry-{number:05}").write_bytes(b"%d" % number)
    for number in range(0, 2500, 3):
        (many / f"entry-{number:05}").unlink()
    deep = root
    for number in range(60):
        deep /= f"deep{number}"
        deep.mkdir()
    (deep / "bottom").write_text("found")


def plant_kinds(root):
    kinds = root / "kinds"
    kinds.mkdir()
    os.symlink("short", kinds / "short")
    os.symlink("x/" * 900 + "end", kinds / "long")
    os.mknod(kinds / "char", 0o640 | stat.S_IFCHR, os.makedev(4000, 0xFEDCB))
    os.mknod(kinds / "block", 0o600 | stat.S_IFBLK, os.makedev(8, 300))
    os.mkfifo(kinds / "fifo", 0o604)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(kinds / "socket"))
    special = kinds / "special"
    special.write_text("owned")
    os.chown(special, 70000, 80000)
    os.chmod(special, 0o6751)
    os.utime(special, ns=(-1_500_000_001, 4_000_000_000_123_456_789))
    # A file system without extended references is full of links much earlier.
    with contextlib.suppress(OSError):
        for number in range(300):
            os.link(special, kinds / f"link{number:03}-{'l' * 100}")
    os.setxattr(special, "user.空", b"v" * 3000)
    os.setxattr(special, "user.empty", b"")
    os.setxattr(special, "security.capability", struct.pack("<IIIII", 0x02000001, 1024, 0, 0, 0))
    os.setxattr(kinds, "trusted.t", b"\0\1\2")
    run("setfacl", "-m", "u:1234:rwx,g:77:r-x,m::rwx", special)
    run("setfacl", "-m", "d:u:5:rw-,u:6:r--", kinds)


def plant_content(root):
    files = root / "files"
    files.mkdir()
    (files / "empty").touch()
    (files / "inline").write_bytes(b"small")
    (files / "big").write_bytes(noise(3 * MIB + 777))
    with open(files / "sparse", "wb") as file:
        file.truncate(1 << 40)
        for at in (0, 70_001, 5 * MIB, (1 << 40) - 5):
            file.seek(at)
            file.write(b"here!")
    with open(files / "trailing", "wb") as file:
        file.write(b"x" * 5000)
        file.truncate(MIB + 1)
    with open(files / "preallocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 4 * MIB)
        file.seek(MIB)
        file.write(b"in the middle" * 999)
    with open(files / "kept", "wb") as file:
        file.write(b"a" * 9000)
        file.flush()
        run("fallocate", "--keep-size", "-l", "1MiB", files / "kept")
    with open(files / "punched", "wb") as file:
        file.write(noise(MIB, 2))
    run("fallocate", "--punch-hole", "-o", "100000", "-l", "400000", files / "punched")
    with open(files / "fragments", "wb") as file:
        for at in range(400, 0, -1):
            os.pwrite(file.fileno(), noise(4096, at), at * 8192)
            if not at % 50:
                os.fsync(file.fileno())
    with open(files / "big", "rb") as source, open(files / "cloned", "wb") as target:
        clone_range(source, MIB, MIB, target, 0)
        clone_range(source, 4096, 8192, target, 3 * MIB)
    run("cp", "--reflink=always", files / "big", files / "shared")


def plant_packed(root):
    text = "".join(
        f"line {number}: the quick brown fox {number * number}\n" for number in range(9999)
    )
    for packing in ("zlib", "lzo", "zstd"):
        folder = root / packing
        folder.mkdir()
        run("btrfs", "property", "set", folder, "compression", packing)
        (folder / "text").write_text(text)
        (folder / "zeros").write_bytes(bytes(700_000))
        (folder / "mixed").write_bytes((noise(5000) + b"m" * 9000) * 30)
        (folder / "inline").write_text("abc" * 600)
        (folder / "noise").write_bytes(noise(300_000))
        (folder / "overwritten").write_text(text)
        os.sync()
        with open(folder / "overwritten", "r+b") as file:
            file.seek(150_000)
            file.write(b"changed" * 1000)
            file.truncate(500_001)


def plant_subvolumes(root):
    run("btrfs", "subvolume", "create", root / "子卷")
    (root / "子卷" / "inside").write_text("in the subvolume")
    run("btrfs", "subvolume", "create", root / "子卷" / "nested")
    (root / "子卷" / "nested" / "deeper").write_text("deeper")
    run("btrfs", "subvolume", "snapshot", root / "子卷", root / "snapshot")
    run("btrfs", "subvolume", "snapshot", "-r", root, root / "kinds" / "whole")
    (root / "子卷" / "inside").write_text("changed afterwards")
    (root / "snapshot" / "new").write_bytes(noise(200_000, 5))
    run("btrfs", "subvolume", "create", root / "gone")
    run("btrfs", "subvolume", "delete", "-c", root / "gone")


def plant(root):
    plant_names(root)
    plant_kinds(root)
    plant_content(root)
    plant_packed(root)
    os.sync()
    plant_subvolumes(root)


def content_of(fs, node, size):
    """Hash what extents call data; holes are left out, as `host_content` does."""
    digest = hashlib.sha256()
    covered = 0
    data = []
    for extent in fs.extents(node):
        assert extent.start == covered
        covered = extent.end
        if extent.content is Content.DATA:
            buffer = bytearray(extent.length)
            fs.read_into(node, extent.start, memoryview(buffer))
            digest.update(buffer)
            data.append((extent.start, extent.end))
        else:
            assert extent.content is Content.HOLE
            buffer = bytearray(b"\1" * min(extent.length, 70_000))
            fs.read_into(node, extent.end - len(buffer), memoryview(buffer))
            assert not any(buffer)
    assert covered == size
    return data, digest.hexdigest()


def host_content(path):
    digest = hashlib.sha256()
    data = []
    with open(path, "rb") as file:
        end = 0
        size = os.fstat(file.fileno()).st_size
        while end < size:
            try:
                first = os.lseek(file.fileno(), end, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), first, os.SEEK_HOLE)
            file.seek(first)
            digest.update(file.read(end - first))
            data.append((first, end))
    return data, digest.hexdigest()


def same_node(fs, node, path):
    found, real = fs.stat(node), os.lstat(path)
    assert KINDS[found.kind](real.st_mode)
    if node & INODE == 2:
        # A name of a subvolume that the snapshot did not take along; its times are made up.
        return found
    assert found.size == real.st_size
    assert found.allocated == real.st_blocks * 512
    assert found.mode == stat.S_IMODE(real.st_mode)
    assert (found.owner, found.group, found.links) == (real.st_uid, real.st_gid, real.st_nlink)
    times = (found.modified, found.accessed, found.changed)
    assert times == (real.st_mtime_ns, real.st_atime_ns, real.st_ctime_ns)
    if found.kind in {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}:
        assert found.device == (os.major(real.st_rdev), os.minor(real.st_rdev))
    assert node & INODE == real.st_ino
    attributes = {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in os.listxattr(path, follow_symlinks=False)
    }
    assert dict(fs.xattrs(node)) == attributes
    return found


def same_tree(fs, node, path, seen):
    """Compare a directory and what is below; return how many entries there are."""
    ours = {entry.name: entry for entry in fs.entries(node)}
    theirs = set(os.listdir(os.fsencode(path)))
    assert set(ours) == theirs
    for name, entry in ours.items():
        below = os.path.join(os.fsencode(path), name)
        found = same_node(fs, entry.node, below)
        assert entry.kind is found.kind
        seen[entry.node] = seen.get(entry.node, 0) + 1
        if found.kind is NodeKind.DIRECTORY:
            same_tree(fs, entry.node, below, seen)
        elif found.kind is NodeKind.SYMLINK:
            assert fs.link_target(entry.node) == os.readlink(below)
        elif found.kind is NodeKind.FILE and seen[entry.node] == 1:
            assert content_of(fs, entry.node, found.size) == host_content(below)
    return seen


def keep_only(image, used, target):
    with open(image, "rb") as source, open(target, "wb") as file:
        file.truncate(os.stat(image).st_size)
        for first, end in used.tolist():
            source.seek(first)
            file.seek(first)
            file.write(source.read(end - first))


def tree_hash(path):
    """Return a hash for everything below, by name."""
    found = {}
    for folder, folders, files in os.walk(os.fsencode(path)):
        for name in files + folders:
            place = os.path.join(folder, name)
            real = os.lstat(place)
            content = host_content(place) if stat.S_ISREG(real.st_mode) else ""
            found[os.path.relpath(place, os.fsencode(path))] = real.st_mode, real.st_size, content
    return found


def judged_whole(image, mount, before):
    """Check and mount an image; scrub reads every copy of every used byte and its checksum."""
    run("btrfs", "check", "--readonly", image)
    with mounted(image, mount, "ro,noatime"):
        scrub = run("btrfs", "scrub", "start", "-Br", mount)
        assert "no errors found" in scrub
        assert tree_hash(mount) == before


@pytest.mark.parametrize(
    ("shape", "tuning"),
    [*((shape, "none") for shape in SHAPES), *(("default", tuning) for tuning in TUNINGS)],
)
def test_shows_what_a_mount_shows_and_its_map_is_whole(tmp_path, shape, tuning):
    image = make(tmp_path / "image", options=[*SHAPES[shape], "-L", "病历"])
    with mounted(image, tmp_path / "mount") as root:
        plant(root)
    if tuning in TUNINGS:
        run("btrfstune", "-f", *TUNINGS[tuning], image)
    with FileReader(image) as device:
        fs = btrfs.open_file_system(device)
        assert btrfs.recognise(device) == "btrfs"
        allocation = btrfs.allocation(device, frozen=False)
        assert allocation.doubt == ""
        with mounted(image, tmp_path / "mount", "ro,noatime") as root:
            same_node(fs, fs.root, root)
            seen = same_tree(fs, fs.root, root, {})
            assert len(seen) > 3500
            before = tree_hash(root)
            born = run("stat", "-c", "%.9W", root / "kinds" / "special").strip()
        assert fs.facts.label == "病历"
        assert fs.facts.uuid in run("blkid", "-p", image)
        kinds = next(entry for entry in fs.entries(fs.root) if entry.name == b"kinds")
        special = next(entry for entry in fs.entries(kinds.node) if entry.name == b"special")
        assert fs.stat(special.node).created == int(born.replace(".", ""))
    assert ranges.total(allocation.used) < 60 * MIB
    assert allocation.used.tolist() == by_dump_tree(image).tolist()
    keep_only(image, allocation.used, tmp_path / "kept")
    judged_whole(tmp_path / "kept", tmp_path / "mount", before)


def chunks_by_dump_tree(image):
    """Return (first, length, places) of chunks as btrfs-progs prints them."""
    chunks = []
    for line in run("btrfs", "inspect-internal", "dump-tree", "-t", "chunk", image).splitlines():
        if key := re.search(r"FIRST_CHUNK_TREE CHUNK_ITEM (\d+)", line):
            chunks.append((int(key[1]), [], []))
        elif chunks and (length := re.match(r"\s+length (\d+) owner", line)):
            chunks[-1][1].append(int(length[1]))
        elif chunks and (stripe := re.match(r"\s+stripe \d+ devid 1 offset (\d+)", line)):
            chunks[-1][2].append(int(stripe[1]))
    return [(first, length[0], places) for first, length, places in chunks]


def by_dump_tree(image):
    """Return what must be mapped, from how btrfs-progs prints the trees."""
    node = int(
        re.search(r"nodesize\s+(\d+)", run("btrfs", "inspect-internal", "dump-super", image))[1]
    )
    rows = [(0, MIB), (64 * MIB, 64 * MIB + 4096)]
    chunks = chunks_by_dump_tree(image)
    dump = run("btrfs", "inspect-internal", "dump-tree", "-t", "extent", image)
    for first, kind, offset in re.findall(
        r"item \d+ key \((\d+) (EXTENT|METADATA)_ITEM (\d+)\)", dump
    ):
        length = int(offset) if kind == "EXTENT" else node
        start, _, places = next(row for row in chunks if row[0] <= int(first) < row[0] + row[1])
        rows += [
            (place + int(first) - start, place + int(first) - start + length) for place in places
        ]
    return ranges.of_pairs(rows)


def test_differs_from_partclone_only_where_partclone_is_wrong_or_generous(tmp_path):
    """Version 0.3.23 takes one copy only, no inner nodes, no room that is only preallocated.

    It also rounds to nodes, takes 64 KiB where a leaf of 16 is, and takes the logical address of
    file extents for a physical one.
    """
    image = make(tmp_path / "image")
    with mounted(image, tmp_path / "mount") as root:
        plant(root)
    run(
        "partclone.btrfs",
        "-D",
        "-q",
        "-s",
        image,
        "-o",
        tmp_path / "domain",
        "-L",
        tmp_path / "log",
    )
    rows = re.findall(r"^0x(\w+)\s+0x(\w+)\s+\+$", (tmp_path / "domain").read_text(), re.MULTILINE)
    theirs = ranges.of_pairs([(int(at, 16), int(at, 16) + int(size, 16)) for at, size in rows])
    size = os.stat(image).st_size
    with FileReader(image) as device:
        ours = btrfs.allocation(device, frozen=True).used
    only_ours = ranges.difference(ours, theirs, size)
    only_theirs = ranges.difference(theirs, ours, size)
    assert len(only_ours)
    assert len(only_theirs)
    chunks = chunks_by_dump_tree(image)
    second = [(places[1], places[1] + length) for _, length, places in chunks if len(places) > 1]
    dump = run("btrfs", "inspect-internal", "dump-tree", image)

    def physical(logical, length):
        start, _, places = next(row for row in chunks if row[0] <= logical < row[0] + row[1])
        return places[0] + logical - start, places[0] + logical - start + length

    inner = [
        physical(int(at), 16384) for at in re.findall(r"^node (\d+) level", dump, re.MULTILINE)
    ]
    parts = [
        (kind, int(at), int(length))
        for kind, at, length in re.findall(
            r"type \d \((regular|prealloc)\)\n\s+(?:prealloc|extent) data disk byte (\d+) nr (\d+)",
            dump,
        )
        if int(at)
    ]
    assert {kind for kind, _, _ in parts} == {"regular", "prealloc"}
    room = [physical(at, length) for kind, at, length in parts if kind == "prealloc"]
    missed = ranges.of_pairs([(0x14000, MIB), (64 * MIB, 64 * MIB + 4096), *second, *inner, *room])
    assert len(ranges.difference(only_ours, missed, size)) == 0
    generous = np.concatenate((ours // 16384, -(-ours // 16384) + 3), axis=1)[:, [0, 3]] * 16384
    misplaced = ranges.of_pairs(
        [(at // 16384 * 16384, -(-(at + length) // 16384) * 16384) for _, at, length in parts]
    )
    explained = ranges.union(ranges.joined(generous), misplaced)
    assert len(ranges.difference(only_theirs, explained, size)) == 0


def test_a_full_and_fragmented_one_is_mapped_exactly(tmp_path):
    image = make(tmp_path / "image", 120 * MIB, ["--mixed", "-n", "4096"])
    with mounted(image, tmp_path / "mount") as root:
        with contextlib.suppress(OSError):
            for number in range(9000):
                (root / f"f{number}").write_bytes(noise(4096 * (number % 7 + 1), number))
        os.sync()
        for number in range(0, 9000, 5):
            (root / f"f{number}").unlink(missing_ok=True)
        os.sync()
        with contextlib.suppress(OSError), open(root / "filler", "wb") as file:
            for number in range(30_000):
                file.write(noise(4096, number))
    with mounted(image, tmp_path / "mount", "ro,noatime") as root:
        used = os.statvfs(root)
        assert used.f_bavail < used.f_blocks / 10
        before = tree_hash(root)
    with FileReader(image) as device:
        allocation = btrfs.allocation(device, frozen=True)
    assert allocation.doubt == ""
    assert allocation.used.tolist() == by_dump_tree(image).tolist()
    keep_only(image, allocation.used, tmp_path / "kept")
    judged_whole(tmp_path / "kept", tmp_path / "mount", before)


def has_log(image):
    return "log_root\t\t0\n" not in run("btrfs", "inspect-internal", "dump-super", image)


def test_what_was_fsynced_only_is_in_the_map(tmp_path):
    """A copy of a running guest: the log tree, and the extents that only it names, are kept."""
    image = make(tmp_path / "image")
    with mounted(image, tmp_path / "mount", "noatime,commit=300") as root:
        (root / "before").write_bytes(noise(MIB, 1))
        run("btrfs", "subvolume", "create", root / "sub")
        run("btrfs", "filesystem", "sync", root)
        for number in range(60):
            with open(root / f"fsynced{number}", "wb") as file:
                file.write(noise(50_000 + number, number))
                file.flush()
                os.fsync(file.fileno())
        for place in (root, root / "sub"):
            with open(place / "room", "wb") as file:
                os.posix_fallocate(file.fileno(), 0, MIB)
                os.pwrite(file.fileno(), noise(9000, 77), 123_456)
                os.fsync(file.fileno())
        for attempt in range(20):
            # Now and then an fsync commits everything, and leaves no log.
            with open(root / f"last{attempt}", "wb") as file:
                file.write(noise(70_000, attempt))
                os.fsync(file.fileno())
            run("cp", "--sparse=always", image, tmp_path / "crashed")
            if has_log(tmp_path / "crashed"):
                break
        fsynced = tree_hash(root)
    assert has_log(tmp_path / "crashed")
    with FileReader(tmp_path / "crashed") as device:
        allocation = btrfs.allocation(device, frozen=False)
        fs = btrfs.open_file_system(device)
        assert any("log" in note for note in fs.facts.notes)
        assert {entry.name for entry in fs.entries(fs.root)} < {
            name for name in fsynced if b"/" not in name
        }
    assert allocation.doubt == ""
    assert ranges.total(allocation.used) < 20 * MIB
    keep_only(tmp_path / "crashed", allocation.used, tmp_path / "kept")
    with mounted(tmp_path / "kept", tmp_path / "mount") as root:
        assert tree_hash(root) == fsynced
        assert "no errors found" in run("btrfs", "scrub", "start", "-Br", root)


def test_placed_names_the_blocks_of_a_file_and_nothing_shared(tmp_path):
    image = make(tmp_path / "image", options=["-d", "dup"])
    with mounted(image, tmp_path / "mount") as root:
        (root / "alone").write_bytes(b"\xa5" * (2 * MIB + 5))
        (root / "cloned").write_bytes(noise(MIB))
        run("cp", "--reflink=always", root / "cloned", root / "clone")
        (root / "inline").write_text("x")
        run("btrfs", "subvolume", "create", root / "sub")
        (root / "sub" / "old").write_bytes(noise(MIB, 3))
        run("btrfs", "subvolume", "snapshot", root / "sub", root / "snap")
        (root / "sub" / "young").write_bytes(noise(MIB, 4))
        # Two levels, unchanged since the snapshot: leaves are shared, and extents counted once.
        run("btrfs", "subvolume", "create", root / "quiet")
        for number in range(200):
            (root / "quiet" / f"{number}").write_bytes(b"inline" * 200)
        (root / "quiet" / "quiet").write_bytes(noise(MIB, 6))
        run("btrfs", "subvolume", "snapshot", root / "quiet", root / "quiet2")
        with open(root / "swap", "wb") as file:
            os.posix_fallocate(file.fileno(), 0, MIB)
            os.sync()
            os.pwrite(file.fileno(), b"\x5a" * 8192, 65536)
    with FileReader(image) as device:
        fs = btrfs.open_file_system(device)
        nodes = {entry.name: entry.node for entry in fs.entries(fs.root)}
        below = {entry.name: entry.node for entry in fs.entries(nodes[b"sub"])}
        quiet = [
            entry.node
            for name in (b"quiet", b"quiet2")
            for entry in fs.entries(nodes[name])
            if entry.name == b"quiet"
        ]
        shared = (nodes[b"cloned"], nodes[b"clone"], nodes[b"inline"], below[b"old"], *quiet)
        assert [fs.placed(node) for node in shared] == [None] * 6
        for node, value, total in (
            (nodes[b"alone"], 0xA5, 2 * MIB + 4096),
            (nodes[b"swap"], 0x5A, MIB),
        ):
            found = fs.placed(node)
            assert ranges.total(found) == 2 * total
            with open(image, "rb") as file:
                for first, end in found.tolist():
                    file.seek(first)
                    assert bytes([value]) * 4096 in file.read(end - first)
        assert ranges.total(fs.placed(below[b"young"])) == 2 * MIB


@pytest.mark.parametrize("profile", ["raid0", "raid1", "raid10"])
def test_several_devices_are_recognised_and_taken_whole(tmp_path, profile):
    devices = 4 if profile == "raid10" else 2
    images = [tmp_path / f"disk{number}" for number in range(devices)]
    for image in images:
        with open(image, "wb") as file:
            file.truncate(160 * MIB)
    run("mkfs.btrfs", "-q", "-d", profile, "-m", profile, *images)
    with FileReader(images[1]) as device:
        assert btrfs.recognise(device) == "btrfs"
        allocation = btrfs.allocation(device, frozen=True)
        assert allocation.used.tolist() == [[0, 160 * MIB]]
        assert f"{devices} devices" in allocation.doubt
        with pytest.raises(GuestUnsupported, match="devices"):
            btrfs.open_file_system(device)


def test_the_default_subvolume_is_told_and_everything_is_below_the_top(tmp_path):
    image = make(tmp_path / "image")
    with mounted(image, tmp_path / "mount") as root:
        run("btrfs", "subvolume", "create", root / "@")
        (root / "@" / "etc").mkdir()
        run("btrfs", "subvolume", "set-default", root / "@")
    with FileReader(image) as device:
        fs = btrfs.open_file_system(device)
        assert [entry.name for entry in fs.entries(fs.root)] == [b"@"]
        assert any("subvolume 256 by default" in note for note in fs.facts.notes)


def test_a_damaged_copy_of_metadata_is_passed_over(tmp_path):
    image = make(tmp_path / "image")
    with mounted(image, tmp_path / "mount") as root:
        plant_names(root)
    with FileReader(image) as device:
        whole = btrfs.allocation(device, frozen=True)
    copies = [
        (places[0], length) for _, length, places in chunks_by_dump_tree(image) if len(places) > 1
    ]
    with open(image, "r+b") as file:
        for at, length in copies:
            file.seek(at)
            file.write(bytes(length))
    with FileReader(image) as device:
        allocation = btrfs.allocation(device, frozen=True)
        assert allocation.doubt == ""
        assert allocation.used.tolist() == whole.used.tolist()
        with mounted(image, tmp_path / "mount", "ro,noatime") as root:
            fs = btrfs.open_file_system(device)
            assert len(same_tree(fs, fs.root, root, {})) > 1700
