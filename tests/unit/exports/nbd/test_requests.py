"""Requests of all kinds, over a real socket."""

import errno

import pytest

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.blocks.nbd import Address, NbdDisk
from ruchu.errors import StorageError, StorageFull
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import Limits, NbdServer
from ruchu.model.extents import Content
from ruchu.testing.memory_device import MemoryDevice
from ruchu.testing.nbd_client import RawClient
from ruchu.units import KIB, MIB

READ, WRITE, FLUSH, TRIM = 0, 1, 3, 4
CACHE, ZEROES, STATUS = 5, 6, 7


@pytest.fixture(params=[True, False], ids=["structured", "simple"])
def client(request, server, place):
    with RawClient(place) as connected:
        connected.choose("disk", structured=request.param)
        yield connected


@pytest.fixture
def structured(server, place):
    with RawClient(place) as connected:
        connected.choose("disk")
        yield connected


@pytest.mark.parametrize("peeks", [True, False])
@pytest.mark.parametrize(
    ("start", "length"),
    [(0, 4096), (12345, 1), (2 * MIB - 100, 200), (0, 4 * MIB), (4 * MIB - 1, 1), (5, 0)],
)
def test_reads(client, device, peeks, start, length):
    device._peeks = peeks
    answer = client.call(READ, start, length)
    assert (answer.error, answer.data) == (0, bytes(device.content[start : start + length]))


def test_zeros_are_not_sent(structured, device):
    device._peeks = False
    answer = structured.call(READ, MIB, 2 * MIB)
    assert answer.data == bytes(device.content[MIB : 3 * MIB])
    assert (answer.holes, answer.chunks) == (1, 2)
    answer = structured.call(READ, MIB, 2 * MIB, flags=replies.FLAG_DONT_FRAGMENT)
    assert answer.data == bytes(device.content[MIB : 3 * MIB])
    assert (answer.holes, answer.chunks) == (0, 1)


def test_writes_are_read_at_once_and_durable_after_a_flush(client, device, rng):
    data = rng.randbytes(3 * MIB // 2)
    assert client.call(WRITE, 999_999, len(data), data=data).error == 0
    assert client.call(READ, 999_999, len(data)).data == data
    assert device.flushed is None
    assert client.call(FLUSH).error == 0
    assert device.flushed == bytes(device.content)


@pytest.mark.parametrize("command", [WRITE, TRIM, ZEROES])
def test_forced_access_is_durable_when_it_is_answered(client, device, command):
    data = b"x" * 65536 if command == WRITE else b""
    assert client.call(command, 65536, 65536, replies.FLAG_FUA, data).error == 0
    assert device.flushed == bytes(device.content)
    assert device.content[65536:131072] == (data or bytes(65536))


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (0, 3),
        (replies.FLAG_NO_HOLE, 0),
        (replies.FLAG_FAST_ZERO, 3),
    ],
)
def test_zeroes_make_holes_unless_told_not_to(structured, device, flags, expected):
    assert structured.call(ZEROES, 0, 128 * KIB, flags).error == 0
    assert not any(device.content[: 128 * KIB])
    assert structured.call(STATUS, 0, 128 * KIB).status == [(128 * KIB, expected)]


def test_zeroes_that_must_be_stored_are_not_fast(client):
    flags = replies.FLAG_FAST_ZERO | replies.FLAG_NO_HOLE
    assert client.call(ZEROES, 0, 65536, flags).error == errno.EOPNOTSUPP


def test_block_status(structured):
    assert structured.call(STATUS, 0, 4 * MIB).status == [(2 * MIB, 0), (2 * MIB, 3)]
    answer = structured.call(STATUS, MIB, 4 * MIB - MIB, replies.FLAG_REQUEST_ONE)
    assert answer.status == [(MIB, 0)]
    structured.call(WRITE, 3 * MIB, 1, data=b"x")
    assert structured.call(STATUS, 2 * MIB, 2 * MIB).status == [
        (MIB, 3), (64 * KIB, 0), (MIB - 64 * KIB, 3),
    ]  # fmt: skip


def test_a_write_is_seen_in_the_map_of_another_export_of_the_disk(device, place):
    with NbdServer([NbdExport("", device), NbdExport("disk", device)]) as server:
        server.listen_unix(place)
        with RawClient(place) as one, RawClient(place) as two:
            one.choose("")
            two.choose("disk")
            assert two.call(STATUS, 2 * MIB, 2 * MIB).status == [(2 * MIB, 3)]
            one.call(WRITE, 2 * MIB, 5, data=b"hello")
            assert two.call(STATUS, 2 * MIB, 64 * KIB).status == [(64 * KIB, 0)]


def test_prefetching_reads_what_is_not_at_hand(client, device):
    assert client.call(CACHE, 0, 2 * MIB).error == 0
    assert device.reads == 0
    device._peeks = False
    assert client.call(CACHE, 1, 3 * MIB).error == 0
    assert device.reads == 3


@pytest.mark.parametrize(
    ("command", "start", "length", "flags", "error"),
    [
        (READ, 4 * MIB - 1, 2, 0, errno.EINVAL),
        (READ, 2**64 - 1, 1, 0, errno.EINVAL),
        (READ, 0, 32 * MIB + 1, 0, errno.EINVAL),
        (READ, 0, 1, replies.FLAG_FUA, errno.EINVAL),
        (WRITE, 4 * MIB - 1, 2, 0, errno.ENOSPC),
        (WRITE, 0, 2, replies.FLAG_NO_HOLE, errno.EINVAL),
        (ZEROES, 4 * MIB, 1, 0, errno.ENOSPC),
        (TRIM, 4 * MIB, 1, 0, errno.EINVAL),
        (TRIM, 2**63, 2**32 - 1, 0, errno.EINVAL),
        (CACHE, 4 * MIB, 1, 0, errno.EINVAL),
        (STATUS, 0, 0, 0, errno.EINVAL),
        (STATUS, 0, 4 * MIB + 1, 0, errno.EINVAL),
        (FLUSH, 0, 0, 1 << 15, errno.EINVAL),
        (8, 0, 0, 0, errno.EINVAL),
        (65535, 0, 0, 0, errno.EINVAL),
    ],
)
def test_wrong_requests_are_refused_and_the_next_is_served(
    client, device, command, start, length, flags, error
):
    before = bytes(device.content)
    data = bytes(length) if command == WRITE else b""
    assert client.call(command, start, length, flags, data).error == error
    assert client.call(READ, 0, 100).data == before[:100]
    assert device.content == before


def test_a_write_that_is_too_long_is_read_to_its_end(client, device):
    before = bytes(device.content)
    length = 32 * MIB + 1
    assert client.call(WRITE, 0, length, data=bytes(length)).error == errno.ENOSPC
    assert client.call(READ, 0, 100).data == before[:100]
    assert device.content == before


def test_block_status_needs_its_context(server, place):
    with RawClient(place) as client:
        client.choose("disk", structured=False)
        assert client.call(STATUS, 0, MIB).error == errno.EINVAL


def test_a_wrong_magic_ends_the_connection(structured):
    structured.socket.sendall(bytes(28))
    assert structured.ended()


@pytest.mark.parametrize(
    ("failure", "number"),
    [
        (StorageError("(gone)"), errno.EIO),
        (StorageFull(), errno.ENOSPC),
        (OSError(errno.ENOSPC, "full"), errno.ENOSPC),
        (OSError(errno.EDQUOT, "full"), errno.ENOSPC),
        (OSError(errno.EBADMSG, "bad"), errno.EIO),
        (MemoryError(), errno.ENOMEM),
    ],
)
@pytest.mark.parametrize("command", [READ, WRITE, FLUSH, TRIM, CACHE, ZEROES])
def test_errors_of_the_device_are_answered(client, device, failure, number, command):
    length = 0 if command == FLUSH else 100
    data = bytes(100) if command == WRITE else b""
    device.failure = failure
    assert client.call(command, 0, length, data=data).error == number
    device.failure = None
    assert client.call(command, 0, length, data=data).error == 0


def test_errors_of_the_device_are_told(device, place):
    told = []
    device.failure = StorageError("(gone)")
    with NbdServer([NbdExport("disk", device)], failures=lambda *each: told.append(each)) as server:
        server.listen_unix(place)
        with RawClient(place) as client:
            client.choose("disk")
            client.call(STATUS, 0, 100)
        told.append(None)
        failure, device.failure = device.failure, None
    assert told == [("disk", failure), None]


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_defect_is_answered_and_shown(client, device):
    device.failure = ZeroDivisionError("a defect of ours")
    assert client.call(READ, 0, 100).error == errno.EIO
    device.failure = None
    assert client.call(READ, 0, 100).error == 0


def test_a_read_only_export_refuses_to_change(device, place):
    before = bytes(device.content)
    with NbdServer([NbdExport("disk", device, read_only=True)]) as server:
        server.listen_unix(place)
        with RawClient(place) as client:
            client.choose("disk")
            for command in (WRITE, TRIM, ZEROES):
                data = bytes(100) if command == WRITE else b""
                assert client.call(command, 0, 100, data=data).error == errno.EPERM
            assert client.call(FLUSH).error == 0
        with NbdDisk(Address("disk", path=str(place))) as disk:
            assert disk.export.offers(messages.EXPORT_READ_ONLY)
    assert device.content == before


def test_a_hit_overtakes_reads_that_wait(structured, device):
    device.gate.clear()
    for cookie in range(1, 5):
        structured.ask(READ, cookie, cookie * 4096, 4096)
    device._peeks = False
    structured.ask(READ, 5, 5 * 4096, 4096)
    structured.ask(8, 6)
    assert list(structured.answers(1)) == [6]
    device.gate.set()
    reads = {cookie: (cookie * 4096, 4096) for cookie in range(1, 6)}
    found = structured.answers(5, reads)
    for cookie, (start, length) in reads.items():
        assert found[cookie].data == device.content[start : start + length]


def test_requests_before_a_goodbye_are_done(structured, device):
    device.gate.clear()
    structured.ask(WRITE, 1, 0, 5)
    structured.socket.sendall(b"hello")
    structured.answers(1)
    structured.ask(FLUSH, 2)
    structured.ask(messages.CMD_DISCONNECT, 3)
    device.gate.set()
    assert list(structured.answers(1)) == [2]
    assert structured.ended()
    assert device.flushed[:5] == b"hello"


def test_more_than_may_be_in_flight_is_served_in_turn(device, place):
    device._peeks = False
    limits = Limits(connection_bytes=100_000, total_bytes=150_000, workers=2)
    with NbdServer([NbdExport("disk", device)], limits=limits) as server:
        server.listen_unix(place)
        with RawClient(place) as one, RawClient(place) as two:
            for client in (one, two):
                client.choose("disk")
                for cookie in range(20):
                    client.ask(READ, cookie, cookie * 65536, 65536)
            for client in (two, one):
                found = client.answers(20, {n: (n * 65536, 65536) for n in range(20)})
                for cookie, answer in found.items():
                    assert answer.data == device.content[cookie * 65536 :][:65536]


def test_our_client_and_our_server(server, device, place, rng):
    device._peeks = False
    data = rng.randbytes(3 * MIB)
    with NbdDisk(Address("disk", path=str(place))) as disk:
        disk.write(MIB - 7, memoryview(data))
        disk.zero(2 * MIB, 64 * KIB)
        disk.flush()
        found = bytearray(disk.size)
        disk.read_into(0, memoryview(found))
        extents = list(disk.extents())
    assert found == device.content == device.flushed
    assert sum(extent.length for extent in extents) == disk.size
    assert [extent.start for extent in extents if extent.content is Content.HOLE] == [2 * MIB]


def test_an_empty_disk(place):
    with NbdServer([NbdExport("", MemoryDevice(0))]) as server:
        server.listen_unix(place)
        with RawClient(place) as client:
            client.choose("")
            assert client.call(READ, 0, 0).error == 0
            assert client.call(READ, 0, 1).error == errno.EINVAL
            assert client.call(FLUSH).error == 0
