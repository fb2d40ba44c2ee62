"""Instant restores through the command line: a point runs from its storage on real libvirt."""

import hashlib
import os
import signal
from pathlib import Path

import pytest

from ruchu import clock, commands
from ruchu.testing.command_line import CommandLine
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(900)]
# Writes numbered blocks, each with a check of its own, and says how far it came after each fsync.
LOAD = r"""
i=0
while [ ! -e /run/stop ]; do
  i=$((i+1))
  head -c 65536 /dev/urandom > /mnt/vda/load/$i
  sha256sum /mnt/vda/load/$i > /mnt/vda/load/$i.sum
  sync /mnt/vda/load/$i /mnt/vda/load/$i.sum
  echo $i > /run/done
done
"""


@pytest.fixture
def cli(tmp_path, libvirt_uri, place, monkeypatch):
    monkeypatch.setenv("RUCHU_RUNTIME", str(place))
    cli = CommandLine(tmp_path)
    (tmp_path / "passphrase").write_text("correct horse\n")
    cli.run("storage", "add", "s", "s", "--passphrase-file", "passphrase")
    cli.run("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    os.chmod(tmp_path, 0o755)
    yield cli
    for each in cli.json("instant", "list"):
        cli.run("instant", "stop", each["instant"])


@pytest.fixture
def saved(cli, libvirt_uri):
    """Yield a guest with a full, an incremental and a differential point; it is off."""
    with guests.booted(libvirt_uri, [GuestDisk("vda", 192 * MIB)], prefix="ruchu-i") as guest:
        sums, points = {}, {}
        for kind in ("full", "incremental", "differential"):
            sums[kind] = guest.write(f"/mnt/vda/{kind}", 3 * MIB)
            (done,) = cli.json("backup", "vm", guest.name, "--storage", "s", "--kind", kind)
            assert done["ok"], done
            points[kind] = done["point"]
        guest.stop()
        yield guest, points, sums


def storage_hash(cli):
    """Return one hash of all files of the storage, but for leases and locks."""
    digest = hashlib.sha256()
    for path in sorted((cli.home / "s").rglob("*")):
        if path.is_file() and not {"leases", "locks"} & set(path.parts):
            digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()


def start(cli, libvirt_uri, guest, point, *words):
    """Start an instant restore; return its document and the guest, which answers."""
    name = f"{guest.name}-i"
    done = cli.json("instant", "start", point, "--as", name, "--wait", *words)
    machine = guests.existing(libvirt_uri, done["machine"], guest.directory)
    machine.wait_until_ready()
    return done, machine


@pytest.mark.parametrize("protocol", ["nbd", "nfs"])
def test_any_point_boots_from_its_storage(cli, saved, libvirt_uri, protocol, capsys):
    guest, points, sums = saved
    seconds = {}
    for kind in ("full", "incremental", "differential", "merged"):
        if kind == "merged":
            # What the removed point held alone goes over into the next one, which must boot.
            cli.run("points", "delete", points["incremental"], "--yes", "--grace", "0d")
        before = storage_hash(cli)
        known = "differential" if kind == "merged" else kind
        done, machine = start(cli, libvirt_uri, guest, points[known], "--protocol", protocol)
        seconds[kind] = (done["seconds_served"], done["seconds_agent"])
        kinds = list(sums)
        for each in kinds[: kinds.index(known) + 1]:
            assert machine.sha256(f"/mnt/vda/{each}") == sums[each]
        machine.write("/mnt/vda/scribble", 2 * MIB)
        (line,) = cli.json("instant", "list")
        assert line["cache_bytes"] > 2 * MIB
        assert (line["state"], line["export"]) == ("running", "running")
        cli.run("instant", "stop", done["instant"])
        assert storage_hash(cli) == before
    assert cli.json("instant", "list") == []
    with capsys.disabled():
        print(f"\n{protocol}: seconds until served, until the agent answers: {seconds}")  # noqa: T201


def test_several_run_at_once_isolated_and_changed(cli, saved, libvirt_uri):
    guest, points, sums = saved
    started = [
        cli.json("instant", "start", points[kind], "--as", f"{guest.name}-{kind}", "--isolated",
                 "--vcpus", 2, "--memory", "192MiB", "--mac", "new")
        for kind in ("full", "incremental")
    ]  # fmt: skip
    for done, kind in zip(started, ("full", "incremental"), strict=True):
        machine = guests.existing(libvirt_uri, done["machine"], guest.directory)
        machine.wait_until_ready()
        assert machine.sha256(f"/mnt/vda/{kind}") == sums[kind]
        assert machine.run("grep -c ^processor /proc/cpuinfo").strip() == "2"
        assert machine.run("cat /sys/class/net/eth0/carrier || echo 0").strip() == "0"
    assert len(cli.json("instant", "list")) == 2
    cli.fails(3, "not-found", "instant", "stop", "nothing")
    cli.fails(2, "already-exists", "instant", "start", points["full"], "--as", guest.name)
    cli.fails(3, "not-found", "instant", "start", points["full"], "--as", "x", "--disk", "vdx")
    assert len(cli.json("instant", "list")) == 2, "what could not be started left something"


def test_a_killed_export_is_resumed_and_nothing_is_lost(cli, saved, libvirt_uri):
    guest, points, sums = saved
    done, machine = start(cli, libvirt_uri, guest, points["full"])
    written = machine.write("/mnt/vda/written", 4 * MIB)
    kill_exports(done["instant"])
    assert cli.json("instant", "list")[0]["export"] == "stopped"
    machine.agent("guest-exec", {"path": "/bin/sh", "arg": ["-c", "sync; cat /mnt/vda/*"]})
    # It is held, and sees no error.
    wait_for(lambda: state(cli, machine) == "paused")
    (resumed,) = cli.json("instant", "resume")
    assert resumed["resumed"] in (["export", "machine resumed"], ["export", "machine restarted"])
    machine.wait_until_ready()
    assert machine.sha256("/mnt/vda/written") == written
    assert machine.sha256("/mnt/vda/full") == sums["full"]
    kill_exports(done["instant"])
    with machine.connect() as connection:
        connection.lookupByUUIDString(machine.uuid).destroy()
    (resumed,) = cli.json("instant", "resume", machine.name)
    assert resumed["resumed"] == ["export", "machine started"]
    machine.wait_until_ready()
    assert machine.sha256("/mnt/vda/written") == written
    assert cli.json("instant", "resume")[0]["resumed"] == []


def test_what_was_written_is_kept_as_a_new_point(cli, saved, libvirt_uri):
    guest, points, sums = saved
    done, machine = start(cli, libvirt_uri, guest, points["incremental"])
    written = machine.write("/mnt/vda/written", 4 * MIB)
    kept = cli.json("instant", "stop", done["name"], "--keep")["kept"]
    assert cli.json("storage", "verify", "s", "--full")["clean"]
    listed = {point["point"]: point for point in cli.json("points", "list")}
    assert listed[kept]["parent"] == points["incremental"]
    _, machine = start(cli, libvirt_uri, guest, kept)
    assert machine.sha256("/mnt/vda/written") == written
    assert machine.sha256("/mnt/vda/incremental") == sums["incremental"]


@pytest.mark.parametrize("method", ["hypervisor", "own"])
@pytest.mark.parametrize("protocol", ["nbd", "nfs"])
def test_a_busy_machine_moves_to_production(cli, saved, libvirt_uri, method, protocol, capsys):
    guest, points, sums = saved
    done, machine = start(cli, libvirt_uri, guest, points["differential"], "--protocol", protocol)
    machine.run("mkdir -p /mnt/vda/load")
    machine.agent("guest-exec", {"path": "/bin/sh", "arg": ["-c", LOAD]})
    wait_for(lambda: blocks(machine) > 20)
    images = cli.home / "production"
    moved = cli.json("instant", "migrate", done["name"], "--method", method, "--directory", images)
    after = blocks(machine)
    assert not exports(done["instant"]), "nothing serves it any more"
    assert cli.json("instant", "list") == []
    wait_for(lambda: blocks(machine) > after)
    machine.run("touch /run/stop")
    count = blocks(machine)
    # Every block that the guest was told is on the disk is there, with the content it had.
    machine.run("echo 3 > /proc/sys/vm/drop_caches")
    machine.run(
        f"cd / && for i in $(seq {count}); do cat /mnt/vda/load/$i.sum; done | sha256sum -c"
    )
    for kind, digest in sums.items():
        assert machine.sha256(f"/mnt/vda/{kind}") == digest
    machine.stop()
    image = next(images.iterdir())
    check(image)
    machine.start()
    machine.run(
        f"cd / && for i in $(seq {count}); do cat /mnt/vda/load/$i.sum; done | sha256sum -c"
    )
    guests.remove(libvirt_uri, machine.uuid)
    with capsys.disabled():
        told = {key: moved[key] for key in ("pause_s", "seconds", "rounds", "bytes")}
        print(f"\n{method} over {protocol}, {count} blocks written: {told}")  # noqa: T201


def state(cli, machine):
    return {each["id"]: each["state"] for each in cli.json("inventory")}[machine.uuid]


def blocks(machine):
    return int(machine.run("cat /run/done 2>/dev/null || echo 0"))


def wait_for(condition, limit_s=120):
    deadline = clock.SYSTEM.monotonic() + limit_s
    while not condition():
        assert clock.SYSTEM.monotonic() < deadline
        clock.SYSTEM.sleep(0.1)


def exports(instant):
    """Return the process ids of the exports of an instant restore."""
    found = []
    for process in Path("/proc").iterdir():
        if process.name.isdigit():
            try:
                words = (process / "cmdline").read_bytes().split(b"\0")
            except OSError:
                continue
            if b"export" in words and any(instant[:16].encode() in word for word in words):
                found.append(int(process.name))
    return found


def kill_exports(instant):
    found = exports(instant)
    assert found
    for process in found:
        os.kill(process, signal.SIGKILL)
    wait_for(lambda: not exports(instant))


def check(image):
    if image.suffix == ".qcow2":
        commands.run(["qemu-img", "check", str(image)], timeout_s=60)
