"""The HTTP of bulk streams over a blocking TLS socket, for both ends; and content through it.

A dialler asks for it in the TLS handshake (ALPN `ruchu-stream/1`), so that the listener gives the
connection to a thread: nothing costs less for bulk, and the loop with the channels is left alone.
What is said is plain HTTP/1.1: one request, with "Expect: 100-continue" before a body.
"""

import re
import socket
import ssl
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

from ruchu.errors import ProtocolViolation
from ruchu.wire import stream_records
from ruchu.wire.stream_records import HEADER, PIECE_BYTES_MAX, RECORD_BYTES_MAX, Running
from ruchu.wire.streams import SIZE_MAX, Source

PATH: Final = "/streams/"
OFFSET: Final = "Ruchu-Offset"
SIZE: Final = "Ruchu-Size"
DIGEST: Final = "Ruchu-Digest"
DURABLE: Final = "Ruchu-Durable"
FINISHED: Final = "Ruchu-Finished"

HEAD_BYTES_MAX: Final = 4 << 10
# What says why something is refused.
BODY_BYTES_MAX: Final = 4 << 10
_FINISH_LIMIT_S: Final = 2.0
# Some buffers of the kernel, of 16 KiB a read.
_FINISH_READS: Final = 1024
_END: Final = b"\r\n\r\n"
_FIELD: Final = re.compile(r"([A-Za-z0-9-]+): ?([\x20-\x7e]*)")

Write = Callable[[int, memoryview], None]
"""Takes a piece at an offset; the buffer is used again afterwards."""


@dataclass(frozen=True, slots=True)
class Head:
    """Start line and fields of a request or a response; names of fields in small letters."""

    start: str
    fields: Mapping[str, str]

    def get(self, name: str) -> str:
        """Return a field, or an empty text."""
        return self.fields.get(name.lower(), "")

    def number(self, name: str) -> int:
        """Return a field that is a whole number.

        Raises:
            ProtocolViolation: it is missing, or none.
        """
        text = self.get(name)
        if not re.fullmatch(r"[0-9]{1,18}", text) or int(text) > SIZE_MAX:
            raise ProtocolViolation(f"({name} is missing, or no number)")
        return int(text)


class StreamSocket:
    """A TLS socket that speaks heads and content. For one thread; `abort` for any."""

    def __init__(self, tls: ssl.SSLSocket) -> None:
        self.tls = tls
        self._rest = b""

    def abort(self) -> None:
        """Cut the connection; a thread that waits in it gets an error."""
        try:
            # Of the socket, and not of TLS: that one must not be touched by another thread.
            socket.socket.shutdown(self.tls, socket.SHUT_RDWR)
        except OSError:
            return

    def finish(self) -> None:
        """Say that nothing follows, and let what was written arrive before the socket closes."""
        try:
            self.tls.settimeout(_FINISH_LIMIT_S)
            socket.socket.shutdown(self.tls, socket.SHUT_WR)
            # What still comes is not wanted; closing at once would take back what we said.
            for _ in range(_FINISH_READS):
                if not self.tls.recv(PIECE_BYTES_MAX):
                    return
        except OSError:
            return

    def read_head(self) -> Head:
        """Read a head.

        Raises:
            ProtocolViolation: it is none, or too long.
            OSError: the line was cut.
        """
        while _END not in self._rest:
            if len(self._rest) >= HEAD_BYTES_MAX:
                raise ProtocolViolation("(the head of a request is too long)")
            self._rest += self._some(HEAD_BYTES_MAX - len(self._rest))
        head, _, self._rest = self._rest.partition(_END)
        start, *lines = head.decode("latin-1").split("\r\n")
        fields = {}
        for line in lines:
            field = _FIELD.fullmatch(line)
            if field is None:
                raise ProtocolViolation("(a field of a head is none)")
            fields[field[1].lower()] = field[2].strip()
        return Head(start, fields)

    def write_head(self, start: str, fields: Mapping[str, str | int], body: bytes = b"") -> None:
        """Write a head, and a short body.

        Raises:
            OSError: the line was cut.
        """
        lines = [start, *(f"{name}: {value}" for name, value in fields.items())]
        self.tls.sendall("\r\n".join(lines).encode("latin-1") + _END + body)

    def read_body(self, head: Head) -> bytes:
        """Read the short body of a response.

        Raises:
            ProtocolViolation: it is long.
            OSError: the line was cut.
        """
        length = head.number("Content-Length")
        if length > BODY_BYTES_MAX:
            raise ProtocolViolation("(the body of a response is too long)")
        body = bytearray(length)
        self.fill(memoryview(body))
        return bytes(body)

    def fill(self, view: memoryview) -> None:
        """Read until a buffer is full.

        Raises:
            OSError: the line was cut.
        """
        filled = min(len(self._rest), len(view))
        view[:filled], self._rest = self._rest[:filled], self._rest[filled:]
        while filled < len(view):
            count = self.tls.recv_into(view[filled:])
            if not count:
                raise ConnectionResetError("the line was cut")
            filled += count

    def _some(self, count: int) -> bytes:
        found = self.tls.recv(count)
        if not found:
            raise ConnectionResetError("the line was cut")
        return found

    # ------------------------------------------------------------------------------- content

    def send_content(self, source: Source, running: Running, stall_s: float) -> None:
        """Send all pieces from where `running` is, and the last record.

        Raises:
            OSError: the line was cut, or nothing was taken for so long.
            RuchuError: the source failed.
        """
        # Without a limit of Python's, which would cost a system call for each 16 KiB: it is the
        # kernel that gives up.
        limit_s = self.tls.gettimeout()
        self.tls.settimeout(None)
        self.tls.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, round(1000 * stall_s))
        buffer = memoryview(bytearray(RECORD_BYTES_MAX))
        while True:
            length = min(PIECE_BYTES_MAX, source.size - running.length)
            piece = buffer[HEADER.size : HEADER.size + length]
            if length:
                source.read_into(running.length, piece)
            HEADER.pack_into(buffer, 0, length, running.add(piece) if length else running.digest())
            self.tls.sendall(buffer[: HEADER.size + length])
            if not length:
                self.tls.settimeout(limit_s)
                return

    def receive_content(self, write: Write, running: Running, size: int) -> bytes:
        """Receive all pieces from where `running` is; return the digest of all content.

        Raises:
            OSError: the line was cut, or nothing came for too long.
            ProtocolViolation: it is not as long as it was said to be.
            Damaged: a piece is not what was sent; it was not written.
            RuchuError: `write` failed.
        """
        buffer = memoryview(bytearray(RECORD_BYTES_MAX))
        while True:
            expected = min(PIECE_BYTES_MAX, size - running.length)
            record = buffer[: HEADER.size + expected]
            self.fill(record)
            length, digest = stream_records.read_header(record)
            if length != expected:
                raise ProtocolViolation("(a piece of a stream is not as long as it should be)")
            piece, offset = record[HEADER.size :], running.length
            running.add_checked(piece, digest)
            if not length:
                return digest
            write(offset, piece)
