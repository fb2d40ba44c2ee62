"""A file system of which only those nodes are asked for that its directories name.

A reader cannot know why it is asked for a node: one that is not there is simply not found. Who goes
from directory to directory asks for nothing that was not named, so that what is not there is damage
of the guest's file system, and no mistake of the user.
"""

import contextlib
from collections.abc import Iterator, Mapping

from ruchu.errors import GuestDamaged, NotFound
from ruchu.guests.contract import Entry, Facts, FileSystem, Ranges, Stat
from ruchu.model.extents import Extent


class NamedFiles:
    """A `FileSystem` whose nodes come from its own directories. Safe in several threads.

    Raises:
        GuestDamaged: where the file system itself raises NotFound.
    """

    def __init__(self, system: FileSystem) -> None:
        self._system = system

    @property
    def facts(self) -> Facts:
        """What it says of itself."""
        return self._system.facts

    @property
    def root(self) -> int:
        """The node of its root directory."""
        return self._system.root

    def entries(self, node: int) -> Iterator[Entry]:
        """Yield what a directory names."""
        with _named():
            yield from self._system.entries(node)

    def stat(self, node: int) -> Stat:
        """Return what is known of a node."""
        with _named():
            return self._system.stat(node)

    def extents(self, node: int, stream: str = "") -> Iterator[Extent]:
        """Yield DATA and HOLE of a file's content."""
        with _named():
            yield from self._system.extents(node, stream)

    def read_into(self, node: int, start: int, buffer: memoryview, stream: str = "") -> None:
        """Fill the buffer with content from `start`."""
        with _named():
            self._system.read_into(node, start, buffer, stream)

    def placed(self, node: int, stream: str = "") -> Ranges | None:
        """Return where the content lies; see `FileSystem.placed`."""
        with _named():
            return self._system.placed(node, stream)

    def link_target(self, node: int) -> bytes:
        """Return the target of a symbolic link."""
        with _named():
            return self._system.link_target(node)

    def xattrs(self, node: int) -> Mapping[str, bytes]:
        """Return extended attributes."""
        with _named():
            return self._system.xattrs(node)

    def streams(self, node: int) -> Mapping[str, int]:
        """Return name and size of alternate data streams."""
        with _named():
            return self._system.streams(node)


@contextlib.contextmanager
def _named() -> Iterator[None]:
    try:
        yield
    except NotFound as error:
        raise GuestDamaged(
            f"a directory names what is not there {error.detail}".rstrip()
        ) from error
