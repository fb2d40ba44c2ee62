"""Machines that are off, and guests without an agent."""

import os
import signal
from pathlib import Path

import libvirt
import pytest

from ruchu.clock import SYSTEM
from ruchu.errors import CommandFailed, GuestAgentError, SourceBusy
from ruchu.model.sources import Consistency
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt import checkpoints, images, naming
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


def test_off_after_it_ran(platform, libvirt_uri, owner, tmp_path):
    """Bitmaps that QEMU stored are used; damaged ones are not; then it runs again."""
    disks = [GuestDisk("vda"), GuestDisk("vdb", format="raw", size=32 * MIB)]
    with booted(libvirt_uri, disks) as guest:
        guest.write("/mnt/vda/first", 9 * MIB)
        with take(platform, guest, owner) as (point,):
            truth.save(disk_of(point, "vda"), tmp_path / "vda.raw")
            platform.keep_reference(point)
            first = point.change_ref
        guest.write("/mnt/vda/second", 2 * MIB)
        # A second checkpoint after the base, of a point that nobody needs any more.
        with take(platform, guest, owner, base=first, keep=(first.name,)) as (point,):
            platform.keep_reference(point)
            second = point.change_ref
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
        with take(platform, guest, owner, base=second, keep=(second.name,)) as (point,):
            assert point.consistency is Consistency.FILESYSTEM
            vda = disk_of(point, "vda")
            truth.apply_extents(vda, vda.changed(), tmp_path / "vda.raw")
            assert truth.same(tmp_path / "vda.raw", vda.uri)
            platform.keep_reference(point)
            third = point.change_ref

        # QEMU dies without storing its bitmaps: they must not be believed, off or on.
        os.kill(int(Path(f"/run/libvirt/qemu/{guest.name}.pid").read_text()), signal.SIGKILL)
        with guest.connect() as connection:
            domain = connection.lookupByUUIDString(guest.uuid)
            deadline = SYSTEM.monotonic() + 20
            while domain.isActive() and SYSTEM.monotonic() < deadline:
                SYSTEM.sleep(0.05)
        with take(platform, guest, owner, base=second, keep=(second.name,)) as (point,):
            assert ("bitmap-broken", "vda") in codes(point)
            assert disk_of(point, "vda").changed() is None
            assert point.change_ref is None
        guest.start()
        with take(platform, guest, owner, base=third) as (point,):
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
        LocalHost().run(
            ["qemu-nbd", "--fork", "--persistent", "--read-only", f"--socket={mark}.sock"]
            + [f"--pid-file={mark}.pid", "-f", "qcow2", str(guest.disks["vda"])]
        )
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
