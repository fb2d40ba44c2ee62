"""The XFS reader, judged by mkfs.xfs, the Linux kernel, partclone, xfs_db and xfs_repair."""

import contextlib
import hashlib
import os
import re
import shutil
import socket
import stat
import struct
import subprocess
from pathlib import Path

import pytest

from ruchu.blocks.files import FileReader
from ruchu.errors import GuestUnsupported, NotFound
from ruchu.guests import ranges, xfs
from ruchu.guests.contract import NodeKind
from ruchu.model.extents import Content

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE = 310 << 20
KINDS = {
    stat.S_IFREG: NodeKind.FILE,
    stat.S_IFDIR: NodeKind.DIRECTORY,
    stat.S_IFLNK: NodeKind.SYMLINK,
    stat.S_IFCHR: NodeKind.CHARACTER_DEVICE,
    stat.S_IFBLK: NodeKind.BLOCK_DEVICE,
    stat.S_IFIFO: NodeKind.FIFO,
    stat.S_IFSOCK: NodeKind.SOCKET,
}
NEW = ("-m", "crc=1,finobt=1,rmapbt=1,reflink=1,bigtime=1,inobtcount=1", "-i", "sparse=1,nrext64=1")
MADE = {
    "default": (),
    "newest": NEW,
    "first-v5": ("-m", "finobt=0,rmapbt=0,reflink=0,bigtime=0,inobtcount=0", "-i", "sparse=0"),
    "block-1k": ("-b", "size=1024", "-n", "size=8192", "-i", "size=512"),
    "block-16k": ("-b", "size=16384", "-i", "size=2048"),
    "sector-4k": ("-s", "size=4096", "-d", "agcount=3"),
    "stripe": ("-d", "su=64k,sw=2,agcount=2", "-l", "su=64k", "-n", "size=65536"),
}
NAMES = ["中文文件名", "line\nbreak", "语" * 85, "ümlaut ", "a\\b", "x" * 255, "con", "😀", " "]


def run(*words):
    done = subprocess.run(words, capture_output=True, check=False, timeout=200)
    assert done.returncode == 0, (words, done.stdout[-2000:], done.stderr[-2000:])
    return done.stdout


def formatted(path, *options):
    with open(path, "wb") as file:
        file.truncate(SIZE)
    run("mkfs.xfs", "-q", "-L", "Täst", *options, path)
    return path


@contextlib.contextmanager
def mounted(image, options="loop"):
    at = Path(f"{image}.mount")
    at.mkdir(exist_ok=True)
    run("mount", "-t", "xfs", "-o", options, image, at)
    try:
        yield os.fsencode(at)
    finally:
        run("umount", at)
        at.rmdir()


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def noise(rng, length):
    return rng.randbytes(length)


def odd_names(root):
    for index, name in enumerate(NAMES):
        write(root + b"/" + name.encode(), b"content of %d" % index)
    write(root + b"/\xff\xfe not UTF-8", b"bytes")
    os.mkdir(root + b"/empty")
    deep = root
    for _ in range(40):
        deep += b"/deep"
        os.mkdir(deep)
    write(deep + b"/bottom", b"down here")
    os.mkdir(root + b"/block-form")
    for index in range(25):
        write(root + b"/block-form/name number %d" % index, b"")
    os.mkdir(root + b"/many")
    for index in range(6000):
        write(root + b"/many/a name of some length %d" % index, b"")
    for index in range(0, 6000, 3):
        os.unlink(root + b"/many/a name of some length %d" % index)


def special_nodes(root):
    os.mkfifo(root + b"/fifo")
    os.mknod(root + b"/null", stat.S_IFCHR | 0o620, os.makedev(1, 3))
    os.mknod(root + b"/disk", stat.S_IFBLK | 0o600, os.makedev(259, 70000))
    with socket.socket(socket.AF_UNIX) as listening, contextlib.chdir(root):
        listening.bind("socket")
    os.symlink("short", root + b"/short link")
    os.symlink("långt/" * 40, root + b"/link of 280")
    os.symlink("y" * 1023, root + b"/longest link")
    write(root + b"/linked", b"twice")
    os.link(root + b"/linked", root + b"/many/again")
    write(root + b"/owned", b"")
    os.chown(root + b"/owned", 70000, 4000000000)
    os.chmod(root + b"/owned", 0o6751)
    os.utime(root + b"/owned", ns=(-5_000_000_123, 2_000_000_000_987_654_321))
    os.chmod(root + b"/empty", 0o1777)


def contents(root, rng):
    write(root + b"/large", noise(rng, (3 << 20) + 77))
    with open(root + b"/sparse", "wb") as file:
        for place in (0, 1 << 20, 5 << 30, (1 << 40) + 3):
            file.seek(place)
            file.write(noise(rng, 5000))
        file.truncate((1 << 40) + (1 << 30))
    with open(root + b"/preallocated", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 2 << 20)
        file.seek(300000)
        file.write(noise(rng, 70000))
    # Every second block: a btree of extents.
    with open(root + b"/scattered", "wb") as file:
        for index in range(1500):
            file.seek(index * (32 << 10))
            file.write(noise(rng, 4096))
    write(root + b"/void", b"")


def attributes(root, rng):
    os.mkdir(root + b"/attributes")
    path = root + b"/attributes/"
    for count, size in ((1, 5), (30, 100), (300, 60), (20, 3000), (4, 65536)):
        name = path + b"%d of %d" % (count, size)
        write(name, b"x")
        for index in range(count):
            os.setxattr(name, f"user.字 number {index}", noise(rng, size))
    write(path + b"spaces", b"")
    os.setxattr(path + b"spaces", "trusted.overlay.opaque", b"y")
    os.setxattr(
        path + b"spaces", "security.capability", bytes.fromhex("0100000200200000" + "0" * 24)
    )
    os.setxattr(path + b"spaces", "user.empty", b"")
    os.mkdir(path + b"acl")
    run("setfacl", "-m", "u:1000:rw,g:70000:r,m::rwx", path + b"acl")
    run("setfacl", "-d", "-m", "u:7:rwx,o::-", path + b"acl")
    write(path + b"acl/heir", b"inherits")


def built(root, rng):
    odd_names(root)
    special_nodes(root)
    contents(root, rng)
    attributes(root, rng)


def shown_xattrs(path):
    names = os.listxattr(path, follow_symlinks=False)
    return {
        name: os.getxattr(path, name, follow_symlinks=False)
        for name in names
        if "SGI_ACL" not in name
    }


def created(path):
    seconds, rest = run("stat", "-c", "%.9W", path).decode().strip().split(".")
    return int(seconds) * 10**9 + int(rest)


def data_of(path, size):
    """Return what SEEK_DATA finds, hashed: files may be very sparse."""
    seen = hashlib.sha256()
    with open(path, "rb") as file:
        place = 0
        while place < size:
            try:
                place = os.lseek(file.fileno(), place, os.SEEK_DATA)
            except OSError:
                break
            end = os.lseek(file.fileno(), place, os.SEEK_HOLE)
            while place < end:
                part = os.pread(file.fileno(), min(1 << 20, end - place), place)
                if any(part):
                    trimmed(seen, part, place)
                place += len(part)
    return seen.hexdigest()


def trimmed(seen, part, place):
    """Take the blocks of a piece that are not zeros."""
    skip = -place % 512
    for at in [0] * bool(skip) + list(range(skip, len(part), 512)):
        piece = part[at : skip if at < skip else at + 512]
        if any(piece):
            seen.update(struct.pack("<Q", place + at) + piece)


def our_data(system, node, size):
    seen = hashlib.sha256()
    expected = 0
    for extent in system.extents(node):
        assert extent.start == expected
        expected = extent.end
        if extent.content is Content.HOLE:
            continue
        for place in range(extent.start, extent.end, 1 << 20):
            buffer = bytearray(min(1 << 20, extent.end - place))
            system.read_into(node, place, memoryview(buffer))
            if any(buffer):
                trimmed(seen, bytes(buffer), place)
    assert expected == size
    return seen.hexdigest()


def compare_stat(system, node, path):
    ours, theirs = system.stat(node), os.lstat(path)
    assert ours.kind is KINDS[stat.S_IFMT(theirs.st_mode)]
    assert ours.mode == stat.S_IMODE(theirs.st_mode)
    assert (ours.owner, ours.group, ours.links) == (theirs.st_uid, theirs.st_gid, theirs.st_nlink)
    assert (ours.size, ours.allocated) == (theirs.st_size, theirs.st_blocks * 512), path
    assert (ours.modified, ours.changed) == (theirs.st_mtime_ns, theirs.st_ctime_ns)
    assert ours.accessed == theirs.st_atime_ns
    if ours.kind in {NodeKind.BLOCK_DEVICE, NodeKind.CHARACTER_DEVICE}:
        assert ours.device == (os.major(theirs.st_rdev), os.minor(theirs.st_rdev))
    return ours


def compare(system, node, path):
    """Hold a directory and all below against what the kernel shows; return how many entries."""
    entries = list(system.entries(node))
    assert sorted(entry.name for entry in entries) == sorted(os.listdir(path))
    count = len(entries)
    for entry in entries:
        below = path + b"/" + entry.name
        assert entry.node == os.lstat(below).st_ino
        ours = compare_stat(system, entry.node, below)
        assert entry.kind in {ours.kind, NodeKind.OTHER}
        assert system.xattrs(entry.node) == shown_xattrs(below)
        if ours.kind is NodeKind.DIRECTORY:
            count += compare(system, entry.node, below)
        elif ours.kind is NodeKind.SYMLINK:
            assert system.link_target(entry.node) == os.readlink(below)
        elif ours.kind is NodeKind.FILE:
            assert our_data(system, entry.node, ours.size) == data_of(below, ours.size)
    return count


def opened(image):
    return xfs.open_file_system(FileReader(Path(image)))


def found(system, *names):
    node = system.root
    for name in names:
        node = next(entry.node for entry in system.entries(node) if entry.name == name)
    return node


def partcloned(image, folder):
    """Return what partclone takes."""
    domain = folder / "domain"
    domain.unlink(missing_ok=True)
    run("partclone.xfs", "-D", "-s", image, "-o", domain, "-L", folder / "log")
    rows = []
    for line in domain.read_text().splitlines():
        words = line.split()
        if len(words) == 3 and words[2] == "+":
            rows.append((int(words[0], 16), int(words[0], 16) + int(words[1], 16)))
    return ranges.of_pairs(rows)


def free_list_bytes(image):
    """Return the bytes of all free lists: partclone leaves them out."""
    geometry = run("xfs_db", "-r", "-c", "sb 0", "-c", "p agcount blocksize", image).decode()
    groups, block = (int(text) for text in re.findall(r"= (\d+)", geometry))
    asked = [word for ag in range(groups) for word in ("-c", f"agf {ag}", "-c", "p flcount")]
    told = run("xfs_db", "-r", *asked, image).decode()
    return sum(int(text) for text in re.findall(r"flcount = (\d+)", told)) * block


def copied(image, used, target):
    """Copy the mapped bytes alone; all else is 0xA5, so that reading it is noticed."""
    with open(image, "rb") as source, open(target, "wb") as copy:
        copy.truncate(os.path.getsize(image))
        for first, end in used.tolist():
            for place in range(first, end, 1 << 20):
                part = os.pread(source.fileno(), min(1 << 20, end - place), place)
                if any(part):
                    os.pwrite(copy.fileno(), part, place)
    with open(target, "r+b") as copy:
        for first, end in ranges.complement(used, os.path.getsize(image)).tolist():
            copy.seek(first)
            copy.write(b"\xa5" * min(4096, end - first))


def check_map(image, folder):
    taken = xfs.allocation(FileReader(Path(image)), frozen=False)
    assert taken.doubt == ""
    theirs = partcloned(image, folder)
    assert not len(ranges.difference(theirs, taken.used, SIZE))
    assert ranges.total(ranges.difference(taken.used, theirs, SIZE)) == free_list_bytes(image)
    copy = folder / "copy.img"
    copied(image, taken.used, copy)
    run("xfs_repair", "-n", copy)
    return copy, taken.used


@pytest.mark.parametrize("made", MADE)
def test_the_kernel_partclone_and_xfs_repair_agree(tmp_path, rng, made):
    image = formatted(tmp_path / "xfs.img", *MADE[made])
    with mounted(image) as root:
        built(root, rng)
    copy, used = check_map(image, tmp_path)
    assert ranges.total(used) < SIZE * 3 // 4
    system = opened(copy)
    assert system.facts.kind == "xfs"
    assert system.facts.label == "Täst"
    assert system.facts.uuid in run("blkid", "-o", "export", image).decode()
    assert system.facts.notes == ()
    with mounted(image, "loop,ro,noatime") as root:
        assert system.stat(system.root).links == os.lstat(root).st_nlink
        assert compare(system, system.root, root) > 4000
        node = found(system, b"large")
        if made != "first-v5":
            assert system.stat(node).created == created(root + b"/large")


def test_a_full_and_fragmented_one(tmp_path, rng):
    image = formatted(tmp_path / "xfs.img")
    with mounted(image) as root:
        os.mkdir(root + b"/kept")
        write(root + b"/kept/bytes", noise(rng, 100_000))
        for index in range(6000):
            with open(root + b"/%d" % index, "wb") as file:
                os.posix_fallocate(file.fileno(), 0, 8192)
        for index in range(0, 6000, 2):
            os.unlink(root + b"/%d" % index)
        with open(root + b"/rest", "wb") as file:
            state = os.statvfs(root)
            room = state.f_bavail * state.f_frsize * 97 // 100
            os.posix_fallocate(file.fileno(), 0, room)
        write(root + b"/kept/last", noise(rng, 200_000))
    copy, used = check_map(image, tmp_path)
    assert ranges.total(used) > SIZE * 9 // 10
    assert len(used) > 100
    with mounted(image, "loop,ro,noatime") as root:
        assert compare(opened(copy), found(opened(copy), b"kept"), root + b"/kept") == 2


def test_shared_blocks_are_read_but_never_placed(tmp_path, rng):
    image = formatted(tmp_path / "xfs.img", *NEW)
    with mounted(image) as root:
        write(root + b"/first", noise(rng, 300_000))
        write(root + b"/alone", noise(rng, 300_000))
        run("cp", "--reflink=always", root + b"/first", root + b"/second")
        with open(root + b"/second", "r+b") as file:
            file.seek(100_000)
            file.write(b"changed")
    copy, _ = check_map(image, tmp_path)
    system = opened(copy)
    assert system.placed(found(system, b"first")) is None
    assert system.placed(found(system, b"second")) is None
    where = system.placed(found(system, b"alone"))
    expected = -(-300_000 // 4096) * 4096
    assert ranges.total(where) == expected
    content = b"".join(
        os.pread(os.open(copy, os.O_RDONLY), end - first, first) for first, end in where.tolist()
    )
    with mounted(image, "loop,ro") as root:
        assert content[:300_000] == Path(os.fsdecode(root) + "/alone").read_bytes()
        compare(system, system.root, root)


def test_a_frozen_one_is_understood_and_a_live_one_is_not(tmp_path, rng):
    image, live, frozen = (tmp_path / name for name in ("xfs.img", "live.img", "frozen.img"))
    formatted(image)
    with mounted(image) as root:
        built(root, rng)
        # What was changed is now in the log, but not yet in its place.
        run("sync", "-f", root)
        shutil.copyfile(image, live)
        run("fsfreeze", "-f", root)
        try:
            shutil.copyfile(image, frozen)
        finally:
            run("fsfreeze", "-u", root)
        wanted = {
            name: data_of(root + b"/" + name, os.lstat(root + b"/" + name).st_size)
            for name in (b"large", b"sparse", b"scattered", b"preallocated")
        }
    for flag in (False, True):
        assert "log of XFS" in xfs.allocation(FileReader(live), frozen=flag).doubt
    assert "log of XFS" in xfs.allocation(FileReader(frozen), frozen=False).doubt
    taken = xfs.allocation(FileReader(frozen), frozen=True)
    assert taken.doubt == ""
    assert ranges.total(taken.used) < SIZE * 3 // 4
    copy = tmp_path / "copy.img"
    copied(frozen, taken.used, copy)
    system = opened(copy)
    assert "replayed" in system.facts.notes[0]
    for name, data in wanted.items():
        node = found(system, name)
        assert our_data(system, node, system.stat(node).size) == data
    with mounted(copy):
        pass
    run("xfs_repair", "-n", copy)


def test_changes_and_then_freezing_again(tmp_path):
    """Freezing what hardly changed leaves other records behind than freezing after much work."""
    image, frozen = tmp_path / "xfs.img", tmp_path / "frozen.img"
    formatted(image)
    with mounted(image) as root:
        for round_ in range(3):
            write(root + b"/%d" % round_, b"small")
            run("fsfreeze", "-f", root)
            try:
                shutil.copyfile(image, frozen)
            finally:
                run("fsfreeze", "-u", root)
            assert xfs.allocation(FileReader(frozen), frozen=True).doubt == ""
            assert xfs.allocation(FileReader(frozen), frozen=False).doubt != ""


def test_a_log_that_has_gone_round(tmp_path):
    image = formatted(tmp_path / "xfs.img", "-l", "size=8m", "--unsupported")
    with mounted(image) as root:
        for index in range(9000):
            write(root + b"/%0200d" % index, b"")
        for index in range(9000):
            os.unlink(root + b"/%0200d" % index)
        for index in range(4000):
            write(root + b"/%0200d" % index, b"")
    assert "cycle: 1 " not in run("xfs_logprint", "-t", image).decode()
    check_map(image, tmp_path)
    assert len(list(opened(image).entries(opened(image).root))) == 4000


def test_a_log_on_another_device_is_a_doubt(tmp_path):
    image, log = tmp_path / "xfs.img", tmp_path / "log.img"
    with open(log, "wb") as file:
        file.truncate(64 << 20)
    formatted(image, "-l", f"logdev={log},size=64m")
    assert "another device" in xfs.allocation(FileReader(image), frozen=True).doubt
    assert list(opened(image).entries(opened(image).root)) == []


def test_the_content_of_realtime_files_is_not_supported(tmp_path):
    """The kernel here has no realtime devices, so a file is made one of them by hand."""
    image, realtime = tmp_path / "xfs.img", tmp_path / "realtime.img"
    with open(realtime, "wb") as file:
        file.truncate(64 << 20)
    content, prototype = tmp_path / "content", tmp_path / "prototype"
    content.write_bytes(b"x" * 100_000)
    prototype.write_text(f"/nothing\n0 0\nd--755 0 0\nslow ---644 0 0 {content}\n$\n")
    made = ("-r", f"rtdev={realtime},size=64m", "-m", "reflink=0,rmapbt=0", "-p", prototype)
    formatted(image, *made)
    node = found(opened(image), b"slow")
    run("xfs_db", "-x", "-c", f"inode {node}", "-c", "write core.realtime 1", image)
    taken = xfs.allocation(FileReader(image), frozen=False)
    assert taken.doubt == ""
    assert ranges.total(taken.used) < SIZE // 2
    system = opened(image)
    assert "realtime" in system.facts.notes[0]
    assert system.stat(node).size == 100_000
    assert system.placed(node) is None
    with pytest.raises(GuestUnsupported):
        system.read_into(node, 0, memoryview(bytearray(10)))
    with pytest.raises(GuestUnsupported):
        list(system.extents(node))


PROTOTYPE = """/nothing
0 0
d--755 0 0
small ---644 5 6 {small}
large -u-755 70000 7 {large}
folder d--700 1 2
{many}
$
link l--777 0 0 {target}
null c--666 0 0 1 3
disk b--660 0 6 8 17
pipe p--600 0 0
$
"""


@pytest.mark.parametrize("ftype", [0, 1])
@pytest.mark.parametrize("block", [512, 1024, 4096])
def test_version_4(tmp_path, rng, block, ftype):
    """Kernels of today do not mount it, so mkfs.xfs and xfs_db fill it and xfs_repair judges."""
    image = tmp_path / "xfs.img"
    small, large = tmp_path / "small", tmp_path / "large"
    small.write_bytes(b"small content")
    large.write_bytes(noise(rng, 700_001))
    prototype = tmp_path / "prototype"
    many = "\n".join(f"name-{index} ---600 0 0 {small}" for index in range(900))
    target = "t" * 600
    prototype.write_text(PROTOTYPE.format(small=small, large=large, many=many, target=target))
    made = ("-m", "crc=0", "-b", f"size={block}", "-n", f"ftype={ftype}", "-p", prototype)
    formatted(image, *made)
    system = opened(image)
    node = found(system, b"small")
    words = [word for number in range(40) for word in ("-c", f"attr_set -u name{number} -v 100")]
    run("xfs_db", "-x", "-c", f"inode {node}", "-c", "attr_set -r short -v 3", *words, image)
    big = found(system, b"large")
    run("xfs_db", "-x", "-c", f"inode {big}", "-c", "attr_set -s remote -v 9000", image)
    copy, _ = check_map(image, tmp_path)
    system = opened(copy)
    listed = {entry.name: entry for entry in system.entries(system.root)}
    wanted = {b"small", b"large", b"folder", b"link", b"null", b"disk", b"pipe"}
    assert set(listed) == wanted
    assert listed[b"pipe"].kind is (NodeKind.FIFO if ftype else NodeKind.OTHER)
    assert system.stat(listed[b"pipe"].node).kind is NodeKind.FIFO
    assert system.stat(listed[b"disk"].node).device == (8, 17)
    assert system.link_target(listed[b"link"].node) == target.encode()
    check_version_4_contents(system, listed, large.read_bytes())
    assert {name: len(value) for name, value in system.xattrs(node).items()} == {
        **{f"user.name{number}": 100 for number in range(40)},
        "trusted.short": 3,
    }
    assert {name: len(value) for name, value in system.xattrs(big).items()} == {
        "security.remote": 9000
    }


def check_version_4_contents(system, listed, content):
    big = listed[b"large"].node
    told = system.stat(big)
    assert (told.mode, told.owner, told.group, told.created) == (0o4755, 70000, 7, None)
    buffer = bytearray(told.size)
    system.read_into(big, 0, memoryview(buffer))
    assert buffer == content
    names = {entry.name for entry in system.entries(listed[b"folder"].node)}
    assert names == {b"name-%d" % index for index in range(900)}


def test_what_is_not_there(tmp_path):
    image = formatted(tmp_path / "xfs.img")
    system = opened(image)
    for number in (0, system.root + 40, 1 << 60, -1):
        with pytest.raises(NotFound):
            system.stat(number)
    with pytest.raises(NotFound):
        system.link_target(system.root)
    with pytest.raises(NotFound):
        system.placed(system.root)
