import threading

import pytest
from blake3 import blake3

from ruchu.clock import SYSTEM
from ruchu.errors import (
    AlreadyExists,
    InvalidName,
    Refused,
    SourceChanged,
    StorageError,
    StorageFull,
    WireError,
)
from ruchu.model import ids
from ruchu.testing.lines import Line
from ruchu.testing.wire_sides import WAIT_LIMIT_S, Told
from ruchu.wire import authority, contexts
from ruchu.wire.authority import Authority, Issued
from ruchu.wire.calling import Address
from ruchu.wire.identity import Identity
from ruchu.wire.stream_client import Persistence, StreamClient, Target
from ruchu.wire.stream_records import PIECE_BYTES_MAX
from ruchu.wire.stream_serving import StreamServer
from ruchu.wire.streams import FileSink, FileSource, Ticket

ANYWHERE = Address("127.0.0.1", 0)
QUICK = Persistence(first_s=0.01, most_s=0.05, limit_s=WAIT_LIMIT_S, stall_s=WAIT_LIMIT_S)
ONCE = Persistence(first_s=0.01, most_s=0.01, limit_s=0.0, stall_s=WAIT_LIMIT_S)


class MemorySource:
    """A `Source`."""

    def __init__(self, content):
        self.content = memoryview(content)

    @property
    def size(self):
        return len(self.content)

    def read_into(self, offset, buffer):
        buffer[:] = self.content[offset : offset + len(buffer)]


class MemorySink:
    """A `Sink` that may be held back, or fail."""

    def __init__(self):
        self.content = bytearray()
        self.finished = None
        self.goes = threading.Event()
        self.goes.set()
        self.restarts = 0
        self.error = None

    def write(self, offset, piece):
        assert self.goes.wait(WAIT_LIMIT_S)
        if self.error is not None:
            raise self.error
        assert offset == len(self.content)
        self.content += piece

    def durable(self):
        return len(self.content)

    def reread(self, length):
        yield memoryview(bytes(self.content[:length]))

    def restart(self):
        self.restarts += 1
        self.content.clear()

    def finish(self, digest):
        self.finished = digest


class Nodes:
    """Two nodes of one server: one listens."""

    def __init__(self):
        self.authority = Authority.create(SYSTEM)
        self.sender, self.receiver = self.identity(), self.identity()
        self.told = Told()

    def identity(self, signer=None):
        key = authority.new_key()
        node = ids.new_id()
        found = (signer or self.authority).sign_node(authority.request_for(key), node)
        return Identity(
            ANYWHERE,
            node,
            authority.key_to_pem(key),
            found.client,
            found.streams,
            found.authority,
        )

    def alarm(self, code, severity, subject, text, facts):
        self.told.tell(("alarm", code, severity, subject, text, facts))

    def server(self):
        return StreamServer(ANYWHERE, self.receiver, SYSTEM, self.alarm)

    def target(self, port, who=None):
        who = who or self.sender
        context = contexts.for_streams(self.authority.certificate, Issued(who.client, who.key))
        name = authority.streams_name(self.receiver.node)
        return Target(Address("127.0.0.1", port), name, context)


@pytest.fixture
def nodes():
    return Nodes()


@pytest.fixture
def server(nodes):
    with nodes.server() as found:
        yield found


@pytest.fixture
def line(server):
    with Line(("127.0.0.1", server.address.port)) as found:
        yield found


@pytest.fixture
def client(nodes, line, rng):
    def make(ticket, persistence=QUICK, who=None):
        return StreamClient(nodes.target(line.port, who), ticket, SYSTEM, rng, persistence)

    return make


SIZES = [0, 1, 35, 36, 37, PIECE_BYTES_MAX - 1, PIECE_BYTES_MAX, PIECE_BYTES_MAX + 1, 5_000_000]


@pytest.mark.parametrize("size", SIZES)
def test_content_arrives_when_it_is_sent(server, client, rng, size):
    content, ticket, sink = rng.randbytes(size), Ticket.new(), MemorySink()
    incoming = server.desk.expect(ticket, sink)
    assert client(ticket).send(MemorySource(content)) == blake3(content).digest()
    assert sink.content == content
    assert sink.finished == blake3(content).digest() == incoming.wait(0)


@pytest.mark.parametrize("size", SIZES)
def test_content_arrives_when_it_is_fetched(server, client, rng, size):
    content, ticket, sink = rng.randbytes(size), Ticket.new(), MemorySink()
    outgoing = server.desk.offer(ticket, MemorySource(content))
    assert client(ticket).fetch(sink) == blake3(content).digest() == sink.finished
    assert sink.content == content
    outgoing.wait(0)


def test_files_arrive_whole_under_their_names(server, client, rng, tmp_path):
    content, ticket = rng.randbytes(3_000_000), Ticket.new()
    (tmp_path / "source").write_bytes(content)
    with FileSource(tmp_path / "source") as source, FileSink(tmp_path, "target") as sink:
        server.desk.expect(ticket, sink)
        client(ticket).send(source)
    assert (tmp_path / "target").read_bytes() == content
    assert sorted(each.name for each in tmp_path.iterdir()) == ["source", "target"]
    assert (tmp_path / "target").stat().st_mode & 0o777 == 0o600


def test_a_sent_stream_goes_on_after_cuts(server, client, line, rng):
    content, ticket, sink = rng.randbytes(20_000_000), Ticket.new(), MemorySink()
    server.desk.expect(ticket, sink)

    def cut_again():
        while sink.finished is None:
            at = line.carried
            line.cut_after(5_000_000)
            while line.carried < at + 5_000_000 and sink.finished is None:
                threading.Event().wait(0.002)

    cutter = threading.Thread(target=cut_again)
    cutter.start()
    client(ticket).send(MemorySource(content))
    cutter.join()
    assert sink.content == content
    assert sink.restarts == 0
    # It went on from where it was: what is sent twice is less than what was on its way.
    assert line.accepted > 4
    assert line.carried < 1.8 * len(content)


def test_a_fetched_stream_goes_on_after_cuts(server, client, line, rng):
    content, ticket, sink = rng.randbytes(12_000_000), Ticket.new(), MemorySink()
    server.desk.offer(ticket, MemorySource(content))
    line.cut_after(5_000_000)
    client(ticket).fetch(sink)
    assert sink.content == content
    assert sink.restarts == 0
    assert line.carried < 1.8 * len(content)


def test_a_stream_goes_on_in_another_process(nodes, rng, tmp_path):
    """Sender and receiver both forget everything but the file that was begun."""
    content, ticket = rng.randbytes(20_000_000), Ticket.new()
    for cut_at in (12_000_000, None):
        with (
            nodes.server() as server,
            Line(("127.0.0.1", server.address.port)) as line,
            FileSink(tmp_path, "target") as sink,
        ):
            server.desk.expect(ticket, sink)
            target = nodes.target(line.port)
            if cut_at:
                line.cut_after(cut_at)
                with pytest.raises(WireError):
                    StreamClient(target, ticket, SYSTEM, rng, ONCE).send(MemorySource(content))
            else:
                StreamClient(target, ticket, SYSTEM, rng, QUICK).send(MemorySource(content))
                # Buffers of sockets are lost with the line; what was written is not sent again.
                assert line.carried < len(content)
    assert (tmp_path / "target").read_bytes() == content


def test_what_is_not_what_the_sender_has_is_begun_anew(server, client, rng, tmp_path):
    content, ticket = rng.randbytes(3_000_000), Ticket.new()
    (tmp_path / ".target.part").write_bytes(rng.randbytes(2_000_000))
    with FileSink(tmp_path, "target") as sink:
        server.desk.expect(ticket, sink)
        client(ticket).send(MemorySource(content))
    assert (tmp_path / "target").read_bytes() == content


def test_what_is_here_is_fetched_anew_if_it_differs(server, client, rng, tmp_path):
    content, ticket = rng.randbytes(3_000_000), Ticket.new()
    (tmp_path / ".target.part").write_bytes(rng.randbytes(2_000_000))
    server.desk.offer(ticket, MemorySource(content))
    with FileSink(tmp_path, "target") as sink:
        client(ticket).fetch(sink)
    assert (tmp_path / "target").read_bytes() == content


def test_a_lost_answer_is_no_lost_stream(server, client, rng):
    content, ticket, sink = rng.randbytes(100_000), Ticket.new(), MemorySink()
    server.desk.expect(ticket, sink)
    client(ticket).send(MemorySource(content))
    # It asks, and is told that everything is there; nothing is written again.
    sink.content.clear()
    assert client(ticket).send(MemorySource(content)) == blake3(content).digest()
    assert not sink.content
    with pytest.raises(Refused):
        client(ticket).send(MemorySource(content[:-1] + b"x"))


def test_a_sender_waits_for_a_slow_receiver(server, client, line, rng):
    content, ticket, sink = rng.randbytes(40_000_000), Ticket.new(), MemorySink()
    server.desk.expect(ticket, sink)
    sink.goes.clear()
    sender = threading.Thread(target=client(ticket).send, args=(MemorySource(content),))
    sender.start()
    seen = -1
    while line.carried != seen:
        seen = line.carried
        threading.Event().wait(0.3)
    # Buffers of sockets, of TLS, and four pieces: not the stream.
    assert line.carried < 25_000_000
    sink.goes.set()
    sender.join()
    assert sink.content == content


def test_a_sink_that_fails_ends_the_stream_and_says_why(server, client, rng):
    ticket, sink = Ticket.new(), MemorySink()
    incoming = server.desk.expect(ticket, sink)
    sink.error = StorageFull()
    with pytest.raises(Refused, match="full") as caught:
        client(ticket).send(MemorySource(rng.randbytes(3_000_000)))
    assert "Free space" in caught.value.advice
    with pytest.raises(StorageFull):
        incoming.wait(0)


def test_a_source_that_shrinks_ends_the_stream(server, client, rng, tmp_path):
    ticket, sink = Ticket.new(), MemorySink()
    (tmp_path / "source").write_bytes(rng.randbytes(3_000_000))
    server.desk.expect(ticket, sink)
    with FileSource(tmp_path / "source") as source:
        (tmp_path / "source").write_bytes(b"short")
        with pytest.raises(SourceChanged):
            client(ticket).send(source)
    assert sink.finished is None


@pytest.mark.parametrize("what", ["stream", "secret", "node"])
def test_a_stream_is_for_who_has_its_ticket(nodes, server, client, what):
    ticket, sink = Ticket.new(), MemorySink()
    node = nodes.receiver.node if what == "node" else nodes.sender.node
    server.desk.expect(ticket, sink, node)
    other = Ticket(
        ids.new_id() if what == "stream" else ticket.stream,
        "0" * 64 if what == "secret" else ticket.secret,
    )
    with pytest.raises(Refused):
        client(other).send(MemorySource(b"x"))
    assert not sink.content
    assert nodes.told.wait(lambda each: each[1] == "wire-stream")


@pytest.mark.parametrize("who", ["stranger", "as server"])
def test_a_stream_needs_a_node_at_both_ends(nodes, server, client, who):
    ticket, sink = Ticket.new(), MemorySink()
    server.desk.expect(ticket, sink)
    peer = nodes.identity(Authority.create(SYSTEM))
    if who == "as server":
        sender = nodes.sender
        peer = Identity(
            ANYWHERE, sender.node, sender.key, sender.streams, sender.streams, sender.authority
        )
    with pytest.raises(WireError):
        client(ticket, ONCE, peer).send(MemorySource(b"x"))
    assert not sink.content
    assert nodes.told.wait(lambda each: each[1] == "wire-certificate")


def test_a_stream_goes_one_way(server, client):
    ticket = Ticket.new()
    server.desk.offer(ticket, MemorySource(b"x"))
    with pytest.raises(Refused):
        client(ticket).send(MemorySource(b"y"))
    with pytest.raises(AlreadyExists):
        server.desk.expect(ticket, MemorySink())
    server.desk.forget(ticket)
    with pytest.raises(Refused):
        client(ticket).fetch(MemorySink())


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "/etc/x", ".x", "a\0b", "x" * 300])
def test_a_file_is_written_in_its_directory_only(tmp_path, name):
    (tmp_path / "in").mkdir()
    with pytest.raises(InvalidName):
        FileSink(tmp_path / "in", name)
    assert [each.name for each in tmp_path.rglob("*")] == ["in"]


def test_a_link_in_the_place_of_the_file_is_not_followed(tmp_path):
    (tmp_path / "precious").write_bytes(b"precious")
    (tmp_path / ".target.part").symlink_to(tmp_path / "precious")
    with pytest.raises(StorageError):
        FileSink(tmp_path, "target")
    assert (tmp_path / "precious").read_bytes() == b"precious"
