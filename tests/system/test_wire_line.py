"""Server and nodes on real sockets, with a line between them that is cut, slow, or swallows all."""

import dataclasses
import datetime
import random
import threading

import pytest

from ruchu.clock import SYSTEM, to_text
from ruchu.errors import NodeAway, Refused, WireError
from ruchu.model import ids
from ruchu.model.tasks import TaskEvent
from ruchu.testing.clocks import ManualClock
from ruchu.testing.lines import Line
from ruchu.testing.wire_sides import WAIT_LIMIT_S, RecordingNode, RecordingServer, enrolled
from ruchu.wire import authority, contexts, messages
from ruchu.wire.authority import SERVER_NAME, Authority, Issued
from ruchu.wire.calling import Address
from ruchu.wire.dialler import Dialler, Patience
from ruchu.wire.gate import Limits
from ruchu.wire.identity import Identity
from ruchu.wire.listener import Listener
from ruchu.wire.stream_client import Persistence, StreamClient, Target
from ruchu.wire.streams import FileSink, FileSource, Ticket

ANYWHERE = Address("127.0.0.1", 0)
AT = "2026-11-26T12:00:00.000001Z"
QUICK = Patience(first_s=0.02, most_s=0.1, refused_s=0.1, ping_s=1, renewal_s=0.05)
PERSISTENT = Persistence(first_s=0.01, most_s=0.05, limit_s=WAIT_LIMIT_S, stall_s=WAIT_LIMIT_S)


@pytest.fixture
def server():
    return RecordingServer(Authority.create(SYSTEM))


@pytest.fixture
def listener(server):
    limits = Limits(silence_s=60)
    with Listener(ANYWHERE, server.authority, [], server, SYSTEM, limits) as found:
        yield found


@pytest.fixture
def line(listener):
    with Line((listener.address.host, listener.address.port)) as found:
        yield found


@pytest.fixture
def path(tmp_path):
    return tmp_path / "node.json"


@pytest.fixture
def identity(server, line, path):
    """Return a node that was enrolled through the line, and dials through it."""
    return enrolled(server, Address("127.0.0.1", line.port), path)


@pytest.fixture
def node():
    return RecordingNode()


@pytest.fixture
def dialler(identity, node, path, rng):
    with Dialler(path, node, SYSTEM, rng, QUICK) as found:
        node.wait("connected")
        yield found


class Journal:
    """What a node keeps until it is acknowledged, and what the server has of it."""

    def __init__(self, task):
        self.task = task
        self.kept = []
        self.got = []

    def keep(self, number):
        self.kept.append(TaskEvent(self.task, 1, number, AT, "log", {"text": "x" * 100}))

    def take(self, link, message):
        for event in message.events:
            if event.number == len(self.got) + 1:
                self.got.append(event.number)
        link.send(messages.Acknowledge(self.task, 1, len(self.got), False))


@pytest.mark.slow
def test_events_arrive_once_each_over_a_line_that_is_cut_again_and_again(
    server, listener, line, identity, node, path, rng
):
    """The flow of the control plane: what was not acknowledged is sent again after a connect."""
    journal, lock = Journal(ids.new_id()), threading.Lock()
    server.on_received = journal.take
    holder = {}

    def acknowledged(message):
        with lock:
            journal.kept = [each for each in journal.kept if each.number > message.number]

    def resend(_=None):
        with lock:
            kept = tuple(journal.kept)
        for each in kept:
            try:
                holder["dialler"].send(messages.TaskEvents((each,)))
            except NodeAway:
                return

    node.on_received = acknowledged
    told = node.connected
    node.connected = lambda welcome: (told(welcome), resend())
    with Dialler(path, node, SYSTEM, rng, QUICK) as dialler:
        holder["dialler"] = dialler
        node.wait("connected")
        for number in range(1, 201):
            with lock:
                journal.keep(number)
            if number % 40 == 0:
                line.cut()
                line.mend()
            resend() if number % 10 == 0 else None
        server.told.wait(lambda _: journal.got == list(range(1, 201)))
        node.told.wait(lambda _: not journal.kept)
    assert journal.got == list(range(1, 201))
    assert len(node.wait("connected")) >= 2


def test_a_swallowed_line_is_noticed_by_the_node_and_replaced(
    server, listener, line, identity, dialler, node
):
    line.swallow()
    node.wait("disconnected")
    line.mend()
    server.wait("connected", identity.node, count=2)
    # The server learns of the first one's end by the second at the latest.
    names = [each[0] for each in server.told.all if each[0] in {"connected", "disconnected"}]
    assert names[:3] == ["connected", "disconnected", "connected"]


def test_a_slow_line_is_no_cut_line(server, listener, line, identity, dialler):
    line.delay_s = 0.1
    for number in range(5):
        dialler.send(messages.Heartbeat(AT, {"number": number}))
    server.wait("received", identity.node, messages.Heartbeat(AT, {"number": 4}))
    assert len(server.wait("connected")) == 1


def test_a_server_that_comes_back_finds_its_node(server, path, rng):
    """The same port, the same authority, another process so to speak."""
    node = RecordingNode()
    with Listener(ANYWHERE, server.authority, [], server, SYSTEM) as listener:
        address = listener.address
        identity = enrolled(server, address, path)
        dialler = Dialler(path, node, SYSTEM, rng, QUICK)
        dialler.__enter__()
        node.wait("connected")
    try:
        server.wait("disconnected", identity.node)
        node.wait("disconnected", count=3)
        again = RecordingServer(Authority.load(server.authority.to_pem(b"key"), b"key", SYSTEM))
        with Listener(address, again.authority, [], again, SYSTEM):
            again.wait("connected", identity.node)
    finally:
        dialler.__exit__()


def test_a_silent_node_is_cut_off(server, path, rng):
    limits = Limits(silence_s=0.3)
    with Listener(ANYWHERE, server.authority, [], server, SYSTEM, limits) as listener:
        identity = enrolled(server, listener.address, path)
        # Pings of the library keep a line open, and are no sign of life of a node.
        with Dialler(path, RecordingNode(), SYSTEM, rng, QUICK):
            assert "silent" in server.wait("disconnected", identity.node)[0][2]


# --------------------------------------------------------------------------------- renewal


def test_a_certificate_is_renewed_before_two_thirds_of_its_life(server, listener, path, rng):
    identity = enrolled(server, listener.address, path)
    clock = ManualClock(SYSTEM.now())
    node = RecordingNode()
    with Dialler(path, node, clock, rng, QUICK) as dialler:
        node.wait("connected")
        clock.move(authority.NODE_LIFE * 0.49)
        threading.Event().wait(0.2)
        assert not [each for each in node.told.all if each[0] == "renewed"]
        clock.move(authority.NODE_LIFE * 0.02)
        renewed = node.wait("renewed")[0][1]
        assert dialler.identity.node == identity.node
    assert renewed.key != identity.key
    assert renewed.client != identity.client
    found = Identity.load(path)
    assert found.node == identity.node
    server.wait("renewed", identity.node)
    # What was renewed is what it dials with.
    with Dialler(path, RecordingNode(), SYSTEM, rng, QUICK):
        links = [each[3] for each in server.wait("connected", identity.node, count=2)]
    assert links[0].serial != links[1].serial


def test_a_renewal_that_fails_is_told_and_tried_again(server, listener, path, rng):
    enrolled(server, listener.address, path)
    clock = ManualClock(SYSTEM.now() + authority.NODE_LIFE * 0.6)
    node, renew = RecordingNode(), server.renew

    def refuse(*_):
        raise Refused("(not now)")

    server.renew = refuse
    with Dialler(path, node, clock, rng, QUICK):
        node.told.wait(lambda each: "not renewed" in str(each[-1]))
        server.renew = renew
        node.wait("renewed")


def test_the_certificate_of_the_server_renews_itself(server):
    clock = ManualClock(SYSTEM.now())
    with Listener(ANYWHERE, server.authority, [], server, clock) as listener:
        assert not listener.renew_certificate()
        clock.move(authority.SERVER_LIFE * 0.7)
        aged = Authority.load(server.authority.to_pem(b"key"), b"key", clock)
        listener._authority = aged
        assert listener.renew_certificate()
        assert not listener.renew_certificate()


# ---------------------------------------------------------------------------------- streams


def stream_to(listener_port, identity, ticket, rng):
    context = contexts.for_streams(identity.authority, Issued(identity.client, identity.key))
    target = Target(Address("127.0.0.1", listener_port), SERVER_NAME, context)
    return StreamClient(target, ticket, SYSTEM, rng, PERSISTENT)


def test_a_server_takes_and_gives_streams_over_cuts(listener, line, identity, rng, tmp_path):
    content = rng.randbytes(10_000_000)
    (tmp_path / "source").write_bytes(content)
    with FileSource(tmp_path / "source") as source, FileSink(tmp_path, "up") as sink:
        ticket = Ticket.new()
        listener.desk.expect(ticket, sink, identity.node)
        line.cut_after(4_000_000)
        stream_to(line.port, identity, ticket, rng).send(source)
    with FileSource(tmp_path / "up") as source, FileSink(tmp_path, "down") as sink:
        ticket = Ticket.new()
        listener.desk.offer(ticket, source, identity.node)
        line.cut_after(4_000_000)
        stream_to(line.port, identity, ticket, rng).fetch(sink)
    assert (tmp_path / "down").read_bytes() == content


def test_damage_on_the_line_is_never_content(listener, line, identity, rng, tmp_path):
    content, ticket = rng.randbytes(6_000_000), Ticket.new()
    (tmp_path / "source").write_bytes(content)
    with FileSource(tmp_path / "source") as source, FileSink(tmp_path, "up") as sink:
        listener.desk.expect(ticket, sink)
        line.damage_after(3_000_000)
        stream_to(line.port, identity, ticket, rng).send(source)
    assert (tmp_path / "up").read_bytes() == content


def test_a_revoked_node_loses_its_streams_too(server, listener, line, identity, rng, tmp_path):
    ticket = Ticket.new()
    (tmp_path / "source").write_bytes(rng.randbytes(5_000_000))
    holds, seen = threading.Event(), threading.Event()

    class HeldSink(FileSink):
        def write(self, offset, piece):
            seen.set()
            assert holds.wait(WAIT_LIMIT_S)
            super().write(offset, piece)

    failed = []

    def send(source):
        try:
            stream_to(line.port, identity, ticket, rng).send(source)
        except WireError as error:
            failed.append(error)

    with FileSource(tmp_path / "source") as source, HeldSink(tmp_path, "up") as sink:
        listener.desk.expect(ticket, sink)
        thread = threading.Thread(target=send, args=(source,))
        thread.start()
        assert seen.wait(WAIT_LIMIT_S)
        server.revoked.add(identity.node)
        listener.drop(identity.node, "it was revoked")
        holds.set()
        thread.join()
    assert isinstance(failed[0], Refused)
    assert not (tmp_path / "up").exists()
    server.wait("alarm", "wire-revoked")


@pytest.mark.slow
def test_messages_pass_while_streams_run(listener, server, line, identity, dialler, rng, tmp_path):
    (tmp_path / "source").write_bytes(rng.randbytes(30_000_000))
    ticket = Ticket.new()
    with FileSource(tmp_path / "source") as source, FileSink(tmp_path, "up") as sink:
        incoming = listener.desk.expect(ticket, sink)
        client = stream_to(line.port, identity, ticket, rng)
        thread = threading.Thread(target=client.send, args=(source,))
        thread.start()
        for number in range(20):
            dialler.send(messages.Heartbeat(to_text(SYSTEM.now()), {"number": number}))
        thread.join()
        incoming.wait(0)
    got = server.wait("received", identity.node, count=20)
    assert [each[2].load["number"] for each in got] == list(range(20))


@pytest.mark.slow
def test_fifty_nodes_come_back_together_after_a_cut(server, listener, line, tmp_path):
    """As after a switch was restarted: all dial at once, from one address."""
    nodes = []
    for number in range(50):
        path = tmp_path / f"{number}.json"
        enrolled(server, Address("127.0.0.1", line.port), path)
        side = RecordingNode()
        dialler = Dialler(path, side, SYSTEM, random.Random(number), QUICK)
        nodes.append((dialler, side))
    try:
        for dialler, _ in nodes:
            dialler.__enter__()
        for _, side in nodes:
            side.wait("connected")
        line.cut()
        line.mend()
        for _, side in nodes:
            side.wait("connected", count=2)
        assert not [each for each in server.told.all if each[0] == "alarm"]
    finally:
        for dialler, _ in nodes:
            dialler.__exit__()


def test_an_identity_of_a_moved_server_is_used_at_its_new_address(server, path, rng):
    """What a node believes is the authority and the name, not the address."""
    with Listener(ANYWHERE, server.authority, [], server, SYSTEM) as listener:
        identity = enrolled(server, listener.address, path)
    with Listener(ANYWHERE, server.authority, [], server, SYSTEM) as listener:
        dataclasses.replace(identity, address=Address("localhost", listener.address.port)).save(
            path
        )
        node = RecordingNode()
        with Dialler(path, node, SYSTEM, rng, QUICK):
            node.wait("connected")


def test_life_is_told_from_the_certificate(identity):
    life = authority.life_of(identity.client)
    assert life.end - life.start == datetime.timedelta(days=7)
