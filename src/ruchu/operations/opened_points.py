"""A point that stays open while somebody looks through it: directories, searches, content.

For one process each, since what is on the volumes may be hostile. Everything answered is a document
of bounded size. A path is named by a `key`: its bytes in URL-safe base64.
"""

import contextlib
import itertools
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruchu.blocks.devices import BlockReader
from ruchu.blocks.formats import presenting
from ruchu.clock import Clock
from ruchu.errors import NotFound, RuchuError, UsageError
from ruchu.guests import browsing
from ruchu.guests.browsing import CONTAINED, Browser, Item, Pattern
from ruchu.guests.contract import NodeKind, Stat
from ruchu.model.guest_paths import key_of, sound
from ruchu.operations import files, point_transfers, points
from ruchu.operations.point_transfers import DiskTransfer, FileTransfer, Transfer
from ruchu.operations.storages import Storages
from ruchu.recovery import exporting
from ruchu.recovery.exporting import OpenedDisk
from ruchu.recovery.granular import Fetched
from ruchu.recovery.granular_tar import TYPES, Member, TarStream
from ruchu.units import MIB

CACHE_BYTES = 128 * MIB
"""Decoded blocks of one point; a node has a few open."""
ENTRIES_MAX = 200_000
"""Entries of one directory that can be listed; about 500 bytes of memory each."""
SORTED_BY_STAT_MAX = 100_000
"""Each has to be read to be sorted by size or time; that takes seconds."""
DIRECTORIES_KEPT = 2
PAGE_MAX = 500
PAGE_BYTES_MAX = 1 << 20
"""A directory may lie so deep that its path alone is 64 KiB; then a page has fewer entries."""
FOUND_MAX = 1000
PROBLEMS_MAX = 20
PATHS_MAX = 100
SORTS = ("name", "size", "modified")

Document = dict[str, Any]
_FIELDS = ("kind", "size", "mode", "owner", "group", "modified", "target")


@dataclass(frozen=True, slots=True)
class Wanted:
    """A page of a directory.

    Attributes:
        path: of the directory.
        start: entries that are left out.
        limit: entries at most.
        sort: one of `SORTS`; directories come first.
        descending: whether the last come first.
    """

    path: bytes
    start: int = 0
    limit: int = PAGE_MAX
    sort: str = "name"
    descending: bool = False


@dataclass(frozen=True, slots=True)
class Search:
    """What to look for.

    Attributes:
        under: directory below which; `/` is all volumes.
        pattern: a glob of names; of paths below `under` if it has a slash.
        limit: what is found at most.
        limit_s: how long to look.
        ignore_case: whether upper and lower case are the same.
    """

    under: bytes
    pattern: str
    limit: int = FOUND_MAX
    limit_s: float = 30.0
    ignore_case: bool = True


@dataclass(frozen=True, slots=True)
class _Listed:
    """A directory that was read."""

    items: Sequence[Item]
    problem: str
    cut: bool


@contextlib.contextmanager
def opened(storages: Storages, prefix: str, clock: Clock) -> Iterator["OpenedPoint"]:
    """Open a point, with a lease on it for as long.

    Raises:
        NotFound: there is none.
        RuchuError: it cannot be opened.
    """
    found = points.find(storages, prefix)
    chain, head = found.chain, found.head
    with exporting.opened(chain, head, head.disks, {}, cache_bytes=CACHE_BYTES) as disks:
        yield OpenedPoint(disks, clock)


class OpenedPoint:
    """What can be asked of a point. Safe in several threads."""

    def __init__(self, disks: Sequence[OpenedDisk], clock: Clock) -> None:
        self._disks: Mapping[str, BlockReader] = {disk.key: disk.reader for disk in disks}
        self._clock = clock
        self._lock = threading.Lock()
        self._known: Browser | None = None
        self._volumes: list[Document] = []
        self._listed: OrderedDict[tuple[bytes, str], _Listed] = OrderedDict()

    # Volumes and directories.

    def _browser(self) -> Browser:
        """Return the volumes; all are opened the first time, which is what costs most."""
        with self._lock:
            if self._known is None:
                browser = Browser(self._disks)
                for name, volume in browser.volumes.items():
                    fields, tree = files.volume_fields(browser, name, volume)
                    fields = {**fields, "key": key_of(f"/{name}".encode()),
                              "readable": tree is not None}  # fmt: skip
                    self._volumes.append(_sound(fields))
                self._known = browser
            return self._known

    def volumes(self) -> Document:
        """Return the volumes, also those that cannot be read, each with the reason."""
        self._browser()
        return {"volumes": self._volumes}

    def page(self, wanted: Wanted) -> Document:
        """Return a page of a directory.

        Raises:
            NotFound, UsageError, GuestError: the path leads nowhere, or to no directory.
        """
        if wanted.sort not in SORTS or not 0 < wanted.limit <= PAGE_MAX or wanted.start < 0:
            raise UsageError(f"(sort {wanted.sort[:40]!r}, limit {wanted.limit})")
        browser = self._browser()
        start = browser.resolve(wanted.path)
        if start.kind is not NodeKind.DIRECTORY:
            raise UsageError(f"({browsing.shown(wanted.path)} is no directory)")
        listed = self._directory(start, wanted.sort)
        shown = _ordered(listed.items, descending=wanted.descending)
        entries = _fitting(itertools.islice(shown, wanted.start, wanted.start + wanted.limit))
        following = wanted.start + len(entries)
        return {
            "path": sound(browsing.text_of(start.path)),
            "key": key_of(start.path),
            "entries": entries,
            "total": len(listed.items),
            "next": following if following < len(listed.items) else None,
            "cut": listed.cut,
            "problem": listed.problem,
        }

    def _directory(self, start: Item, sort: str) -> _Listed:
        with self._lock:
            known = self._listed.get((start.path, sort))
            if known is not None:
                self._listed.move_to_end((start.path, sort))
                return known
        listed = _read(start, sort)
        with self._lock:
            self._listed[start.path, sort] = listed
            while len(self._listed) > DIRECTORIES_KEPT:
                self._listed.popitem(last=False)
        return listed

    # Searching.

    def find(self, search: Search) -> Document:
        """Return what matches, until there is too much of it or it takes too long.

        Raises:
            NotFound, UsageError, GuestError: the path leads nowhere, or the pattern is none.
        """
        if not 0 < search.limit <= FOUND_MAX:
            raise UsageError(f"(limit {search.limit})")
        browser = self._browser()
        until = self._clock.monotonic() + search.limit_s
        found = _Found(search.limit, lambda: self._clock.monotonic() > until)
        for start in _starts(browser, search.under, found):
            _look(start, search, found)
            if found.stopped:
                break
        return found.document()

    # Content.

    def file(self, paths: Sequence[bytes], form: str) -> tuple[str, Transfer]:
        """Return name and content: of one file, or of an archive of what was chosen.

        Args:
            paths: a link to a file or directory, alone, stands for that.
            form: `zip` or `tar`; empty: a file as it is, anything else as a zip.

        Raises:
            NotFound, UsageError, GuestError: a path leads nowhere, or to what has no content.
        """
        if not 0 < len(paths) <= PATHS_MAX:
            raise UsageError(f"(1 to {PATHS_MAX} paths)")
        browser, done = self._browser(), Fetched()
        if len(paths) == 1 and not browsing.is_root(paths[0]):
            item = browser.resolve(paths[0])
            name = sound(browsing.text_of(paths[0].rstrip(b"/").rpartition(b"/")[2]))
            if item.kind is NodeKind.FILE and not form:
                return name, FileTransfer(item, _file_stat(item))
            if item.kind not in {NodeKind.FILE, NodeKind.DIRECTORY}:
                shown = browsing.shown(paths[0])
                raise UsageError(f"({shown} is a {item.kind.value}, and has no content)")
            items = {item.name: item}
        else:
            name, items = "", chosen(browser, paths, done)
        form = form or "zip"
        return f"{name}.{form}", point_transfers.archive(items, form, done)

    def image(self, disk: str, form: str) -> tuple[str, Transfer]:
        """Return name and content of a disk as an image; one of several files comes as a tar.

        Raises:
            NotFound: there is no such disk.
            UsageError: there is no such format, or the disk is too large for it.
        """
        device = self._disks.get(disk)
        if device is None:
            names = ", ".join(self._disks) or "none"
            raise NotFound(f"(disk {disk[:80]!r}; there are: {names})")
        shown = presenting.present(device, form, disk)
        if len(shown.files) == 1:
            content = shown.files[shown.main]
            assert not isinstance(content, bytes)
            return shown.main, DiskTransfer(content)
        return f"{disk}-{form}.tar", point_transfers.ArchiveTransfer(_packed(shown.files))


def _sound(document: Document) -> Document:
    found: Document = {}
    for key, value in document.items():
        if isinstance(value, str):
            found[key] = sound(value)
        elif isinstance(value, list):
            found[key] = [sound(each) if isinstance(each, str) else each for each in value]
        else:
            found[key] = value
    return found


def entry(item: Item) -> Document:
    """Return a file or directory as a document; what cannot be read has a `problem`."""
    fields = files.entry_fields(item)
    more = {"name": fields["name"], "path": fields["path"], "key": key_of(item.path)}
    found = {key: fields[key] for key in _FIELDS}
    return _sound({**more, **found, "problem": fields.get("problem", "")})


def _fitting(items: Iterator[Item]) -> list[Document]:
    """Return entries until they fill an answer; at least one if there is any."""
    entries: list[Document] = []
    size = 0
    for item in items:
        size += 3 * len(item.path) + 300
        if entries and size > PAGE_BYTES_MAX:
            break
        entries.append(entry(item))
    return entries


def _read(start: Item, sort: str) -> _Listed:
    problem, items = "", []
    walked = browsing.children(start)
    for item in itertools.islice(walked, ENTRIES_MAX):
        if item.path == start.path:
            problem = sound(str(item.problem))
        else:
            items.append(item)
    cut = next(walked, None) is not None
    if sort == "name":
        items.sort(key=lambda item: (not _is_directory(item), _folded(item)))
    elif len(items) > SORTED_BY_STAT_MAX:
        hint = "Sort it by name."
        raise UsageError(f"(more than {SORTED_BY_STAT_MAX} entries in a directory)", hint=hint)
    else:
        items.sort(key=lambda item: (not _is_directory(item), _measure(item, sort), item.name))
    return _Listed(items, problem, cut)


def _is_directory(item: Item) -> bool:
    return item.kind is NodeKind.DIRECTORY


def _folded(item: Item) -> tuple[str, bytes]:
    return item.name.decode("utf-8", "surrogateescape").casefold(), item.name


def _measure(item: Item, sort: str) -> int:
    if item.problem is not None:
        return -1
    try:
        stat = item.tree.system.stat(item.node)
    except CONTAINED:
        return -1
    return stat.size if sort == "size" else stat.modified


def _ordered(items: Sequence[Item], *, descending: bool) -> Iterator[Item]:
    """Return items in order; directories stay first when it is turned round."""
    if not descending:
        return iter(items)
    directories = sum(1 for item in items if _is_directory(item))
    return itertools.chain(reversed(items[:directories]), reversed(items[directories:]))


def _file_stat(item: Item) -> Stat:
    return item.tree.system.stat(item.node)


def chosen(browser: Browser, paths: Sequence[bytes], done: Fetched) -> dict[bytes, Item]:
    """Return what was asked for, by the name that it gets in an archive.

    Where two have the same name, as search results may, all get their whole paths.

    Raises:
        NotFound, UsageError, GuestError: a path leads nowhere.
    """
    found: list[Item] = []
    for path in dict.fromkeys(paths):
        if browsing.is_root(path):
            for tree in browser.trees():
                if isinstance(tree, tuple):
                    done.notes[f"left out: volume {tree[0]}: {tree[1].detail}"] += 1
                else:
                    found.append(browsing.top(tree))
        else:
            found.append(browser.resolve(path, follow=False))
    if not found:
        raise NotFound("(no volume that can be read)")
    by_path = {item.path: item for item in found}
    if len({item.name for item in by_path.values()}) == len(by_path):
        return {item.name: item for item in by_path.values()}
    return {path.strip(b"/"): item for path, item in by_path.items()}


def _packed(
    contents: Mapping[str, BlockReader | bytes],
) -> Callable[[point_transfers.Pipe, Callable[[], bool]], None]:
    """Return what writes the files of an image into a tar."""

    def make(pipe: point_transfers.Pipe, ended: Callable[[], bool]) -> None:
        del ended

        def put(piece: bytes | memoryview) -> None:
            pipe.write(piece)

        tar = TarStream(put)
        for name, content in contents.items():
            size = len(content) if isinstance(content, bytes) else content.size
            stat = Stat(NodeKind.FILE, size, size, 0o644)
            pieces = [content] if isinstance(content, bytes) else _pieces(content)
            tar.add(Member(name.encode(), TYPES[NodeKind.FILE], stat, size), pieces)
        tar.finish()

    return make


def _pieces(device: BlockReader) -> Iterator[bytes]:
    transfer = DiskTransfer(device)
    for offset in range(0, device.size, point_transfers.PART_BYTES_MAX):
        yield transfer.read(offset, point_transfers.PART_BYTES_MAX)


# ------------------------------------------------------------------------------------- searching


class _Found:
    """What a search found so far."""

    def __init__(self, limit: int, late: Callable[[], bool]) -> None:
        self._limit = limit
        self._late = late
        self._size = 0
        self.entries: list[Document] = []
        self.problems: list[str] = []
        self.failed = 0
        self.reason = ""

    @property
    def stopped(self) -> bool:
        """Whether it was given up before everything was looked through."""
        return bool(self.reason)

    def goes_on(self) -> bool:
        """Tell whether there is time left."""
        if self._late():
            self.reason = "time"
        return not self.stopped

    def take(self, item: Item) -> None:
        """Take what matches."""
        self._size += 3 * len(item.path) + 300
        if len(self.entries) >= self._limit or self._size > PAGE_BYTES_MAX:
            self.reason = "limit"
        else:
            self.entries.append(entry(item))

    def fail(self, text: str) -> None:
        """Take down what could not be looked through."""
        self.failed += 1
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(sound(text))

    def document(self) -> Document:
        """Return what is answered."""
        return {
            "entries": self.entries, "complete": not self.stopped and not self.failed,
            "stopped": self.reason, "problems": self.problems, "failed": self.failed,
        }  # fmt: skip


def _starts(browser: Browser, under: bytes, found: _Found) -> Iterator[Item]:
    if not browsing.is_root(under):
        yield browser.resolve(under)
        return
    for name, volume in browser.volumes.items():
        if volume.kind in files.NO_FILES or volume.container:
            continue
        try:
            yield browsing.top(browser.tree(name))
        except CONTAINED as error:
            found.fail(f"/{name}: {error}")


def _look(start: Item, search: Search, found: _Found) -> None:
    """Look through a directory; links are not followed."""
    pattern = Pattern(search.pattern, ignore_case=search.ignore_case)
    states = [pattern.start]

    def enter(item: Item) -> bool:
        return pattern.goes_on(states[item.depth])

    for item in browsing.walk(start, enter):
        if not found.goes_on():
            return
        if item.problem is not None:
            found.fail(f"{browsing.shown(item.path)}: {item.problem}")
            continue
        if not item.depth:
            continue
        del states[item.depth :]
        states.append(pattern.step(states[-1], item.name))
        if pattern.matches(states[item.depth]):
            found.take(item)
            if found.stopped:
                return


def explained(error: RuchuError) -> Document:
    """Return an error as a document."""
    return {"code": error.code, "message": sound(str(error)), "hint": sound(error.advice),
            "retry": error.retry}  # fmt: skip
