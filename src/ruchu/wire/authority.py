"""The certificate authority of a server: it says who is the server and who is which node.

One self-signed root (path length 0) and three kinds of leaves, all ECDSA on P-256, which every
TLS library signs fastest. The subject of a node comes from the server, never from a request.

| leaf | for | name |
|---|---|---|
| server | `serverAuth` | `SERVER_NAME`, and the names given |
| node | `clientAuth` | common name: the id of the node |
| streams | `serverAuth` | `streams_name(node)`: a node that receives from other nodes |
"""

import datetime
import hashlib
import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ruchu.clock import Clock
from ruchu.errors import ProtocolViolation, WrongAuthorityKey
from ruchu.model import ids

SERVER_NAME: Final = "server.ruchu.internal"
"""What a node expects in the certificate of its server, whatever address it dials."""

AUTHORITY_LIFE: Final = datetime.timedelta(days=20 * 365)
SERVER_LIFE: Final = datetime.timedelta(days=90)
# Short, so that a stolen key is worth little; a node renews long before.
NODE_LIFE: Final = datetime.timedelta(days=7)
# Clocks of hosts differ; a certificate begins that much earlier.
SKEW: Final = datetime.timedelta(hours=1)
# A request on P-256 takes some 500 bytes.
REQUEST_LENGTH_MAX: Final = 8 << 10


@dataclass(frozen=True, slots=True)
class Issued:
    """A certificate with its key, both PEM."""

    certificate: str
    key: str


@dataclass(frozen=True, slots=True)
class Certificates:
    """What a node gets when it enrols or renews; all PEM.

    Attributes:
        node: its id.
        client: certificate that it dials with.
        streams: certificate that it receives streams of other nodes with; of the same key.
        authority: certificates that it trusts.
        serial: of `client`, as hex digits; what a revocation names.
    """

    node: str
    client: str
    streams: str
    authority: str
    serial: str


class Authority:
    """A certificate authority. Safe in several threads, since it never changes."""

    def __init__(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, clock: Clock
    ) -> None:
        self._certificate = certificate
        self._key = key
        self._clock = clock

    @classmethod
    def create(cls, clock: Clock) -> "Authority":
        """Make a new authority."""
        key = ec.generate_private_key(ec.SECP256R1())
        # A name of its own, so that a certificate of another server is never half trusted.
        name = _name(f"Ruchu authority {ids.new_id()}")
        builder = _builder(name, name, key.public_key(), clock.now(), AUTHORITY_LIFE)
        builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        builder = builder.add_extension(_usage(signs_certificates=True), True)
        return cls(_sign(builder, key, key.public_key()), key, clock)

    @classmethod
    def load(cls, pem: bytes, passphrase: bytes, clock: Clock) -> "Authority":
        """Open what `to_pem` wrote.

        Raises:
            WrongAuthorityKey: it does not open, or is none.
        """
        try:
            certificate = x509.load_pem_x509_certificate(pem)
            key = serialization.load_pem_private_key(pem, passphrase)
        except (ValueError, TypeError):
            raise WrongAuthorityKey from None
        if not isinstance(key, ec.EllipticCurvePrivateKey):
            raise WrongAuthorityKey("(its key is of another kind)")
        if key.public_key() != certificate.public_key():
            raise WrongAuthorityKey("(its key belongs to another certificate)")
        return cls(certificate, key, clock)

    def to_pem(self, passphrase: bytes) -> bytes:
        """Return certificate and key for keeping; the key is encrypted."""
        return self.certificate.encode() + self._key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(passphrase),
        )

    @property
    def certificate(self) -> str:
        """The certificate of the authority, PEM."""
        return _pem(self._certificate)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the certificate of the authority, in hex."""
        return fingerprint(self.certificate)

    def issue_server(self, names: Iterable[str]) -> Issued:
        """Return a fresh key and certificate of the server, for host names and addresses."""
        key = ec.generate_private_key(ec.SECP256R1())
        wanted = dict.fromkeys([SERVER_NAME, *names])
        certificate = self._leaf(
            key.public_key(),
            SERVER_NAME,
            SERVER_LIFE,
            ExtendedKeyUsageOID.SERVER_AUTH,
            [_alternative(name) for name in wanted],
        )
        return Issued(_pem(certificate), key_to_pem(key))

    def sign_node(
        self, request: str, node: str, life: datetime.timedelta = NODE_LIFE
    ) -> Certificates:
        """Certify the key of a certificate request (PEM) as a node.

        Raises:
            ProtocolViolation: the request is none, or its key is of another kind.
        """
        assert ids.is_id(node)
        public = _public_key(request)
        client = self._leaf(public, node, life, ExtendedKeyUsageOID.CLIENT_AUTH)
        name = streams_name(node)
        streams = self._leaf(
            public, name, life, ExtendedKeyUsageOID.SERVER_AUTH, [_alternative(name)]
        )
        return Certificates(
            node=node,
            client=_pem(client),
            streams=_pem(streams),
            authority=self.certificate,
            serial=format(client.serial_number, "x"),
        )

    def _leaf(
        self,
        public: ec.EllipticCurvePublicKey,
        name: str,
        life: datetime.timedelta,
        purpose: x509.ObjectIdentifier,
        alternatives: Iterable[x509.GeneralName] = (),
    ) -> x509.Certificate:
        now = self._clock.now()
        life = min(life, self._certificate.not_valid_after_utc - now)
        builder = _builder(_name(name), self._certificate.subject, public, now, life)
        builder = builder.add_extension(x509.BasicConstraints(ca=False, path_length=None), True)
        builder = builder.add_extension(_usage(signs_certificates=False), True)
        builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), False)
        alternatives = list(alternatives)
        if alternatives:
            builder = builder.add_extension(x509.SubjectAlternativeName(alternatives), False)
        return _sign(builder, self._key, self._key.public_key())


def streams_name(node: str) -> str:
    """Return the name of a node that receives streams of others."""
    return f"{node}.node.ruchu.internal"


def fingerprint(pem: str) -> str:
    """Return the SHA-256 of a certificate, in hex.

    Raises:
        ProtocolViolation: it is no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, UnicodeEncodeError):
        raise ProtocolViolation("(what should be a certificate is none)") from None
    return hashlib.sha256(certificate.public_bytes(serialization.Encoding.DER)).hexdigest()


@dataclass(frozen=True, slots=True)
class Life:
    """From when to when a certificate is valid."""

    start: datetime.datetime
    end: datetime.datetime

    def passed(self, now: datetime.datetime) -> float:
        """Return how much of it has passed, from 0 to 1 while it is valid."""
        return (now - self.start) / (self.end - self.start)


def life_of(pem: str) -> Life:
    """Return the life of a certificate, without the hour that it was dated back.

    Raises:
        ProtocolViolation: it is no certificate.
    """
    try:
        certificate = x509.load_pem_x509_certificate(pem.encode())
    except (ValueError, UnicodeEncodeError):
        raise ProtocolViolation("(what should be a certificate is none)") from None
    return Life(certificate.not_valid_before_utc + SKEW, certificate.not_valid_after_utc)


def new_key() -> ec.EllipticCurvePrivateKey:
    """Return a fresh key for a node."""
    return ec.generate_private_key(ec.SECP256R1())


def key_to_pem(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a key as PEM, not encrypted: for a file of mode 0600 or a descriptor of our own."""
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


def request_for(key: ec.EllipticCurvePrivateKey) -> str:
    """Return a certificate request (PEM) for a key. It names nobody: the server does."""
    builder = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))
    return builder.sign(key, hashes.SHA256()).public_bytes(serialization.Encoding.PEM).decode()


def key_digest(request: str) -> str:
    """Return what identifies the key of a certificate request: the SHA-256 of it, in hex.

    Raises:
        ProtocolViolation: the request is none.
    """
    encoding = serialization.Encoding.DER
    form = serialization.PublicFormat.SubjectPublicKeyInfo
    return hashlib.sha256(_public_key(request).public_bytes(encoding, form)).hexdigest()


def belongs(certificate: str, key: ec.EllipticCurvePrivateKey) -> bool:
    """Tell whether a certificate (PEM) is one of this key."""
    try:
        return x509.load_pem_x509_certificate(certificate.encode()).public_key() == key.public_key()
    except (ValueError, UnicodeEncodeError):
        return False


def _public_key(request: str) -> ec.EllipticCurvePublicKey:
    if len(request) > REQUEST_LENGTH_MAX:
        raise ProtocolViolation("(the certificate request is too long)")
    try:
        found = x509.load_pem_x509_csr(request.encode())
        public = found.public_key()
        valid = found.is_signature_valid
    # The last one comes from algorithms that the library does not know.
    except Exception as error:  # noqa: BLE001 - hostile bytes; the library names no closed list
        raise ProtocolViolation(f"(no certificate request: {type(error).__name__})") from None
    if not valid:
        raise ProtocolViolation("(the certificate request is not signed by its key)")
    if not isinstance(public, ec.EllipticCurvePublicKey):
        raise ProtocolViolation("(the certificate request has a key of another kind)")
    if not isinstance(public.curve, ec.SECP256R1):
        raise ProtocolViolation("(the certificate request has a key on another curve)")
    return public


def _name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])


def _alternative(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name.partition("%")[0]))
    except ValueError:
        return x509.DNSName(name)


def _builder(
    subject: x509.Name,
    issuer: x509.Name,
    public: ec.EllipticCurvePublicKey,
    now: datetime.datetime,
    life: datetime.timedelta,
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(public)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - SKEW)
        .not_valid_after(now + life)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public), False)
    )


def _sign(
    builder: x509.CertificateBuilder,
    key: ec.EllipticCurvePrivateKey,
    issuer: ec.EllipticCurvePublicKey,
) -> x509.Certificate:
    named = x509.AuthorityKeyIdentifier.from_issuer_public_key(issuer)
    return builder.add_extension(named, False).sign(key, hashes.SHA256())


def _usage(*, signs_certificates: bool) -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=not signs_certificates,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=signs_certificates,
        crl_sign=signs_certificates,
        encipher_only=False,
        decipher_only=False,
    )


def _pem(certificate: x509.Certificate) -> str:
    return certificate.public_bytes(serialization.Encoding.PEM).decode()
