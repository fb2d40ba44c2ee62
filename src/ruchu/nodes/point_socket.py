"""The socket between a node and the process that has a point open: a line each way.

It lies in a folder of this user only, and the kernel tells who calls.
"""

import contextlib
import json
import os
import socket
import struct
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from ruchu.errors import NodeFailed

# A list of keys of long paths; and a part of a file in base64, far below.
QUESTION_BYTES_MAX = 8 << 20
ANSWER_BYTES_MAX = 8 << 20
# A search and some downloads at the same time; who comes later waits.
CALLS_MAX = 16
_BACKLOG = 64
_CALL_LIMIT_S = 10.0
_PEER = struct.Struct("3i")

Document = dict[str, Any]
Answering = Callable[[Document], Document]


class PointServer:
    """Answers questions, each in a thread. A context manager."""

    def __init__(self, path: Path, answer: Answering) -> None:
        self._path = path
        self._answer = answer
        self._places = threading.BoundedSemaphore(CALLS_MAX)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        # Who sees the name can connect: it gets it when that is so.
        waiting = path.with_suffix(".new")
        self._socket.bind(os.fspath(waiting))
        self._socket.listen(_BACKLOG)
        waiting.rename(path)
        self._thread = threading.Thread(target=self._run, name="ruchu-point", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self._path.unlink(missing_ok=True)

    def _run(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            self._places.acquire()
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        try:
            with connection, contextlib.suppress(OSError, ValueError):
                connection.settimeout(_CALL_LIMIT_S)
                peer = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
                if _PEER.unpack(peer)[1] not in {0, os.getuid()}:
                    return
                with connection.makefile("rb") as file:
                    question = json.loads(file.readline(QUESTION_BYTES_MAX))
                connection.sendall(json.dumps(self._answer(question)).encode() + b"\n")
        finally:
            self._places.release()


def ask(path: Path, question: Document, limit_s: float) -> Document:
    """Ask a process that has a point open; return its answer.

    Raises:
        NodeFailed: it died, or does not answer.
    """
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(limit_s)
            connection.connect(os.fspath(path))
            connection.sendall(json.dumps(question).encode() + b"\n")
            with connection.makefile("rb") as file:
                answer = json.loads(file.readline(ANSWER_BYTES_MAX))
    except (OSError, ValueError):
        raise NodeFailed("(the process that has the point open died, or is stuck)") from None
    if not isinstance(answer, dict):
        raise NodeFailed("(what it answers is no document)")
    return answer
