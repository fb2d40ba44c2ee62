"""The control socket of an export: asked how it is, told to end, by whoever may open it.

One request and one answer a connection, each a line of JSON, over a unix socket that belongs to
the user who runs the export (0600, and the kernel tells who calls).
"""

import contextlib
import json
import os
import socket
import struct
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Self

from ruchu.errors import ExportError, RuchuError

Handler = Callable[[dict[str, Any]], dict[str, Any]]
# A list of extents of a large cache is the longest answer: 64 bytes each.
LINE_BYTES_MAX = 64 << 20
REQUEST_BYTES_MAX = 1 << 16
ANSWER_LIMIT_S = 60.0
CALL_LIMIT_S = 10.0
_BACKLOG = 16
_PEER = struct.Struct("3i")


class ControlServer:
    """Answers on a control socket, one caller after the other. A context manager."""

    def __init__(self, path: Path, handlers: Mapping[str, Handler]) -> None:
        self.path = path
        self._handlers = handlers
        self._closed = False
        remove_stale(path)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
        try:
            previous = os.umask(0o177)
            try:
                self._socket.bind(os.fspath(path))
            finally:
                os.umask(previous)
            self._socket.listen(_BACKLOG)
        except OSError as error:
            self._socket.close()
            raise ExportError(f"({path}: {error.strerror or error})") from None
        self._thread = threading.Thread(target=self._run, name="ruchu-control", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._closed = True
        # Wakes the thread that waits for a caller.
        with contextlib.suppress(OSError):
            self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        self.path.unlink(missing_ok=True)

    def _run(self) -> None:
        while not self._closed:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            with connection, contextlib.suppress(OSError):
                connection.settimeout(CALL_LIMIT_S)
                self._serve(connection)

    def _serve(self, connection: socket.socket) -> None:
        credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _PEER.size)
        if _PEER.unpack(credentials)[1] not in {0, os.getuid()}:
            return
        with connection.makefile("rb") as file:
            line = file.readline(REQUEST_BYTES_MAX)
        connection.sendall(json.dumps(self._answer(line)).encode() + b"\n")

    def _answer(self, line: bytes) -> dict[str, Any]:
        try:
            request = json.loads(line)
            handler = self._handlers[request["do"]]
        except (ValueError, KeyError, TypeError, RecursionError):
            return {"error": "this request is none"}
        try:
            return handler(request)
        except RuchuError as error:
            return {"error": str(error)}
        except Exception as error:  # noqa: BLE001 - the export must stay reachable for `stop`
            traceback.print_exc()
            return {"error": repr(error)}


def ask(path: Path, do: str, **arguments: Any) -> dict[str, Any]:
    """Ask an export something and return its answer.

    Raises:
        ExportError: it does not answer, or refuses.
    """
    request = json.dumps({"do": do, **arguments}).encode() + b"\n"
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
            connection.settimeout(ANSWER_LIMIT_S)
            connection.connect(os.fspath(path))
            connection.sendall(request)
            with connection.makefile("rb") as file:
                line = file.readline(LINE_BYTES_MAX)
    except OSError as error:
        raise ExportError(f"({path}: {error.strerror or error})") from None
    try:
        answer = json.loads(line)
    except ValueError:
        raise ExportError(f"({path}: its answer was cut off)") from None
    if not isinstance(answer, dict) or "error" in answer:
        raise ExportError(f"({answer.get('error') if isinstance(answer, dict) else answer})")
    return answer


def is_answering(path: Path) -> bool:
    """Tell whether somebody listens on a socket."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        try:
            connection.settimeout(CALL_LIMIT_S)
            connection.connect(os.fspath(path))
        except OSError:
            return False
    return True


def remove_stale(path: Path) -> None:
    """Remove the socket of a dead export.

    Raises:
        ExportError: something else is there, or somebody listens.
    """
    if not path.is_symlink() and not path.exists():
        return
    if not path.is_socket():
        raise ExportError(f"({path} is there, and is no socket)")
    if is_answering(path):
        raise ExportError(f"({path}: another export answers there)")
    path.unlink(missing_ok=True)
