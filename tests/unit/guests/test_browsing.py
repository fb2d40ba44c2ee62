"""Paths, walks and globs over a file system in memory, as hostile as one can be."""

from dataclasses import replace

import pytest

from ruchu.errors import GuestDamaged, NotFound, UsageError
from ruchu.guests import browsing, segments
from ruchu.guests.browsing import Browser, Pattern, Tree, shown, text_of, unescaped
from ruchu.guests.contract import Entry, NodeKind, Stat
from ruchu.guests.volumes import Volume
from ruchu.testing.memory_disk import MemoryDisk


class MemoryFiles:
    """A FileSystem: node → dict (directory: name → node), bytes (file), str (link), error."""

    root = 1

    def __init__(self, nodes, unknown=()):
        self.nodes = nodes
        self.unknown = set(unknown)
        self.listed = []

    def kind(self, node):
        what = self.nodes[node]
        if isinstance(what, dict | list):
            return NodeKind.DIRECTORY
        return NodeKind.SYMLINK if isinstance(what, str) else NodeKind.FILE

    def entries(self, node):
        self.listed.append(node)
        what = self.nodes[node]
        for name, number in what.items() if isinstance(what, dict) else what:
            if isinstance(number, Exception):
                raise number
            kind = NodeKind.OTHER if number in self.unknown else self.kind(number)
            yield Entry(name, number, kind)

    def stat(self, node):
        if node in self.unknown and self.nodes[node] is None:
            raise GuestDamaged("(inode)")
        return Stat(self.kind(node), 0, 0, 0o644)

    def link_target(self, node):
        return self.nodes[node].encode()


def tree(nodes, kind="ext4", **more):
    device = segments.whole("vda", MemoryDisk(bytes(4096)))
    return Tree("vda1", Volume("vda1", device, kind), MemoryFiles(nodes, **more))


class OneTree(Browser):
    def __init__(self, nodes, kind="ext4", **more):
        self.one = tree(nodes, kind, **more)
        self.volumes = {"vda1": self.one.volume}
        self._trees = {"vda1": self.one}


NODES = {
    1: {b"etc": 2, b"up": 5, b"abs": 6, b"loop": 7, b"l1": 8, b"l2": 9, b"a\\x41": 10},
    2: {b"hosts": 3, b"sub": 4, b"Name": 11},
    3: b"",
    4: {b"deep": 3},
    5: "etc/../../../etc/hosts",
    6: "/etc/sub",
    7: "loop",
    8: "l2",
    9: "l1/x",
    10: b"",
    11: b"",
}


@pytest.mark.parametrize(
    ("path", "real"),
    [
        (b"/vda1", b"/vda1"),
        (b"vda1/", b"/vda1"),
        (b"/vda1/etc/hosts", b"/vda1/etc/hosts"),
        (b"/vda1//etc/./sub/../hosts", b"/vda1/etc/hosts"),
        (b"/vda1/../../etc", b"/vda1/etc"),
        (b"/vda1/up", b"/vda1/etc/hosts"),
        (b"/vda1/abs", b"/vda1/etc/sub"),
        (b"/vda1/abs/deep", b"/vda1/etc/sub/deep"),
        (b"/vda1/abs/..", b"/vda1/etc"),
        (b"/vda1/a\\x41", b"/vda1/a\\x41"),
        (b"/vda1/a\\\\x41", b"/vda1/a\\x41"),
        (b"/vda1/\\x65tc/hosts", b"/vda1/etc/hosts"),
    ],
)
def test_paths(path, real):
    assert OneTree(NODES).resolve(path).path == real


def test_a_link_is_itself_if_wanted():
    found = OneTree(NODES).resolve(b"/vda1/abs", follow=False)
    assert (found.path, found.kind) == (b"/vda1/abs", NodeKind.SYMLINK)
    # A slash behind it asks for what it leads to.
    found = OneTree(NODES).resolve(b"/vda1/abs/", follow=False)
    assert (found.path, found.kind) == (b"/vda1/etc/sub", NodeKind.DIRECTORY)


@pytest.mark.parametrize("path", [b"/vda1/nothing", b"/vda2/etc", b"/vda1/etc/hosts/x", b"/x"])
def test_what_is_not_there(path):
    with pytest.raises(NotFound):
        OneTree(NODES).resolve(path)


@pytest.mark.parametrize("path", [b"/", b"", b"///", b"/vda1/" + b"x" * 70_000])
def test_what_is_no_path(path):
    with pytest.raises(UsageError):
        OneTree(NODES).resolve(path)


@pytest.mark.parametrize("path", [b"/vda1/loop", b"/vda1/l1"])
def test_links_that_go_round_end(path):
    with pytest.raises(GuestDamaged):
        OneTree(NODES).resolve(path)


def test_forty_links_are_followed_and_not_one_more():
    nodes = {1: {b"0": 100}, 100: b""}
    for number in range(1, 42):
        nodes[1][b"%d" % number] = 100 + number
        nodes[100 + number] = str(number - 1)
    assert OneTree(nodes).resolve(b"/vda1/40").path == b"/vda1/0"
    with pytest.raises(GuestDamaged):
        OneTree(nodes).resolve(b"/vda1/41")


def test_links_that_grow_end():
    nodes = {1: {b"a": 2}, 2: "a/" * 2000 + "a"}
    with pytest.raises(GuestDamaged):
        OneTree(nodes).resolve(b"/vda1/a")


def test_windows_takes_letters_for_the_same():
    nodes = {**NODES, 5: "C:/ETC/HOSTS"}
    browser = OneTree(nodes, "ntfs")
    assert browser.resolve(b"/vda1/ETC/name").path == b"/vda1/etc/Name"
    assert browser.resolve(b"/vda1/up").path == b"/vda1/etc/hosts"
    with pytest.raises(NotFound):
        OneTree(nodes).resolve(b"/vda1/ETC")


def test_the_name_as_it_is_goes_first():
    nodes = {1: {b"NAME": 2, b"name": 3, b"Name": 4}, 2: b"", 3: b"", 4: b""}
    browser = OneTree(nodes, "ntfs")
    assert [browser.resolve(b"/vda1/" + name).node for name in nodes[1]] == [2, 3, 4]


@pytest.mark.parametrize(
    ("name", "text", "terminal"),
    [
        (b"plain", "plain", "plain"),
        ("ümlaut 语".encode(), "ümlaut 语", "ümlaut 语"),
        (b"a\nb", "a\nb", r"a\x0ab"),
        (b"a\\b", "a\\b", r"a\\b"),
        (b"\xff\\n", r"\xff\\n", r"\xff\\n"),
        ("\u202egpj".encode(), "\u202egpj", r"\xe2\x80\xaegpj"),
        (b"\x1b[2J\x7f", "\x1b[2J\x7f", r"\x1b[2J\x7f"),
        ("\x9b".encode(), "\x9b", r"\xc2\x9b"),
        (b"\xed\xa0\x80", r"\xed\xa0\x80", r"\xed\xa0\x80"),
    ],
)
def test_names_as_text(name, text, terminal):
    assert (text_of(name), shown(name)) == (text, terminal)
    assert unescaped(shown(name).encode()) == name


def paths(items):
    return [(item.path, item.problem is None) for item in items]


def test_a_walk_is_sorted_and_parents_come_first():
    walked = paths(browsing.walk(browsing.top(tree(NODES))))
    assert [path for path, _ in walked if path.startswith(b"/vda1/e")] == [
        b"/vda1/etc", b"/vda1/etc/Name", b"/vda1/etc/hosts", b"/vda1/etc/sub",
        b"/vda1/etc/sub/deep",
    ]  # fmt: skip
    assert all(good for _, good in walked)


def test_damage_of_a_directory_does_not_hide_its_neighbours():
    nodes = {
        1: {b"a": 2, b"b": 3},
        2: [(b"x", 4), (b"y", GuestDamaged("()"))],
        3: {b"z": 4},
        4: b"",
    }
    walked = paths(browsing.walk(browsing.top(tree(nodes))))
    assert walked == [
        (b"/vda1", True), (b"/vda1/a", True), (b"/vda1/a/x", True), (b"/vda1/a", False),
        (b"/vda1/b", True), (b"/vda1/b/z", True),
    ]  # fmt: skip


def test_directories_that_hold_themselves_end():
    nodes = {1: {b"a": 2, b"b": 2, b"me": 1}, 2: {b"up": 1, b"twin": 2}}
    found = tree(nodes)
    walked = list(browsing.walk(browsing.top(found)))
    assert sorted(found.system.listed) == [1, 2]
    assert len([item for item in walked if item.problem is not None]) == 4


def test_what_doubles_at_each_level_ends():
    nodes = {level: {b"a": level + 1, b"b": level + 1} for level in range(1, 60)}
    nodes[60] = {}
    walked = list(browsing.walk(browsing.top(tree(nodes))))
    assert len(walked) < 200


def test_depth_has_a_limit():
    nodes = {level: {b"d": level + 1} for level in range(1, 700)}
    nodes[700] = {}
    walked = list(browsing.walk(browsing.top(tree(nodes))))
    assert walked[-1].problem is not None
    assert len(walked) == browsing.DEPTH_MAX + 2


@pytest.mark.parametrize("name", [b"", b".", b"..", b"a/b", b"a\0b"])
def test_names_that_cannot_be_are_problems(name):
    nodes = {1: [(name, 2), (b"good", 3)], 2: {b"x": 3}, 3: b""}
    found = tree(nodes)
    walked = list(browsing.walk(browsing.top(found)))
    assert [item.problem is None for item in walked].count(False) == 1
    assert found.system.listed == [1]


def test_kinds_that_only_stat_knows():
    nodes = {1: {b"d": 2, b"bad": 4}, 2: {b"x": 3}, 3: b"", 4: None}
    walked = {item.path: item for item in browsing.walk(browsing.top(tree(nodes, unknown=[2, 4])))}
    assert walked[b"/vda1/d/x"].kind is NodeKind.FILE
    assert walked[b"/vda1/bad"].problem is not None


def test_large_directories_come_whole(monkeypatch):
    monkeypatch.setattr(browsing, "SORTED_MAX", 10)
    nodes = {1: {b"%02d" % number: 2 for number in range(25)}, 2: b""}
    items = list(browsing.children(browsing.top(tree(nodes))))
    assert sorted(item.name for item in items) == sorted(nodes[1])
    nodes[1] = [*nodes[1].items(), (b"x", GuestDamaged("()"))]
    items = list(browsing.children(browsing.top(tree(nodes))))
    assert [item.problem is None for item in items] == [True] * 25 + [False]


def found(text, nodes=NODES, **more):
    return [item.path for item in browsing.find(tree(nodes), Pattern(text, **more))]


def test_globs_of_names_and_paths():
    assert found("hosts") == [b"/vda1/etc/hosts"]
    assert found("HOSTS") == []
    assert found("HOSTS", ignore_case=True) == [b"/vda1/etc/hosts"]
    assert found("[hx]o?ts") == [b"/vda1/etc/hosts"]
    assert found("/vda1/*") == [b"/vda1/" + name for name in sorted(NODES[1])]
    assert found("/*/etc/h*") == [b"/vda1/etc/hosts"]
    assert found("etc/h*") == [b"/vda1/etc/hosts"]
    assert found("/vda1/etc/*/deep") == [b"/vda1/etc/sub/deep"]
    assert found("/vda1/**/deep") == found("deep") == [b"/vda1/etc/sub/deep"]
    assert found("/vda1/etc/**/hosts") == [b"/vda1/etc/hosts"]
    assert len(found("/vda1/**")) == len(found("*"))
    assert found("/vda2/*") == []


def test_only_directories_that_may_hold_it_are_read():
    searched = tree(NODES)
    assert list(browsing.find(searched, Pattern("/vda1/etc/h*")))
    assert searched.system.listed == [1, 2]


def test_names_that_are_no_text_are_found():
    nodes = {1: {b"\xff.conf": 2, b"b\n.conf": 2}, 2: b""}
    assert len(found("*.conf", nodes)) == 2
    assert len(found("?.conf", nodes)) == 1


@pytest.mark.parametrize("text", ["", "/", "x" * 70_000])
def test_what_is_no_pattern(text):
    with pytest.raises(UsageError):
        Pattern(text)


def test_volume_names_are_unambiguous(monkeypatch):
    device = segments.whole("vda", MemoryDisk(bytes(4096)))
    names = ["vda1", "vg0/root", "my-vg/a-b", "my/vg-a", "vg0-root", "vg0/root"]
    layout = [Volume(name, device, "empty", reason="nothing") for name in names]

    class Layout:
        volumes = tuple(layout)

    monkeypatch.setattr(browsing.volumes, "discover", lambda disks: Layout)
    browser = Browser({})
    assert list(browser.volumes) == [
        "vda1", "vg0-root", "my--vg-a--b", "my-vg--a", "vg0-root~2", "vg0-root~3",
    ]  # fmt: skip
    assert [volume.name for volume in browser.volumes.values()] == names
    assert all(isinstance(each, tuple) for each in browser.trees())
    assert replace(layout[0]).reason
