"""The NBD client against qemu-nbd and nbdkit, as they are."""

import contextlib
import random
import shutil
import socket
import ssl
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ruchu import commands
from ruchu.blocks import nbd
from ruchu.blocks.nbd import Address, Connection, NbdDisk
from ruchu.clock import SYSTEM
from ruchu.errors import NbdError
from ruchu.model.extents import Content, total
from ruchu.units import KIB, MIB

pytestmark = [
    pytest.mark.system,
    pytest.mark.skipif(not shutil.which("qemu-nbd"), reason="qemu-nbd is not installed"),
]
SIZE = 64 * MIB


@pytest.fixture
def directory():
    made = commands.run(["mktemp", "-d", "/var/tmp/rn-XXXXXX"], timeout_s=10).text.strip()
    yield Path(made)
    shutil.rmtree(made)


@contextlib.contextmanager
def serving(args, path: Path):
    with commands.start(args) as process:
        deadline = SYSTEM.monotonic() + 20
        # The socket is there before anybody listens on it.
        while not answers(path):
            assert process.status() is None, process.said()
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.02)
        yield process


def answers(path: Path) -> bool:
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(str(path)) == 0


def create(path: Path, image_format: str, size: int = SIZE) -> None:
    commands.run(["qemu-img", "create", "-f", image_format, str(path), str(size)], timeout_s=20)


@contextlib.contextmanager
def qemu_nbd(directory: Path, *, image_format="qcow2", size=SIZE, more=()):
    image, path = directory / f"disk.{image_format}", directory / "socket"
    if not image.exists():
        create(image, image_format, size)
    args = ["qemu-nbd", "-t", "-k", str(path), "-f", image_format, "-e", "8", *more, str(image)]
    with serving(args, path):
        yield Address(path=str(path), timeout_s=20)


@pytest.mark.parametrize("image_format", ["qcow2", "raw"])
def test_what_is_written_is_read(directory, rng, image_format):
    model = bytearray(SIZE)
    with qemu_nbd(directory, image_format=image_format) as address:
        with NbdDisk(address) as disk:
            assert disk.size == SIZE
            assert disk.preferred_io == MIB
            for _ in range(60):
                start = rng.randrange(SIZE - 3 * MIB)
                length = rng.choice([1, 511, 4096, 65536, 3 * MIB])
                if rng.random() < 0.3:
                    disk.zero(start, length)
                    model[start : start + length] = bytes(length)
                else:
                    data = rng.randbytes(length)
                    disk.write(start, memoryview(data))
                    model[start : start + length] = data
            disk.flush()
            whole = bytearray(SIZE)
            disk.read_into(0, memoryview(whole))  # twice the largest payload
            assert whole == model
            check_extents(disk, model)
        with NbdDisk(address) as again:
            part = bytearray(12345)
            again.read_into(54321, memoryview(part))
            assert part == model[54321 : 54321 + 12345]


def check_extents(disk, model):
    end = 0
    for extent in disk.extents():
        assert extent.start == end
        end = extent.end
        if extent.reads_as_zeros:
            assert not any(model[extent.start : extent.end])
    assert end == disk.size


def test_holes_are_seen(directory):
    with qemu_nbd(directory) as address, NbdDisk(address) as disk:
        disk.write(10 * MIB, memoryview(b"x" * MIB))
        disk.zero(20 * MIB, MIB)
        data = [extent for extent in disk.extents() if extent.content is Content.DATA]
        assert [(extent.start, extent.length) for extent in data] == [(10 * MIB, MIB)]


def test_what_is_trimmed_is_a_hole(directory):
    with qemu_nbd(directory, image_format="raw", more=["--discard=unmap"]) as address:
        with Connection(address, ("base:allocation",)) as connection:
            connection.write(0, memoryview(b"x" * MIB))
            connection.trim(0, MIB)
            connection.flush()
            ((start, length, flags),) = connection.status("base:allocation")
            assert (start, length) == (0, SIZE)
            assert flags & nbd.STATE_HOLE
        connection.close()
        with pytest.raises(NbdError):
            connection.flush()


def test_a_closed_disk(directory):
    with qemu_nbd(directory) as address:
        disk = NbdDisk(address)
        disk.close()
        for _ in range(2):
            with pytest.raises(NbdError):
                disk.read_into(0, memoryview(bytearray(KIB)))
        disk.close()
        assert str(address).startswith("nbd+unix:///?socket=/")


def test_addresses_as_uris():
    assert str(Address("vda", path="/s")) == "nbd+unix:///vda?socket=/s"
    assert str(Address("vda", host="h")) == "nbd://h:10809/vda"
    tls = ssl.create_default_context()
    assert str(Address("vda", host="h", port=1, tls=tls)) == "nbds://h:1/vda"


def test_a_map_with_many_extents_needs_several_requests(directory):
    size = 5 * 1024 * MIB
    with (
        qemu_nbd(directory, image_format="raw", size=size) as address,
        NbdDisk(address) as disk,
    ):
        for number in range(300):
            disk.write(number * 16 * MIB, memoryview(b"data" * 1024))
        data = [extent for extent in disk.extents() if not extent.reads_as_zeros]
        assert [extent.start for extent in data] == [number * 16 * MIB for number in range(300)]
        assert total(disk.extents()) == size


def test_threads_share_a_disk(directory, rng):
    content = rng.randbytes(16 * MIB)
    failures = []

    def worker(disk, seed):
        own = random.Random(seed)
        try:
            for _ in range(50):
                start = own.randrange(15 * MIB)
                data = bytearray(own.randrange(1, MIB))
                disk.read_into(start, memoryview(data))
                assert data == content[start : start + len(data)]
        except BaseException as error:  # noqa: BLE001 - handed to the test
            failures.append(error)

    with qemu_nbd(directory) as address, NbdDisk(address, connections=3) as disk:
        disk.write(0, memoryview(content))
        threads = [threading.Thread(target=worker, args=(disk, seed)) for seed in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert failures == []


def test_reading_while_listing_needs_no_second_slot(directory):
    with qemu_nbd(directory) as address, NbdDisk(address, connections=1) as disk:
        disk.write(MIB, memoryview(b"x" * MIB))
        for extent in disk.extents():
            disk.read_into(extent.start, memoryview(bytearray(min(extent.length, KIB))))


def test_a_dirty_bitmap(directory):
    image = directory / "disk.qcow2"
    create(image, "qcow2")
    commands.run(["qemu-img", "bitmap", "--add", str(image), "changes"], timeout_s=20)
    with qemu_nbd(directory) as address, NbdDisk(address) as disk:
        disk.write(3 * MIB, memoryview(b"x" * 100))
        disk.zero(7 * MIB, MIB)
        disk.flush()
    with (
        qemu_nbd(directory, more=["-r", "-B", "changes"]) as address,
        NbdDisk(address) as disk,
    ):
        changes = "qemu:dirty-bitmap:changes"
        assert list(disk.marked(changes)) == [(3 * MIB, 64 * KIB), (7 * MIB, MIB)]
        with pytest.raises(NbdError):
            list(disk.marked("qemu:dirty-bitmap:other"))
        assert changes in nbd.list_contexts(address, ["qemu:"])
        with pytest.raises(NbdError):
            disk.write(0, memoryview(b"read-only"))
        # A refused request does not break the connection.
        disk.read_into(0, memoryview(bytearray(512)))


def test_no_such_export_and_no_server(directory):
    with (
        qemu_nbd(directory, more=["-x", "right"]) as address,
        pytest.raises(NbdError, match="wrong"),
    ):
        NbdDisk(Address(export="wrong", path=address.path))
    with pytest.raises(NbdError):
        NbdDisk(Address(path=str(directory / "nothing")))
    with pytest.raises(NbdError):
        NbdDisk(Address(host="127.0.0.1", port=9, timeout_s=5))


def test_a_server_that_dies_and_a_silent_one(directory):
    image, path = directory / "disk.raw", directory / "socket"
    create(image, "raw")
    args = ["qemu-nbd", "-t", "-k", str(path), "-f", "raw", "-e", "8", str(image)]
    with serving(args, path) as process, NbdDisk(Address(path=str(path), timeout_s=1)) as disk:
        process.stop()
        with pytest.raises(NbdError):
            disk.read_into(0, memoryview(bytearray(KIB)))
        with pytest.raises(NbdError):
            list(disk.extents())
    silent = directory / "silent"
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(silent))
        server.listen()
        with pytest.raises(NbdError, match="timed out"):
            Connection(Address(path=str(silent), timeout_s=0.2))


def test_out_of_range(directory):
    with qemu_nbd(directory) as address, NbdDisk(address) as disk:
        for start, length in ((SIZE, 1), (SIZE - 1, 2), (-1, 1)):
            with pytest.raises(NbdError):
                disk.read_into(start, memoryview(bytearray(length)))
            with pytest.raises(NbdError):
                disk.zero(start, length)


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is not installed")
@pytest.mark.parametrize(
    ("options", "filters"),
    [
        ([], []),
        (["--no-sr"], []),  # simple replies only
        ([], ["--filter=nozero"]),  # no WRITE_ZEROES
        ([], ["--filter=blocksize-policy"]),
        ([], ["--filter=noextents"]),
        ([], ["--filter=multi-conn", "multi-conn-mode=disable"]),
    ],
)
def test_nbdkit_in_its_many_ways(directory, rng, options, filters):
    path = directory / "socket"
    policy = []
    if "--filter=blocksize-policy" in filters:
        policy = ["blocksize-minimum=512", "blocksize-maximum=1M", "blocksize-error-policy=error"]
        policy += ["blocksize-preferred=4096"]
    flags = [each for each in filters if each.startswith("-")]
    settings = [each for each in filters if not each.startswith("-")]
    args = ["nbdkit", "-f", "-U", str(path), *options, *flags, "memory", str(SIZE)]
    with serving([*args, *settings, *policy], path), NbdDisk(Address(path=str(path))) as disk:
        content = rng.randbytes(5 * MIB)
        disk.write(4096, memoryview(content))
        disk.zero(MIB, MIB)
        disk.flush()
        expected = bytes(4096) + content
        expected = expected[:MIB] + bytes(MIB) + expected[2 * MIB :]
        whole = bytearray(len(expected))
        disk.read_into(0, memoryview(whole))
        assert whole == expected
        odd = bytearray(1001)
        disk.read_into(77, memoryview(odd))
        assert odd == expected[77:1078]
        assert total(disk.extents()) == SIZE


@pytest.mark.skipif(not shutil.which("nbdkit"), reason="nbdkit is not installed")
def test_an_error_of_the_storage_below(directory):
    path = directory / "socket"
    args = ["nbdkit", "-f", "-U", str(path), "--filter=error", "memory", str(SIZE)]
    args += ["error-pread=EIO", "error-pread-rate=100%"]
    with (
        serving(args, path),
        NbdDisk(Address(path=str(path))) as disk,
        pytest.raises(NbdError, match="input/output"),
    ):
        disk.read_into(0, memoryview(bytearray(KIB)))


def make_certificates(directory: Path) -> None:
    """Write a CA, and a server certificate for 127.0.0.1, in the files that QEMU looks for."""
    now = datetime.now(UTC)

    def issue(name, key, issuer, issuer_key, *, authority):
        builder = (
            x509.CertificateBuilder()
            .subject_name(x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)]))
            .issuer_name(issuer)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - timedelta(minutes=5))
            .not_valid_after(now + timedelta(days=1))
            .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
            .add_extension(x509.SubjectAlternativeName([x509.DNSName("localhost")]), critical=False)
        )
        if authority:
            usage = dict.fromkeys(
                [
                    "digital_signature",
                    "content_commitment",
                    "key_encipherment",
                    "data_encipherment",
                    "key_agreement",
                    "encipher_only",
                    "decipher_only",
                ],
                False,
            )
            usage |= {"key_cert_sign": True, "crl_sign": True}
            builder = builder.add_extension(x509.KeyUsage(**usage), critical=True)
        return builder.sign(issuer_key, hashes.SHA256())

    authority_key, key = (ec.generate_private_key(ec.SECP256R1()) for _ in range(2))
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "test CA")])
    authority = issue("test CA", authority_key, subject, authority_key, authority=True)
    server = issue("localhost", key, subject, authority_key, authority=False)
    pem = serialization.Encoding.PEM
    (directory / "ca-cert.pem").write_bytes(authority.public_bytes(pem))
    (directory / "server-cert.pem").write_bytes(server.public_bytes(pem))
    (directory / "server-key.pem").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )


def test_tls(directory):
    make_certificates(directory)
    create(directory / "disk.raw", "raw")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    credentials = f"tls-creds-x509,id=tls0,endpoint=server,dir={directory},verify-peer=no"
    args = ["qemu-nbd", "-t", "-f", "raw", "--object", credentials, "--tls-creds", "tls0"]
    args += ["-b", "127.0.0.1", "-p", str(port), "-e", "8", str(directory / "disk.raw")]
    context = ssl.create_default_context(cafile=str(directory / "ca-cert.pem"))
    address = Address(host="localhost", port=port, tls=context)
    with commands.start(args) as process:
        deadline = SYSTEM.monotonic() + 20
        while True:
            try:
                disk = NbdDisk(address)
                break
            except NbdError:
                assert process.status() is None, process.said()
                assert SYSTEM.monotonic() < deadline
                SYSTEM.sleep(0.05)
        with disk:
            data = bytes(range(256)) * 4096
            disk.write(MIB, memoryview(data))
            back = bytearray(len(data))
            disk.read_into(MIB, memoryview(back))
            assert back == data
            assert total(disk.extents()) == SIZE
        with pytest.raises(NbdError, match="TLS"):
            NbdDisk(Address(host="localhost", port=port))
        with pytest.raises(NbdError, match="certificate"):
            NbdDisk(Address(host="localhost", port=port, tls=ssl.create_default_context()))


def test_tls_that_the_server_does_not_have(directory):
    with qemu_nbd(directory) as address, pytest.raises(NbdError, match="TLS"):
        NbdDisk(Address(path=address.path, tls=ssl.create_default_context()))
