"""The operations without a kernel: what the tree finds, and how errors are told."""

import enum
import errno
import os
import stat
import types
from dataclasses import dataclass, field

import pytest

from ruchu import errors
from ruchu.exports.fuse import operations, tree
from ruchu.exports.fuse.operations import Operations
from ruchu.exports.fuse.tree import RawDisk, Tree
from ruchu.testing.memory_device import MemoryDevice
from ruchu.testing.memory_disk import MemoryDisk


class Kind(enum.Enum):
    FILE = "file"
    DIRECTORY = "directory"
    SYMLINK = "symlink"
    BLOCK = "block-device"
    OTHER = "other"


@dataclass
class Entry:
    name: bytes
    node: int
    kind: Kind


@dataclass
class Stat:
    kind: Kind
    size: int = 0
    allocated: int = 4097
    mode: int = 0o7777777
    owner: int = -1
    group: int = 7
    links: int = 1
    modified: int = 1
    accessed: int = 2
    changed: int = 3
    device: tuple = (8, 1)


@dataclass
class System:
    """A file system of a few nodes; node 1 is the root."""

    root: int = 1
    listed: list = field(default_factory=list)
    asked: int = 0

    def entries(self, node):
        self.listed.append(node)
        if node == 9:
            raise errors.GuestDamaged("directory 9")
        if node != 1:
            return iter([Entry(b"up", 1, Kind.DIRECTORY)])
        return iter(
            [
                Entry(b"file", 2, Kind.FILE),
                Entry(b"link", 3, Kind.SYMLINK),
                Entry(b"directory", 4, Kind.DIRECTORY),
                Entry(b"device", 5, Kind.BLOCK),
                Entry(b"strange", 1 << 60, Kind.OTHER),
                Entry(b"broken", 9, Kind.DIRECTORY),
                Entry(b"..", 1, Kind.DIRECTORY),
                Entry(b"a/b", 2, Kind.FILE),
                Entry(b"nul\0", 2, Kind.FILE),
                Entry(b"", 2, Kind.FILE),
                Entry(b"n" * 1025, 2, Kind.FILE),
                Entry(b"\xff\xfe", 2, Kind.FILE),
            ]
        )

    def stat(self, node):
        kinds = {1: Kind.DIRECTORY, 2: Kind.FILE, 3: Kind.SYMLINK, 4: Kind.DIRECTORY, 5: Kind.BLOCK}
        return Stat(kinds.get(node, Kind.OTHER), size=10)

    def read_into(self, node, start, buffer):
        assert 0 <= start <= start + len(buffer) <= 10
        buffer[:] = b"0123456789"[start : start + len(buffer)]

    def link_target(self, node):
        return b"/\xff"

    def xattrs(self, node):
        self.asked += 1
        return {"user.a": b"1" * (node if node > 1000 else 1)}


@pytest.fixture
def told():
    return []


@pytest.fixture
def system():
    return System()


@pytest.fixture
def device():
    return MemoryDevice(1 << 16)


@pytest.fixture
def left():
    return []


@pytest.fixture
def fuse(system, device, told, left):
    disks = [RawDisk("rw", device, device), RawDisk("ro", MemoryDisk(b"content"))]
    shown = Tree(disks, {"v": system}, told.append)
    return Operations(shown, farewell="/.end", leave=lambda: left.append(True), report=told.append)


def info(flags=os.O_RDONLY):
    return types.SimpleNamespace(flags=flags, fh=0, direct_io=None, keep_cache=None)


def refuses(number, act, *args):
    with pytest.raises(OSError) as caught:  # noqa: PT011 - the number is what matters
        act(*args)
    assert caught.value.errno == number


def names(fuse, path):
    return [name for name, _, _ in fuse.readdir_with_offset(path, 0, 0)]


def test_names_that_linux_cannot_have_are_left_out_and_told(fuse, told):
    assert names(fuse, "/volumes/v") == [
        ".", "..", "file", "link", "directory", "device", "strange", "broken", "\udcff\udcfe"
    ]  # fmt: skip
    assert len(told) == 5
    assert all("left out" in text for text in told)


def test_directories_are_listed_once(fuse, system):
    for _ in range(3):
        assert fuse.getattr("/volumes/v/file")["st_size"] == 10
    assert system.listed == [1]


def test_names_that_are_remembered_are_bounded(fuse, system, monkeypatch):
    monkeypatch.setattr(tree, "_NAMES_MAX", 5)
    fuse.getattr("/volumes/v/file")
    fuse.readdir_with_offset("/volumes/v/directory", 0, 0)
    fuse.getattr("/volumes/v/file")
    assert system.listed == [1, 4, 1]


def test_a_directory_that_holds_itself_is_damage(fuse, told):
    refuses(errno.EIO, fuse.getattr, "/volumes/v/directory/up")
    refuses(errno.EIO, fuse.getattr, "/volumes/v/directory/up")
    assert len([text for text in told if "holds itself" in text]) == 1


def test_damage_is_told(fuse, told):
    assert names(fuse, "/volumes/v/broken") == [".", ".."]
    refuses(errno.EIO, fuse.readdir_with_offset, "/volumes/v/broken", 2, 0)
    assert any(text.startswith("/volumes/v/broken: ") for text in told)


def test_of_a_damaged_directory_the_rest_is_listed_before_the_error(fuse, system, told):
    whole = list(system.entries(1))

    def entries(node):
        yield from whole[:3]
        raise errors.GuestDamaged(f"directory {node}")

    system.entries = entries
    listed = fuse.readdir_with_offset("/volumes/v", 0, 0)
    assert [(name, at) for name, _, at in listed] == [
        (".", 1), ("..", 2), ("file", 3), ("link", 4), ("directory", 5)
    ]  # fmt: skip
    assert fuse.readdir_with_offset("/volumes/v", 3, 0) == listed[3:]
    assert told == []
    refuses(errno.EIO, fuse.readdir_with_offset, "/volumes/v", 5, 0)
    assert len(told) == 1
    assert fuse.getattr("/volumes/v/file")["st_size"] == 10
    # What was not listed may be in the part that is damaged.
    refuses(errno.EIO, fuse.getattr, "/volumes/v/device")


def test_complaints_are_bounded(fuse, told, monkeypatch):
    monkeypatch.setattr(operations, "_COMPLAINTS_MAX", 3)
    for number in range(10):
        fuse.complain(str(number))
    assert told == ["0", "1", "2"]


@pytest.mark.parametrize(
    "path", ["/none", "/ro.raw/x", "/volumes/none", "/volumes/v/none", "/volumes/v/file/"]
)
def test_what_is_not_there(fuse, path):
    if path.endswith("/"):  # of a file the tree asks the file system, which lists nothing good
        assert stat.S_ISREG(fuse.getattr(path)["st_mode"])
    else:
        refuses(errno.ENOENT, fuse.getattr, path)


def test_attributes_are_those_of_the_guest(fuse):
    found = fuse.getattr("/volumes/v/device")
    assert found["st_mode"] == stat.S_IFBLK | 0o7777
    assert found["st_rdev"] == os.makedev(8, 1)
    assert (found["st_uid"], found["st_blocks"]) == (0xFFFFFFFF, 9)
    assert fuse.getattr("/volumes/v/file")["st_ino"] == 1 << 48 | 2
    strange = fuse.getattr("/volumes/v/strange")
    assert (strange["st_size"], stat.S_ISREG(strange["st_mode"])) == (0, True)
    assert strange["st_ino"] >= 1 << 63
    numbers = [fuse.getattr(path)["st_ino"] for path in ("/", "/volumes", "/rw.raw", "/ro.raw")]
    assert numbers == [1, 2, 3, 4]


def test_what_cannot_be_opened(fuse):
    refuses(errno.EISDIR, fuse.open, "/", info())
    refuses(errno.ENXIO, fuse.open, "/volumes/v/device", info())
    refuses(errno.EROFS, fuse.open, "/volumes/v/file", info(os.O_RDWR))
    refuses(errno.EROFS, fuse.open, "/ro.raw", info(os.O_WRONLY))
    refuses(errno.ENOTDIR, fuse.readdir_with_offset, "/ro.raw", 0, 0)
    refuses(errno.EINVAL, fuse.readlink, "/ro.raw")
    assert fuse.readlink("/volumes/v/link") == "/\udcff"


def test_files_are_read_up_to_their_end(fuse):
    opened = info()
    assert fuse.open("/volumes/v/file", opened) == 0
    assert (opened.direct_io, opened.keep_cache) == (False, True)
    assert bytes(fuse.read("/volumes/v/file", 100, 3, opened)) == b"3456789"
    assert bytes(fuse.read("/volumes/v/file", 100, 10, opened)) == b""
    assert fuse.flush("/volumes/v/file", opened) == 0
    assert fuse.fsync("/volumes/v/file", 0, opened) == 0
    refuses(errno.EROFS, fuse.write, "/volumes/v/file", b"x", 0, opened)
    assert fuse.release("/volumes/v/file", opened) == 0
    assert not fuse._opened


def test_disks_are_written_in_their_size(fuse, device):
    opened = info(os.O_RDWR)
    fuse.open("/rw.raw", opened)
    assert (opened.direct_io, opened.keep_cache) == (True, False)
    assert fuse.write("/rw.raw", b"abc", 5, opened) == 3
    assert fuse.write("/rw.raw", b"abc", device.size - 2, opened) == 2
    refuses(errno.ENOSPC, fuse.write, "/rw.raw", b"x", device.size, opened)
    assert device.flushed is None
    fuse.fsync("/rw.raw", 1, opened)
    assert device.flushed[5:8] == b"abc"
    assert fuse.read("/rw.raw", 3, 5, opened) == b"abc"
    assert fuse.fallocate("/rw.raw", 3, 5, 1, opened) == 0
    assert fuse.fallocate("/rw.raw", 17, 6, 1 << 40, opened) == 0
    assert fuse.fallocate("/rw.raw", 3, device.size, 1, opened) == 0
    assert fuse.fallocate("/rw.raw", 16, device.size, 1, opened) == 0
    refuses(errno.EOPNOTSUPP, fuse.fallocate, "/rw.raw", 0, 0, 1, opened)
    assert device.content == bytes(device.size)
    assert fuse.truncate("/rw.raw", device.size) == 0
    refuses(errno.EPERM, fuse.truncate, "/rw.raw", 0)
    refuses(errno.EROFS, fuse.truncate, "/ro.raw", 0)


def test_a_full_write_cache_is_a_full_disk(fuse, device, told):
    opened = info(os.O_RDWR)
    fuse.open("/rw.raw", opened)
    device.failure = errors.StorageFull("cache")
    refuses(errno.ENOSPC, fuse.write, "/rw.raw", b"x", 0, opened)
    device.failure = errors.Damaged("chunk")
    refuses(errno.EIO, fuse.read, "/rw.raw", 1, 0, opened)
    assert len(told) == 2


def test_attributes_are_asked_once_for_small_ones(fuse, system):
    for _ in range(3):
        assert fuse.listxattr("/volumes/v/file") == ["user.a"]
        assert fuse.getxattr("/volumes/v/file", "user.a") == b"1"
    assert system.asked == 1
    refuses(errno.ENODATA, fuse.getxattr, "/volumes/v/file", "user.b")
    refuses(errno.ENODATA, fuse.getxattr, "/ro.raw", "user.a")
    assert fuse.listxattr("/") == []


def test_attributes_that_are_remembered_are_bounded(fuse, system, monkeypatch):
    monkeypatch.setattr(operations, "_XATTR_FILES_MAX", 1)
    for name in ("file", "link", "file"):
        fuse.listxattr(f"/volumes/v/{name}")
    assert system.asked == 3
    monkeypatch.setattr(operations, "_XATTR_BYTES_MAX", 0)
    fuse.listxattr("/volumes/v/link")
    fuse.listxattr("/volumes/v/link")
    assert system.asked == 5


def test_the_farewell_ends_the_mount(fuse, left):
    fuse.init_with_config(None, None)
    assert fuse.mounted.is_set()
    refuses(errno.ENOENT, fuse.getattr, "/.end")
    assert left == [True]
    assert fuse.statfs("/")["f_namemax"] == 1024


@pytest.mark.parametrize("name", ["", "a/b", "..", "x" * 2000])
def test_names_of_disks_and_volumes_are_file_names(name, system):
    with pytest.raises(errors.UsageError):
        Tree([RawDisk(name, MemoryDisk(b""))], {})
    with pytest.raises(errors.UsageError):
        Tree([], {name: system})


def test_disks_have_different_names():
    disk = RawDisk("a", MemoryDisk(b""))
    with pytest.raises(errors.UsageError):
        Tree([disk, disk], {})
    assert not Tree([disk], {}).writable
    with pytest.raises(errors.NotFound):
        Tree([disk], {}).find(b"/volumes")
