"""The same platform over `qemu+ssh://`, to an sshd of this test alone."""

import contextlib
import os
import shutil
import socket
from pathlib import Path

import pytest

from ruchu import commands
from ruchu.clock import SYSTEM
from ruchu.errors import CommandFailed, PlatformError, Unreachable
from ruchu.model.machines import Placement, PowerState
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt.driver import LibvirtPlatform
from ruchu.platforms.libvirt.hosts import SshHost
from ruchu.testing import truth
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk, booted
from ruchu.units import MIB

SSHD = shutil.which("sshd", path="/usr/sbin:/usr/bin")
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.skipif(not SSHD or os.getuid() != 0, reason="needs sshd and root"),
]


@contextlib.contextmanager
def sshd(directory: Path):
    for name in ("host", "user"):
        commands.run(
            ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(directory / name)],
            timeout_s=20,
        )
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    (directory / "config").write_text(
        f"Port {port}\nListenAddress 127.0.0.1\nHostKey {directory}/host\n"
        f"AuthorizedKeysFile {directory}/user.pub\nStrictModes no\nUsePAM no\n"
        "PasswordAuthentication no\nPermitRootLogin prohibit-password\n"
        f"PidFile none\nMaxStartups 50\n"
    )
    Path("/run/sshd").mkdir(exist_ok=True)
    with commands.start([SSHD, "-D", "-e", "-f", str(directory / "config")]) as process:
        deadline = SYSTEM.monotonic() + 20
        while True:
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port)):
                break
            assert process.status() is None, process.said()
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.05)
        yield port


@pytest.fixture
def key_directory():
    made = commands.run(["mktemp", "-d", "/var/tmp/rk-XXXXXX"], timeout_s=10).text.strip()
    yield Path(made)
    shutil.rmtree(made)


def test_backup_and_restore_over_ssh(libvirt_uri, place, owner, key_directory, tmp_path):
    target = tmp_path / "images"
    with (
        sshd(key_directory) as port,
        booted(libvirt_uri, [GuestDisk("vda", size=64 * MIB)]) as guest,
    ):
        uri = f"qemu+ssh://root@127.0.0.1:{port}/system?keyfile={key_directory}/user"
        uri += "&no_verify=1&no_tty=1"
        with LibvirtPlatform(
            uri, scratch_directory=str(place), socket_directory=str(place)
        ) as platform:
            digest = guest.write("/mnt/vda/file", 5 * MIB)
            with platform.open_points([OpenRequest(guest.uuid, owner)], "serial") as (point,):
                assert not isinstance(point, BaseException), point
                truth.save(point.disks[0], tmp_path / "vda")
                platform.keep_reference(point)
                spec, base = point.spec, point.change_ref
            guest.write("/mnt/vda/more", 1 * MIB)
            request = OpenRequest(guest.uuid, owner, base=base, keep=(base.name,))
            with platform.open_points([request], "serial") as (point,):
                vda = point.disks[0]
                assert truth.apply_extents(vda, vda.changed(), tmp_path / "vda") < 5 * MIB
                assert truth.same(tmp_path / "vda", vda.uri)
            platform.power(guest.uuid, PowerState.OFF)
            request = OpenRequest(guest.uuid, owner, base=base, keep=(base.name,))
            with platform.open_points([request], "serial") as (point,):
                vda = point.disks[0]
                truth.apply_extents(vda, vda.changed(), tmp_path / "vda")
                assert truth.same(tmp_path / "vda", vda.uri)
            placement = Placement(name=f"{guest.name}-new", directory=str(target), start=True)
            with platform.restore(spec, placement) as session:
                truth.load(tmp_path / "vda", session.sinks[0])
                identity = session.finish()
            try:
                new = guests.existing(libvirt_uri, identity, guest.directory)
                new.wait_until_ready()
                assert new.sha256("/mnt/vda/file") == digest
                assert os.listdir(target) == [f"{guest.name}-new-vda.qcow2"]
            finally:
                guests.remove(libvirt_uri, identity)


def test_files_over_ssh(key_directory, tmp_path):
    with sshd(key_directory) as port:
        options = ["-p", str(port), "-i", f"{key_directory}/user"]
        options += ["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]
        host = SshHost("root@127.0.0.1", [*options, "-o", "LogLevel=ERROR"], SYSTEM)
        try:
            path = f"{tmp_path}/a b/it's"
            host.make_directory(f"{tmp_path}/a b")
            assert host.names(f"{tmp_path}/none") == []
            host.write(path, b"\0data\xff")
            with pytest.raises(CommandFailed):
                host.write(path, b"again")
            host.sync(path)
            assert host.read(path) == b"\0data\xff"
            host.rename(path, f"{path}2")
            assert host.exists(f"{path}2")
            assert not host.exists(path)
            assert host.names(f"{tmp_path}/a b") == ["it's2"]
            host.remove(f"{path}2")
            host.remove(f"{path}2")
            with pytest.raises(PlatformError):
                host.read(path)
        finally:
            host.close()


def test_a_host_that_cannot_be_reached(key_directory):
    with sshd(key_directory) as port:
        (key_directory / "user.pub").write_text("")
        uri = f"qemu+ssh://root@127.0.0.1:{port}/system?keyfile={key_directory}/user"
        uri += "&no_verify=1&no_tty=1"
        with LibvirtPlatform(uri) as platform, pytest.raises(Unreachable):
            platform.inventory()
