"""Bulk streams on a port: `PUT`, `GET`, `HEAD` and `DELETE /streams/<id>`.

| request | of a stream that is expected | of one that is offered |
|---|---|---|
| `HEAD`, `GET` | how much is durable (`Ruchu-Durable`); `GET` also says why it is refused | `GET`: content |
| `PUT` | content | refused |
| `DELETE` | refused | everything has arrived |

A `PUT` waits for "100 Continue"; then its body goes from the TLS library straight into the buffers
of pieces, past the HTTP parser. A thread of its own checks and writes them. The buffers are all the
memory there is: with none free, nothing is read, and TCP slows the sender down.
"""

import asyncio
import functools
import queue
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final, Self

from aiohttp import web

from ruchu.clock import Clock
from ruchu.errors import Damaged, ProtocolViolation, Refused, WireError
from ruchu.model import ids
from ruchu.wire import contexts, stream_records
from ruchu.wire.authority import Issued
from ruchu.wire.calling import Address
from ruchu.wire.contexts import Peer
from ruchu.wire.gate import Limits
from ruchu.wire.identity import Identity
from ruchu.wire.port import Alarm, Port, Visit
from ruchu.wire.stream_records import HEADER, PIECE_BYTES_MAX, RECORD_BYTES_MAX, Running
from ruchu.wire.streams import SIZE_MAX, Incoming, Outgoing, Source, StreamDesk

OFFSET: Final = "Ruchu-Offset"
SIZE: Final = "Ruchu-Size"
DIGEST: Final = "Ruchu-Digest"
DURABLE: Final = "Ruchu-Durable"
FINISHED: Final = "Ruchu-Finished"
PATH: Final = "/streams/"

# One is filled while others are checked and written.
_BUFFERS: Final = 4
# Each has its buffers and a thread.
STREAMS_MAX: Final = 32
# A piece of 1 MiB in that time is slower than any line that bulk is sent over.
_STALL_S: Final = 120.0
CONTINUE: Final = b"HTTP/1.1 100 Continue\r\n\r\n"
# The library copies what does not fit into the socket; less at a time, less to copy.
_WRITE_BYTES: Final = 256 << 10


@dataclass(frozen=True, slots=True)
class _Piece:
    buffer: bytearray
    length: int
    digest: bytes


class _Receiver(asyncio.BufferedProtocol):
    """Takes the body of a request: whole records, in buffers of its own."""

    def __init__(self, transport: asyncio.Transport) -> None:
        self.arrived: queue.SimpleQueue[_Piece | Exception] = queue.SimpleQueue()
        self.lost: Exception | None = None
        self._transport = transport
        self._free: deque[bytearray] = deque(bytearray(RECORD_BYTES_MAX) for _ in range(_BUFFERS))
        self._buffer = self._free.popleft()
        self._view = memoryview(self._buffer)
        self._have = 0
        self._rest = b""
        self._starved = False

    def get_buffer(self, sizehint: int) -> memoryview:  # noqa: ARG002 - whole records are better
        """Return where bytes go."""
        return self._view[self._have :]

    def buffer_updated(self, nbytes: int) -> None:
        """Take note of bytes that have come."""
        self._have += nbytes
        try:
            while self._have >= HEADER.size and not self._starved:
                length, digest = stream_records.read_header(self._view)
                if self._have < HEADER.size + length:
                    return
                self._pass_on(_Piece(self._buffer, length, digest))
        except ProtocolViolation as error:
            self._fail(error)

    def _pass_on(self, piece: _Piece) -> None:
        # Only behind a short piece, that is at the end, there is more in the buffer.
        rest = bytes(self._view[HEADER.size + piece.length : self._have])
        self._have = len(rest)
        if not self._free:
            self._starved = True
            self._transport.pause_reading()
        else:
            self._use(self._free.popleft())
        self._rest = rest
        if not self._starved:
            self._view[: len(rest)] = rest
        self.arrived.put(piece)

    def _use(self, buffer: bytearray) -> None:
        self._buffer = buffer
        self._view = memoryview(buffer)

    def give_back(self, buffer: bytearray, loop: asyncio.AbstractEventLoop) -> None:
        """Use a buffer again. For the thread that writes."""
        self._free.append(buffer)
        if self._starved:
            loop.call_soon_threadsafe(self._go_on)

    def _go_on(self) -> None:
        if not self._starved or not self._free:
            return
        self._starved = False
        self._use(self._free.popleft())
        self._view[: len(self._rest)] = self._rest
        self._transport.resume_reading()
        self.buffer_updated(0)

    def eof_received(self) -> bool:
        """The sender sends no more."""
        self._fail(ConnectionResetError("the line was cut"))
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        """The connection is gone."""
        self.lost = exc or ConnectionResetError("the line was cut")
        self.arrived.put(self.lost)

    def _fail(self, error: Exception) -> None:
        self.arrived.put(error)
        self._transport.abort()


class StreamService:
    """Serves streams of a desk on a port."""

    def __init__(self, port_: Port, desk: StreamDesk) -> None:
        self._port = port_
        self._desk = desk
        self._active = 0
        self._pool = ThreadPoolExecutor(STREAMS_MAX, thread_name_prefix="ruchu-stream")

    def close(self) -> None:
        """End the threads; the port was closed before."""
        self._pool.shutdown()

    async def _run(self, work: Any, *arguments: Any) -> Any:
        return await self._port.loop.run_in_executor(self._pool, work, *arguments)

    async def serve(
        self, request: web.BaseRequest, visit: Visit, peer: Peer, stream: str
    ) -> web.StreamResponse:
        """Answer a request about a stream."""
        try:
            found = self._find(request, peer, stream)
        except Refused:
            text = f"{visit.host} asks for a stream that is not meant for it."
            self._port.report("wire-stream", visit, text)
            raise
        if self._active >= STREAMS_MAX:
            raise WireError("(too many streams at the same time)")
        self._active += 1
        try:
            return await self._serve(request, found)
        except ProtocolViolation as error:
            text = f"{visit.host} does not keep to the protocol {error.detail}."
            self._port.report("wire-protocol", visit, text)
            raise
        except Damaged as error:
            self._port.report("wire-damaged", visit, f"{visit.host}: {error}")
            raise
        finally:
            self._active -= 1

    def _find(self, request: web.BaseRequest, peer: Peer, stream: str) -> Incoming | Outgoing:
        scheme, _, secret = request.headers.get("Authorization", "").partition(" ")
        if not ids.is_id(stream) or scheme != "Bearer":
            raise Refused("(no such stream for this node)")
        return self._desk.find(stream, secret, peer.node)

    async def _serve(
        self, request: web.BaseRequest, stream: Incoming | Outgoing
    ) -> web.StreamResponse:
        match request.method, stream:
            case "HEAD" | "GET", Incoming():
                return await self._tell(request, stream)
            case "PUT", Incoming():
                return await self._receive(request, stream)
            case "GET", Outgoing():
                return await self._send(request, stream)
            case "DELETE", Outgoing():
                stream.finish()
                return web.json_response({})
            case _:
                raise ProtocolViolation("(a stream goes the other way)")

    # --------------------------------------------------------------------------- receiving

    async def _tell(self, request: web.BaseRequest, stream: Incoming) -> web.Response:
        durable = await self._run(stream.begin, self._abort(request))
        stream.end()
        return _standing(stream, durable)

    def _abort(self, request: web.BaseRequest) -> Callable[[], object]:
        """Return what cuts the connection of a request, from any thread."""
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        return functools.partial(self._port.loop.call_soon_threadsafe, transport.abort)

    async def _receive(self, request: web.BaseRequest, stream: Incoming) -> web.StreamResponse:
        offset, size = _number(request, OFFSET), _number(request, SIZE)
        expected = stream_records.wire_bytes(size - offset) if offset <= size else -1
        if request.content_length != expected or request.headers.get("Expect") != "100-continue":
            raise ProtocolViolation("(a stream has a length and waits to be asked for)")
        durable = await self._run(stream.begin, self._abort(request))
        try:
            if stream.digest is not None or durable != offset:
                return _standing(stream, durable, status=409)
            if request.headers.get(DIGEST) != stream.running.digest().hex():
                await self._run(stream.restart)
                return _standing(stream, 0, status=409)
            await self._take_body(request, stream, size)
        finally:
            stream.end()
        return _standing(stream, stream.running.length)

    async def _take_body(self, request: web.BaseRequest, stream: Incoming, size: int) -> None:
        transport = request.transport
        if transport is None:
            raise ConnectionResetError
        receiver = _Receiver(transport)
        transport.set_protocol(receiver)
        transport.write(CONTINUE)
        try:
            await self._run(self._write, stream, receiver, size)
        finally:
            transport.set_protocol(request.protocol)
            if receiver.lost is not None:
                request.protocol.connection_lost(receiver.lost)

    def _write(self, stream: Incoming, receiver: _Receiver, size: int) -> None:
        """Check and write pieces until the end. In a thread.

        Raises:
            OSError: the line was cut; what had come is durable.
            Damaged: a piece is not what was sent.
            RuchuError: the sink failed.
        """
        while True:
            try:
                arrived = receiver.arrived.get(timeout=_STALL_S)
            except queue.Empty:
                arrived = ConnectionAbortedError("the sender stalls")
            if isinstance(arrived, Exception):
                stream.flush()
                raise arrived
            if stream.running.length + arrived.length > size:
                raise ProtocolViolation("(the stream is longer than it said)")
            if not arrived.length:
                if stream.running.length != size:
                    raise ProtocolViolation("(the stream is shorter than it said)")
                stream.finish(arrived.digest)
                return
            view = memoryview(arrived.buffer)[HEADER.size : HEADER.size + arrived.length]
            stream.take(view, arrived.digest)
            receiver.give_back(arrived.buffer, self._port.loop)

    # ----------------------------------------------------------------------------- sending

    async def _send(self, request: web.BaseRequest, stream: Outgoing) -> web.StreamResponse:
        offset, size = _number(request, OFFSET), stream.source.size
        if stream.ended or offset > size:
            raise Refused("(the stream has ended)")
        running = Running()
        await self._run(running.restart, _pieces(stream, offset))
        if request.headers.get(DIGEST) != running.digest().hex():
            return web.json_response({"text": "other content"}, status=409)
        response = web.StreamResponse(headers={SIZE: str(size)})
        response.content_length = stream_records.wire_bytes(size - offset)
        response.content_type = "application/octet-stream"
        response.force_close()
        await response.prepare(request)
        buffers = [bytearray(RECORD_BYTES_MAX), bytearray(RECORD_BYTES_MAX)]
        record = await self._read(stream, running, buffers[0])
        while len(record) > HEADER.size:
            # The next piece is read and digested while this one is sent.
            buffers.reverse()
            _, record = await asyncio.gather(
                _write_out(response, record), self._read(stream, running, buffers[0])
            )
        await _write_out(response, record)
        await response.write_eof()
        return response

    async def _read(self, stream: Outgoing, running: Running, buffer: bytearray) -> memoryview:
        found: memoryview = await self._run(fill, stream.source, running, memoryview(buffer))
        return found


async def _write_out(response: web.StreamResponse, record: memoryview) -> None:
    async with asyncio.timeout(_STALL_S):
        for start in range(0, len(record), _WRITE_BYTES):
            await response.write(record[start : start + _WRITE_BYTES])


def fill(source: Source, running: Running, buffer: memoryview) -> memoryview:
    """Read the next piece of a source, and return it as a record in a buffer."""
    length = min(PIECE_BYTES_MAX, source.size - running.length)
    piece = buffer[HEADER.size : HEADER.size + length]
    if length:
        source.read_into(running.length, piece)
    HEADER.pack_into(buffer, 0, length, running.add(piece) if length else running.digest())
    return buffer[: HEADER.size + length]


def _pieces(stream: Outgoing, length: int) -> Iterator[memoryview]:
    buffer = memoryview(bytearray(PIECE_BYTES_MAX))
    for offset in range(0, length, PIECE_BYTES_MAX):
        piece = buffer[: min(PIECE_BYTES_MAX, length - offset)]
        stream.source.read_into(offset, piece)
        yield piece


def _number(request: web.BaseRequest, name: str) -> int:
    text = request.headers.get(name, "")
    if not text.isdecimal() or len(text) > 18 or int(text) > SIZE_MAX:
        raise ProtocolViolation(f"({name} is missing, or no number)")
    return int(text)


def _standing(stream: Incoming, durable: int, status: int = 200) -> web.Response:
    headers = {DURABLE: str(durable)}
    if stream.digest is not None:
        headers[FINISHED] = stream.digest.hex()
    return web.Response(status=status, headers=headers)


class StreamServer:
    """The port of a node that other nodes send to and fetch from. A context manager.

    Args:
        listen: address; port 0 takes any that is free.
        identity: of this node.
        clock: for limits by minute.
        alarm: told of refusals.
        limits: see there.
    """

    def __init__(
        self,
        listen: Address,
        identity: Identity,
        clock: Clock,
        alarm: Alarm,
        limits: Limits | None = None,
    ) -> None:
        self.desk = StreamDesk()
        issued = Issued(identity.streams, identity.key)
        context = contexts.for_server(issued, identity.authority)
        self._port = Port(listen, context, self._answer, limits or Limits(), clock, alarm)
        self._streams = StreamService(self._port, self.desk)

    def __enter__(self) -> Self:
        self._port.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._port.close()
        self._streams.close()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._port.address

    async def _answer(self, request: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        path = request.rel_url.raw_path
        if visit.peer is None or not path.startswith(PATH):
            text = f"{visit.host} is no node, or asks for what is not here."
            self._port.report("wire-request", visit, text)
            raise Refused("(there is no such thing here)")
        return await self._streams.serve(request, visit, visit.peer, path.removeprefix(PATH))
