"""The dialling end of bulk streams: send to, or fetch from, a server or another node.

Called by a thread, which it keeps until the end: blocking sockets are what costs least for bulk.
After a cut line it dials again and goes on where the other side is.
"""

import http.client
import json
import random
import socket
import ssl
from dataclasses import dataclass
from typing import Final, NoReturn

from ruchu.clock import Clock
from ruchu.errors import Damaged, ProtocolViolation, Refused, WireError
from ruchu.wire import calling, stream_records, stream_serving
from ruchu.wire.calling import Address, Connection
from ruchu.wire.stream_records import HEADER, PIECE_BYTES_MAX, RECORD_BYTES_MAX, Running
from ruchu.wire.streams import SIZE_MAX, Sink, Source, Ticket

# Content that was damaged on its way once may be due to memory that fails: not for ever.
_DAMAGED_MAX: Final = 3


@dataclass(frozen=True, slots=True)
class Persistence:
    """How a cut line is dealt with.

    Attributes:
        first_s: before the first new attempt; doubled each time without progress, with jitter.
        most_s: between two attempts.
        limit_s: without any progress; then it is given up.
        stall_s: for one piece.
    """

    first_s: float = 0.5
    most_s: float = 30.0
    limit_s: float = 600.0
    stall_s: float = 60.0


@dataclass(frozen=True, slots=True)
class Target:
    """The other end.

    Attributes:
        address: where it listens.
        name: whom it has to prove to be: `SERVER_NAME`, or `streams_name(node)`.
        context: with the certificate of this node.
    """

    address: Address
    name: str
    context: ssl.SSLContext


class StreamClient:
    """Sends and fetches streams. One for each stream and thread."""

    def __init__(
        self,
        target: Target,
        ticket: Ticket,
        clock: Clock,
        rng: random.Random,
        persistence: Persistence | None = None,
    ) -> None:
        self._target = target
        self._ticket = ticket
        self._clock = clock
        self._rng = rng
        self._persistence = persistence or Persistence()
        self._running = Running()
        self._where = f"{target.address}"

    def send(self, source: Source) -> bytes:
        """Send all of a source; return the BLAKE3 of it once the other side has it durably.

        Raises:
            WireError: no progress for too long.
            Refused: the other side does not want it.
            Damaged: what arrives is not what was sent, again and again.
            RuchuError: the source failed.
        """
        return self._persist(_Sending(self, source))

    def fetch(self, sink: Sink) -> bytes:
        """Fetch all of a stream into a sink; return its BLAKE3 once it is durable.

        Raises:
            WireError: no progress for too long.
            Refused: the other side does not have it.
            Damaged: what arrives is not what was sent, again and again.
            RuchuError: the sink failed.
        """
        return self._persist(_Fetching(self, sink))

    def _persist(self, work: "_Sending | _Fetching") -> bytes:
        wait_s, damaged, reached = self._persistence.first_s, 0, -1
        since = self._clock.monotonic()
        while True:
            try:
                return work.attempt()
            except (Refused, ProtocolViolation):
                raise
            except Damaged:
                damaged += 1
                if damaged >= _DAMAGED_MAX:
                    raise
            except WireError:
                if self._clock.monotonic() - since > self._persistence.limit_s:
                    raise
            if work.reached > reached:
                reached, wait_s = work.reached, self._persistence.first_s
                since = self._clock.monotonic()
            # Jitter, so that many that were cut together do not come back together.
            self._clock.sleep(wait_s * self._rng.uniform(0.5, 1.0))
            wait_s = min(2 * wait_s, self._persistence.most_s)

    def connect(self) -> Connection:
        """Dial."""
        target = self._target
        stall_s = self._persistence.stall_s
        connection = Connection(target.address, target.context, target.name, stall_s)
        try:
            connection.connect()
        except OSError as error:
            connection.close()
            calling.fail(error, self._where)
        return connection

    def begin(self, connection: Connection, method: str, headers: dict[str, str]) -> None:
        """Send the head of a request."""
        connection.putrequest(
            method, f"{stream_serving.PATH}{self._ticket.stream}", skip_accept_encoding=True
        )
        connection.putheader("Authorization", f"Bearer {self._ticket.secret}")
        for name, value in headers.items():
            connection.putheader(name, value)
        connection.endheaders()

    def fail(self, error: Exception) -> NoReturn:
        """Raise what went wrong with a connection."""
        calling.fail(error, self._where)


class _Sending:
    """A stream that is sent.

    Attributes:
        reached: how much the other side has durably, as far as is known.
    """

    def __init__(self, client: StreamClient, source: Source) -> None:
        self.reached = 0
        self._client = client
        self._source = source
        self._running = Running()
        self._buffer = memoryview(bytearray(RECORD_BYTES_MAX))

    def attempt(self) -> bytes:
        """Ask where the other side is, and send the rest."""
        connection = self._client.connect()
        try:
            self._client.begin(connection, "GET", {})
            response = connection.getresponse()
            body = response.read(calling.ANSWER_BYTES_MAX)
        except (OSError, http.client.HTTPException) as error:
            self._client.fail(error)
        finally:
            connection.close()
        if response.status != http.client.OK:
            _refuse(response.status, body)
        return self._done(response) or self._from(_number(response, stream_serving.DURABLE))

    def _done(self, response: http.client.HTTPResponse) -> bytes | None:
        finished = response.headers.get(stream_serving.FINISHED)
        if finished is None:
            return None
        self._go_to(self._source.size)
        if finished != self._running.digest().hex():
            raise Refused("(the other side has other content under this ticket)")
        return self._running.digest()

    def _from(self, durable: int) -> bytes:
        self.reached = durable
        self._go_to(durable)
        connection = self._client.connect()
        try:
            return self._put(connection, durable)
        except (OSError, http.client.HTTPException) as error:
            self._client.fail(error)
        finally:
            connection.close()

    def _put(self, connection: Connection, offset: int) -> bytes:
        size = self._source.size
        self._client.begin(
            connection,
            "PUT",
            {
                stream_serving.OFFSET: str(offset),
                stream_serving.SIZE: str(size),
                stream_serving.DIGEST: self._running.digest().hex(),
                "Content-Length": str(stream_records.wire_bytes(size - offset)),
                "Expect": "100-continue",
            },
        )
        _wait_for_continue(connection.sock)
        while True:
            record = stream_serving.fill(self._source, self._running, self._buffer)
            connection.sock.sendall(record)
            if len(record) == HEADER.size:
                break
        response = connection.getresponse()
        body = response.read(calling.ANSWER_BYTES_MAX)
        if response.status != http.client.OK:
            _refuse(response.status, body)
        digest = self._done(response)
        if digest is None:
            raise ProtocolViolation("(the other side has not finished)")
        return digest

    def _go_to(self, length: int) -> None:
        if length > self._source.size:
            raise Refused("(the other side has more than there is)")
        if self._running.length > length and not self._running.go_back(length):
            self._running.restart()
        while self._running.length < length:
            count = min(PIECE_BYTES_MAX, length - self._running.length)
            piece = self._buffer[:count]
            self._source.read_into(self._running.length, piece)
            self._running.add(piece)


class _Fetching:
    """A stream that is fetched.

    Attributes:
        reached: how much is in the sink.
    """

    def __init__(self, client: StreamClient, sink: Sink) -> None:
        self.reached = 0
        self._client = client
        self._sink = sink
        self._running = Running()
        self._known = False
        self._buffer = memoryview(bytearray(PIECE_BYTES_MAX))

    def attempt(self) -> bytes:
        """Fetch what is missing."""
        durable = self._sink.durable()
        if not self._known or durable != self._running.length:
            self._running.restart(self._sink.reread(durable))
            self._known = True
        connection = self._client.connect()
        try:
            size = self._get(connection)
        except (OSError, http.client.HTTPException) as error:
            self._client.fail(error)
        finally:
            connection.close()
        digest = self._running.digest()
        if self._running.length != size:
            raise ProtocolViolation("(the stream is shorter than it said)")
        self._sink.finish(digest)
        self._thank()
        return digest

    def _get(self, connection: Connection) -> int:
        self._client.begin(
            connection,
            "GET",
            {
                stream_serving.OFFSET: str(self._running.length),
                stream_serving.DIGEST: self._running.digest().hex(),
            },
        )
        response = connection.getresponse()
        if response.status == http.client.CONFLICT:
            self._sink.restart()
            self._running.restart()
            raise WireError("(what is here is not what the other side has)")
        if response.status != http.client.OK:
            _refuse(response.status, response.read(calling.ANSWER_BYTES_MAX))
        size = _number(response, stream_serving.SIZE)
        header = memoryview(bytearray(HEADER.size))
        while True:
            _read_into(response, header)
            length, digest = stream_records.read_header(header)
            if self._running.length + length > size:
                raise ProtocolViolation("(the stream is longer than it said)")
            piece = self._buffer[:length]
            _read_into(response, piece)
            offset = self._running.length
            self._running.add_checked(piece, digest)
            if not length:
                return size
            self._sink.write(offset, piece)
            self.reached = self._running.length

    def _thank(self) -> None:
        """Say that everything is here; if that is lost, the other side forgets it in time."""
        try:
            connection = self._client.connect()
            try:
                self._client.begin(connection, "DELETE", {})
                connection.getresponse().read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException, WireError):
            return


def _wait_for_continue(connection: socket.socket) -> None:
    expected = stream_serving.CONTINUE
    # The other side waits for us now: what comes is this, or a response and nothing else.
    found = connection.recv(len(expected))
    while found and len(found) < len(expected):
        found += connection.recv(len(expected) - len(found))
    if found != expected:
        # Why, is told in answer to the next question.
        raise WireError("(the other side does not want it now)")


def _read_into(response: http.client.HTTPResponse, buffer: memoryview) -> None:
    filled = 0
    while filled < len(buffer):
        count = response.readinto(buffer[filled:])
        if not count:
            raise ConnectionResetError("the line was cut")
        filled += count


def _number(response: http.client.HTTPResponse, name: str) -> int:
    text = response.headers.get(name, "")
    if not text.isdecimal() or len(text) > 18 or int(text) > SIZE_MAX:
        raise ProtocolViolation(f"({name} is missing in the response)")
    return int(text)


def _refuse(status: int, body: bytes) -> NoReturn:
    try:
        document = json.loads(body)
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {}
    if document.get("code") == Damaged.code:
        raise Damaged("(a piece of a stream arrived damaged)")
    calling.raise_refusal(document, status)
