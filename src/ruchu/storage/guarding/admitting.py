"""The guard's side of `admission`: which processes are Ruchu's.

The kernel says who is at the other end of the socket: process id, user, and a descriptor of the
process, which tells its end. A process is admitted if root runs it from the very interpreter that
the guard runs from. That keeps out every program that does not speak to the guard on purpose; a
program of root that does is told from Ruchu by nobody, and every admission is told.
"""

import contextlib
import os
import selectors
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path

from ruchu.storage.guarding import admission, processes
from ruchu.storage.guarding.processes import Program

# Far more than run on a host; a program that forks and asks again and again ends here.
ADMITTED_MAX = 1000
_BACKLOG = 64
_PEER_LIMIT_S = 2.0
_SO_PEERPIDFD = 77  # asm-generic/socket.h, Linux 6.5
_CREDENTIALS = struct.Struct("3i")
# Notices of what a process did may be read after its end.
_REMEMBERED_MAX = 1000


class Admitted:
    """The admitted processes. Safe in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._started: dict[int, int] = {}
        self._ended: dict[int, None] = {}

    def add(self, pid: int, started: int) -> bool:
        """Admit a process; False if there are too many."""
        with self._lock:
            if len(self._started) >= ADMITTED_MAX:
                return False
            self._ended.pop(pid, None)
            self._started[pid] = started
            return True

    def end(self, pid: int) -> None:
        """Take note that a process has ended."""
        with self._lock:
            if self._started.pop(pid, None) is not None:
                self._ended[pid] = None
                while len(self._ended) > _REMEMBERED_MAX:
                    del self._ended[next(iter(self._ended))]

    def has(self, pid: int) -> bool:
        """Tell whether a process that lives is admitted; another one with its number is not."""
        with self._lock:
            known = self._started.get(pid)
        return known is not None and processes.started(pid) == known

    def had(self, pid: int) -> bool:
        """Tell whether what a process did a moment ago was done by an admitted one."""
        with self._lock:
            return pid in self._started or pid in self._ended


Told = Callable[[Program, bool], None]
"""Is called with a program that asked, and whether it was admitted."""


class Reception:
    """Listens for processes, in a thread of its own, from `open` to `close`.

    Args:
        path: the socket; one that a dead guard left is replaced.
        admitted: where they are kept.
        told: is called from that thread.
        admit: is called before a process is told that it is admitted.
        dismiss: is called after the end of an admitted process.
    """

    def __init__(
        self,
        path: Path,
        admitted: Admitted,
        told: Told,
        admit: Callable[[int, int], None],
        dismiss: Callable[[int], None],
    ) -> None:
        self._path = path
        self._admitted = admitted
        self._told = told
        self._admit = admit
        self._dismiss = dismiss
        self._selector = selectors.DefaultSelector()
        self._wake, self._woken = os.pipe2(os.O_CLOEXEC)
        self._thread = threading.Thread(target=self._serve, name="admissions", daemon=True)

    def open(self) -> None:
        """Begin to listen.

        Raises:
            OSError: the socket cannot be made.
        """
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._path.parent.chmod(0o700)
        self._path.unlink(missing_ok=True)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        self._socket.bind(str(self._path))
        self._socket.listen(_BACKLOG)
        self._selector.register(self._socket, selectors.EVENT_READ)
        self._selector.register(self._wake, selectors.EVENT_READ)
        self._thread.start()

    def close(self) -> None:
        """Listen no more."""
        os.write(self._woken, b".")
        self._thread.join()
        self._path.unlink(missing_ok=True)
        self._socket.close()
        for key in list(self._selector.get_map().values()):
            if key.data is not None:
                os.close(key.fd)
        self._selector.close()
        os.close(self._wake)
        os.close(self._woken)

    def _serve(self) -> None:
        while True:
            for key, _ in self._selector.select():
                if key.fd == self._wake:
                    return
                if key.data is not None:
                    self._ended(key.fd, key.data)
                else:
                    # A peer that goes away in the middle is its own affair.
                    with contextlib.suppress(OSError):
                        self._receive()

    def _ended(self, descriptor: int, pid: int) -> None:
        self._selector.unregister(descriptor)
        os.close(descriptor)
        self._admitted.end(pid)
        self._dismiss(pid)

    def _receive(self) -> None:
        connection, _ = self._socket.accept()
        with connection:
            connection.settimeout(_PEER_LIMIT_S)
            if connection.recv(len(admission.REQUEST)) != admission.REQUEST:
                return
            raw = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
            pid, uid, _ = _CREDENTIALS.unpack(raw)
            connection.sendall(self._decide(connection, pid, uid))

    def _decide(self, connection: socket.socket, pid: int, uid: int) -> bytes:
        program = processes.look(pid)
        descriptor = _process_descriptor(connection, pid)
        mine = uid == os.geteuid() and program.started and processes.runs_same_file(pid)
        if not mine or not self._admitted.add(pid, program.started):
            os.close(descriptor)
            self._told(program, False)
            return b"refused\n"
        if descriptor not in self._selector.get_map():
            self._selector.register(descriptor, selectors.EVENT_READ, pid)
        self._admit(pid, program.started)
        self._told(program, True)
        return admission.ADMITTED


def _process_descriptor(connection: socket.socket, pid: int) -> int:
    """Return a descriptor that becomes readable when the process ends."""
    try:
        return connection.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError:
        # Before Linux 6.5. The peer still waits for our answer, so its number is its own.
        return os.pidfd_open(pid)
