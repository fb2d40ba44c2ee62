"""Calls of the API within the process: the console may do what its user may, and nothing else.

Every page asks the application itself, with the word of the session that its browser showed. So
rights, audit and limits of the API hold for the console without being written a second time.
"""

import asyncio
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import quote, unquote, urlencode

from starlette.types import ASGIApp, Message

from ruchu.api.shielding import INSIDE
from ruchu.errors import Answered

PREFIX = "/api/v1"
# Who presses a button twice has done so by then.
TWICE_S = 1.0
_UNDOING = {"PUT", "PATCH", "DELETE"}


@dataclass(frozen=True, slots=True)
class Answer:
    """What the API answered.

    Attributes:
        body: of JSON; None if there is none; text if it is something else.
        headers: names in lower case.
    """

    body: Any
    headers: Mapping[str, str]

    @property
    def tag(self) -> str:
        """The ETag, which a change of the same thing shows."""
        return self.headers.get("etag", "")


@dataclass(slots=True)
class _Heard:
    """An answer as it comes in."""

    status: int = 500
    headers: dict[str, str] = field(default_factory=dict)
    parts: list[bytes] = field(default_factory=list)

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            self.headers = {key.decode().lower(): value.decode("latin-1")
                            for key, value in message["headers"]}  # fmt: skip
        elif message["type"] == "http.response.body":
            self.parts.append(message.get("body", b""))


@dataclass(frozen=True, slots=True)
class Api:
    """The API, as one session may use it.

    Attributes:
        app: the application.
        word: of the session.
        client: address and port of the browser, for the audit trail.
        agent: what the browser calls itself.
    """

    app: ASGIApp
    word: str
    client: tuple[str, int] = ("", 0)
    agent: str = ""
    _sent: dict[str, asyncio.Future[Answer]] = field(default_factory=dict, compare=False)

    async def get(self, path: str, **query: Any) -> Any:
        """Return the body of an answer.

        `path` follows `/api/v1`; its parts must be quoted (`part`). Values that are None are left
        out, lists are repeated.

        Raises:
            Answered: the API refused.
        """
        return (await self.call("GET", path, query=query)).body

    async def post(self, path: str, body: Any = None, **query: Any) -> Any:
        """Send a body and return that of the answer.

        Whoever presses a button twice does not start two restores: the same again, while the first
        one waits for its answer or had a good one just now, gets that answer.

        Raises:
            Answered: the API refused.
        """
        same = json.dumps([path, body, query], sort_keys=True, default=str)
        first = self._sent.get(same)
        if first is None:
            first = asyncio.ensure_future(self.call("POST", path, body, query=query))
            self._sent[same] = first
            first.add_done_callback(lambda ended: self._answered(same, ended))
        # Who leaves takes along the wait, and not what another press waits for.
        return (await asyncio.shield(first)).body

    def _answered(self, same: str, ended: asyncio.Future[Answer]) -> None:
        good = not ended.cancelled() and ended.exception() is None
        asyncio.get_running_loop().call_later(TWICE_S if good else 0, self._forget, same, ended)

    def _forget(self, same: str, ended: asyncio.Future[Answer]) -> None:
        if self._sent.get(same) is ended:  # what was sent anew meanwhile stays
            del self._sent[same]

    async def post_once(self, path: str, body: Any, key: str) -> Any:
        """Send a body; what was sent with the same key before is not carried out again.

        Raises:
            Answered: the API refused.
        """
        return (await self.call("POST", path, body, key=key)).body

    async def put(self, path: str, body: Any, tag: str = "") -> Any:
        """Replace something; `tag` is that of the answer in which it was read.

        Raises:
            Answered: the API refused.
        """
        return (await self.call("PUT", path, body, tag=tag)).body

    async def patch(self, path: str, body: Any, tag: str = "") -> Any:
        """Change something.

        Raises:
            Answered: the API refused.
        """
        return (await self.call("PATCH", path, body, tag=tag)).body

    async def delete(self, path: str, tag: str = "") -> Any:
        """Remove something.

        Raises:
            Answered: the API refused.
        """
        return (await self.call("DELETE", path, tag=tag)).body

    async def call(
        self, method: str, path: str, body: Any = None, *, tag: str = "", key: str = "",
        query: Mapping[str, Any] | None = None,
    ) -> Answer:  # fmt: skip
        """Make a call and return the whole answer.

        Raises:
            Answered: the API refused.
        """
        if method in _UNDOING:  # what was made before may be gone: making it again is no repetition
            for same in [each for each, answer in self._sent.items() if answer.done()]:
                del self._sent[same]
        sent = b"" if body is None else json.dumps(body).encode()
        heard = _Heard()
        waiting = [{"type": "http.request", "body": sent, "more_body": False}]

        async def receive() -> Message:
            return waiting.pop() if waiting else {"type": "http.disconnect"}

        scope = self._scope(method, path, query or {}, len(sent))
        for name, value in ((b"if-match", tag), (b"idempotency-key", key)):
            if value:
                scope["headers"].append((name, value.encode("latin-1", "replace")))
        await self.app(scope, receive, heard.send)
        content = b"".join(heard.parts)
        kind = heard.headers.get("content-type", "")
        # An answer of 204 may name a kind, and has no content.
        found: Any = content.decode() if content else None
        if content and "json" in kind:
            found = json.loads(content)
        if heard.status >= 400:
            raise Answered.of(found if isinstance(found, dict) else {"status": heard.status})
        return Answer(found, heard.headers)

    def _scope(
        self, method: str, path: str, query: Mapping[str, Any], length: int
    ) -> dict[str, Any]:
        headers = [
            (b"host", b"console"),
            (b"user-agent", self.agent.encode("latin-1", "replace")),
        ]
        if self.word:
            headers.append((b"authorization", f"Bearer {self.word}".encode("latin-1", "replace")))
        if length:
            headers += [(b"content-type", b"application/json"),
                        (b"content-length", str(length).encode())]  # fmt: skip
        pairs = {key: value for key, value in query.items() if value is not None}
        raw = f"{PREFIX}{path}"
        return {
            "type": "http", "asgi": {"version": "3.0"}, "http_version": "1.1", "method": method,
            "scheme": "http", "path": unquote(raw), "raw_path": raw.encode(), "root_path": "",
            "query_string": urlencode(pairs, doseq=True).encode(), "headers": headers,
            "client": self.client, "server": ("console", 0), INSIDE: True,
        }  # fmt: skip


def part(text: str) -> str:
    """Return a part of a path, quoted."""
    return quote(text, safe="")
