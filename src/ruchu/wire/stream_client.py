"""The dialling end of bulk streams: send to, or fetch from, a server or another node.

Called by a thread, which it keeps until the end: blocking sockets are what costs least for bulk.
After a cut line it dials again and goes on where the other side is.
"""

import contextlib
import json
import random
import re
import ssl
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Final

from ruchu.clock import Clock
from ruchu.errors import Damaged, ProtocolViolation, Refused, WireError
from ruchu.wire import calling, stream_records, stream_serving, stream_socket
from ruchu.wire.calling import Address
from ruchu.wire.stream_records import PIECE_BYTES_MAX, Running
from ruchu.wire.stream_socket import Head, StreamSocket
from ruchu.wire.streams import Sink, Source, Ticket

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
        context: with the certificate of this node, for streams (`contexts.for_streams`).
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
        self.stall_s = self._persistence.stall_s

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

    @contextlib.contextmanager
    def connection(self) -> Iterator[StreamSocket]:
        """Dial. What goes wrong inside is raised as an error of ours.

        Raises:
            WireError: the line was cut, or nobody answers.
            Refused: it is somebody else.
        """
        try:
            with self._dial() as tls:
                yield StreamSocket(tls)
        except OSError as error:
            calling.fail(error, str(self._target.address))

    def _dial(self) -> ssl.SSLSocket:
        address, name = self._target.address, self._target.name
        plain = calling.dial(address, self.stall_s)
        try:
            return self._target.context.wrap_socket(plain, server_hostname=name)
        except BaseException:
            plain.close()
            raise

    def ask(self, connection: StreamSocket, method: str, fields: Mapping[str, str | int]) -> None:
        """Send the head of a request."""
        start = f"{method} {stream_socket.PATH}{self._ticket.stream} HTTP/1.1"
        host = {"Host": self._target.name, "Authorization": f"Bearer {self._ticket.secret}"}
        connection.write_head(start, {**host, **fields})


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
        self._buffer = memoryview(bytearray(PIECE_BYTES_MAX))

    def attempt(self) -> bytes:
        """Ask where the other side is, and send the rest."""
        with self._client.connection() as connection:
            self._client.ask(connection, "GET", {})
            head = connection.read_head()
            _check(connection, head)
        digest = self._done(head)
        if digest is not None:
            return digest
        self.reached = head.number(stream_socket.DURABLE)
        self._go_to(self.reached)
        with self._client.connection() as connection:
            return self._put(connection, self.reached)

    def _done(self, head: Head) -> bytes | None:
        finished = head.get(stream_socket.FINISHED)
        if not finished:
            return None
        self._go_to(self._source.size)
        if finished != self._running.digest().hex():
            raise Refused("(the other side has other content under this ticket)")
        return self._running.digest()

    def _put(self, connection: StreamSocket, offset: int) -> bytes:
        size = self._source.size
        fields: dict[str, str | int] = {
            stream_socket.OFFSET: offset,
            stream_socket.SIZE: size,
            stream_socket.DIGEST: self._running.digest().hex(),
            "Content-Length": stream_records.wire_bytes(size - offset),
            "Expect": "100-continue",
        }
        self._client.ask(connection, "PUT", fields)
        head = connection.read_head()
        if head.start != stream_serving.CONTINUE:
            _check(connection, head)
            raise ProtocolViolation("(the other side does not wait for content)")
        connection.send_content(self._source, self._running, self._client.stall_s)
        head = connection.read_head()
        _check(connection, head)
        digest = self._done(head)
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

    def attempt(self) -> bytes:
        """Fetch what is missing."""
        durable = self._sink.durable()
        if not self._known or durable != self._running.length:
            self._running.restart(self._sink.reread(durable))
            self._known = True
        with self._client.connection() as connection:
            digest = self._get(connection)
        self._sink.finish(digest)
        self._thank()
        return digest

    def _get(self, connection: StreamSocket) -> bytes:
        fields: dict[str, str | int] = {
            stream_socket.OFFSET: self._running.length,
            stream_socket.DIGEST: self._running.digest().hex(),
        }
        self._client.ask(connection, "GET", fields)
        head = connection.read_head()
        try:
            _check(connection, head)
        except _Elsewhere:
            self._sink.restart()
            self._running.restart()
            raise
        try:
            size = head.number(stream_socket.SIZE)
            return connection.receive_content(self._sink.write, self._running, size)
        finally:
            self.reached = self._running.length

    def _thank(self) -> None:
        """Say that everything is here. If that is lost, nobody but the other side's owner cares."""
        with contextlib.suppress(WireError), self._client.connection() as connection:
            self._client.ask(connection, "DELETE", {})
            connection.read_head()


class _Elsewhere(WireError):
    """The other side has other content so far; it is asked again."""

    code = "stream-elsewhere"


def _check(connection: StreamSocket, head: Head) -> None:
    """See that a response is a good one.

    Raises:
        Damaged: a piece arrived damaged.
        Refused: the other side does not want it.
        WireError: it may be otherwise later.
    """
    status = head.start.split(" ")[1] if head.start.startswith("HTTP/1.1 ") else ""
    if status == "200":
        return
    if status == "409":
        raise _Elsewhere
    if not re.fullmatch("[45][0-9]{2}", status):
        raise ProtocolViolation("(what comes back is no response)")
    try:
        document = json.loads(connection.read_body(head))
    except (ValueError, RecursionError):
        document = None
    if not isinstance(document, dict):
        document = {}
    if document.get("code") == Damaged.code:
        raise Damaged("(a piece of a stream arrived damaged)")
    calling.raise_refusal(document, int(status))
