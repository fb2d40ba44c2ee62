"""A point that is looked through: pages, orders, searches, names; hostile as it may be."""

from types import SimpleNamespace

import pytest

from ruchu.errors import GuestDamaged, NotFound, UsageError
from ruchu.guests import segments
from ruchu.guests.browsing import Browser, Tree
from ruchu.guests.contract import Entry, NodeKind, Stat
from ruchu.guests.volumes import Volume
from ruchu.model import guest_paths
from ruchu.operations import opened_points
from ruchu.operations.opened_points import OpenedPoint, Search, Wanted
from ruchu.recovery.granular import Fetched
from ruchu.testing.clocks import ManualClock
from ruchu.testing.memory_disk import MemoryDisk


class MemoryFiles:
    """A FileSystem: node → dict (a directory) or bytes (a file); an error in a directory is raised."""

    root = 1
    facts = SimpleNamespace(kind="ext4", label="", uuid="", notes=())

    def __init__(self, nodes, clock=None):
        self.nodes = nodes
        self.clock = clock

    def entries(self, node):
        if self.clock is not None:
            self.clock.sleep(1)
        for name, number in self.nodes[node].items():
            if isinstance(number, Exception):
                raise number
            yield Entry(name, number, self.stat(number).kind)

    def stat(self, node):
        what = self.nodes[node]
        if isinstance(what, dict):
            return Stat(NodeKind.DIRECTORY, 4096, 4096, 0o755)
        return Stat(NodeKind.FILE, len(what), 4096, 0o644, modified=node * 10**9)

    def read_into(self, node, start, buffer, stream=""):
        buffer[:] = self.nodes[node][start : start + len(buffer)]


def opened(nodes, clock=None):
    """Return a point with one volume that holds these nodes."""
    made = OpenedPoint([], clock or ManualClock())
    device = segments.whole("vda", MemoryDisk(bytes(4096)))
    volume = Volume("vda1", device, "ext4")
    browser = Browser({})
    browser.volumes = {"vda1": volume}
    browser._trees["vda1"] = Tree("vda1", volume, MemoryFiles(nodes, clock))
    made._known = browser
    return made


def names(page):
    return [guest_paths.path_of(each["key"]).rpartition(b"/")[2] for each in page["entries"]]


MIXED = {1: {b"b": 2, b"A": 3, b"dir": 4, b"Zdir": 5, b"\xff": 6, b"c": 7},
         2: b"22", 3: b"333", 4: {}, 5: {}, 6: b"", 7: b"7"}  # fmt: skip


@pytest.mark.parametrize(("sort", "descending", "expected"), [
    ("name", False, [b"dir", b"Zdir", b"A", b"b", b"c", b"\xff"]),
    ("name", True, [b"Zdir", b"dir", b"\xff", b"c", b"b", b"A"]),
    ("size", False, [b"Zdir", b"dir", b"\xff", b"c", b"b", b"A"]),
    ("modified", True, [b"dir", b"Zdir", b"c", b"\xff", b"A", b"b"]),
])  # fmt: skip
def test_directories_come_first_in_every_order(sort, descending, expected):
    wanted = Wanted(b"/vda1", sort=sort, descending=descending)
    assert names(opened(MIXED).page(wanted)) == expected


def test_a_huge_directory_is_paged_and_cut(monkeypatch):
    point = opened({1: {b"%05d" % number: 2 for number in range(5000)}, 2: b"x"})
    seen, start = [], 0
    while start is not None:
        page = point.page(Wanted(b"/vda1", start, 500))
        seen += names(page)
        start = page["next"]
    assert seen == [b"%05d" % number for number in range(5000)]
    monkeypatch.setattr(opened_points, "SORTED_BY_STAT_MAX", 4999)
    with pytest.raises(UsageError):
        point.page(Wanted(b"/vda1", sort="size"))
    monkeypatch.setattr(opened_points, "ENTRIES_MAX", 100)
    page = opened({1: dict.fromkeys(map(str.encode, map(str, range(200))), 2), 2: b""}).page(
        Wanted(b"/vda1")
    )
    assert (page["total"], page["cut"]) == (100, True)


def test_long_paths_make_short_pages(monkeypatch):
    monkeypatch.setattr(opened_points, "PAGE_BYTES_MAX", 5000)
    nodes = {1: {bytes([65 + number]) * 250: 2 for number in range(20)}, 2: b"x"}
    page = opened(nodes).page(Wanted(b"/vda1"))
    assert 0 < len(page["entries"]) < 10
    assert page["next"] == len(page["entries"])


def test_what_is_damaged_is_told_and_the_rest_is_shown():
    nodes = {1: {b"a": 2, b"bad/name": 2, b"nul\0": 2, b"z": GuestDamaged("(torn)")}, 2: b"x"}
    page = opened(nodes).page(Wanted(b"/vda1"))
    assert "torn" in page["problem"]
    by_name = {each["path"]: each for each in page["entries"]}
    assert by_name["/vda1/a"]["problem"] == ""
    assert by_name["/vda1/nul\\x00"]["problem"]
    assert all("\0" not in repr(each) for each in page["entries"])


@pytest.mark.parametrize("wanted", [
    Wanted(b"/vda1", sort="owner"), Wanted(b"/vda1", limit=0), Wanted(b"/vda1", start=-1),
    Wanted(b"/vda1/b"), Wanted(b"/vda1", limit=501),
])  # fmt: skip
def test_odd_pages_are_refused(wanted):
    with pytest.raises(UsageError):
        opened(MIXED).page(wanted)


TREE = {1: {b"etc": 2, b"x.conf": 5}, 2: {b"a.conf": 5, b"deep": 3}, 3: {b"B.CONF": 5, b"up": 1},
        5: b"x"}  # fmt: skip


def test_a_search_ends_by_itself():
    point = opened(TREE)
    found = point.find(Search(b"/", "*.conf"))
    assert names(found) == [b"a.conf", b"B.CONF", b"x.conf"]
    # The directory that holds itself is told, and not gone through for ever.
    assert (found["complete"], found["failed"], found["stopped"]) == (False, 1, "")
    below = point.find(Search(b"/vda1/etc", "[aB].*", ignore_case=False))
    assert names(below) == [b"a.conf", b"B.CONF"]
    assert names(point.find(Search(b"/vda1/etc", "b.*", ignore_case=False))) == []
    assert names(point.find(Search(b"/vda1", "etc/*.conf"))) == [b"a.conf"]
    cut = point.find(Search(b"/", "*", limit=2))
    assert (len(cut["entries"]), cut["stopped"]) == (2, "limit")
    with pytest.raises(NotFound):
        point.find(Search(b"/vda1/none", "*"))
    with pytest.raises(UsageError):
        point.find(Search(b"/", "*", limit=0))


def test_a_search_that_takes_too_long_is_given_up():
    clock = ManualClock()
    nodes = {number: {b"d": number + 1} for number in range(1, 100)} | {100: b""}
    found = opened(nodes, clock).find(Search(b"/", "nothing", limit_s=5))
    assert (found["stopped"], found["complete"], found["entries"]) == ("time", False, [])


def test_one_file_comes_as_it_is_and_more_as_an_archive():
    point = opened(MIXED)
    name, transfer = point.file([b"/vda1/A"], "")
    assert (name, transfer.size, transfer.read(1, 10)) == ("A", 3, b"33")
    for paths, expected in (([b"/vda1/dir"], "dir.zip"), ([b"/vda1/A", b"/vda1/b"], ".zip"),
                            ([b"/"], ".zip"), ([b"/vda1"], "vda1.zip")):  # fmt: skip
        name, transfer = point.file(paths, "")
        assert (name, transfer.size) == (expected, None)
        transfer.close()
    for paths in ([], [b"/vda1/A"] * 101):
        with pytest.raises(UsageError):
            point.file(paths, "")
    with pytest.raises(NotFound):
        point.image("vdb", "raw")


def test_files_of_one_name_keep_their_paths_in_an_archive():
    nodes = {1: {b"a": 2, b"b": 3}, 2: {b"same": 4}, 3: {b"same": 4}, 4: b"x"}
    browser = opened(nodes)._browser()
    chosen = opened_points.chosen(browser, [b"/vda1/a/same", b"/vda1/b/same"], Fetched())
    assert list(chosen) == [b"vda1/a/same", b"vda1/b/same"]
    alone = opened_points.chosen(browser, [b"/vda1/a/same", b"/vda1/a/same"], Fetched())
    assert list(alone) == [b"same"]


@pytest.mark.parametrize("path", [b"/", b"/vda1/\xff\xfe", b"", bytes(range(1, 256))])
def test_keys_name_any_path(path):
    key = guest_paths.key_of(path)
    assert guest_paths.path_of(key) == path
    assert key.isascii()
    assert not set(key) & set("+/=")
    assert guest_paths.text_of_key(key).isascii() or b"\xff" not in path


@pytest.mark.parametrize("key", ["*", "a", "AAAA=", "ü", "A A="])
def test_what_is_no_key_is_refused(key):
    with pytest.raises(UsageError):
        guest_paths.path_of(key)
