"""Connections of the console port that take their time on purpose are closed.

Uvicorn ends a connection that stays silent between two requests. It waits without end for one
that never finishes its first line, its headers or its body; that is done here.
"""

import asyncio
import socket
import struct
from typing import Any

import h11
from starlette.types import ASGIApp, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

# A request without its body fits into a few packets; 4 MiB take this long on 64 KiB/s.
HEADERS_LIMIT_S = 10.0
BODY_LIMIT_S = 65.0
# A client that reads nothing of what it asked for.
WRITING_LIMIT_S = 60.0

ABORT = "ruchu.abort"
"""A key of a scope: what it names resets the connection. A browser takes a download that merely
ends too early for a whole one, whatever length was promised (Chromium and others say so)."""
_NO_LINGER = struct.pack("ii", 1, 0)


class PatientProtocol(H11Protocol):
    """HTTP/1.1 with a time limit on the arrival of every request."""

    headers_limit_s = HEADERS_LIMIT_S
    body_limit_s = BODY_LIMIT_S
    writing_limit_s = WRITING_LIMIT_S
    _deadline: asyncio.TimerHandle | None = None
    _stalled: asyncio.TimerHandle | None = None
    _awaited: Any = None

    def __init__(self, *arguments: Any, **more: Any) -> None:
        super().__init__(*arguments, **more)
        self.app = _Abortable(self.app, self)

    def abort(self) -> None:
        """Reset the connection: nothing of what waits is sent, and the other side sees an error."""
        found = self.transport.get_extra_info("socket")
        if found is not None and not self.transport.is_closing():
            found.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _NO_LINGER)
        self.transport.abort()

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to wait for the first request."""
        super().connection_made(transport)
        self._watch()

    def data_received(self, data: bytes) -> None:
        """Take in what came; it counts only if it completes something."""
        super().data_received(data)
        self._watch()

    def on_response_complete(self) -> None:
        """Wait for the next request: uvicorn for its first byte, we for the rest of it."""
        super().on_response_complete()
        self._watch()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        self._disarm()
        self._reads()
        super().connection_lost(exc)

    def pause_writing(self) -> None:
        """Wait for a client to read what fills the buffers."""
        super().pause_writing()
        if self._stalled is None:
            self._stalled = self.loop.call_later(self.writing_limit_s, self._give_up)

    def resume_writing(self) -> None:
        """Go on: it reads."""
        super().resume_writing()
        self._reads()

    def _reads(self) -> None:
        if self._stalled is not None:
            self._stalled.cancel()
            self._stalled = None

    def _watch(self) -> None:
        """Set the limit of what is awaited now; the same thing is not given more time."""
        state = self.conn.their_state
        if state is h11.IDLE:
            # Whether a request has begun: between two, uvicorn's own limit holds.
            fresh = self.cycle is None
            begun = fresh or bool(self.conn.trailing_data[0])
            awaited = ("headers", self.cycle) if begun else None
            limit_s = self.headers_limit_s
        else:
            awaited = ("body", self.cycle) if state is h11.SEND_BODY else None
            limit_s = self.body_limit_s
        if awaited == self._awaited:
            return
        self._disarm()
        self._awaited = awaited
        if awaited is not None:
            self._deadline = self.loop.call_later(limit_s, self._give_up)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _give_up(self) -> None:
        self._deadline = None
        if not self.transport.is_closing():
            self.transport.abort()


class _Abortable:
    """An application whose requests may reset their connection."""

    def __init__(self, app: ASGIApp, protocol: PatientProtocol) -> None:
        self._app = app
        self._protocol = protocol

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        scope[ABORT] = self._protocol.abort
        await self._app(scope, receive, send)
