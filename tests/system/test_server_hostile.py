"""Whoever comes to the ports of a running server without being asked in.

Each is refused; the alarm can be read over the API; no row and no file is there that was not there
before; the server's own node stays online. Every attack comes from a loopback address of its own,
so that its alarm is told from all others.
"""

import asyncio
import contextlib
import dataclasses
import http.client
import itertools
import json
import random
import socket
import sqlite3
import ssl
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import pytest

from ruchu.clock import SYSTEM
from ruchu.errors import Refused
from ruchu.model.tasks import Severity, TaskEvent
from ruchu.testing.servers import Server
from ruchu.testing.wire_sides import RecordingNode
from ruchu.wire import authority, contexts, messages
from ruchu.wire.authority import SERVER_NAME, Authority, Issued
from ruchu.wire.calling import Address
from ruchu.wire.dialler import Dialler, Patience
from ruchu.wire.enrolment import Invitation, Joining

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]

# Nothing takes so long, unless it is broken: the ports give up after ten seconds.
LIMIT_S = 60
# What grows because somebody was refused: that is told, and written down.
TOLD = {
    "alarms",
    "alarm_history",
    "alarm_routes",
    "alarm_deliveries",
    "events",
    "audit_records",
    "sqlite_sequence",
}
AT = "2026-11-26T12:00:00.000001Z"
HELLO = messages.Hello(messages.VERSIONS, "0.1.0", "boot")
QUICK = Patience(first_s=0.05, most_s=0.2, refused_s=0.2)


class Site:
    """A server that runs, and what an attacker knows of it."""

    def __init__(self, server):
        self.server = server
        host, _, port = server.process.line["nodes"].rpartition(":")
        self.address = Address(host, int(port))
        api = urlsplit(server.process.line["url"])
        self.api = (api.hostname, api.port)
        self._sources = (f"127.0.0.{last}" for last in itertools.count(10))
        self._names = (f"far-{number}" for number in itertools.count())
        self.authority = Joining.begin(self.invite())._authority()

    def source(self):
        """Return an address that nobody came from before."""
        return next(self._sources)

    def invite(self):
        made = self.server.post("/nodes/tokens", {"name": next(self._names)})
        return Invitation.parse(made["url"])

    def enrolled(self):
        """Return who a new node is."""
        return Joining.begin(self.invite()).enrol({"host": "far"})

    def stranger(self):
        return contexts.for_client(self.authority)

    def written(self):
        """Return how many rows each table has, and the names of all files."""
        state = self.server.state
        with contextlib.closing(sqlite3.connect(f"file:{state}/ruchu.db?mode=ro", uri=True)) as db:
            tables = [
                row[0] for row in db.execute("SELECT name FROM sqlite_schema WHERE type='table'")
            ]
            counts = {
                name: db.execute(f'SELECT count(*) FROM "{name}"').fetchone()[0]
                for name in tables
                if name not in TOLD
            }
        # Scratch files of the databases, and of questions to the node, come and go.
        passing = ("-wal", "-shm", "-journal", ".partial", ".new")
        files = {
            str(path.relative_to(self.server.home))
            for path in self.server.home.rglob("*")
            if not path.name.endswith(passing) and "/node/ask-" not in str(path)
        }
        return counts, files

    def told(self, code, source):
        """Wait for the alarm of an attack."""
        return self.server.until(
            lambda: next(
                (
                    each
                    for each in self.server.get("/alarms")
                    if (each["code"], each["subject"]) == (code, source)
                ),
                None,
            ),
            LIMIT_S,
        )

    def check(self, before):
        """See that nothing was written and that the server works on."""
        assert self.written() == before
        self.server.nodes_online(1)


@pytest.fixture(scope="module")
def running(tmp_path_factory):
    with Server(tmp_path_factory.mktemp("hostile")) as server:
        server.nodes_online(1)
        # What the node makes for itself when it is asked for the first time.
        assert server.get("/nodes/server/doctor")
        yield Site(server)


@pytest.fixture
def site(running):
    return running


def connection(site, source):
    found = socket.create_connection(
        (site.address.host, site.address.port), LIMIT_S, source_address=(source, 0)
    )
    found.settimeout(LIMIT_S)
    return found


def call(site, source, context, method, path, document=None):
    """Ask the port of the nodes; return the status and what was answered."""
    with (
        connection(site, source) as plain,
        context.wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        asking = http.client.HTTPConnection("server")
        asking.sock = tls
        asking.request(method, path, json.dumps(document) if document is not None else None)
        answer = asking.getresponse()
        return answer.status, json.loads(answer.read() or b"null")


def enrol(site, source, token, key):
    document = {"token": token, "request": authority.request_for(key), "facts": {}}
    return call(site, source, site.stranger(), "POST", "/enrol", document)


def context_of(site, who):
    return contexts.for_client(site.authority, Issued(who.client, who.key))


def renew(site, source, context):
    document = {"request": authority.request_for(authority.new_key())}
    return call(site, source, context, "POST", "/renew", document)


def until_closed(plain):
    with contextlib.suppress(OSError):
        while plain.recv(1 << 16):
            pass


# ------------------------------------------------------------------------------------ tokens


def test_a_token_that_was_used_is_of_no_use_to_another(site):
    invitation, source = site.invite(), site.source()
    assert enrol(site, source, invitation.token, authority.new_key())[0] == 200
    before = site.written()
    status, said = enrol(site, source, invitation.token, authority.new_key())
    assert status == 403
    assert "used before" in said["text"]
    site.told("wire-token", source)
    site.check(before)


def test_a_token_that_is_too_old_is_refused(site):
    invitation, source = site.invite(), site.source()
    # A day passes for this token.
    with contextlib.closing(sqlite3.connect(site.server.state / "ruchu.db", timeout=30)) as db, db:
        past = "2020-01-01T00:00:00.000000Z"
        db.execute("UPDATE node_tokens SET expires = ? WHERE used IS NULL", (past,))
    before = site.written()
    status, said = enrol(site, source, invitation.token, authority.new_key())
    assert status == 403
    assert "too old" in said["text"]
    site.told("wire-token", source)
    site.check(before)


def test_whoever_tries_tokens_one_after_the_other_has_to_wait(site):
    source, before = site.source(), site.written()
    found = [enrol(site, source, "x" * 43, authority.new_key())[0] for _ in range(7)]
    assert found == [403] * 5 + [429] * 2
    site.told("wire-token", source)
    site.told("wire-token-flood", source)
    site.check(before)


# ------------------------------------------------------------------------------ certificates


def test_a_certificate_of_another_authority_is_refused(site):
    victim, source = site.enrolled(), site.source()
    before = site.written()
    key = authority.new_key()
    foreign = Authority.create(SYSTEM).sign_node(authority.request_for(key), victim.node)
    own = Issued(foreign.client, authority.key_to_pem(key))
    with pytest.raises(OSError, match=r"(?i)alert|reset|closed|EOF"):
        renew(site, source, contexts.for_client(site.authority, own))
    assert "certificate" in site.told("wire-certificate", source)["text"]
    site.check(before)


def test_nobody_comes_in_without_a_certificate(site):
    source, before = site.source(), site.written()
    assert renew(site, source, site.stranger())[0] == 403
    assert call(site, source, site.stranger(), "GET", "/channel")[0] == 403
    site.told("wire-certificate", source)
    site.check(before)


def test_a_stolen_certificate_ends_with_the_renewal_of_its_owner(site):
    stolen, source = site.enrolled(), site.source()
    key = authority.new_key()
    document = {"request": authority.request_for(key)}
    status, fresh = call(site, "127.0.0.1", context_of(site, stolen), "POST", "/renew", document)
    assert status == 200
    owner = dataclasses.replace(stolen, client=fresh["client"], key=authority.key_to_pem(key))
    assert asyncio.run(speak(site, "127.0.0.1", owner, [messages.encode(HELLO)], last=1))
    before = site.written()
    assert renew(site, source, context_of(site, stolen))[0] == 403
    site.told("wire-revoked", source)
    site.check(before)


def test_the_lines_of_a_revoked_node_are_cut_and_it_stays_out(site, tmp_path):
    bad, source = site.enrolled(), site.source()
    path = tmp_path / "identity.json"
    bad.save(path)
    node = RecordingNode()
    streams = contexts.for_streams(site.authority, Issued(bad.client, bad.key))
    with (
        Dialler(path, node, SYSTEM, random.Random(1), QUICK),
        connection(site, source) as plain,
        streams.wrap_socket(plain, server_hostname=SERVER_NAME) as stream,
    ):
        node.wait("connected")
        stream.sendall(b"GET /streams/")
        before = site.written()
        assert site.server.call("DELETE", f"/nodes/{bad.node}")["state"] == "revoked"
        node.wait("disconnected")
        until_closed(stream)
        node.told.wait(lambda each: isinstance(each[-1], Refused))
        assert len(node.wait("connected")) == 1
    site.told("wire-revoked", "127.0.0.1")
    # Its stream was cut, and not given up for being slow.
    assert not [each for each in site.server.get("/alarms") if each["subject"] == source]
    assert renew(site, source, context_of(site, bad))[0] == 403
    site.told("wire-revoked", source)
    site.check(before)


# --------------------------------------------------------------------------------- messages


async def speak(site, source, who, frames, last=None):
    """Open a channel, send frames, and return what comes back until it is closed."""
    found = []
    connector = aiohttp.TCPConnector(local_addr=(source, 0), force_close=True)
    async with (
        aiohttp.ClientSession(connector=connector) as session,
        session.ws_connect(
            f"https://{site.address}/channel",
            ssl=context_of(site, who),
            server_hostname=SERVER_NAME,
            max_msg_size=0,
        ) as channel,
    ):
        for frame in frames:
            with contextlib.suppress(ConnectionError):
                await channel.send_str(frame)
        while last is None or len(found) < last:
            received = await channel.receive(LIMIT_S)
            if received.type is not aiohttp.WSMsgType.TEXT:
                break
            found.append(messages.decode(received.data))
    # TLS of the library needs some turns of the loop to close.
    await asyncio.sleep(0.05)
    return found


@pytest.mark.parametrize("versions", [(99,), (98, 2)])
def test_a_newer_version_of_the_protocol_is_refused_and_shown(site, versions):
    who, source = site.enrolled(), site.source()
    before = site.written()
    hello = dataclasses.replace(HELLO, versions=versions, release="9.9")
    (said,) = asyncio.run(speak(site, source, who, [messages.encode(hello)]))
    assert said.code == "incompatible"
    assert "Update the server" in said.text
    site.told("wire-incompatible", source)
    shown = site.server.get(f"/nodes/{who.node}")
    assert (shown["state"], shown["release"]) == ("incompatible", "9.9")
    site.told("node-incompatible", shown["name"])
    site.check(before)


SPOILED = {
    # There was none before the first.
    "an older version": [messages.encode(dataclasses.replace(HELLO, versions=(0,)))],
    "no version": [messages.encode(dataclasses.replace(HELLO, versions=()))],
    "oversized": [messages.encode(HELLO), "x" * (messages.FRAME_BYTES_MAX + 2)],
    "oversized first": ["x" * (messages.FRAME_BYTES_MAX + 2)],
    "deep": [messages.encode(HELLO), '{"type":' + "[" * 100_000],
    "garbage": [messages.encode(HELLO), "garbage"],
    "path as a task": [
        messages.encode(HELLO),
        messages.encode(
            messages.TaskEvents((TaskEvent("../../etc/passwd", 1, 1, AT, "phase", {}),))
        ),
    ],
}


@pytest.mark.parametrize("name", SPOILED)
def test_a_node_that_breaks_the_protocol_is_cut_off(site, name):
    who, source = site.enrolled(), site.source()
    before = site.written()
    found = asyncio.run(speak(site, source, who, SPOILED[name]))
    assert [type(each) for each in found] in ([], [messages.Welcome])
    site.told("wire-protocol", source)
    site.check(before)


def test_a_node_takes_back_only_what_it_may(site):
    """It may raise and clear alarms of its guards; what others told stays."""
    who, source, victim = site.enrolled(), site.source(), site.source()
    renew(site, victim, site.stranger())
    site.told("wire-certificate", victim)
    over = messages.NodeAlarm(
        "wire-certificate", Severity.INFO, victim, "", {"over": True, "id": "0" * 32}
    )
    frames = [messages.encode(HELLO), messages.encode(over)]
    found = asyncio.run(speak(site, source, who, frames, last=2))
    # It has been heard, and the alarm is open still.
    assert [type(each) for each in found] == [messages.Welcome, messages.Acknowledge]
    assert site.told("wire-certificate", victim)["state"] == "open"


# ----------------------------------------------------------------------------- slow and wrong


def drip(plain, begin):
    """Send a byte now and then until the other side has had enough."""
    plain.settimeout(0.2)
    with contextlib.suppress(OSError):
        plain.sendall(begin)
        while True:
            plain.sendall(b"x")
            with contextlib.suppress(TimeoutError):
                if not plain.recv(1):
                    return


@pytest.mark.parametrize("begin", [b"", b"\x16\x03\x01\x02\x00"], ids=["silence", "half a hello"])
def test_a_handshake_that_never_ends_is_ended(site, begin):
    source, before = site.source(), site.written()
    with connection(site, source) as plain:
        plain.sendall(begin)
        until_closed(plain)
    site.told("wire-slow", source)
    site.check(before)


def test_a_request_of_a_node_that_comes_drop_by_drop_is_ended(site):
    source, before = site.source(), site.written()
    with (
        connection(site, source) as plain,
        site.stranger().wrap_socket(plain, server_hostname=SERVER_NAME) as tls,
    ):
        drip(tls, b"GET /authority HTTP/1.1\r\nHost: ")
    site.told("wire-slow", source)
    site.check(before)


def test_old_tls_and_no_tls_are_refused(site):
    source, before = site.source(), site.written()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.maximum_version = ssl.TLSVersion.TLSv1_2
    with (
        connection(site, source) as plain,
        pytest.raises(OSError, match=r"(?i)protocol|alert|reset|EOF"),
    ):
        context.wrap_socket(plain)
    site.told("wire-handshake", source)
    site.check(before)


def api(site):
    found = socket.create_connection(site.api, LIMIT_S)
    found.settimeout(LIMIT_S)
    return found


HALF = {
    "first line": b"GET /api/v1/about?x=",
    "header": b"GET /api/v1/about HTTP/1.1\r\nHost: x\r\nX-Slow: ",
}


@pytest.mark.parametrize("name", HALF)
def test_a_request_to_the_console_that_comes_drop_by_drop_is_ended(site, name):
    before = site.written()
    with contextlib.ExitStack() as stack:
        held = [stack.enter_context(api(site)) for _ in range(50)]
        for each in held[1:]:
            each.sendall(HALF[name])
        drip(held[0], HALF[name])
        # The others were not served either, and the server answers meanwhile.
        assert site.server.client.get("/about").status_code == 200
        for each in held[1:]:
            until_closed(each)
    site.check(before)


# ----------------------------------------------------------------------------------- names

NAMES = (
    "../evil",
    "../../../../../../tmp/evil",
    "..",
    ".",
    "/etc/evil",
    "evil/../../evil",
    "..\\evil",
    "evil\0",
    "ev\nil",
    "",
)
POLICY = {
    "selection": {"platform": "kvm", "patterns": ["*"]}, "storage": "main",
    "schedules": [], "retention": {"count": 1},
}  # fmt: skip
BODIES = {
    "storage": ("/storages", lambda name: {"name": name, "location": "/nowhere/evil"}),
    "adopted storage": (
        "/storages", lambda name: {"name": name, "location": "/nowhere/evil", "adopt": True},
    ),
    "node of a storage": (
        "/storages", lambda name: {"name": "x", "location": "/nowhere/evil", "nodes": [name]},
    ),
    "location": ("/storages", lambda name: {"name": "x", "location": name.lstrip("/")}),
    "location of a server": (
        "/storages", lambda name: {"name": "x", "location": f"file://{name.lstrip('/')}"},
    ),
    "platform": ("/platforms", lambda name: {"name": name, "uri": "qemu:///system"}),
    "node": ("/nodes/tokens", lambda name: {"name": name}),
    "policy": ("/policies", lambda name: {**POLICY, "name": name}),
    "storage of a policy": ("/policies", lambda name: {**POLICY, "name": "p", "storage": name}),
    "user": ("/users", lambda name: {"name": name, "password": "green river nine stones 4"}),
    "storage of a run": ("/runs", lambda name: {"kind": "verify", "body": {"storage": name}}),
    "point of a run": ("/runs", lambda name: {"kind": "restore", "body": {"point": name}}),
    "points": ("/points/delete", lambda name: {"storage": "main", "points": [name]}),
}  # fmt: skip


@pytest.mark.parametrize("what", BODIES)
def test_a_name_that_is_a_path_is_refused(site, what):
    path, body = BODIES[what]
    before = site.written()
    for name in NAMES:
        answer = site.server.client.post(path, json=body(name))
        # What only a node can tell, it refuses.
        refused = 400 <= answer.status_code < 500 or answer.json()["code"] == "node-failed"
        assert refused, (name, answer.status_code, answer.text)
        assert answer.headers["content-type"] == "application/problem+json"
    assert not list(Path("/tmp").glob("evil*"))
    assert not Path("/nowhere").exists()
    site.check(before)


PATHS = (
    "/storages/{}", "/platforms/{}", "/nodes/{}", "/policies/{}", "/runs/{}", "/runs/{}/history",
    "/points/{}", "/alarms/{}", "/users/{}", "/approvals/{}", "/nodes/{}/doctor",
)  # fmt: skip
ENCODED = (
    "..%2f..%2f..%2fetc%2fpasswd",
    "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "../../../../etc/passwd",
    "..%5c..%5cetc%5cpasswd",
    "%2fetc%2fpasswd",
    "x%00",
    "..",
    "%2e%2e",
)


def raw(site, source, method, path, body=None):
    """Ask for exactly this path: libraries would tidy it."""
    asking = http.client.HTTPConnection(*site.api, timeout=LIMIT_S, source_address=(source, 0))
    headers = {"Authorization": site.server.client.headers["Authorization"]}
    with contextlib.closing(asking):
        asking.putrequest(method, path, skip_host=False)
        content = json.dumps(body).encode() if body is not None else b""
        for key, value in {**headers, "Content-Length": str(len(content))}.items():
            asking.putheader(key, value)
        if body is not None:
            asking.putheader("Content-Type", "application/json")
        asking.endheaders(content)
        answer = asking.getresponse()
        return answer.status, answer.read()


@pytest.mark.parametrize("path", PATHS)
def test_an_address_that_is_a_path_leads_nowhere(site, path):
    before, source = site.written(), site.source()
    for name in ENCODED:
        for method in ("GET", "DELETE", "PATCH", "PUT"):
            status, said = raw(
                site,
                source,
                method,
                "/api/v1" + path.format(name),
                {} if method[0] == "P" else None,
            )
            assert 400 <= status < 500, (method, name, status, said)
            assert b"root:" not in said
            assert status != 429
    site.check(before)


@pytest.mark.parametrize(
    ("path", "body"),
    [
        ("/alarm-rules/{}", {"channels": []}),
        ("/alarm-channels/{}", {"kind": "webhook", "settings": {"url": "http://127.0.0.1:9/"}}),
        ("/groups/{}", {}),
    ],
)
def test_a_document_is_not_written_under_a_path(site, path, body):
    before, source = site.written(), site.source()
    for name in ENCODED:
        status, said = raw(site, source, "PUT", "/api/v1" + path.format(name), body)
        assert 400 <= status < 500, (name, status, said)
    site.check(before)


def test_no_file_is_served(site):
    for path in (
        "/../../../../etc/passwd",
        "//etc/passwd",
        "/%2e%2e/%2e%2e/etc/passwd",
        "/static/../../x",
    ):
        status, said = raw(site, site.source(), "GET", path)
        assert 400 <= status < 500, (path, status)
        assert b"root:" not in said
