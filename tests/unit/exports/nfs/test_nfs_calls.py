"""What RPC, MOUNT and the portmapper answer."""

import ipaddress
import struct

import pytest

from ruchu.errors import ExportError, InvalidName, UsageError
from ruchu.exports.nfs.exporting import ExportedDisk, NfsExport
from ruchu.exports.nfs.xdr import FALSE, U32, opaque
from ruchu.testing import nfs

NFS, MOUNT, PORTMAPPER = 100003, 100005, 100000


def rejected(client):
    return struct.unpack_from(">6I", client.receive())[2:]


@pytest.mark.parametrize(
    ("program", "procedure", "version", "expected"),
    [
        (100021, 0, 4, (0, 0, 0, 1)),  # NLM: PROG_UNAVAIL
        (100227, 0, 3, (0, 0, 0, 1)),  # NFSACL
        (NFS, 0, 4, (0, 0, 0, 2)),  # PROG_MISMATCH
        (NFS, 0, 2, (0, 0, 0, 2)),
        (MOUNT, 0, 1, (0, 0, 0, 2)),
        (NFS, 22, 3, (0, 0, 0, 3)),  # PROC_UNAVAIL
        (PORTMAPPER, 5, 2, (0, 0, 0, 3)),  # CALLIT
        (NFS, nfs.GETATTR, 3, (0, 0, 0, 4)),  # GARBAGE_ARGS
        (NFS, nfs.READ, 3, (0, 0, 0, 4)),
        (PORTMAPPER, 3, 2, (0, 0, 0, 4)),
        (NFS, 0, 3, (0, 0, 0, 0)),
    ],
)
def test_rpc_refuses_in_its_own_words(client, program, procedure, version, expected):
    client.post(program, procedure, version=version)
    assert rejected(client) == expected


def test_a_mismatch_names_the_versions(client):
    client.post(NFS, 0, version=4)
    assert client.receive()[24:] == U32.pack(3) * 2
    client.post(PORTMAPPER, 0, version=9)
    assert client.receive()[24:] == U32.pack(2) + U32.pack(4)


def test_only_rpc_version_2(client):
    client.send(struct.pack(">10I", 5, 0, 3, NFS, 3, 0, 0, 0, 0, 0))
    assert client.receive() == struct.pack(">6I", 5, 1, 1, 0, 2, 2)


@pytest.mark.parametrize(("flavor", "length"), [(6, 0), (2, 0), (1, 404)])
def test_unknown_credentials_are_denied(client, flavor, length):
    head = struct.pack(">8I", 5, 0, 2, NFS, 3, 0, flavor, length)
    client.send(head + bytes(length) + bytes(8))
    assert client.receive() == struct.pack(">5I", 5, 1, 1, 1, 1)


def test_auth_none_is_taken(client):
    client.send(struct.pack(">10I", 5, 0, 2, NFS, 3, 0, 0, 0, 0, 0))
    assert client.receive() == struct.pack(">6I", 5, 1, 0, 0, 0, 0)


@pytest.mark.parametrize("record", [b"", b"short", struct.pack(">6I", 5, 1, 0, 0, 0, 0)])
def test_what_is_no_call_ends_the_connection(server, client, record):
    client.send(record)
    assert client.receive() == b""
    with nfs.Client(server.address) as other:
        other.mount()


def test_a_call_in_fragments(client):
    record = nfs.header(9, NFS, 0)
    for at in range(0, len(record), 8):
        piece = record[at : at + 8]
        last = 1 << 31 if at + 8 >= len(record) else 0
        client.socket.sendall(U32.pack(last | len(piece)) + piece)
    assert client.receive()[:4] == U32.pack(9)


def test_mounting_takes_the_path_and_nothing_else(client):
    assert client.mount() == client.mount(nfs.PATH + "/")
    for path in ("/", "", "/ruchu", nfs.PATH + "/disk.raw", nfs.PATH[:-1]):
        with pytest.raises(nfs.Refusal) as refused:
            client.mount(path)
        assert refused.value.status == 2


def test_nobody_is_told_the_path(client):
    for procedure in (2, 5):
        client.post(MOUNT, procedure)
        assert client.answer()[2] == FALSE
    client.post(MOUNT, 3, opaque(nfs.PATH.encode()))
    assert client.answer()[2] == b""
    client.post(MOUNT, 4)
    assert client.answer()[2] == b""


def test_the_portmapper_knows_the_port(client, server):
    port = server.address[1]
    for program, version, protocol, expected in [
        (NFS, 3, 6, port),
        (MOUNT, 3, 6, port),
        (NFS, 4, 6, 0),
        (NFS, 3, 17, 0),
        (100021, 4, 6, 0),
        (PORTMAPPER, 2, 6, 111),
    ]:
        client.post(PORTMAPPER, 3, struct.pack(">4I", program, version, protocol, 0), version=2)
        assert client.answer()[2] == U32.pack(expected)
    client.post(PORTMAPPER, 4, version=2)
    assert client.answer()[2].count(U32.pack(NFS)) == 1
    client.post(PORTMAPPER, 1, struct.pack(">4I", NFS, 3, 6, 1), version=2)
    assert client.answer()[2] == FALSE


def test_rpcbind_knows_the_address(client, server):
    host, port = server.address
    for netid, program, expected in [
        (b"tcp", NFS, f"{host}.{port >> 8}.{port & 255}"),
        (b"udp", NFS, ""),
        (b"tcp", 100021, ""),
    ]:
        arguments = U32.pack(program) + U32.pack(3) + opaque(netid) + opaque(b"") * 2
        client.post(PORTMAPPER, 3, arguments, version=4)
        assert client.answer()[2] == opaque(expected.encode())


def test_a_client_from_elsewhere_is_not_answered(device):
    elsewhere = (ipaddress.ip_network("192.0.2.0/24"),)
    export = NfsExport(nfs.PATH, (ExportedDisk("d", device),), {}, None, nfs.SECRET, elsewhere)
    with nfs.serving(export) as running, nfs.Client(running.address) as client:
        client.post(NFS, 0)
        assert client.receive() == b""


@pytest.mark.parametrize(
    ("address", "port", "admitted"),
    [
        ("192.0.2.7", 1023, True),
        ("192.0.2.7", 1024, False),
        ("192.0.3.7", 1023, False),
        ("::ffff:192.0.2.7", 700, True),
        ("2001:db8::1%eth0", 700, True),
        ("2001:db9::1", 700, False),
    ],
)
def test_who_is_admitted(device, address, port, admitted):
    clients = (ipaddress.ip_network("192.0.2.0/24"), ipaddress.ip_network("2001:db8::/32"))
    export = NfsExport(nfs.PATH, (), {}, None, nfs.SECRET, clients, privileged_ports_only=True)
    assert export.admits(address, port) is admitted


@pytest.mark.parametrize(
    ("wrong", "error"),
    [
        ({"path": "relative"}, InvalidName),
        ({"path": "/"}, InvalidName),
        ({"path": "/" + "x" * 1024}, InvalidName),
        ({"files": {"a/b": b""}}, InvalidName),
        ({"files": {"..": b""}}, InvalidName),
        ({"files": {"disk.raw": b""}}, InvalidName),
        ({"files": {"x" * 256: b""}}, InvalidName),
        ({"secret": bytes(15)}, UsageError),
        ({"clients": ()}, UsageError),
    ],
)
def test_an_export_that_cannot_be_served_is_refused(device, wrong, error):
    right = {
        "path": nfs.PATH,
        "disks": (ExportedDisk("disk.raw", device),),
        "files": {},
        "scratch": None,
        "secret": nfs.SECRET,
        "clients": nfs.LOOPBACK,
    }
    NfsExport(**right)
    with pytest.raises(error):
        NfsExport(**(right | wrong))


def test_an_address_that_cannot_be_had_is_said(export):
    with pytest.raises(ExportError):
        nfs.RunningServer(export, host="203.0.113.1")


def test_a_port_that_is_taken_is_said(export, server):
    with pytest.raises(ExportError) as refused:
        nfs.RunningServer(export, port=server.address[1])
    assert "rpcbind" in refused.value.advice
