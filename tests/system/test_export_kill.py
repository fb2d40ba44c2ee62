"""Exports killed at random moments while clients write.

What was flushed is there, every other sector is as before or as written, and the storage is as it
was. A killed process loses less than that: what was acknowledged is there as well, and the tests
hold the exports to it.
"""

import hashlib
import itertools
import os
import random
import shutil
import struct
import subprocess
import tempfile
import threading
from pathlib import Path

import numpy as np
import pytest

from ruchu.blocks.nbd import Address, NbdDisk
from ruchu.errors import NbdError
from ruchu.testing import nfs
from ruchu.testing.command_line import CommandLine
from ruchu.units import KIB, MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]
ROUNDS = 30
QEMU_KILLS = 5
SECTOR = 512
# The last block is there in part only.
SIZE = 24 * MIB + 3 * SECTOR
SECTORS = SIZE // SECTOR
WRITERS = 3
NFS_PATH = "/ruchu-killed"
LIMIT_S = 120


def content(tag, first, count):
    """Return sectors that say who wrote them, and where; tag 0 are zeros."""
    made = np.zeros((count, SECTOR // 8), "<u8")
    if tag:
        made[:, ::2] = tag
        made[:, 1::2] = np.arange(first, first + count)[:, None]
    return made.tobytes()


def tags_of(data):
    """Return who wrote each sector; a sector of two writers, or of another place, fails."""
    sectors = np.frombuffer(data, "<u8").reshape(-1, SECTOR // 8)
    tags = sectors[:, 0].copy()
    places = np.where(tags > 0, np.arange(len(tags)), 0)
    assert (sectors[:, ::2] == tags[:, None]).all(), "torn sectors"
    assert (sectors[:, 1::2] == places[:, None]).all(), "sectors in a wrong place"
    return tags


class Model:
    """What the disk must hold: by sector the tag that was acknowledged, and writes under way."""

    def __init__(self, tags):
        self.tags = tags
        self.under_way = {}
        self.flushes = 0

    def begin(self, writer, tag, first, count):
        self.under_way[writer] = tag, first, count

    def acknowledged(self, writer):
        tag, first, count = self.under_way.pop(writer)
        self.tags[first : first + count] = tag

    def check(self, found):
        """Hold what was found against it, and go on from there."""
        for tag, first, count in self.under_way.values():
            part = slice(first, first + count)
            self.tags[part] = np.where(found[part] == tag, tag, self.tags[part])
        lost = np.flatnonzero(found != self.tags)
        assert not len(lost), (lost[:10], found[lost[:10]], self.tags[lost[:10]])
        self.under_way.clear()


class Trigger:
    """Kills a server at the nth acknowledged request; others are under way then."""

    def __init__(self, serving, count):
        self._serving = serving
        self._left = itertools.count(count, -1)

    def pull(self):
        if next(self._left) == 0:
            self._serving.process.kill()


@pytest.fixture
def directory():
    with tempfile.TemporaryDirectory(prefix="rk-") as made:
        yield Path(made)


@pytest.fixture
def cli(directory):
    made = CommandLine(directory)
    (directory / "passphrase").write_text("correct horse\n")
    made.run("storage", "add", "s", "s", "--passphrase-file", "passphrase")
    return made


@pytest.fixture
def point(cli, rng):
    """Save an image whose sectors are tagged 1, with holes; the storage stays as it is then."""
    image = cli.home / "image"
    with image.open("wb") as file:
        file.truncate(SIZE)
        for at in range(0, SECTORS, 2048):
            count = min(rng.randrange(1, 2048), SECTORS - at)
            file.seek(at * SECTOR)
            file.write(content(1, at, count))
    made = cli.json("backup", "image", "image", "--storage", "s", "--name", "o")["point"]
    before = files_of(cli)
    yield made
    assert files_of(cli) == before
    assert cli.json("storage", "verify", "s", "--full")["clean"]


def files_of(cli):
    """Return a hash of each file of the storage; those of a process that died leave a lease."""
    found = {}
    for path in sorted((cli.home / "s").rglob("*")):
        if path.is_file() and not {"leases", "locks"} & set(path.parts):
            found[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    return found


def drawn(draw, writer):
    """Return first sector and count of a write by one of the writers, in its part of the disk."""
    # Parts end in the middle of a block, so that two writers share it.
    low, high = writer * SECTORS // WRITERS, (writer + 1) * SECTORS // WRITERS
    count = draw.choice([1, 8, 128, draw.randrange(1, 600), 2048])
    return draw.randrange(low, high - count), count


def in_threads(work):
    """Run a function for each writer; raise what any of them raised."""
    errors = []

    def guarded(number):
        try:
            work(number)
        except BaseException as error:  # noqa: BLE001 - raised below
            errors.append(error)

    threads = [threading.Thread(target=guarded, args=(number,)) for number in range(WRITERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def killed_early(cli, words, delay_s):
    """Start an export and kill it, most often before it answers."""
    process = cli.popen(*words)
    try:
        process.wait(delay_s)
    except subprocess.TimeoutExpired:
        process.kill()
    process.communicate()
    assert process.returncode == -9


# ----------------------------------------------------------------------------------------------- NBD


def write_over_nbd(path, model, numbers, draw, writer, trigger):
    """Write, zero and flush until the server is gone."""
    try:
        with NbdDisk(Address("", path=str(path)), connections=1) as disk:
            while True:
                first, count = drawn(draw, writer)
                zeros = draw.random() < 0.2
                tag = 0 if zeros else next(numbers)
                model.begin(writer, tag, first, count)
                if zeros:
                    disk.zero(first * SECTOR, count * SECTOR)
                else:
                    disk.write(first * SECTOR, memoryview(content(tag, first, count)))
                model.acknowledged(writer)
                if draw.random() < 0.15:
                    disk.flush()
                    model.flushes += 1
                trigger.pull()
    except NbdError:
        return


def read_over_nbd(path):
    buffer = bytearray(SIZE)
    with NbdDisk(Address("", path=str(path))) as disk:
        disk.read_into(0, memoryview(buffer))
    return tags_of(bytes(buffer))


def test_nbd_keeps_what_was_written(cli, point, rng, capsys):
    socket, cache = cli.home / "sock", cli.home / "cache"
    words = ("export", "nbd", point, "--disk", "0", "--socket", socket, "--writable", cache)
    model = Model(tags_of((cli.home / "image").read_bytes()))
    numbers = itertools.count(2)
    for number in range(ROUNDS):
        if number % 3 == 0:
            killed_early(cli, words, rng.uniform(0.1, 0.9))
        with cli.serving(*words) as serving:
            model.check(read_over_nbd(socket))
            trigger = Trigger(serving, rng.choice([0, 1, rng.randrange(30), rng.randrange(300)]))
            draws = [random.Random(rng.random()) for _ in range(WRITERS)]
            in_threads(
                lambda each, draws=draws, trigger=trigger: write_over_nbd(
                    socket, model, numbers, draws[each], each, trigger
                )
            )
            assert serving.process.wait(LIMIT_S) == -9
    with cli.serving(*words) as serving:
        model.check(read_over_nbd(socket))
        assert serving.end() in {0, 130}
    assert model.flushes
    with capsys.disabled():
        print(f"\n{ROUNDS} kills, {next(numbers)} writes, {model.flushes} flushes")  # noqa: T201


# ----------------------------------------------------------------------------------------------- NFS


def write_over_nfs(port, name, model, numbers, draw, writer, trigger):
    """Write UNSTABLE or FILE_SYNC and COMMIT until the server is gone."""
    try:
        with nfs.Client(("127.0.0.1", port)) as client:
            handle = client.lookup(client.mount(NFS_PATH), name)
            while True:
                first, count = drawn(draw, writer)
                tag = next(numbers)
                model.begin(writer, tag, first, count)
                how = draw.choice([0, 0, 0, 2])
                client.write(handle, first * SECTOR, content(tag, first, count), how)
                model.acknowledged(writer)
                if draw.random() < 0.15:
                    client.commit(handle)
                    model.flushes += 1
                trigger.pull()
    except (OSError, struct.error):  # an answer that is not there unpacks to nothing
        return


def read_over_nfs(port, name):
    with nfs.Client(("127.0.0.1", port)) as client:
        handle = client.lookup(client.mount(NFS_PATH), name)
        parts, at = [], 0
        while at < SIZE:
            part, _ = client.read(handle, at, min(512 * KIB, SIZE - at))
            parts.append(part)
            at += len(part)
        return tags_of(b"".join(parts)), handle, client.commit(handle)


def test_nfs_keeps_what_was_written(cli, point, rng, capsys):
    cache = cli.home / "cache"
    port, handles, verifiers = 0, set(), []
    model = Model(tags_of((cli.home / "image").read_bytes()))
    numbers = itertools.count(2)
    for number in range(ROUNDS + 1):
        words = ("export", "nfs", point, "--listen", f"127.0.0.1:{port}", "--path", NFS_PATH,
                 "--writable", cache)  # fmt: skip
        if number % 3 == 1:
            killed_early(cli, words, rng.uniform(0.1, 0.9))
        with cli.serving(*words) as serving:
            (name,) = serving.answer["files"]
            port = int(serving.answer["url"].partition("127.0.0.1:")[2].partition("/")[0])
            found, handle, verifier = read_over_nfs(port, name)
            model.check(found)
            handles.add(handle)
            verifiers.append(verifier)
            if number == ROUNDS:
                assert serving.end() in {0, 130}
                break
            trigger = Trigger(serving, rng.choice([0, 1, rng.randrange(30), rng.randrange(300)]))
            draws = [random.Random(rng.random()) for _ in range(WRITERS)]
            in_threads(
                lambda each, draws=draws, trigger=trigger, name=name, port=port: write_over_nfs(
                    port, name, model, numbers, draws[each], each, trigger
                )
            )
            assert serving.process.wait(LIMIT_S) == -9
    assert len(handles) == 1, "a client keeps its handles over a restart"
    assert len(set(verifiers)) == len(verifiers), "and is told to send again what it must"
    assert model.flushes
    with capsys.disabled():
        print(f"\n{ROUNDS} kills, {next(numbers)} writes, {model.flushes} commits")  # noqa: T201


# ---------------------------------------------------------------------------------------------- QEMU


def qemu_orders(draw, expected):
    """Return words for qemu-io that write, read back and flush; `expected` becomes the outcome."""
    orders = []
    for number in range(400):
        length = draw.choice([512, 4 * KIB, 64 * KIB, draw.randrange(1, 600) * SECTOR])
        start = draw.randrange((SIZE - length) // SECTOR) * SECTOR
        byte = draw.randrange(256)
        expected[start : start + length] = bytes([byte]) * length
        orders += ["-c", f"write -P {byte} {start} {length}"]
        if number % 5 == 0:
            orders += ["-c", "flush"]
        if number % 7 == 0:
            orders += ["-c", f"read -P {byte} {start} {length}"]
    return [*orders, "-c", "flush"]


def free_address():
    """Return a loopback address of its own, whose port 111 is free."""
    number = os.getpid()
    return f"127.{1 + number % 250}.{1 + number // 250 % 250}.9"


def export_words(cli, point, protocol, port):
    """Return the command that serves, on the same address each time."""
    place = ("nbd", point, "--disk", "0", "--socket", cli.home / "sock")
    if protocol == "nfs":
        place = ("nfs", point, "--listen", f"{free_address()}:{port}", "--portmapper", "--path",
                 NFS_PATH, "--allow", "127.0.0.0/8")  # fmt: skip
    return ("export", *place, "--writable", cli.home / "cache")


def started_qemu(cli, protocol, answer, orders):
    """Start qemu-io; over NBD it is told to wait for a server that went away."""
    path = cli.home / "sock"
    where = ["--image-opts", f"driver=nbd,server.type=unix,server.path={path},reconnect-delay=120"]
    if protocol == "nfs":
        where = ["-f", "raw", f"nfs://{free_address()}{NFS_PATH}/{answer['files'][0]}"]
    return subprocess.Popen(
        ["stdbuf", "-oL", "qemu-io", *orders, *where],
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def good(said):
    assert said, "qemu-io ended early"
    assert b"fail" not in said.lower(), said[-2000:]
    assert b"error" not in said.lower(), said[-2000:]


@pytest.mark.parametrize("protocol", ["nbd", "nfs"])
def test_qemu_goes_on_over_kills(cli, point, rng, protocol):
    """Its writes are held while nobody answers, and all of them are there in the end."""
    if not shutil.which("qemu-io"):
        pytest.skip("qemu-io is not installed")
    expected = bytearray((cli.home / "image").read_bytes())
    orders = qemu_orders(rng, expected)
    port, client = 0, None
    try:
        for _ in range(QEMU_KILLS):
            with cli.serving(*export_words(cli, point, protocol, port)) as serving:
                if protocol == "nfs":
                    port = int(serving.answer["url"].split(":")[2].partition("/")[0])
                client = client or started_qemu(cli, protocol, serving.answer, orders)
                for _ in range(rng.randrange(5, 90)):
                    good(client.stdout.readline())
                serving.kill()
        with cli.serving(*export_words(cli, point, protocol, port)):
            good(client.communicate(timeout=LIMIT_S)[0])
            assert client.returncode == 0
        with cli.serving(*export_words(cli, point, "nbd", 0)):
            buffer = bytearray(SIZE)
            with NbdDisk(Address("", path=str(cli.home / "sock"))) as disk:
                disk.read_into(0, memoryview(buffer))
            assert buffer == expected
    finally:
        if client is not None:
            client.kill()
            client.wait()
            client.stdout.close()
