"""Requests that are sent twice are carried out once: the header `Idempotency-Key`.

What was answered is kept for whoever was answered. It may hold a secret (a token, a link), so it
is sealed under a key that only their own proof and their Idempotency-Key make; neither is kept.
"""

import asyncio
import base64
import hashlib
import hmac
import json
import os
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

import sqlalchemy as sa
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from starlette.exceptions import HTTPException
from starlette.requests import cookie_parser
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from ruchu.api import identity, problems
from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.repeats.tables import REPEATS
from ruchu.errors import NotAuthenticated
from ruchu.model.principals import Principal

KEY_MAX = 200
# The longest answer to a POST that is worth keeping; nothing here answers more.
ANSWER_BYTES_MAX = 1 << 20
_VISIBLE = range(0x21, 0x7F)
_KEPT_HEADERS = {b"content-type", b"etag", b"location"}
_NONCE_BYTES = 12


@dataclass(frozen=True, slots=True)
class _Names:
    """What a request is known by: its identity, the digest of what it asks, the key that seals."""

    identity: str
    digest: str
    seal: bytes


class Repeats:
    """Answers a POST that was sent before as it was answered then.

    Only what succeeded is kept: what was refused may succeed the next time.
    """

    def __init__(
        self, app: ASGIApp, database: Database, clock: Clock, known: Callable[[str], Principal]
    ) -> None:
        self._app = app
        self._database = database
        self._clock = clock
        self._known = known
        self._lock = threading.Lock()
        self._under_way: set[str] = set()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer a request."""
        headers = dict(scope["headers"]) if scope["type"] == "http" else {}
        key = headers.get(b"idempotency-key")
        proof = _proof(headers)
        # Without a proof there is nobody to keep it for: signing in is done again.
        if key is None or not proof or scope["method"] != "POST":
            await self._app(scope, receive, send)
            return
        if not 0 < len(key) <= KEY_MAX or not all(each in _VISIBLE for each in key):
            refused = problems.answer(
                HTTPStatus.UNPROCESSABLE_ENTITY, "invalid-request",
                f"(the header Idempotency-Key has 1 to {KEY_MAX} visible characters of ASCII)",
            )  # fmt: skip
            await refused(scope, receive, send)
            return
        try:
            body = await _whole(receive)
        except HTTPException as error:
            await problems.of_http(error)(scope, receive, send)
            return
        await self._once(scope, body, send, (proof, key))

    async def _once(self, scope: Scope, body: bytes, send: Send, by: tuple[str, bytes]) -> None:
        names = _names(scope, body, *by)

        async def receive() -> Message:
            return {"type": "http.request", "body": body, "more_body": False}

        if not self._begin(names.identity):
            busy = problems.answer(
                HTTPStatus.CONFLICT, "under-way", "The same request is being carried out.",
                {"Retry-After": "1"}, retry=True,
            )  # fmt: skip
            await busy(scope, receive, send)
            return
        try:
            found = await asyncio.to_thread(self._find, names, by[0])
            if found is not None:
                await found(scope, receive, send)
            else:
                await self._first(scope, receive, send, names)
        finally:
            self._end(names.identity)

    def _begin(self, identity_: str) -> bool:
        with self._lock:
            fresh = identity_ not in self._under_way
            self._under_way.add(identity_)
            return fresh

    def _end(self, identity_: str) -> None:
        with self._lock:
            self._under_way.discard(identity_)

    async def _first(self, scope: Scope, receive: Receive, send: Send, names: _Names) -> None:
        status, headers, parts = 0, {}, bytearray()

        async def kept(message: Message) -> None:
            nonlocal status, headers
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = {
                    name.decode("latin-1"): value.decode("latin-1")
                    for name, value in message.get("headers", ())
                    if name.lower() in _KEPT_HEADERS
                }
            elif message["type"] == "http.response.body":
                parts.extend(message.get("body", b""))
                if not message.get("more_body") and 200 <= status < 300:
                    # Before it is sent: who has the answer must get the same one again.
                    answered = {"headers": headers, "body": parts.decode()}
                    await asyncio.to_thread(self._keep, names, status, answered)
            await send(message)

        await self._app(scope, receive, kept)

    def _find(self, names: _Names, proof: str) -> Response | None:
        query = sa.select(REPEATS).where(REPEATS.c.id == names.identity)
        with self._database.reading() as connection:
            row = connection.execute(query).one_or_none()
        if row is None:
            return None
        try:
            self._known(proof)
        except NotAuthenticated:
            return None  # the endpoint says so
        if not hmac.compare_digest(row.digest, names.digest):
            return problems.answer(
                HTTPStatus.UNPROCESSABLE_ENTITY, "key-used",
                "This Idempotency-Key was used for another request.",
            )  # fmt: skip
        answered = _opened(names, row.body)
        headers = {**answered["headers"], "Idempotent-Replay": "true"}
        return Response(answered["body"] or None, row.status, headers)

    def _keep(self, names: _Names, status: int, answered: Mapping[str, Any]) -> None:
        if len(answered["body"]) > ANSWER_BYTES_MAX:
            return
        row = {
            "id": names.identity, "digest": names.digest, "status": status,
            "body": _sealed(names, answered), "at": to_text(self._clock.now()),
        }  # fmt: skip
        with self._database.writing() as connection:
            connection.execute(REPEATS.insert().values(row))


def _proof(headers: Mapping[bytes, bytes]) -> str:
    """Return what somebody proves with who they are; empty if nothing was shown."""
    scheme, _, word = headers.get(b"authorization", b"").decode("latin-1").partition(" ")
    if scheme.lower() == "bearer" and word.strip():
        return word.strip()
    cookies = cookie_parser(headers.get(b"cookie", b"").decode("latin-1"))
    return cookies.get(identity.COOKIE, "")


def _names(scope: Scope, body: bytes, proof: str, key: bytes) -> _Names:
    secret = hashlib.sha256(b"ruchu repeat\0" + proof.encode() + b"\0" + key).digest()
    target = scope["path"].encode() + b"?" + scope["query_string"]

    def made(use: bytes, of: bytes = b"") -> bytes:
        return hmac.digest(secret, use + b"\0" + of, "sha256")

    return _Names(
        made(b"identity").hex(), made(b"digest", target + b"\0" + body).hex(), made(b"seal")
    )


def _sealed(names: _Names, answered: Mapping[str, Any]) -> str:
    nonce = os.urandom(_NONCE_BYTES)
    plain = json.dumps(answered).encode()
    sealed = AESGCM(names.seal).encrypt(nonce, plain, names.digest.encode())
    return base64.b64encode(nonce + sealed).decode()


def _opened(names: _Names, text: str) -> dict[str, Any]:
    raw = base64.b64decode(text)
    nonce, sealed = raw[:_NONCE_BYTES], raw[_NONCE_BYTES:]
    plain = AESGCM(names.seal).decrypt(nonce, sealed, names.digest.encode())
    found: dict[str, Any] = json.loads(plain)
    return found


async def _whole(receive: Receive) -> bytes:
    body = bytearray()
    while True:
        message = await receive()
        if message["type"] != "http.request":
            raise HTTPException(HTTPStatus.BAD_REQUEST, "The client went away.")
        body += message.get("body", b"")
        if not message.get("more_body"):
            return bytes(body)
