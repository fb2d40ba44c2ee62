"""Whoever comes to the port of the server without being one of its nodes, or misbehaves as one.

Each is refused, an alarm tells of it once, nothing is written, and the nodes are served on.
"""

import asyncio
import contextlib
import dataclasses
import datetime
import json
import random
import socket
import ssl
import tempfile
import threading
from pathlib import Path

import aiohttp
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.clock import SYSTEM
from ruchu.errors import NodeAway, ProtocolViolation, Refused, WireError
from ruchu.model import ids
from ruchu.testing.clocks import ManualClock
from ruchu.testing.wire_sides import RecordingNode, RecordingServer, enrolled
from ruchu.wire import authority, calling, contexts, enrolment, messages
from ruchu.wire.authority import SERVER_NAME, Authority, Issued
from ruchu.wire.calling import Address, Connection
from ruchu.wire.dialler import Dialler, Patience
from ruchu.wire.enrolment import Invitation, Joining
from ruchu.wire.gate import Limits
from ruchu.wire.listener import Listener

ANYWHERE = Address("127.0.0.1", 0)
AT = "2026-11-26T12:00:00.000001Z"
QUICK = Patience(first_s=0.02, most_s=0.1, refused_s=0.1, ping_s=4)
LIMITS = Limits(handshake_s=1, request_s=1, body_s=1, hello_s=1, silence_s=20, send_s=3)


class Site:
    """A server with a node that behaves, and what an attacker needs."""

    def __init__(self, directory, limits=LIMITS):
        self.authority = Authority.create(SYSTEM)
        self.side = RecordingServer(self.authority)
        self.listener = Listener(ANYWHERE, self.authority, [], self.side, SYSTEM, limits)
        self.directory = directory

    def __enter__(self):
        self.listener.__enter__()
        path = self.directory / "good.json"
        self.good = enrolled(self.side, self.address, path)
        self.node = RecordingNode()
        self.dialler = Dialler(path, self.node, SYSTEM, random.Random(1), QUICK)
        self.dialler.__enter__()
        self.node.wait("connected")
        self.before = self.written()
        return self

    def __exit__(self, *what):
        self.dialler.__exit__(*what)
        self.listener.__exit__(*what)

    @property
    def address(self):
        return self.listener.address

    def written(self):
        return sorted(each.name for each in self.directory.iterdir())

    def identity(self):
        """Return a second node; its name is not in the folder that is watched."""
        return Joining.begin(self.side.invite(self.address)).enrol({})

    def check(self, *codes):
        """See that there was an alarm of each code, nothing else, and that the node is served."""
        for code in codes:
            self.side.wait("alarm", code)
        assert {each[1] for each in self.side.told.all if each[0] == "alarm"} == set(codes)
        assert self.written() == self.before
        beat = messages.Heartbeat(AT, {"id": ids.new_id()})
        self.dialler.send(beat)
        self.side.wait("received", self.good.node, beat)
        assert not [each for each in self.side.told.all if each[0] == "disconnected"]

    def said(self):
        """Return what reached the server from anybody but the node that behaves."""
        names = {"received", "connected", "renewed"}
        return [
            each for each in self.side.told.all if each[0] in names and each[1] != self.good.node
        ]


@pytest.fixture
def site(tmp_path):
    with Site(tmp_path) as found:
        yield found


def context_of(who, trusted=None):
    return contexts.for_client(trusted or who.authority, Issued(who.client, who.key))


def renew_with(site, context):
    request = authority.request_for(authority.new_key())
    connection = Connection(site.address, context, SERVER_NAME)
    return calling.call(connection, "POST", "/renew", {"request": request})


# ------------------------------------------------------------------------------------ tokens


def test_a_token_is_valid_once(site):
    invitation = site.side.invite(site.address)
    joining = Joining.begin(invitation)
    first = joining.enrol({})
    # The same key again: an answer that was lost.
    assert joining.enrol({}).node == first.node
    with pytest.raises(Refused, match="not valid"):
        Joining.begin(invitation).enrol({})
    site.check("wire-token")


def test_a_token_that_nobody_made_is_refused_and_a_flood_of_them_is_cut_off(site):
    strange = Invitation(site.address, enrolment.new_token(), site.authority.fingerprint)
    for _ in range(LIMITS.failed_enrolments):
        with pytest.raises(Refused, match="not valid"):
            Joining.begin(strange).enrol({})
    with pytest.raises(WireError, match="wait a minute"):
        Joining.begin(strange).enrol({})
    site.check("wire-token", "wire-token-flood")
    told = [each for each in site.side.told.all if each[0] == "alarm"]
    assert len(told) == 2


def test_the_token_is_not_said_to_another_server(site, tmp_path):
    real = site.side.invite(site.address)
    other = RecordingServer(Authority.create(SYSTEM))
    with Listener(ANYWHERE, other.authority, [], other, SYSTEM) as listener:
        misled = dataclasses.replace(real, address=listener.address)
        with pytest.raises(Refused, match="not the server"):
            Joining.begin(misled).enrol({})
        assert not other.told.all
    assert site.side.tokens[real.token] is None
    site.check()


def test_who_answers_in_place_of_the_server_after_the_question_learns_no_token(site):
    """It shows the right authority, which is public, and has no key of it."""
    other = Authority.create(SYSTEM)
    other_side = RecordingServer(other)
    with Listener(ANYWHERE, other, [], other_side, SYSTEM) as listener:
        context = contexts.for_client(site.authority.certificate)
        with pytest.raises(Refused, match="somebody else"):
            calling.call(Connection(listener.address, context, SERVER_NAME), "POST", "/enrol", {})
    assert [each[0] for each in other_side.told.all] in ([], ["alarm"])


@pytest.mark.parametrize(
    "document",
    [
        {},
        [],
        {"token": 1, "request": "x", "facts": {}},
        {"token": "x" * 100, "request": "x", "facts": []},
        {"token": "x" * 100_000, "request": "x", "facts": {}},
        {"token": "x", "request": "x" * 10_000, "facts": {}},
    ],
    ids=["empty", "list", "number", "facts", "large", "long"],
)
def test_an_enrolment_that_is_none_is_refused(site, document):
    connection = Connection(
        site.address, contexts.for_client(site.authority.certificate), SERVER_NAME
    )
    with pytest.raises((Refused, WireError)):
        calling.call(connection, "POST", "/enrol", document)
    site.check("wire-protocol")


def test_a_request_that_is_no_request_enrols_nobody(site):
    invitation = site.side.invite(site.address)
    connection = Connection(
        site.address, contexts.for_client(site.authority.certificate), SERVER_NAME
    )
    document = {"token": invitation.token, "request": "nonsense", "facts": {}}
    with pytest.raises(Refused):
        calling.call(connection, "POST", "/enrol", document)
    assert site.side.tokens[invitation.token] is None
    site.check("wire-protocol")


# ------------------------------------------------------------------------------ certificates


def test_a_stranger_may_enrol_and_nothing_else(site):
    for method, path in (("POST", "/renew"), ("GET", "/channel")):
        context = contexts.for_client(site.authority.certificate)
        with pytest.raises(Refused, match="no certificate"):
            calling.call(Connection(site.address, context, SERVER_NAME), method, path, {})
    site.check("wire-certificate")
    assert not site.said()


def test_a_certificate_of_another_authority_is_refused(site):
    foreign = Authority.create(SYSTEM)
    key = authority.new_key()
    found = foreign.sign_node(authority.request_for(key), site.good.node)
    own = Issued(found.client, authority.key_to_pem(key))
    with pytest.raises(WireError):
        renew_with(site, contexts.for_client(site.authority.certificate, own))
    site.check("wire-certificate")
    assert not site.said()


def test_an_expired_certificate_is_refused(site):
    clock = ManualClock(SYSTEM.now() - datetime.timedelta(days=8))
    old = Authority.load(site.authority.to_pem(b"p"), b"p", clock)
    key = authority.new_key()
    found = old.sign_node(authority.request_for(key), site.good.node)
    own = Issued(found.client, authority.key_to_pem(key))
    with pytest.raises(WireError):
        renew_with(site, contexts.for_client(site.authority.certificate, own))
    site.check("wire-certificate")
    assert "expired" in site.side.wait("alarm")[0][4]


def test_a_certificate_without_its_key_is_of_no_use(site):
    """Whoever stole only the certificate cannot even begin."""
    with pytest.raises(WireError, match="cannot be used"):
        contexts.for_client(
            site.authority.certificate,
            Issued(site.good.client, authority.key_to_pem(authority.new_key())),
        )
    site.check()


def test_a_certificate_for_streams_is_none_for_dialling(site):
    stolen = dataclasses.replace(site.good, client=site.good.streams)
    with pytest.raises(WireError):
        renew_with(site, context_of(stolen))
    site.check("wire-certificate")


@pytest.mark.parametrize("what", ["client", "streams"])
def test_a_node_cannot_pass_for_the_server(site, tmp_path, what):
    """A node of this very server answers at its address."""
    thief = site.identity()
    pem = getattr(thief, what)
    context = contexts.for_server(Issued(pem, thief.key), thief.authority)
    accepted = []

    def answer(listening):
        with contextlib.suppress(OSError):
            while True:
                plain, _ = listening.accept()
                with contextlib.suppress(OSError), plain:
                    tls = context.wrap_socket(plain, server_side=True)
                    accepted.append(tls.recv(1))
                    tls.close()

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=answer, args=(listening,))
        thread.start()
        port = listening.getsockname()[1]
        victim = dataclasses.replace(site.identity(), address=Address("127.0.0.1", port))
        with pytest.raises(Refused, match="somebody else"):
            enrolment.renew(victim)
        with tempfile.TemporaryDirectory() as directory:
            path = Path(directory) / "victim.json"
            victim.save(path)
            node = RecordingNode()
            with Dialler(path, node, SYSTEM, random.Random(1), QUICK):
                errors = node.wait("disconnected", count=2)
            assert all(isinstance(error, Refused) for _, error in errors)
        listening.shutdown(socket.SHUT_RDWR)
        thread.join()
    # Nothing was said to it.
    assert not any(accepted)
    assert not [each for each in node.told.all if each[0] == "connected"]


def test_a_revoked_node_is_cut_off_at_once_and_stays_out(site, tmp_path):
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "node.json"
        bad = enrolled(site.side, site.address, path)
        node = RecordingNode()
        with Dialler(path, node, SYSTEM, random.Random(1), QUICK):
            node.wait("connected")
            site.side.revoked.add(bad.node)
            site.listener.drop(bad.node, "it was revoked")
            site.side.wait("disconnected", bad.node, "it was revoked")
            with pytest.raises(NodeAway):
                site.listener.link(bad.node)
            site.side.wait("alarm", "wire-revoked")
            node.told.wait(lambda each: isinstance(each[-1], Refused))
            assert len(site.side.wait("connected", bad.node)) == 1
        with pytest.raises(Refused, match="removed"):
            enrolment.renew(bad)
    site.side.told.all[:] = [each for each in site.side.told.all if each[0] != "disconnected"]
    site.check("wire-revoked")


# --------------------------------------------------------------------------------- messages


async def speak(site, who, frames, *, reply=True):
    """Open a channel as a node, send frames, and return what comes back until it is closed."""
    found = []
    async with (
        aiohttp.ClientSession() as session,
        session.ws_connect(
            f"https://{site.address}/channel",
            ssl=context_of(who),
            server_hostname=SERVER_NAME,
            max_msg_size=0,
        ) as channel,
    ):
        for frame in frames:
            with contextlib.suppress(ConnectionError):
                await (channel.send_bytes if isinstance(frame, bytes) else channel.send_str)(frame)
        while reply:
            received = await channel.receive(20)
            if received.type is not aiohttp.WSMsgType.TEXT:
                break
            found.append(messages.decode(received.data))
    # TLS of the library needs some turns of the loop to close.
    await asyncio.sleep(0.05)
    return found


HELLO = messages.Hello(messages.VERSIONS, "0.1.0", "boot")


@pytest.mark.parametrize("versions", [(99,), (2, 3)])
def test_a_newer_or_older_protocol_is_refused_with_its_reason(site, versions):
    hello = dataclasses.replace(HELLO, versions=versions)
    found = asyncio.run(speak(site, site.identity(), [messages.encode(hello)]))
    assert [each.code for each in found] == ["incompatible"]
    assert "Update" in found[0].text
    site.check("wire-incompatible")
    assert not site.said()


def test_a_node_that_speaks_an_older_version_as_well_is_welcomed(site):
    hello = dataclasses.replace(HELLO, versions=(1, 99))
    who = site.identity()
    # What it must not say ends the connection, so that the test ends.
    found = asyncio.run(speak(site, who, [messages.encode(hello), "{}"]))
    assert [type(each) for each in found] == [messages.Welcome]
    assert found[0].version == 1


SPOILED = {
    "no message first": ["{}"],
    "not hello first": [messages.encode(messages.Heartbeat(AT))],
    "binary first": [b"\0" * 10],
    "hello twice": [messages.encode(HELLO), messages.encode(HELLO)],
    "binary": [messages.encode(HELLO), b"\0" * 10],
    "garbage": [messages.encode(HELLO), "garbage"],
    "what servers say": [messages.encode(HELLO), messages.encode(messages.StopTask("a" * 32))],
    "oversized": [messages.encode(HELLO), "x" * (messages.FRAME_BYTES_MAX + 2)],
    "oversized first": ["x" * (messages.FRAME_BYTES_MAX + 2)],
    "deep": [messages.encode(HELLO), '{"type":' + "[" * 100_000],
}


@pytest.mark.parametrize("name", SPOILED)
def test_who_breaks_the_protocol_is_cut_off(site, name):
    who = site.identity()
    found = asyncio.run(speak(site, who, SPOILED[name]))
    assert len(found) <= 1
    alarms = site.side.wait("alarm", "wire-protocol")
    assert [each[5]["node"] for each in alarms] == [who.node]
    assert not [each for each in site.said() if each[0] == "received"]
    site.side.told.all[:] = [each for each in site.side.told.all if each[1] != who.node]
    site.check("wire-protocol")


@pytest.fixture(scope="module")
def busy():
    with tempfile.TemporaryDirectory() as directory, Site(Path(directory)) as found:
        found.bad = found.identity()
        yield found


FRAMES = st.one_of(
    st.text(max_size=200),
    st.binary(max_size=200),
    st.sampled_from(
        [
            messages.encode(messages.Heartbeat(AT)),
            messages.encode(messages.Answer(ids.new_id(), value=1)),
            messages.encode(HELLO),
        ]
    ),
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=20),
        lambda inner: st.dictionaries(
            st.sampled_from(["type", "events", "ending", "task", "at", "load"]), inner, max_size=3
        ),
        max_leaves=8,
    ).map(lambda value: json.dumps(value).replace("\\u", "")),
)


@given(st.booleans(), st.lists(FRAMES, max_size=4))
def test_any_frames_of_a_node_end_its_connection_at_most(busy, greets, frames):
    said = [messages.encode(HELLO)] * greets + frames + ["the end"]
    asyncio.run(speak(busy, busy.bad, said))
    beat = messages.Heartbeat(AT, {"id": ids.new_id()})
    busy.dialler.send(beat)
    busy.side.wait("received", busy.good.node, beat)
    assert busy.written() == busy.before
    busy.side.told.clear()


# -------------------------------------------------------------------------------- below HTTP


def plain(site):
    found = socket.create_connection((site.address.host, site.address.port))
    found.settimeout(20)
    return found


def until_closed(connection):
    with contextlib.suppress(OSError):
        while connection.recv(1 << 16):
            pass


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", "wire-handshake"),
        (b"\x16\x03\x01", "wire-slow"),
        (b"", "wire-slow"),
        (b"\x16\x03\x01\x02\x00ruchu-stream/1", "wire-slow"),
        (b"\x16\x03\x01\x00\x20" + b"ruchu-stream/1" + b"\0" * 18, "wire-handshake"),
        (b"\x16\x03\x01\x40\x00" + b"\0" * 20_000, "wire-handshake"),
    ],
    ids=["http", "half a record", "silence", "half a stream", "no hello", "zeros"],
)
def test_what_is_no_handshake_ends_in_time(site, sent, code):
    with plain(site) as connection:
        connection.sendall(sent)
        until_closed(connection)
    site.check(code)


def test_tls_before_1_3_is_not_spoken(site):
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with plain(site) as connection, pytest.raises(ssl.SSLError):
        context.wrap_socket(connection)
    site.check("wire-handshake")


@pytest.mark.parametrize("streams", [False, True])
def test_a_request_that_comes_drop_by_drop_is_cut_off(site, streams):
    who = site.identity()
    context = context_of(who)
    if streams:
        context.set_alpn_protocols([contexts.STREAM_PROTOCOL])
    with (
        plain(site) as connection,
        context.wrap_socket(connection, server_hostname=SERVER_NAME) as tls,
    ):
        with contextlib.suppress(OSError):
            tls.sendall(b"GET /authority HTTP/1.1\r\nHost: ")
            while True:
                tls.sendall(b"x")
                threading.Event().wait(0.1)
        until_closed(tls)
    site.check("wire-slow")


def test_a_body_that_comes_drop_by_drop_is_cut_off(site):
    context = contexts.for_client(site.authority.certificate)
    with (
        plain(site) as connection,
        context.wrap_socket(connection, server_hostname=SERVER_NAME) as tls,
    ):
        with contextlib.suppress(OSError):
            tls.sendall(b"POST /enrol HTTP/1.1\r\nHost: x\r\nContent-Length: 1000\r\n\r\n{")
            while True:
                tls.sendall(b" ")
                threading.Event().wait(0.1)
        until_closed(tls)
    site.check("wire-slow")


def test_a_node_that_opens_a_channel_and_is_silent_is_cut_off(site):
    asyncio.run(speak(site, site.identity(), []))
    site.check("wire-slow")


HEADS = [
    b"\0\0\0\0\r\n\r\n",
    b"GET /authority HTTP/1.1\r\n" + b"X: " + b"y" * 10_000 + b"\r\n\r\n",
    b"GET /" + b"y" * 10_000 + b" HTTP/1.1\r\n\r\n",
    b"POST /enrol HTTP/1.1\r\nTransfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n0\r\n\r\n",
]


@pytest.mark.parametrize("number", range(len(HEADS)))
def test_what_is_no_request_is_refused(site, number):
    context = contexts.for_client(site.authority.certificate)
    with (
        plain(site) as connection,
        context.wrap_socket(connection, server_hostname=SERVER_NAME) as tls,
    ):
        tls.sendall(HEADS[number])
        until_closed(tls)
    site.check("wire-protocol")


PATHS = [
    "/",
    "/../../etc/passwd",
    "/streams/../../../etc/passwd",
    "/streams/%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "/enrol/../channel",
    "/authority/",
    "//authority",
]


@pytest.mark.parametrize("path", PATHS)
def test_there_are_no_other_paths(site, path):
    with pytest.raises(Refused, match="no such thing"):
        calling.call(
            Connection(site.address, context_of(site.identity()), SERVER_NAME), "GET", path
        )
    site.check("wire-request")


STREAM_PATHS = [
    "../../../etc/passwd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "..",
    "",
    "a" * 31,
    "A" * 32,
    "a" * 32 + "/../x",
    "a" * 32 + "%00",
    "a" * 32 + "?x=y",
]


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "POST"])
@pytest.mark.parametrize("stream", STREAM_PATHS)
def test_a_stream_is_an_id_and_nothing_else(busy, method, stream):
    context = context_of(busy.bad)
    context.set_alpn_protocols([contexts.STREAM_PROTOCOL])
    head = f"{method} /streams/{stream} HTTP/1.1\r\nAuthorization: Bearer x\r\n\r\n"
    with (
        plain(busy) as connection,
        context.wrap_socket(connection, server_hostname=SERVER_NAME) as tls,
    ):
        tls.sendall(head.encode())
        assert tls.recv(100).startswith(b"HTTP/1.1 400 ")
        until_closed(tls)
    assert busy.written() == busy.before


def test_more_connections_than_one_address_may_have_are_refused(tmp_path):
    limits = dataclasses.replace(LIMITS, per_address=5, handshake_s=20)
    with Site(tmp_path, limits) as site, contextlib.ExitStack() as stack:
        # One of the five is the node that behaves.
        held = [stack.enter_context(plain(site)) for _ in range(4)]
        for _ in range(20):
            with plain(site) as refused:
                until_closed(refused)
        site.check("wire-flood")
        assert len([each for each in site.side.told.all if each[0] == "alarm"]) == 1
        held.pop().close()
        # There is room again, as soon as the server has seen that.
        for _ in range(200):
            with contextlib.suppress(WireError):
                assert site.identity()
                break
            threading.Event().wait(0.02)
        else:
            pytest.fail("nobody can enrol any more")


def test_a_node_that_does_not_read_is_given_up(tmp_path):
    with Site(tmp_path) as site:
        who = site.identity()
        reading = context_of(who).wrap_socket(plain(site), server_hostname=SERVER_NAME)
        upgrade = (
            "GET /channel HTTP/1.1\r\nHost: x\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            "Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n\r\n"
        )
        hello = messages.encode(HELLO).encode()
        # Masked with zeros, which is allowed.
        frame = bytes([0x81, 0x80 | 126]) + len(hello).to_bytes(2, "big") + b"\0" * 4 + hello
        if len(hello) < 126:
            frame = bytes([0x81, 0x80 | len(hello)]) + b"\0" * 4 + hello
        with reading:
            reading.sendall(upgrade.encode() + frame)
            site.side.wait("connected", who.node)
            link = site.listener.link(who.node)
            ask = messages.Ask(ids.new_id(), "x", {"x": "y" * 1_000_000})
            with pytest.raises(NodeAway):
                for _ in range(200):
                    link.send(ask)
            site.side.wait("disconnected", who.node)
        site.side.told.all[:] = [each for each in site.side.told.all if each[1] != who.node]
        site.check()


def test_a_violation_is_no_reason_to_try_again():
    assert not ProtocolViolation.retry
