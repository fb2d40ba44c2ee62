"""The NTFS reader, judged by mkntfs, ntfs-3g, partclone, ntfsresize and ntfsfix."""

import contextlib
import hashlib
import itertools
import os
import random
import stat
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ruchu.blocks.files import FileReader
from ruchu.errors import GuestUnsupported
from ruchu.guests import ntfs, ranges
from ruchu.guests.contract import NodeKind

pytestmark = [pytest.mark.system, pytest.mark.slow]

KINDS = {
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFLNK: NodeKind.SYMLINK,
    stat.S_IFCHR: NodeKind.CHARACTER_DEVICE,
    stat.S_IFBLK: NodeKind.BLOCK_DEVICE,
}
SYMLINK, JUNCTION, WOF = 0xA000000C, 0xA0000003, 0x80000017


def run(*words):
    done = subprocess.run(words, capture_output=True, check=False, timeout=120)
    assert done.returncode == 0, (words, done.stdout, done.stderr)
    return done.stdout


def formatted(path, size, cluster=4096, *options):
    with open(path, "wb") as file:
        file.truncate(size)
    run("mkntfs", "-F", "-Q", "-q", "-L", "Täst 卷", "-c", str(cluster), *options, path)


@contextlib.contextmanager
def mounted(image, options="compression,streams_interface=windows"):
    at = Path(f"{image}.mount")
    at.mkdir(exist_ok=True)
    run("ntfs-3g", image, at, "-o", options)
    try:
        yield os.fsencode(at)
    finally:
        run("umount", at)
        at.rmdir()
        # The FUSE daemon may still be writing when umount returns; it holds the image locked.
        run("flock", "-w", "60", image, "true")


def text(words):
    return words.encode("utf-16-le")


def link_data(tag, there, shown, flags=0):
    names = text(there) + text(shown)
    head = struct.pack("<HHHH", 0, len(text(there)), len(text(there)), len(text(shown)))
    if tag == SYMLINK:
        head += struct.pack("<I", flags)
    return struct.pack("<IHH", tag, len(head + names), 0) + head + names


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def odd_names(root):
    names = [
        "中文文件名",
        "line\nbreak",
        "语" * 255,
        "ümlaut ",
        "a\\b",
        "x" * 255,
        "con",
        "😀",
        " ",
    ]
    for index, name in enumerate(names):
        write(root + b"/" + name.encode(), b"content of %d" % index)
    os.mkdir(root + b"/empty")
    deep = root
    for level in range(60):
        deep += b"/d%d" % level
        os.mkdir(deep)
    write(deep + b"/bottom", b"x")
    os.mkdir(root + b"/many")
    for index in range(5000):
        write(root + b"/many/file number %05d.txt" % index, b"%d" % index)
    for index in range(0, 5000, 3):
        os.unlink(root + b"/many/file number %05d.txt" % index)


def odd_content(root, rng):
    write(root + b"/zero", b"")
    write(root + b"/resident", rng.randbytes(400))
    write(root + b"/resident no more", rng.randbytes(4000))
    write(root + b"/large", rng.randbytes(5_000_001))
    with open(root + b"/sparse", "wb") as file:
        for at in (0, 1 << 20, (9 << 20) + 77):
            file.seek(at)
            file.write(rng.randbytes(70_000))
        file.truncate(12 << 20)
    write(root + b"/grown", rng.randbytes(100_000))
    os.truncate(root + b"/grown", 900_001)
    os.mkdir(root + b"/packed")
    os.setxattr(root + b"/packed", "system.ntfs_attrib_be", struct.pack(">I", 0x800))
    lines = b"".join(b"line %d of a log that repeats itself\n" % n for n in range(20_000))
    write(root + b"/packed/log", lines)
    write(root + b"/packed/noise", rng.randbytes(300_000))
    write(root + b"/packed/mixed", rng.randbytes(70_000) + bytes(200_000) + lines[:99_999])
    write(root + b"/packed/runs", b"a" * 150_000 + b"ab" * 50_000)
    write(root + b"/packed/small", b"small")
    write(root + b"/packed/grown", lines[:70_000])
    os.truncate(root + b"/packed/grown", 500_000)


def fragmented(root, rng):
    """A file in more turns than fit into a record: its run list is spread over several."""
    with open(root + b"/pieces", "wb", 0) as file:
        for index in range(1500):
            file.seek(index * 8192)
            file.write(rng.randbytes(4096))


def odd_nodes(root):
    write(root + b"/linked", b"one of many")
    for index in range(60):
        os.link(root + b"/linked", root + b"/link %03d " % index + b"l" * 200)
    os.symlink(b"linked", root + b"/short link")
    os.symlink(b"d0/" + b"../d0/" * 150 + "中".encode(), root + b"/long link")
    os.mknod(root + b"/pipe", 0o600 | stat.S_IFIFO)
    os.mknod(root + b"/tty", 0o600 | stat.S_IFCHR, os.makedev(4, 64))
    os.mknod(root + b"/disk", 0o600 | stat.S_IFBLK, os.makedev(259, 65_537))
    write(root + b"/relative", b"")
    data = link_data(SYMLINK, "packed\\small", "packed\\small", 1)
    os.setxattr(root + b"/relative", "system.ntfs_reparse_data", data)
    os.mkdir(root + b"/junction")
    data = link_data(JUNCTION, "\\??\\C:\\Users\\Öl", "C:\\Users\\Öl")
    os.setxattr(root + b"/junction", "system.ntfs_reparse_data", data)
    os.mkdir(root + b"/volume")
    data = link_data(JUNCTION, "\\??\\Volume{01}\\", "")
    os.setxattr(root + b"/volume", "system.ntfs_reparse_data", data)
    write(root + b"/overlaid", b"not what it seems")
    data = struct.pack("<IHHIIII", WOF, 16, 0, 1, 2, 1, 7)
    os.setxattr(root + b"/overlaid", "system.ntfs_reparse_data", data)
    write(root + b"/with streams", b"main")
    write(root + b"/with streams:Zone.Identifier", b"[ZoneTransfer]\r\nZoneId=3\r\n")
    write(root + "/with streams:数据".encode(), bytes(range(256)) * 3000)
    write(root + b"/d0:of a directory", b"there too")
    write(root + b"/long name for DOS.text", b"8.3")
    os.setxattr(root + b"/long name for DOS.text", "system.ntfs_dos_name", b"LONGNA~1.TEX")
    write(root + b"/read only", b"no writing")
    os.setxattr(root + b"/read only", "system.ntfs_attrib_be", struct.pack(">I", 0x1))
    write(root + b"/extended", b"")
    extended = struct.pack("<IBBH", 20, 0, 4, 5) + b"NAME\0value" + bytes(2)
    os.setxattr(root + b"/extended", "system.ntfs_ea", extended)
    write(root + b"/IO.SYS", b"")
    os.setxattr(root + b"/IO.SYS", "system.ntfs_attrib_be", struct.pack(">I", 0x4))


def with_descriptor(root):
    """Give files security descriptors of their own: they go to $Secure."""
    everyone = bytes.fromhex("010100000000000100000000")
    for index in range(150):
        user = bytes.fromhex("0105000000000005150000000100000002000000030000") + b"\0"
        user += struct.pack("<I", 1000 + index)
        entry = struct.pack("<BBHI", 0, 3, 8 + len(everyone), 0x1F01FF) + everyone
        acl = struct.pack("<BBHHH", 2, 0, 8 + len(entry), 1, 0) + entry
        owner = 20
        head = struct.pack("<BBHIIII", 1, 0, 0x8004, owner, owner, 0, owner + len(user))
        path = root + b"/secured %d" % index
        write(path, b"")
        os.setxattr(path, "system.ntfs_acl", head + user + acl)


def fill(root, seed=7):
    rng = random.Random(seed)
    odd_names(root)
    odd_content(root, rng)
    fragmented(root, rng)
    odd_nodes(root)
    with_descriptor(root)


@pytest.fixture(scope="module", params=[(4096, 1024), (512, 1024), (65536, 1024), (4096, 4096)])
def filled(request, tmp_path_factory):
    cluster, record = request.param
    image = tmp_path_factory.mktemp("ntfs") / "filled.img"
    sector = ["-s", "4096"] if record == 4096 else []
    formatted(image, 256 << 20, cluster, *sector)
    with mounted(image) as root:
        fill(root)
    return image


def opened(stack, path):
    return ntfs.open_file_system(stack.enter_context(FileReader(path)))


def content(system, node, size, stream=""):
    digest, step = hashlib.sha256(), 777_777
    for at in range(0, size, step):
        buffer = bytearray(min(step, size - at))
        system.read_into(node, at, memoryview(buffer), stream)
        digest.update(buffer)
    return digest.hexdigest()


def file_hash(path):
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def compare(system, node, path, seen):
    """Hold a directory against what ntfs-3g shows of it."""
    ours = {entry.name: entry for entry in system.entries(node)}
    assert len(ours) == sum(1 for _ in system.entries(node))
    assert set(ours) == set(os.listdir(path))
    for name, entry in ours.items():
        below = path + b"/" + name
        there = os.lstat(below)
        found = system.stat(entry.node)
        assert entry.kind in {found.kind, NodeKind.OTHER}
        assert entry.node == there.st_ino
        seen[below] = found
        kind = KINDS.get(stat.S_IFMT(there.st_mode))
        # ntfs-3g shows what it does not understand as a broken link, empty system files as FIFOs.
        if kind is not None and name != b"overlaid":
            assert found.kind is kind, below
        # ntfs-3g rounds nothing: both have units of 100 ns.
        assert (found.modified, found.changed) == (there.st_mtime_ns, there.st_ctime_ns), below
        assert found.accessed == there.st_atime_ns
        if found.kind is NodeKind.DIRECTORY:
            assert found.size == there.st_size
            compare(system, entry.node, below, seen)
        elif found.kind is NodeKind.FILE and name != b"overlaid":
            compare_file(system, entry.node, below, found, there)
        elif found.kind in {NodeKind.CHARACTER_DEVICE, NodeKind.BLOCK_DEVICE}:
            assert found.device == (os.major(there.st_rdev), os.minor(there.st_rdev))
        elif name in {b"short link", b"long link", b"relative"}:
            assert system.link_target(entry.node) == os.readlink(below)
            assert found.size == len(os.readlink(below))


def compare_file(system, node, path, found, there):
    assert found.size == there.st_size
    if not path.endswith((b"/IO.SYS", b"/pipe")):
        # ntfs-3g counts the DOS name, which is no link: on Windows every long name has one.
        assert found.links == there.st_nlink - path.endswith(b"for DOS.text"), path
        assert content(system, node, found.size) == file_hash(path), path
    extents = list(system.extents(node))
    assert sum(extent.length for extent in extents) == found.size
    assert all(a.end == b.start for a, b in itertools.pairwise(extents))
    if found.allocated:
        assert found.allocated == there.st_blocks * 512


def test_everything_is_as_ntfs_3g_shows_it(filled):
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(mounted(filled, "ro,streams_interface=windows"))
        system = opened(stack, filled)
        seen = {}
        compare(system, system.root, root, seen)
        assert len(seen) > 3500
        shown = {path.removeprefix(root + b"/"): found for path, found in seen.items()}
        assert shown[b"linked"].links == 61
        assert shown[b"read only"].mode == 0o444
        assert shown[b"zero"].mode == 0o644
        assert shown[b"d0"].mode == 0o755
        assert shown[b"IO.SYS"].kind is NodeKind.FILE
        assert shown[b"packed/log"].allocated < shown[b"packed/log"].size // 2 or (
            system.facts.block > 4096
        )


def test_streams_links_and_descriptors(filled):
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(mounted(filled, "ro,streams_interface=windows"))
        system = opened(stack, filled)
        nodes = {entry.name: entry.node for entry in system.entries(system.root)}
        streams = system.streams(nodes[b"with streams"])
        assert streams == {"Zone.Identifier": 26, "数据": 768_000}
        for name, size in streams.items():
            there = root + b"/with streams:" + name.encode()
            assert content(system, nodes[b"with streams"], size, name) == file_hash(there)
        assert system.streams(nodes[b"d0"]) == {"of a directory": 9}
        assert system.link_target(nodes[b"junction"]) == "C:/Users/Öl".encode()
        assert system.link_target(nodes[b"volume"]) == b"Volume{01}/"
        assert b"LONGNA~1.TEX" not in nodes
        with pytest.raises(GuestUnsupported, match="Overlay Filter"):
            system.read_into(nodes[b"overlaid"], 0, memoryview(bytearray(4)))
        for name, node in nodes.items():
            if name.startswith(b"secured") or name in {b"junction", b"d0"}:
                ours = system.xattrs(node)
                path = root + b"/" + name
                shown = os.getxattr(path, "system.ntfs_acl", follow_symlinks=False)
                assert ours["system.ntfs_acl"] == shown, name
        path = root + b"/junction"
        data = os.getxattr(path, "system.ntfs_reparse_data", follow_symlinks=False)
        assert system.xattrs(nodes[b"junction"])["system.ntfs_reparse_data"] == data
        extended = os.getxattr(root + b"/extended", "system.ntfs_ea")
        assert system.xattrs(nodes[b"extended"])["system.ntfs_ea"] == extended
        descriptors = {system.xattrs(nodes[b"secured %d" % n])["system.ntfs_acl"] for n in range(9)}
        assert len(descriptors) == 9


def judged(image, size, cluster):
    """Return the flags of clusters that partclone calls used."""
    domain = f"{image}.domain"
    run("partclone.ntfs", "-D", "--offset_domain=0", "-F", "-q", "-s", image, "-o", domain)
    flags = np.zeros(-(-size // cluster), bool)
    for line in Path(domain).read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "+":
            first, length = int(words[0], 16), int(words[1], 16)
            flags[first // cluster : (first + length) // cluster] = True
    return flags


def assert_judged(image):
    """Hold the map against partclone's; only what is behind the last cluster may be more."""
    with FileReader(image) as device:
        allocation = ntfs.allocation(device, frozen=False)
        assert allocation.doubt == ""
        facts = ntfs.open_file_system(device).facts
        assert facts.notes == ()
        unit = 512
        theirs = np.repeat(judged(image, device.size, facts.block), facts.block // unit)
        ours = np.zeros(len(theirs), bool)
        for first, end in allocation.used.tolist():
            ours[first // unit : -(-end // unit)] = True
        clusters = (device.size - unit) // facts.block * facts.block // unit
        assert np.array_equal(ours[:clusters], theirs[:clusters])
        assert ours[device.size // unit - 1]
    return allocation.used


def copied(image, used):
    """Return an image that has only what the map names; the rest is filled with rubbish."""
    copy = Path(f"{image}.copy")
    size = image.stat().st_size
    with open(image, "rb") as source, open(copy, "wb") as target:
        target.truncate(size)
        for first, end in ranges.complement(used, size).tolist():
            target.seek(first)
            target.write(b"\xa5" * min(end - first, 65_536))
        for first, end in used.tolist():
            source.seek(first)
            target.seek(first)
            target.write(source.read(end - first))
    return copy


def hashes(image):
    found = {}
    with mounted(image, "ro,streams_interface=windows") as root:
        for folder, _, names in os.walk(root):
            for name in names:
                path = folder + b"/" + name
                if stat.S_ISREG(os.lstat(path).st_mode) and name != b"overlaid":
                    found[path.removeprefix(root)] = file_hash(path)
    return found


def test_map_is_partclones_and_a_copy_of_it_is_whole(filled):
    used = assert_judged(filled)
    copy = copied(filled, used)
    try:
        run("ntfsfix", "-n", copy)
        run("ntfsresize", "--check", "-f", copy)
        theirs = {name.split(b".mount")[-1]: value for name, value in hashes(copy).items()}
        ours = {name.split(b".mount")[-1]: value for name, value in hashes(filled).items()}
        assert theirs == ours
        assert len(ours) > 3000
    finally:
        copy.unlink()


def test_full_and_fragmented(tmp_path):
    image = tmp_path / "full.img"
    formatted(image, 48 << 20)
    rng = random.Random(3)
    with mounted(image) as root:
        index = 0
        with contextlib.suppress(OSError):
            while os.statvfs(root).f_bavail * 4096 > 3 << 20:
                write(root + b"/f%d" % index, rng.randbytes(rng.randrange(1, 60_000)))
                index += 1
        for gone in range(0, index, 2):
            os.unlink(root + b"/f%d" % gone)
        with open(root + b"/pieces", "wb", 0) as file, contextlib.suppress(OSError):
            while os.statvfs(root).f_bavail * 4096 > 2 << 20:
                file.write(rng.randbytes(16_384))
    used = assert_judged(image)
    assert ranges.total(used) > 0.9 * (48 << 20)
    copy = copied(image, used)
    run("ntfsfix", "-n", copy)
    assert hashes(copy) == {
        name.replace(b"full.img.mount", b"full.img.copy.mount"): value
        for name, value in hashes(image).items()
    }
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(mounted(image, "ro"))
        compare(opened(stack, image), ntfs.volume.ROOT, root, {})


def test_fragmented_table(tmp_path):
    """The MFT itself in pieces, its run list too long for its first record."""
    image = tmp_path / "table.img"
    formatted(image, 32 << 20, 512)
    with mounted(image) as root:
        write(root + b"/ballast", bytes(range(1, 256)) * (10 << 12))
        os.mkdir(root + b"/a")
        made = 0
        with contextlib.suppress(OSError):
            while True:
                write(root + b"/a/%06d" % made, b"x" * 900)
                made += 1
        for index in range(0, made, 2):
            os.unlink(root + b"/a/%06d" % index)
        with contextlib.suppress(OSError):
            for index in range(made):
                write(root + b"/a/e%05d" % index, b"%d" % index)
    assert_judged(image)
    with contextlib.ExitStack() as stack:
        root = stack.enter_context(mounted(image, "ro"))
        system = opened(stack, image)
        own = system._volume.table.record(0).attributes
        assert ntfs.attributes.ATTRIBUTE_LIST in {found.kind for found in own}
        compare(system, system.root, root, {})


def test_placed_names_the_clusters_of_a_file(filled):
    with contextlib.ExitStack() as stack:
        system = opened(stack, filled)
        device = stack.enter_context(FileReader(filled))
        nodes = {entry.name: entry.node for entry in system.entries(system.root)}
        packed = {entry.name: entry.node for entry in system.entries(nodes[b"packed"])}
        assert system.placed(nodes[b"resident"]) is None
        if system.facts.block <= 4096:
            assert system.placed(packed[b"log"]) is None
        for name in (b"large", b"sparse", b"pieces"):
            where = system.placed(nodes[name])
            used = ntfs.allocation(device, frozen=False).used
            assert ranges.total(where) == system.stat(nodes[name]).allocated
            assert len(ranges.difference(where, used, device.size)) == 0
        # What is written over what `placed` names changes this file alone.
        damaged = Path(f"{filled}.damaged")
        damaged.write_bytes(filled.read_bytes())
        with open(damaged, "r+b") as file:
            for first, end in system.placed(nodes[b"pieces"]).tolist():
                file.seek(first)
                file.write(bytes(end - first))
        before, after = hashes(filled), hashes(damaged)
        damaged.unlink()
    after = {name.replace(b".img.damaged.", b".img."): value for name, value in after.items()}
    changed = {name.rsplit(b"/")[-1] for name in before if before[name] != after[name]}
    assert changed == {b"pieces"}
