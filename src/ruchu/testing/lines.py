"""A line between two programs that a test can cut, slow down, and make swallow what is sent."""

import contextlib
import socket
import struct
import threading
from typing import Final, Self

from ruchu.clock import SYSTEM

_READ_BYTES: Final = 64 << 10
# Closing with this says "reset" to the other side at once, as a router does that knows nothing.
_RESET: Final = struct.pack("ii", 1, 0)


class Line:
    """Forwards TCP connections from `port` to a target. A context manager.

    Attributes:
        port: on 127.0.0.1.
        carried: bytes that went through, in both directions.
        delay_s: how long every piece waits before it goes on.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.carried = 0
        self.delay_s = 0.0
        self.accepted = 0
        self._target = target
        self._lock = threading.Lock()
        self._pairs: list[tuple[socket.socket, socket.socket]] = []
        self._up = True
        self._cut_at: int | None = None
        self._damage_at: int | None = None
        self._flows = threading.Event()
        self._flows.set()
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listening.getsockname()[1]
        self._threads = [threading.Thread(target=self._accept, daemon=True)]

    def __enter__(self) -> Self:
        self._threads[0].start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._listening.shutdown(socket.SHUT_RDWR)
        self._listening.close()
        self.cut()
        for thread in list(self._threads):
            thread.join()

    def cut(self) -> None:
        """Reset every connection, and refuse new ones until `mend`."""
        with self._lock:
            self._up = False
            pairs, self._pairs = self._pairs, []
        for each in [each for pair in pairs for each in pair]:
            _reset(each)
        self._flows.set()

    def mend(self) -> None:
        """Carry again."""
        self._flows.set()
        self._up = True

    def cut_after(self, count: int) -> None:
        """Reset every connection once so many more bytes went through; new ones are carried."""
        self._cut_at = self.carried + count

    def damage_after(self, count: int) -> None:
        """Change a byte once so many more bytes went through."""
        self._damage_at = self.carried + count

    def swallow(self) -> None:
        """Keep every connection, and carry nothing, until `mend` or `cut`."""
        self._flows.clear()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            if not self._up:
                _reset(near)
                near.close()
                continue
            try:
                far = socket.create_connection(self._target)
            except OSError:
                near.close()
                continue
            self.accepted += 1
            with self._lock:
                self._pairs.append((near, far))
            thread = threading.Thread(target=self._connect, args=(near, far), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _connect(self, near: socket.socket, far: socket.socket) -> None:
        back = threading.Thread(target=self._carry, args=(far, near), daemon=True)
        back.start()
        self._carry(near, far)
        back.join()
        near.close()
        far.close()

    def _carry(self, source: socket.socket, target: socket.socket) -> None:
        try:
            while piece := source.recv(_READ_BYTES):
                if self.delay_s:
                    SYSTEM.sleep(self.delay_s)
                self._flows.wait()
                target.sendall(self._changed(piece))
                if self._is_to_cut(len(piece)):
                    return
            target.shutdown(socket.SHUT_WR)
        except OSError:
            _reset(source)
            _reset(target)

    def _changed(self, piece: bytes) -> bytes:
        with self._lock:
            if self._damage_at is None or self.carried + len(piece) <= self._damage_at:
                return piece
            self._damage_at = None
        return piece[:-1] + bytes([piece[-1] ^ 1])

    def _is_to_cut(self, count: int) -> bool:
        with self._lock:
            self.carried += count
            if self._cut_at is None or self.carried < self._cut_at:
                return False
            self._cut_at = None
        self.cut()
        self._up = True
        return True


def _reset(connection: socket.socket) -> None:
    # Shutting down wakes a thread that waits in it, which closing alone does not.
    with contextlib.suppress(OSError):
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
        connection.shutdown(socket.SHUT_RDWR)
