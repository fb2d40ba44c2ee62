"""Restores beside and over, what is changed on the way, and what is left when one is given up."""

import contextlib
import os
import re

import pytest

from ruchu.errors import AlreadyExists, InvalidName, NotFound, PlatformError, SourceBusy
from ruchu.model.machines import Placement, PowerState
from ruchu.platforms.contract import OpenRequest
from ruchu.testing import truth
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk, booted, defined
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]


def back_up(platform, guest, owner, directory):
    """Return the specification; the disks are files in `directory`."""
    with platform.open_points([OpenRequest(guest.uuid, owner)], "serial") as (point,):
        for disk in point.disks:
            truth.save(disk, directory / disk.key)
        return point.spec


def write_back(session, directory):
    for sink in session.sinks:
        truth.load(directory / sink.key, sink)


@pytest.fixture
def target(tmp_path):
    made = tmp_path / "images"
    made.mkdir()
    return made


def test_beside_and_over_a_guest_that_ran(platform, libvirt_uri, owner, tmp_path, target):
    disks = [GuestDisk("vda"), GuestDisk("vdb", format="raw", size=32 * MIB)]
    with booted(libvirt_uri, disks) as guest:
        sums = [guest.write("/mnt/vda/file", 9 * MIB), guest.write("/mnt/vdb/file", 2 * MIB)]
        spec = back_up(platform, guest, owner, tmp_path)
        guest.run("rm /mnt/vda/file && sync")

        placement = Placement(name=f"{guest.name}-new", directory=str(target), start=True)
        with platform.restore(spec, placement) as session:
            assert [sink.key for sink in session.sinks] == ["vda", "vdb"]
            write_back(session, tmp_path)
            identity = session.finish()
        try:
            new = guests.existing(libvirt_uri, identity, guest.directory)
            new.wait_until_ready()
            assert [new.sha256("/mnt/vda/file"), new.sha256("/mnt/vdb/file")] == sums
            described = platform.describe(identity)
            assert described.id != guest.uuid
            assert described.nics[0].mac != spec.nics[0].mac
        finally:
            guests.remove(libvirt_uri, identity)
        assert sorted(os.listdir(target)) == [
            f"{guest.name}-new-vda.qcow2",
            f"{guest.name}-new-vdb.raw",
        ]

        over = Placement(replace=True, start=True)
        with pytest.raises(SourceBusy):
            platform.restore(spec, over)
        platform.power(guest.uuid, PowerState.OFF)
        with platform.restore(spec, over) as session:
            write_back(session, tmp_path)
            assert session.finish() == guest.uuid
        guest.wait_until_ready()
        assert [guest.sha256("/mnt/vda/file"), guest.sha256("/mnt/vdb/file")] == sums
        assert platform.describe(guest.uuid).nics[0].mac == spec.nics[0].mac
        assert not [name for name in os.listdir(guest.directory) if name.startswith(".")]


def test_after_the_machine_is_gone_it_keeps_its_identity(
    platform, libvirt_uri, owner, tmp_path, target
):
    with defined(libvirt_uri) as guest:
        spec = back_up(platform, guest, owner, tmp_path)
        platform.delete(guest.uuid, disks=True)
        assert not guest.disks["vda"].exists()
        with pytest.raises(NotFound):
            platform.describe(guest.uuid)
        with platform.restore(spec, Placement(directory=str(target))) as session:
            write_back(session, tmp_path)
            assert session.finish() == guest.uuid
        again = platform.describe(guest.name)
        assert again.nics == spec.nics
        assert truth.same(tmp_path / "vda", again.disks[0].location, "qcow2")


def test_what_can_be_changed(platform, libvirt_uri, owner, tmp_path, target):
    with defined(libvirt_uri, [GuestDisk("vda"), GuestDisk("vdb")]) as guest:
        spec = back_up(platform, guest, owner, tmp_path)
        placement = Placement(
            name=f"{guest.name}-small",
            directory=str(target),
            vcpus=2,
            memory=200 * MIB,
            disks=("vdb",),
            format="raw",
        )
        with platform.restore(spec, placement) as session:
            write_back(session, tmp_path)
            identity = session.finish()
        try:
            made = platform.describe(identity)
            assert (made.name, made.vcpus, made.memory) == (placement.name, 2, 200 * MIB)
            assert [(disk.key, disk.format) for disk in made.disks] == [("vdb", "raw")]
            assert truth.same(tmp_path / "vdb", made.disks[0].location)
        finally:
            platform.delete(identity, disks=True)
        assert os.listdir(target) == []


def test_one_that_is_given_up_leaves_nothing(platform, libvirt_uri, owner, tmp_path, target):
    with defined(libvirt_uri) as guest:
        spec = back_up(platform, guest, owner, tmp_path)
        placement = Placement(name=f"{guest.name}-new", directory=str(target))
        with contextlib.suppress(KeyboardInterrupt), platform.restore(spec, placement) as session:
            write_back(session, tmp_path)
            assert os.listdir(target)
            raise KeyboardInterrupt
        assert os.listdir(target) == []
        with pytest.raises(NotFound):
            platform.describe(placement.name)
        with platform.restore(spec, Placement(replace=True)) as session:
            write_back(session, tmp_path)
        assert truth.same(tmp_path / "vda", guest.disks["vda"], "qcow2")
        assert sorted(os.listdir(guest.directory)) == [guest.disks["vda"].name]


def test_a_definition_that_is_refused_leaves_the_old_machine(
    platform, libvirt_uri, owner, tmp_path
):
    with defined(libvirt_uri) as guest:
        spec = back_up(platform, guest, owner, tmp_path)
        inode = guest.disks["vda"].stat().st_ino
        # libvirt refuses a machine without memory.
        with platform.restore(spec, Placement(replace=True, memory=0)) as session:
            write_back(session, tmp_path)
            with pytest.raises(PlatformError):
                session.finish()
        assert platform.describe(guest.uuid).memory == spec.memory
        assert guest.disks["vda"].stat().st_ino == inode
        assert os.listdir(guest.directory) == [guest.disks["vda"].name]


def test_what_is_in_the_way_is_not_overwritten(platform, libvirt_uri, owner, tmp_path, target):
    with defined(libvirt_uri) as guest:
        spec = back_up(platform, guest, owner, tmp_path)
        with pytest.raises(AlreadyExists):
            platform.restore(spec, Placement(directory=str(target)))
        name = f"{guest.name}-new"
        precious = target / f"{name}-vda.qcow2"
        precious.write_text("precious")
        with (
            pytest.raises(AlreadyExists),
            platform.restore(spec, Placement(name=name, directory=str(target))),
        ):
            pass
        assert precious.read_text() == "precious"
        # The images of the old machine lie where those of a renamed one would go.
        with pytest.raises(AlreadyExists), platform.restore(spec, Placement(name=name)):
            pass
        assert os.listdir(target) == [precious.name]


def test_names_from_outside_are_no_paths(platform, libvirt_uri, owner, tmp_path, target):
    with defined(libvirt_uri) as guest:
        spec = back_up(platform, guest, owner, tmp_path)
        for name in ("../evil", "a/b", "-rf", ".hidden", "x" * 200, "a\0b"):
            with pytest.raises(InvalidName):
                platform.restore(spec, Placement(name=name, directory=str(target)))
        with pytest.raises(InvalidName):
            platform.restore(spec, Placement(name="fine", directory="relative"))
        with pytest.raises(NotFound):
            platform.restore(spec, Placement(name="fine", disks=("vdz",)))


def test_power_and_inventory(platform, libvirt_uri):
    with booted(libvirt_uri, [GuestDisk("vda", size=32 * MIB)]) as guest:

        def state():
            (line,) = [line for line in platform.inventory() if line.id == guest.uuid]
            assert (line.name, line.disk_count, line.disk_size) == (guest.name, 1, 32 * MIB)
            return line.state

        assert state() is PowerState.RUNNING
        for wanted in (
            PowerState.PAUSED,
            PowerState.RUNNING,
            PowerState.OFF,
            PowerState.OFF,
            PowerState.PAUSED,
            PowerState.RUNNING,
        ):
            platform.power(guest.uuid, wanted)
            assert state() is wanted
        with pytest.raises(SourceBusy):
            platform.delete(guest.uuid, disks=True)
        # Its agent is what shuts it down; a guest that ignores us would be switched off.
        guest.wait_until_ready()
        platform.power(guest.name, PowerState.OFF)
        assert re.match(r"libvirt \d", platform.capabilities().version)


def test_the_variables_of_the_firmware(platform, libvirt_uri, owner, tmp_path, target):
    """A machine that was never started: nothing has to know what is in the files."""
    with defined(libvirt_uri, [GuestDisk("vda", size=16 * MIB)]) as guest:
        code, store = guest.directory / "CODE.fd", guest.directory / "store.fd"
        code.write_bytes(b"code")
        store.write_bytes(b"boot entries")
        spec = platform.describe(guest.uuid)
        loader = f"<loader readonly='yes' type='pflash'>{code}</loader><nvram>{store}</nvram>"
        with guest.connect() as connection:
            connection.defineXML(spec.native.replace("</os>", f"{loader}</os>"))
        spec = back_up(platform, guest, owner, tmp_path)
        assert (spec.firmware, spec.nvram) == ("uefi", b"boot entries")
        store.write_bytes(b"something else")

        beside = Placement(name=f"{guest.name}-new", directory=str(target))
        with platform.restore(spec, beside) as session:
            write_back(session, tmp_path)
            identity = session.finish()
        made = platform.describe(identity)
        assert made.nvram == b"boot entries"
        assert store.read_bytes() == b"something else"
        platform.delete(identity, disks=True)
        assert not (guest.directory / f"{guest.name}-new_VARS.fd").exists()

        with platform.restore(spec, Placement(replace=True)) as session:
            write_back(session, tmp_path)
            session.finish()
        assert store.read_bytes() == b"boot entries"
        assert platform.describe(guest.uuid).nvram == b"boot entries"
