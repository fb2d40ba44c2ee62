"""Files out of a point, without restoring it: opened, read, and told how it went.

`granular_trees` writes them into a directory, `granular_archives` into a zip or tar stream,
`granular_sending` into a running guest.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from ruchu.errors import (
    Cancelled,
    GuestError,
    GuestIncomplete,
    NotFound,
    RuchuError,
    UsageError,
)
from ruchu.guests import browsing
from ruchu.guests.browsing import Browser, Item
from ruchu.guests.contract import FileSystem, NodeKind, Stat
from ruchu.recovery import exporting
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head

PIECE_BYTES = 1 << 20
"""Bytes of a file that are read at a time: what a storage streams well; memory of a run."""
SMALL_BYTES = 64 << 10
"""A file up to this size is read as a whole, without looking for holes."""
PROBLEMS_MAX = 1000
"""Problems that are kept with their text; the rest is counted."""
_UNREADABLE = (GuestError, NotFound)
LINKS_KEPT_MAX = 500_000
"""Files with several names that are remembered, to link the other names: about 200 bytes each."""


@contextlib.contextmanager
def opened(
    chain: Chain, head: Head, cache_bytes: int = exporting.CACHE_BYTES_DEFAULT
) -> Iterator[Browser]:
    """Open the volumes of all disks of a point for browsing, with a lease on it for as long.

    Raises:
        NotFound: the point was deleted.
    """
    with exporting.opened(chain, head, head.disks, {}, cache_bytes=cache_bytes) as disks:
        yield Browser({disk.key: disk.reader for disk in disks})


@dataclass(frozen=True, slots=True)
class Problem:
    """A file that was not fetched, or not as it was: its path, and why."""

    path: bytes
    error: RuchuError


@dataclass(slots=True)
class Fetched:
    """What was fetched.

    Attributes:
        counts: `files`, `directories`, `links` (symbolic), `hard_links`, `special`, `streams`.
        size: bytes of content, holes included.
        whole: entries that were fetched without a failure.
        problems: what failed, the first of them.
        failed: how many failed.
        notes: what was left out because the target cannot hold it → how often.
    """

    counts: Counter[str] = field(default_factory=Counter)
    size: int = 0
    whole: int = 0
    problems: list[Problem] = field(default_factory=list)
    failed: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    _other: RuchuError | None = None

    def fail(self, path: bytes, error: RuchuError) -> None:
        """Take down that something could not be fetched."""
        self.failed += 1
        if not isinstance(error, _UNREADABLE):
            self._other = self._other or error
        if len(self.problems) < PROBLEMS_MAX:
            self.problems.append(Problem(path, error))

    @contextlib.contextmanager
    def counted(self) -> Iterator[None]:
        """Count what is done inside as one entry, unless something of it fails."""
        before = self.failed
        yield
        self.whole += self.failed == before

    @property
    def entries(self) -> int:
        """How many entries were fetched or failed."""
        return self.whole + self.failed

    def error(self) -> RuchuError | None:
        """Return what a run ends with: None if all was fetched.

        That the guest's file system could not be read here and there comes last: what failed for
        another reason can be mended.
        """
        if not self.failed or self._other is not None:
            return self._other
        return GuestIncomplete(f"{self.failed} of {self.entries} entries could not be read")


def chosen(browser: Browser, paths: Sequence[bytes], done: Fetched) -> dict[bytes, Item]:
    """Return what was asked for, by the name that it gets in the target.

    A link is fetched as a link, unless a slash follows it. `/` stands for all volumes that can be
    read; those that cannot are noted.

    Raises:
        NotFound, UsageError, GuestError: a path cannot be found, or two would have one name.
    """
    found: dict[bytes, Item] = {}
    for path in dict.fromkeys(paths):
        for item in _all(browser, done) if browsing.is_root(path) else [_one(browser, path)]:
            if item.name in found:
                hint = "Fetch them one after the other, into different places."
                name = browsing.shown(item.name)
                raise UsageError(f"(two of the paths end in {name})", hint=hint)
            found[item.name] = item
    return found


def _one(browser: Browser, path: bytes) -> Item:
    return browser.resolve(path, follow=False)


def _all(browser: Browser, done: Fetched) -> list[Item]:
    found = []
    for tree in browser.trees():
        if isinstance(tree, tuple):
            done.notes[f"left out: volume {tree[0]}: {tree[1].detail}"] += 1
        else:
            found.append(browsing.top(tree))
    return found


class Content:
    """Reads the content of files in pieces, into one buffer. For one thread.

    Args:
        cancelled: asked before each piece.
    """

    def __init__(self, cancelled: Callable[[], bool]) -> None:
        self._buffer = memoryview(bytearray(PIECE_BYTES))
        self._cancelled = cancelled

    def pieces(
        self, system: FileSystem, node: int, size: int, stream: str = ""
    ) -> Iterator[tuple[int, memoryview]]:
        """Yield start and bytes of what is no hole. A piece holds until the next is asked for.

        Raises:
            Cancelled: somebody wants it to end.
            RuchuError: it cannot be read.
        """
        if size <= SMALL_BYTES:
            if size:
                self.check()
                system.read_into(node, 0, self._buffer[:size], stream)
                yield 0, self._buffer[:size]
            return
        for extent in system.extents(node, stream):
            if extent.reads_as_zeros:
                continue
            end = min(extent.end, size)
            for start in range(extent.start, end, PIECE_BYTES):
                self.check()
                piece = self._buffer[: min(PIECE_BYTES, end - start)]
                system.read_into(node, start, piece, stream)
                yield start, piece

    def check(self) -> None:
        """Raise Cancelled if somebody wants it to end."""
        if self._cancelled():
            raise Cancelled("(but for the files that were whole by then)")


def plain(content: Content, item: Item, size: int, stream: str = "") -> Iterator[memoryview]:
    """Yield the whole content of a file, holes as zeros, in pieces up to PIECE_BYTES."""
    zeros = memoryview(bytes(SMALL_BYTES))
    at = 0
    for start, piece in content.pieces(item.tree.system, item.node, size, stream):
        yield from _zeros(zeros, start - at, content)
        yield piece
        at = start + len(piece)
    yield from _zeros(zeros, size - at, content)


def _zeros(zeros: memoryview, length: int, content: Content) -> Iterator[memoryview]:
    while length > 0:
        content.check()
        yield zeros[:length]
        length -= len(zeros)


def streams_of(item: Item, stat: Stat) -> dict[str, int]:
    """Return name and size of the alternate data streams of a file or directory."""
    if item.tree.volume.kind != "ntfs" or stat.kind not in {NodeKind.FILE, NodeKind.DIRECTORY}:
        return {}
    return dict(item.tree.system.streams(item.node))


def stream_name(name: bytes, stream: str) -> bytes:
    """Return the name of the file that a stream becomes: `name:stream`."""
    return name + b":" + stream.encode("utf-8", "surrogatepass")


def below(item: Item, start: Item, name: bytes) -> bytes:
    """Return the path of an item in a target where `start` is called `name`."""
    return name + item.path[len(start.path) :]
