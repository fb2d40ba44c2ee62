"""Requests that no client sends: the NFS server refuses them, stays up, and serves the others."""

import contextlib
import resource
import socket
import struct

import hypothesis
import hypothesis.strategies as st
import pytest

from ruchu.exports.nfs.exporting import ExportedDisk, NfsExport
from ruchu.exports.nfs.xdr import FALSE, U32, U64, opaque
from ruchu.testing import nfs
from ruchu.units import KIB, MIB

NFS, MOUNT, PORTMAPPER = 100003, 100005, 100000
# What the server may take more than at its start, whatever is sent to it. Its own limits for the
# few connections of these tests add up to less than half of this.
GROWTH_MAX = 256 * MIB
EXAMPLES = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.function_scoped_fixture], deadline=None
)


class World:
    """A server, a client that behaves, and handles."""

    def __init__(self, running, witness):
        self.running = running
        self.witness = witness
        self.root = witness.mount()
        self.disk = witness.lookup(self.root, "disk.raw")
        self.kept = witness.create(self.root, "kept")
        witness.write(self.kept, 0, b"kept content", 2)

    def check(self):
        """The witness, connected before, is served as ever."""
        assert self.witness.read(self.kept, 0, 100) == (b"kept content", True)
        assert len(self.witness.read(self.disk, 0, 4 * KIB)[0]) == 4 * KIB
        assert self.running.crashes == []

    def provoke(self, data):
        """Send bytes on a connection of its own, and take what comes until the server is done."""
        with nfs.Client(self.running.address) as client:
            with contextlib.suppress(ConnectionError):
                client.socket.sendall(data)
                client.socket.shutdown(socket.SHUT_WR)
            while client.receive():
                pass
        self.check()


@pytest.fixture(scope="module")
def world(tmp_path_factory):
    device = nfs.GatedDevice(4 * MIB, at_hand=False)
    export = NfsExport(
        nfs.PATH,
        (ExportedDisk("disk.raw", device),),
        {"disk.vmdk": b"a descriptor"},
        tmp_path_factory.mktemp("nfs") / "scratch",
        nfs.SECRET,
        nfs.LOOPBACK,
    )
    with nfs.serving(export) as running, nfs.Client(running.address) as witness:
        yield World(running, witness)


def peak_memory():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def marked(record):
    return U32.pack(1 << 31 | len(record)) + record


def valid_calls(world):
    """Return one call of each kind, but none that harms what the witness looks at."""
    root, disk, name = opaque(world.root), opaque(world.disk), opaque(b"name")
    new = nfs.new_attributes(mode=0o600, size=5)
    arguments = {
        nfs.NULL: b"",
        nfs.GETATTR: disk,
        nfs.SETATTR: disk + nfs.new_attributes(mode=0o600) + FALSE,
        nfs.LOOKUP: root + name,
        nfs.ACCESS: disk + U32.pack(63),
        nfs.READLINK: disk,
        nfs.READ: disk + U64.pack(5) + U32.pack(1000),
        nfs.WRITE: nfs.write_arguments(world.disk, 5, b"data of a write", 2),
        nfs.CREATE: root + name + U32.pack(0) + new,
        nfs.MKDIR: root + opaque(b"directory") + new,
        nfs.REMOVE: root + name,
        nfs.RMDIR: root + opaque(b"directory"),
        nfs.RENAME: root + name + root + opaque(b"other"),
        nfs.READDIR: root + bytes(16) + U32.pack(4096),
        nfs.READDIRPLUS: root + bytes(16) + U32.pack(4096) * 2,
        nfs.FSSTAT: root,
        nfs.FSINFO: root,
        nfs.PATHCONF: root,
        nfs.COMMIT: disk + bytes(12),
    }
    calls = [nfs.header(number, NFS, number) + packed for number, packed in arguments.items()]
    calls.append(nfs.header(77, MOUNT, 1) + opaque(nfs.PATH.encode()))
    calls.append(nfs.header(78, PORTMAPPER, 3, 2) + struct.pack(">4I", NFS, 3, 6, 0))
    calls.append(nfs.header(79, PORTMAPPER, 3, 4) + struct.pack(">2I", NFS, 3) + opaque(b"tcp") * 3)
    return calls


mutations = st.lists(
    st.one_of(
        st.tuples(st.just("byte"), st.integers(0, 400), st.integers(0, 255)),
        st.tuples(
            st.just("word"),
            st.integers(0, 100),
            st.sampled_from([0, 1, 3, 4, 33, 64, 65, 1 << 20, 1 << 31, (1 << 32) - 1]),
        ),
        st.tuples(st.just("cut"), st.integers(0, 400), st.just(0)),
        st.tuples(st.just("more"), st.integers(0, 400), st.integers(0, 255)),
    ),
    max_size=4,
)


def mutated(record, changes):
    data = bytearray(record)
    for kind, at, value in changes:
        if kind == "byte" and at < len(data):
            data[at] = value
        elif kind == "word" and 4 * at + 4 <= len(data):
            data[4 * at : 4 * at + 4] = U32.pack(value)
        elif kind == "cut":
            del data[at:]
        elif kind == "more":
            data += bytes([value]) * at
    return bytes(data)


@pytest.mark.slow
@EXAMPLES
@hypothesis.given(
    st.lists(st.tuples(st.integers(0, 21), mutations), min_size=1, max_size=20),
    st.booleans(),
)
def test_calls_with_something_wrong_are_survived(world, chosen, marks_lie):
    calls = valid_calls(world)
    stream = b""
    for number, changes in chosen:
        record = mutated(calls[number], changes)
        if record.find(opaque(b"kept")) < 0:
            stream += marked(calls[number])[:4] + record if marks_lie else marked(record)
    world.provoke(stream)


@pytest.mark.slow
def test_random_bytes_are_survived(world, rng):
    before = peak_memory()
    for _ in range(300):
        data = rng.randbytes(rng.randrange(5000))
        # Of every other, the first bytes make sense, so that the rest is looked at.
        if rng.random() < 0.5:
            calls = valid_calls(world)
            head = rng.choice(calls)[: rng.randrange(40, 120)]
            data = marked(head + data)
        world.provoke(data)
    assert peak_memory() - before < GROWTH_MAX


@pytest.mark.slow
def test_lengths_without_end_take_no_memory(world):
    """A call that announces more than it holds, at each place where a length may be."""
    before = peak_memory()
    for call in valid_calls(world):
        for at in range(24, len(call) - 3, 4):
            for value in (0x7FFFFFFF, 0xFFFFFFFF, 0xFFFFFFFD):
                world.provoke(marked(call[:at] + U32.pack(value) + call[at + 4 :]))
    assert peak_memory() - before < GROWTH_MAX


@pytest.mark.slow
def test_every_truncation_is_survived(world):
    for call in valid_calls(world):
        for length in range(0, len(call), 3):
            world.provoke(marked(call[:length]))
            # The record says that more is to come, and then nothing comes.
            world.provoke(marked(call)[: length + 4])


@pytest.mark.slow
def test_records_that_never_end_take_no_memory(world):
    before = peak_memory()
    clients = [nfs.Client(world.running.address) for _ in range(8)]
    for client in clients:
        with contextlib.suppress(ConnectionError):
            # Fragments that are never the last one.
            for _ in range(100):
                client.socket.sendall(U32.pack(256 * KIB) + bytes(256 * KIB))
        assert client.receive() == b""
    for client in clients:
        client.socket.close()
    world.check()
    assert peak_memory() - before < GROWTH_MAX


@pytest.mark.slow
def test_handles_of_chance_open_nothing(world, rng):
    with nfs.Client(world.running.address) as client:
        for _ in range(2000):
            handle = rng.randbytes(rng.choice([0, 8, 31, 32, 32, 32, 33, 64]))
            client.post(NFS, nfs.GETATTR, opaque(handle))
            status = client.answer()[1].u32()
            assert status == (70 if len(handle) == 32 else 10001)
    world.check()


@pytest.mark.slow
def test_more_connections_than_there_may_be_leave_the_others_alone(world):
    with contextlib.ExitStack() as stack:
        clients = []
        for _ in range(150):
            with contextlib.suppress(ConnectionError):
                clients.append(stack.enter_context(nfs.Client(world.running.address)))
        answered = 0
        for client in clients:
            with contextlib.suppress(ConnectionError):
                client.post(NFS, nfs.NULL)
                answered += bool(client.receive())
        assert 10 < answered < 64
        world.check()
    # When they are gone, there is room again: a refused client tries until it is.
    for _ in range(1000):
        with contextlib.suppress(ConnectionError), nfs.Client(world.running.address) as client:
            client.post(NFS, nfs.NULL)
            if client.receive():
                break
    else:
        pytest.fail("there is no room")
