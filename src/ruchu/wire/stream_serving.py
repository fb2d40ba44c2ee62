"""The listening end of bulk streams.

| request | of a stream that is expected | of one that is offered |
|---|---|---|
| `HEAD`, `GET` | how much is durable (`Ruchu-Durable`); `GET` also says why it is refused | `GET`: content |
| `PUT` | content | refused |
| `DELETE` | refused | everything has arrived |

One thread for each connection. A piece is all the memory of a stream: while it is being written,
nothing is read, and TCP slows the sender down.
"""

import json
import re
import threading
from collections.abc import Callable
from typing import Final, Self

from aiohttp import web

from ruchu.clock import Clock
from ruchu.errors import Damaged, ProtocolViolation, Refused, RuchuError, WireError
from ruchu.wire import contexts, stream_records
from ruchu.wire.authority import Issued
from ruchu.wire.calling import Address
from ruchu.wire.gate import Limits
from ruchu.wire.identity import Identity
from ruchu.wire.port import Alarm, Port, Visit, status_of
from ruchu.wire.stream_records import PIECE_BYTES_MAX, Running
from ruchu.wire.stream_socket import (
    DIGEST,
    DURABLE,
    FINISHED,
    OFFSET,
    SIZE,
    Head,
    StreamSocket,
)
from ruchu.wire.streams import Incoming, Outgoing, StreamDesk

# Each has a buffer and a thread.
STREAMS_MAX: Final = 64
# One read in that time is slower than any line that bulk is sent over.
STALL_S: Final = 120.0
# The id is one and nothing else: no path from outside reaches anything.
_REQUEST: Final = re.compile(r"[A-Z]{3,6} /streams/(?P<stream>[0-9a-f]{32}) HTTP/1\.1")
_OK: Final = "HTTP/1.1 200 OK"
_CONFLICT: Final = "HTTP/1.1 409 Conflict"
CONTINUE: Final = "HTTP/1.1 100 Continue"

Admit = Callable[[Visit], None]


class StreamService:
    """Serves streams of a desk to nodes that are admitted.

    Args:
        port: tells of refusals.
        desk: what is expected and offered.
        admit: raises `Refused` for who may not come in. Called by threads.
    """

    def __init__(self, port: Port, desk: StreamDesk, admit: Admit) -> None:
        self._port = port
        self._desk = desk
        self._admit = admit
        self._places = threading.BoundedSemaphore(STREAMS_MAX)

    def serve(self, connection: StreamSocket, visit: Visit) -> None:
        """Answer the request of a connection. In a thread of it.

        Raises:
            OSError: the line was cut.
        """
        try:
            head = connection.read_head()
            visit.asked = True
            self._admit(visit)
            stream = self._find(head, visit)
            connection.tls.settimeout(STALL_S)
            if not self._places.acquire(blocking=False):
                raise WireError("(too many streams at the same time)")
            try:
                self._answer(connection, head, stream)
            finally:
                self._places.release()
        except ProtocolViolation as error:
            text = f"{visit.host} does not keep to the protocol {error.detail}."
            self._port.tell("wire-protocol", visit, text)
            _refuse(connection, error)
        except RuchuError as error:
            if isinstance(error, Damaged):
                self._port.tell("wire-damaged", visit, f"{visit.host}: {error}")
            _refuse(connection, error)

    def _find(self, head: Head, visit: Visit) -> Incoming | Outgoing:
        request = _REQUEST.fullmatch(head.start)
        if request is None:
            raise ProtocolViolation("(no request about a stream)")
        assert visit.peer is not None
        secret = head.get("Authorization").removeprefix("Bearer ")
        try:
            return self._desk.find(request["stream"], secret, visit.peer.node)
        except Refused:
            text = f"{visit.host} asks for a stream that is not meant for it."
            self._port.tell("wire-stream", visit, text)
            raise

    def _answer(self, connection: StreamSocket, head: Head, stream: Incoming | Outgoing) -> None:
        match head.start.partition(" ")[0], stream:
            case "HEAD" | "GET", Incoming():
                durable = stream.begin(connection.abort)
                stream.end()
                _tell_standing(connection, stream, durable, _OK)
            case "PUT", Incoming():
                self._receive(connection, head, stream)
            case "GET", Outgoing():
                _send(connection, head, stream)
            case "DELETE", Outgoing():
                stream.finish()
                connection.write_head(_OK, {"Content-Length": 0})
            case _:
                raise ProtocolViolation("(a stream goes the other way)")

    def _receive(self, connection: StreamSocket, head: Head, stream: Incoming) -> None:
        offset, size = head.number(OFFSET), head.number(SIZE)
        expected = stream_records.wire_bytes(size - offset) if offset <= size else -1
        if head.number("Content-Length") != expected or head.get("Expect") != "100-continue":
            raise ProtocolViolation("(a stream has a length and waits to be asked for)")
        durable = stream.begin(connection.abort)
        try:
            if stream.digest is None and head.get(DIGEST) != stream.running.digest().hex():
                # Only what has the length that the sender means can be compared.
                if durable == offset:
                    stream.restart()
                    durable = 0
                _tell_standing(connection, stream, durable, _CONFLICT)
                return
            if stream.digest is not None or durable != offset:
                _tell_standing(connection, stream, durable, _CONFLICT)
                return
            connection.write_head(CONTINUE, {})
            self._take(connection, stream, size)
        finally:
            stream.end()
        _tell_standing(connection, stream, size, _OK)

    def _take(self, connection: StreamSocket, stream: Incoming, size: int) -> None:
        try:
            digest = connection.receive_content(stream.write, stream.running, size)
        except BaseException:
            # What has come is kept, whatever ended it.
            stream.flush()
            raise
        stream.finish(digest)


def _tell_standing(connection: StreamSocket, stream: Incoming, durable: int, start: str) -> None:
    fields: dict[str, str | int] = {DURABLE: durable, "Content-Length": 0}
    if stream.digest is not None:
        fields[FINISHED] = stream.digest.hex()
    connection.write_head(start, fields)


def _send(connection: StreamSocket, head: Head, stream: Outgoing) -> None:
    offset, source = head.number(OFFSET), stream.source
    if stream.ended or offset > source.size:
        raise Refused("(the stream has ended)")
    running = Running()
    buffer = memoryview(bytearray(PIECE_BYTES_MAX))
    while running.length < offset:
        piece = buffer[: min(PIECE_BYTES_MAX, offset - running.length)]
        source.read_into(running.length, piece)
        running.add(piece)
    if head.get(DIGEST) != running.digest().hex():
        connection.write_head(_CONFLICT, {"Content-Length": 0})
        return
    length = stream_records.wire_bytes(source.size - offset)
    connection.write_head(_OK, {SIZE: source.size, "Content-Length": length})
    connection.send_content(source, running, STALL_S)


def _refuse(connection: StreamSocket, error: RuchuError) -> None:
    text = error.detail.strip("()") or str(error)
    document = {"code": error.code, "text": text, "hint": error.advice}
    body = json.dumps(document).encode()
    fields: dict[str, str | int] = {
        "Content-Type": "application/json",
        "Content-Length": len(body),
    }
    connection.write_head(f"HTTP/1.1 {status_of(error)} Refused", fields, body)


class StreamServer:
    """The port of a node that other nodes send to and fetch from. A context manager.

    Args:
        listen: address; port 0 takes any that is free.
        identity: of this node.
        clock: for limits by minute.
        alarm: told of refusals.
        limits: see there.

    Attributes:
        desk: streams that this node expects or offers.
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
        self._port.serve_streams(StreamService(self._port, self.desk, self._admit).serve)

    def __enter__(self) -> Self:
        self._port.open()
        return self

    def __exit__(self, *_: object) -> None:
        self._port.close()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return self._port.address

    def _admit(self, visit: Visit) -> None:
        if visit.peer is None:
            text = f"{visit.host} came without the certificate of a node."
            self._port.tell("wire-certificate", visit, text)
            raise Refused("(no certificate was shown)")

    async def _answer(self, _: web.BaseRequest, visit: Visit) -> web.StreamResponse:
        self._port.report("wire-request", visit, f"{visit.host} asks for what is not here.")
        raise Refused("(there is no such thing here)")
