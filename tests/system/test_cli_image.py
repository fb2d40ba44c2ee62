"""Images through the command line, as a script uses it: documents, exit statuses, bytes."""

import contextlib
import json
import os
import random
import re
import resource
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ruchu.repository import documents
from ruchu.units import KIB, MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]

SIZE = 24 * MIB + 777


class Cli:
    """`ruchu` with a state of its own."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state"

    def popen(self, *words, **more):
        command = [sys.executable, "-m", "ruchu", "--state", str(self.state), *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=self.home, **more
        )

    def run(self, *words, status=0, **more):
        process = self.popen(*words, **more)
        out, err = process.communicate(timeout=120)
        self.err = err.decode()
        assert process.returncode == status, (process.returncode, out.decode(), self.err)
        return out.decode()

    def json(self, *words, status=0, **more):
        return json.loads(self.run(*words, "--json", status=status, **more))

    def back_up(self, *words, **more):
        return self.json(
            "backup", "image", "image", "--storage", "s", "--name", "o", *words, **more
        )

    def fails(self, status, code, *words, **more):
        """Run a command that must fail; it says so as a document and as a message with a hint."""
        error = self.json(*words, status=status, **more)["error"]
        assert error["code"] == code, error
        assert self.err.startswith("ruchu: ")
        return error


@pytest.fixture
def cli(tmp_path):
    cli = Cli(tmp_path)
    (tmp_path / "passphrase").write_text("correct horse\n")
    cli.run("storage", "add", "s", "s", "--passphrase-file", "passphrase")
    return cli


@pytest.fixture
def image(cli, rng):
    path = cli.home / "image"
    with path.open("wb") as file:
        file.write(rng.randbytes(10 * MIB))
        file.seek(20 * MIB)
        file.write(rng.randbytes(MIB))
        file.truncate(SIZE)
    return path


def change(path: Path, start: int, content: bytes) -> bytes:
    with path.open("r+b") as file:
        file.seek(start)
        file.write(content)
    return path.read_bytes()


def bytes_below(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file())


def test_a_life_of_an_image(cli, image, rng):  # noqa: PLR0915 - a life is long
    truth = {}
    full = cli.back_up("--kind", "full")
    truth[full["point"]] = image.read_bytes()
    assert (full["kind"], full["size"], full["parent"]) == ("full", SIZE, None)
    assert 11 * MIB <= full["bytes_read"] <= 11 * MIB + 128 * KIB
    assert full["bytes_read"] <= full["bytes_stored"] < full["bytes_read"] + 100 * KIB
    assert full["seconds"] > 0

    content = change(image, 15 * MIB, rng.randbytes(100_000))
    scanned = cli.back_up("--kind", "incremental")
    truth[scanned["point"]] = content
    assert (scanned["kind"], scanned["parent"]) == ("incremental", full["point"])
    assert scanned["bytes_read"] > 11 * MIB
    assert scanned["bytes_stored"] < 400 * KIB

    content = change(image, 3 * MIB + 5, rng.randbytes(1000))
    (cli.home / "changes").write_text(f"{3 * MIB + 500} 505\n{3 * MIB + 5} 600\n")
    listed = cli.back_up("--changes", "changes")
    truth[listed["point"]] = content
    assert (listed["kind"], listed["parent"]) == ("incremental", scanned["point"])
    assert listed["bytes_read"] == 64 * KIB
    assert listed["sample"]["blocks"] == 64
    assert set(listed["sample"]["unseen"]) == {"0.01", "0.05", "0.1"}

    content = change(image, 22 * MIB, rng.randbytes(10))
    (cli.home / "changes").write_text(
        f"# since the full\n\n{22 * MIB} 10\n{15 * MIB} 100000\n{3 * MIB} {MIB}\n"
    )
    differential = cli.back_up("--kind", "differential", "--changes", "changes")
    truth[differential["point"]] = content
    assert (differential["kind"], differential["parent"]) == ("differential", full["point"])
    assert differential["bytes_read"] < 2 * MIB

    points = cli.json("points", "list")
    assert [point["point"] for point in points] == list(truth)
    expected = {
        "point", "name", "kind", "time", "starred", "locked_until", "storage", "chain",
        "sequence", "bytes_stored", "disks",
    }  # fmt: skip
    assert expected <= set(points[0])
    assert points[0]["disks"] == [{"name": "disk0", "size": SIZE}]
    assert points == cli.json("points", "list", "--storage", "s")

    found = cli.json("points", "diff", listed["point"][:10], differential["point"][:10])
    assert found["disks"][0]["extents"] == [[22 * MIB, 64 * KIB]]

    for depth in ([], ["--sampled", "20"], ["--full"]):
        report = cli.json("storage", "verify", "s", *depth)
        assert report["clean"]
        assert report["findings"] == []
        assert cli.json("points", "verify", listed["point"][:8], *depth)["clean"]

    before = bytes_below(cli.home / "s")
    cli.run("points", "delete", scanned["point"][:6], "--yes", "--grace", "0d")
    del truth[scanned["point"]]
    assert bytes_below(cli.home / "s") <= before
    for number, (point, content) in enumerate(truth.items()):
        done = cli.json("restore", "image", point[:12], f"restored{number}")
        assert done["size"] == SIZE
        assert (cli.home / f"restored{number}").read_bytes() == content
    assert cli.json("storage", "verify", "s", "--full")["clean"]
    (shown,) = cli.json("storage", "show", "s")["objects"]
    assert (shown["name"], shown["points"]) == ("o", 3)


def test_a_list_that_forgets_a_change_is_noticed(cli, image, rng):
    cli.back_up()
    content = change(image, 0, rng.randbytes(10 * MIB))
    (cli.home / "changes").write_text("0 65536\n")
    done = cli.back_up("--changes", "changes")
    assert [reason["code"] for reason in done["reasons"]] == ["sample-mismatch"]
    cli.run("restore", "image", done["point"], "restored")
    assert (cli.home / "restored").read_bytes() == content


def test_an_image_that_grows_and_shrinks(cli, image, rng):
    cli.back_up()
    with image.open("ab") as file:
        file.write(rng.randbytes(MIB))
    (cli.home / "changes").write_text("")
    for _ in range(2):
        done = cli.back_up("--changes", "changes")
        cli.run("restore", "image", done["point"], "restored", "--overwrite")
        assert (cli.home / "restored").read_bytes() == image.read_bytes()
        os.truncate(image, 5 * MIB + 1)
    assert [reason["code"] for reason in done["reasons"]] == ["disk-resized"]


def test_an_image_that_changes_meanwhile_is_told(cli, image):
    process = cli.popen(
        "backup", "image", "image", "--storage", "s", "--name", "o", "--level", "19", "--json"
    )
    while process.poll() is None:
        os.utime(image)
        time.sleep(0.001)
    out, err = process.communicate()
    done = json.loads(out)
    assert done["source_changed"]
    assert b"warning" in err
    assert cli.json("points", "show", done["point"])["facts"]["source_changed"]


def test_wrong_change_lists(cli, image):
    cli.back_up()
    lists = ["x y\n", "1\n", "1 2 3\n", "-1 5\n", f"{SIZE} 1\n", "0x10 5\n", "1.0 5\n"]
    for text in lists:
        (cli.home / "changes").write_text("0 1\n" + text)
        error = cli.fails(
            2, "usage", "backup", "image", "image", "--storage", "s", "--name", "o",
            "--changes", "changes",
        )  # fmt: skip
        assert "line 2" in error["message"]
    cli.fails(3, "not-found", "backup", "image", "image", "--storage", "s", "--name", "o",
              "--changes", "missing")  # fmt: skip
    assert len(cli.json("points", "list")) == 1


@pytest.mark.skipif(not shutil.which("qemu-img"), reason="qemu-img is not installed")
def test_what_is_in_a_qcow2_is_saved(cli, image):
    def qemu_img(*args):
        subprocess.run(["qemu-img", *map(str, args)], check=True, capture_output=True, timeout=60)

    image.write_bytes(image.read_bytes() + bytes(-SIZE % 512))
    qcow2 = cli.home / "disk.qcow2"
    qemu_img("convert", "-c", "-O", "qcow2", image, qcow2)
    words = ("backup", "image", "disk.qcow2", "--storage", "s", "--name")
    done = cli.json(*words, "q")
    assert (done["format"], done["size"]) == ("qcow2", image.stat().st_size)
    cli.run("restore", "image", done["point"], "restored")
    assert (cli.home / "restored").read_bytes() == image.read_bytes()
    done = cli.json(*words, "r", "--raw")
    cli.run("restore", "image", done["point"], "bytes")
    assert (cli.home / "bytes").read_bytes() == qcow2.read_bytes()
    qemu_img("create", "-f", "qcow2", "-b", image, "-F", "raw", qcow2)
    error = cli.fails(10, "platform-unsupported", *words, "q")
    assert "qemu-img convert" in error["hint"]


def test_what_is_wrong_has_its_status(cli, image):
    point = cli.back_up()["point"]
    cli.fails(3, "not-found", "points", "show", "0000000000")
    cli.fails(2, "usage", "points", "show", point[:3])
    cli.fails(3, "not-found", "points", "list", "--storage", "other")
    cli.fails(3, "not-found", "restore", "image", point, "new", "--disk", "7")
    cli.fails(3, "not-found", "backup", "image", "no-image", "--storage", "s", "--name", "o")
    cli.fails(2, "usage", "backup", "image", "image", "--storage", "s", "--name", "o",
              "--kind", "odd")  # fmt: skip
    cli.fails(2, "invalid-name", "storage", "add", "../s", "x", "--no-encryption")
    cli.fails(2, "already-exists", "storage", "add", "s", "x", "--no-encryption")
    cli.fails(2, "usage", "storage", "add", "t", "x")
    cli.fails(2, "usage", "points", "delete", point)
    cli.run("no-such-command", status=2)
    assert cli.run("--version").startswith("ruchu ")


def test_a_target_that_exists_stays(cli, image):
    point = cli.back_up()["point"]
    (cli.home / "target").write_bytes(b"precious")
    error = cli.fails(2, "already-exists", "restore", "image", point, "target")
    assert "--overwrite" in error["hint"]
    assert (cli.home / "target").read_bytes() == b"precious"
    cli.run("restore", "image", point, "target", "--overwrite")
    assert (cli.home / "target").read_bytes() == image.read_bytes()


def test_secrets(cli, image):
    point = cli.back_up()["point"]
    (cli.home / "wrong").write_text("wrong\n")
    (cli.home / "new").write_text("new")
    state = cli.home / "other-state"
    other = Cli(cli.home)
    other.state = state
    other.fails(8, "wrong-key", "storage", "adopt", "s", "s", "--passphrase-file", "wrong")
    assert other.json("storage", "list") == []
    cli.run("storage", "passphrase", "s", "--new-passphrase-file", "new")
    other.fails(8, "wrong-key", "storage", "adopt", "s", "s", "--passphrase-file", "passphrase")
    other.run("storage", "adopt", "s", "s", "--passphrase-file", "new")
    assert [each["point"] for each in other.json("points", "list")] == [point]
    # The state remembers the file, not what is in it.
    assert b"new" not in re.sub(rb'"file": "[^"]*"', b"", (state / "storages.json").read_bytes())
    assert (state / "storages.json").stat().st_mode & 0o777 == 0o600
    (cli.home / "new").unlink()
    error = cli.fails(3, "not-found", "points", "show", point)
    assert str(cli.home / "new") in error["message"]


def test_key_files_and_no_encryption(cli, image, rng):
    (cli.home / "key").write_bytes(rng.randbytes(64))
    cli.run("storage", "add", "k", "k", "--key-file", "key", "--role", "copy")
    cli.run("storage", "add", "n", "n", "--no-encryption")
    for storage in ("k", "n"):
        done = cli.json("backup", "image", "image", "--storage", storage, "--name", "o")
        cli.run("restore", "image", done["point"], f"from-{storage}")
        assert (cli.home / f"from-{storage}").read_bytes() == image.read_bytes()
    listed = {each["name"]: each for each in cli.json("storage", "list")}
    assert [listed[name]["encrypted"] for name in "kns"] == [True, False, True]
    assert listed["k"]["role"] == "copy"
    cli.run("storage", "adopt", "again", "n")


def test_a_foreign_directory_and_a_storage_that_is_one(cli):
    (cli.home / "foreign").mkdir()
    (cli.home / "foreign" / "holiday.jpg").write_bytes(b"")
    cli.fails(5, "foreign-directory", "storage", "add", "f", "foreign", "--no-encryption")
    assert os.listdir(cli.home / "foreign") == ["holiday.jpg"]
    cli.fails(2, "already-exists", "storage", "add", "f", "s", "--no-encryption")
    cli.fails(5, "storage-gone", "storage", "add", "f", "missing/f", "--no-encryption")
    cli.fails(5, "storage-gone", "storage", "adopt", "f", "foreign")


def test_a_storage_that_was_unplugged(cli, image):
    point = cli.back_up()["point"]
    (cli.home / "s").rename(cli.home / "away")
    cli.fails(5, "storage-gone", "backup", "image", "image", "--storage", "s", "--name", "o")
    # Nobody says that the point does not exist: its storage cannot be asked.
    cli.fails(5, "storage-gone", "points", "show", point)
    assert cli.json("points", "list", status=5) == []
    assert "not complete" in cli.err
    (state,) = cli.json("storage", "list")
    assert "not there" in state["problem"]
    (cli.home / "s").mkdir()
    cli.fails(5, "storage-gone", "restore", "image", point, "restored")
    assert os.listdir(cli.home / "s") == []
    (cli.home / "s").rmdir()
    # Another storage in its place is not taken for it.
    cli.run("storage", "add", "t", "s", "--no-encryption")
    cli.fails(5, "storage-gone", "points", "list", "--storage", "s")
    shutil.rmtree(cli.home / "s")
    (cli.home / "away").rename(cli.home / "s")
    assert cli.json("points", "show", point)["point"] == point


@contextlib.contextmanager
def mounted(home: Path, size: int):
    """Yield a directory that is a small file system of its own."""
    medium, place = home / "medium", home / "mounted"
    place.mkdir()
    with medium.open("wb") as file:
        file.truncate(size)
    subprocess.run(["mkfs.ext4", "-q", "-F", "-m", "0", medium], check=True)
    done = subprocess.run(["mount", "-o", "loop", medium, place], capture_output=True, check=False)
    if done.returncode:
        pytest.skip(f"no loop devices: {done.stderr.decode()}")
    try:
        yield place
    finally:
        subprocess.run(["umount", place], check=True)


def test_a_full_disk(cli, image, rng):
    with mounted(cli.home, 128 * MIB) as place:
        cli.run("storage", "add", "small", place / "storage", "--no-encryption")
        back_up = ("backup", "image", "image", "--storage", "small", "--name", "o")
        point = cli.json(*back_up)["point"]
        image.rename(cli.home / "first")
        image.write_bytes(rng.randbytes(200 * MIB))
        cli.fails(5, "storage-full", *back_up)
        assert [each["point"] for each in cli.json("points", "list", "--storage", "small")] == [
            point
        ]
        cli.run("restore", "image", point, "restored")
        assert (cli.home / "restored").read_bytes() == (cli.home / "first").read_bytes()
        image.write_bytes(b"small again")
        assert cli.json(*back_up)["kind"] == "incremental"


def test_a_target_without_room(cli, image):
    point = cli.back_up()["point"]

    def limit():
        # Larger files end in an error instead of a signal, as Python ignores SIGXFSZ.
        resource.setrlimit(resource.RLIMIT_FSIZE, (5 * MIB, 5 * MIB))

    cli.run("restore", "image", point, "restored", status=5, preexec_fn=limit)
    assert not [name for name in os.listdir(cli.home) if "restored" in name]


def test_a_read_only_storage(cli, image):
    with mounted(cli.home, 300 * MIB) as place:
        cli.run("storage", "add", "ro", place / "storage", "--passphrase-file", "passphrase")
        back_up = ("backup", "image", "image", "--storage", "ro", "--name", "o")
        point = cli.json(*back_up)["point"]
        subprocess.run(["mount", "-o", "remount,ro", place], check=True)
        cli.fails(5, "storage-read-only", *back_up)
        # What is there comes back all the same.
        assert len(cli.json("points", "list", "--storage", "ro")) == 1
        done = cli.json("restore", "image", point, "restored")
        assert not done["leased"]
        assert (cli.home / "restored").read_bytes() == image.read_bytes()
        assert cli.json("points", "verify", point, "--full")["clean"]
        assert cli.json("storage", "verify", "ro", "--full")["clean"]


def locks_of(cli):
    return {path.name.split(".")[0] for path in (cli.home / "s").glob("chains/*/locks/*.json")}


def wait_for_lock(cli, before):
    deadline = time.monotonic() + 30
    while not locks_of(cli) - before:
        assert time.monotonic() < deadline, "no lock was taken"
        time.sleep(0.01)


def test_two_writers_a_kill_and_a_cancel(cli, image, rng):
    cli.back_up()
    image.write_bytes(rng.randbytes(150 * MIB))
    slow = ("backup", "image", "image", "--storage", "s", "--name", "o", "--level", "19")
    before = locks_of(cli)
    first = cli.popen(*slow)
    wait_for_lock(cli, before)
    error = cli.fails(9, "chain-busy", "backup", "image", "image", "--storage", "s", "--name", "o")
    assert error["retry"]
    first.kill()
    first.communicate()
    before = locks_of(cli)
    second = cli.popen(*slow)
    wait_for_lock(cli, before)
    time.sleep(0.3)
    second.send_signal(signal.SIGTERM)
    # It ends between two pieces; to its end the backup would go on for minutes at this level.
    _, err = second.communicate(timeout=30)
    assert second.returncode == 130, err
    assert len(cli.json("points", "list")) == 1
    done = cli.back_up()
    assert cli.json("storage", "verify", "s", "--full")["clean"]
    assert not [p for p in (cli.home / "s").rglob("*") if ".partial" in p.name]
    cli.run("restore", "image", done["point"], "restored")
    assert (cli.home / "restored").read_bytes() == image.read_bytes()


def test_stars_and_locks_protect(cli, image):
    points = [cli.back_up()["point"] for _ in range(4)]
    cli.run("points", "star", points[0])
    until = cli.json("points", "lock", points[1], "30d")["locked_until"]
    cli.fails(2, "usage", "points", "lock", points[1], "2020-01-01")
    for point in points[:2]:
        cli.fails(4, "point-protected", "points", "delete", point, "--yes", "--grace", "0d")
    retention = ("retention", "apply", "--storage", "s", "--keep-last", "1", "--grace", "0d")
    (planned,) = cli.json(*retention, "--dry-run")
    assert planned["remove"] == [points[2]]
    assert len(cli.json("points", "list")) == 4
    (done,) = cli.json(*retention, "--name", "o")
    assert done["keep"] == {
        points[0]: ["starred"], points[1]: ["locked"], points[3]: ["newest", "count"],
    }  # fmt: skip
    listed = cli.json("points", "list")
    assert [each["starred"] for each in listed] == [True, False, False]
    assert listed[1]["locked_until"] == until
    cli.run("points", "star", points[0], "--remove")
    cli.run("points", "delete", points[0], "--yes")
    cli.fails(2, "usage", "retention", "apply", "--storage", "s")
    # Take the immutable flags off, so that the test can be cleaned up.
    subprocess.run(["chattr", "-R", "-i", cli.home / "s"], check=False, capture_output=True)


def test_damage_is_found_and_repaired_from_a_copy(cli, image, rng):
    point = cli.back_up()["point"]
    shutil.copytree(cli.home / "s", cli.home / "copy")
    with pytest.raises(AssertionError):
        cli.run("storage", "repair", "s", "--from", "s")
    pack = max((cli.home / "s").rglob("*.pack"), key=lambda path: path.stat().st_size)
    content = bytearray(pack.read_bytes())
    content[len(content) // 2] ^= 1
    pack.write_bytes(content)
    report = cli.json("storage", "verify", "s", "--full", status=7)
    assert report["affected_points"] == [point]
    cli.fails(7, "damaged", "restore", "image", point, "restored")
    assert not (cli.home / "restored").exists()
    cli.run("storage", "adopt", "c", "copy", "--passphrase-file", "passphrase")
    (done,) = cli.json("storage", "repair", "s", "--from", "c")
    assert done["damages"] == 1
    assert done["damaged_points"] == []
    assert cli.json("storage", "verify", "s", "--full")["clean"]
    cli.run("restore", "image", point, "restored")
    assert (cli.home / "restored").read_bytes() == image.read_bytes()


def test_locks_of_dead_writers(cli, image):
    done = cli.back_up()
    (lock,) = (cli.home / "s").glob("chains/*/locks/*.released.json")
    lock.unlink()
    # The holder is dead, and of this host: the next run takes over by itself.
    cli.back_up()
    assert cli.json("storage", "unlock", "s", done["chain"][:6])["released"] is None

    held = lock.with_name("0000000009.json")
    fields = {"host": "elsewhere/0", "boot": "b", "pid": 1, "started": 1, "what": "backup",
              "created": "2026-01-01T00:00:00.000000Z", "number": 9}  # fmt: skip
    held.write_bytes(documents.sealed("ruchu-lock", fields))
    error = cli.fails(9, "chain-busy", "backup", "image", "image", "--storage", "s", "--name", "o")
    assert "elsewhere" in error["message"]
    assert "elsewhere" in cli.json("storage", "unlock", "s", "o")["released"]
    cli.back_up()
    cli.fails(2, "usage", "storage", "unlock", "s", "no such chain")


def test_block_devices(cli, rng):
    with (cli.home / "device.img").open("wb") as file:
        file.write(rng.randbytes(8 * MIB))
        file.truncate(16 * MIB)
    found = subprocess.run(
        ["losetup", "--find", "--show", cli.home / "device.img"], capture_output=True, check=False
    )
    if found.returncode:
        pytest.skip("no loop devices")
    device = found.stdout.decode().strip()
    try:
        done = cli.json("backup", "image", device, "--storage", "s", "--name", "d")
        assert done["bytes_read"] == done["size"] == 16 * MIB
        truth = Path(device).read_bytes()
        Path(device).write_bytes(b"\xff" * 16 * MIB)
        cli.fails(2, "already-exists", "restore", "image", done["point"], device)
        cli.run("restore", "image", done["point"], device, "--overwrite")
        subprocess.run(["blockdev", "--flushbufs", device], check=True)
        assert Path(device).read_bytes() == truth
    finally:
        subprocess.run(["losetup", "--detach", device], check=True)


def test_doctor_and_selftest(cli):
    found = {each["name"]: each for each in cli.json("doctor", "--path", ".")}
    assert {"kvm", "cores", "memory", "clock", "qemu-img", "immutable flag", "numpy"} <= set(found)
    steps = cli.json("selftest", ".")
    assert all(step["ok"] for step in steps)
    assert not [name for name in os.listdir(cli.home) if name.startswith("ruchu-selftest")]
    cli.fails(5, "storage", "selftest", "missing")


def test_names_from_outside_are_never_paths(cli, image):
    name = "../../etc/passwd"
    done = cli.json("backup", "image", "image", "--storage", "s", "--name", name)
    assert cli.json("points", "show", done["point"])["name"] == name
    assert not (cli.home / "etc").exists()
    cli.fails(2, "invalid-name", "backup", "image", "image", "--storage", "s", "--name", "a\nb")
    seed = random.Random(1)
    for _ in range(3):
        odd = "".join(chr(seed.randrange(33, 127)) for _ in range(20))
        cli.json("backup", "image", "image", "--storage", "s", f"--name={odd}")


def test_two_restores_into_one_target(cli, image, rng):
    image.write_bytes(rng.randbytes(100 * MIB))
    point = cli.back_up()["point"]
    runs = [cli.popen("restore", "image", point, "target", "--overwrite") for _ in range(3)]
    statuses = []
    for run in runs:
        _, err = run.communicate(timeout=60)
        assert run.returncode in {0, 2}, err
        statuses.append(run.returncode)
    assert 0 in statuses
    assert (cli.home / "target").read_bytes() == image.read_bytes()
    assert not [name for name in os.listdir(cli.home) if "partial" in name]
