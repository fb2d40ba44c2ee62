"""Content on its way from a node to a browser: in parts, never as a whole, never on a disk.

The server asks the node for a part while the one before is being sent, and for no more than that:
a browser that reads slowly slows the node down. What breaks off never looks complete: a length
that was promised is not reached or the last chunk is missing, and the connection is reset, since
browsers would take what merely ends for all there is.
"""

import asyncio
import base64
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from fastapi import Response
from starlette.types import Receive, Scope, Send

from ruchu.api import patience, problems
from ruchu.clock import Clock
from ruchu.errors import NodeAway, NodeFailed, ProtocolViolation, RuchuError, TooMany

PART_BYTES = 1 << 20
"""As much as a node hands out at once."""
TRANSFERS_MAX = 16
"""At the same time; each takes a thread now and then, and about 5 MiB."""
TRANSFERS_EACH_MAX = 4
"""For one account, so that nobody keeps all others out."""
NAME_LENGTH_MAX = 180
"""Characters of a name: browsers add to it, and a file system takes 255 bytes."""

AWAY_LIMIT_S = 15.0
"""A line that was cut is dialled again within a second or two; a node that died comes no more."""
_AWAY_PAUSE_S = 0.5

Read = Callable[[int, int], dict[str, Any]]


class Counters:
    """The transfers of one server that are under way. Safe in several threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._by: Counter[str] = Counter()
        self.pool = ThreadPoolExecutor(TRANSFERS_MAX, "ruchu-transfer")

    def begin(self, who: str) -> None:
        """Count one more.

        Raises:
            TooMany: there are too many.
        """
        with self._lock:
            if self._by[who] >= TRANSFERS_EACH_MAX or self._by.total() >= TRANSFERS_MAX:
                raise TooMany(f"({self._by[who]} downloads of this account are under way)")
            self._by[who] += 1

    def end(self, who: str) -> None:
        """Count one less."""
        with self._lock:
            self._by[who] -= 1
            self._by += Counter()

    @contextmanager
    def counted(self, who: str) -> Iterator[None]:
        """Count what fails before it is under way only as long as it takes."""
        self.begin(who)
        try:
            yield
        except BaseException:
            self.end(who)
            raise


@dataclass(frozen=True, slots=True)
class Content:
    """What is sent.

    Attributes:
        name: of the file, as the browser is told.
        size: bytes; None: nobody knows yet.
        read: returns a part: `content` in base64 or `zeros`, and `end`; may wait.
        close: lets go of it; may wait.
        ended: is told how many bytes were sent, and what went wrong; may wait.
    """

    name: str
    size: int | None
    read: Read
    close: Callable[[], object]
    ended: Callable[[int, RuchuError | None], object]


class Transfer(Response):
    """An answer that streams content."""

    media_type = "application/octet-stream"

    def __init__(self, content: Content, pool: ThreadPoolExecutor) -> None:
        super().__init__()
        self._content = content
        self._pool = pool
        del self.headers["content-length"]
        if content.size is not None:
            self.headers["content-length"] = str(content.size)
        self.headers["content-disposition"] = disposition(content.name)
        # Whatever a guest calls its files: no browser shows or runs one in our name.
        self.headers["content-security-policy"] = "sandbox; default-src 'none'"
        self.headers["x-accel-buffering"] = "no"

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send everything, or break off so that it is seen."""
        if self._content.size is None and scope["http_version"] == "1.0":
            await self._refused(scope, receive, send)
            return
        gone = asyncio.create_task(_gone(receive))
        sent, failure = 0, None
        try:
            await send({"type": "http.response.start", "status": self.status_code,
                        "headers": self.raw_headers})  # fmt: skip
            sent = await self._parts(send, gone)
        except _Broken as broken:
            sent, failure = broken.sent, broken.error
        finally:
            gone.cancel()
            await asyncio.shield(self._run(self._over, sent, failure))
        if failure is None:
            await send({"type": "http.response.body", "body": b"", "more_body": False})
        elif patience.ABORT in scope:
            scope[patience.ABORT]()
            # The connection is lost before the server wonders why nothing ends the answer.
            await asyncio.sleep(0)

    async def _parts(self, send: Send, gone: "asyncio.Task[None]") -> int:
        sent = 0
        following = self._run(self._content.read, 0, PART_BYTES)
        while True:
            try:
                piece, end = _piece(await following)
                if self._content.size is not None:
                    _check(self._content.size, sent + len(piece), end=end)
            except RuchuError as error:
                raise _Broken(sent, error) from None
            if gone.done():
                raise _Broken(sent, ProtocolViolation("(whoever fetched it is gone)"))
            if not end:
                following = self._run(self._content.read, sent + len(piece), PART_BYTES)
            if piece:
                await send({"type": "http.response.body", "body": piece, "more_body": True})
            sent += len(piece)
            if end:
                return sent

    def _run(self, work: Callable[..., Any], *arguments: Any) -> "asyncio.Future[Any]":
        found = asyncio.get_running_loop().run_in_executor(self._pool, work, *arguments)
        # Whoever gives up waits for nothing more.
        found.add_done_callback(lambda each: each.cancelled() or each.exception())
        return found

    def _over(self, sent: int, failure: RuchuError | None) -> None:
        try:
            self._content.close()
        finally:
            self._content.ended(sent, failure)

    async def _refused(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Refuse who could not see that it broke off."""
        failure = ProtocolViolation("(HTTP/1.0)")
        await self._run(self._over, 0, failure)
        answer = problems.answer(
            HTTPStatus.UPGRADE_REQUIRED, "http-version",
            "What has no known length takes HTTP/1.1.",
            hint="Behind nginx: proxy_http_version 1.1;",
        )  # fmt: skip
        await answer(scope, receive, send)


def patient(read: Read, clock: Clock) -> Read:
    """Return what reads a part again while the line to its node is cut, for a while."""

    def reading(offset: int, length: int) -> dict[str, Any]:
        limit = clock.monotonic() + AWAY_LIMIT_S
        while True:
            try:
                return read(offset, length)
            except NodeAway:
                if clock.monotonic() > limit:
                    raise
                clock.sleep(_AWAY_PAUSE_S)

    return reading


class _Broken(Exception):
    """What was sent is not all."""

    def __init__(self, sent: int, error: RuchuError) -> None:
        super().__init__()
        self.sent = sent
        self.error = error


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass


def _piece(part: dict[str, Any]) -> tuple[bytes, bool]:
    """Return a part as bytes, and whether it is the last one.

    Raises:
        NodeFailed: it is none.
    """
    zeros, content, end = part.get("zeros"), part.get("content"), part.get("end")
    try:
        piece = bytes(zeros) if isinstance(zeros, int) else base64.b64decode(content or "")
    except (ValueError, TypeError, OverflowError, MemoryError):
        raise NodeFailed("(what it sent is no part)") from None
    if len(piece) > PART_BYTES or not isinstance(end, bool) or not (piece or end):
        raise NodeFailed("(what it sent is no part)")
    return piece, end


def _check(size: int, reached: int, *, end: bool) -> None:
    if reached > size or (end and reached != size):
        raise NodeFailed(f"(it sent {reached} bytes of {size})")


def disposition(name: str) -> str:
    """Return the header that makes a browser keep what it gets under a name (RFC 6266, 8187)."""
    safe = "".join(each if each.isprintable() and each not in '/\\"' else "_" for each in name)
    safe = _short(safe) or "_"
    plain = safe.encode("ascii", "replace").decode().replace("?", "_").replace("%", "_")
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(safe, safe='')}"


def _short(name: str) -> str:
    if len(name) <= NAME_LENGTH_MAX:
        return name
    stem, dot, ending = name.rpartition(".")
    if not dot or len(ending) > 20:
        return name[:NAME_LENGTH_MAX]
    return f"{stem[: NAME_LENGTH_MAX - len(ending) - 1]}.{ending}"
