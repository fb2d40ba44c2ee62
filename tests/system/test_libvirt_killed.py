"""A process of ours is killed in the middle; the next run finds and removes what it left."""

import contextlib
import os
import signal
import sys

import pytest

from ruchu import commands
from ruchu.clock import SYSTEM
from ruchu.errors import NotFound
from ruchu.model.machines import Placement, PowerState
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt import checkpoints
from ruchu.testing import truth
from ruchu.testing.guests.guest import GuestDisk, booted
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]

OPEN = """
import sys, threading
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt.driver import LibvirtPlatform
uri, place, machine, owner = sys.argv[1:]
platform = LibvirtPlatform(uri, scratch_directory=place, socket_directory=place)
with platform.open_points([OpenRequest(machine, owner)], "serial") as (point,):
    print("ready" if hasattr(point, "disks") else repr(point), flush=True)
    threading.Event().wait()
"""
FREEZE = """
import sys, threading
from ruchu.clock import SYSTEM
from ruchu.platforms.libvirt.client import Client
from ruchu.platforms.libvirt.quiesce import Quiesce
uri, place, machine, owner = sys.argv[1:]
client = Client(uri)
Quiesce(client.domain(machine), owner, SYSTEM, 600).freeze(required=True)
print("ready", flush=True)
threading.Event().wait()
"""
RESTORE = """
import sys, threading
from ruchu.model.machines import Placement
from ruchu.platforms.libvirt.driver import LibvirtPlatform
uri, place, machine, owner = sys.argv[1:]
platform = LibvirtPlatform(uri, scratch_directory=place, socket_directory=place)
placement = Placement(name="ruchu-test-" + owner, directory=place + "/images")
with platform.restore(platform.describe(machine), placement) as session:
    session.sinks[0].write(0, memoryview(b"x" * 65536))
    print("ready", flush=True)
    threading.Event().wait()
"""


@pytest.fixture(scope="module")
def guest(libvirt_uri):
    with booted(libvirt_uri, [GuestDisk("vda", size=64 * MIB)]) as guest:
        yield guest


def kill_in(script, *args):
    with commands.start([sys.executable, "-c", script, *map(str, args)]) as process:
        deadline = SYSTEM.monotonic() + 60
        while process.said() != "ready":
            assert process.status() is None, process.said()
            assert SYSTEM.monotonic() < deadline, process.said()
            SYSTEM.sleep(0.05)
        os.kill(process.pid, signal.SIGKILL)
        process.wait(10)


def backup_runs(guest):
    with guest.connect() as connection, contextlib.suppress(Exception):
        return bool(connection.lookupByUUIDString(guest.uuid).backupGetXMLDesc(0))
    return False


def test_while_a_running_machine_is_read(platform, libvirt_uri, guest, owner, place, tmp_path):
    kill_in(OPEN, libvirt_uri, place, guest.uuid, owner)
    assert backup_runs(guest)
    assert os.listdir(place)
    # Nobody calls reconcile: the next run does it by itself, before it freezes anything.
    with platform.open_points([OpenRequest(guest.uuid, owner)], "serial") as (point,):
        truth.save(point.disks[0], tmp_path / "vda")
        assert truth.same(tmp_path / "vda", point.disks[0].uri)
    with guest.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        assert checkpoints.ours(domain, owner) == []
    assert platform.reconcile(guest.uuid, owner) == []


def test_while_the_guest_is_frozen(platform, libvirt_uri, guest, owner, place):
    kill_in(FREEZE, libvirt_uri, place, guest.uuid, owner)
    assert guest.agent("guest-fsfreeze-status") == "frozen"
    with platform.open_points([OpenRequest(guest.uuid, owner)], "serial") as (point,):
        assert point.degraded == ()
    assert guest.agent("guest-fsfreeze-status") == "thawed"


def test_while_a_machine_that_is_off_is_read(platform, libvirt_uri, guest, owner, place):
    platform.power(guest.uuid, PowerState.OFF)
    try:
        kill_in(OPEN, libvirt_uri, place, guest.uuid, owner)
        with platform.open_points([OpenRequest(guest.uuid, owner)], "serial") as (point,):
            point.disks[0].read_into(0, memoryview(bytearray(4096)))
    finally:
        guest.start()


def test_while_a_machine_is_restored(platform, libvirt_uri, guest, owner, place):
    images = place / "images"
    kill_in(RESTORE, libvirt_uri, place, guest.uuid, owner)
    (partial,) = images.iterdir()
    with pytest.raises(NotFound):
        platform.describe(f"ruchu-test-{owner}")
    # Its qemu-nbd ends when its client is gone; its files are removed when they are old.
    old = SYSTEM.now().timestamp() - 2 * 3600
    os.utime(partial, (old, old))
    placement = Placement(name=f"ruchu-test-{owner}", directory=str(images))
    spec = platform.describe(guest.uuid)
    with platform.restore(spec, placement):
        assert not partial.exists()
    assert list(images.iterdir()) == []
    images.rmdir()
