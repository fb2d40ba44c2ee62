"""What every request passes: size, rate, headers; and requests that are sent twice."""

import hashlib
import threading
from collections import OrderedDict
from collections.abc import MutableMapping
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from fastapi import FastAPI
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ruchu.api import problems
from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.repeats.tables import REPEATS
from ruchu.control.server.services import Services

# Definitions of thousands of machines; nobody sends more.
BODY_BYTES_MAX = 4 << 20
# A person with a browser, or a script in a loop; what comes faster is a mistake or an attack.
RATE_PER_S, BURST = 50.0, 200.0
CLIENTS_MAX = 10_000
KEY_MAX = 200
_HEADERS = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),
    (b"referrer-policy", b"no-referrer"),
    (b"cache-control", b"no-store"),
)


def install(app: FastAPI, services: Services) -> None:
    """Let every request of an application pass through here."""
    app.add_middleware(Repeats, database=services.database, clock=services.clock)
    app.add_middleware(Shield, clock=services.clock)


class Rate:
    """A bucket for each client; the ones that were quiet for longest are forgotten."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._buckets: OrderedDict[str, tuple[float, float]] = OrderedDict()

    def take(self, client: str) -> bool:
        """Count a request; False if there are too many."""
        now = self._clock.monotonic()
        with self._lock:
            left, then = self._buckets.pop(client, (BURST, now))
            left = min(BURST, left + (now - then) * RATE_PER_S)
            allowed = left >= 1
            self._buckets[client] = (left - allowed, now)
            if len(self._buckets) > CLIENTS_MAX:
                self._buckets.popitem(last=False)
        return allowed


class Shield:
    """Refuses what is too large or too much; adds headers to what is answered."""

    def __init__(self, app: ASGIApp, clock: Clock) -> None:
        self._app = app
        self._rate = Rate(clock)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        client = scope.get("client")
        if not self._rate.take(client[0] if client else ""):
            await problems.answer(
                HTTPStatus.TOO_MANY_REQUESTS, "too-many", "Too many requests.", retry=True,
                headers={"Retry-After": "1"},
            )(scope, receive, send)  # fmt: skip
            return
        if _length(scope) > BODY_BYTES_MAX:
            await _too_large(scope, receive, send)
            return
        seen = 0

        async def limited() -> Message:
            nonlocal seen
            message = await receive()
            seen += len(message.get("body", b""))
            # What comes in pieces is cut off: the application sees a client that went away.
            return message if seen <= BODY_BYTES_MAX else {"type": "http.disconnect"}

        async def headed(message: Message) -> None:
            if message["type"] == "http.response.start":
                known = {name.lower() for name, _ in message.get("headers", ())}
                added = [pair for pair in _HEADERS if pair[0] not in known]
                message = {**message, "headers": [*message.get("headers", ()), *added]}
            await send(message)

        await self._app(scope, limited, headed)


def _length(scope: Scope) -> int:
    value = dict(scope["headers"]).get(b"content-length", b"0")
    return int(value) if value.isdigit() else 0


async def _too_large(scope: Scope, receive: Receive, send: Send) -> None:
    await problems.answer(
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "too-large", "The request is too large.",
        hint=f"At most {BODY_BYTES_MAX} bytes.",
    )(scope, receive, send)  # fmt: skip


class Repeats:
    """Answers a POST that was sent before as it was answered then, by its `Idempotency-Key`.

    The key belongs to whoever sent it: it is kept with the digest of the authorization.
    """

    def __init__(self, app: ASGIApp, database: Database, clock: Clock) -> None:
        self._app = app
        self._database = database
        self._clock = clock

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        key = headers.get(b"idempotency-key")
        if key is None or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        body = await _whole(receive)
        if not 0 < len(key) <= KEY_MAX or body is None:
            await problems.answer(
                HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request",
                f"(the header Idempotency-Key has 1 to {KEY_MAX} characters)",
            )(scope, receive, send)  # fmt: skip
            return
        identity, digest = _names(scope, headers, key, body)
        found = await _in_thread(self._find, identity)
        if found is not None:
            await _again(found, digest)(scope, receive, send)
            return
        await self._first(scope, body, send, (identity, digest))

    async def _first(self, scope: Scope, body: bytes, send: Send, names: tuple[str, str]) -> None:
        answered: MutableMapping[str, Any] = {"status": 0, "body": b""}

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        async def kept(message: Message) -> None:
            if message["type"] == "http.response.start":
                answered["status"] = message["status"]
            elif message["type"] == "http.response.body":
                answered["body"] += message.get("body", b"")
                if not message.get("more_body"):
                    await _in_thread(self._keep, names, answered)
            await send(message)

        await self._app(scope, receive, kept)

    def _find(self, identity: str) -> Any:
        with self._database.reading() as connection:
            query = sa.select(REPEATS).where(REPEATS.c.id == identity)
            return connection.execute(query).one_or_none()

    def _keep(self, names: tuple[str, str], answered: MutableMapping[str, Any]) -> None:
        # What failed for a passing reason is not kept: the next try may succeed.
        if answered["status"] >= HTTPStatus.INTERNAL_SERVER_ERROR or answered["status"] in {
            HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.UNAUTHORIZED,
        }:  # fmt: skip
            return
        row = {
            "id": names[0], "digest": names[1], "status": answered["status"],
            "body": answered["body"].decode("utf-8", "replace"),
            "at": to_text(self._clock.now()),
        }  # fmt: skip
        with self._database.writing() as connection:
            known = connection.execute(sa.select(REPEATS.c.id).where(REPEATS.c.id == names[0]))
            if known.first() is None:
                connection.execute(REPEATS.insert().values(row))


def _names(
    scope: Scope, headers: MutableMapping[bytes, bytes], key: bytes, body: bytes
) -> tuple[str, str]:
    """Return the name of a request, and the digest of what it asks."""
    who = headers.get(b"authorization", b"") + b"\0" + headers.get(b"cookie", b"")
    identity = hashlib.sha256(b"\0".join((who, key))).hexdigest()
    digest = hashlib.sha256(scope["path"].encode() + b"\0" + body).hexdigest()
    return identity, digest


def _again(found: Any, digest: str) -> Any:
    if found.digest != digest:
        return problems.answer(
            HTTPStatus.UNPROCESSABLE_ENTITY, "key-used",
            "This Idempotency-Key was used for another request.",
        )  # fmt: skip
    from fastapi.responses import Response  # noqa: PLC0415 - used here only

    media = "application/json" if found.status < 400 else problems.MEDIA_TYPE
    return Response(found.body, found.status, {"Idempotent-Replay": "true"}, media_type=media)


async def _whole(receive: Receive) -> bytes | None:
    body = b""
    while True:
        message = await receive()
        if message["type"] != "http.request":
            return None
        body += bytes(message.get("body", b""))
        if not message.get("more_body"):
            return body


async def _in_thread(call: Any, *arguments: Any) -> Any:
    import asyncio  # noqa: PLC0415 - used here only

    return await asyncio.to_thread(call, *arguments)
