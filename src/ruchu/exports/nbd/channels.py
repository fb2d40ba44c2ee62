"""The bytes between server and client: a socket in the clear, or with TLS over it.

One thread receives; any thread sends, one message at a time. A client that stops in the middle of a
message, or takes nothing from us, is given up after `STALL_S`; one that is idle between two
messages is not.
"""

import contextlib
import socket
import ssl
import struct
import threading
from typing import Final, Protocol

# A host that was suspended or a network that rebuilds its routes is back within it.
STALL_S: Final = 60
_TLS_PIECE: Final = 256 * 1024
# The kernel takes at most 1024 parts in one call (UIO_MAXIOV).
_PARTS_MAX: Final = 1024

Part = bytes | bytearray | memoryview


class Channel(Protocol):
    """What a connection is served over."""

    def receive(self, view: memoryview) -> bool:
        """Fill the view; return False if the client left before its first byte.

        Raises:
            OSError: it left, or stalled, in the middle.
        """

    def receive_some(self, view: memoryview, least: int, *, begun: bool) -> int:
        """Receive at least so many bytes, and what else has come; return how many.

        Args:
            view: where they go; it has room for `least` and more.
            least: fewer are not returned, but for 0: the client left between two messages.
            begun: the beginning of a message was received before.

        Raises:
            OSError: it left, or stalled, in the middle of a message.
        """

    def send_all(self, parts: "list[Part]") -> None:
        """Send parts of one or several messages, together.

        Raises:
            OSError: the client is gone or takes nothing; nothing can be sent any more.
        """

    def send_at_once(self, head: bytes) -> bool:
        """Send a short message if that waits for nothing; tell whether it was sent."""

    def send(self, head: bytes, data: Part = b"") -> None:
        """Send both as one message.

        Raises:
            OSError: the client is gone or takes nothing; nothing can be sent any more.
        """

    def end_receiving(self) -> None:
        """Let `receive` find that the client left; sending goes on."""

    def abort(self) -> None:
        """Break the connection; whoever sends or receives gets an error."""

    def close(self) -> None:
        """Give the socket back; nobody uses it any more."""


class _SocketChannel:
    def __init__(self, connected: socket.socket, stall_s: float) -> None:
        self._socket = connected
        self._sending = threading.Lock()
        # Limits in the kernel: they cost no system call, as a timeout of the socket object would.
        limit = struct.pack("ll", int(stall_s), int(stall_s % 1 * 1_000_000))
        connected.setblocking(True)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_RCVTIMEO, limit)
        connected.setsockopt(socket.SOL_SOCKET, socket.SO_SNDTIMEO, limit)
        if connected.family != socket.AF_UNIX:
            # Replies are small and awaited: never hold one back. A peer that lost power is found.
            connected.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            connected.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)

    def end_receiving(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RD)

    def abort(self) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self._socket.close()


class PlainChannel(_SocketChannel):
    """A socket in the clear."""

    def __init__(self, connected: socket.socket, stall_s: float = STALL_S) -> None:
        super().__init__(connected, stall_s)
        self._stall_s = stall_s
        self._receive_into = connected.recv_into
        self._sendmsg = connected.sendmsg

    def receive(self, view: memoryview) -> bool:
        """Fill the view; return False if the client left before its first byte."""
        return bool(self.receive_some(view, len(view), begun=False))

    def receive_some(self, view: memoryview, least: int, *, begun: bool) -> int:
        """Receive at least so many bytes, and what else has come; return how many."""
        flags = socket.MSG_WAITALL if least == len(view) else 0
        done = 0
        while done < least:
            try:
                count = self._receive_into(view[done:] if done else view, 0, flags)
            except BlockingIOError:
                if done or begun:
                    raise
                continue
            if not count:
                return _left(done, begun=begun)
            done += count
        return done

    def send_all(self, parts: list[Part]) -> None:
        """Send parts of one or several messages, together."""
        with self._sending:
            try:
                for first in range(0, len(parts), _PARTS_MAX):
                    some = parts[first : first + _PARTS_MAX]
                    sent = self._sendmsg(some)
                    if sent != sum(map(len, some)):
                        self._socket.sendall(memoryview(b"".join(some))[sent:])
            except OSError:
                # Half a message may be out; nothing that follows could be understood.
                self.abort()
                raise

    def send_at_once(self, head: bytes) -> bool:
        """Send a short message if that waits for nothing; tell whether it was sent."""
        if not self._sending.acquire(blocking=False):
            return False
        try:
            sent = self._socket.send(head, socket.MSG_DONTWAIT)
            if sent != len(head):
                self._send_rest(head, b"", sent)
        except OSError:
            # Full, or gone: whoever sends it then finds out.
            return False
        finally:
            self._sending.release()
        return True

    def send(self, head: bytes, data: Part = b"") -> None:
        """Send both as one message."""
        with self._sending:
            sent = self._sendmsg((head, data))
            if sent != len(head) + len(data):
                self._send_rest(head, data, sent)

    def _send_rest(self, head: bytes, data: Part, sent: int) -> None:
        try:
            if sent < len(head):
                self._socket.sendall(head[sent:])
                sent = len(head)
            rest = memoryview(data)[sent - len(head) :]
            while rest:
                rest = rest[self._socket.send(rest) :]
        except OSError:
            # Half a message is out; nothing that follows could be understood.
            self.abort()
            raise

    def upgraded(self, context: ssl.SSLContext) -> "TlsChannel":
        """Do the TLS handshake and return the channel over it; this one is of no use then."""
        return TlsChannel(self._socket, context, self._stall_s)


class TlsChannel(_SocketChannel):
    """TLS over a socket.

    A TLS session may not be read and written by two threads at a time, so the session works on
    buffers, under a lock that is never held while waiting for the socket.
    """

    def __init__(
        self, connected: socket.socket, context: ssl.SSLContext, stall_s: float = STALL_S
    ) -> None:
        super().__init__(connected, stall_s)
        self._incoming, self._outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self._session = context.wrap_bio(self._incoming, self._outgoing, server_side=True)
        self._state = threading.Lock()
        self._handshake()

    def _handshake(self) -> None:
        while True:
            try:
                self._session.do_handshake()
            except ssl.SSLWantReadError:
                self._socket.sendall(self._outgoing.read())
                if not self._take():
                    raise ConnectionResetError("the client left during the TLS handshake") from None
            except ssl.SSLError:
                # The alert says to the client what is wrong, such as a missing certificate.
                with contextlib.suppress(OSError):
                    self._socket.sendall(self._outgoing.read())
                raise
            else:
                self._socket.sendall(self._outgoing.read())
                return

    def receive(self, view: memoryview) -> bool:
        """Fill the view; return False if the client left before its first byte."""
        return bool(self.receive_some(view, len(view), begun=False))

    def receive_some(self, view: memoryview, least: int, *, begun: bool) -> int:
        """Receive at least so many bytes, and what else has come; return how many."""
        room, done = len(view), 0
        while done < least:
            try:
                with self._state:
                    count = self._session.read(room - done, view[done:])
            except ssl.SSLWantReadError:
                try:
                    if not self._take():
                        return _left(done, begun=begun)
                except BlockingIOError:
                    if done or begun:
                        raise
                continue
            except (ssl.SSLZeroReturnError, ssl.SSLEOFError):
                return _left(done, begun=begun)
            if not count:
                return _left(done, begun=begun)
            done += int(count)
        return done

    def send_all(self, parts: list[Part]) -> None:
        """Send parts of one or several messages, together."""
        self.send(b"".join(parts))

    def send_at_once(self, head: bytes) -> bool:
        """Do nothing: an encrypted message cannot be taken back if it has to wait."""
        del head
        return False

    def _take(self) -> bool:
        data = self._socket.recv(_TLS_PIECE)
        with self._state:
            self._incoming.write(data)
        return bool(data)

    def send(self, head: bytes, data: Part = b"") -> None:
        """Send both as one message."""
        with self._sending:
            try:
                self._encrypt_and_send(memoryview(head))
                rest = memoryview(data)
                for start in range(0, len(rest), _TLS_PIECE):
                    self._encrypt_and_send(rest[start : start + _TLS_PIECE])
            except OSError:
                self.abort()
                raise

    def _encrypt_and_send(self, data: memoryview) -> None:
        while data:
            with self._state:
                count = self._session.write(data)
                encrypted = self._outgoing.read()
            self._socket.sendall(encrypted)
            data = data[count:]


def _left(done: int, *, begun: bool) -> int:
    if done or begun:
        raise ConnectionResetError("the client left in the middle of a message")
    return 0
