"""ext2, ext3, ext4 against the host's kernel, partclone, e2fsck: what is seen, what counts."""

import contextlib
import fcntl
import hashlib
import os
import random
import re
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path

import numpy as np
import pytest

from ruchu.blocks.files import FileReader
from ruchu.errors import GuestDamaged, GuestUnsupported
from ruchu.guests import ext, ranges
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Content

pytestmark = pytest.mark.system

MIB = 1 << 20
KINDS = {
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFLNK: NodeKind.SYMLINK,
    stat.S_IFCHR: NodeKind.CHARACTER_DEVICE,
    stat.S_IFBLK: NodeKind.BLOCK_DEVICE,
    stat.S_IFIFO: NodeKind.FIFO,
    stat.S_IFSOCK: NodeKind.SOCKET,
}
# What mke2fs is told, and what blkid must call it.
FORMATS = {
    "ext2-1k": ("-t ext2 -b 1024", "ext2"),
    "ext2-4k": ("-t ext2 -b 4096 -I 128", "ext2"),
    "ext2-revision-0": ("-t ext2 -r 0 -b 1024", "ext2"),
    "ext3-1k": ("-t ext3 -b 1024", "ext3"),
    "ext3-4k": ("-t ext3 -b 4096", "ext3"),
    "ext4-4k": ("-t ext4 -b 4096", "ext4"),
    "ext4-2k": ("-t ext4 -b 2048", "ext4"),
    "ext4-1k-many-groups": ("-t ext4 -b 1024 -g 1024", "ext4"),
    "ext4-narrow": ("-t ext4 -b 4096 -O ^64bit,^metadata_csum", "ext4"),
    "ext4-uninit-bg": ("-t ext4 -b 1024 -O ^64bit,^metadata_csum,uninit_bg", "ext4"),
    "ext4-uninit-bg-64bit": ("-t ext4 -b 1024 -O ^metadata_csum,uninit_bg", "ext4"),
    "ext4-meta-bg": ("-t ext4 -b 1024 -g 512 -O meta_bg,^resize_inode", "ext4"),
    "ext4-meta-bg-no-flex": ("-t ext4 -b 1024 -O meta_bg,^resize_inode,^flex_bg", "ext4"),
    "ext4-no-flex": ("-t ext4 -b 1024 -O ^flex_bg", "ext4"),
    "ext4-no-sparse": ("-t ext4 -b 1024 -O ^sparse_super,^resize_inode", "ext4"),
    "ext4-sparse-super2": ("-t ext4 -b 1024 -O sparse_super2,^resize_inode", "ext4"),
    "ext4-bigalloc": ("-t ext4 -b 4096 -C 16384 -O bigalloc", "ext4"),
    "ext4-bigalloc-1k": ("-t ext4 -b 1024 -C 8192 -O bigalloc", "ext4"),
    "ext4-inline": ("-t ext4 -b 4096 -I 256 -O inline_data", "ext4"),
    "ext4-inline-1k": ("-t ext4 -b 1024 -I 1024 -O inline_data,metadata_csum_seed", "ext4"),
    "ext4-ea-inode": ("-t ext4 -b 4096 -O ea_inode,large_dir", "ext4"),
    "ext4-orphan-file": ("-t ext4 -b 4096 -O orphan_file,metadata_csum_seed", "ext4"),
    "ext4-no-journal": ("-t ext4 -b 4096 -O ^has_journal", "ext4"),
    "ext4-no-extents": ("-t ext4 -b 1024 -O ^extent,^64bit,^metadata_csum", "ext4"),
    "ext4-small-inodes": ("-t ext4 -b 4096 -I 128", "ext4"),
    "ext4-mmp-encrypt": ("-t ext4 -b 4096 -O mmp,encrypt,verity", "ext4"),
}


def run(*command: object, ok: tuple[int, ...] = (0,)) -> str:
    done = subprocess.run(
        [str(part) for part in command], capture_output=True, text=True, check=False, timeout=250
    )
    assert done.returncode in ok, (command, done.returncode, done.stdout, done.stderr)
    return done.stdout


@contextlib.contextmanager
def mounted(image: Path, options: str = "noatime"):
    """Yield where the image is mounted."""
    place = image.with_suffix(".mnt")
    place.mkdir(exist_ok=True)
    run("mount", "-o", f"loop,{options}", image, place)
    try:
        yield place
    finally:
        run("umount", place)


def made(tmp_path: Path, options: str, size: int = 96 * MIB) -> Path:
    image = tmp_path / "volume.img"
    with image.open("wb") as file:
        file.truncate(size)
    run("mke2fs", "-q", "-F", "-L", "tägliche", *options.split(), image)
    return image


def set_attribute(path: Path, name: str, value: bytes) -> None:
    with contextlib.suppress(OSError):  # revision 0 and large values: what the kernel refuses
        os.setxattr(path, name, value, follow_symlinks=False)


def build_tree(root: Path, rng: random.Random) -> None:
    """Make one of everything."""
    odd = root / "odd"
    odd.mkdir()
    for name in ("重要文件.txt", "new\nline", "x" * 255, " ", "-rf", "ä" * 100, "病" * 85):
        (odd / name).write_bytes(name.encode() * 3)
    (odd / "empty").mkdir()
    os.close(os.open(os.fsencode(odd) + b"/\xff\xfe\x80", os.O_CREAT))
    sizes = (0, 1, 59, 60, 61, 100, 159, 160, 161, 900, 1023, 1024, 4095, 4096, 4097, 300_000)
    for size in sizes:
        (root / f"size-{size}").write_bytes(rng.randbytes(size))
    build_holes(root / "holes", rng)
    os.link(root / "size-4097", odd / "hard link")
    for length in (1, 59, 60, 61, 300, 1000):
        (root / f"link-{length}").symlink_to("t" * length)
    os.mkfifo(root / "fifo", 0o640)
    os.mknod(root / "null", stat.S_IFCHR | 0o666, os.makedev(1, 3))
    os.mknod(root / "big device", stat.S_IFBLK | 0o600, os.makedev(3000, 700_000))
    sock = socket.socket(socket.AF_UNIX)
    here = os.open(root, os.O_RDONLY)
    sock.bind(f"/proc/self/fd/{here}/socket")
    os.close(here)
    sock.close()
    build_attributes(root)
    deep = root
    for level in range(60):
        deep /= f"level {level}"
        deep.mkdir()
    (deep / "bottom").write_text("here")
    many = root / "many"
    many.mkdir()
    for number in range(4000):
        (many / f"{number:05} a file with a name of some length").touch()
    for number in range(0, 4000, 7):
        (many / f"{number:05} a file with a name of some length").unlink()
    for number in range(3):
        (root / f"small{number}").mkdir()
        (root / f"small{number}" / "one").write_text("1")
        (root / f"small{number}" / "a second name, longer").write_text("2")


def build_holes(root: Path, rng: random.Random) -> None:
    root.mkdir()
    with (root / "sparse").open("wb") as file:
        for at in (0, 70_000, 5 * MIB, 5 * MIB + 4096, 40 * MIB + 123):
            file.seek(at)
            file.write(rng.randbytes(5000))
        file.truncate(50 * MIB)
    with (root / "far").open("wb") as file:
        # In the doubly and triply indirect blocks of ext2.
        file.seek(6 << 30 if os.statvfs(root).f_bsize > 1024 else 1 << 30)
        file.write(b"far away")
    with (root / "preallocated").open("wb") as file, contextlib.suppress(OSError):
        os.posix_fallocate(file.fileno(), 0, 400_000)
        file.seek(100_001)
        file.write(b"written")
    with (root / "pieces").open("wb") as file, (root / "between").open("wb") as other:
        for number in range(900):
            file.seek(number * 8192)
            file.write(rng.randbytes(1024))
            other.write(rng.randbytes(1024))
            if number % 15 == 0:
                os.fsync(file.fileno())


def build_attributes(root: Path) -> None:
    tagged = root / "tagged"
    tagged.write_text("x")
    set_attribute(tagged, "user.short", b"value")
    set_attribute(tagged, "user.empty", b"")
    set_attribute(tagged, "trusted.root", bytes(range(256)))
    set_attribute(tagged, "security.other", b"label\0")
    set_attribute(tagged, "user.名字", "值".encode())
    larger = root / "tagged more"
    larger.write_text("y")
    for size in (300, 700, 3000, 20_000):
        set_attribute(larger, f"user.size{size}", bytes([size % 251]) * size)
    entries = [(1, 7, -1), (2, 6, 70_000), (4, 5, -1), (8, 4, 9), (16, 7, -1), (32, 0, -1)]
    acl = struct.pack("<I", 2)
    acl += b"".join(struct.pack("<HHI", tag, r, i & 0xFFFFFFFF) for tag, r, i in entries)
    (root / "shared").mkdir()
    set_attribute(root / "shared", "system.posix_acl_default", acl)
    set_attribute(tagged, "system.posix_acl_access", acl)
    (root / "shared" / "inherits").write_text("z")
    os.chown(tagged, 100_000, 200_000)
    os.chmod(tagged, 0o4755)
    for name, when in (("old", -5_000_000_000), ("past", -86_400 * 10**9 + 7), ("far", 2**33)):
        (root / f"time {name}").touch()
        nanoseconds = when * 10**9 + 123_456_789 if abs(when) > 10**10 or name != "past" else when
        with contextlib.suppress(OSError):
            os.utime(root / f"time {name}", ns=(nanoseconds, nanoseconds + 1))


def digest(path: bytes) -> str:
    """Hash the pieces of a MiB that are not zeros, with their places."""
    total = hashlib.sha256()
    with open(path, "rb") as file:
        size = os.fstat(file.fileno()).st_size
        at = 0
        while at < size:
            try:
                at = max(at, os.lseek(file.fileno(), at, os.SEEK_DATA) // MIB * MIB)
            except OSError:
                break
            piece = os.pread(file.fileno(), MIB, at)
            if any(piece):
                total.update(b"%d:" % at + piece)
            at += MIB
    return total.hexdigest()


def truth(root: Path) -> dict[bytes, dict[str, object]]:
    """Return what the kernel shows of every path."""
    found = {}
    top = os.fsencode(root)
    paths = [top]
    for folder, folders, files in os.walk(top):
        paths += [os.path.join(folder, name) for name in (*folders, *files)]
    for path in paths:
        seen = os.lstat(path)
        link = stat.S_ISLNK(seen.st_mode)
        found[path[len(top) :]] = {
            "kind": KINDS[stat.S_IFMT(seen.st_mode)],
            "size": seen.st_size,
            "allocated": seen.st_blocks * 512,
            "mode": stat.S_IMODE(seen.st_mode),
            "owner": (seen.st_uid, seen.st_gid),
            "links": seen.st_nlink,
            "node": seen.st_ino,
            "times": (seen.st_mtime_ns, seen.st_atime_ns, seen.st_ctime_ns),
            "device": (os.major(seen.st_rdev), os.minor(seen.st_rdev)),
            "target": os.readlink(path) if link else None,
            "content": digest(path) if stat.S_ISREG(seen.st_mode) else None,
            "xattrs": {
                name: os.getxattr(path, name, follow_symlinks=False)
                for name in os.listxattr(path, follow_symlinks=False)
            },
        }
    return found


def content_digest(files: ext.ExtFileSystem, node: int, size: int) -> str:
    """Hash the same pieces; each that has data is read whole, with the holes in it."""
    total = hashlib.sha256()
    at = following = 0
    for extent in files.extents(node):
        assert extent.start == at
        at = extent.end
        if extent.content is not Content.DATA:
            continue
        for start in range(max(following, extent.start // MIB * MIB), extent.end, MIB):
            buffer = bytearray(b"\xaa" * min(MIB, size - start))
            files.read_into(node, start, memoryview(buffer))
            if any(buffer):
                total.update(b"%d:" % start + buffer)
            following = start + MIB
    assert at == size
    return total.hexdigest()


def ours(files: ext.ExtFileSystem) -> dict[bytes, dict[str, object]]:
    """Return the same of what we read."""
    found = {}
    stack = [(b"", files.root, NodeKind.DIRECTORY)]
    while stack:
        path, node, kind = stack.pop()
        seen = files.stat(node)
        assert kind in {seen.kind, NodeKind.OTHER}
        if seen.kind is NodeKind.DIRECTORY:
            stack += [(path + b"/" + e.name, e.node, e.kind) for e in files.entries(node)]
        is_file = seen.kind is NodeKind.FILE
        found[path] = {
            "kind": seen.kind,
            "size": seen.size,
            "allocated": seen.allocated,
            "mode": seen.mode,
            "owner": (seen.owner, seen.group),
            "links": seen.links,
            "node": node,
            "times": (seen.modified, seen.accessed, seen.changed),
            "device": seen.device,
            "target": files.link_target(node) if seen.kind is NodeKind.SYMLINK else None,
            "content": content_digest(files, node, seen.size) if is_file else None,
            "xattrs": dict(files.xattrs(node)),
        }
    return found


def assert_same(seen: dict, wanted: dict) -> None:
    assert seen.keys() == wanted.keys()
    differing = {
        path: {
            key: (seen[path][key], wanted[path][key])
            for key in seen[path]
            if seen[path][key] != wanted[path][key]
        }
        for path in wanted
        if seen[path] != wanted[path]
    }
    assert not differing, dict(list(differing.items())[:5])


def judged(image: Path) -> np.ndarray:
    """Return what partclone would copy, as ranges of bytes."""
    listing = image.with_suffix(".domain")
    run("partclone.extfs", "-D", "-s", image, "-o", listing, "-L", image.with_suffix(".log"))
    rows = []
    for line in listing.read_text().splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[2] == "+":
            rows.append((int(parts[0], 16), int(parts[0], 16) + int(parts[1], 16)))
    return ranges.of_pairs(rows)


def listed(image: Path, size: int) -> np.ndarray:
    """Return what dumpe2fs does not list as free."""
    text = run("dumpe2fs", image)
    block = int(re.search(r"^Block size: +(\d+)", text, re.MULTILINE)[1])
    blocks = int(re.search(r"^Block count: +(\d+)", text, re.MULTILINE)[1])
    clusters = re.search(r"^Cluster size: +(\d+)", text, re.MULTILINE)
    taken = int(clusters[1]) if clusters else block
    free = []
    for line in re.findall(r"^  Free blocks: (.*)$", text, re.MULTILINE):
        for part in filter(None, line.split(", ")):
            first, _, last = part.partition("-")
            # Of clusters it names the first blocks only.
            free.append((int(first) * block, int(last or first) * block + taken))
    return ranges.difference(np.array([[0, blocks * block]]), ranges.of_pairs(free), size)


def copied(image: Path, used: np.ndarray) -> Path:
    """Return a blank image with only the mapped bytes."""
    target = image.with_suffix(".copy")
    with image.open("rb") as source, target.open("wb") as sink:
        sink.truncate(image.stat().st_size)
        for first, end in used.tolist():
            for at in range(first, end, MIB):
                source.seek(at)
                sink.seek(at)
                sink.write(source.read(min(MIB, end - at)))
    return target


def assert_map(image: Path, *, clustered: bool = False) -> np.ndarray:
    """Hold the map against dumpe2fs, e2fsck and partclone (which knows no clusters)."""
    with FileReader(image) as device:
        found = ext.allocation(device, frozen=False)
        size = device.size
    assert found.doubt == ""
    assert found.used.tolist() == listed(image, size).tolist()
    if not clustered:
        # partclone leaves out the boot block of blocks of 1 KiB.
        other = judged(image)
        assert len(ranges.difference(other, found.used, size)) == 0
        assert ranges.total(ranges.difference(found.used, other, size)) in {0, 1024}
    assert ranges.total(found.used) < size
    copy = copied(image, found.used)
    run("e2fsck", "-fn", copy)
    return found.used


@pytest.mark.slow
@pytest.mark.parametrize("name", FORMATS)
def test_everything_is_as_the_kernel_shows_it(tmp_path, rng, name):
    options, kind = FORMATS[name]
    image = made(tmp_path, options)
    with mounted(image) as root:
        build_tree(root, rng)
    with mounted(image, "ro,noatime") as root:
        wanted = truth(root)
        born = run("stat", "-c", "%W.%w", root / "size-4097").split()
    with FileReader(image) as device:
        assert ext.recognise(device) == kind
        assert run("blkid", "-p", "-o", "value", "-s", "TYPE", image).strip() == kind
        files = ext.open_file_system(device)
        uuid = run("blkid", "-p", "-o", "value", "-s", "UUID", image).strip()
        assert (files.facts.kind, files.facts.uuid, files.facts.label) == (kind, uuid, "tägliche")
        assert_same(ours(files), wanted)
        created = files.stat(wanted[b"/size-4097"]["node"]).created
        if len(born) > 1:
            seconds, fraction = born[0].split(".")[0], born[1].split(".")[1]
            assert created == int(seconds) * 10**9 + int(fraction)
        else:
            assert created is None
    used = assert_map(image, clustered="bigalloc" in options)
    copy = copied(image, used)
    with FileReader(copy) as device:
        assert_same(ours(ext.open_file_system(device)), wanted)
    shutil.rmtree(tmp_path, ignore_errors=True)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["-t ext4 -b 1024", "-t ext4 -b 4096", "-t ext3 -b 1024"])
def test_the_map_of_a_full_and_fragmented_one(tmp_path, rng, options):
    image = made(tmp_path, f"{options} -m 0 -N 8192", 40 * MIB)
    with mounted(image) as root:
        fill(root, rng, 0)
        for path in sorted(root.glob("f*")):
            if rng.random() < 0.5:
                path.unlink()
        os.sync()
        with (root / "scattered").open("wb") as file:
            file.write(rng.randbytes(6 * MIB))
        fill(root, rng, MIB)
        left = os.statvfs(root)
        assert left.f_bavail * 20 < left.f_blocks
    with mounted(image, "ro,noatime") as root:
        wanted = truth(root)
    used = assert_map(image)
    with FileReader(copied(image, used)) as device:
        files = ext.open_file_system(device)
        assert_same(ours(files), wanted)
        node = wanted[b"/scattered"]["node"]
        assert len(files.placed(node)) > 20
        assert ranges.total(files.placed(node)) == 6 * MIB


def fill(root: Path, rng: random.Random, leave: int) -> None:
    """Write small files until only `leave` bytes are left."""
    first = len(list(root.iterdir()))
    for number in range(first, first + 7000):
        if os.statvfs(root).f_bavail * os.statvfs(root).f_bsize <= leave + 32_768:
            return
        try:
            (root / f"f{number}").write_bytes(rng.randbytes(rng.randrange(500, 30_000)))
        except OSError:
            return


@pytest.mark.parametrize("kind", ["ext3", "ext4"])
def test_a_journal_in_use_takes_everything(tmp_path, kind):
    image = made(tmp_path, f"-t {kind} -b 4096")
    dirty = tmp_path / "dirty.img"
    with mounted(image) as root:
        (root / "written").write_bytes(b"x" * 100_000)
        os.sync()
        (root / "later").write_bytes(b"y" * 100_000)
        shutil.copyfile(image, dirty)
    with FileReader(dirty) as device:
        for frozen in (False, True):
            found = ext.allocation(device, frozen=frozen)
            assert "journal" in found.doubt
            assert found.used.tolist() == [[0, device.size]]
        assert ext.recognise(device) == kind
        assert any("journal" in note for note in ext.open_file_system(device).facts.notes)
    with FileReader(image) as device:
        assert not ext.allocation(device, frozen=False).doubt


def test_a_frozen_one_has_an_empty_journal(tmp_path, rng):
    image = made(tmp_path, "-t ext4 -b 4096")
    frozen = tmp_path / "frozen.img"
    with mounted(image) as root:
        (root / "written").write_bytes(rng.randbytes(3 * MIB))
        held = (root / "deleted while open").open("wb")
        held.write(rng.randbytes(MIB))
        held.flush()
        (root / "deleted while open").unlink()
        run("fsfreeze", "--freeze", root)
        try:
            shutil.copyfile(image, frozen)
            wanted = digest(os.fsencode(root / "written"))
        finally:
            run("fsfreeze", "--unfreeze", root)
            held.close()
    with FileReader(frozen) as device:
        found = ext.allocation(device, frozen=True)
        assert not found.doubt
        assert ranges.total(found.used) < device.size // 2
    # An orphan still takes room, and the map has it; whoever mounts the copy frees it.
    copy = copied(frozen, found.used)
    with FileReader(copy) as device:
        files = ext.open_file_system(device)
        assert any("deleted while open" in note for note in files.facts.notes)
        names = {entry.name: entry.node for entry in files.entries(files.root)}
        assert set(names) == {b"written", b"lost+found"}
        assert content_digest(files, names[b"written"], 3 * MIB) == wanted
    with mounted(copy) as root:
        assert digest(os.fsencode(root / "written")) == wanted
    run("e2fsck", "-fn", copy)


def test_one_without_a_journal_counts_only_when_unmounted(tmp_path):
    image = made(tmp_path, "-t ext2 -b 1024", 16 * MIB)
    with mounted(image) as root:
        (root / "written").write_bytes(b"x" * 100_000)
        run("fsfreeze", "--freeze", root)
        try:
            with FileReader(image) as device:
                assert "not unmounted" in ext.allocation(device, frozen=True).doubt
        finally:
            run("fsfreeze", "--unfreeze", root)
    with FileReader(image) as device:
        assert not ext.allocation(device, frozen=False).doubt


def test_what_is_encrypted_is_refused_and_the_rest_is_read(tmp_path):
    image = made(tmp_path, "-t ext4 -b 4096 -O encrypt", 32 * MIB)
    with mounted(image) as root:
        (root / "plain").write_text("plain")
        (root / "secret").mkdir()
        encrypt(root / "secret")
        (root / "secret" / "name").write_text("content")
        (root / "secret" / "link").symlink_to("target")
        inside = {
            path.name: path.stat(follow_symlinks=False).st_ino
            for path in (root / "secret").iterdir()
        }
    with FileReader(image) as device:
        files = ext.open_file_system(device)
        names = {entry.name: entry.node for entry in files.entries(files.root)}
        assert content_digest(files, names[b"plain"], 5)
        with pytest.raises(GuestUnsupported):
            list(files.entries(names[b"secret"]))
        with pytest.raises(GuestUnsupported):
            list(files.extents(inside["name"]))
        with pytest.raises(GuestUnsupported):
            files.link_target(inside["link"])
        assert files.stat(inside["name"]).size == 7
        assert files.xattrs(inside["name"]) == {}
    assert_map(image)


def encrypt(folder: Path) -> None:
    """Give an empty directory a policy (version 2) with a key that the kernel is handed."""
    here = os.open(folder, os.O_RDONLY)
    try:
        key = bytearray(struct.pack("<II32sII32x", 2, 0, b"", 64, 0) + bytes(range(64)))
        fcntl.ioctl(here, 0xC0506617, key)
        identifier = bytes(key[8:24])
        policy = struct.pack("<BBBB4x16s", 2, 1, 4, 3, identifier)
        fcntl.ioctl(here, 0x800C6613, policy)
    finally:
        os.close(here)


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        "-t ext3 -b 1024",
        "-t ext4 -b 4096 -J size=8",
        "-t ext4 -b 1024 -O ^64bit,^metadata_csum",
        "-t ext4 -b 4096 -O ^64bit",
    ],
)
def test_a_journal_in_use_is_replayed_for_reading(tmp_path, rng, options):
    """Copies of a volume at work, in the middle: we must show what the kernel finds in them."""
    image = made(tmp_path, options, 64 * MIB)
    copies = [tmp_path / f"dirty{number}.img" for number in range(3)]
    for number, copy in enumerate(copies):
        with mounted(image, "noatime,data=journal,commit=600") as root:
            churn(root, rng, number)
            cut_power(root, flush=number != 1)
        shutil.copyfile(image, copy)
    unlike = 0
    for copy in copies:
        with FileReader(copy) as device:
            files = ext.open_file_system(device)
            assert any("replayed" in note for note in files.facts.notes)
            seen = ours(files)
            plain = ext.file_system._replayed
            ext.file_system._replayed = lambda device: (device, ())
            try:
                unlike += ours(ext.open_file_system(device)) != seen
            except GuestDamaged:
                unlike += 1
            finally:
                ext.file_system._replayed = plain
        with mounted(copy, "noatime") as root:
            assert_same(seen, truth(root))
        run("e2fsck", "-fn", copy)
    assert unlike


def churn(root: Path, rng: random.Random, number: int) -> None:
    """Make and remove files and folders, so that blocks are revoked and used again."""
    for step in range(40):
        folder = root / f"folder {number} {step}"
        folder.mkdir()
        for part in range(30):
            (folder / f"file {part}").write_bytes(rng.randbytes(rng.randrange(6000)))
        (folder / "magic").write_bytes(struct.pack(">3I", 0xC03B3998, 1, step) * 400)
        folder.joinpath("file 0").rename(root / f"moved {number} {step}")
        if step % 2:
            shutil.rmtree(root / f"folder {number} {step - 1}")
        if step % 5 == 0:
            os.sync()


def cut_power(root: Path, *, flush: bool) -> None:
    """Let nothing more reach the disk; before that, the log may be written."""
    here = os.open(root, os.O_RDONLY)
    try:
        fcntl.ioctl(here, 0x8004587D, struct.pack("<I", 1 if flush else 2))
    finally:
        os.close(here)
