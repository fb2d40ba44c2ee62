"""Reading and writing one file for many calls at once, with the promises of NFS.

Writes that overlap are applied in the order in which they came, so that a write that a client sent
twice (it lost its connection) cannot undo a later one. One flush runs at a time: calls that come
meanwhile share the next one, and when it fails, the verifier changes before anybody is answered.
"""

import functools
import secrets
from collections.abc import Callable
from typing import Final, Protocol

from ruchu.exports.nfs.messages import VERIFIER_SIZE
from ruchu.exports.nfs.workers import Workers
from ruchu.units import KIB

# What goes into the page cache in less time than a thread takes to be woken.
AT_ONCE_MAX: Final = 64 * KIB

Written = Callable[[Exception | None], None]
# Called with the verifier that covers what was made durable, or with the error.
Flushed = Callable[[bytes, Exception | None], None]


class Content(Protocol):
    """The bytes of a file. All but `size` and `peek` may wait, and are called in threads.

    It may have `write_at_once`: as `write`, but it never waits, and tells whether it was done.
    """

    @property
    def size(self) -> int:
        """Bytes of the file."""

    def peek(self, start: int, length: int) -> memoryview | None:
        """Return the bytes if they are at hand, else None."""

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`."""

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer at `start`."""

    def flush(self) -> None:
        """Return when everything written before is durable."""


class Verifier:
    """The write verifier of RFC 1813: when it changed, clients send again what is not committed.

    One for the server, not one for each file: some clients keep one for each mount.
    """

    def __init__(self) -> None:
        self.value = secrets.token_bytes(VERIFIER_SIZE)

    def renew(self) -> None:
        """Make clients send again everything that they have not committed."""
        self.value = secrets.token_bytes(VERIFIER_SIZE)


class _Write:
    __slots__ = ("data", "done", "end", "followers", "start", "waits")

    def __init__(self, start: int, data: bytes, done: Written) -> None:
        self.start = start
        self.end = start + len(data)
        self.data = data
        self.done = done
        self.waits = 0
        self.followers: list[_Write] = []


class FileIo:
    """Input and output of one file. Used in the thread of the event loop only."""

    def __init__(self, content: Content, workers: Workers, verifier: Verifier) -> None:
        self.content = content
        self._write_at_once: Callable[[int, memoryview], bool] | None = getattr(
            content, "write_at_once", None
        )
        self._workers = workers
        self._verifier = verifier
        # Callers bound how many there are, so looking at each of them is cheap.
        self._writes: dict[_Write, None] = {}
        self._waiting: list[Flushed] = []
        self._flushing: list[Flushed] = []

    def read(
        self, start: int, length: int, done: Callable[[bytearray | None, Exception | None], None]
    ) -> None:
        """Read in a thread."""

        def work() -> bytearray:
            buffer = bytearray(length)
            self.content.read_into(start, memoryview(buffer))
            return buffer

        self._workers.submit(work, done)

    def store_at_once(self, start: int, data: memoryview) -> bool:
        """Write a little in this thread; False: it cannot be done at once, and is still to do.

        Raises:
            RuchuError, OSError: it could not be written.
        """
        if self._write_at_once is None or len(data) > AT_ONCE_MAX:
            return False
        end = start + len(data)
        if any(other.start < end and start < other.end for other in self._writes):
            return False
        return self._write_at_once(start, data)

    def write(self, start: int, data: bytes, done: Written) -> None:
        """Write in a thread, after every write that overlaps and came before."""
        write = _Write(start, data, done)
        for other in self._writes:
            if other.start < write.end and write.start < other.end:
                other.followers.append(write)
                write.waits += 1
        self._writes[write] = None
        if not write.waits:
            self._begin(write)

    def flush(self, done: Flushed) -> None:
        """Make durable what was written, in a thread; a flush that runs already does not count."""
        self._waiting.append(done)
        if not self._flushing:
            self._begin_flush()

    def _begin(self, write: _Write) -> None:
        work = functools.partial(self.content.write, write.start, memoryview(write.data))
        self._workers.submit(work, functools.partial(self._written, write))

    def _written(self, write: _Write, _: object, error: Exception | None) -> None:
        del self._writes[write]
        for follower in write.followers:
            follower.waits -= 1
            if not follower.waits:
                self._begin(follower)
        write.done(error)

    def _begin_flush(self) -> None:
        self._flushing, self._waiting = self._waiting, []
        # Of now: if the flush of another file fails meanwhile, this one's data is safe all the
        # same, and a client that compares with what its writes were told must find it so.
        done = functools.partial(self._flushed, self._verifier.value)
        self._workers.submit(self.content.flush, done)

    def _flushed(self, verifier: bytes, _: object, error: Exception | None) -> None:
        if error is not None:
            self._verifier.renew()
        finished, self._flushing = self._flushing, []
        for done in finished:
            done(verifier, error)
        if self._waiting and not self._flushing:
            self._begin_flush()
