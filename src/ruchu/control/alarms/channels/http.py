"""One HTTP request: limited in time and size, no redirects, TLS checked."""

import datetime
import json
import logging
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import httpx

from ruchu.clock import Clock
from ruchu.control.alarms import records
from ruchu.errors import ChannelFailed, ChannelRefused, UsageError

# Each of connecting, writing, waiting for bytes.
STEP_LIMIT_S = 10.0
# From the first byte of the answer's body to its last, so that a drip does not hold a thread.
BODY_LIMIT_S = 20.0
# No service answers with more; what we send is text.
ANSWER_MAX = 65_536
REQUEST_MAX = 262_144
_EXCERPT_MAX = 200
_TOO_MANY, _TIMED_OUT = 429, 408

# They log addresses and headers, and the tokens of robots are part of the address.
for _name in ("httpx", "httpcore"):
    logging.getLogger(_name).setLevel(logging.WARNING)


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked. Not shown in logs: address and headers may hold secrets."""

    method: str
    url: str = field(repr=False)
    headers: Mapping[str, str] = field(default_factory=dict, repr=False)
    body: bytes = field(default=b"", repr=False)


@dataclass(frozen=True, slots=True)
class Answer:
    """What came back, with a status of success."""

    status: int
    body: bytes

    def document(self) -> Any:
        """Return its JSON.

        Raises:
            ChannelRefused: it is none, so it was not the service that answered.
        """
        try:
            return json.loads(self.body)
        except (ValueError, RecursionError):
            raise ChannelRefused(f"(no JSON: {self.excerpt()})") from None

    def excerpt(self) -> str:
        """Return its beginning, for a message to people."""
        return excerpt(self.body)


class Http:
    """Sends requests. Safe in several threads; each request has a connection of its own.

    Nothing of the environment counts (proxies, netrc): what is not in the settings is not used.
    """

    def __init__(
        self, clock: Clock, *, ca_file: str | None = None, proxy: str | None = None
    ) -> None:
        """Prepare; nothing is connected yet.

        Raises:
            UsageError: the CA file cannot be read, or the proxy is none.
        """
        self._clock = clock
        self._proxy = proxy
        self._trust = trust(ca_file)
        try:
            self._client().close()
        except (ValueError, httpx.InvalidURL):
            raise UsageError("(the proxy)", hint="http://HOST:PORT") from None

    def send(self, request: Request) -> Answer:
        """Send a request once and return the answer.

        Raises:
            ChannelRefused: it was answered with a status that another attempt will not change.
            ChannelFailed: there was no answer, or the service is busy.
        """
        if len(request.body) > REQUEST_MAX:
            raise ChannelRefused(f"({len(request.body)} bytes are too many)")
        try:
            with self._client() as client:
                return self._sent(client, request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise ChannelFailed(f"({_why(error)})") from None

    def _client(self) -> httpx.Client:
        return httpx.Client(
            verify=self._trust,
            timeout=STEP_LIMIT_S,
            follow_redirects=False,
            trust_env=False,
            proxy=self._proxy,
        )

    def _sent(self, client: httpx.Client, request: Request) -> Answer:
        headers = {"User-Agent": "Ruchu", **request.headers}
        sending = client.stream(
            request.method, request.url, headers=headers, content=request.body or None
        )
        with sending as response:
            answer = Answer(response.status_code, self._body(response))
        _check_status(answer)
        return answer

    def _body(self, response: httpx.Response) -> bytes:
        end = self._clock.monotonic() + BODY_LIMIT_S
        parts: list[bytes] = []
        length = 0
        for part in response.iter_bytes(ANSWER_MAX):
            parts.append(part)
            length += len(part)
            if length > ANSWER_MAX:
                raise ChannelFailed(f"(an answer of more than {ANSWER_MAX} bytes)")
            if self._clock.monotonic() > end:
                raise ChannelFailed(f"(an answer that takes more than {BODY_LIMIT_S:.0f} s)")
        return b"".join(parts)


def trust(ca_file: str | None) -> ssl.SSLContext:
    """Return a context that trusts the system's authorities, and those in a file as well.

    Raises:
        UsageError: the file cannot be read.
    """
    context = ssl.create_default_context()
    if ca_file is not None:
        try:
            context.load_verify_locations(cafile=ca_file)
        except (OSError, ssl.SSLError) as error:
            raise UsageError(f"(the CA file {ca_file}: {error})") from None
    return context


def excerpt(body: bytes) -> str:
    """Return the beginning of an answer on one line."""
    text = " ".join(body[: 4 * _EXCERPT_MAX].decode(errors="replace").split())
    return records.clean_text(text, _EXCERPT_MAX)


def seconds(moment: datetime.datetime) -> int:
    """Return a moment in seconds since 1970."""
    return int(moment.timestamp())


def _check_status(answer: Answer) -> None:
    if 200 <= answer.status < 300:
        return
    detail = f"(status {answer.status}: {answer.excerpt()})"
    if 300 <= answer.status < 400:
        # Whoever answers so could send the alarm, and its secrets, to another host.
        raise ChannelRefused(f"(it redirects, status {answer.status})", hint="Give the final URL.")
    if answer.status >= 500 or answer.status in {_TOO_MANY, _TIMED_OUT}:
        raise ChannelFailed(detail)
    raise ChannelRefused(detail)


def _why(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".removesuffix(": ")
