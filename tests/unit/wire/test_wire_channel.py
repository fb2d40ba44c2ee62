import random
import threading

import pytest

from ruchu.clock import SYSTEM
from ruchu.errors import NodeAway, NodeFailed
from ruchu.model import ids
from ruchu.model.tasks import TaskEvent
from ruchu.testing.wire_sides import RecordingNode, RecordingServer, enrolled
from ruchu.wire import messages
from ruchu.wire.authority import Authority
from ruchu.wire.calling import Address
from ruchu.wire.dialler import Dialler, Patience
from ruchu.wire.listener import Listener

ANYWHERE = Address("127.0.0.1", 0)
AT = "2026-11-26T12:00:00.000001Z"
QUICK = Patience(first_s=0.02, most_s=0.1, refused_s=0.1, ping_s=2)


@pytest.fixture
def server():
    return RecordingServer(Authority.create(SYSTEM))


@pytest.fixture
def listener(server):
    with Listener(ANYWHERE, server.authority, ["127.0.0.1"], server, SYSTEM) as found:
        yield found


@pytest.fixture
def identity(server, listener, tmp_path):
    return enrolled(server, listener.address, tmp_path / "node.json")


@pytest.fixture
def node():
    return RecordingNode()


@pytest.fixture
def dialler(identity, node, tmp_path, rng):
    with Dialler(tmp_path / "node.json", node, SYSTEM, rng, QUICK) as found:
        node.wait("connected")
        yield found


def test_a_node_enrols_connects_and_speaks(server, listener, identity, dialler, node):
    assert server.wait("enrolled") == [("enrolled", identity.node, {"host": "test"})]
    server.wait("connected", identity.node)
    dialler.send(messages.Heartbeat(AT, {"tasks": 3}))
    server.wait("received", identity.node, messages.Heartbeat(AT, {"tasks": 3}))
    stop = messages.StopTask(ids.new_id())
    listener.link(identity.node).send(stop)
    node.wait("received", stop)
    assert listener.link(identity.node).version == 1
    assert not [each for each in server.told.all if each[0] == "alarm"]


def test_messages_keep_their_order(server, listener, identity, dialler, node):
    task = ids.new_id()
    events = [
        messages.TaskEvents((TaskEvent(task, 1, number, AT, "log", {"text": "x"}),))
        for number in range(1, 301)
    ]
    stops = [messages.StopTask(ids.new_id()) for _ in range(300)]

    def order():
        for stop in stops:
            listener.link(identity.node).send(stop)

    thread = threading.Thread(target=order)
    thread.start()
    for event in events:
        dialler.send(event)
    thread.join()
    got = server.wait("received", identity.node, count=300)
    assert [each[2] for each in got] == events
    assert [each[1] for each in node.wait("received", count=300)] == stops


def test_what_is_sent_while_it_is_welcomed_follows_the_welcome(server, listener, tmp_path, rng):
    identity = enrolled(server, listener.address, tmp_path / "node.json")
    stop = messages.StopTask(ids.new_id())

    def welcome(link):
        link.send(stop)
        return messages.Welcome(1, AT, 10.0)

    server.on_connected = welcome
    node = RecordingNode()
    with Dialler(tmp_path / "node.json", node, SYSTEM, rng, QUICK):
        node.wait("received", stop)
    assert [each[0] for each in node.told.all[:2]] == ["connected", "received"]
    server.wait("disconnected", identity.node)


def test_a_question_is_answered(listener, identity, dialler, node):
    def answer(message):
        error = {"code": "platform", "message": "It is off.", "hint": "Switch it on."}
        if message.what == "fails":
            dialler.send(messages.Answer(message.request, error=error))
        if message.what == "works":
            dialler.send(messages.Answer(message.request, value=[message.arguments]))

    node.on_received = answer
    link = listener.link(identity.node)
    assert link.ask("works", {"a": 1}) == [{"a": 1}]
    with pytest.raises(NodeFailed, match="It is off") as caught:
        link.ask("fails", {})
    assert caught.value.remote_code == "platform"
    assert caught.value.advice == "Switch it on."
    with pytest.raises(NodeAway, match="within"):
        link.ask("is silent", {}, timeout_s=0.05)


def test_who_waits_for_an_answer_learns_that_the_node_is_gone(
    listener, identity, dialler, node, server
):
    link = listener.link(identity.node)
    node.on_received = lambda _: link.close("enough")
    with pytest.raises(NodeAway, match="enough"):
        link.ask("anything", {})
    server.wait("disconnected", identity.node, "enough")
    with pytest.raises(NodeAway, match="enough"):
        link.send(messages.StopTask(ids.new_id()))
    # The dialler is back by itself.
    server.wait("connected", identity.node, count=2)


def test_a_second_connection_replaces_the_first(server, listener, identity, tmp_path, rng):
    first, second = RecordingNode(), RecordingNode()
    path = tmp_path / "node.json"
    patience = Patience(first_s=60, ping_s=2)
    with Dialler(path, first, SYSTEM, rng, patience):
        first.wait("connected")
        with Dialler(path, second, SYSTEM, rng, patience):
            second.wait("connected")
            first.wait("disconnected")
            names = [each[0] for each in server.told.all if each[0] != "enrolled"]
            assert names == ["connected", "disconnected", "connected"]
            assert "replaced" in server.wait("disconnected")[0][2]
            one, other = (each[3] for each in server.wait("connected", count=2))
            assert one is not other
            assert listener.link(identity.node) is other


def test_a_node_that_was_refused_is_told_why_and_asks_again(server, listener, tmp_path, rng):
    identity = enrolled(server, listener.address, tmp_path / "node.json")
    server.on_connected = lambda _: messages.Refuse("full", "Come back later.")
    node = RecordingNode()
    with Dialler(tmp_path / "node.json", node, SYSTEM, rng, QUICK):
        assert "Come back later" in str(node.wait("disconnected")[0][1])
        server.on_connected = None
        node.wait("connected")
    server.wait("disconnected", identity.node)


def test_without_a_connection_nothing_is_sent(server, listener, identity, tmp_path):
    with pytest.raises(NodeAway):
        listener.link(identity.node)
    dialler = Dialler(tmp_path / "node.json", RecordingNode(), SYSTEM, random.Random(1), QUICK)
    with pytest.raises(NodeAway):
        dialler.send(messages.Heartbeat(AT))
    with dialler:
        pass


def test_a_callback_that_fails_ends_the_link_and_not_the_listener(
    server, listener, identity, dialler, capfd
):
    def fail(_, message):
        if message.load:
            raise RuntimeError("a bug")

    server.on_received = fail
    dialler.send(messages.Heartbeat(AT, {"x": 1}))
    server.wait("disconnected", identity.node)
    server.wait("connected", identity.node, count=2)
    assert "a bug" in capfd.readouterr().err
