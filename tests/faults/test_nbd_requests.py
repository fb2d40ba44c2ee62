"""Clients that say anything at all: the server lives, remembers nothing of it, serves the others."""

import contextlib
import random
import resource
import struct
import tempfile
import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import Limits, NbdServer
from ruchu.testing.memory_device import MemoryDevice
from ruchu.testing.nbd_client import RawClient
from ruchu.units import KIB, MIB

SIZE = 1 * MIB
# Writes of noise that happen to be valid begin behind what `check` compares.
NOISE_START = 64 * KIB
ODD = st.sampled_from([0, 1, SIZE - 1, SIZE, SIZE + 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1])
U16, U32, U64 = (st.integers(0, 2**bits - 1) for bits in (16, 32, 64))


@pytest.fixture(scope="module")
def served():
    """Return (path, device, a client that came first, the server)."""
    device = MemoryDevice(SIZE)
    limits = Limits(stall_s=1, handshake_s=5, total_bytes=32 * MIB)
    with tempfile.TemporaryDirectory(prefix="rn-") as directory:
        path = Path(directory) / "s"
        with NbdServer([NbdExport("disk", device)], limits=limits) as server:
            server.listen_unix(path)
            with RawClient(path) as witness:
                witness.choose("disk")
                yield path, device, witness, server


def check(served):
    """See that the first client is served, and a new one as well."""
    path, device, witness, _ = served
    with RawClient(path) as newcomer:
        newcomer.choose("disk")
        for client in (witness, newcomer):
            # What a client that left has asked for may still be carried out.
            before = bytes(device.content[4096:4608])
            assert client.call(0, 4096, 512).data in {before, bytes(device.content[4096:4608])}


@given(data=st.binary(max_size=200))
def test_anything_instead_of_a_handshake(served, data):
    with RawClient(served[0]) as client:
        client.socket.sendall(data)
    check(served)


OPTIONS = st.tuples(
    st.one_of(st.integers(0, 12), U32),
    st.one_of(
        st.binary(max_size=60),
        st.builds(lambda name, rest: struct.pack(">I", len(name)) + name + rest,
                  st.sampled_from([b"disk", b"", b"\xff"]), st.binary(max_size=30)),
    ),
    st.one_of(st.none(), ODD.filter(lambda number: number < 2**32)),
)  # fmt: skip


@given(st.lists(OPTIONS, max_size=8))
def test_any_options(served, options):
    with RawClient(served[0]) as client:
        said = [struct.pack(">I", 3)]
        for number, data, length in options:
            told = len(data) if length is None else length
            said.append(messages.OPTION_MAGIC + struct.pack(">II", number, told) + data)
        with contextlib.suppress(ConnectionError):
            client.socket.sendall(b"".join(said))
    check(served)


REQUESTS = st.tuples(
    st.one_of(st.sampled_from([0, 1, 2, 4, 8, 16, 3]), U16),
    st.one_of(st.integers(0, 8), U16),
    U64,
    st.one_of(ODD, U64),
    st.one_of(ODD.filter(lambda number: number < 2**32), st.integers(0, 8192), U32),
)


@given(st.lists(REQUESTS, max_size=12), st.booleans(), st.binary(max_size=8192))
def test_any_requests(served, requests, structured, payload):
    with RawClient(served[0]) as client:
        client.choose("disk", structured=structured)
        try:
            for flags, command, cookie, start, length in requests:
                client.ask(command, cookie, start, length, flags)
                if command == 1:
                    client.socket.sendall(payload[:length])
        except ConnectionError:
            pass
    check(served)


@pytest.mark.slow
def test_seeded_noise_in_many_connections(served, seed):
    def noise(number):
        draw = random.Random(seed * 1000 + number)
        for _ in range(40):
            try:
                with RawClient(served[0]) as client:
                    if draw.random() < 0.8:
                        client.choose("disk", structured=draw.random() < 0.5)
                    for _ in range(draw.randrange(30)):
                        start = draw.choice(
                            [draw.randrange(NOISE_START, SIZE), 2**63 | draw.getrandbits(63)]
                        )
                        length = draw.choice([draw.randrange(64 * KIB), draw.getrandbits(32)])
                        client.ask(draw.randrange(9), 1, start, length, draw.choice([0, 0, 1, 4]))
                        client.socket.sendall(draw.randbytes(draw.choice([0, 0, 100, 5000])))
            except ConnectionError:
                pass

    threads = [threading.Thread(target=noise, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    while any(thread.is_alive() for thread in threads):
        check(served)
    check(served)


@pytest.mark.slow
def test_memory_stays_bounded_whatever_is_announced(served):
    path = served[0]
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    clients = [RawClient(path) for _ in range(20)]
    try:
        for client in clients:
            client.choose("disk")
            client.ask(1, 1, 0, 2**32 - 1)
            client.socket.sendall(bytes(2 * MIB))
        check(served)
    finally:
        for client in clients:
            client.socket.close()
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert grown < 64 * KIB  # 64 MiB, in KiB


def test_many_prefetches_are_served_in_turn(served):
    with RawClient(served[0]) as client:
        client.choose("disk")
        for _ in range(10):
            for cookie in range(50):
                client.ask(replies.CMD_CACHE, cookie, 0, SIZE)
            assert len(client.answers(50)) == 50
    check(served)
