r"""Paths into the file systems of a guest: `/VOLUME/path/in/it`. Looked up, walked, searched.

A partition is named as `volumes` names it, `vda1`. A logical volume `vg0/root` is named as the
device mapper would: `vg0-root`, where a dash inside either name is doubled (`my--vg-root`). If two
volumes would have one name, the later ones get `~2`, `~3`.

Names are bytes. As text they are their UTF-8. A name that is no UTF-8 is written with `\xHH` for
each byte that is not, and `\\` for a backslash; `shown` writes so too whatever a terminal should
not see (control characters, marks that turn the direction of text). A path that is asked for is
taken as it is; where nothing has that name, `\xHH` and `\\` in it are read as those bytes.

Everything on the volumes may be hostile: each directory is entered once, depth and links have
limits, and a name that Linux cannot have is a problem, never a path.
"""

import fnmatch
import itertools
import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

from ruchu.blocks.devices import BlockReader
from ruchu.errors import (
    Damaged,
    GuestDamaged,
    GuestError,
    NotFound,
    ObjectMissing,
    ObjectShort,
    RuchuError,
    UsageError,
)
from ruchu.guests import volumes
from ruchu.guests.contract import Entry, FileSystem, NodeKind
from ruchu.guests.volumes import Volume

LINKS_MAX = 40
"""Links followed in one path, as Linux does (path_resolution(7))."""
DEPTH_MAX = 512
"""Directories inside each other; who writes them holds each open, and a process has 1024."""
PATH_BYTES_MAX = 1 << 16
"""Bytes of a path that is asked for: sixteen times what Linux takes in one call."""
SORTED_MAX = 100_000
"""Names of a directory that are sorted; the rest of a larger one comes as it lies there."""
CONTAINED = (GuestError, NotFound, Damaged, ObjectMissing, ObjectShort)
"""What is wrong with one file or directory and says nothing about its neighbours."""

_WINDOWS = {"ntfs", "fat12", "fat16", "fat32", "exfat"}
_ESCAPE = re.compile(rb"\\(?:x([0-9a-fA-F]{2})|(\\))")
_DRIVE = re.compile(rb"[A-Za-z]:/")


# ---------------------------------------------------------------------------------------- names


def text_of(name: bytes) -> str:
    """Return a name or path as text: its UTF-8, or escaped if it is none."""
    try:
        return name.decode()
    except UnicodeDecodeError:
        return _escaped(name, lambda _: True)


def shown(name: bytes) -> str:
    """Return a name or path for a terminal: escaped if anything in it should not get there."""
    try:
        text = name.decode()
    except UnicodeDecodeError:
        return _escaped(name, str.isprintable)
    if text.isprintable() and "\\" not in text:
        return text
    return _escaped(name, str.isprintable)


def unescaped(name: bytes) -> bytes:
    r"""Return what `text_of` or `shown` wrote, as bytes: `\xHH` and `\\` are read."""
    return _ESCAPE.sub(lambda found: bytes.fromhex((found[1] or b"5c").decode()), name)


def is_name(name: bytes) -> bool:
    """Tell whether a file of Linux can be called so."""
    return bool(name) and name not in {b".", b".."} and b"/" not in name and b"\0" not in name


def _escaped(name: bytes, plain: Callable[[str], bool]) -> str:
    pieces = []
    for character in name.decode("utf-8", "surrogateescape"):
        if character == "\\":
            pieces.append("\\\\")
        elif "\udc80" <= character <= "\udcff" or not plain(character):
            raw = character.encode("utf-8", "surrogateescape")
            pieces.append("".join(f"\\x{byte:02x}" for byte in raw))
        else:
            pieces.append(character)
    return "".join(pieces)


# -------------------------------------------------------------------------------------- volumes


@dataclass(frozen=True, slots=True)
class Tree:
    """A volume that is open: its name in paths, and its file system."""

    name: str
    volume: Volume
    system: FileSystem

    @property
    def folds(self) -> bool:
        """Whether its guest takes upper and lower case for the same."""
        return self.volume.kind in _WINDOWS


@dataclass(frozen=True, slots=True)
class Item:
    """A file or directory that was found.

    Attributes:
        tree: the volume that it is on.
        path: from `/VOLUME` on.
        node: its number.
        kind: what it is.
        depth: directories between it and where a walk began.
        problem: why it, or what is in it, could not be read.
    """

    tree: Tree
    path: bytes
    node: int
    kind: NodeKind
    depth: int = 0
    problem: RuchuError | None = None

    @property
    def name(self) -> bytes:
        """The last part of the path."""
        return self.path.rpartition(b"/")[2]


class Browser:
    """The file systems of one guest. Safe in several threads once the volumes are open.

    Raises:
        RuchuError: a disk cannot be read. Never raises for what is on it.
    """

    def __init__(self, disks: Mapping[str, BlockReader]) -> None:
        self.volumes: Mapping[str, Volume] = _named(volumes.discover(disks).volumes)
        self._trees: dict[str, Tree] = {}

    def tree(self, name: str) -> Tree:
        """Open a volume.

        Raises:
            NotFound: there is no volume of that name.
            GuestUnsupported, GuestDamaged: it cannot be read; it says why.
        """
        if name not in self._trees:
            volume = self.volumes.get(name)
            if volume is None:
                known = ", ".join(self.volumes) or "none"
                raise NotFound(f"(volume {shown(name.encode())}; there are: {known})")
            self._trees[name] = Tree(name, volume, volumes.open_file_system(volume))
        return self._trees[name]

    def trees(self) -> Iterator[Tree | tuple[str, RuchuError]]:
        """Open all volumes; one that cannot be read comes as its name and the reason."""
        for name in self.volumes:
            try:
                tree = self.tree(name)
            except CONTAINED as error:
                yield name, error
            else:
                yield tree

    def resolve(self, path: bytes, *, follow: bool = True) -> Item:
        """Return what a path names. Links lead nowhere but inside their volume.

        Args:
            path: `/VOLUME/path`, bytes as they are, or escaped.
            follow: if the last part is a link, what it leads to; always so with a slash behind.

        Raises:
            NotFound: there is no such file, or no such volume.
            UsageError: the path is too long, or names no volume.
            GuestDamaged: too many links, or a directory on the way is damaged.
        """
        if len(path) > PATH_BYTES_MAX:
            raise UsageError(f"(a path of {len(path)} bytes)")
        first, _, rest = path.strip(b"/").partition(b"/")
        if not first:
            raise UsageError("(the path names no volume)", hint="See `ruchu files ls POINT`.")
        tree = self.tree(first.decode("utf-8", "surrogateescape"))
        try:
            return _resolved(tree, rest, follow=follow or path.endswith(b"/"))
        except NotFound as error:
            raise NotFound(f"({shown(path)}) {error.detail}") from None


def is_root(path: bytes) -> bool:
    """Tell whether a path names no volume, but all of them."""
    return not path.strip(b"/")


def _named(found: tuple[Volume, ...]) -> dict[str, Volume]:
    named: dict[str, Volume] = {}
    for volume in found:
        group, slash, rest = volume.name.partition("/")
        name = volume.name
        if slash:
            name = f"{group.replace('-', '--')}-{rest.replace('-', '--').replace('/', '~')}"
        free = itertools.chain([name], (f"{name}~{number}" for number in itertools.count(2)))
        named[next(each for each in free if each not in named)] = volume
    return named


def top(tree: Tree) -> Item:
    """Return the root directory of a volume."""
    return Item(tree, b"/" + tree.name.encode(), tree.system.root, NodeKind.DIRECTORY)


def _resolved(tree: Tree, path: bytes, *, follow: bool) -> Item:
    way = [top(tree)]
    # Backwards: what comes next is at the end.
    names = [name for name in reversed(path.split(b"/")) if name not in {b"", b"."}]
    links = 0
    while names:
        name = names.pop()
        if name == b"..":
            del way[max(1, len(way) - 1) :]
            continue
        found = _child(way[-1], name)
        if found.kind is not NodeKind.SYMLINK or not (names or follow):
            way.append(found)
            continue
        links += 1
        if links > LINKS_MAX:
            raise GuestDamaged(f"({shown(found.path)}: more than {LINKS_MAX} links)")
        target = tree.system.link_target(found.node)
        if tree.folds and _DRIVE.match(target):
            # Which volume a letter means, only the guest knows; mostly it is this one.
            target = target[2:]
        if target.startswith(b"/"):
            del way[1:]
        names += [each for each in reversed(target.split(b"/")) if each not in {b"", b"."}]
        if len(names) > PATH_BYTES_MAX:
            raise GuestDamaged(f"({shown(found.path)}: its links lead too far)")
    return replace(way[-1], depth=0)


def _child(parent: Item, name: bytes) -> Item:
    """Return what a directory has under a name, as it is, unescaped, or in other letters."""
    if parent.kind is not NodeKind.DIRECTORY:
        raise NotFound(f"({shown(parent.path)} is no directory)")
    tree = parent.tree
    other = unescaped(name)
    folded = _folded(other) if tree.folds else None
    found: Entry | None = None
    for entry in tree.system.entries(parent.node):
        if entry.name == name:
            found = entry
            break
        alike = found is None and folded is not None and _folded(entry.name) == folded
        if entry.name == other or alike:
            found = entry
    if found is None or not is_name(found.name):
        raise NotFound
    return _item(parent, found)


def _folded(name: bytes) -> str:
    return name.decode("utf-8", "surrogateescape").casefold()


def _item(parent: Item, entry: Entry) -> Item:
    path = parent.path + b"/" + entry.name
    kind = entry.kind
    problem: RuchuError | None = None
    if not is_name(entry.name):
        problem = GuestDamaged(
            f"({shown(parent.path)} names what cannot be a file: {entry.name!r})"
        )
    elif kind is NodeKind.OTHER:
        try:
            kind = parent.tree.system.stat(entry.node).kind
        except CONTAINED as error:
            problem = error
    return Item(parent.tree, path, entry.node, kind, parent.depth + 1, problem)


# --------------------------------------------------------------------------------------- walking


def _always(_: Item) -> bool:
    return True


def children(parent: Item) -> Iterator[Item]:
    """Yield what a directory holds, by name; at the end the directory if it is damaged."""
    listing = parent.tree.system.entries(parent.node)
    found: list[Entry] = []
    problem: RuchuError | None = None
    try:
        found.extend(itertools.islice(listing, SORTED_MAX))
    except CONTAINED as error:
        problem = error
    found.sort(key=lambda entry: entry.name)
    for entry in found:
        yield _item(parent, entry)
    if problem is None and len(found) == SORTED_MAX:
        try:
            for entry in listing:
                yield _item(parent, entry)
        except CONTAINED as error:
            problem = error
    if problem is not None:
        yield replace(parent, problem=problem)


def walk(start: Item, enter: Callable[[Item], bool] = _always) -> Iterator[Item]:
    """Yield a file or directory and all below it, parents first, by name.

    What cannot be read comes as an item with a problem; a directory then comes twice, the second
    time after what of it could be read. No directory is entered twice, so that one which holds
    itself ends.

    Args:
        start: where to begin.
        enter: asked for each directory after it was yielded.
    """
    yield start
    if start.kind is not NodeKind.DIRECTORY or not enter(start):
        return
    seen = {start.node}
    stack = [children(start)]
    while stack:
        item = next(stack[-1], None)
        if item is None:
            stack.pop()
            continue
        yield item
        if item.kind is not NodeKind.DIRECTORY or item.problem is not None or not enter(item):
            continue
        if item.node in seen:
            text = f"({shown(item.path)} is a directory that is elsewhere, too)"
            yield replace(item, problem=GuestDamaged(text))
        elif len(stack) >= DEPTH_MAX:
            text = f"({shown(item.path)} is more than {DEPTH_MAX} directories deep)"
            yield replace(item, problem=GuestDamaged(text))
        else:
            seen.add(item.node)
            stack.append(children(item))


# -------------------------------------------------------------------------------------- searching

States = frozenset[int]


class Pattern:
    """A glob: of names, or of whole paths if it has a slash; `**` is any number of directories.

    `*` and `?` match no slash. A pattern that begins with a slash begins at the volumes; any other
    may match anywhere.
    """

    def __init__(self, text: str, *, ignore_case: bool = False) -> None:
        if len(text) > PATH_BYTES_MAX or not text.strip("/"):
            raise UsageError(f"(pattern {text[:40]!r})", hint="Such as '*.conf'.")
        parts = [part for part in text.split("/") if part]
        if not text.startswith("/"):
            parts.insert(0, "**")
        flags = re.IGNORECASE if ignore_case else 0
        self._parts = [
            None if part == "**" else re.compile(fnmatch.translate(part), flags) for part in parts
        ]
        self._end = len(self._parts)

    @property
    def start(self) -> States:
        """Where matching begins, before the name of the volume."""
        return self._through({0})

    def step(self, states: States, name: bytes) -> States:
        """Return where matching is after one more name; empty: nothing below can match."""
        text = name.decode("utf-8", "surrogateescape")
        following = set()
        for state in states:
            if state == self._end:
                continue
            part = self._parts[state]
            if part is None:
                following.add(state)
            elif part.match(text):
                following.add(state + 1)
        return self._through(following)

    def matches(self, states: States) -> bool:
        """Tell whether what was stepped through matches."""
        return self._end in states

    def goes_on(self, states: States) -> bool:
        """Tell whether something below can match."""
        return any(state < self._end for state in states)

    def _through(self, states: set[int]) -> States:
        # `**` also matches nothing at all.
        for state in sorted(states):
            at = state
            while at < self._end and self._parts[at] is None:
                at += 1
                states.add(at)
        return frozenset(states)


def find(tree: Tree, pattern: Pattern) -> Iterator[Item]:
    """Yield what of a volume a pattern matches, and items with problems; links are not followed."""
    states = [pattern.step(pattern.start, tree.name.encode())]

    def enter(item: Item) -> bool:
        return pattern.goes_on(states[item.depth])

    for item in walk(top(tree), enter):
        if item.problem is not None:
            yield item
            continue
        if item.depth:
            del states[item.depth :]
            states.append(pattern.step(states[-1], item.name))
        if item.depth and pattern.matches(states[item.depth]):
            yield item
