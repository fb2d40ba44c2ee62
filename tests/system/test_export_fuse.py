"""A mount by the real kernel: disks as files, a guest's file system as a tree."""

import errno
import os
import random
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from ruchu import commands, errors
from ruchu.blocks.files import FileReader
from ruchu.blocks.overlay import Overlay
from ruchu.exports.fuse import mounting
from ruchu.exports.fuse.mounting import mounted, serve
from ruchu.exports.fuse.tree import RawDisk, Tree
from ruchu.guests import ext
from ruchu.guests.named import NamedFiles
from ruchu.testing.memory_disk import MemoryDisk

pytestmark = pytest.mark.system

ODD = b"\xe9t\xe9 \x01\xff\xfe \xf0\x9f\x90\xa7"


@pytest.fixture
def base():
    return MemoryDisk(random.Random(1).randbytes((5 << 20) + 12345))


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "mount"
    place.mkdir()
    yield place
    commands.run(["fusermount3", "-u", "-z", str(place)], timeout_s=10, check=False)


def test_disks_are_files(place, base):
    with mounted(place, Tree([RawDisk("vda", base), RawDisk("vdb", base)], {})):
        assert sorted(os.listdir(place)) == ["vda.raw", "vdb.raw"]
        path = place / "vda.raw"
        found = path.stat()
        assert (found.st_size, found.st_mode) == (base.size, 0o100400)
        assert path.read_bytes() == base.content
        with path.open("rb") as file:
            file.seek(base.size - 10)
            assert file.read(100) == base.content[-10:]
        for act in (lambda: path.open("r+b"), path.unlink, (place / "new").touch):
            with pytest.raises(OSError, match="Read-only"):
                act()
        with pytest.raises(FileNotFoundError):
            (place / "vdc.raw").stat()
        options = mount_options(place)
        assert {"ro", "nodev", "nosuid", "noexec"} <= options
        assert os.statvfs(place).f_blocks == 2 * base.size // 4096
    assert list(place.iterdir()) == []


def mount_options(place):
    for line in Path("/proc/self/mounts").read_text().splitlines():
        fields = line.split()
        if fields[1] == str(place):
            assert fields[2] == "fuse.ruchu"
            return set(fields[3].split(","))
    raise AssertionError


def test_a_writable_disk_is_written_through(tmp_path, place, base):
    expected = bytearray(base.content)
    with Overlay.create(tmp_path / "cache", base, identity="x") as overlay:
        with mounted(place, Tree([RawDisk("vda", overlay, overlay)], {})):
            path = place / "vda.raw"
            with path.open("r+b", buffering=0) as file:
                file.seek(5000)
                file.write(b"hello" * 1000)
                expected[5000:10000] = b"hello" * 1000
                os.fsync(file.fileno())
                found = bytearray(5000)
                overlay.read_into(5000, memoryview(found))
                assert found == b"hello" * 1000
                # Written beside the mount, seen through it.
                overlay.write(0, memoryview(b"beside"))
                expected[:6] = b"beside"
                assert os.pread(file.fileno(), 6, 0) == b"beside"
                command = ["fallocate", "-p", "-o", "1MiB", "-l", "1MiB", str(path)]
                commands.run(command, timeout_s=10)
                command = ["fallocate", "-z", "-n", "-o", "3MiB", "-l", "4KiB", str(path)]
                commands.run(command, timeout_s=10)
                expected[1 << 20 : 2 << 20] = bytes(1 << 20)
                expected[3 << 20 : (3 << 20) + 4096] = bytes(4096)
                os.ftruncate(file.fileno(), base.size)
                with pytest.raises(OSError, match="not permitted"):
                    os.ftruncate(file.fileno(), 5)
                file.seek(base.size)
                with pytest.raises(OSError, match="No space"):
                    file.write(b"x")
            assert path.read_bytes() == expected
        with pytest.raises(FileNotFoundError):
            path.stat()
    assert base.content == bytes(base.content)


CONTENT = random.Random(2).randbytes(3_000_000)


@pytest.fixture
def source(tmp_path):
    """Return a directory with a bit of everything."""
    source = tmp_path / "source"
    path = source / "directory" / "file"
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    os.chown(path, 1234, 5678)
    os.chmod(path, 0o4755)
    os.utime(path, ns=(10**18, 10**18 + 10**9))
    os.setxattr(path, "user.colour", b"blue\0green")
    os.link(path, source / "second")
    os.symlink("/etc/passwd", source / "absolute")
    os.symlink("directory/file", source / "relative")
    (source / os.fsdecode(ODD)).write_bytes(b"odd")
    os.mkfifo(source / "fifo")
    os.mknod(source / "null", 0o20666, os.makedev(1, 3))
    return source


@pytest.fixture
def top(tmp_path, source, place):
    """Yield where the same directory is mounted, out of an ext4 image."""
    image = tmp_path / "image"
    command = ["mke2fs", "-q", "-t", "ext4", "-d", str(source), str(image), "32M"]
    commands.run(command, timeout_s=60)
    with FileReader(image) as device:
        system = ext.open_file_system(device)
        with mounted(place, Tree([], {"root fs": system})):
            assert os.listdir(place) == ["volumes"]
            assert os.listdir(place / "volumes") == ["root fs"]
            yield place / "volumes" / "root fs"


def test_a_guest_is_a_tree(source, top):
    names = set(os.listdir(os.fsencode(top)))
    assert names == {*os.listdir(os.fsencode(source)), b"lost+found"}
    path = top / "directory" / "file"
    assert path.read_bytes() == CONTENT
    found = path.stat()
    assert (found.st_mode, found.st_uid, found.st_gid) == (0o104755, 1234, 5678)
    assert (found.st_nlink, found.st_ino) == (2, (top / "second").stat().st_ino)
    assert found.st_mtime_ns == 10**18 + 10**9
    assert os.readlink(top / "absolute") == "/etc/passwd"
    assert (top / "relative").read_bytes() == CONTENT
    assert (top / os.fsdecode(ODD)).read_bytes() == b"odd"
    commands.run(["tar", "-cf", "/dev/null", "-C", str(top), "."], timeout_s=60)
    commands.run(
        ["diff", "-r", "--no-dereference", str(path.parent), f"{source}/directory"], timeout_s=60
    )


def test_a_guest_keeps_its_attributes(top):
    path = top / "directory" / "file"
    assert os.getxattr(path, "user.colour") == b"blue\0green"
    assert "user.colour" in os.listxattr(path)
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what matters
        os.getxattr(path, "user.none")
    assert caught.value.errno == errno.ENODATA


def test_nothing_of_a_guest_can_be_used_or_changed(top):
    assert (top / "fifo").is_fifo()
    assert (top / "null").stat().st_rdev == os.makedev(1, 3)
    with pytest.raises(PermissionError):
        (top / "null").open("rb")
    with pytest.raises(PermissionError):
        subprocess.run([top / "directory" / "file"], check=False)
    with pytest.raises(OSError, match="Read-only"):
        (top / "second").write_bytes(b"")
    with pytest.raises(OSError, match="Read-only"):
        (top / "second").unlink()


def test_damage_is_an_error_and_told(place):
    told = []

    class Damaged(MemoryDisk):
        def peek(self, start, length):
            return None

    disk = Damaged(bytes(1 << 20))
    with mounted(place, Tree([RawDisk("vda", disk)], {}), report=told.append):
        disk.error = errors.Damaged("pack 17 at 4096")
        for _ in range(2):
            with pytest.raises(OSError, match="Input/output"):
                (place / "vda.raw").read_bytes()
        disk.error = None
        assert (place / "vda.raw").read_bytes() == disk.content
    assert told == ["/vda.raw: Damaged backup data: pack 17 at 4096"]


class Torn:
    """An ext4 of which a node is not there, and the directory `many` ends early."""

    def __init__(self, system, many, gone):
        self.system, self.many, self.gone = system, many, gone

    def __getattr__(self, name):
        return getattr(self.system, name)

    def stat(self, node):
        if node == self.gone:
            raise errors.NotFound(f"(inode {node})")
        return self.system.stat(node)

    def entries(self, node):
        for number, entry in enumerate(self.system.entries(node)):
            if node == self.many and number == COUNT // 2:
                raise errors.GuestDamaged("a block of a directory")
            yield entry


# More names than the kernel takes at once.
COUNT = 6000


def test_of_what_is_damaged_the_rest_is_shown_and_no_program_takes_it_for_whole(
    tmp_path, source, place
):
    many = source / "many"
    many.mkdir()
    (source / "gone").write_bytes(b"gone")
    for number in range(COUNT):
        (many / f"a name that takes some room {number}").touch()
    image = tmp_path / "image"
    command = ["mke2fs", "-q", "-t", "ext4", "-N", "8000", "-d", str(source), str(image), "64M"]
    commands.run(command, timeout_s=60)
    told = []
    with FileReader(image) as device:
        system = ext.open_file_system(device)
        nodes = {entry.name: entry.node for entry in system.entries(system.root)}
        torn = NamedFiles(Torn(system, nodes[b"many"], nodes[b"gone"]))
        with mounted(place, Tree([], {"v": torn}), report=told.append):
            top = place / "volumes" / "v"
            assert "gone" in os.listdir(top)
            assert (top / "relative").read_bytes() == CONTENT
            with pytest.raises(OSError, match="Input/output"):
                (top / "gone").stat()
            listed = commands.run(["ls", "-U", str(top / "many")], timeout_s=60, check=False)
            assert listed.status == 2
            names = listed.stdout.split(b"\n")[:-1]
            assert len(set(names)) == len(names) == COUNT // 2
            assert (top / "many" / os.fsdecode(names[-1])).stat().st_size == 0
            copied = tmp_path / "copied"
            done = commands.run(["cp", "-r", str(top), str(copied)], timeout_s=60, check=False)
            assert done.status == 1
            assert (copied / "directory/file").read_bytes() == CONTENT
    assert sorted(text.partition(":")[0] for text in told) == [
        "/volumes/v/gone", "/volumes/v/many"
    ]  # fmt: skip


def test_the_mount_ends_while_it_is_used(place, base):
    with mounted(place, Tree([RawDisk("vda", base)], {})):
        descriptor = os.open(place / "vda.raw", os.O_RDONLY)
        assert os.read(descriptor, 5) == base.content[:5]
    with pytest.raises(OSError, match="not connected"):
        os.pread(descriptor, 5, 4 << 20)
    with pytest.raises(OSError, match="not connected"):
        os.close(descriptor)
    with mounted(place, Tree([RawDisk("again", base)], {})):
        assert os.listdir(place) == ["again.raw"]


def test_serving_ends_when_it_is_unmounted_or_cancelled(place, base):
    tree = Tree([RawDisk("vda", base)], {})
    seen = []

    def unmount():
        seen.append(os.listdir(place))
        commands.run(["fusermount3", "-u", str(place)], timeout_s=10)

    serve(place, tree, ready=unmount, cancelled=lambda: False)
    serve(place, tree, ready=lambda: seen.append(os.listdir(place)), cancelled=lambda: True)
    assert seen == [["vda.raw"], ["vda.raw"]]
    assert os.listdir(place) == []


SERVER = textwrap.dedent("""
    import signal
    import sys
    from pathlib import Path
    from ruchu.exports.fuse.mounting import serve
    from ruchu.exports.fuse.tree import RawDisk, Tree
    from ruchu.testing.memory_disk import MemoryDisk

    # Whoever runs the tests in the background may have let us inherit that they are ignored.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGHUP, signal.SIG_DFL)
    tree = Tree([RawDisk("vda", MemoryDisk(b"content"))], {})
    serve(Path(sys.argv[1]), tree, ready=lambda: print(flush=True), cancelled=lambda: False)
""")


@pytest.fixture
def server(place):
    """Yield a process that serves a mount."""
    args = [sys.executable, "-c", SERVER, str(place)]
    with subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL) as server:
        try:
            assert server.stdout.read(1) == b"\n"
            yield server
        finally:
            server.kill()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_signals_unmount(place, server, number):
    assert (place / "vda.raw").read_bytes() == b"content"
    server.send_signal(number)
    assert server.wait(30) in {128 + number, -number}
    assert os.listdir(place) == []


def test_what_a_dead_process_left_is_unmounted(place, server, base):
    server.kill()
    server.wait(30)
    with pytest.raises(OSError, match="not connected"):
        os.listdir(place)
    with mounted(place, Tree([RawDisk("vdb", base)], {})):
        assert os.listdir(place) == ["vdb.raw"]
    assert os.listdir(place) == []


def test_a_dead_mount_of_others_is_not_touched(place, server, base, monkeypatch):
    server.kill()
    server.wait(30)
    monkeypatch.setattr(mounting, "_TYPE", "fuse.other")
    with (
        pytest.raises(errors.ExportError, match="process died"),
        mounted(place, Tree([RawDisk("vdb", base)], {})),
    ):
        pytest.fail("it was mounted")


def test_what_cannot_be_a_mount_point_is_refused(tmp_path, base):
    tree = Tree([RawDisk("vda", base)], {})
    (tmp_path / "file").touch()
    for place, error in (
        (tmp_path, errors.UsageError),
        (tmp_path / "file", errors.UsageError),
        (tmp_path / "missing", errors.NotFound),
    ):
        with pytest.raises(error), mounted(place, tree):
            pytest.fail("it was mounted")
