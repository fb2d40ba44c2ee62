"""`ruchu instant migrate` killed at random moments: what the guest was told is on disk is there."""

import contextlib
import os
import random
import signal
from pathlib import Path

import pytest

from ruchu import clock
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
KILLS = 3


@pytest.fixture
def cli(tmp_path, libvirt_uri, place, monkeypatch):
    monkeypatch.setenv("RUCHU_RUNTIME", str(place / "run"))
    cli = CommandLine(tmp_path)
    cli.run("storage", "add", "s", "s", "--no-encryption")
    cli.run("platform", "add", "kvm", libvirt_uri, "--scratch", place)
    os.chmod(tmp_path, 0o755)
    yield cli
    for each in cli.json("instant", "list"):
        cli.run("instant", "stop", each["instant"])
    with contextlib.suppress(OSError):
        (place / "run").rmdir()


@pytest.mark.parametrize("method", ["own", "hypervisor"])
def test_a_killed_migration_is_ended_and_nothing_is_lost(cli, libvirt_uri, method, seed, place):
    draw = random.Random(f"{seed} {method}")
    with guests.booted(libvirt_uri, [GuestDisk("vda", 192 * MIB)], prefix="ruchu-k") as guest:
        digest = guest.write("/mnt/vda/full", 24 * MIB)
        (saved,) = cli.json("backup", "vm", guest.name, "--storage", "s", "--kind", "full")
        guest.stop()
        name = f"{guest.name}-i"
        done = cli.json("instant", "start", saved["point"], "--as", name, "--wait")
        machine = guests.existing(libvirt_uri, done["machine"], guest.directory)
        try:
            machine.wait_until_ready()
            begin_load(machine)
            images = cli.home / "production"
            words = ("instant", "migrate", name, "--method", method, "--directory", images)
            for number in range(KILLS):
                kill_at_random(cli, words, draw)
                if number == 0 and cli.json("instant", "list"):
                    cli.run("instant", "resume", name)
            if cli.json("instant", "list"):
                cli.run(*words)
            assert cli.json("instant", "list") == []
            # Killed within the switch, it may have been started anew.
            machine.wait_until_ready()
            check(machine, digest)
            machine.stop()
            machine.start()
            check(machine, digest, again=True)
            assert [each.name for each in images.iterdir()] == [f"{name}-vda.qcow2"]
            assert not [each for each in place.iterdir() if each.name != "run"]
        finally:
            guests.remove(libvirt_uri, machine.uuid)


def begin_load(machine):
    """Let a machine write, and wait until two blocks are on its disk: a power cut keeps those."""
    machine.run("mkdir -p /mnt/vda/load")
    machine.agent("guest-exec", {"path": "/bin/sh", "arg": ["-c", LOAD]})
    machine.run("until [ $(cat /run/done || echo 0) -ge 2 ]; do usleep 10000; done")


def kill_at_random(cli, words, draw):
    """Run a command and kill it after a while; it may be faster."""
    process = cli.popen(*words)
    began = clock.SYSTEM.monotonic()
    limit_s = draw.uniform(0.4, 4.0)
    while process.poll() is None and clock.SYSTEM.monotonic() - began < limit_s:
        clock.SYSTEM.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.communicate()


def check(machine, digest, *, again=False):
    """Every block that the guest was told is on the disk is there, with the content it had."""
    if not again:
        machine.run("touch /run/stop")
    assert machine.sha256("/mnt/vda/full") == digest
    count = int(machine.run("cat /run/done 2>/dev/null || ls /mnt/vda/load/*.sum | wc -l"))
    # A restart of the machine within the switch is a power cut: its counter is gone then.
    last = int(machine.run("ls /mnt/vda/load | grep -c sum"))
    assert last >= count - 1 > 0
    machine.run("echo 3 > /proc/sys/vm/drop_caches")
    machine.run(
        f"cd / && for i in $(seq {count - 1}); do cat /mnt/vda/load/$i.sum; done | sha256sum -c"
    )


def test_a_killed_start_and_stop_leave_what_can_be_found(cli, libvirt_uri, seed):
    draw = random.Random(f"{seed} start")
    with guests.booted(libvirt_uri, [GuestDisk("vda", 96 * MIB)], prefix="ruchu-k") as guest:
        (saved,) = cli.json("backup", "vm", guest.name, "--storage", "s", "--kind", "full")
        guest.stop()
        for number in range(3):
            name = f"{guest.name}-{number}"
            kill_at_random(cli, ("instant", "start", saved["point"], "--as", name), draw)
            for each in cli.json("instant", "list"):
                assert each["name"] == name
                cli.fails(9, "point-in-use", "points", "delete", saved["point"], "--yes")
                kill_at_random(cli, ("instant", "stop", each["instant"]), draw)
            for each in cli.json("instant", "list"):
                cli.run("instant", "stop", each["instant"])
            assert name not in {each["name"] for each in cli.json("inventory")}
            assert list(Path(cli.state / "instants").glob("*/instant.json")) == []
