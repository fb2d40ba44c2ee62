"""A client of the API of a server: for the command line, and for a server above others."""

import ipaddress
import json
import ssl
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self
from urllib.parse import urlsplit

import httpx
from cryptography import x509

from ruchu import errors
from ruchu.errors import ControlError, NotAuthenticated, RuchuError, ServerAway, UsageError
from ruchu.wire import authority

PREFIX = "/api/v1"
# Each of connecting, writing, waiting for bytes; most answers take milliseconds.
CALL_LIMIT_S = 60.0
# A node that reads the points of a large storage takes its time.
LONG_LIMIT_S = 1200.0
ANSWER_BYTES_MAX = 32 << 20
TEXT_MAX = 2000
_URL_MAX = 500
_LOOPBACK_NAMES = {"localhost"}
# How the subject of every authority of ours begins; see `wire.authority`.
_OUR_AUTHORITY = "CN=Ruchu authority "


@dataclass(frozen=True, slots=True)
class Server:
    """Where a server is, who we are to it, whom we believe that it is.

    Attributes:
        url: such as `https://backup.example.com:8443`.
        token: of a program, or the word of a session; empty before signing in.
        trusted: certificates (PEM) that may vouch for it; empty means those of this host.
    """

    url: str
    token: str = field(default="", repr=False)
    trusted: str = ""

    def __post_init__(self) -> None:
        """Refuse an address that cannot be, or that would show the token to others.

        Raises:
            UsageError: it is such a one.
        """
        parts = urlsplit(self.url)
        try:
            known = parts.scheme in {"http", "https"} and bool(parts.hostname) and parts.port != 0
        except ValueError:
            known = False
        if not known or parts.username or parts.query or parts.fragment or len(self.url) > _URL_MAX:
            hint = "Such as https://backup.example.com:8443."
            raise UsageError(f"(the address of the server: {self.url[:80]!r})", hint=hint)
        if parts.scheme == "http" and not _is_loopback(parts.hostname or ""):
            hint = "Use https://; http:// is for a server on this host."
            raise UsageError("(http:// to another host would show the token)", hint=hint)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host in _LOOPBACK_NAMES


class Client:
    """Asks a server. A context manager. Safe in several threads."""

    def __init__(self, server: Server, limit_s: float = CALL_LIMIT_S) -> None:
        """Prepare; nothing is connected yet.

        Raises:
            UsageError: the certificates are none.
        """
        self.server = server
        self._extensions: dict[str, Any] = {}
        context = _context(server.trusted)
        if _is_ours(server.trusted):
            # Our own authority certifies this name, by whatever name or address it is reached.
            self._extensions = {"sni_hostname": authority.SERVER_NAME}
        self._client = httpx.Client(
            verify=context, timeout=limit_s, follow_redirects=False, trust_env=False
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the connection."""
        self._client.close()

    def get(self, path: str, **params: Any) -> Any:
        """Return a document."""
        return self.call("GET", path, params=params)

    def post(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """Ask for something to be done."""
        return self.call("POST", path, body=dict(body or {}))

    def pages(self, path: str, most: int, **params: Any) -> list[Any]:
        """Return the items of a list that comes in pages, up to a number."""
        found: list[Any] = []
        after = ""
        while len(found) < most:
            limit = min(most - len(found), 400)
            page = self.get(path, **params, after=after, limit=limit)
            found += page["items"]
            after = page["next"] or ""
            if not after:
                break
        return found

    def call(
        self, method: str, path: str, *, body: Any = None, params: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> Any:  # fmt: skip
        """Make one request; return the document that was answered, or None.

        Raises:
            ServerAway: there was no answer.
            RuchuError: the server refused; of the class that it says.
        """
        text = self.text(method, path, body=body, params=params, version=version)
        if not text:
            return None
        try:
            return json.loads(text)
        except (ValueError, RecursionError):
            raise ServerAway("(what answers is no Ruchu server)") from None

    def text(
        self, method: str, path: str, *, body: Any = None, params: Mapping[str, Any] | None = None,
        version: int | None = None,
    ) -> str:  # fmt: skip
        """Make one request; return the text that was answered.

        Raises:
            ServerAway: there was no answer.
            RuchuError: the server refused; of the class that it says.
        """
        headers = {"User-Agent": "Ruchu"}
        if self.server.token:
            headers["Authorization"] = f"Bearer {self.server.token}"
        if version is not None:
            headers["If-Match"] = f'"{version}"'
        try:
            request = self._client.build_request(
                method, self.server.url.rstrip("/") + PREFIX + path, headers=headers,
                params=dict(params or {}), json=body, extensions=self._extensions,
            )  # fmt: skip
            status, data = self._sent(request)
        except (httpx.HTTPError, httpx.InvalidURL, OSError, ValueError) as error:
            raise ServerAway(f"({self.server.url}: {_why(error)})") from None
        answered = data.decode(errors="replace")
        if status >= 300:
            raise error_of(status, answered)
        return answered

    def _sent(self, request: httpx.Request) -> tuple[int, bytes]:
        answer = self._client.send(request, stream=True)
        try:
            data = b""
            for part in answer.iter_bytes():
                data += part
                if len(data) > ANSWER_BYTES_MAX:
                    raise ServerAway("(an answer that is too large)")
            return answer.status_code, data
        finally:
            answer.close()


def error_of(status: int, text: str) -> RuchuError:
    """Return the error that a server told: of the class with its code, if this release knows it."""
    try:
        problem = json.loads(text)
        assert isinstance(problem, dict)
        code, detail = str(problem["code"]), str(problem["detail"])[:TEXT_MAX]
        hint = str(problem.get("hint") or "")[:TEXT_MAX]
    except (ValueError, RecursionError, KeyError, AssertionError):
        return ServerAway(f"(status {status}: what answers is no Ruchu server)")
    kind = _classes().get(code)
    if kind is None:
        return ControlError(f"({code}) {detail}", hint=hint)
    message = (kind.__doc__ or "").splitlines()[0]
    return kind(detail.removeprefix(message).strip(), hint=hint)


def _classes() -> dict[str, type[RuchuError]]:
    """Return every error that can be made of a text, by its code."""
    named = [getattr(errors, name) for name in errors.__all__]
    return {kind.code: kind for kind in named if kind is not errors.PartlyFailed}


def authority_of(url: str, fingerprint: str) -> str:
    """Return the certificate (PEM) of the authority of a server that has a fingerprint.

    It is fetched without knowing who answers, and believed because of the fingerprint.

    Raises:
        NotAuthenticated: it has another one: somebody else answers.
        ServerAway: nobody answers.
    """
    where = Server(url).url.rstrip("/") + f"{PREFIX}/authority"
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    try:
        with httpx.Client(verify=context, timeout=CALL_LIMIT_S, trust_env=False) as client:
            answer = client.get(where)
    except (httpx.HTTPError, OSError) as error:
        raise ServerAway(f"({url}: {_why(error)})") from None
    pem = answer.text
    if answer.status_code != httpx.codes.OK or len(pem) > authority.REQUEST_LENGTH_MAX:
        raise ServerAway(f"(status {answer.status_code}: what answers is no Ruchu server)")
    wanted = fingerprint.replace(":", "").strip().lower()
    if authority.fingerprint(pem) != wanted:
        hint = "Compare with `fingerprint` of the server; if it is right, somebody is in between."
        raise NotAuthenticated("(its authority has another fingerprint)", hint=hint)
    return pem


def _context(trusted: str) -> ssl.SSLContext:
    if not trusted:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    try:
        context.load_verify_locations(cadata=trusted)
    except (ssl.SSLError, ValueError):
        raise UsageError("(the trusted certificates are none)") from None
    return context


def _is_ours(trusted: str) -> bool:
    """Tell whether it is the authority of a Ruchu server that vouches."""
    if not trusted:
        return False
    try:
        found = x509.load_pem_x509_certificates(trusted.encode())
    except ValueError:
        return False
    return all(_OUR_AUTHORITY in each.subject.rfc4514_string() for each in found)


def _why(error: Exception) -> str:
    return (str(error) or type(error).__name__)[:300]
