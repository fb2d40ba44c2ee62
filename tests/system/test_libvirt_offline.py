"""Machines that are off, and guests without an agent."""

import os
import signal
from pathlib import Path

import libvirt
import pytest

from ruchu.clock import SYSTEM
from ruchu.errors import CommandFailed, GuestAgentError, PlatformError, SourceBusy
from ruchu.model.machines import PowerState
from ruchu.model.sources import Consistency
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt import checkpoints, images, naming
from ruchu.platforms.libvirt.driver import LibvirtPlatform
from ruchu.platforms.libvirt.hosts import LocalHost
from ruchu.testing import truth
from ruchu.testing.guests.guest import GuestDisk, booted, defined
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]


def take(platform, guest, owner, **more):
    return platform.open_points([OpenRequest(guest.uuid, owner, **more)], "serial")


def disk_of(point, key):
    return next(disk for disk in point.disks if disk.key == key)


def codes(point):
    return {(reason.code, reason.disk) for reason in point.degraded}


@pytest.fixture
def guest(libvirt_uri):
    disks = [GuestDisk("vda"), GuestDisk("vdb", format="raw", size=32 * MIB)]
    with booted(libvirt_uri, disks) as guest:
        guest.write("/mnt/vda/first", 9 * MIB)
        yield guest


@pytest.fixture
def first(platform, guest, owner, tmp_path):
    """Return the reference of a full whose vda is in a file."""
    with take(platform, guest, owner) as (point,):
        truth.save(disk_of(point, "vda"), tmp_path / "vda.raw")
        platform.keep_reference(point)
        return point.change_ref


def advance(platform, guest, owner, base, keep, image=None):
    """Take an increment that is kept; bring the file up to date, if one is given."""
    with take(platform, guest, owner, base=base, keep=(keep.name,)) as (point,):
        if image:
            vda = disk_of(point, "vda")
            truth.apply_extents(vda, vda.changed(), image)
            assert truth.same(image, vda.uri)
        platform.keep_reference(point)
        return point.change_ref


def test_off_after_it_ran(platform, guest, owner, first, tmp_path):
    """The bitmaps that QEMU stored are used, all of them since the base; then it runs again."""
    guest.write("/mnt/vda/second", 2 * MIB)
    second = advance(platform, guest, owner, first, keep=first)
    guest.write("/mnt/vda/third", 1 * MIB)
    guest.stop()
    with take(platform, guest, owner, base=first, keep=(first.name,)) as (point,):
        assert point.consistency is Consistency.OFFLINE
        assert point.frozen_s == 0
        assert codes(point) == {("format-untracked", "vdb")}
        assert point.change_ref == second
        vda = disk_of(point, "vda")
        copied = truth.apply_extents(vda, vda.changed(), tmp_path / "vda.raw")
        assert 3 * MIB <= copied < 9 * MIB
        # A lock keeps the machine from being started while its images are read.
        with guest.connect() as connection, pytest.raises(libvirt.libvirtError, match="lock"):
            connection.lookupByUUIDString(guest.uuid).create()
        platform.keep_reference(point)
    assert truth.same(tmp_path / "vda.raw", guest.disks["vda"], "qcow2")
    guest.start()
    guest.write("/mnt/vda/fourth", 1 * MIB)
    advance(platform, guest, owner, second, keep=second, image=tmp_path / "vda.raw")


def kill_qemu(guest):
    os.kill(int(Path(f"/run/libvirt/qemu/{guest.name}.pid").read_text()), signal.SIGKILL)
    with guest.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        deadline = SYSTEM.monotonic() + 20
        while domain.isActive() and SYSTEM.monotonic() < deadline:
            SYSTEM.sleep(0.05)


def test_bitmaps_of_a_qemu_that_died_are_not_believed(platform, guest, owner, first, tmp_path):
    # The bitmap is in the image, marked as in use, only after a first orderly end.
    guest.stop()
    guest.start()
    guest.write("/mnt/vda/second", 2 * MIB)
    second = advance(platform, guest, owner, first, keep=first)
    kill_qemu(guest)
    with take(platform, guest, owner, base=first, keep=(first.name,)) as (point,):
        assert ("bitmap-broken", "vda") in codes(point)
        assert disk_of(point, "vda").changed() is None
        assert point.change_ref is None
    guest.start()
    with take(platform, guest, owner, base=second) as (point,):
        assert ("bitmap-lost", "vda") in codes(point)
        truth.save(disk_of(point, "vda"), tmp_path / "again.raw")
        assert truth.same(tmp_path / "again.raw", disk_of(point, "vda").uri)
        platform.keep_reference(point)
        newest = point.change_ref.name
    with guest.connect() as connection:
        domain = connection.lookupByUUIDString(guest.uuid)
        assert checkpoints.ours(domain, owner) == [newest]


def test_never_started(platform, libvirt_uri, owner, tmp_path):
    with defined(libvirt_uri, [GuestDisk("vda"), GuestDisk("vdb", format="raw")]) as guest:
        with take(platform, guest, owner, require_quiesce=True) as (point,):
            assert point.consistency is Consistency.OFFLINE
            assert point.change_ref is None
            for disk in point.disks:
                truth.save(disk, tmp_path / f"{disk.key}.raw")
        assert truth.same(tmp_path / "vda.raw", guest.disks["vda"], "qcow2")
        assert truth.same(tmp_path / "vdb.raw", guest.disks["vdb"], "raw")


def test_an_image_over_a_backing_chain(platform, libvirt_uri, owner, tmp_path):
    with defined(libvirt_uri) as guest:
        path = guest.disks["vda"]
        below = path.with_suffix(".below.qcow2")
        path.rename(below)
        create = ["qemu-img", "create", "-q", "-f", "qcow2", "-F", "qcow2", "-b", str(below)]
        LocalHost().run([*create, str(path)])
        LocalHost().run(["qemu-io", "-f", "qcow2", "-c", "write -P 7 1M 2M", str(path)])
        with take(platform, guest, owner) as (point,):
            truth.save(point.disks[0], tmp_path / "vda.raw")
        assert truth.same(tmp_path / "vda.raw", path, "qcow2")


def test_an_image_that_somebody_writes(platform, libvirt_uri, owner, place):
    with defined(libvirt_uri) as guest:
        opening = images.Opening(str(guest.disks["vda"]), "qcow2", writable=True)
        mark = f"{place}/{naming.mark('other', guest.uuid)}"
        with (
            images.served(LocalHost(), SYSTEM, opening, mark),
            take(platform, guest, owner) as (point,),
        ):
            assert isinstance(point, SourceBusy)


def test_servers_that_a_dead_run_left_are_ended(platform, libvirt_uri, owner, place):
    with defined(libvirt_uri) as guest:
        mark = f"{place}/{naming.mark(owner, guest.uuid)}"
        args = ["qemu-nbd", "--fork", "--persistent", "--read-only", f"--socket={mark}.sock"]
        args += [f"--pid-file={mark}.pid", "-f", "qcow2", str(guest.disks["vda"])]
        LocalHost().run(args)
        (place / f"{naming.mark(owner, guest.uuid)}.vda.scratch").write_text("")
        others = place / f"{naming.mark('other', guest.uuid)}.vda.scratch"
        others.write_text("")
        done = platform.reconcile(guest.uuid, owner)
        assert any("stale qemu-nbd" in line for line in done)
        assert platform.reconcile(guest.uuid, owner) == []
        others.unlink()


def test_a_pid_file_that_names_another_process(platform, libvirt_uri, owner, place):
    with defined(libvirt_uri) as guest:
        pid_file = place / f"{naming.mark(owner, guest.uuid)}.pid"
        pid_file.write_text(f"{os.getpid()}\n")
        assert platform.reconcile(guest.uuid, owner) == [f"removed {pid_file}"]


def test_a_guest_without_an_agent(platform, libvirt_uri, owner, tmp_path):
    with booted(libvirt_uri, agent=False) as guest:
        with take(platform, guest, owner) as (point,):
            assert point.consistency is Consistency.CRASH
            assert codes(point) == {("agent-missing", "")}
            truth.save(point.disks[0], tmp_path / "vda.raw")
            assert truth.same(tmp_path / "vda.raw", point.disks[0].uri)
        with take(platform, guest, owner, require_quiesce=True) as (point,):
            assert isinstance(point, GuestAgentError)


def test_an_image_that_is_not_there(platform, libvirt_uri, owner):
    with defined(libvirt_uri) as guest:
        guest.disks["vda"].unlink()
        with take(platform, guest, owner) as (point,):
            assert isinstance(point, Exception)
        (line,) = [line for line in platform.inventory() if line.id == guest.uuid]
        assert line.tags == ("unreadable:vda",)
        with pytest.raises(CommandFailed):
            images.information(LocalHost(), str(guest.disks["vda"]), "qcow2")


def test_bitmaps_over_a_backing_chain(platform, guest, owner, first, tmp_path):
    """An external snapshot after the base: QEMU merges what is in both layers, we do not."""
    above = guest.directory / "above.qcow2"
    with guest.connect() as connection:
        flags = libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_DISK_ONLY
        flags |= libvirt.VIR_DOMAIN_SNAPSHOT_CREATE_NO_METADATA
        connection.lookupByUUIDString(guest.uuid).snapshotCreateXML(
            f"<domainsnapshot><disks><disk name='vda'><source file='{above}'/></disk>"
            "<disk name='vdb' snapshot='no'/></disks></domainsnapshot>",
            flags,
        )
    guest.write("/mnt/vda/second", 2 * MIB)
    advance(platform, guest, owner, first, keep=first, image=tmp_path / "vda.raw")
    guest.write("/mnt/vda/third", 1 * MIB)
    guest.stop()
    with take(platform, guest, owner, base=first, keep=(first.name,)) as (point,):
        assert ("machine-off", "vda") in codes(point)
        vda = disk_of(point, "vda")
        assert vda.changed() is None
        truth.save(vda, tmp_path / "again.raw")
    assert truth.same(tmp_path / "again.raw", above, "qcow2")


def test_a_saved_machine(platform, guest, owner):
    with guest.connect() as connection:
        connection.lookupByUUIDString(guest.uuid).managedSave(0)
    with take(platform, guest, owner, disks=("vda",)) as (point,):
        assert point.consistency is Consistency.CRASH
        assert codes(point) == {("machine-saved", "")}


def test_a_guest_that_ignores_a_shutdown_is_switched_off(libvirt_uri, place):
    with (
        booted(libvirt_uri, [GuestDisk("vda", size=16 * MIB)], agent=False) as guest,
        LibvirtPlatform(
            libvirt_uri,
            scratch_directory=str(place),
            socket_directory=str(place),
            shutdown_limit_s=0.5,
        ) as platform,
    ):
        platform.power(guest.uuid, PowerState.OFF)
        assert {line.state for line in platform.inventory() if line.id == guest.uuid} == {
            PowerState.OFF
        }


def test_images_are_made_with_care(tmp_path):
    host, path = LocalHost(), str(tmp_path / "image")
    with pytest.raises(PlatformError):
        images.create(host, path, "vmdk", MIB)
    images.create(host, path, "qcow2", MIB)
    assert (tmp_path / "image").stat().st_mode & 0o777 == 0o600
    with pytest.raises(PlatformError):
        images.create(host, path, "qcow2", MIB)
    info = images.information(host, path, "qcow2")
    assert (info.size, info.format, info.backing, info.bitmaps) == (MIB, "qcow2", "", {})
    with (
        pytest.raises(CommandFailed),
        images.served(host, SYSTEM, images.Opening("/none", "raw"), str(tmp_path / "m")),
    ):
        pass
    with pytest.raises(PlatformError, match="too long"):
        images.check_socket("/" + "x" * 200)
