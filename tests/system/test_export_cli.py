"""`ruchu export nbd` as a user runs it: what it says, whom it lets in, how it ends."""

import os
import signal
import ssl
import sys
import tempfile
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from ruchu import commands
from ruchu.blocks.nbd import Address, NbdDisk
from ruchu.errors import NbdError
from ruchu.exports import control
from ruchu.testing.command_line import CommandLine
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]
SIZE = 6 * MIB + 512
NAME = "disk0"
# An orderly end flushes a small cache: this is far above, and far below any time limit of ours.


@pytest.fixture
def cli(tmp_path, rng):
    """Yield a command line with an encrypted storage that holds two points of an image."""
    cli = CommandLine(tmp_path)
    (tmp_path / "passphrase").write_text("correct horse\n")
    cli.run("storage", "add", "s", "s", "--passphrase-file", "passphrase")
    content = bytearray(rng.randbytes(SIZE // 2) + bytes(SIZE - SIZE // 2))
    cli.points, cli.contents = [], []
    for number in range(2):
        content[:4096] = bytes([number + 1]) * 4096
        (tmp_path / "image").write_bytes(content)
        done = cli.json("backup", "image", "image", "--storage", "s", "--name", "o", "--raw")
        cli.points.append(done["point"])
        cli.contents.append(bytes(content))
    return cli


@pytest.fixture
def sockets():
    with tempfile.TemporaryDirectory(prefix="re-") as made:
        yield Path(made)


def export(cli, sockets, *words, point=0, name="s", **more):
    socket, told = sockets / name / "nbd.sock", sockets / f"{name}.control"
    words = ("--socket", socket, "--control", told, *words)
    return cli.serving("export", "nbd", cli.points[point], *words, **more)


def content(address):
    with NbdDisk(address) as disk:
        buffer = bytearray(disk.size)
        disk.read_into(0, memoryview(buffer))
        return bytes(buffer)


def at(sockets, name="s"):
    return Address(path=str(sockets / name / "nbd.sock"), export=NAME)


def test_a_unix_socket_and_what_it_says(cli, sockets):
    for point in (0, 1):
        with export(cli, sockets, point=point) as serving:
            answer = serving.answer
            assert answer.pop("seconds") > 0
            assert answer == {
                "url": f"nbd+unix:///?socket={sockets}/s/nbd.sock",
                "point": cli.points[point],
                "disks": [NAME],
                "writable": False,
            }
            assert content(at(sockets)) == cli.contents[point]
            unnamed = Address(path=str(sockets / "s" / "nbd.sock"))
            assert content(unnamed) == cli.contents[point]
            with NbdDisk(at(sockets)) as disk, pytest.raises(NbdError):
                disk.write(0, memoryview(b"x"))
            assert control.ask(sockets / "s.control", "status") == {
                "cache_bytes": 0, "serving": True
            }  # fmt: skip
            assert (sockets / "s" / "nbd.sock").stat().st_mode & 0o777 == 0o600
            assert (sockets / "s.control").stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("how", ["signal", "control"])
def test_it_ends_well_when_it_is_told_to(cli, sockets, how):
    with export(cli, sockets) as serving, NbdDisk(at(sockets)) as disk:
        assert disk.size == SIZE
        if how == "control":
            assert control.ask(sockets / "s.control", "stop") == {}
            assert serving.process.wait(60) == 0
        else:
            assert serving.end() == 0
        assert serving.said() == ""
    assert [path for path in sockets.rglob("*") if path.is_socket()] == []
    leases = (cli.home / "s").rglob("leases/*")
    assert [path for path in leases if path.is_file()] == []


def test_writes_go_into_the_cache_and_come_again(cli, sockets):
    for number, cache in enumerate(("cache", "caches", "caches")):
        if cache == "caches":
            (cli.home / cache).mkdir(exist_ok=True)
        with export(cli, sockets, "--writable", cache) as serving:
            assert serving.answer["writable"]
            if number < 2:
                with NbdDisk(at(sockets)) as disk:
                    disk.write(100, memoryview(b"written"))
                    disk.zero(SIZE - 512, 512)
                    disk.flush()
            # One is ended, the other dies.
            serving.kill() if number == 1 else serving.end()
        assert (cli.home / "caches" / f"{NAME}.cache").exists() is (number > 0)
    with export(cli, sockets, "--writable", "caches"):
        expected = cli.contents[0][:100] + b"written" + cli.contents[0][107:]
        assert content(at(sockets)) == expected
    with export(cli, sockets):
        assert content(at(sockets)) == cli.contents[0]


def children(process):
    """Return the ids of the processes that a process has started."""
    found = Path(f"/proc/{process.pid}/task").glob("*/children")
    return [int(word) for path in found for word in path.read_text().split()]


@pytest.mark.skipif(len(os.sched_getaffinity(0)) < 2, reason="one core decodes by itself")
def test_decoders_serve_are_not_needed_and_do_not_stay(cli, sockets):
    with export(cli, sockets, "--writable", "cache") as serving:
        decoders = children(serving.process)
        assert 2 <= len(decoders) <= 4
        assert content(at(sockets)) == cli.contents[0]
        os.kill(decoders[0], signal.SIGKILL)
        assert content(at(sockets)) == cli.contents[0]
        # Ctrl-C in a terminal reaches all of them; the export says when it ends.
        os.kill(decoders[1], signal.SIGINT)
        with NbdDisk(at(sockets)) as disk:
            disk.write(0, memoryview(b"kept"))
            disk.flush()
        assert Path(f"/proc/{decoders[1]}").exists()
        serving.kill()
    # They hold neither the write cache nor the socket for whoever comes next.
    with export(cli, sockets, "--writable", "cache") as serving:
        assert content(at(sockets)) == b"kept" + cli.contents[0][4:]
        decoders += children(serving.process)
        assert serving.end() == 0
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{each}").exists() for each in decoders):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_cache_belongs_to_one_point_and_one_export(cli, sockets):
    with export(cli, sockets, "--writable", "cache"):
        words = ("--writable", "cache", "--socket", sockets / "t" / "nbd.sock")
        cli.run("export", "nbd", cli.points[0], *words, status=13)
        assert "another" in cli.err or "uses it" in cli.err
    before = (cli.home / "cache").read_bytes()
    cli.run("export", "nbd", cli.points[1], *words, status=13)
    assert "belongs to another point" in cli.err
    assert (cli.home / "cache").read_bytes() == before


def test_a_point_that_is_served_stays(cli, sockets):
    with export(cli, sockets) as serving:
        cli.fails(9, "point-in-use", "points", "delete", cli.points[0], "--yes")
        cli.run("points", "delete", cli.points[1], "--yes")
        serving.kill()
    # Its lease is that of a dead process.
    cli.run("points", "delete", cli.points[0], "--yes")


def test_what_cannot_be_is_said_at_once(cli, sockets):
    for words in (
        (),
        ("--socket", sockets / "s" / "x", "--listen", "127.0.0.1:0"),
        ("--listen", "127.0.0.1"),
        ("--listen", "127.0.0.1:0", "--tls-key", "k"),
        ("--listen", "127.0.0.1:0", "--tls-key", "k", "--tls-clients", "k", "--tls-certificate", 1),
        ("--listen", "127.0.0.1:0", "--allow", "nonsense"),
    ):
        cli.run("export", "nbd", cli.points[0], *words, status=2)
        assert cli.err.startswith("ruchu: ")
    cli.run("export", "nbd", "ffff", "--socket", sockets / "s" / "x", status=3)
    words = ("--socket", sockets / "s" / "x", "--disk", "7")
    cli.run("export", "nbd", cli.points[0], *words, status=3)
    words = ("--socket", sockets / ("long" * 40) / "x")
    cli.run("export", "nbd", cli.points[0], *words, status=2)
    words = ("--socket", sockets / "s" / "x", "--control", sockets / ("long" * 40))
    cli.run("export", "nbd", cli.points[0], *words, status=13)
    (cli.home / "passphrase").write_text("wrong\n")
    cli.run("export", "nbd", cli.points[0], "--socket", sockets / "s" / "x", status=8)
    assert [path for path in sockets.rglob("*") if path.is_socket()] == []


@pytest.mark.skipif(os.getuid() != 0, reason="only root gives its powers up")
def test_a_storage_that_may_only_be_read(cli, sockets):
    """Root without its powers: no lease can be held, and none is needed."""
    socket = sockets / "s" / "nbd.sock"
    powerless = ["setpriv", "--bounding-set=-all", "--inh-caps=-all"]
    words = ["--state", str(cli.state), "export", "nbd", cli.points[0], "--socket", str(socket)]
    commands.run(["chmod", "-R", "a-w", str(cli.home / "s")], timeout_s=10)
    try:
        with commands.start([*powerless, sys.executable, "-m", "ruchu", *words]) as process:
            deadline = time.monotonic() + 60
            while '"writable": false' not in process.said():
                assert process.status() is None, process.said()
                assert time.monotonic() < deadline
                time.sleep(0.02)
            assert content(at(sockets)) == cli.contents[0]
            assert [path for path in (cli.home / "s").rglob("leases/*") if path.is_file()] == []
            assert process.stop() == 0
    finally:
        commands.run(["chmod", "-R", "u+w", str(cli.home / "s")], timeout_s=10)


def issue(directory, name, authority=None, *, client=False):
    """Make a certificate and its key; without an authority it is one."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    issuer, signer = (authority[0].subject, authority[1]) if authority else (subject, key)
    now = datetime.now(UTC)
    use = x509.ExtendedKeyUsageOID.CLIENT_AUTH if client else x509.ExtendedKeyUsageOID.SERVER_AUTH
    names = x509.SubjectAlternativeName([x509.DNSName("localhost")])
    builder = (
        x509.CertificateBuilder(issuer, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=not authority, path_length=None), critical=True)
    )
    if authority:
        builder = builder.add_extension(names, critical=False)
        builder = builder.add_extension(x509.ExtendedKeyUsage([use]), critical=False)
    certificate = builder.sign(signer, hashes.SHA256())
    pem = serialization.Encoding.PEM
    (directory / f"{name}.pem").write_bytes(certificate.public_bytes(pem))
    plain = serialization.NoEncryption()
    (directory / f"{name}.key").write_bytes(
        key.private_bytes(pem, serialization.PrivateFormat.PKCS8, plain)
    )
    return certificate, key


def test_tcp_with_certificates(cli):
    authority = issue(cli.home, "ca")
    issue(cli.home, "server", authority)
    issue(cli.home, "client", authority, client=True)
    issue(cli.home, "stranger", issue(cli.home, "other"), client=True)
    files = (
        "--tls-certificate",
        "server.pem",
        "--tls-key",
        "server.key",
        "--tls-clients",
        "ca.pem",
    )
    serve = ("export", "nbd", cli.points[0], "--listen", "127.0.0.1:0", *files)
    with cli.serving(*serve) as serving:
        assert serving.answer["url"].startswith("nbds://127.0.0.1:")
        port = int(serving.answer["url"].rstrip("/").rpartition(":")[2])
        tls = ssl.create_default_context(cafile=cli.home / "ca.pem")
        tls.load_cert_chain(cli.home / "client.pem", cli.home / "client.key")
        good = Address(export=NAME, host="localhost", port=port, tls=tls)
        assert content(good) == cli.contents[0]
        with pytest.raises(NbdError):
            content(Address(export=NAME, host="localhost", port=port))
        bare = ssl.create_default_context(cafile=cli.home / "ca.pem")
        with pytest.raises(NbdError):
            content(Address(export=NAME, host="localhost", port=port, tls=bare))
        bare.load_cert_chain(cli.home / "stranger.pem", cli.home / "stranger.key")
        with pytest.raises(NbdError):
            content(Address(export=NAME, host="localhost", port=port, tls=bare))
        assert content(good) == cli.contents[0]
        assert serving.end() == 0


def test_tcp_for_listed_networks(cli):
    for network, welcome in (("127.0.0.0/8", True), ("192.0.2.0/24", False)):
        words = ("--listen", "127.0.0.1:0", "--allow", network)
        with cli.serving("export", "nbd", cli.points[0], *words) as serving:
            port = int(serving.answer["url"].rstrip("/").rpartition(":")[2])
            address = Address(export=NAME, host="127.0.0.1", port=port)
            if welcome:
                assert content(address) == cli.contents[0]
            else:
                with pytest.raises(NbdError):
                    content(address)


def test_a_state_directory_with_a_space(tmp_path, sockets):
    home = tmp_path / "my home"
    home.mkdir()
    cli = CommandLine(home)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    (home / "image").write_bytes(b"spaced" * 1024)
    done = cli.json("backup", "image", "image", "--storage", "s", "--name", "o", "--raw")
    cli.points = [done["point"]]
    with export(cli, sockets, "--writable", "my cache", name="my socket") as serving:
        assert serving.answer["url"].endswith("/my%20socket/nbd.sock")
        assert content(at(sockets, "my socket")) == b"spaced" * 1024
