"""An NBD server: listeners, connections, and an orderly end.

Threads: one for each listener, one or two for each connection, and a pool that all share. They were
measured against asyncio: a read of 4 KiB costs half as much.
"""

import contextlib
import errno
import socket
import ssl
import threading
from collections.abc import Generator, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Final, Self, TypeVar, assert_never

from ruchu.blocks.nbd_protocol import Fill, Receive, Send, StartTls, Step
from ruchu.clock import SYSTEM, Clock
from ruchu.errors import AlreadyExists, ExportError, NbdError
from ruchu.exports.nbd.channels import STALL_S, Channel, PlainChannel
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.handshake import negotiate
from ruchu.exports.nbd.listening import Listener, TcpListener, UnixListener
from ruchu.exports.nbd.transmission import Failures, Resources, Transmission
from ruchu.exports.nbd.workers import WORKERS, Budget, Pool
from ruchu.units import MIB

# A handshake is some ten messages; with TLS over a bad line it takes seconds.
HANDSHAKE_S: Final = 60
# Wait for a free file descriptor before the next client is accepted.
_ACCEPT_AGAIN_S: Final = 0.1
_EXHAUSTED: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Limits:
    """What a server lets its clients take.

    Attributes:
        connections: more are turned away. A guest uses one to four, a copy up to sixteen.
        connection_bytes: in flight on one connection: two of the largest reads.
        total_bytes: in flight on all of them.
        workers: threads that wait for devices.
        handshake_s: a client that has not chosen an export by then is given up.
        stall_s: a client that stops in the middle of a message is given up after it.
        close_s: how long `close` lets running requests finish.
    """

    connections: int = 64
    connection_bytes: int = 64 * MIB
    total_bytes: int = 256 * MIB
    workers: int = WORKERS
    stall_s: float = STALL_S
    handshake_s: float = HANDSHAKE_S
    close_s: float = 10.0


DEFAULT_LIMITS: Final = Limits()


def _unheard(export: str, error: Exception) -> None:
    """Do nothing: the client has been told."""
    del export, error


class NbdServer:
    """Serves disks until it is closed. A context manager.

    Args:
        exports: what is served; names are unique. Disks change through this server only.
        limits: what clients may take.
        failures: called with the name of an export and an error of its device, which the client
            gets as EIO or ENOSPC; from several threads.
        clock: tells how long a handshake takes.

    Raises:
        AlreadyExists: two exports have one name.
    """

    def __init__(
        self,
        exports: Iterable[NbdExport],
        *,
        limits: Limits = DEFAULT_LIMITS,
        failures: Failures = _unheard,
        clock: Clock = SYSTEM,
    ) -> None:
        self._exports: dict[str, NbdExport] = {}
        for export in exports:
            if export.name in self._exports:
                raise AlreadyExists(f"(an export named {export.name!r})")
            self._exports[export.name] = export
            for other in self._exports.values():
                if other.device is export.device:
                    # What is written through one of them is seen in the map of both.
                    export.allocation = other.allocation
        self._limits = limits
        self._clock = clock
        self._resources = Resources(
            Pool(limits.workers), Budget(limits.total_bytes), limits.connection_bytes, failures
        )
        self._lock = threading.Lock()
        self._listeners: list[tuple[Listener, threading.Thread]] = []
        self._connections: dict[threading.Thread, PlainChannel] = {}
        self._closing = threading.Event()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close it. An error of the last flush wins: written data may be lost."""
        self.close()

    @property
    def connections(self) -> int:
        """How many clients are connected."""
        return len(self._connections)

    def listen_unix(self, path: Path, *, tls: ssl.SSLContext | None = None) -> None:
        """Serve on a unix socket, mode 0600, in a directory of this user only.

        A missing directory is made. The socket of a server that died is replaced.

        Raises:
            AlreadyExists: a server lives there, or something that is no socket.
            UsageError: others may enter the directory.
            ExportError: the socket could not be made.
        """
        self._start(UnixListener(path, tls))

    def listen_tcp(
        self,
        host: str,
        port: int,
        *,
        tls: ssl.SSLContext | None = None,
        clients: Iterable[str] = (),
    ) -> int:
        """Serve on TCP; return the port, which may be given as 0.

        Args:
            host: address to listen on.
            port: 0 for any that is free.
            tls: what clients must use; without `clients` it must ask for their certificates.
            clients: networks from which clients may come, such as `192.0.2.0/24`.

        Raises:
            UsageError: everybody could connect.
            ExportError: the socket could not be made.
        """
        listener = TcpListener(host, port, tls, clients)
        self._start(listener)
        return listener.port

    def serve_until(self, stop: threading.Event) -> None:
        """Wait for `stop`, then close.

        Raises:
            RuchuError: see `close`.
        """
        stop.wait()
        self.close()

    def close(self) -> None:
        """Accept no more, let running requests finish within the limit, flush, remove sockets.

        Raises:
            RuchuError, OSError: a device could not be flushed; the others were.
        """
        with self._lock:
            if self._closing.is_set():
                return
            self._closing.set()
            listeners, self._listeners = self._listeners, []
        for listener, _ in listeners:
            listener.stop()
        for _, thread in listeners:
            thread.join()
        self._end_connections()
        self._resources.pool.close(self._limits.close_s)
        for listener, _ in listeners:
            listener.close()
        self._flush()

    def _flush(self) -> None:
        first: Exception | None = None
        for export in self._exports.values():
            try:
                if export.flush is not None:
                    export.flush()
            except Exception as error:  # noqa: BLE001 - raised below, after the others' turn
                first = first or error
        if first is not None:
            raise first

    def _end_connections(self) -> None:
        with self._lock:
            connections = dict(self._connections)
        for channel in connections.values():
            channel.end_receiving()
        end = self._clock.monotonic() + self._limits.close_s
        for thread in connections:
            thread.join(max(0.0, end - self._clock.monotonic()))
        for thread, channel in connections.items():
            if thread.is_alive():
                channel.abort()
        for thread in connections:
            thread.join(self._limits.close_s)

    # ---------------------------------------------------------------------------------- accepting

    def _start(self, listener: Listener) -> None:
        thread = threading.Thread(
            target=self._accept, args=(listener,), name="nbd-listener", daemon=True
        )
        with self._lock:
            if self._closing.is_set():
                listener.close()
                raise ExportError("(the server was closed)")
            self._listeners.append((listener, thread))
            thread.start()

    def _accept(self, listener: Listener) -> None:
        while not listener.closed:
            try:
                connected = listener.accept()
            except OSError as error:
                # A client that left before it was accepted is no reason to stop, ever.
                if error.errno in _EXHAUSTED:
                    self._closing.wait(_ACCEPT_AGAIN_S)
                continue
            if connected is not None:
                self._welcome(connected, listener)

    def _welcome(self, connected: socket.socket, listener: Listener) -> None:
        try:
            channel = PlainChannel(connected, self._limits.stall_s)
        except OSError:
            connected.close()
            return
        thread = threading.Thread(
            target=self._serve, args=(channel, listener.tls), name="nbd-connection", daemon=True
        )
        with self._lock:
            welcome = len(self._connections) < self._limits.connections
            if welcome and not self._closing.is_set():
                self._connections[thread] = channel
                thread.start()
                return
        channel.close()

    # --------------------------------------------------------------------------- one connection

    def _serve(self, channel: PlainChannel, tls: ssl.SSLContext | None) -> None:
        """Serve one client; the boundary of its thread."""
        # A client that does its handshake a byte at a time is given up.
        watchdog = threading.Timer(self._limits.handshake_s, channel.abort)
        watchdog.daemon = True
        wire = _Wire(channel, tls)
        try:
            watchdog.start()
            # Whatever a client does to its own connection ends that connection, and nothing else.
            with contextlib.suppress(OSError, NbdError):
                agreed = wire.drive(negotiate(self._exports, tls=tls is not None))
                watchdog.cancel()
                if agreed is not None:
                    Transmission(wire.channel, agreed, self._resources).run()
        finally:
            watchdog.cancel()
            with self._lock:
                del self._connections[threading.current_thread()]
            wire.channel.close()


class _Wire:
    """A channel that the steps of a handshake are performed on."""

    def __init__(self, channel: PlainChannel, tls: ssl.SSLContext | None) -> None:
        self.channel: Channel = channel
        self._plain = channel
        self._tls = tls

    def drive(self, steps: Generator[Step, bytes, T]) -> T:
        answer: bytes | None = None
        try:
            while True:
                step = next(steps) if answer is None else steps.send(answer)
                answer = self._perform(step)
        except StopIteration as end:
            result: T = end.value
            return result

    def _perform(self, step: Step) -> bytes:
        match step:
            case Receive(count):
                data = bytearray(count)
                if not self.channel.receive(memoryview(data)):
                    raise ConnectionResetError("the client left during the handshake")
                return bytes(data)
            case Send(buffers):
                for buffer in buffers:
                    self.channel.send(bytes(buffer))
            case StartTls():
                assert self._tls is not None
                self.channel = self._plain.upgraded(self._tls)
            case Fill():
                raise AssertionError("the handshake of a server fills no buffers")
            case _:
                assert_never(step)
        return b""
