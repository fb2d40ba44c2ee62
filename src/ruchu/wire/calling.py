"""One HTTPS request at a time, from a thread: what a node says outside of its long connection."""

import http.client
import json
import re
import socket
import ssl
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final, NoReturn

from ruchu.errors import ProtocolViolation, Refused, WireError

# Certificates are the largest that comes back.
ANSWER_BYTES_MAX: Final = 64 << 10
CALL_LIMIT_S: Final = 30.0
# A host that vanished is noticed within 15 s, also while nothing is said.
KEEPALIVE: Final = (
    (socket.SO_KEEPALIVE, socket.SOL_SOCKET, 1),
    (socket.TCP_KEEPIDLE, socket.IPPROTO_TCP, 5),
    (socket.TCP_KEEPINTVL, socket.IPPROTO_TCP, 3),
    (socket.TCP_KEEPCNT, socket.IPPROTO_TCP, 3),
)


# Alerts of TLS that say what the other side thinks of our certificate. Any other one may come from a
# line that changed a byte.
_ABOUT_US: Final = re.compile("ALERT.*(CERTIFICATE|UNKNOWN_CA|ACCESS_DENIED)")


@dataclass(frozen=True, slots=True)
class Address:
    """Where somebody listens."""

    host: str
    port: int

    def __str__(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{host}:{self.port}"


def dial(address: Address, limit_s: float) -> socket.socket:
    """Connect.

    Raises:
        OSError: nobody answers.
    """
    plain = socket.create_connection((address.host, address.port), limit_s)
    plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    for option, level, value in KEEPALIVE:
        plain.setsockopt(level, option, value)
    return plain


class Connection(http.client.HTTPConnection):
    """A connection to whoever can prove to be `name`, wherever it is."""

    def __init__(
        self, address: Address, context: ssl.SSLContext, name: str, limit_s: float = CALL_LIMIT_S
    ) -> None:
        super().__init__(address.host, address.port, timeout=limit_s)
        self._context = context
        self._name = name
        self._limit_s = limit_s

    def connect(self) -> None:
        """Connect, and see who answers."""
        plain = dial(Address(self.host, self.port), self._limit_s)
        try:
            self.sock = self._context.wrap_socket(plain, server_hostname=self._name)
        except BaseException:
            plain.close()
            raise


def call(
    connection: Connection, method: str, path: str, document: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    """Make one request on a fresh connection, close it, and return the document that came back.

    Raises:
        WireError: nobody answers, or somebody else.
        Refused: the other side says no.
        ProtocolViolation: what came back is no answer.
    """
    body = None if document is None else json.dumps(document)
    try:
        connection.request(method, path, body, {"Content-Type": "application/json"})
        response = connection.getresponse()
        content = response.read(ANSWER_BYTES_MAX)
    except (OSError, http.client.HTTPException) as error:
        fail(error, f"{connection.host}:{connection.port}")
    finally:
        connection.close()
    try:
        answer = json.loads(content)
    except (ValueError, RecursionError):
        answer = None
    if not isinstance(answer, dict):
        raise ProtocolViolation(f"({path} answers {response.status} and no document)")
    if response.status != http.client.OK:
        raise_refusal(answer, response.status)
    return answer


def fail(error: Exception, where: str) -> NoReturn:
    """Raise what went wrong with a connection as an error of ours.

    Raises:
        WireError: always.
        Refused: somebody else answers, or our certificate is not accepted.
    """
    if isinstance(error, ssl.SSLCertVerificationError):
        raise Refused(
            f"({where} shows a certificate of somebody else: {error.verify_message})",
            hint="Check the address; something between here and there may answer in its place.",
        ) from None
    if isinstance(error, ssl.SSLError) and _ABOUT_US.search(error.reason or ""):
        raise Refused(f"({where} does not accept this certificate: {error.reason})") from None
    raise WireError(f"({where}: {str(error) or type(error).__name__})") from None


def raise_refusal(answer: Mapping[str, Any], status: int) -> NoReturn:
    """Raise what the other side said.

    Raises:
        Refused: it will say so again.
        WireError: it may be otherwise later.
    """
    text, hint = str(answer.get("text", f"status {status}")), str(answer.get("hint", ""))
    if status >= http.client.INTERNAL_SERVER_ERROR or status == http.client.TOO_MANY_REQUESTS:
        raise WireError(f"({text})", hint=hint)
    raise Refused(f"({text})", hint=hint)
