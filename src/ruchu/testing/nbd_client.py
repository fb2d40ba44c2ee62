"""An NBD client that says what it is told to, right or wrong."""

import contextlib
import socket
import struct
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Self

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies

_TIMEOUT_S = 30


@dataclass(slots=True)
class Answer:
    """A whole reply.

    Attributes:
        error: 0, or the number.
        data: what was read, holes filled with zeros.
        holes: chunks that were holes.
        chunks: all chunks; 0 for a simple reply.
        status: descriptors (length, flags).
    """

    error: int = 0
    data: bytes = b""
    holes: int = 0
    chunks: int = 0
    status: list[tuple[int, int]] = field(default_factory=list)


class RawClient:
    """A connection to a server on a unix socket. A context manager."""

    def __init__(self, path: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX)
        self.socket.settimeout(_TIMEOUT_S)
        self.socket.connect(str(path))
        self._structured = False

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Hang up."""
        self.socket.close()

    def choose(self, name: str, *, structured: bool = True) -> None:
        """Do the handshake."""
        self._receive(messages.GREETING_SIZE)
        self.socket.sendall(struct.pack(">I", 3))
        if structured:
            self._option(messages.OPT_STRUCTURED_REPLY, b"")
            selected = messages.context_data(name, ("base:allocation",))
            self._option(messages.OPT_SET_META_CONTEXT, selected)
        self._option(messages.OPT_GO, messages.go_data(name))
        self._structured = structured

    def _option(self, number: int, data: bytes) -> None:
        self.socket.sendall(messages.option(number, data))
        kind = 0
        while kind != messages.REP_ACK:
            reply = messages.parse_option_reply(self._receive(20), number)
            self._receive(reply.length)
            kind = reply.type
            assert not kind & messages.REP_ERROR_BIT, kind

    def ask(
        self, command: int, cookie: int, start: int = 0, length: int = 0, flags: int = 0
    ) -> None:
        """Send a request; data may be sent after it."""
        header = (messages.REQUEST_MAGIC, flags, command, cookie, start, length)
        self.socket.sendall(replies.REQUEST.pack(*header))

    def call(
        self, command: int, start: int = 0, length: int = 0, flags: int = 0, data: bytes = b""
    ) -> Answer:
        """Send a request and return its reply; nothing else is in flight."""
        self.ask(command, 1, start, length, flags)
        self.socket.sendall(data)
        (answer,) = self.answers(1, {1: (start, length if command == 0 else 0)}).values()
        return answer

    def answers(
        self, count: int, reads: dict[int, tuple[int, int]] | None = None
    ) -> dict[int, Answer]:
        """Receive whole replies until there are `count`; return them by cookie, in order.

        Args:
            count: how many.
            reads: cookie → start and length of what was to be read.
        """
        found: dict[int, Answer] = {}
        done: dict[int, Answer] = {}
        while len(done) < count:
            magic = int.from_bytes(self._receive(4), "big")
            if magic == messages.SIMPLE_REPLY_MAGIC:
                error, cookie = messages.parse_simple_reply(self._receive(12))
                _, length = (reads or {}).get(cookie, (0, 0))
                done[cookie] = Answer(error, self._receive(0 if error else length))
                continue
            assert magic == messages.CHUNK_MAGIC, hex(magic)
            chunk = messages.parse_chunk(self._receive(messages.CHUNK_REST))
            answer = found.setdefault(chunk.cookie, Answer())
            self._chunk(chunk, answer, (reads or {}).get(chunk.cookie, (0, 0)))
            if chunk.flags & messages.CHUNK_DONE:
                done[chunk.cookie] = answer
        return done

    def _chunk(self, chunk: messages.Chunk, answer: Answer, read: tuple[int, int]) -> None:
        payload = self._receive(chunk.length)
        answer.chunks += 1
        if chunk.type & messages.CHUNK_ERROR_BIT:
            answer.error = int.from_bytes(payload[:4], "big")
        elif chunk.type == messages.CHUNK_STATUS:
            answer.status = messages.parse_status(payload)[1]
        elif chunk.type != messages.CHUNK_NONE:
            offset = int.from_bytes(payload[:8], "big") - read[0]
            data = payload[8:]
            if chunk.type == messages.CHUNK_HOLE:
                answer.holes += 1
                data = bytes(int.from_bytes(data, "big"))
            whole = bytearray(answer.data.ljust(read[1], b"?"))
            whole[offset : offset + len(data)] = data
            answer.data = bytes(whole)

    def ended(self) -> bool:
        """Wait until the server hangs up; what it says before is dropped."""
        with contextlib.suppress(ConnectionError):
            while self.socket.recv(65536):
                pass
        return True

    def _receive(self, count: int) -> bytes:
        data = bytearray()
        while len(data) < count:
            part = self.socket.recv(count - len(data))
            if not part:
                raise ConnectionResetError
            data += part
        return bytes(data)
