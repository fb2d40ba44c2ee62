"""How a node becomes known to a server, and stays so: the one-time token, the renewal.

The token is a URL that an administrator carries to the new node:
`ruchu://HOST:PORT/enrol#TOKEN.FINGERPRINT`. The node first asks the server for the certificate of
its authority and compares it with the fingerprint; only to that authority it says the token.
"""

import base64
import hashlib
import ipaddress
import re
import secrets
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Final

from cryptography.hazmat.primitives.asymmetric import ec

from ruchu.errors import ProtocolViolation, Refused, UsageError
from ruchu.model import ids
from ruchu.wire import authority, calling, contexts
from ruchu.wire.authority import SERVER_NAME, Certificates, Issued
from ruchu.wire.calling import Address, Connection
from ruchu.wire.identity import Identity

SCHEME: Final = "ruchu"
TOKEN_BYTES: Final = 32
# Half of it is left for a server that is down, or a line that is cut, before the end.
RENEW_AFTER: Final = 0.5
URL_LENGTH_MAX: Final = 1024
_TOKEN: Final = re.compile(r"[A-Za-z0-9_-]{43}")
_FINGERPRINT: Final = re.compile(r"[0-9a-f]{64}")
_HINT: Final = "Copy the whole line that the server printed, in quotes because of its '#'."


def new_token() -> str:
    """Return a fresh token."""
    return base64.urlsafe_b64encode(secrets.token_bytes(TOKEN_BYTES)).rstrip(b"=").decode()


def token_digest(token: str) -> str:
    """Return what a server keeps of a token. It is random, so a plain hash hides it."""
    return hashlib.sha256(token.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Invitation:
    """What a token URL says.

    Attributes:
        address: where the server listens for nodes.
        token: is valid once.
        fingerprint: SHA-256 of the authority's certificate.
    """

    address: Address
    token: str
    fingerprint: str

    def __str__(self) -> str:
        return f"{SCHEME}://{self.address}/enrol#{self.token}.{self.fingerprint}"

    def __repr__(self) -> str:
        return f"Invitation({self.address})"  # the token is a secret

    @classmethod
    def parse(cls, url: str) -> "Invitation":
        """Return what a token URL says.

        Raises:
            UsageError: it is none.
        """
        try:
            parts = urllib.parse.urlsplit(url.strip()[:URL_LENGTH_MAX])
            host, port = parts.hostname or "", parts.port
        except ValueError:
            raise UsageError("(the token URL has no valid address)", hint=_HINT) from None
        if parts.scheme != SCHEME or parts.path != "/enrol":
            raise UsageError(f"(a token URL begins with {SCHEME}://)", hint=_HINT)
        if not host or not port or parts.username is not None or parts.query:
            raise UsageError("(the token URL lacks host and port)", hint=_HINT)
        token, dot, fingerprint = parts.fragment.partition(".")
        if not dot:
            raise UsageError("(the token URL was cut off: it lacks #TOKEN.FINGERPRINT)", hint=_HINT)
        if not _TOKEN.fullmatch(token) or not _FINGERPRINT.fullmatch(fingerprint):
            raise UsageError("(the token or the fingerprint was cut off or changed)", hint=_HINT)
        return cls(Address(_checked(host), port), token, fingerprint)


def _checked(host: str) -> str:
    try:
        return str(ipaddress.ip_address(host))
    except ValueError:
        pass
    if not re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9.-]{0,252})", host):
        raise UsageError(f"({host!a} is no host name)", hint=_HINT)
    return host


@dataclass(frozen=True, slots=True)
class Joining:
    """A node on its way in: it can be tried again with the same key, so no answer is lost."""

    invitation: Invitation
    key: ec.EllipticCurvePrivateKey

    @classmethod
    def begin(cls, invitation: Invitation) -> "Joining":
        """Make the key, on this host, where it stays."""
        return cls(invitation, authority.new_key())

    def enrol(self, facts: Mapping[str, Any]) -> Identity:
        """Check the authority, say the token, and return who this node is now.

        Raises:
            WireError: the server does not answer; the same call may succeed later.
            Refused: it is another server, or the token is not valid.
            ProtocolViolation: it answers what is no answer.
        """
        trusted = self._authority()
        connection = Connection(self.invitation.address, contexts.for_client(trusted), SERVER_NAME)
        answer = calling.call(
            connection,
            "POST",
            "/enrol",
            {
                "token": self.invitation.token,
                "request": authority.request_for(self.key),
                "facts": dict(facts),
            },
        )
        return _identity(self.invitation.address, self.key, answer, trusted)

    def _authority(self) -> str:
        # Nobody was proven to answer here, and nothing is said but this question.
        stranger = Connection(self.invitation.address, contexts.for_stranger(), SERVER_NAME)
        answer = calling.call(stranger, "GET", "/authority")
        pem = answer.get("authority")
        if not isinstance(pem, str):
            raise ProtocolViolation("(no authority came back)")
        if not secrets.compare_digest(authority.fingerprint(pem), self.invitation.fingerprint):
            raise Refused(
                f"({self.invitation.address} is not the server that made this token)",
                hint="The token was not said. Check the address; if the server was made anew,"
                " ask it for a new token.",
            )
        return pem


def renew(identity: Identity) -> Identity:
    """Get certificates for a fresh key, on the strength of those that this node has.

    Raises:
        WireError: the server does not answer.
        Refused: it does not know this node any more.
        ProtocolViolation: it answers what is no answer.
    """
    key = authority.new_key()
    own = Issued(identity.client, identity.key)
    context = contexts.for_client(identity.authority, own)
    answer = calling.call(
        Connection(identity.address, context, SERVER_NAME),
        "POST",
        "/renew",
        {"request": authority.request_for(key)},
    )
    renewed = _identity(identity.address, key, answer, None)
    if renewed.node != identity.node:
        raise ProtocolViolation("(the certificate is one of another node)")
    return renewed


def to_document(certificates: Certificates) -> dict[str, Any]:
    """Return certificates as the answer to an enrolment or a renewal."""
    return {
        "node": certificates.node,
        "client": certificates.client,
        "streams": certificates.streams,
        "authority": certificates.authority,
    }


def _identity(
    address: Address,
    key: ec.EllipticCurvePrivateKey,
    answer: Mapping[str, Any],
    trusted: str | None,
) -> Identity:
    texts = {name: str(answer.get(name, "")) for name in ("node", "client", "streams", "authority")}
    if not ids.is_id(texts["node"]):
        raise ProtocolViolation("(the answer names no node)")
    if not all(authority.belongs(texts[name], key) for name in ("client", "streams")):
        raise ProtocolViolation("(the certificate is not for the key of this node)")
    if trusted is not None and not texts["authority"].startswith(trusted):
        raise ProtocolViolation("(the authority changed its certificate meanwhile)")
    found = Identity(address=address, key=authority.key_to_pem(key), **texts)
    # What cannot be used is found here, and not when the old certificate has ended.
    contexts.for_client(found.authority, Issued(found.client, found.key))
    return found
