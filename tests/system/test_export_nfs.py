"""The NFS server and the clients that hypervisors have: QEMU's, and that of the Linux kernel."""

import contextlib
import json
import os
import random
import subprocess
import sys
import threading
import zlib
from pathlib import Path

import pytest

from ruchu.units import KIB, MIB

pytestmark = pytest.mark.system

HERE = Path(__file__).parent
EXPORT = "/ruchu-5d0b9c1e"
DISK_SIZE = 16 * MIB
OPERATIONS = 10_000


class Server:
    """A server in a process of its own."""

    def __init__(self, tmp_path, disk, *, host="127.0.0.1", port=0, hold_flush=False):
        self.options = {
            "disk": str(disk),
            "host": host,
            "port": port,
            "portmapper": host != "127.0.0.1",
            "path": EXPORT,
            "scratch": str(tmp_path / "scratch"),
            "hold_flush": hold_flush,
        }
        command = [sys.executable, str(HERE / "nfs_process.py"), json.dumps(self.options)]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        line = self._process.stdout.readline()
        self.started = bool(line)
        if not line:
            self.kill()
            return
        self.port = json.loads(line)["addresses"][0][1]
        self.flushes = 0
        self.flushing = threading.Event()
        self._thread = threading.Thread(target=self._follow)
        self._thread.start()

    def _follow(self):
        for line in self._process.stdout:
            self.flushes += "flush" in json.loads(line)
            self.flushing.set()

    def kill(self):
        self._process.kill()
        self._end()

    def stop(self):
        self._process.terminate()
        assert self._end() == 0

    def _end(self):
        code = self._process.wait(60)
        if self.started:
            self._thread.join(60)
        self._process.stdout.close()
        return code


@contextlib.contextmanager
def served_to_qemu(tmp_path, disk):
    """Serve on an address of its own, so that port 111 is free, and yield server and URL."""
    for number in range(os.getpid() * 7, os.getpid() * 7 + 200):
        host = f"127.{1 + number % 250}.{1 + number // 250 % 250}.{1 + number % 7}"
        server = Server(tmp_path, disk, host=host)
        if server.started:
            break
    else:
        pytest.fail("no address with a free port 111")
    try:
        yield server, f"nfs://{host}{EXPORT}"
    finally:
        server.stop()


def made_disk(tmp_path):
    path = tmp_path / "served.raw"
    path.write_bytes(random.Random(5).randbytes(DISK_SIZE))
    return path


def qemu(program, *args):
    done = attempt(program, *args)
    assert done.returncode == 0, done.stderr + done.stdout
    return done.stdout


def attempt(*words):
    return subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)


@pytest.mark.slow
def test_qemu_reads_a_disk(tmp_path):
    disk = made_disk(tmp_path)
    copy = tmp_path / "copy.raw"
    with served_to_qemu(tmp_path, disk) as (_, url):
        info = json.loads(qemu("qemu-img", "info", "--output=json", f"{url}/disk.raw"))
        assert info["virtual-size"] == DISK_SIZE
        qemu("qemu-img", "convert", "-O", "raw", f"{url}/disk.raw", str(copy))
        qemu("qemu-img", "compare", "-f", "raw", "-F", "raw", str(disk), f"{url}/disk.raw")
    assert copy.read_bytes() == disk.read_bytes()


@pytest.mark.slow
def test_qemu_writes_a_disk(tmp_path):
    disk = made_disk(tmp_path)
    expected = bytearray(disk.read_bytes())
    rng = random.Random(6)
    commands = []
    for _ in range(200):
        length = rng.choice([512, 4 * KIB, 64 * KIB, rng.randrange(1, 300 * KIB)])
        start = rng.randrange(DISK_SIZE - length)
        byte = rng.randrange(256)
        expected[start : start + length] = bytes([byte]) * length
        commands += ["-c", f"write -P {byte} {start} {length}"]
        commands += ["-c", f"read -P {byte} {start} {length}"]
    with served_to_qemu(tmp_path, disk) as (server, url):
        qemu("qemu-io", "-f", "raw", *commands, "-c", "flush", f"{url}/disk.raw")
        # Before the server is closed, which would write what is left as well.
        assert disk.read_bytes() == expected
        assert server.flushes > 0


@pytest.mark.slow
def test_qemu_makes_an_image_beside_the_disk_and_none_over_it(tmp_path):
    disk = made_disk(tmp_path)
    with served_to_qemu(tmp_path, disk) as (_, url):
        qemu("qemu-img", "create", "-f", "qcow2", f"{url}/own.qcow2", "1G")
        assert "qcow2" in qemu("qemu-img", "info", f"{url}/own.qcow2")
        refused = attempt("qemu-img", "create", "-f", "raw", f"{url}/disk.raw", "1G")
        assert refused.returncode != 0
    assert disk.read_bytes() == random.Random(5).randbytes(DISK_SIZE)


@pytest.fixture(scope="module")
def nfs_guest(libvirt_uri, tmp_path_factory):
    """Yield a guest whose kernel has an NFS client, with the exercising program in it."""
    from ruchu.testing.guests import guest  # noqa: PLC0415 - libvirt may be missing

    program = tmp_path_factory.mktemp("program") / "exercise"
    qemu("gcc", "-O2", "-static", "-s", "-o", str(program), str(HERE / "exercise.c"))
    disk = guest.GuestDisk("vda", size=16 * MIB)
    with guest.booted(libvirt_uri, (disk,), modules=("nfs", "nfsv3")) as booted:
        booted.bring_up_network()
        booted.put("/exercise", program.read_bytes(), executable=True)
        booted.run("mkdir /mnt/nfs")
        yield booted


def mount(guest, port, options=""):
    guest.run(
        f"mount -t nfs -o vers=3,proto=tcp,nolock,addr=10.0.2.2,port={port},mountport={port},"
        f"mountproto=tcp,hard,timeo=50{options} 10.0.2.2:{EXPORT} /mnt/nfs"
    )


@pytest.fixture
def unmounted(nfs_guest):
    """Yield the guest; at the end nothing is mounted."""
    yield nfs_guest
    nfs_guest.run("umount -f /mnt/nfs 2>/dev/null; ! grep ' nfs ' /proc/mounts")


@pytest.mark.slow
def test_the_kernel_reads_and_writes_at_random(unmounted, tmp_path):
    guest = unmounted
    disk = made_disk(tmp_path)
    server = Server(tmp_path, disk)
    try:
        mount(guest, server.port)
        said = guest.run(f"/exercise run /mnt/nfs/disk.raw 7 {OPERATIONS}", timeout_s=240)
        # Everything was fsynced, so it is in the file while the server still runs.
        assert int(said, 16) == zlib.crc32(disk.read_bytes())
        guest.run("umount /mnt/nfs")
        mount(guest, server.port)
        assert guest.run("/exercise sum /mnt/nfs/disk.raw") == said
        guest.run("umount /mnt/nfs")
    finally:
        server.stop()
    assert int(said, 16) == zlib.crc32(disk.read_bytes())


@pytest.mark.slow
def test_the_kernel_keeps_small_files_beside_the_disk(unmounted, tmp_path):
    guest = unmounted
    server = Server(tmp_path, made_disk(tmp_path))
    try:
        mount(guest, server.port)
        guest.run(
            "cd /mnt/nfs && mkdir logs && echo one > logs/vm.log && echo two >> logs/vm.log && "
            "mv logs/vm.log vm.log.1 && rmdir logs && touch lock && rm lock && chmod 600 vm.log.1"
        )
        assert guest.run("cat /mnt/nfs/vm.log.1") == "one\ntwo\n"
        assert guest.run("cat /mnt/nfs/disk.txt") == "a descriptor\n"
        assert guest.run("ls /mnt/nfs").split() == ["disk.raw", "disk.txt", "vm.log.1"]
        guest.run("! rm -f /mnt/nfs/disk.raw")
        guest.run("! mv -f /mnt/nfs/vm.log.1 /mnt/nfs/disk.raw")
        guest.run("! truncate -s 1000 /mnt/nfs/disk.raw")
        guest.run("! ln /mnt/nfs/vm.log.1 /mnt/nfs/other")
        server.kill()
        server = Server(tmp_path, tmp_path / "served.raw", port=server.port)
        # The handles that the kernel has are good after the restart, and so is the file.
        assert guest.run("cat /mnt/nfs/vm.log.1; ls /mnt/nfs | wc -l") == "one\ntwo\n3\n"
        guest.run("umount /mnt/nfs")
    finally:
        server.stop()


@pytest.mark.slow
def test_nothing_is_lost_when_the_server_is_killed_before_a_commit(unmounted, tmp_path):
    guest = unmounted
    disk = made_disk(tmp_path)
    before = disk.read_bytes()
    server = Server(tmp_path, disk, hold_flush=True)
    try:
        mount(guest, server.port)
        arguments = {"path": "/exercise", "arg": ["fill", "/mnt/nfs/disk.raw", "165"]}
        pid = guest.agent("guest-exec", arguments | {"capture-output": True})["pid"]
        # Its fsync has sent UNSTABLE writes and waits for COMMIT, which never ends.
        assert server.flushing.wait(120)
        server.kill()
        assert disk.read_bytes() == before
        server = Server(tmp_path, disk, port=server.port)
        guest.run(f"while [ -e /proc/{pid} ]; do usleep 50000; done", timeout_s=120)
        ended = guest.agent("guest-exec-status", {"pid": pid})
        assert ended["exitcode"] == 0, ended
        assert disk.read_bytes() == b"\xa5" * DISK_SIZE
        guest.run("umount /mnt/nfs")
    finally:
        server.stop()
