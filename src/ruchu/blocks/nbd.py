"""NBD client: one connection, and a disk over several of them.

`NbdDisk` is a BlockReader and BlockWriter; the protocol itself is in `nbd_protocol`.
"""

import contextlib
import queue
import socket
import ssl
import threading
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar, assert_never

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_protocol as protocol
from ruchu.errors import NbdError
from ruchu.model.extents import Content, Extent
from ruchu.units import GIB, KIB, MIB

# A server that says nothing for so long is gone; storage under it may retry for a while.
TIMEOUT_S = 60.0
# Two connections filled two cores; more only help servers with slow storage under them.
CONNECTIONS_MAX = 4
# Request sizes of 1 to 4 MiB were the fastest with QEMU.
PREFERRED_IO = 1 * MIB
# The length field has 32 bits; far below it, so that no rounding of a server overflows it.
STATUS_REQUEST_MAX = 2 * GIB
ZERO_REQUEST_MAX = 1 * GIB
# What is written where a server cannot zero by itself.
ZEROS = memoryview(bytes(1 * MIB))
# proto.md, "Metadata querying": the flags of base:allocation; of a dirty bitmap bit 0 is used.
STATE_HOLE = 1
STATE_ZERO = 2
STATE_DIRTY = 1

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Address:
    """Where an NBD export is.

    Attributes:
        export: its name.
        path: unix socket; empty for TCP.
        host, port: TCP address.
        tls: context for TLS, None for none. The name checked is `host`.
        timeout_s: seconds of silence after which the server is given up.
    """

    export: str = ""
    path: str = ""
    host: str = ""
    port: int = 10809
    tls: ssl.SSLContext | None = None
    timeout_s: float = TIMEOUT_S

    def __str__(self) -> str:
        """Return it as an NBD URI."""
        if self.path:
            return f"nbd+unix:///{self.export}?socket={self.path}"
        return f"nbd{'s' if self.tls else ''}://{self.host}:{self.port}/{self.export}"


class _Wire:
    """A socket that protocol steps are performed on."""

    def __init__(self, address: Address) -> None:
        self._address = address
        self._socket = _connect(address)
        self.broken = False

    def close(self) -> None:
        self.broken = True
        self._socket.close()

    def drive(self, steps: Generator[protocol.Step, bytes, T]) -> T:
        if self.broken:
            raise NbdError(f"{self._address}: the connection broke before")
        answer: bytes | None = None
        try:
            while True:
                step = next(steps) if answer is None else steps.send(answer)
                answer = self._perform(step)
        except StopIteration as end:
            result: T = end.value
            return result
        except protocol.RequestRefused:
            raise
        except NbdError as error:
            self.broken = True
            raise NbdError(f"{self._address}: {error.detail}") from error
        except OSError as error:
            self.broken = True
            raise NbdError(f"{self._address}: {error}") from error
        except BaseException:
            # Interrupted in the middle of a message: what follows cannot be understood.
            self.broken = True
            raise

    def _perform(self, step: protocol.Step) -> bytes:
        match step:
            case protocol.Fill(view):
                _receive(self._socket, view)
            case protocol.Receive(count):
                data = bytearray(count)
                _receive(self._socket, memoryview(data))
                return bytes(data)
            case protocol.Send(buffers):
                _send(self._socket, buffers)
            case protocol.StartTls():
                assert self._address.tls is not None
                self._socket = self._address.tls.wrap_socket(
                    self._socket, server_hostname=self._address.host or None
                )
            case _:
                assert_never(step)
        return b""


class Connection:
    """One connection to an NBD server, for one thread at a time. A context manager.

    After an error other than RequestRefused it cannot be used any more.
    """

    def __init__(self, address: Address, contexts: Sequence[str] = ()) -> None:
        self.address = address
        self._wire = _Wire(address)
        try:
            self.export = self._wire.drive(
                protocol.negotiate(address.export, contexts, tls=address.tls is not None)
            )
        except BaseException:
            self._wire.close()
            raise

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Say goodbye and close. Never raises: nothing is lost that was not flushed."""
        if self.usable:
            with contextlib.suppress(NbdError):
                self._wire.drive(protocol.disconnect())
        self._wire.close()

    @property
    def usable(self) -> bool:
        """Whether no error has made it useless."""
        return not self._wire.broken

    def read_into(self, start: int, view: memoryview) -> None:
        """Fill the view; any size and alignment.

        Raises:
            NbdError: not all of it could be read.
        """
        least = self.export.block_min
        if start % least or len(view) % least:
            self._read_ragged(start, view)
            return
        for offset in range(0, len(view), self.export.payload_max):
            part = view[offset : offset + self.export.payload_max]
            self._wire.drive(protocol.read(self.export, start + offset, part))

    def _read_ragged(self, start: int, view: memoryview) -> None:
        least = self.export.block_min
        first = start // least * least
        last = -(-(start + len(view)) // least) * least
        whole = bytearray(last - first)
        self.read_into(first, memoryview(whole))
        view[:] = whole[start - first : start - first + len(view)]

    def write(self, start: int, view: memoryview) -> None:
        """Write the view.

        Raises:
            NbdError: not all of it could be written.
        """
        for offset in range(0, len(view), self.export.payload_max):
            part = view[offset : offset + self.export.payload_max]
            self._wire.drive(protocol.write(self.export, start + offset, part))

    def zero(self, start: int, length: int) -> None:
        """Make a range read as zeros."""
        if not self.export.offers(messages.EXPORT_WRITE_ZEROES):
            for offset, count in _pieces(start, length, len(ZEROS)):
                self.write(offset, ZEROS[:count])
            return
        for offset, count in _pieces(start, length, ZERO_REQUEST_MAX):
            self._command(messages.CMD_WRITE_ZEROES, offset, count)

    def trim(self, start: int, length: int) -> None:
        """Say that a range is not needed; its content is undefined then. May do nothing."""
        if self.export.offers(messages.EXPORT_TRIM):
            for offset, count in _pieces(start, length, ZERO_REQUEST_MAX):
                self._command(messages.CMD_TRIM, offset, count)

    def flush(self) -> None:
        """Return when what was written is durable."""
        if self.export.offers(messages.EXPORT_FLUSH):
            self._command(messages.CMD_FLUSH, 0, 0)

    def status(self, context: str) -> Iterator[tuple[int, int, int]]:
        """Yield (start, length, flags) of a metadata context over the whole export.

        Sorted, without gaps; neighbours with the same flags are joined.

        Raises:
            NbdError: the context is not there, or the server stopped answering for it.
        """
        if context not in dict(self.export.contexts):
            raise NbdError(f"{self.address} has no metadata context {context}")
        run_start = run_end = run_flags = 0
        while run_end < self.export.size:
            wanted = min(self.export.size - run_end, STATUS_REQUEST_MAX)
            steps = protocol.block_status(self.export, run_end, wanted)
            for length, flags in self._wire.drive(steps)[context]:
                if flags != run_flags and run_end > run_start:
                    yield run_start, run_end - run_start, run_flags
                    run_start = run_end
                run_flags = flags
                # The last extent may reach beyond what was asked, but never beyond the disk.
                run_end = min(run_end + length, self.export.size)
        if run_end > run_start:
            yield run_start, run_end - run_start, run_flags

    def _command(self, number: int, start: int, length: int) -> None:
        self._wire.drive(protocol.command(self.export, number, start, length))


class NbdDisk:
    """An NBD export as a disk, over several connections. A context manager.

    Threads may call it at the same time: each borrows a connection, and waits if all
    `connections` are lent. A writable export whose server does not share its cache between
    connections gets one only.
    """

    def __init__(self, address: Address, *, connections: int = CONNECTIONS_MAX) -> None:
        self.address = address
        first = Connection(address, (protocol.BASE_ALLOCATION,))
        self.export = first.export
        self._idle: queue.LifoQueue[Connection] = queue.LifoQueue()
        self._idle.put(first)
        self._open = {first}
        self._lock = threading.Lock()
        self._closed = False
        shared = self.export.offers(messages.EXPORT_MULTI_CONNECTION)
        read_only = self.export.offers(messages.EXPORT_READ_ONLY)
        self._limit = connections if shared or read_only else 1
        self._free = threading.Semaphore(self._limit)

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it."""
        self.close()

    def close(self) -> None:
        """Close all connections. Call `flush` before, where it was written to."""
        with self._lock:
            self._closed = True
            connections, self._open = self._open, set()
        for connection in connections:
            connection.close()

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return self.export.size

    @property
    def preferred_io(self) -> int:
        """Bytes of a good request."""
        return max(64 * KIB, min(PREFERRED_IO, self.export.payload_max))

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the whole buffer with the bytes at `start`.

        Raises:
            NbdError: the bytes could not be read, all or in part.
        """
        self._check(start, len(buffer))
        with self._borrowed() as connection:
            connection.read_into(start, buffer.cast("B"))

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer at `start`.

        Raises:
            NbdError: it could not be written.
        """
        self._check(start, len(buffer))
        with self._borrowed() as connection:
            connection.write(start, buffer.cast("B"))

    def zero(self, start: int, length: int) -> None:
        """Make the range read as zeros."""
        self._check(start, length)
        with self._borrowed() as connection:
            connection.zero(start, length)

    def flush(self) -> None:
        """Return when everything written before is durable, on whichever connection it was."""
        with self._borrowed() as connection:
            connection.flush()

    def extents(self) -> Iterator[Extent]:
        """Yield what is allocated, covering the disk; one UNKNOWN extent if the server cannot.

        Raises:
            NbdError: the query failed.
        """
        if protocol.BASE_ALLOCATION not in dict(self.export.contexts):
            if self.size:
                yield Extent(0, self.size, Content.UNKNOWN)
            return
        # A connection of its own: the caller may read between two extents, and with a limit of
        # one connection it would wait for the one that is lent to this very query.
        with Connection(self.address, (protocol.BASE_ALLOCATION,)) as connection:
            for start, length, flags in connection.status(protocol.BASE_ALLOCATION):
                yield Extent(start, length, _content(flags))

    def marked(self, context: str) -> Iterator[tuple[int, int]]:
        """Yield (start, length) of what a dirty bitmap context marks, sorted.

        Raises:
            NbdError: there is no such context, or the query failed.
        """
        with Connection(self.address, (context,)) as connection:
            for start, length, flags in connection.status(context):
                if flags & STATE_DIRTY:
                    yield start, length

    def _check(self, start: int, length: int) -> None:
        if start < 0 or length < 0 or start + length > self.size:
            raise NbdError(f"{length} bytes at {start} are outside of a disk of {self.size} bytes")

    @contextlib.contextmanager
    def _borrowed(self) -> Iterator[Connection]:
        with self._free:
            connection = self._take()
            try:
                yield connection
            finally:
                if connection.usable:
                    self._idle.put(connection)
                else:
                    self._forget(connection)

    def _take(self) -> Connection:
        try:
            return self._idle.get_nowait()
        except queue.Empty:
            connection = Connection(self.address, (protocol.BASE_ALLOCATION,))
        with self._lock:
            if not self._closed:
                self._open.add(connection)
                return connection
        connection.close()
        raise NbdError(f"{self.address} was closed")

    def _forget(self, connection: Connection) -> None:
        with self._lock:
            self._open.discard(connection)
        connection.close()


def list_contexts(address: Address, queries: Sequence[str] = ()) -> list[str]:
    """Return the metadata contexts that an export offers, such as its dirty bitmaps.

    Raises:
        NbdError: the server cannot be asked.
    """
    wire = _Wire(address)
    try:
        tls = address.tls is not None
        return wire.drive(protocol.list_contexts(address.export, queries, tls=tls))
    finally:
        wire.close()


def _content(flags: int) -> Content:
    if flags & STATE_ZERO:
        return Content.HOLE if flags & STATE_HOLE else Content.ZERO
    # A hole that is not said to read as zeros holds whatever the device returns.
    return Content.UNKNOWN if flags & STATE_HOLE else Content.DATA


def _pieces(start: int, length: int, most: int) -> Iterator[tuple[int, int]]:
    for offset in range(0, length, most):
        yield start + offset, min(most, length - offset)


def _connect(address: Address) -> socket.socket:
    try:
        if not address.path:
            connected = socket.create_connection((address.host, address.port), address.timeout_s)
            # Requests are small and each waits for its reply: never hold one back.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return connected
        connected = socket.socket(socket.AF_UNIX)
        try:
            connected.settimeout(address.timeout_s)
            connected.connect(address.path)
        except BaseException:
            connected.close()
            raise
    except OSError as error:
        raise NbdError(f"{address}: {error}") from error
    return connected


def _receive(source: socket.socket, view: memoryview) -> None:
    while view:
        count = source.recv_into(view)
        if not count:
            raise NbdError(f"the server closed the connection, {len(view)} bytes short")
        view = view[count:]


def _send(target: socket.socket, buffers: tuple[bytes | memoryview, ...]) -> None:
    for buffer in buffers:
        target.sendall(buffer)
