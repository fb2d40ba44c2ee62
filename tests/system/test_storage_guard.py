"""Real programs of root against a guarded storage on private file systems, while Ruchu works on."""

import contextlib
import hashlib
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from ruchu.testing.command_line import CommandLine
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]

WAIT_S = 60
IMAGE_SIZE = 6 * MIB


class GuardProcess:
    """`ruchu guard --json`, and what it said so far."""

    def __init__(self, cli, *words):
        self.process = cli.popen("guard", *words, "--json")
        self.lines = []
        self._news = threading.Condition()
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        for line in self.process.stdout:
            with self._news:
                self.lines.append(json.loads(line))
                self._news.notify_all()
        with self._news:
            self.lines.append({"event": "end"})
            self._news.notify_all()

    def wait(self, event, code=None, count=1, **facts):
        """Return the line of an event, once it was said so many times."""

        def found():
            return [
                line
                for line in self.lines
                if line["event"] == event
                and code in {None, line.get("code")}
                and facts.items() <= line.get("facts", {}).items()
            ]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, WAIT_S), (
                event, code, facts, self.lines,
            )  # fmt: skip
            return found()[count - 1]

    def codes(self):
        return {line.get("code") for line in self.lines}

    def worker(self):
        """Return the process in which the guard itself runs."""
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return next(
            int(pid)
            for pid in children.split()
            if "spawn_main" in Path(f"/proc/{pid}/cmdline").read_text()
        )

    def end(self):
        self.process.terminate()
        self.process.wait(WAIT_S)
        self._thread.join(WAIT_S)
        self.process.stdout.close()
        self.process.stderr.close()


@contextlib.contextmanager
def mounted(tmp_path, kind):
    image, place = tmp_path / f"{kind}.image", tmp_path / kind
    with image.open("wb") as file:
        file.truncate(400 * MIB)
    subprocess.run([f"mkfs.{kind}", "-q", str(image)], check=True, capture_output=True)
    place.mkdir()
    subprocess.run(["mount", "-o", "loop", image, place], check=True)
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


@pytest.fixture
def cli(tmp_path, rng):
    (tmp_path / "image").write_bytes(rng.randbytes(IMAGE_SIZE))
    return CommandLine(tmp_path)


@pytest.fixture
def storage(request, tmp_path, cli):
    """A storage with one point, on a file system of its own."""
    with mounted(tmp_path, getattr(request, "param", "ext4")) as place:
        root = place / "storage"
        cli.run("storage", "add", "s", root, "--no-encryption")
        back_up(cli)
        yield root
        cli.run("guard", root, "--release")


@pytest.fixture
def guarding(cli, storage):
    """Start guards that end with the test."""
    with contextlib.ExitStack() as opened:

        def start(*words):
            guard = GuardProcess(cli, storage, *words)
            opened.callback(guard.end)
            guard.wait("ready")
            return guard

        yield start


def back_up(cli):
    return cli.json("backup", "image", "image", "--storage", "s", "--name", "o")


def content(root):
    return {
        str(path.relative_to(root)): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(root.rglob("*"))
        if path.is_file()
    }


def pack_of(root):
    return next(root.glob("chains/*/packs/*/*.pack"))


def attempt(*words):
    """Run a foreign program; return whether it says that it did what it wanted."""
    return subprocess.run(list(map(str, words)), capture_output=True, check=False).returncode == 0


def python(code, *arguments):
    # The interpreter that Ruchu itself runs from: it is not known by its file.
    return attempt(sys.executable, "-c", f"import os, sys; path = sys.argv[1]; {code}", *arguments)


@pytest.mark.parametrize("storage", ["ext4", "xfs", "btrfs"], indirect=True)
def test_no_other_program_changes_renames_or_removes_what_is_stored(storage, guarding):
    guard = guarding()
    before = content(storage)
    pack = pack_of(storage)
    head = next(storage.glob("chains/*/points/*.json"))
    for path in (pack, head, storage / "ruchu-storage.json"):
        assert not python("open(path, 'r+b').write(b'x')", path)
        assert not python("open(path, 'ab').write(b'x')", path)
        assert not python("import mmap; mmap.mmap(os.open(path, os.O_RDWR), 0)[0] = 1", path)
        assert not python("os.truncate(path, 0)", path)
        assert not python("os.open(path, os.O_RDONLY | os.O_TRUNC)", path)
        assert not python("os.setxattr(path, 'user.x', b'1')", path)
        assert not python("os.utime(path, (1, 1))", path)
        assert not attempt("dd", "if=/dev/zero", f"of={path}", "count=1", "conv=notrunc")
        assert not attempt("truncate", "-s", "0", path)
        assert not attempt("mv", path, f"{path}.locked")
        assert not attempt("rm", "-f", path)
        assert not attempt("ln", path, storage.parent / "second-name")
        assert not attempt("chmod", "666", path)
        assert not attempt("chown", "1:1", path)
        assert not attempt("cp", "/etc/hostname", path)
    assert not attempt("rm", "-rf", storage / "chains")
    assert not attempt("mv", storage / "chains", storage / "gone")
    assert not attempt("mv", pack.parent, storage.parent / "gone")
    assert content(storage) == before
    # What a foreign program adds is told, and it cannot write into it.
    assert not attempt("dd", "if=/dev/zero", f"of={pack.parent}/intruder", "count=1")
    refused = guard.wait("alarm", "guard-refused")
    assert refused["severity"] == "critical"
    assert refused["facts"]["program"]["comm"] == "dd"
    assert refused["facts"]["program"]["command"].startswith("dd if=/dev/zero")
    assert refused["facts"]["object"].endswith("/intruder")
    guard.wait("alarm", "guard-changed")


def test_reading_goes_on_and_writing_by_ruchu_too(storage, cli, guarding, rng):
    guard = guarding()
    first = cli.json("points", "list", "--storage", "s")
    with (cli.home / "image").open("r+b") as file:
        file.write(rng.randbytes(IMAGE_SIZE // 2))
    back_up(cli)
    cli.run("retention", "apply", "--storage", "s", "--keep-last", "1", "--grace", "0s")
    cli.run("retention", "apply", "--storage", "s", "--keep-last", "1", "--grace", "0s")
    after = cli.json("points", "list", "--storage", "s")
    assert len(first) == len(after) == 1
    assert first != after
    cli.run("storage", "verify", "s", "--full")
    assert attempt("sha256sum", pack_of(storage))
    guard.wait("alarm", "guard-admitted")
    assert guard.codes() == {None, "guard-admitted"}
    # All is sealed; what was purged is gone; nothing half done is left.
    listed = subprocess.run(["lsattr", "-R", storage], capture_output=True, check=True, text=True)
    flags = {
        line.split()[1]: line.split()[0]
        for line in listed.stdout.splitlines()
        if line and not line.endswith(":")
    }
    files = {str(path) for path in storage.rglob("*") if path.is_file()}
    assert files
    assert not [path for path in files if "ia" not in flags[path]]
    cli.run("guard", storage, "--check")


@pytest.mark.parametrize("storage", ["ext4", "xfs", "btrfs"], indirect=True)
def test_whoever_lifts_a_flag_is_named_and_the_flag_is_set_again(storage, guarding):
    guard = guarding()
    pack = pack_of(storage)
    name = str(pack.relative_to(storage))
    assert attempt("chattr", "-i", "-a", pack)
    lifted = guard.wait("alarm", "guard-flags-lifted", object=name)
    assert lifted["severity"] == "critical"
    assert lifted["facts"]["program"]["comm"] == "chattr"
    assert str(pack) in lifted["facts"]["program"]["command"]
    assert not attempt("rm", "-f", pack)
    assert attempt("chattr", "-a", storage)
    guard.wait("alarm", "guard-flags-lifted", object="")
    assert not attempt("mv", storage / "chains", storage / "gone")


def test_what_is_done_after_lifting_a_flag_is_told(storage, guarding):
    guard = guarding()
    pack = pack_of(storage)
    name = str(pack.relative_to(storage))
    assert attempt("sh", "-c", f"chattr -i -a {pack} && rm -f {pack}")
    changed = guard.wait("alarm", "guard-changed", object=name)
    assert changed["severity"] == "critical"


def test_a_guard_that_dies_is_told_and_comes_back(storage, cli, guarding):
    guard = guarding()
    before = content(storage)
    os.kill(guard.worker(), signal.SIGKILL)
    guard.wait("alarm", "guard-ended")
    # The flags hold without it.
    assert not python("open(path, 'r+b').write(b'x')", pack_of(storage))
    assert not attempt("rm", "-f", pack_of(storage))
    guard.wait("ready", count=2)
    guard.wait("clear", "guard-ended")
    assert content(storage) == before
    back_up(cli)
    assert "guard-refused" not in guard.codes()


def test_a_guard_that_hangs_holds_nobody_up_for_long(storage, guarding):
    guard = guarding()
    os.kill(guard.worker(), signal.SIGSTOP)
    assert pack_of(storage).read_bytes()  # waits until the supervisor has killed it
    guard.wait("alarm", "guard-hung")
    guard.wait("ready", count=2)
    guard.wait("clear", "guard-hung")


def test_a_guard_whose_supervisor_is_killed_ends_and_says_so(storage, guarding):
    guard = guarding()
    worker = guard.worker()
    descriptor = os.pidfd_open(worker)
    try:
        guard.process.kill()
        poller = select.poll()
        poller.register(descriptor, select.POLLIN)
        assert poller.poll(WAIT_S * 1000)
    finally:
        os.close(descriptor)
    assert b"without its supervisor" in guard.process.stderr.read()
    assert not attempt("rm", "-f", pack_of(storage))


def test_what_changed_while_nobody_watched_is_named(storage, cli, guarding):
    first = guarding()
    first.end()
    pack = pack_of(storage)
    name = str(pack.relative_to(storage))
    data = bytearray(pack.read_bytes())
    data[100] ^= 1
    assert attempt("chattr", "-i", "-a", pack)
    pack.write_bytes(data)
    head = next(storage.glob("chains/*/points/*.json"))
    assert attempt("chattr", "-i", "-a", head)
    head.unlink()
    found = cli.json("guard", storage, "--check", status=7)
    assert found[0]["changed"] == [name]
    assert found[0]["removed"] == [str(head.relative_to(storage))]
    second = guarding()
    changed = second.wait("alarm", "tamper-changed")
    assert changed["facts"]["objects"] == [name]
    assert changed["severity"] == "critical"
    second.wait("alarm", "tamper-removed")


def test_readers_can_be_named(storage, guarding):
    guard = guarding("--reader", shutil.which("sha256sum"))
    assert attempt("sha256sum", pack_of(storage))
    assert not attempt("cat", pack_of(storage))
    refused = guard.wait("alarm", "guard-refused")
    assert refused["facts"]["what"] == "open for reading"
    assert refused["facts"]["program"]["comm"] == "cat"
    # Who may not open a file cannot lift its flags in this way, either.
    assert not attempt("chattr", "-i", "-a", pack_of(storage))


def test_without_flags_the_guard_refuses_and_names_every_open(storage, guarding):
    guard = guarding("--no-flags")
    before = content(storage)
    pack = pack_of(storage)
    assert not python("open(path, 'r+b').write(b'x')", pack)
    assert not attempt("dd", "if=/dev/zero", f"of={pack}", "count=1", "conv=notrunc")
    refused = guard.wait("alarm", "guard-refused", count=2)
    assert refused["facts"]["program"]["comm"] == "dd"
    assert content(storage) == before


def test_the_doctor_tries_what_it_says(storage, cli):
    checks = {each["name"]: each for each in cli.json("doctor", "--path", storage.parent)}
    for name in ("sealed files", "append-only directories", "open guard (fanotify)", "root"):
        assert checks[name]["state"] == "ok", checks[name]
    assert checks["kernel guard (BPF LSM)"]["state"] in {"ok", "missing"}
    assert [path.name for path in storage.parent.glob("ruchu-doctor-*")] == []
