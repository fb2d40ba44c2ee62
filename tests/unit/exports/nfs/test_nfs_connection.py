"""What one connection lets begin, and when it goes on; the socket is real, the loop is not."""

import asyncio
import contextlib
import socket

import pytest

from ruchu.exports.nfs.connection import BYTES_MAX, EXCHANGES_MAX, Budget, Connection
from ruchu.exports.nfs.xdr import U32
from ruchu.testing import nfs

PROGRAM = 77


class Transport(asyncio.Transport):
    def __init__(self, connected):
        super().__init__({"socket": connected, "peername": ("127.0.0.1", 1)})
        self.paused = False

    def set_write_buffer_limits(self, high=None, low=None):
        pass

    def get_write_buffer_size(self):
        return 0

    def is_closing(self):
        return False

    def pause_reading(self):
        self.paused = True

    def resume_reading(self):
        self.paused = False

    def abort(self):
        pass


class Player:
    """A connection whose calls are held until the test answers them."""

    def __init__(self, stack, budget, weight):
        listening = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        address = listening.getsockname()
        self.peer = stack.enter_context(socket.create_connection(address, timeout=60))
        served = stack.enter_context(listening.accept()[0])
        self.held = []

        def hold(exchange):
            exchange.weight = weight
            self.held.append(exchange)

        programs = {PROGRAM: {3: {0: hold}}}
        self.transport = Transport(served)
        self.connection = Connection(programs, budget, lambda *_: True, len, pytest.fail)
        self.connection.connection_made(self.transport)

    def call(self, times):
        record = nfs.header(1, PROGRAM, 0)
        data = (U32.pack(1 << 31 | len(record)) + record) * times
        self.connection.get_buffer(-1)[: len(data)] = data
        self.connection.buffer_updated(len(data))

    def answer(self, number):
        self.held[number].reply(b"")


def test_calls_under_way_are_bounded_for_each_connection():
    with contextlib.ExitStack() as stack:
        player = Player(stack, Budget(), 0)
        player.call(EXCHANGES_MAX - 1)
        assert not player.transport.paused
        player.call(3)
        assert (len(player.held), player.transport.paused) == (EXCHANGES_MAX, True)
        player.answer(0)
        assert (len(player.held), player.transport.paused) == (EXCHANGES_MAX + 1, True)
        player.answer(1)
        assert (len(player.held), player.transport.paused) == (EXCHANGES_MAX + 2, True)
        player.answer(2)
        assert not player.transport.paused
        assert len(player.peer.recv(1000)) == 3 * 28


def test_bytes_under_way_are_bounded_for_all_connections():
    with contextlib.ExitStack() as stack:
        budget = Budget()
        one, other = (Player(stack, budget, BYTES_MAX // 4) for _ in range(2))
        one.call(3)
        other.call(3)
        assert (len(one.held), len(other.held)) == (3, 1)
        assert other.transport.paused
        one.answer(0)
        assert len(other.held) == 2
        other.answer(0)
        assert len(other.held) == 3
        one.answer(1)
        assert not other.transport.paused
