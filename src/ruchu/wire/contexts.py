"""TLS contexts: version 1.3 only, one authority, and who the other side is.

Keys go from memory into the library through a descriptor that has no name on any disk.
"""

import os
import ssl
from dataclasses import dataclass
from typing import Any, Final

from ruchu.errors import WireError
from ruchu.model import ids
from ruchu.wire.authority import Issued

# Refuses certificates that are almost right, too: missing key identifiers, usages that differ.
_STRICT: Final = ssl.VERIFY_X509_STRICT
STREAM_PROTOCOL: Final = "ruchu-stream/1"
"""What a dialler asks for in the handshake (ALPN) so that it gets a thread of its own."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who has proven to be at the other end: a node, and the serial number (hex) it came with."""

    node: str
    serial: str


def for_server(issued: Issued, authority: str) -> ssl.SSLContext:
    """Return the context of a listener. Clients may come without a certificate, not with a bad one.

    Raises:
        WireError: key, certificate and authority are not right.
    """
    context = _context(ssl.PROTOCOL_TLS_SERVER, authority)
    context.verify_mode = ssl.CERT_OPTIONAL
    # Nobody is known from before: each connection shows its certificate, so that one that was
    # revoked or has expired ends with it.
    context.num_tickets = 0
    context.set_alpn_protocols([STREAM_PROTOCOL, "http/1.1"])
    load(context, issued)
    return context


def for_client(authority: str, issued: Issued | None = None) -> ssl.SSLContext:
    """Return the context of one who dials; without a certificate of its own it may only enrol.

    Raises:
        WireError: key, certificate and authority are not right.
    """
    context = _context(ssl.PROTOCOL_TLS_CLIENT, authority)
    if issued is not None:
        load(context, issued)
    return context


def for_streams(authority: str, issued: Issued) -> ssl.SSLContext:
    """Return the context of one who dials for a bulk stream.

    Raises:
        WireError: key, certificate and authority are not right.
    """
    context = for_client(authority, issued)
    context.set_alpn_protocols([STREAM_PROTOCOL])
    return context


def for_stranger() -> ssl.SSLContext:
    """Return a context that believes anybody: only for asking for the authority's certificate."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def load(context: ssl.SSLContext, issued: Issued) -> None:
    """Show this certificate from the next connection on.

    Raises:
        WireError: key and certificate do not belong together.
    """
    descriptor = os.memfd_create("ruchu", os.MFD_CLOEXEC)
    try:
        content = (issued.key + issued.certificate).encode()
        assert os.write(descriptor, content) == len(content)
        context.load_cert_chain(f"/proc/self/fd/{descriptor}")
    except ssl.SSLError as error:
        raise WireError(f"(the certificate cannot be used: {error.reason})") from None
    finally:
        os.close(descriptor)


def peer_of(certificate: dict[str, Any] | None) -> Peer | None:
    """Return whom a verified certificate (`getpeercert`) names; None without one, or no node."""
    if not certificate:
        return None
    subject = dict(pair for part in certificate.get("subject", ()) for pair in part)
    node, serial = str(subject.get("commonName")), str(certificate.get("serialNumber"))
    if not ids.is_id(node):
        return None
    return Peer(node, format(int(serial, 16), "x"))


def _context(protocol: int, authority: str) -> ssl.SSLContext:
    context = ssl.SSLContext(protocol)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.verify_flags |= _STRICT
    try:
        context.load_verify_locations(cadata=authority)
    except (ssl.SSLError, ValueError) as error:
        raise WireError(f"(the authority's certificate cannot be used: {error})") from None
    return context
