import datetime
import os
import stat

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from ruchu.clock import SYSTEM
from ruchu.errors import ProtocolViolation, Refused, UsageError, WireError, WrongAuthorityKey
from ruchu.model import ids
from ruchu.testing.clocks import ManualClock
from ruchu.wire import authority, contexts
from ruchu.wire.authority import SERVER_NAME, Authority, Issued
from ruchu.wire.calling import Address
from ruchu.wire.enrolment import Invitation
from ruchu.wire.identity import Identity

NODE = "0123456789abcdef" * 2


def parsed(pem):
    return x509.load_pem_x509_certificate(pem.encode())


def test_an_authority_is_kept_encrypted():
    made = Authority.create(SYSTEM)
    pem = made.to_pem(b"a passphrase")
    assert b"ENCRYPTED PRIVATE KEY" in pem
    found = Authority.load(pem, b"a passphrase", SYSTEM)
    assert found.fingerprint == made.fingerprint
    for wrong in (b"another", b""):
        with pytest.raises(WrongAuthorityKey):
            Authority.load(pem, wrong, SYSTEM)
    with pytest.raises(WrongAuthorityKey):
        Authority.load(b"", b"a passphrase", SYSTEM)


def test_a_key_of_another_authority_does_not_fit():
    one, other = (Authority.create(SYSTEM).to_pem(b"p").partition(b"-----BEGIN ENC") for _ in "12")
    with pytest.raises(WrongAuthorityKey, match="another certificate"):
        Authority.load(one[0] + other[1] + other[2], b"p", SYSTEM)


def test_every_certificate_says_what_it_is_for():
    clock = ManualClock()
    made = Authority.create(clock)
    key = authority.new_key()
    found = made.sign_node(authority.request_for(key), NODE)
    root, client, streams, server = (
        parsed(pem)
        for pem in (
            made.certificate,
            found.client,
            found.streams,
            made.issue_server(["backup.example", "192.0.2.7", "2001:db8::7"]).certificate,
        )
    )
    basic = x509.BasicConstraints
    assert root.extensions.get_extension_for_class(basic).value == basic(True, 0)
    assert root.extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
    purposes = {
        client: ExtendedKeyUsageOID.CLIENT_AUTH,
        streams: ExtendedKeyUsageOID.SERVER_AUTH,
        server: ExtendedKeyUsageOID.SERVER_AUTH,
    }
    root_key = root.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    for leaf, purpose in purposes.items():
        leaf.verify_directly_issued_by(root)
        extensions = leaf.extensions
        assert extensions.get_extension_for_class(basic).value == basic(False, None)
        assert not extensions.get_extension_for_class(x509.KeyUsage).value.key_cert_sign
        assert list(extensions.get_extension_for_class(x509.ExtendedKeyUsage).value) == [purpose]
        named = extensions.get_extension_for_class(x509.AuthorityKeyIdentifier).value
        assert named.key_identifier == root_key.key_identifier
        assert leaf.not_valid_before_utc == clock.now() - authority.SKEW
    assert client.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == NODE
    assert client.not_valid_after_utc == clock.now() + datetime.timedelta(days=7)
    names = server.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [SERVER_NAME, "backup.example"]
    assert [str(each) for each in names.get_values_for_type(x509.IPAddress)] == [
        "192.0.2.7",
        "2001:db8::7",
    ]
    assert len({root.serial_number, client.serial_number, streams.serial_number}) == 3
    assert found.serial == format(client.serial_number, "x")


def test_a_certificate_never_outlives_its_authority():
    clock = ManualClock()
    made = Authority.create(clock)
    clock.move(authority.AUTHORITY_LIFE - datetime.timedelta(days=1))
    found = made.sign_node(authority.request_for(authority.new_key()), NODE)
    assert parsed(found.client).not_valid_after_utc == parsed(made.certificate).not_valid_after_utc


def test_half_a_life_is_half_a_life():
    clock = ManualClock()
    life = authority.life_of(
        Authority.create(clock).sign_node(authority.request_for(authority.new_key()), NODE).client
    )
    assert life.passed(clock.now()) == 0
    assert life.passed(clock.now() + datetime.timedelta(days=3.5)) == 0.5
    with pytest.raises(ProtocolViolation):
        authority.life_of("nonsense")
    with pytest.raises(ProtocolViolation):
        authority.fingerprint("nonsense")


def test_the_subject_comes_from_the_server():
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "f" * 32)])
    request = (
        x509.CertificateSigningRequestBuilder()
        .subject_name(name)
        .add_extension(x509.BasicConstraints(True, None), True)
        .sign(key, hashes.SHA256())
        .public_bytes(serialization.Encoding.PEM)
        .decode()
    )
    found = parsed(Authority.create(SYSTEM).sign_node(request, NODE).client)
    assert found.subject.get_attributes_for_oid(NameOID.COMMON_NAME)[0].value == NODE
    assert not found.extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def requests_that_are_none():
    empty = x509.CertificateSigningRequestBuilder().subject_name(x509.Name([]))

    def pem(key, algorithm=None):
        signed = empty.sign(key, algorithm or hashes.SHA256())
        return signed.public_bytes(serialization.Encoding.PEM).decode()

    good = authority.request_for(authority.new_key())
    lines = good.splitlines()
    yield "", "empty"
    yield "x" * 100_000, "long"
    yield good.replace(lines[2][:8], "AAAAAAAA"), "changed"
    yield pem(rsa.generate_private_key(65537, 2048)), "rsa"
    yield pem(ec.generate_private_key(ec.SECP384R1())), "curve"
    unsigned = empty.sign(ed25519.Ed25519PrivateKey.generate(), None)
    yield unsigned.public_bytes(serialization.Encoding.PEM).decode(), "ed25519"
    yield Authority.create(SYSTEM).certificate, "certificate"
    yield good + "\ud800", "half a character"


@pytest.mark.parametrize(
    "request_", [pytest.param(text, id=name) for text, name in requests_that_are_none()]
)
def test_what_is_no_request_is_not_signed(request_):
    with pytest.raises(ProtocolViolation):
        Authority.create(SYSTEM).sign_node(request_, NODE)


def test_key_and_certificate_that_do_not_belong_together_are_found():
    made = Authority.create(SYSTEM)
    one, other = made.issue_server([]), made.issue_server([])
    with pytest.raises(WireError, match="cannot be used"):
        contexts.for_server(Issued(one.certificate, other.key), made.certificate)
    with pytest.raises(WireError, match="authority"):
        contexts.for_client("nonsense")


def test_a_peer_is_a_node_or_nobody():
    assert contexts.peer_of(None) is None
    assert contexts.peer_of({"subject": ((("commonName", "somebody"),),)}) is None
    subject = {"subject": ((("commonName", NODE),),), "serialNumber": "0AB1"}
    assert contexts.peer_of(subject) == contexts.Peer(NODE, "ab1")


TOKEN, PRINT = "aB-_x" * 8 + "yz0", "ab" * 32


@pytest.mark.parametrize("host", ["192.0.2.7", "2001:db8::7", "backup.example"])
def test_a_token_url_says_where_what_and_who(host):
    invitation = Invitation(Address(host, 8471), TOKEN, PRINT)
    assert Invitation.parse(f" {invitation}\n") == invitation
    assert TOKEN not in repr(invitation)


@pytest.mark.parametrize(
    ("url", "why"),
    [
        ("", "begins with"),
        (f"https://h:1/enrol#{TOKEN}.{PRINT}", "begins with"),
        (f"ruchu://h:1/other#{TOKEN}.{PRINT}", "begins with"),
        (f"ruchu://h/enrol#{TOKEN}.{PRINT}", "host and port"),
        (f"ruchu://:1/enrol#{TOKEN}.{PRINT}", "host and port"),
        (f"ruchu://u:p@h:1/enrol#{TOKEN}.{PRINT}", "host and port"),
        (f"ruchu://h:99999/enrol#{TOKEN}.{PRINT}", "address"),
        (f"ruchu://[h:1/enrol#{TOKEN}.{PRINT}", "address"),
        (f"ruchu://-h:1/enrol#{TOKEN}.{PRINT}", "host name"),
        (f"ruchu://h%2f:1/enrol#{TOKEN}.{PRINT}", "host name"),
        ("ruchu://h:1/enrol", "cut off"),
        (f"ruchu://h:1/enrol#{TOKEN}", "cut off"),
        (f"ruchu://h:1/enrol#{TOKEN}.{PRINT[:-1]}", "cut off"),
        (f"ruchu://h:1/enrol#{TOKEN[:-1]}.{PRINT}", "cut off"),
        (f"ruchu://h:1/enrol#{TOKEN}.{PRINT.upper()}", "changed"),
    ],
)
def test_a_token_url_that_is_none_is_refused_with_its_reason(url, why):
    with pytest.raises(UsageError, match=why) as caught:
        Invitation.parse(url)
    assert caught.value.advice or why == "name"


def identity():
    made = Authority.create(SYSTEM)
    key = authority.new_key()
    found = made.sign_node(authority.request_for(key), ids.new_id())
    return Identity(
        Address("192.0.2.7", 8471),
        found.node,
        authority.key_to_pem(key),
        found.client,
        found.streams,
        found.authority,
    )


def test_an_identity_is_for_its_owner_only(tmp_path):
    path, wanted = tmp_path / "node.json", identity()
    umask = os.umask(0)
    try:
        wanted.save(path)
        wanted.save(path)
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert Identity.load(path) == wanted
    assert "PRIVATE" not in repr(wanted)
    assert [each.name for each in tmp_path.iterdir()] == ["node.json"]
    path.chmod(0o640)
    with pytest.raises(Refused, match="read by others"):
        Identity.load(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"address": 1}', "\0", "[" * 10_000])
def test_a_damaged_identity_is_refused(tmp_path, content):
    path = tmp_path / "node.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(Refused, match="damaged"):
        Identity.load(path)


def test_an_identity_that_cannot_be_written_says_so(tmp_path):
    with pytest.raises(WireError, match="No such file"):
        identity().save(tmp_path / "missing" / "node.json")
