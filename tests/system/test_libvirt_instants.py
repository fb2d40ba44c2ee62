"""Machines that run from served disks, and their ways to own disks, on real libvirt.

The disks are served by qemu-nbd here, so that what fails is the platform's side.
"""

import contextlib
import re
import threading

import pytest

from ruchu import clock, commands
from ruchu.errors import AlreadyExists, Cancelled, InvalidName, NotFound
from ruchu.model.machines import Placement, PowerState, ServedDisk
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk

pytestmark = [pytest.mark.system, pytest.mark.slow, pytest.mark.timeout(600)]
COUNTER = "i=0; while :; do i=$((i+1)); echo $i > /mnt/vda/count; sync /mnt/vda/count; done"


@pytest.fixture
def saved(libvirt_uri, platform):
    """Yield the specification of a guest that is off, its image, and the hash of a file in it."""
    with guests.booted(libvirt_uri, [GuestDisk("vda", 192 << 20, "raw")]) as guest:
        digest = guest.write("/mnt/vda/before", 3 << 20)
        guest.stop()
        yield platform.describe(guest.uuid), guest, digest


@contextlib.contextmanager
def served(image, socket):
    """Serve an image, written to a snapshot that nobody keeps."""
    args = ["qemu-nbd", "-k", str(socket), "-f", "raw", "-t", "-e", "8", "-s", str(image)]
    with commands.start(args) as process:
        while not socket.exists():
            assert process.status() is None, process.said()
            clock.SYSTEM.sleep(0.02)
        yield ServedDisk("vda", "nbd", "", socket=str(socket))
    socket.unlink(missing_ok=True)


@pytest.fixture
def running(saved, platform, libvirt_uri, place):
    """Yield a machine that runs from a served disk, and what ends the server."""
    spec, guest, digest = saved
    stack = contextlib.ExitStack()
    disk = stack.enter_context(served(guest.disks["vda"], place / "s.sock"))
    identity = ""
    try:
        identity = platform.run_from(spec, Placement(name=f"{spec.name}-i", start=True), [disk])
        machine = guests.existing(libvirt_uri, identity, guest.directory)
        machine.wait_until_ready()
        assert machine.sha256("/mnt/vda/before") == digest
        yield machine, stack, digest
    finally:
        if identity:
            guests.remove(libvirt_uri, identity)
        stack.close()


def count(machine):
    return int(machine.run("cat /mnt/vda/count"))


def test_a_machine_runs_from_a_served_disk(running, saved, platform):
    machine, _, _ = running
    spec = saved[0]
    assert machine.uuid != spec.id, "the old machine is still defined"
    assert platform.agent_answers(machine.uuid)
    assert not platform.agent_answers(spec.id)
    found = platform.describe(machine.uuid)
    assert [disk.key for disk in found.disks] == ["vda"]
    assert found.nics[0].mac != spec.nics[0].mac
    with pytest.raises(AlreadyExists):
        platform.run_from(spec, Placement(name=machine.name), [])


def test_an_isolated_machine_has_its_cards_and_no_link(saved, platform, libvirt_uri, place):
    spec, guest, _ = saved
    with served(guest.disks["vda"], place / "s.sock") as disk:
        placement = Placement(
            name=f"{spec.name}-i", isolated=True, vcpus=2, memory=200 << 20, start=True
        )
        identity = platform.run_from(spec, placement, [disk])
        try:
            machine = guests.existing(libvirt_uri, identity, guest.directory)
            machine.wait_until_ready()
            assert machine.run("cat /sys/class/net/eth0/carrier || echo 0").strip() == "0"
            assert machine.run("grep -c ^processor /proc/cpuinfo").strip() == "2"
        finally:
            guests.remove(libvirt_uri, identity)


def test_the_hypervisor_moves_a_running_machine(running, platform, place, libvirt_uri):
    machine, server, digest = running
    machine.agent("guest-exec", {"path": "/bin/sh", "arg": ["-c", COUNTER]})
    seen = []
    directory = place / "new"
    directory.mkdir()
    done = platform.mirror(
        machine.uuid, Placement(directory=str(directory)), lambda *p: seen.append(p), lambda: False
    )
    assert done.size == 192 << 20
    assert seen
    assert seen[-1][0] == seen[-1][1] > 0
    server.close()
    first = count(machine)
    assert machine.sha256("/mnt/vda/before") == digest
    assert count(machine) > first, "the guest goes on writing without the server"
    with machine.connect() as connection:
        assert "network" not in re.findall(
            r"<disk type='(\w+)'", connection.lookupByUUIDString(machine.uuid).XMLDesc(2)
        )
    with pytest.raises(NotFound):
        platform.mirror(machine.uuid, Placement(directory="/x"), lambda *_: None, lambda: False)
    guests.remove(libvirt_uri, machine.uuid)
    check_image(directory / f"{machine.name}-vda.qcow2")
    commands.run(["rm", "-r", str(directory)], timeout_s=10)


def test_a_cancelled_move_leaves_the_machine_where_it_was(running, platform, place):
    machine, _, digest = running
    with pytest.raises(Cancelled):
        platform.mirror(
            machine.uuid, Placement(directory=str(place)), lambda *_: None, lambda: True
        )
    assert sorted(path.name for path in place.iterdir()) == ["s.sock"]
    assert machine.sha256("/mnt/vda/before") == digest
    with pytest.raises(InvalidName):
        platform.mirror(machine.uuid, Placement(directory="../x"), lambda *_: None, lambda: False)


def test_a_landing_switches_a_paused_machine_with_its_memory(
    running, platform, place, saved, libvirt_uri
):
    machine, server, digest = running
    machine.run("echo in memory only > /run/note")
    directory = place / "new"
    placement = Placement(directory=str(directory), format="raw")
    with platform.landing(machine.uuid, placement, "a1b2c3d4") as landing:
        assert not landing.continued
        landing.pause()
        copied = threading.Thread(target=copy, args=(saved[1].disks["vda"], place, landing))
        copied.start()
        copied.join()
        landing.resume()
        landing.pause()
        assert landing.switch()
    server.close()
    machine.wait_until_ready()
    assert machine.run("cat /run/note").strip() == "in memory only"
    assert machine.sha256("/mnt/vda/before") == digest
    machine.write("/mnt/vda/after", 1 << 20)
    platform.power(machine.uuid, PowerState.OFF)
    platform.power(machine.uuid, PowerState.RUNNING)
    machine.wait_until_ready()
    assert machine.sha256("/mnt/vda/before") == digest
    guests.remove(libvirt_uri, machine.uuid)
    check_image(directory / f"{machine.name}-vda.raw")
    commands.run(["rm", "-r", str(directory)], timeout_s=10)


def test_a_landing_that_was_left_is_found_again(running, platform, place):
    machine, _, _ = running
    placement = Placement(directory=str(place / "new"))
    with platform.landing(machine.uuid, placement, "a1b2c3d4") as landing:
        landing.sinks[0].write(4096, memoryview(b"x" * 4096))
        landing.sinks[0].flush()
    with platform.landing(machine.uuid, placement, "a1b2c3d4") as landing:
        assert landing.continued
        landing.abandon()
    with platform.landing(machine.uuid, placement, "ffffffff") as landing:
        assert not landing.continued
        landing.abandon()
    assert not list((place / "new").iterdir())
    (place / "new").rmdir()


def copy(image, place, landing):
    """Write what the paused machine sees to the new disk; its changes are in the server only."""
    from ruchu.blocks import nbd  # noqa: PLC0415

    with nbd.NbdDisk(nbd.Address(path=str(place / "s.sock"))) as source:
        buffer = memoryview(bytearray(1 << 20))
        for start in range(0, source.size, len(buffer)):
            source.read_into(start, buffer)
            landing.sinks[0].write(start, buffer)


def check_image(path):
    image_format = path.suffix[1:]
    if image_format == "qcow2":
        commands.run(["qemu-img", "check", "-f", image_format, str(path)], timeout_s=60)
    assert path.stat().st_size
