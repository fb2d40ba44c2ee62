"""Files are written as they were, and a hostile image or target leads nowhere else."""

import io
import os
import tarfile

import pytest

from ruchu.errors import Cancelled, GuestDamaged
from ruchu.guests import segments
from ruchu.guests.browsing import Tree, top
from ruchu.guests.contract import Entry, NodeKind, Stat
from ruchu.guests.volumes import Volume
from ruchu.model.extents import Extent
from ruchu.recovery import granular_archives, granular_trees
from ruchu.recovery.granular import Fetched
from ruchu.recovery.granular_archives import TarArchive
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
