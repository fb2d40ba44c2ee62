"""Small writes that come together, over a real socket: what is stored, and what is answered."""

import errno
import socket
import ssl

import pytest

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.errors import StorageFull
from ruchu.exports.nbd.channels import PlainChannel
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.gathering import runs_of
from ruchu.exports.nbd.inbox import INBOX_BYTES, Inbox
from ruchu.exports.nbd.server import NbdServer
from ruchu.testing.memory_device import MemoryDevice
from ruchu.testing.nbd_client import RawClient
from ruchu.units import MIB

READ, WRITE, FLUSH = 0, 1, 3
BLOCK = 4096


class _Gathering(MemoryDevice):
    """Counts what is stored, and refuses what begins at a place."""

    def __init__(self) -> None:
        super().__init__(MIB)
        self.stored: list[tuple[int, int]] = []
        self.full_at = -1

    def write(self, start: int, buffer: memoryview) -> None:
        self.write_parts(start, [buffer])

    def write_parts(self, start: int, parts: list[memoryview]) -> None:
        end = start + sum(map(len, parts))
        if start <= self.full_at < end:
            raise StorageFull("(full)")
        self.stored.append((start, end - start))
        super().write(start, memoryview(b"".join(parts)))


@pytest.fixture
def gathering():
    return _Gathering()


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def client(request, gathering, place):
    with NbdServer([NbdExport("disk", gathering)]) as server:
        server.listen_unix(place)
        with RawClient(place) as connected:
            connected.choose("disk", structured=request.param)
            yield connected


def _write(cookie: int, start: int, data: bytes) -> bytes:
    header = (messages.REQUEST_MAGIC, 0, WRITE, cookie, start, len(data))
    return replies.REQUEST.pack(*header) + data


def test_neighbours_in_any_order_are_stored_as_one(client, gathering, rng):
    content = rng.randbytes(16 * BLOCK)
    order = list(range(16))
    rng.shuffle(order)
    sent = [_write(at, at * BLOCK, content[at * BLOCK : (at + 1) * BLOCK]) for at in order]
    client.socket.sendall(b"".join(sent))
    answers = client.answers(16)
    assert {cookie: answer.error for cookie, answer in answers.items()} == dict.fromkeys(order, 0)
    assert gathering.content[: len(content)] == content
    assert len(gathering.stored) < 16
    assert sum(length for _, length in gathering.stored) == len(content)


def test_of_writes_that_overlap_the_last_one_is_there(client, gathering):
    sent = [_write(1, 0, b"a" * BLOCK), _write(2, 0, b"b" * BLOCK), _write(3, 100, b"c")]
    client.socket.sendall(b"".join(sent))
    assert set(client.answers(3)) == {1, 2, 3}
    assert gathering.content[:BLOCK] == b"b" * 100 + b"c" + b"b" * (BLOCK - 101)


def test_each_write_has_an_answer_of_its_own_where_one_fails(client, gathering):
    gathering.full_at = BLOCK
    sent = [_write(at, at * BLOCK, bytes([at]) * BLOCK) for at in range(3)]
    client.socket.sendall(b"".join(sent))
    errors = {cookie: answer.error for cookie, answer in client.answers(3).items()}
    assert errors == {0: 0, 1: errno.ENOSPC, 2: 0}
    assert gathering.content[2 * BLOCK] == 2


def test_a_flush_covers_the_writes_before_it(client, gathering):
    flush = replies.REQUEST.pack(messages.REQUEST_MAGIC, 0, FLUSH, 9, 0, 0)
    client.socket.sendall(_write(1, 0, b"x" * BLOCK) + flush)
    assert set(client.answers(2)) == {1, 9}
    assert gathering.flushed is not None
    assert gathering.flushed[:BLOCK] == b"x" * BLOCK


def test_what_came_before_a_wrong_request_is_stored_and_answered(client, gathering):
    client.socket.sendall(_write(1, 0, b"x" * BLOCK) + bytes(replies.REQUEST_SIZE))
    assert client.answers(1)[1].error == 0
    assert client.ended()
    assert gathering.content[0] == ord("x")


def test_more_than_the_inbox_holds(client, gathering, rng):
    content = rng.randbytes(MIB)
    sent = [_write(at, at, content[at : at + 60_000]) for at in range(0, MIB, 60_000)]
    sent.append(_write(MIB, 0, content[: MIB // 2]))
    client.socket.sendall(b"".join(sent))
    assert all(answer.error == 0 for answer in client.answers(len(sent)).values())
    assert gathering.content == content


def test_reads_and_writes_that_came_together(client, gathering):
    sent = [_write(1, 0, b"a" * BLOCK)]
    sent.append(replies.REQUEST.pack(messages.REQUEST_MAGIC, 0, READ, 2, MIB // 2, BLOCK))
    sent.append(_write(3, BLOCK, b"c" * BLOCK))
    client.socket.sendall(b"".join(sent))
    answers = client.answers(3, {2: (MIB // 2, BLOCK)})
    assert answers[2].data == bytes(BLOCK)
    assert gathering.content[: 2 * BLOCK] == b"a" * BLOCK + b"c" * BLOCK


def test_runs():
    def view(data):
        return memoryview(data)

    assert runs_of([(8, 1, view(b"cc")), (4, 2, view(b"bbbb")), (1, 3, view(b"a"))]) == [
        (1, [b"a"]),
        (4, [b"bbbb", b"cc"]),
    ]
    assert runs_of([(0, 1, view(b"aa")), (1, 1, view(b"b"))]) == []
    assert runs_of([(0, 1, view(b"a")), (0, 1, view(b"b"))]) == []


@pytest.fixture
def pair():
    ours, theirs = socket.socketpair()
    yield PlainChannel(ours, 0.05), theirs
    ours.close()
    theirs.close()


def test_an_inbox_takes_what_has_come(pair):
    channel, client = pair
    inbox = Inbox(channel)
    client.sendall(b"0123456789")
    assert inbox.wait(4)
    assert bytes(inbox.buffer[inbox.at : inbox.end]) == b"0123456789"
    inbox.at += 8
    filled = bytearray(5)
    client.sendall(b"abc")
    inbox.fill(memoryview(filled))
    assert filled == b"89abc"
    client.close()
    assert not inbox.wait(1)


@pytest.mark.parametrize("leaves", [True, False])
def test_a_client_that_leaves_or_stalls_in_a_message_is_given_up(pair, leaves):
    channel, client = pair
    inbox = Inbox(channel)
    client.sendall(b"01234")
    assert inbox.wait(1)
    if leaves:
        client.close()
    with pytest.raises(OSError, match=r"left|unavailable"):
        inbox.wait(INBOX_BYTES)


def test_parts_that_the_kernel_does_not_take_at_once_are_sent_all(pair):
    channel, client = pair
    client.settimeout(30)
    parts = [bytes([number % 256]) * 3 for number in range(2000)]
    channel.send_all(parts)
    received = bytearray()
    while len(received) < 6000:
        received += client.recv(65536)
    assert received == b"".join(parts)


def test_who_takes_nothing_is_given_up(pair):
    channel, client = pair
    with pytest.raises(OSError, match=r"unavailable|reset|pipe"):
        channel.send_all([bytes(4 * MIB)])
    with pytest.raises((OSError, ssl.SSLError)):
        channel.send_all([b"more"])
    client.close()


def test_a_short_message_is_sent_at_once_unless_it_has_to_wait(pair):
    channel, client = pair
    assert channel.send_at_once(b"done")
    assert client.recv(10) == b"done"
    client.setblocking(False)
    with channel._sending:
        assert not channel.send_at_once(b"busy")
    while channel.send_at_once(bytes(1000)):
        pass
    assert len(client.recv(1000)) == 1000
    client.close()
    assert not channel.send_at_once(b"gone")
