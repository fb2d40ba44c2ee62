"""The server around the requests: who may connect, limits, the end."""

import os
import socket
import stat
import threading

import pytest

from ruchu.blocks.nbd import Address, NbdDisk
from ruchu.errors import AlreadyExists, ExportError, InvalidName, StorageError, UsageError
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import Limits, NbdServer
from ruchu.testing.memory_device import MemoryDevice
from ruchu.testing.nbd_client import RawClient
from ruchu.units import MIB

READ, WRITE, FLUSH = 0, 1, 3


def test_only_this_user_may_connect(server, place):
    assert stat.S_IMODE(place.stat().st_mode) == 0o600
    server.close()
    assert list(place.parent.iterdir()) == []


def test_a_missing_directory_is_made(device, place):
    path = place.parent / "new" / "s"
    with NbdServer([NbdExport("", device)]) as server:
        server.listen_unix(path)
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_a_directory_that_others_enter_is_refused(device, place):
    place.parent.chmod(0o755)
    with NbdServer([NbdExport("", device)]) as server, pytest.raises(UsageError):
        server.listen_unix(place)
    assert list(place.parent.iterdir()) == []


def test_the_socket_of_a_dead_server_is_replaced(device, place):
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(place))
    with NbdServer([NbdExport("", device)]) as server:
        server.listen_unix(place)
        with NbdDisk(Address(path=str(place))) as disk:
            assert disk.size == device.size


def test_a_live_server_is_not_replaced(server, place):
    with NbdServer([NbdExport("", MemoryDevice(0))]) as other, pytest.raises(AlreadyExists):
        other.listen_unix(place)
    with NbdDisk(Address("disk", path=str(place))) as disk:
        assert disk.size


def test_a_live_server_of_somebody_else_is_not_replaced(device, place):
    with socket.socket(socket.AF_UNIX) as alive:
        alive.bind(str(place))
        alive.listen()
        with NbdServer([NbdExport("", device)]) as server, pytest.raises(AlreadyExists):
            server.listen_unix(place)
    assert place.exists()


def test_what_is_no_socket_stays(device, place):
    place.write_text("precious")
    with NbdServer([NbdExport("", device)]) as server, pytest.raises(AlreadyExists):
        server.listen_unix(place)
    assert place.read_text() == "precious"
    assert os.listdir(place.parent) == [place.name]


def test_a_path_that_is_too_long_is_refused(device, place):
    with NbdServer([NbdExport("", device)]) as server, pytest.raises(UsageError):
        server.listen_unix(place.with_name("x" * 108))


def test_tcp_for_everybody_is_refused(device):
    with NbdServer([NbdExport("", device)]) as server:
        with pytest.raises(UsageError):
            server.listen_tcp("127.0.0.1", 0)
        with pytest.raises(UsageError):
            server.listen_tcp("127.0.0.1", 0, clients=["127.0.0.1/8"])


def test_tcp_for_named_networks(device):
    with NbdServer([NbdExport("", device)]) as server:
        port = server.listen_tcp("127.0.0.1", 0, clients=["10.0.0.0/8", "127.0.0.1"])
        with NbdDisk(Address(host="127.0.0.1", port=port)) as disk:
            assert disk.size == device.size
        with pytest.raises(ExportError):
            server.listen_tcp("127.0.0.1", port, clients=["127.0.0.1"])


def test_tcp_turns_others_away(device):
    with NbdServer([NbdExport("", device)]) as server:
        port = server.listen_tcp("127.0.0.1", 0, clients=["10.0.0.0/8", "127.0.0.2"])
        with socket.create_connection(("127.0.0.1", port), timeout=10) as client:
            assert client.recv(1) == b""
        with socket.create_connection(
            ("127.0.0.1", port), timeout=10, source_address=("127.0.0.2", 0)
        ) as client:
            assert client.recv(8) == b"NBDMAGIC"


def test_two_exports_of_one_name_are_refused(device):
    with pytest.raises(AlreadyExists):
        NbdServer([NbdExport("a", device), NbdExport("a", device)])


@pytest.mark.parametrize("name", ["x" * 4097, "a\nb"])
def test_names_that_nobody_can_ask_for_are_refused(device, name):
    with pytest.raises(InvalidName):
        NbdExport(name, device)


def test_half_a_writer_is_refused(device):
    class Half:
        size, preferred_io = 0, 65536
        write = read_into = extents = None

    with pytest.raises(ExportError):
        NbdExport("a", Half())


def test_too_many_clients_are_turned_away(device, place):
    with NbdServer([NbdExport("disk", device)], limits=Limits(connections=2)) as server:
        server.listen_unix(place)
        with RawClient(place) as one:
            one.choose("disk")
            with RawClient(place) as two, RawClient(place) as three:
                two.choose("disk")
                assert three.ended()
                assert server.connections == 2
            assert one.call(READ, 0, 100).error == 0


def test_a_handshake_that_takes_too_long_is_ended(device, place):
    with NbdServer([NbdExport("disk", device)], limits=Limits(handshake_s=0.05)) as server:
        server.listen_unix(place)
        with RawClient(place) as client:
            assert client.ended()


def test_a_client_that_stalls_in_a_request_is_ended_and_an_idle_one_is_not(device, place):
    with NbdServer([NbdExport("disk", device)], limits=Limits(stall_s=0.1)) as server:
        server.listen_unix(place)
        with RawClient(place) as idle, RawClient(place) as stalled:
            for client in (idle, stalled):
                client.choose("disk")
            stalled.ask(WRITE, 1, 0, 1000)
            stalled.socket.sendall(bytes(999))
            assert stalled.ended()
            assert idle.call(READ, 0, 100).error == 0


def test_a_client_that_takes_no_replies_holds_nobody_up(device, place):
    device._peeks = False
    limits = Limits(workers=1, stall_s=0.5, connection_bytes=8 * MIB)
    with NbdServer([NbdExport("disk", device)], limits=limits) as server:
        server.listen_unix(place)
        with RawClient(place) as deaf, RawClient(place) as other:
            deaf.choose("disk")
            other.choose("disk")
            for cookie in range(20):
                deaf.ask(READ, cookie, 0, 2 * MIB)
            while server.connections > 1:
                assert other.call(READ, 0, MIB).data == device.content[:MIB]
            assert deaf.ended()


def test_a_client_that_dies_leaves_the_others_alone(server, place, device):
    with RawClient(place) as other:
        other.choose("disk")
        for cut in (0, 5, 27, 28, 100):
            with RawClient(place) as dying:
                dying.choose("disk")
                whole = (
                    b"\x25\x60\x95\x13\0\0\0\1" + bytes(8) + bytes(8) + b"\0\0\4\0" + bytes(1024)
                )
                dying.socket.sendall(whole[:cut])
        assert other.call(READ, 0, 100).data == device.content[:100]


def test_closing_lets_running_requests_finish(server, place, device):
    with RawClient(place) as client:
        client.choose("disk")
        client.call(WRITE, 0, 5, data=b"hello")
        device.gate.clear()
        client.ask(READ, 7, 0, 5)
        client.ask(99, 8)
        client.answers(1)  # the server has taken the read as well
        closing = threading.Thread(target=server.close)
        closing.start()
        device.gate.set()
        assert client.answers(1, {7: (0, 5)})[7].data == b"hello"
        assert client.ended()
        closing.join()
    assert device.flushed[:5] == b"hello"
    assert not place.exists()


def test_closing_does_not_wait_for_ever(device, place):
    with NbdServer([NbdExport("disk", device)], limits=Limits(close_s=0.1)) as server:
        server.listen_unix(place)
        with RawClient(place) as client:
            client.choose("disk")
            device.gate.clear()
            client.ask(READ, 7, 0, 5)
            client.ask(99, 8)
            client.answers(1)
            threading.Timer(1, device.gate.set).start()
            server.close()
            assert client.ended()


def test_closing_tells_of_a_failed_flush_after_all_were_flushed(device, place):
    broken = MemoryDevice(MIB)
    broken.failure = StorageError("(gone)")
    server = NbdServer([NbdExport("a", broken), NbdExport("b", device)])
    server.listen_unix(place)
    with pytest.raises(StorageError):
        server.close()
    assert device.flushed is not None
    server.close()


def test_serving_until_it_is_stopped(server, place):
    stop = threading.Event()
    serving = threading.Thread(target=server.serve_until, args=(stop,))
    serving.start()
    with RawClient(place) as client:
        client.choose("disk")
        assert client.call(READ, 0, 100).error == 0
        stop.set()
        serving.join()
        assert client.ended()
    assert not place.exists()


def test_a_closed_server_does_not_listen_again(server, place):
    server.close()
    with pytest.raises(ExportError):
        server.listen_unix(place)
    assert not place.exists()
