"""Reading and writing disks, and what a client may rely on."""

import struct
import threading

import pytest

from ruchu.errors import CommandFailed, StorageFull
from ruchu.exports.nfs import connection
from ruchu.exports.nfs.exporting import ExportedDisk, NfsExport
from ruchu.exports.nfs.messages import Status
from ruchu.exports.nfs.xdr import FALSE, TRUE, U32, U64, opaque
from ruchu.testing import nfs
from ruchu.units import KIB, MIB

NFS = 100003


def refused(call, *args):
    with pytest.raises(nfs.Refusal) as caught:
        call(*args)
    return Status(caught.value.status)


@pytest.mark.parametrize("at_hand", [True, False])
def test_reads(client, device, disk, at_hand):
    device.at_hand = at_hand
    for start, count in [(0, 1), (0, 4096), (3, 5), (MIB - 1, MIB), (device.size - 7, 7)]:
        data, ends = client.read(disk, start, count)
        assert data == device.content[start : start + count]
        assert ends == (start + count >= device.size)
    assert client.read(disk, device.size - 3, 4096) == (device.content[-3:], True)
    assert client.read(disk, device.size + 5, 10) == (b"", True)
    assert client.read(disk, (1 << 64) - 1, 10) == (b"", True)
    assert len(client.read(disk, 0, 3 * MIB)[0]) == MIB


def test_a_read_that_waits_holds_up_nobody(server, client, device, disk):
    device.at_hand = False
    device.gate.clear()
    slow = client.post(NFS, nfs.READ, opaque(disk) + U64.pack(0) + U32.pack(512))
    assert device.called.acquire(timeout=60)
    client.post(NFS, nfs.GETATTR, opaque(disk))
    assert client.answer()[0] != slow
    with nfs.Client(server.address) as other:
        assert other.read(other.lookup(other.mount(), "disk.vmdk"), 0, 100)[0] == b"a descriptor"
    device.gate.set()
    assert client.answer()[0] == slow


def test_an_unstable_write_is_durable_after_commit(client, device, disk):
    how, verifier = client.write(disk, 5, b"hello")
    assert (how, device.content[5:10]) == (0, b"hello")
    assert [call[0] for call in device.calls] == ["write"]
    assert client.commit(disk) == verifier
    assert [call[0] for call in device.calls] == ["write", "flush"]


@pytest.mark.parametrize("how", [1, 2])
def test_a_stable_write_is_durable_when_it_is_answered(client, device, disk, how):
    assert client.write(disk, 0, b"x" * MIB, how)[0] == 2
    assert [call[0] for call in device.calls] == ["write", "flush"]
    assert device.content[:MIB] == b"x" * MIB


def test_a_failed_flush_is_told_and_changes_the_verifier(server, client, device, disk):
    _, verifier = client.write(disk, 0, b"a")
    device.error = OSError(5, "broken")
    assert refused(client.commit, disk) is Status.IO
    device.error = None
    assert client.commit(disk) != verifier
    assert [str(error) for error in server.failures] == ["[Errno 5] broken"]


def test_a_write_that_began_before_a_failed_flush_is_sent_again(client, device, disk):
    """Its answer must carry the verifier of before: its data may be what the flush lost."""
    _, before = client.write(disk, 0, b"a")
    device.gate.clear()
    device.held = {"write"}
    device.error, device.failing = OSError(5, "broken"), {"flush"}
    held = client.post(NFS, nfs.WRITE, nfs.write_arguments(disk, 4096, b"b", 0))
    assert device.called.acquire(timeout=60)
    assert refused(client.commit, disk) is Status.IO
    device.error = None
    device.gate.set()
    number, reader, results = client.answer()
    assert (number, reader.u32()) == (held, 0)
    assert results[-8:] == before
    assert client.commit(disk) != before


def test_overlapping_writes_are_applied_in_the_order_they_came(server, client, device, disk):
    device.gate.clear()
    with nfs.Client(server.address) as other:
        client.post(NFS, nfs.WRITE, nfs.write_arguments(disk, 0, b"a" * 100, 0))
        assert device.called.acquire(timeout=60)
        # From now on each overlaps with the one before; only the first may have begun.
        for number in range(20):
            data = bytes([number]) * 100
            other.post(NFS, nfs.WRITE, nfs.write_arguments(disk, 50 * (number % 2), data, 0))
        other.post(NFS, nfs.WRITE, nfs.write_arguments(disk, 4096, b"apart", 0))
        assert device.called.acquire(timeout=60)
        assert [call[:2] for call in device.calls] == [("write", 0), ("write", 4096)]
        device.gate.set()
        for _ in range(21):
            other.answer()
        client.answer()
    begun = [first for name, start, first in device.calls if start < 4096]
    assert begun == [ord("a"), *range(20)]
    assert device.content[:150] == bytes([18]) * 50 + bytes([19]) * 100


def test_commits_that_come_during_a_flush_share_the_next(client, device, disk):
    device.gate.clear()
    client.post(NFS, nfs.COMMIT, opaque(disk) + bytes(12))
    assert device.called.acquire(timeout=60)
    for _ in range(10):
        client.post(NFS, nfs.COMMIT, opaque(disk) + bytes(12))
    # The answer to a call that came after them says that they have come as well.
    client.post(NFS, nfs.GETATTR, opaque(disk))
    client.answer()
    device.gate.set()
    for _ in range(11):
        client.answer()
    assert len(device.calls) == 2


@pytest.mark.parametrize(
    ("error", "status"),
    [(StorageFull(), Status.NOSPC), (CommandFailed(), Status.IO), (OSError(28, ""), Status.NOSPC)],
)
def test_errors_of_the_device_are_told(server, client, device, disk, error, status):
    device.at_hand = False
    device.error = error
    assert refused(client.read, disk, 0, 10) is status
    assert refused(client.write, disk, 0, b"x") is status
    assert refused(client.write, disk, 0, b"x", 2) is status
    assert server.failures == [error] * 3


def test_an_error_of_what_is_at_hand_is_told(client, device, disk):
    device.error, device.failing = CommandFailed(), {"peek"}
    assert refused(client.read, disk, 0, 10) is Status.IO


def test_a_bug_ends_one_connection_and_is_told(export, device):
    running = nfs.RunningServer(export)
    with nfs.Client(running.address) as client, nfs.Client(running.address) as other:
        root = client.mount()
        disk = client.lookup(root, "disk.raw")
        device.error, device.failing = ValueError("a bug"), {"peek"}
        client.post(NFS, nfs.READ, opaque(disk) + U64.pack(0) + U32.pack(512))
        assert client.receive() == b""
        assert other.mount() == root
    running.stop()
    assert [str(crash["exception"]) for crash in running.crashes] == ["a bug"]


def test_writing_stays_inside_the_disk(client, device, disk):
    assert refused(client.write, disk, device.size, b"x") is Status.FBIG
    assert refused(client.write, disk, device.size - 1, b"xy") is Status.FBIG
    assert refused(client.write, disk, (1 << 64) - 1, b"x") is Status.FBIG
    assert refused(client.write, disk, 0, b"x", 3) is Status.INVAL
    assert device.calls == []
    wrong = opaque(disk) + U64.pack(0) + U32.pack(7) + U32.pack(0) + opaque(b"x")
    assert refused(client.call, nfs.WRITE, wrong) is Status.INVAL


class ReadOnly:
    preferred_io = 64 * KIB
    size = 1000

    def read_into(self, start, buffer):
        buffer[:] = b"r" * len(buffer)


def test_a_disk_without_write_is_read_only():
    export = NfsExport(
        nfs.PATH, (ExportedDisk("r", ReadOnly()),), {}, None, nfs.SECRET, nfs.LOOPBACK
    )
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        root = client.mount()
        disk = client.lookup(root, "r")
        assert client.read(disk, 990, 100) == (b"r" * 10, True)
        assert refused(client.write, disk, 0, b"x") is Status.ROFS
        assert refused(client.create, root, "x") is Status.ROFS
        client.commit(disk)
        assert access(client, disk, 0x3F) == 0x01
        assert access(client, root, 0x3F) == 0x03


def access(client, handle, asked):
    reader = client.call(nfs.ACCESS, opaque(handle) + U32.pack(asked))
    nfs.attributes(reader)
    return reader.u32()


def test_access_grants_nothing_that_was_not_asked_for(client, root, disk):
    for asked in range(64):
        assert access(client, disk, asked) == asked & 0x0D
        assert access(client, root, asked) == asked & 0x1F


def attributes_of(client, handle):
    return nfs.attributes(client.call(nfs.GETATTR, opaque(handle)), bare=True)


def test_attributes(client, device, root, disk):
    there = attributes_of(client, disk)
    assert (there["kind"], there["mode"], there["links"]) == (1, 0o666, 1)
    assert there["size"] == there["used"] == device.size
    above = attributes_of(client, root)
    assert (above["kind"], above["mode"], above["links"]) == (2, 0o777, 2)
    assert above["filesystem"] == there["filesystem"]
    assert above["file_id"] != there["file_id"]


def test_attributes_that_cannot_be_set_are_refused(client, disk):
    foreign = FALSE + TRUE + U32.pack(7) + FALSE * 5
    assert refused(client.call, nfs.SETATTR, opaque(disk) + foreign) is Status.PERM


def test_the_time_of_a_disk_changes_with_every_write(client, disk):
    seen = [attributes_of(client, disk)["modified"]]
    for _ in range(20):
        client.write(disk, 0, b"x")
        seen.append(attributes_of(client, disk)["modified"])
    assert len(set(seen)) == 21
    assert seen == sorted(seen)


def test_what_the_server_can_do(client, root, device):
    reader = client.call(nfs.FSINFO, opaque(root))
    nfs.attributes(reader)
    assert [reader.u32() for _ in range(7)] == [MIB, MIB, 4096, MIB, MIB, 4096, 64 * KIB]
    reader = client.call(nfs.FSSTAT, opaque(root))
    nfs.attributes(reader)
    assert reader.u64() >= device.size + 64 * MIB
    assert reader.u64() == 64 * MIB
    reader = client.call(nfs.PATHCONF, opaque(root))
    nfs.attributes(reader)
    assert [reader.u32() for _ in range(6)] == [1, 255, 1, 1, 0, 1]


def test_handles_are_the_same_after_a_restart_and_differ_with_the_secret(export, server, root):
    with nfs.serving(export) as again, nfs.Client(again.address) as client:
        assert client.mount() == root
    other = NfsExport(nfs.PATH, (), {}, None, bytes(32), nfs.LOOPBACK)
    with nfs.serving(other) as running, nfs.Client(running.address) as client:
        assert client.mount() != root
        assert refused(client.call, nfs.GETATTR, opaque(root)) is Status.STALE


def test_handles_that_are_not_ours(client, disk):
    forged = bytes([disk[0] ^ 1]) + disk[1:]
    assert refused(client.call, nfs.GETATTR, opaque(forged)) is Status.STALE
    assert refused(client.call, nfs.GETATTR, opaque(b"short")) is Status.BADHANDLE
    assert refused(client.read, forged, 0, 1) is Status.STALE
    assert refused(client.read, b"short", 0, 1) is Status.BADHANDLE


def test_a_verifier_is_new_with_every_start(export, server, client, disk):
    _, verifier = client.write(disk, 0, b"x")
    with nfs.serving(export) as again, nfs.Client(again.address) as other:
        assert other.write(disk, 0, b"x")[1] != verifier


def test_closing_makes_disks_durable_and_tells_when_it_cannot(export, device):
    with nfs.serving(export):
        pass
    assert [call[0] for call in device.calls] == ["flush"]
    running = nfs.RunningServer(export)
    device.error = OSError(5, "broken")
    with pytest.raises(OSError, match="broken"):
        running.stop()


def test_closing_finishes_what_is_under_way(export, device):
    flushed = []
    device.flush = lambda: flushed.append(bytes(device.content[:10]))
    running = nfs.RunningServer(export)
    with nfs.Client(running.address) as client:
        disk = client.lookup(client.mount(), "disk.raw")
        device.gate.clear()
        client.post(NFS, nfs.WRITE, nfs.write_arguments(disk, 0, b"last words", 0))
        assert device.called.acquire(timeout=60)
        closing = threading.Thread(target=running.stop)
        closing.start()
        assert client.receive() == b""
        device.gate.set()
        closing.join(60)
    assert flushed == [b"last words"]


@pytest.mark.slow
def test_a_client_that_takes_no_answers_is_not_read_any_longer(server, client, device, disk):
    """It asks for gigabytes and takes nothing: the server stops, and others are served."""
    call = opaque(disk) + U64.pack(0) + U32.pack(MIB)
    record = nfs.header(1, NFS, nfs.READ) + call
    client.socket.settimeout(1)
    sent = 0
    with pytest.raises(TimeoutError):
        while sent < 64 * MIB:
            client.socket.sendall((U32.pack(1 << 31 | len(record)) + record) * 1000)
            sent += 1000 * len(record)
    with nfs.Client(server.address) as other:
        other.read(disk, 0, MIB)
    # What it may have in its memory, and what the kernel holds on both sides.
    assert device.peeks < 64


@pytest.mark.slow
def test_reads_that_wait_are_bounded(server, client, device, disk):
    device.at_hand = False
    device.gate.clear()
    connections = [nfs.Client(server.address) for _ in range(3)]
    for each in connections:
        for _ in range(64):
            each.post(NFS, nfs.READ, opaque(disk) + U64.pack(0) + U32.pack(MIB))
    for _ in range(8):
        assert device.called.acquire(timeout=60)
    device.gate.set()
    for each in connections:
        for _ in range(64):
            assert len(each.answer()[2]) > MIB
        each.socket.close()


def test_a_budget_wakes_whom_it_held_up():
    budget = connection.Budget()
    woken = []
    budget.take(connection.BYTES_MAX)
    assert budget.spent
    budget.wait(lambda: woken.append(1))
    budget.give_back(1)
    assert (woken, budget.spent) == ([1], False)


def test_what_nobody_needs_is_refused(client, root, disk):
    for procedure in (nfs.SYMLINK, nfs.MKNOD, nfs.LINK):
        assert refused(client.call, procedure, opaque(disk)) is Status.NOTSUPP
    assert refused(client.call, nfs.READLINK, opaque(disk)) is Status.INVAL
    assert refused(client.read, root, 0, 1) is Status.ISDIR


def test_failures_have_the_shape_that_the_rfc_gives_them(client):
    """After the status, the attributes that are left out: their number differs."""
    stale = opaque(bytes(32))
    name = opaque(b"x")
    for procedure, arguments, words in [
        (nfs.GETATTR, stale, 0),
        (nfs.SETATTR, stale, 2),
        (nfs.LOOKUP, stale + name, 1),
        (nfs.READ, stale + bytes(12), 1),
        (nfs.WRITE, stale, 2),
        (nfs.CREATE, stale + name, 2),
        (nfs.RENAME, stale + name + stale + name, 4),
        (nfs.LINK, stale, 3),
        (nfs.READDIR, stale, 1),
        (nfs.COMMIT, stale, 2),
    ]:
        client.post(NFS, procedure, arguments)
        assert client.answer()[2] == struct.pack(">I", Status.STALE) + bytes(4 * words)
