"""Disks over iSCSI, served by the real tgtd out of a real mount, read and written by QEMU."""

import random
import socket

import pytest

from ruchu import commands, errors
from ruchu.blocks.overlay import Overlay
from ruchu.exports import iscsi
from ruchu.exports.fuse.mounting import mounted
from ruchu.exports.fuse.tree import RawDisk, Tree
from ruchu.exports.iscsi import Access, Unit
from ruchu.testing.memory_disk import MemoryDisk

pytestmark = pytest.mark.system

TARGET = "iqn.2026-01.org.example:ruchu-test"
ACCESS = Access("operator", "correct.horse.battery")
SIZE = 9 << 20


@pytest.fixture
def base():
    return MemoryDisk(random.Random(1).randbytes(SIZE))


@pytest.fixture
def port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def place(tmp_path):
    place = tmp_path / "mount"
    place.mkdir()
    return place


def url(shown, password=ACCESS.password):
    return shown.replace("//", f"//{ACCESS.user}%{password}@")


def image(*args, check=True):
    return commands.run(["qemu-img", *args], timeout_s=60, check=check)


def tgtds():
    found = commands.run(["pgrep", "-a", "-x", "tgtd"], timeout_s=10, check=False)
    return found.text


def test_a_read_only_disk(tmp_path, place, base, port):
    copy = tmp_path / "disk.raw"
    copy.write_bytes(base.content)
    with (
        mounted(place, Tree([RawDisk("vda", base), RawDisk("vdb", base)], {})),
        iscsi.exported(
            [Unit(place / "vda.raw", writable=False), Unit(place / "vdb.raw", writable=False)],
            ACCESS,
            target=TARGET,
            listen=("127.0.0.1", port),
        ) as shown,
    ):
        assert shown == [f"iscsi://127.0.0.1:{port}/{TARGET}/{number}" for number in (1, 2)]
        for each in shown:
            compared = image("compare", "-f", "raw", "-F", "raw", url(each), str(copy))
            assert "identical" in compared.text
        refused = image("info", url(shown[0], "another.password"), check=False)
        assert refused.status != 0
        assert "Authentication" in refused.stderr
        assert image("info", shown[0], check=False).status != 0
        write = ["qemu-io", "-f", "raw", "-c", "write 0 512", url(shown[0])]
        assert commands.run(write, timeout_s=60, check=False).status != 0
        assert f"portal=127.0.0.1:{port}" in tgtds()
    assert f"portal=127.0.0.1:{port}" not in tgtds()
    assert list(place.iterdir()) == []


def test_a_disk_with_a_write_cache(tmp_path, place, base, port):
    cache = tmp_path / "vda.cache"
    with Overlay.create(cache, base, identity="point/vda") as overlay:
        with (
            mounted(place, Tree([RawDisk("vda", overlay, overlay)], {})),
            iscsi.exported(
                [Unit(place / "vda.raw", writable=True)],
                ACCESS,
                target=TARGET,
                listen=("127.0.0.1", port),
            ) as (shown,),
        ):
            orders = ["write -P 7 4k 1M", "write -z 2M 1M", "discard 4M 1M", "flush"]
            command = ["qemu-io", "-f", "raw", "-t", "none", "-d", "unmap"]
            for order in orders:
                command += ["-c", order]
            commands.run([*command, url(shown)], timeout_s=60)
            written = overlay.written_bytes
        assert written >= 2 << 20
    expected = bytearray(base.content)
    expected[4096 : 4096 + (1 << 20)] = b"\7" * (1 << 20)
    expected[2 << 20 : 3 << 20] = bytes(1 << 20)
    with Overlay.open(cache, base, identity="point/vda") as overlay:
        found = bytearray(SIZE)
        overlay.read_into(0, memoryview(found))
    # What was discarded holds zeros, or what it held: a client may not rely on either.
    assert found[: 4 << 20] == expected[: 4 << 20]
    assert found[5 << 20 :] == expected[5 << 20 :]


def test_only_listed_clients_connect(place, base, port):
    access = Access(ACCESS.user, ACCESS.password, ("192.0.2.0/24", "198.51.100.7"))
    with (
        mounted(place, Tree([RawDisk("vda", base)], {})),
        iscsi.exported(
            [Unit(place / "vda.raw", writable=False)],
            access,
            target=TARGET,
            listen=("127.0.0.1", port),
        ) as (shown,),
    ):
        assert image("info", url(shown), check=False).status != 0


def test_what_cannot_be_served_is_refused_and_leaves_nothing(tmp_path, place, base, port):
    unit = Unit(tmp_path / "missing.raw", writable=False)
    with (
        pytest.raises(errors.ExportError, match="tgt"),
        iscsi.exported([unit], ACCESS, target=TARGET, listen=("127.0.0.1", port)),
    ):
        pytest.fail("there is no such file")
    with (
        socket.create_server(("127.0.0.1", 0)) as taken,
        pytest.raises(errors.ExportError, match="in use"),
        iscsi.exported([unit], ACCESS, target=TARGET, listen=taken.getsockname()),
    ):
        pytest.fail("the port is taken")
    # Other tests may run daemons of their own now.
    assert f"portal=127.0.0.1:{port}" not in tgtds()
