"""Bulk streams: what is expected and offered, where content comes from and goes to.

A stream has an id, which stands in a URL, and a secret that the server gave to both ends with an
order. It goes on after a cut line or a killed sender: the receiver says what it has durably.
"""

import contextlib
import errno
import hmac
import os
import secrets
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Protocol, Self, TypeVar

from ruchu.errors import (
    AlreadyExists,
    InvalidName,
    Refused,
    RuchuError,
    SourceChanged,
    StorageError,
    StorageFull,
    WireError,
)
from ruchu.model import ids
from ruchu.wire.stream_records import PIECE_BYTES_MAX, Running

SECRET_BYTES: Final = 32
SIZE_MAX: Final = 1 << 56
_Stream = TypeVar("_Stream", "Incoming", "Outgoing")

# The connection before was cut; its last piece is being written.
_TAKE_OVER_LIMIT_S: Final = 60.0


@dataclass(frozen=True, slots=True)
class Ticket:
    """The right to one stream, once.

    Attributes:
        stream: id.
        secret: hex digits.
    """

    stream: str
    secret: str = field(repr=False)

    @classmethod
    def new(cls) -> "Ticket":
        """Make a ticket for a new stream."""
        return cls(ids.new_id(), secrets.token_hex(SECRET_BYTES))


class Source(Protocol):
    """Content that is sent. It can be read anywhere, and does not change meanwhile."""

    @property
    def size(self) -> int:
        """How many bytes there are."""

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer.

        Raises:
            RuchuError: it could not be read in full.
        """


class Sink(Protocol):
    """Where content goes. Used by one thread at a time."""

    def write(self, offset: int, piece: memoryview) -> None:
        """Take a piece; offsets come without gaps, the buffer is used again afterwards.

        Raises:
            RuchuError: it could not be written.
        """

    def durable(self) -> int:
        """Make durable what was written, and return how many bytes are."""

    def reread(self, length: int) -> Iterator[memoryview]:
        """Yield what is durable, for its digest: a sink may know content of an earlier process."""

    def restart(self) -> None:
        """Forget everything: what is there is not what the sender has."""

    def finish(self, digest: bytes) -> None:
        """Everything was written and its BLAKE3 is this. May be called again after a crash."""


class Incoming:
    """A stream that is expected. Connections of one sender take turns."""

    def __init__(self, ticket: Ticket, sink: Sink, node: str) -> None:
        self.ticket = ticket
        self.node = node
        self.running = Running()
        self.digest: bytes | None = None
        self._sink = sink
        self._turn = threading.Lock()
        self._abort: Callable[[], object] | None = None
        self._ended = threading.Event()
        self._failure: RuchuError | None = None
        self._known = False

    def begin(self, abort: Callable[[], object]) -> int:
        """Take over from the connection before, which is aborted; return what is durable.

        Raises:
            WireError: the connection before does not end.
            Refused: the sink failed, and nothing is taken any more.
        """
        if self._failure is not None:
            raise Refused(f"(it cannot be kept: {self._failure})", hint=self._failure.advice)
        if (before := self._abort) is not None:
            before()
        if not self._turn.acquire(timeout=_TAKE_OVER_LIMIT_S):
            raise WireError("(the connection before is still being written)")
        try:
            self._abort = abort
            if self.digest is None:
                with self._failing():
                    self._recall()
        except BaseException:
            self.end()
            raise
        return self.running.length

    def _recall(self) -> None:
        durable = self._sink.durable()
        if not self._known or durable != self.running.length:
            self.running.restart(self._sink.reread(durable))
            self._known = True

    def end(self) -> None:
        """Let the next connection have its turn."""
        self._abort = None
        self._turn.release()

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except RuchuError as error:
            self._failure = error
            self._ended.set()
            raise

    def restart(self) -> None:
        """Begin anew: the sender has other content."""
        with self._failing():
            self._sink.restart()
        self.running.restart()

    def write(self, offset: int, piece: memoryview) -> None:
        """Write a piece that was checked.

        Raises:
            RuchuError: the sink failed; nothing is taken any more.
        """
        with self._failing():
            self._sink.write(offset, piece)

    def flush(self) -> None:
        """Make durable what has come, since the line is cut."""
        with self._failing():
            self._sink.durable()

    def finish(self, digest: bytes) -> None:
        """Everything has come, with this digest.

        Raises:
            RuchuError: the sink failed.
        """
        with self._failing():
            self._sink.finish(digest)
        self.digest = digest
        self._ended.set()

    def wait(self, timeout_s: float) -> bytes:
        """Wait for the end, and return the digest.

        Raises:
            WireError: it has not ended by then.
            RuchuError: what the sink raised.
        """
        self._ended.wait(timeout_s)
        if self._failure is not None:
            raise self._failure
        if self.digest is None:
            raise WireError("(the stream has not ended)")
        return self.digest


class Outgoing:
    """A stream that is offered for being fetched."""

    def __init__(self, ticket: Ticket, source: Source, node: str) -> None:
        self.ticket = ticket
        self.node = node
        self.source = source
        self._ended = threading.Event()

    def finish(self) -> None:
        """The other side has everything."""
        self._ended.set()

    @property
    def ended(self) -> bool:
        """Whether the other side has everything; then nothing is sent any more."""
        return self._ended.is_set()

    def wait(self, timeout_s: float) -> None:
        """Wait until the other side has everything.

        Raises:
            WireError: it has not by then.
        """
        if not self._ended.wait(timeout_s):
            raise WireError("(the stream has not ended)")


class StreamDesk:
    """The streams of one process, by id. Safe in several threads."""

    def __init__(self) -> None:
        self._streams: dict[str, Incoming | Outgoing] = {}

    def expect(self, ticket: Ticket, sink: Sink, node: str = "") -> Incoming:
        """Expect a stream, of one node if it is named.

        Raises:
            AlreadyExists: there is one of this id.
        """
        return self._add(Incoming(ticket, sink, node))

    def offer(self, ticket: Ticket, source: Source, node: str = "") -> Outgoing:
        """Offer a stream, to one node if it is named.

        Raises:
            AlreadyExists: there is one of this id.
        """
        return self._add(Outgoing(ticket, source, node))

    def _add(self, stream: _Stream) -> _Stream:
        if self._streams.setdefault(stream.ticket.stream, stream) is not stream:
            raise AlreadyExists("(a stream of this id)")
        return stream

    def forget(self, ticket: Ticket) -> None:
        """Expect or offer it no longer. What has come of it stays where it is."""
        self._streams.pop(ticket.stream, None)

    def find(self, stream: str, secret: str, node: str) -> Incoming | Outgoing:
        """Return a stream for who has its secret.

        Raises:
            Refused: there is none, or not for this node with this secret: which is not told.
        """
        found = self._streams.get(stream)
        # Compared in any case, so that the time tells nothing.
        right = hmac.compare_digest(
            secret.encode(), found.ticket.secret.encode() if found is not None else b""
        )
        if found is None or not right or (found.node and found.node != node):
            raise Refused("(no such stream for this node)", hint="Order it again.")
        return found


class FileSource:
    """A file. A context manager."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise StorageError(f"({path}: {error.strerror})") from None
        self._size = os.fstat(self._descriptor).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    @property
    def size(self) -> int:
        """How many bytes it had when it was opened."""
        return self._size

    def read_into(self, offset: int, buffer: memoryview) -> None:
        """Fill a buffer."""
        filled = 0
        while filled < len(buffer):
            try:
                count = os.preadv(self._descriptor, [buffer[filled:]], offset + filled)
            except OSError as error:
                raise StorageError(f"({self._path}: {error.strerror})") from None
            if not count:
                raise SourceChanged(f"({self._path} became shorter)")
            filled += count


class FileSink:
    """A file that appears under its name when it is whole and durable. A context manager.

    Args:
        directory: it lies in.
        name: of the file; a plain name.

    Raises:
        InvalidName: the name would leave the directory, or is hidden.
        StorageError: it cannot be written.
    """

    def __init__(self, directory: Path, name: str) -> None:
        if not name or name.startswith(".") or "/" in name or "\0" in name or len(name) > 200:
            raise InvalidName(f"({name[:100]!a})")
        self._path = directory / name
        self._part = directory / f".{name}.part"
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        with self._failing():
            self._descriptor = os.open(self._part, flags, 0o600)
        self._written = os.fstat(self._descriptor).st_size

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._descriptor)

    def write(self, offset: int, piece: memoryview) -> None:
        """Write a piece."""
        done = 0
        with self._failing():
            while done < len(piece):
                done += os.pwrite(self._descriptor, piece[done:], offset + done)
        self._written = offset + done

    def durable(self) -> int:
        """Make durable what was written."""
        with self._failing():
            os.fdatasync(self._descriptor)
        return self._written

    def reread(self, length: int) -> Iterator[memoryview]:
        """Yield what was written."""
        buffer = memoryview(bytearray(PIECE_BYTES_MAX))
        offset = 0
        while offset < length:
            with self._failing():
                count = os.preadv(
                    self._descriptor, [buffer[: min(len(buffer), length - offset)]], offset
                )
            if not count:
                raise StorageError(f"({self._part} became shorter)")
            yield buffer[:count]
            offset += count

    def restart(self) -> None:
        """Empty it."""
        with self._failing():
            os.ftruncate(self._descriptor, 0)
        self._written = 0

    def finish(self, digest: bytes) -> None:  # noqa: ARG002 - it was compared already
        """Give it its name."""
        with self._failing():
            os.ftruncate(self._descriptor, self._written)
            os.fsync(self._descriptor)
            self._part.rename(self._path)
            directory = os.open(self._path.parent, os.O_RDONLY | os.O_DIRECTORY)
            try:
                os.fsync(directory)
            finally:
                os.close(directory)

    @contextlib.contextmanager
    def _failing(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            kind = StorageFull if error.errno in {errno.ENOSPC, errno.EDQUOT} else StorageError
            raise kind(f"({self._path}: {error.strerror})") from None
