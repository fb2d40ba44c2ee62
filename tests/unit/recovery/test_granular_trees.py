"""Files are written as they were, and a hostile image or target leads nowhere else."""

import io
import os
import tarfile
import zipfile

import pytest

from ruchu.errors import AlreadyExists, Cancelled, Damaged, GuestDamaged, NotFound
from ruchu.guests import segments
from ruchu.guests.browsing import Tree, top
from ruchu.guests.contract import Entry, NodeKind, Stat
from ruchu.guests.named import NamedFiles
from ruchu.guests.volumes import Volume
from ruchu.model.extents import Extent
from ruchu.platforms.contract import GuestRun
from ruchu.recovery import granular_archives, granular_sending, granular_trees
from ruchu.recovery.granular import PROBLEMS_MAX, Fetched
from ruchu.recovery.granular_archives import TarArchive, ZipArchive
from ruchu.testing.memory_disk import MemoryDisk

MIB = 1 << 20


class HostileFiles:
    """A FileSystem: node → names of a directory, content, target of a link, or error at 1 MiB."""

    root = 1

    def __init__(self, nodes):
        self.nodes = nodes

    def stat(self, node):
        what = self.nodes[node]
        kinds = {list: NodeKind.DIRECTORY, str: NodeKind.SYMLINK}
        size = 3 * MIB if isinstance(what, Exception) else len(what)
        return Stat(
            kinds.get(type(what), NodeKind.FILE), size, size, 0o755,
            owner=os.getuid(), group=os.getgid(), modified=10**18, accessed=10**18,
        )  # fmt: skip

    def entries(self, node):
        for name, number in self.nodes[node]:
            yield Entry(name, number, self.stat(number).kind)

    def extents(self, node, stream=""):
        yield Extent(0, self.stat(node).size)

    def read_into(self, node, start, buffer, stream=""):
        what = self.nodes[node]
        if isinstance(what, Exception):
            if start >= MIB:
                raise what
            buffer[:] = b"x" * len(buffer)
        else:
            buffer[:] = what[start : start + len(buffer)]

    def link_target(self, node):
        return self.nodes[node].encode()

    def xattrs(self, node):
        return {}


def start(nodes):
    device = segments.whole("vda", MemoryDisk(bytes(4096)))
    return top(Tree("v", Volume("v", device, "ext4"), HostileFiles(nodes)))


def fetch(nodes, target, *, overwrite=False, cancelled=lambda: False):
    done = Fetched()
    granular_trees.fetch(
        {b"v": start(nodes)}, target, done, overwrite=overwrite, cancelled=cancelled
    )
    return done


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_link_that_is_a_directory_later_leads_nowhere(tmp_path, overwrite):
    outside = tmp_path / "outside"
    outside.mkdir()
    nodes = {1: [(b"x", 2), (b"x", 3)], 2: str(outside), 3: [(b"evil", 4)], 4: b"evil"}
    done = fetch(nodes, tmp_path / "out", overwrite=overwrite)
    assert done.failed == 1
    assert list(outside.iterdir()) == []


def test_links_in_the_target_are_not_followed(tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "file").write_text("mine")
    (tmp_path / "out" / "v").mkdir(parents=True)
    (tmp_path / "out/v/dir").symlink_to(outside)
    (tmp_path / "out/v/file").symlink_to(outside / "file")
    nodes = {1: [(b"dir", 2), (b"file", 3)], 2: [(b"new", 3)], 3: b"theirs"}
    assert fetch(nodes, tmp_path / "out").failed == 2
    assert fetch(nodes, tmp_path / "out", overwrite=True).failed == 1
    assert (tmp_path / "out/v/file").read_text() == "theirs"
    assert not (tmp_path / "out/v/file").is_symlink()
    assert os.listdir(outside) == ["file"]
    assert (outside / "file").read_text() == "mine"


def test_odd_names_and_targets_are_told_and_the_rest_goes_on(tmp_path):
    nodes = {
        1: [(b"..", 2), (b"a/b", 2), (b"n" * 300, 2), (b"zero", 3), (b"good", 2)],
        2: b"good",
        3: "a\0b",
    }
    done = fetch(nodes, tmp_path / "out")
    assert done.failed == 4
    assert os.listdir(tmp_path / "out" / "v") == ["good"]
    assert os.listdir(tmp_path) == ["out"]


def test_a_file_that_is_damaged_is_not_left_in_part(tmp_path):
    nodes = {1: [(b"bad", 2), (b"good", 3)], 2: GuestDamaged("()"), 3: b"good"}
    done = fetch(nodes, tmp_path / "out")
    assert [each.path for each in done.problems] == [b"/v/bad"]
    assert os.listdir(tmp_path / "out" / "v") == ["good"]


def test_what_exists_is_kept_until_the_new_is_whole(tmp_path):
    (tmp_path / "out" / "v").mkdir(parents=True)
    (tmp_path / "out/v/bad").write_text("old")
    nodes = {1: [(b"bad", 2)], 2: GuestDamaged("()")}
    assert fetch(nodes, tmp_path / "out").problems[0].error.code == "already-exists"
    assert fetch(nodes, tmp_path / "out", overwrite=True).failed == 1
    assert (tmp_path / "out/v/bad").read_text() == "old"
    assert os.listdir(tmp_path / "out" / "v") == ["bad"]


def test_cancelling_leaves_no_file_in_part(tmp_path):
    asked = []

    def cancelled():
        asked.append(1)
        return len(asked) > 4

    nodes = {1: [(b"big", 2)], 2: b"x" * (8 * MIB)}
    with pytest.raises(Cancelled):
        fetch(nodes, tmp_path / "out", cancelled=cancelled)
    assert os.listdir(tmp_path / "out" / "v") == []


def test_damage_leaves_an_archive_readable():
    nodes = {1: [(b"bad", 2), (b"good", 3)], 2: GuestDamaged("()"), 3: b"good"}
    done, packed = Fetched(), io.BytesIO()
    archive = TarArchive(packed.write, done, lambda: False)
    granular_archives.fetch({b"v": start(nodes)}, archive, done)
    assert done.failed == 1
    packed.seek(0)
    with tarfile.open(fileobj=packed) as read:
        assert read.extractfile("v/bad").read() == b"x" * MIB + bytes(2 * MIB)
        assert read.extractfile("v/good").read() == b"good"


class LostFiles(HostileFiles):
    """A FileSystem that names nodes which are not there, and of which one directory is torn."""

    def stat(self, node):
        if node not in self.nodes:
            raise NotFound(f"(inode {node})")
        return super().stat(node)

    def entries(self, node):
        for name, number in self.nodes[node]:
            if name == b"torn":
                raise GuestDamaged(f"directory {node}")
            kind = NodeKind.OTHER if name.startswith(b"other") else NodeKind.FILE
            yield Entry(name, number, self.stat(number).kind if number in self.nodes else kind)


# Two files that are not there, one of a kind that only it could tell; a directory that ends early.
LOST = {
    1: [(b"a", 2), (b"lost", 90), (b"dir", 3), (b"other lost", 91), (b"z", 2)],
    2: b"content",
    3: [(b"inside", 2), (b"torn", 0)],
}
READABLE = ["a", "dir", "dir/inside", "z"]


def lost():
    device = segments.whole("vda", MemoryDisk(bytes(4096)))
    system = NamedFiles(LostFiles(LOST))
    return {b"v": top(Tree("v", Volume("v", device, "ext4"), system))}


def assert_told(done):
    assert {each.path for each in done.problems} == {b"/v/lost", b"/v/other lost", b"/v/dir"}
    assert {each.error.code for each in done.problems} == {"guest-damaged"}
    assert (done.failed, done.entries) == (3, 8)
    error = done.error()
    assert (error.code, error.exit_status) == ("guest-incomplete", 12)
    assert error.detail == "3 of 8 entries could not be read"


def test_what_cannot_be_read_is_told_and_the_rest_is_written(tmp_path):
    done = Fetched()
    granular_trees.fetch(lost(), tmp_path / "out", done, overwrite=False, cancelled=lambda: False)
    assert_told(done)
    root = tmp_path / "out" / "v"
    assert sorted(str(path.relative_to(root)) for path in root.rglob("*")) == READABLE


def test_what_cannot_be_read_is_told_and_the_archive_is_whole(tmp_path):
    done, packed = Fetched(), io.BytesIO()
    granular_archives.fetch(lost(), TarArchive(packed.write, done, lambda: False), done)
    assert_told(done)
    packed.seek(0)
    with tarfile.open(fileobj=packed) as read:
        assert sorted(read.getnames()) == ["v", *(f"v/{name}" for name in READABLE)]
        assert read.extractfile("v/z").read() == b"content"
    done = Fetched()
    path = tmp_path / "out.zip"
    with granular_archives.new_file(path, overwrite=False) as output:
        granular_archives.fetch(lost(), ZipArchive(output, done, lambda: False), done)
    assert_told(done)
    with zipfile.ZipFile(path) as read:
        assert read.testzip() is None
        assert sorted(name.rstrip("/") for name in read.namelist()) == [
            "v", *(f"v/{name}" for name in READABLE)
        ]  # fmt: skip


class Channel:
    """A GuestChannel into a guest that takes everything."""

    def __init__(self):
        self.ran = []
        self.opened = []

    def open(self, path):
        self.opened.append(path)
        return len(self.opened)

    def write(self, handle, content):
        assert content == b"content"

    def close(self, handle):
        assert handle == len(self.opened)

    def run(self, program, arguments):
        self.ran.append([program, *arguments])
        return GuestRun(0, b"", "")


def test_what_cannot_be_read_is_told_and_the_rest_is_sent():
    done, channel = Fetched(), Channel()
    sender = granular_sending.GuestSender(channel, "/into", done)
    for name, item in lost().items():
        sender.fetch(item, name)
    sender.finish()
    assert_told(done)
    assert len(channel.opened) == 3
    assert channel.ran[-1][2] == "sync"


def test_what_can_be_mended_is_what_a_run_ends_with():
    done = Fetched()
    assert done.error() is None
    done.fail(b"/v/a", GuestDamaged("a"))
    done.fail(b"/v/b", AlreadyExists("b"))
    done.fail(b"/v/c", Damaged("c"))
    assert done.error().detail == "b"


def test_problems_that_are_kept_are_bounded():
    done = Fetched()
    for number in range(PROBLEMS_MAX + 5):
        done.fail(b"/v/%d" % number, NotFound())
    assert (len(done.problems), done.failed) == (PROBLEMS_MAX, PROBLEMS_MAX + 5)
    assert (
        done.error().detail == f"{PROBLEMS_MAX + 5} of {PROBLEMS_MAX + 5} entries could not be read"
    )
