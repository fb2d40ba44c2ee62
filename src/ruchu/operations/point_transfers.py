"""Content of a point on its way out, in parts that somebody asks for: a file, an image, an archive.

What has a size is read at any offset. An archive is made as it is read: whoever does not ask stops
the one who makes it, so neither needs more memory than a few parts.
"""

import threading
from collections.abc import Callable
from typing import Protocol

from ruchu.blocks.devices import BlockReader
from ruchu.errors import Cancelled, RuchuError, UsageError
from ruchu.guests import browsing
from ruchu.guests.browsing import Item
from ruchu.guests.contract import Stat
from ruchu.recovery import granular_archives
from ruchu.recovery.granular import Fetched
from ruchu.recovery.granular_archives import Archive, TarArchive, ZipArchive

PART_BYTES_MAX = 1 << 20
"""Bytes of a part: base64 makes 1.4 MiB of it, far below a frame of the line to the server."""
AHEAD_BYTES_MAX = 4 << 20
"""Bytes of an archive that are made before they are asked for."""
INCOMPLETE_NAME = b"_NOT_COMPLETE.txt"
"""The last file of an archive of which something could not be read."""
NAMED_MAX = 200
"""Failures that such a file names; the rest is counted."""
END_LIMIT_S = 30.0
"""An archive that nobody wants ends before its next piece; a storage may take a while for one."""

Write = Callable[[bytes | memoryview], int]


class Transfer(Protocol):
    """What is read part by part. For one thread at a time."""

    @property
    def size(self) -> int | None:
        """Bytes in all; None as long as nobody can know."""

    def read(self, offset: int, length: int) -> bytes:
        """Return what follows an offset: less than was asked for only at the end.

        Raises:
            UsageError: an archive goes forward only.
            RuchuError: it cannot be read.
        """

    def close(self) -> None:
        """Let go of it."""


class DiskTransfer:
    """A disk of a point, or an image that shows one."""

    def __init__(self, device: BlockReader) -> None:
        self._device = device

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._device.size

    def read(self, offset: int, length: int) -> bytes:
        """Return what follows an offset."""
        buffer = bytearray(_inside(offset, length, self.size))
        if buffer:
            self._device.read_into(offset, memoryview(buffer))
        return bytes(buffer)

    def close(self) -> None:
        """Nothing is held."""


class FileTransfer:
    """The content of a file."""

    def __init__(self, item: Item, stat: Stat) -> None:
        self._item = item
        self._size = stat.size

    @property
    def size(self) -> int:
        """Bytes in all."""
        return self._size

    def read(self, offset: int, length: int) -> bytes:
        """Return what follows an offset."""
        buffer = bytearray(_inside(offset, length, self._size))
        if buffer:
            self._item.tree.system.read_into(self._item.node, offset, memoryview(buffer))
        return bytes(buffer)

    def close(self) -> None:
        """Nothing is held."""


def _inside(offset: int, length: int, size: int) -> int:
    if not 0 <= offset <= size or not 0 < length <= PART_BYTES_MAX:
        raise UsageError(f"({length} bytes from {offset} of {size})")
    return min(length, size - offset)


class ArchiveTransfer:
    """An archive that a thread makes while it is read.

    Args:
        make: writes the archive; it is given what takes pieces, and what says whether to end.
    """

    size = None

    def __init__(self, make: Callable[["Pipe", Callable[[], bool]], None]) -> None:
        self._pipe = Pipe()
        self._make = make
        self._thread = threading.Thread(target=self._run, name="ruchu-archive", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        failure: RuchuError | None = None
        try:
            self._make(self._pipe, lambda: self._pipe.closed)
        except RuchuError as error:
            failure = error
        except Exception as error:  # noqa: BLE001 - the edge of a thread; the reader is told
            failure = RuchuError(f"(the archive: {error!r})")
        self._pipe.end(failure)

    def read(self, offset: int, length: int) -> bytes:
        """Return the next part."""
        if not 0 < length <= PART_BYTES_MAX:
            raise UsageError(f"({length} bytes)")
        return self._pipe.read(offset, length)

    def close(self) -> None:
        """End whoever makes it."""
        self._pipe.close()
        self._thread.join(END_LIMIT_S)


class Pipe:
    """Bytes from one thread to another; a file for who writes an archive."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._waiting = bytearray()
        self._taken = 0
        # A part whose answer was lost on the line is asked for again.
        self._last = b""
        self._ended = False
        self._failure: RuchuError | None = None
        self.closed = False

    def write(self, piece: bytes | memoryview) -> int:
        """Write everything; waits while nobody reads.

        Raises:
            Cancelled: nobody will read.
        """
        with self._changed:
            self._changed.wait_for(
                lambda: self.closed or self._ended or len(self._waiting) < AHEAD_BYTES_MAX
            )
            if self._ended:
                # A zip that failed writes its end when it is thrown away: nobody wants that.
                return len(piece)
            if self.closed:
                raise Cancelled("(nobody reads the archive any more)")
            self._waiting += piece
            self._changed.notify_all()
        return len(piece)

    def flush(self) -> None:
        """Nothing waits elsewhere."""

    def end(self, failure: RuchuError | None) -> None:
        """Say that nothing follows, and why if that is a failure."""
        with self._changed:
            self._ended, self._failure = True, failure
            self._changed.notify_all()

    def read(self, offset: int, length: int) -> bytes:
        """Return the next bytes; fewer only at the end.

        Raises:
            UsageError: that is not where the reader is.
            RuchuError: whoever writes failed.
        """
        with self._changed:
            if self._last and offset == self._taken - len(self._last):
                return self._last[:length]
            if offset != self._taken:
                raise UsageError(f"(an archive is read once, from {self._taken} on)")
            self._changed.wait_for(
                lambda: self.closed or self._ended or len(self._waiting) >= length
            )
            if self._failure is not None:
                raise self._failure
            found = bytes(self._waiting[:length])
            del self._waiting[:length]
            self._taken += len(found)
            self._last = found
            self._changed.notify_all()
        return found

    def close(self) -> None:
        """Read no more."""
        with self._changed:
            self.closed = True
            self._changed.notify_all()


def archive(items: dict[bytes, Item], form: str, done: Fetched) -> ArchiveTransfer:
    """Return an archive of what was chosen: `zip` or `tar`.

    What cannot be read is named in a last file, so that nobody takes the archive for all there is.

    Raises:
        UsageError: there is no such form.
    """
    if form not in {"zip", "tar"}:
        raise UsageError(f"(form {form[:40]!r})", hint="zip or tar")

    def make(pipe: Pipe, ended: Callable[[], bool]) -> None:
        inner: Archive
        if form == "tar":
            inner = TarArchive(lambda piece: _put(pipe, piece), done, ended)
        else:
            inner = ZipArchive(pipe, done, ended)
        granular_archives.fetch(items, _Honest(inner, done), done)

    return ArchiveTransfer(make)


def _put(pipe: Pipe, piece: bytes | memoryview) -> None:
    pipe.write(piece)


class _Honest:
    """An archive that says at its end what is missing in it."""

    def __init__(self, inner: Archive, done: Fetched) -> None:
        self._inner = inner
        self._done = done
        self.add = inner.add
        self.add_stream = inner.add_stream
        self.add_text = inner.add_text

    def finish(self) -> None:
        """Write the end."""
        if self._done.failed:
            self._inner.add_text(INCOMPLETE_NAME, missing_text(self._done).encode())
        self._inner.finish()


def missing_text(done: Fetched) -> str:
    """Return what a person reads who finds an archive that lacks something."""
    named = done.problems[:NAMED_MAX]
    lines = [f"{done.failed} files could not be read, or not in full:", ""]
    lines += [f"{browsing.shown(each.path)}: {each.error}" for each in named]
    if done.failed > len(named):
        lines.append(f"... and {done.failed - len(named)} more")
    return "\n".join(lines) + "\n"
