"""A TLS port with HTTP behind it, on a thread and a loop of its own.

What is here: accepting, limits, time limits, who is at the other end, telling of what was refused.
What requests mean is the business of the handler. A connection carries one request, which may be
a long one (a channel, a stream): so every connection is admitted anew, and no request hides behind
another.
"""

import asyncio
import contextlib
import errno
import logging
import socket
import ssl
import threading
import traceback
from collections.abc import Awaitable, Callable, Coroutine, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Protocol, TypeVar

from aiohttp import web
from aiohttp.web_protocol import RequestHandler

from ruchu.clock import Clock
from ruchu.errors import ProtocolViolation, Refused, RuchuError, WireError
from ruchu.model.tasks import Severity
from ruchu.wire import closing, contexts
from ruchu.wire.calling import Address
from ruchu.wire.contexts import Peer
from ruchu.wire.gate import Gate, Limits, address_key
from ruchu.wire.stream_socket import StreamSocket

_BACKLOG: Final = 256
# Callbacks wait for a database now and then; so many at the same time.
_WORKERS: Final = 16
_CLOSE_LIMIT_S: Final = 5.0
# The first record of TLS: a few hundred bytes, 1.8 KiB with keys that outlive quantum computers.
_HELLO_BYTES_MAX: Final = 4 << 10
_HANDSHAKE: Final = 22
# Between two looks at a record that came in parts.
_PEEK_S, _PEEK_S_MAX = 0.002, 0.25
# What the kernel is short of comes back; until then, nobody is accepted.
_SHORTAGES: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_SHORTAGE_PAUSE_S: Final = 0.5
# How aiohttp calls a request that it could not parse.
_UNPARSABLE: Final = "UNKNOWN"

_T = TypeVar("_T")

# Every refusal is an alarm of ours; the library would write to standard error as well.
_QUIET: Final = logging.getLogger("ruchu.wire.http")
_QUIET.addHandler(logging.NullHandler())
_QUIET.propagate = False


class Alarm(Protocol):
    """Tells people. Called by worker threads."""

    def __call__(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Raise an alarm."""


@dataclass(eq=False, slots=True)
class Visit:
    """One connection.

    Attributes:
        host: the address it came from.
        counted: what counts as its address.
        peer: the node that it has proven to be.
        transport: None until the handshake is done.
        stream: the socket, if it is a bulk stream.
        late: ends the connection if no request comes.
        asked: a request has come.
        left: the connection is gone.
    """

    host: str
    counted: str
    peer: Peer | None = None
    transport: asyncio.Transport | None = None
    late: asyncio.TimerHandle | None = None
    stream: StreamSocket | None = None
    asked: bool = False
    left: bool = False

    def cut(self) -> None:
        """End the connection at once. On the loop."""
        if self.transport is not None:
            self.transport.abort()
        if self.stream is not None:
            self.stream.abort()


Handler = Callable[[web.BaseRequest, Visit], Awaitable[web.StreamResponse]]


class _HttpServer(web.Server):
    """Says when a connection is gone."""

    def __init__(
        self, handler: Any, lost: Callable[[RequestHandler], None], **options: Any
    ) -> None:
        super().__init__(handler, **options)
        self._lost = lost

    def connection_lost(self, handler: RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        self._lost(handler)


class Port:
    """Listens. A context manager: it is up inside, and everything of it has ended after.

    Args:
        listen: address; port 0 takes any that is free (`address` tells).
        context: TLS; another certificate may be loaded into it meanwhile.
        handler: answers requests, on the loop. A `RuchuError` that it raises becomes a refusal.
        limits: see there.
        clock: for counting what happens in a minute.
        alarm: told of refusals.
    """

    def __init__(
        self,
        listen: Address,
        context: ssl.SSLContext,
        handler: Handler,
        limits: Limits,
        clock: Clock,
        alarm: Alarm,
    ) -> None:
        self.limits = limits
        self.loop = asyncio.new_event_loop()
        self.gate = Gate(limits, clock)
        self.address = listen
        self._listen = listen
        self._context = context
        self._handler = handler
        self._alarm = alarm
        self._pool = ThreadPoolExecutor(_WORKERS, thread_name_prefix="ruchu-wire")
        self._visits: dict[object, Visit] = {}
        self._threads: set[threading.Thread] = set()
        self._idle = asyncio.Event()
        self._idle.set()
        self._serve_stream: Callable[[StreamSocket, Visit], None] | None = None
        self._background: set[asyncio.Task[Any]] = set()
        self._stop = asyncio.Event()
        self._socket: socket.socket | None = None
        self._sockets: set[socket.socket] = set()
        # Accepted, and nobody's but ours yet.
        self._waiting: set[socket.socket] = set()
        self._http: _HttpServer | None = None
        self._thread = threading.Thread(target=self._run, name="ruchu-wire", daemon=True)

    def serve_streams(self, serve: Callable[[StreamSocket, Visit], None]) -> None:
        """Give bulk streams to this, each in a thread of its own; before it is opened."""
        self._serve_stream = serve

    def open(self) -> None:
        """Listen.

        Raises:
            WireError: the address cannot be listened on.
        """
        family = socket.AF_INET6 if ":" in self._listen.host else socket.AF_INET
        try:
            self._socket = socket.create_server(
                (self._listen.host, self._listen.port), family=family, backlog=_BACKLOG
            )
        except OSError as error:
            self.loop.close()
            raise WireError(f"({self._listen}: {error.strerror})") from None
        self._socket.setblocking(False)
        self.address = Address(self._listen.host, self._socket.getsockname()[1])
        self._thread.start()

    def close(self) -> None:
        """End every connection, wait until all of their callbacks have returned."""
        self.loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        self._pool.shutdown()

    async def run(self, work: Callable[..., _T], *arguments: Any) -> _T:
        """Call something that may wait, in a worker thread."""
        return await self.loop.run_in_executor(self._pool, work, *arguments)

    def begin(self, work: Coroutine[Any, Any, None]) -> None:
        """Run a coroutine beside; it ends with the port at the latest."""
        task = self.loop.create_task(work)
        self._background.add(task)
        task.add_done_callback(self._background.discard)

    def report(self, code: str, visit: Visit, text: str, **facts: Any) -> None:
        """Tell people of a refusal, once for each address and minute."""
        if self.gate.is_news(code, visit.counted):
            facts["address"] = visit.host
            if visit.peer is not None:
                facts["node"], facts["serial"] = visit.peer.node, visit.peer.serial
            severity = Severity.WARNING
            self.begin(self._tell(code, severity, visit.host, text, facts))

    def tell(self, code: str, visit: Visit, text: str) -> None:
        """Tell people of a refusal, as `report` does. For any thread."""
        with contextlib.suppress(RuntimeError):  # the port was closed meanwhile
            self.loop.call_soon_threadsafe(self.report, code, visit, text)

    async def _tell(self, *what: Any) -> None:
        try:
            await self.run(self._alarm, *what)
        except Exception:  # noqa: BLE001 - the edge of a request; an alarm that fails ends nothing
            traceback.print_exc()

    def drop(self, node: str) -> None:
        """Cut every connection of a node at once. On the loop."""
        for visit in list(self._visits.values()):
            if visit.peer is not None and visit.peer.node == node:
                visit.cut()

    # ------------------------------------------------------------------------------ the thread

    def _run(self) -> None:
        asyncio.set_event_loop(self.loop)
        try:
            self.loop.run_until_complete(self._main())
            self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        finally:
            asyncio.set_event_loop(None)
            self.loop.close()

    async def _main(self) -> None:
        assert self._socket is not None
        self._http = _HttpServer(
            self._handle,
            self._lost,
            request_factory=self._request,
            access_log=None,
            logger=_QUIET,
            max_line_size=self.limits.header_bytes,
            max_field_size=self.limits.header_bytes,
            lingering_time=0,
            keepalive_timeout=0,
            auto_decompress=False,
        )
        self.loop.add_reader(self._socket, self._accept, self._socket)
        await self._stop.wait()
        self.loop.remove_reader(self._socket)
        self._socket.close()
        for visit in list(self._visits.values()):
            visit.cut()
        await self._http.shutdown(_CLOSE_LIMIT_S)
        while self._background:
            for task in self._background:
                task.cancel()
            await asyncio.wait(self._background)
        for each in self._waiting:
            each.close()
        await self._idle.wait()
        await closing.all_closed(self._sockets)

    def _accept(self, listening: socket.socket) -> None:
        """Accept who waits; called by the loop, so that nobody is lost when it ends."""
        for _ in range(_BACKLOG):
            try:
                connected, address = listening.accept()
            except OSError as error:
                if error.errno in _SHORTAGES:
                    self.loop.remove_reader(listening)
                    self.loop.call_later(_SHORTAGE_PAUSE_S, self._accept_again, listening)
                return
            connected.setblocking(False)
            visit = Visit(host=address[0], counted=address_key(address[0]))
            # Those of connections that are gone were closed by the loop.
            self._sockets = {each for each in self._sockets if each.fileno() >= 0}
            if self.gate.enter(visit.counted):
                self._waiting.add(connected)
                self.begin(self._admit(connected, visit))
            else:
                connected.close()
                text = f"{visit.host} opens more connections than a listener bears."
                self.report("wire-flood", visit, text, open=self.gate.open)

    def _accept_again(self, listening: socket.socket) -> None:
        if listening.fileno() >= 0:
            self.loop.add_reader(listening, self._accept, listening)

    async def _admit(self, connected: socket.socket, visit: Visit) -> None:
        assert self._http is not None
        key: object = visit
        try:
            async with asyncio.timeout(self.limits.handshake_s):
                wants_stream = await self._wants_stream(connected)
            self._waiting.discard(connected)
            self._sockets.add(connected)
            if wants_stream and self._serve_stream is not None:
                self._begin_stream(connected, visit)
                return
            handler = self._http()
            self._visits[handler] = visit
            key = handler
            transport, _ = await self.loop.connect_accepted_socket(
                lambda: handler,
                connected,
                ssl=self._context,
                ssl_handshake_timeout=self.limits.handshake_s,
                ssl_shutdown_timeout=_CLOSE_LIMIT_S,
            )
        except OSError as error:
            self._waiting.discard(connected)
            connected.close()
            self._lost(key, visit)
            self._handshake_failed(visit, error)
            return
        except BaseException:
            self._lost(key, visit)
            raise
        visit.transport = transport
        visit.peer = contexts.peer_of(transport.get_extra_info("peercert"))
        # The request may have come before we were told of the handshake.
        if not visit.left and not visit.asked:
            visit.late = self.loop.call_later(self.limits.request_s, self._too_late, visit)

    async def _wants_stream(self, connected: socket.socket) -> bool:
        """Look into the first record of TLS, which is read again by whoever does the handshake."""
        arrived = asyncio.Event()
        self.loop.add_reader(connected, arrived.set)
        try:
            await arrived.wait()
        finally:
            self.loop.remove_reader(connected)
        pause_s = _PEEK_S
        while True:
            seen = connected.recv(_HELLO_BYTES_MAX, socket.MSG_PEEK)
            # What is no handshake, or was cut off, is refused by the library.
            if _is_whole(seen):
                return contexts.STREAM_PROTOCOL.encode() in seen
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PEEK_S_MAX)

    def _begin_stream(self, connected: socket.socket, visit: Visit) -> None:
        connected.settimeout(self.limits.handshake_s)
        tls = self._context.wrap_socket(connected, server_side=True, do_handshake_on_connect=False)
        visit.stream = StreamSocket(tls)
        self._visits[visit] = visit
        limit_s = self.limits.handshake_s + self.limits.request_s
        visit.late = self.loop.call_later(limit_s, self._too_late_for_stream, visit)
        thread = threading.Thread(
            target=self._stream, args=(visit.stream, visit), name="ruchu-stream", daemon=True
        )
        self._threads.add(thread)
        self._idle.clear()
        thread.start()

    def _too_late_for_stream(self, visit: Visit) -> None:
        if not visit.asked:
            self._too_late(visit)

    def _stream(self, connection: StreamSocket, visit: Visit) -> None:
        """Serve one stream. The whole life of a thread."""
        assert self._serve_stream is not None
        try:
            connection.tls.do_handshake()
            visit.peer = contexts.peer_of(connection.tls.getpeercert())
            self._serve_stream(connection, visit)
            connection.finish()
        except OSError as error:
            if not visit.asked:
                self._call(self._handshake_failed, visit, error)
        except Exception:  # noqa: BLE001 - the edge of a thread
            traceback.print_exc()
        finally:
            self._call(self._stream_ended, threading.current_thread(), connection, visit)

    def _call(self, work: Callable[..., object], *arguments: Any) -> None:
        with contextlib.suppress(RuntimeError):  # the port was closed meanwhile
            self.loop.call_soon_threadsafe(work, *arguments)

    def _stream_ended(
        self, thread: threading.Thread, connection: StreamSocket, visit: Visit
    ) -> None:
        # Closed here, where it may be cut as well: a number of a socket is soon used again.
        connection.tls.close()
        visit.stream = None
        self._threads.discard(thread)
        if not self._threads:
            self._idle.set()
        self._lost(visit, visit)

    def _handshake_failed(self, visit: Visit, error: OSError) -> None:
        if isinstance(error, ssl.SSLCertVerificationError):
            text = f"{visit.host} came with a certificate that is refused: {error.verify_message}."
            self.report("wire-certificate", visit, text, reason=error.verify_message)
        elif isinstance(error, ssl.SSLError):
            text = f"{visit.host} does not speak TLS 1.3 as a node does: {error.reason}."
            self.report("wire-handshake", visit, text, reason=error.reason)
        elif isinstance(error, ConnectionAbortedError | TimeoutError):
            self._slow(visit)
        # What merely went away again is no attack: a scan, a probe, a line that was cut.

    def _slow(self, visit: Visit) -> None:
        text = f"{visit.host} holds connections open without asking for anything."
        self.report("wire-slow", visit, text)

    def _too_late(self, visit: Visit) -> None:
        visit.cut()
        self._slow(visit)

    def _lost(self, key: object, visit: Visit | None = None) -> None:
        visit = self._visits.pop(key, None) or visit
        if visit is None or visit.left:
            return
        visit.left = True
        if visit.late is not None:
            visit.late.cancel()
        self.gate.leave(visit.counted)

    # ------------------------------------------------------------------------------- requests

    def _request(self, message: Any, payload: Any, protocol: Any, writer: Any, task: Any) -> Any:
        visit = self._visits.get(protocol)
        if visit is not None and message.method == _UNPARSABLE:
            self.report("wire-protocol", visit, f"{visit.host} sends what is no request.")
        return web.BaseRequest(message, payload, protocol, writer, task, self.loop)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        visit = self._visits.get(request.protocol)
        if visit is None or request.transport is None:
            raise ConnectionResetError
        visit.asked = True
        if visit.late is not None:
            visit.late.cancel()
        visit.transport = request.transport
        visit.peer = contexts.peer_of(request.transport.get_extra_info("peercert"))
        try:
            response = await self._handler(request, visit)
        except RuchuError as error:
            response = refusal(error)
        except TimeoutError:
            self._slow(visit)
            response = refusal(WireError("(it took too long)"))
        except OSError as error:
            # The other side is gone; the library knows what to do with this one.
            raise ConnectionResetError from error
        except Exception:  # noqa: BLE001 - the edge of a request
            traceback.print_exc()
            response = refusal(WireError("(the server failed; its log says how)"))
        response.force_close()
        return response


def _is_whole(seen: bytes) -> bool:
    if not seen or seen[0] != _HANDSHAKE or len(seen) >= _HELLO_BYTES_MAX:
        return True
    return len(seen) >= 5 and len(seen) >= 5 + int.from_bytes(seen[3:5])


def status_of(error: RuchuError) -> int:
    """Return the status of HTTP that says whether it is of use to ask again."""
    if isinstance(error, Refused):
        return 403
    return 503 if error.retry else 400


def refusal(error: RuchuError) -> web.Response:
    """Return what tells the other side that it is refused."""
    text = error.detail.strip("()") or str(error)
    document = {"code": error.code, "text": text, "hint": error.advice}
    response = web.json_response(document, status=status_of(error))
    response.force_close()
    return response


async def body_of(request: web.BaseRequest, size_max: int) -> bytes:
    """Return the body of a request.

    Raises:
        ProtocolViolation: it is longer than it may be; nothing of it was kept.
    """
    if (request.content_length or 0) > size_max:
        raise ProtocolViolation("(the body is too large)")
    content = bytearray()
    async for piece in request.content.iter_any():
        content += piece
        if len(content) > size_max:
            raise ProtocolViolation("(the body is too large)")
    return bytes(content)
