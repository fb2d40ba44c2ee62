"""Our NBD server before the judges: libnbd, QEMU, and our own client."""

import contextlib
import json
import random
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ruchu import commands
from ruchu.blocks import nbd_messages as messages
from ruchu.blocks import nbd_server_messages as replies
from ruchu.blocks.nbd import Address, NbdDisk
from ruchu.errors import NbdError
from ruchu.exports.nbd.exporting import NbdExport
from ruchu.exports.nbd.server import Limits, NbdServer
from ruchu.testing.memory_device import MemoryDevice
from ruchu.units import KIB, MIB

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not shutil.which("nbdinfo"), reason="libnbd is not installed"),
]
SIZE = 16 * MIB


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix="rn-") as made:
        yield Path(made)


@pytest.fixture
def device(rng):
    made = MemoryDevice(SIZE, peeks=False)
    for block in range(0, SIZE // MIB, 3):
        made.write(block * MIB, memoryview(rng.randbytes(300 * KIB)))
    return made


@pytest.fixture
def served(device, directory):
    """Return the URI of a server of two exports, `disk` (writable) and `fixed`."""
    path = directory / "s"
    fixed = NbdExport("fixed", device, "does not change", read_only=True)
    with NbdServer([NbdExport("disk", device, "changes"), fixed]) as server:
        server.listen_unix(path)
        yield f"nbd+unix:///disk?socket={path}"


def run(*args, limit_s=60):
    return commands.run([str(each) for each in args], timeout_s=limit_s).text


def truth_file(device, directory):
    path = directory / "truth.raw"
    path.write_bytes(device.content)
    return path


def fixed(uri):
    return uri.replace("/disk?", "/fixed?")


def test_nbdinfo(served):
    told = json.loads(run("nbdinfo", "--json", served))
    assert told["protocol"] == "newstyle-fixed"
    assert told["structured"]
    (export,) = told["exports"]
    expected = {
        "export-name": "disk", "description": "changes", "export-size": SIZE,
        "is_read_only": False, "can_cache": True, "can_df": True, "can_fast_zero": True,
        "can_flush": True, "can_fua": True, "can_multi_conn": True, "can_trim": True,
        "can_zero": True, "block_minimum": 1, "block_preferred": 65536,
        "block_maximum": 33554432, "contexts": ["base:allocation"],
    }  # fmt: skip
    renamed = {key.replace("block_size_", "block_"): value for key, value in export.items()}
    assert renamed.items() >= expected.items()


def test_the_list_of_exports(served):
    told = json.loads(run("nbdinfo", "--json", "--list", served.replace("disk", "")))
    found = {each["export-name"]: each["is_read_only"] for each in told["exports"]}
    assert found == {"disk": False, "fixed": True}


def test_the_map_is_the_truth(served, device):
    told = json.loads(run("nbdinfo", "--map", "--json", served))
    at = 0
    for each in told:
        assert each["offset"] == at
        at += each["length"]
        held = device.content[each["offset"] : each["offset"] + each["length"]]
        assert any(held) == (each["type"] == 0)
    assert at == SIZE


@pytest.mark.parametrize("connections", [1, 4])
def test_nbdcopy_both_ways(served, device, directory, rng, connections):
    target = directory / "copy.raw"
    run("nbdcopy", f"--connections={connections}", fixed(served), target)
    assert target.read_bytes() == device.content
    changed = bytearray(rng.randbytes(SIZE // 2) + bytes(SIZE // 2))
    target.write_bytes(changed)
    run("nbdcopy", f"--connections={connections}", "--flush", target, served)
    assert device.content == changed
    assert device.flushed == changed


def test_qemu_img(served, device, directory):
    info = json.loads(run("qemu-img", "info", "--output=json", served))
    assert info["virtual-size"] == SIZE
    truth = truth_file(device, directory)
    run("qemu-img", "compare", "-f", "raw", "-F", "raw", served, truth)
    run("qemu-img", "convert", "-f", "raw", "-O", "qcow2", fixed(served), directory / "c.qcow2")
    run("qemu-img", "compare", "-f", "qcow2", "-F", "raw", directory / "c.qcow2", truth)
    told = json.loads(run("qemu-img", "map", "--output=json", "-f", "raw", served))
    assert sum(each["length"] for each in told if each["data"]) == 6 * 320 * KIB
    run("qemu-img", "convert", "-n", "-f", "raw", "-O", "raw", "-W", truth, served)
    assert device.content == truth.read_bytes()


@pytest.mark.slow
@pytest.mark.parametrize("options", [[], ["-t", "writethrough"], ["-d", "unmap"]])
def test_qemu_io_against_a_model(served, device, seed, options):
    draw = random.Random(seed)
    model = bytearray(device.content)
    orders = []
    for number in range(120):
        start = draw.randrange(SIZE - 256 * KIB)
        length = draw.randrange(1, 256 * KIB)
        kind = draw.choice(["write", "zero", "unmap", "discard", "read"])
        if kind == "write":
            pattern = number % 255 + 1
            orders.append(f"write -P {pattern} {start} {length}")
            model[start : start + length] = bytes([pattern]) * length
        elif kind == "read":
            start, length = start // 512 * 512, 512
            value = model[start]
            if model[start : start + 512] == bytes([value]) * 512:
                orders.append(f"read -P {value} {start} {length}")
        else:
            # A discard of ragged ends may be cut to sectors by QEMU.
            start, length = start // 4096 * 4096, (length // 4096 + 1) * 4096
            order = {"zero": "write -z", "unmap": "write -z -u", "discard": "discard"}[kind]
            orders.append(f"{order} {start} {length}")
            if kind == "discard":
                # What is discarded may be kept, by QEMU.
                orders.append(f"write -z {start} {length}")
            model[start : start + length] = bytes(length)
    orders.append("flush")
    said = run("qemu-io", "-f", "raw", *options, *(x for o in orders for x in ("-c", o)), served)
    assert "fail" not in said.lower()
    assert device.content == model
    assert device.flushed == model


def test_the_read_only_export_refuses_writers(served):
    outcome = subprocess.run(
        ["qemu-io", "-f", "raw", "-c", "write 0 512", fixed(served)],
        capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert outcome.returncode
    assert "Permission denied" in outcome.stderr


# --------------------------------------------------------------------------------- dying clients


def test_clients_killed_while_they_write(served, device, directory):
    """A killed writer leaves whole 64 KiB requests or parts of one, and the server serves on."""
    source = directory / "ones.raw"
    source.write_bytes(b"\1" * SIZE)
    for _ in range(5):
        before = bytes(device.content)
        writer = subprocess.Popen(["nbdcopy", "--connections=2", source, served])
        while bytes(device.content) == before and writer.poll() is None:
            pass
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        device.content[:] = bytes(SIZE)
    run("nbdcopy", source, served)
    assert device.content == b"\1" * SIZE


def test_closing_with_clients_attached(device, directory):
    path = directory / "s"
    with NbdServer([NbdExport("disk", device)]) as server:
        server.listen_unix(path)
        with NbdDisk(Address("disk", path=str(path))) as disk:
            disk.write(0, memoryview(b"hello"))
            server.close()
            assert device.flushed[:5] == b"hello"
            with pytest.raises(NbdError):
                disk.read_into(0, memoryview(bytearray(5)))
    assert not path.exists()


def test_many_clients_at_a_time(served, device, directory, seed):
    address = Address("disk", path=str(directory / "s"))
    failures = []

    def work(number):
        draw = random.Random(seed * 100 + number)
        first = number * MIB
        try:
            with NbdDisk(address, connections=2) as disk:
                for _ in range(50):
                    start = first + draw.randrange(MIB - 70_000)
                    data = draw.randbytes(draw.randrange(1, 70_000))
                    disk.write(start, memoryview(data))
                    found = bytearray(len(data))
                    disk.read_into(start, memoryview(found))
                    assert found == data
                disk.flush()
        except BaseException as error:  # noqa: BLE001 - shown by the test
            failures.append(error)

    threads = [threading.Thread(target=work, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []


# ------------------------------------------------------------------------------------------- TLS


def issue(directory, name, authority=None, *, client=False):
    """Write <name>-cert.pem and <name>-key.pem; return certificate and key."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, issuer_key = (authority[0].subject, authority[1]) if authority else (subject, key)
    now = datetime.now(UTC)
    usage = x509.ExtendedKeyUsageOID.CLIENT_AUTH if client else x509.ExtendedKeyUsageOID.SERVER_AUTH
    builder = (
        x509.CertificateBuilder()
        .subject_name(subject)
        .issuer_name(issuer)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not authority, path_length=None), critical=True)
    )
    if authority:
        names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
    usages = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement",
         "encipher_only", "decipher_only"), False,
    )  # fmt: skip
    usages |= {
        "digital_signature": bool(authority),
        "key_cert_sign": not authority,
        "crl_sign": not authority,
    }
    builder = builder.add_extension(x509.KeyUsage(**usages), critical=True)
    certificate = builder.sign(issuer_key, hashes.SHA256())
    (directory / f"{name}-cert.pem").write_bytes(
        certificate.public_bytes(serialization.Encoding.PEM)
    )
    (directory / f"{name}-key.pem").write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    return certificate, key


@pytest.fixture
def certificates(directory):
    authority = issue(directory, "ca")
    issue(directory, "server", authority)
    issue(directory, "client", authority, client=True)
    return directory


def context(certificates, *, client, certificate=True):
    kind = ssl.PROTOCOL_TLS_CLIENT if client else ssl.PROTOCOL_TLS_SERVER
    made = ssl.SSLContext(kind)
    made.load_verify_locations(certificates / "ca-cert.pem")
    made.verify_mode = ssl.CERT_REQUIRED
    name = "client" if client else "server"
    if certificate:
        made.load_cert_chain(certificates / f"{name}-cert.pem", certificates / f"{name}-key.pem")
    return made


@contextlib.contextmanager
def serving_tls(device, certificates):
    with NbdServer([NbdExport("disk", device)]) as server:
        yield server.listen_tcp("localhost", 0, tls=context(certificates, client=False))


def test_tls_with_client_certificates(device, certificates, directory):
    truth = truth_file(device, directory)
    credentials = f"tls-creds-x509,id=tls0,endpoint=client,dir={certificates},verify-peer=yes"
    with serving_tls(device, certificates) as port:
        uri = f"nbds://localhost:{port}/disk?tls-certificates={certificates}"
        told = json.loads(run("nbdinfo", "--json", uri))
        assert told["TLS"]
        assert told["exports"][0]["export-size"] == SIZE
        copied = directory / "copy.raw"
        run("nbdcopy", uri, copied)
        assert copied.read_bytes() == device.content
        image = f"driver=nbd,host=localhost,port={port},export=disk,tls-creds=tls0"
        both = ["--image-opts", "driver=raw,file.filename=" + str(truth), image]
        run("qemu-img", "compare", "--object", credentials, *both)
        order = ["-c", "write -P 7 1M 3M", "-c", "flush"]
        run("qemu-io", "--object", credentials, "--image-opts", image, *order)
        assert device.flushed[MIB : 4 * MIB] == b"\7" * 3 * MIB


def test_tls_with_several_connections_of_ours(device, certificates):
    with serving_tls(device, certificates) as port:
        tls = context(certificates, client=True)
        with NbdDisk(Address("disk", host="localhost", port=port, tls=tls)) as disk:
            parts = [bytearray(SIZE // 4) for _ in range(4)]
            threads = [
                threading.Thread(target=disk.read_into, args=(n * SIZE // 4, memoryview(part)))
                for n, part in enumerate(parts)
            ]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert b"".join(parts) == device.content
            disk.write(5, memoryview(b"hello"))
            disk.flush()
    assert device.flushed[5:10] == b"hello"


def test_tls_turns_away_who_has_no_certificate_or_no_tls(device, certificates):
    with serving_tls(device, certificates) as port:
        for tls in (None, context(certificates, client=True, certificate=False)):
            with pytest.raises(NbdError):
                NbdDisk(Address("disk", host="localhost", port=port, tls=tls))
        tls = context(certificates, client=True)
        with NbdDisk(Address("disk", host="localhost", port=port, tls=tls)) as disk:
            assert disk.size == SIZE


def tls_client(port, certificates):
    """Return a socket after the handshake, in the clear before TLS and secret behind it."""
    plain = socket.create_connection(("localhost", port), timeout=30)
    assert len(plain.recv(18, socket.MSG_WAITALL)) == 18
    plain.sendall(b"\0\0\0\3" + messages.option(messages.OPT_STARTTLS))
    assert len(plain.recv(20, socket.MSG_WAITALL)) == 20
    made = context(certificates, client=True).wrap_socket(plain, server_hostname="localhost")
    made.sendall(messages.option(messages.OPT_GO, messages.go_data("disk")))
    told = b""
    while len(told) < 20 + 12 + 20 + 14 + 20:
        told += made.recv(100)
    return made


def asked(command, length):
    return replies.REQUEST.pack(messages.REQUEST_MAGIC, 0, command, 1, 0, length)


@pytest.mark.parametrize("kind", ["leaves", "stalls", "is deaf", "cuts TLS", "talks nonsense"])
def test_tls_clients_that_misbehave(device, certificates, kind):
    tls = context(certificates, client=False)
    with NbdServer([NbdExport("disk", device)], limits=Limits(stall_s=0.2, workers=1)) as server:
        port = server.listen_tcp("localhost", 0, tls=tls)
        with tls_client(port, certificates) as client:
            if kind == "leaves":
                client.sendall(asked(messages.CMD_WRITE, 1000) + bytes(10))
                client.shutdown(socket.SHUT_RDWR)
            elif kind == "stalls":
                client.sendall(asked(messages.CMD_WRITE, 1000) + bytes(10))
            elif kind == "is deaf":
                client.sendall(asked(messages.CMD_READ, 8 * MIB) * 20)
            elif kind == "cuts TLS":
                socket.socket(fileno=client.detach()).close()
            else:
                beneath = socket.socket(fileno=client.detach())
                beneath.sendall(b"nonsense" * 100)
            while server.connections:
                pass
            if kind == "talks nonsense":
                beneath.close()
        with contextlib.closing(socket.create_connection(("localhost", port))) as leaving:
            leaving.recv(18)
            leaving.sendall(b"\0\0\0\3" + messages.option(messages.OPT_STARTTLS))
        for _ in range(2):
            address = Address("disk", host="localhost", port=port,
                              tls=context(certificates, client=True))  # fmt: skip
            with NbdDisk(address) as disk:
                found = bytearray(100)
                disk.read_into(0, memoryview(found))
            assert found == device.content[:100]
