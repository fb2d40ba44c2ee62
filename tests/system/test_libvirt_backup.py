"""Running machines: full, incremental, differential, and each way a disk loses its increment."""

import contextlib
import json

import libvirt
import libvirt_qemu
import pytest

from ruchu.errors import GuestAgentError, NotFound, SourceBusy
from ruchu.model.extents import total
from ruchu.model.sources import ChangeRef, Consistency
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt import checkpoints, naming
from ruchu.platforms.libvirt.driver import LibvirtPlatform
from ruchu.testing import truth
from ruchu.testing.guests.guest import Guest, GuestDisk, booted, disk_xml, make_image
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def guest(libvirt_uri):
    disks = [GuestDisk("vda"), GuestDisk("vdb", format="raw", size=64 * MIB), GuestDisk("vdc")]
    with booted(libvirt_uri, disks) as guest:
        yield guest


@contextlib.contextmanager
def domain_of(guest: Guest):
    with guest.connect() as connection:
        yield connection.lookupByUUIDString(guest.uuid)


def names(guest: Guest, owner: str) -> list[str]:
    with domain_of(guest) as domain:
        return checkpoints.ours(domain, owner)


@contextlib.contextmanager
def opened(platform, guest, owner, **more):
    with platform.open_points([OpenRequest(guest.uuid, owner, **more)], "serial") as (point,):
        if isinstance(point, BaseException):
            raise point
        yield point


def disk_of(point, key):
    return next(disk for disk in point.disks if disk.key == key)


def codes(point):
    return {(reason.code, reason.disk) for reason in point.degraded}


def take_full(platform, guest, owner, directory, **more) -> ChangeRef:
    """Take a full that is kept; its disks are files in `directory`."""
    with opened(platform, guest, owner, **more) as point:
        for disk in point.disks:
            truth.save(disk, directory / f"{disk.key}.raw")
            assert truth.same(directory / f"{disk.key}.raw", disk.uri)
        platform.keep_reference(point)
        return point.change_ref


def test_full_incremental_and_differential_equal_the_truth(platform, guest, owner, tmp_path):
    guest.write("/mnt/vda/first", 9 * MIB)
    guest.write("/mnt/vdc/first", 1 * MIB)
    first = take_full(platform, guest, owner, tmp_path)
    assert first.disks == ("vda", "vdc")

    guest.write("/mnt/vda/second", 3 * MIB)
    keep = (first.name,)
    with opened(platform, guest, owner, base=first, keep=keep) as point:
        assert codes(point) == {("format-untracked", "vdb")}
        assert point.consistency is Consistency.FILESYSTEM
        assert 0 < point.frozen_s < 10
        vda = disk_of(point, "vda")
        copied = truth.apply_extents(vda, vda.changed(), tmp_path / "vda.raw")
        assert 3 * MIB <= copied < 9 * MIB
        assert truth.same(tmp_path / "vda.raw", vda.uri)
        assert total(disk_of(point, "vdc").changed()) < 1 * MIB
        assert disk_of(point, "vdb").changed() is None
        platform.keep_reference(point)
        second = point.change_ref
    assert names(guest, owner) == [first.name, second.name]

    guest.run("rm /mnt/vda/first && sync")
    guest.write("/mnt/vda/third", 1 * MIB)
    with opened(platform, guest, owner, base=first, keep=keep) as point:
        vda = disk_of(point, "vda")
        differential = tmp_path / "differential.raw"
        truth.save(vda, differential)
        assert truth.apply_extents(vda, vda.changed(), tmp_path / "vda.raw") > 4 * MIB
        assert truth.same(tmp_path / "vda.raw", vda.uri)
        platform.keep_reference(point)
        third = point.change_ref
    # The incremental in between is in nobody's `keep`: its bitmaps must not pile up.
    assert names(guest, owner) == [first.name, third.name]


def test_reads_are_of_one_moment_while_the_guest_writes(platform, guest, owner, tmp_path):
    with opened(platform, guest, owner, disks=("vda",)) as point:
        truth.save(point.disks[0], tmp_path / "before.raw")
        guest.write("/mnt/vda/meanwhile", 8 * MIB)
        assert truth.same(tmp_path / "before.raw", point.disks[0].uri)


def test_a_point_that_is_not_kept_leaves_nothing(platform, guest, owner):
    with opened(platform, guest, owner) as point:
        assert names(guest, owner) == [point.change_ref.name]
    assert names(guest, owner) == []


def test_an_error_in_the_body_leaves_nothing(platform, guest, owner):
    with pytest.raises(KeyboardInterrupt), opened(platform, guest, owner):
        raise KeyboardInterrupt
    assert names(guest, owner) == []
    assert guest.agent("guest-fsfreeze-status") == "thawed"


def test_chosen_disks_only(platform, guest, owner):
    with opened(platform, guest, owner, disks=("vdc",)) as point:
        assert [disk.key for disk in point.disks] == ["vdc"]
        assert point.change_ref.disks == ("vdc",)
        assert [disk.key for disk in point.spec.disks] == ["vda", "vdb", "vdc"]
    with pytest.raises(NotFound), opened(platform, guest, owner, disks=("vdz",)):
        pass


def test_a_disk_that_the_base_does_not_cover_is_read_in_full(platform, guest, owner, tmp_path):
    base = take_full(platform, guest, owner, tmp_path, disks=("vda",))
    with opened(platform, guest, owner, base=base, disks=("vda", "vdc")) as point:
        assert codes(point) == {("disk-new", "vdc")}
        assert disk_of(point, "vda").changed() is not None
        assert disk_of(point, "vdc").changed() is None


def test_a_base_that_is_gone(platform, guest, owner):
    with opened(platform, guest, owner, base=ChangeRef("ruchu-gone"), disks=("vda",)) as point:
        assert codes(point) == {("no-reference", "vda")}
        assert point.disks[0].changed() is None


def remove_bitmap(guest, key, bitmap):
    with domain_of(guest) as domain:
        query = {"execute": "query-named-block-nodes", "arguments": {"flat": True}}
        nodes = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps(query), 0))
        node = next(
            node["node-name"]
            for node in nodes["return"]
            if node["drv"] == "qcow2" and str(guest.disks[key]) in node["file"]
        )
        remove = {
            "execute": "block-dirty-bitmap-remove",
            "arguments": {"node": node, "name": bitmap},
        }
        answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps(remove), 0)
        assert "error" not in json.loads(answer)


def test_a_lost_bitmap_costs_only_its_disk(platform, guest, owner, tmp_path):
    base = take_full(platform, guest, owner, tmp_path)
    guest.write("/mnt/vda/more", 2 * MIB)
    remove_bitmap(guest, "vdc", base.name)
    with opened(platform, guest, owner, base=base) as point:
        assert codes(point) == {("format-untracked", "vdb"), ("bitmap-lost", "vdc")}
        assert disk_of(point, "vdc").changed() is None
        vda = disk_of(point, "vda")
        truth.apply_extents(vda, vda.changed(), tmp_path / "vda.raw")
        assert truth.same(tmp_path / "vda.raw", vda.uri)
        platform.keep_reference(point)
        newest = point.change_ref.name
    # The damaged checkpoint is removed as well, and with it its bitmap on the other disk.
    assert names(guest, owner) == [newest]


def test_a_resized_disk_is_read_in_full(platform, guest, owner, tmp_path):
    base = take_full(platform, guest, owner, tmp_path)
    with domain_of(guest) as domain:
        size = domain.blockInfo("vdc")[0] + 16 * MIB
        domain.blockResize("vdc", size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    with opened(platform, guest, owner, base=base) as point:
        assert ("disk-resized", "vdc") in codes(point)
        assert disk_of(point, "vdc").size == size
        assert disk_of(point, "vdc").changed() is None
        assert disk_of(point, "vda").changed() is not None


def test_disks_come_and_go_between_points(platform, guest, owner, tmp_path):
    guest.add_disk(GuestDisk("vdd", size=32 * MIB))
    base = take_full(platform, guest, owner, tmp_path)
    guest.remove_disk("vdd")
    guest.add_disk(GuestDisk("vde", size=32 * MIB))
    try:
        with opened(platform, guest, owner, base=base) as point:
            assert [disk.key for disk in point.disks] == ["vda", "vdb", "vdc", "vde"]
            assert codes(point) == {("format-untracked", "vdb"), ("disk-new", "vde")}
            vda = disk_of(point, "vda")
            truth.apply_extents(vda, vda.changed(), tmp_path / "vda.raw")
            assert truth.same(tmp_path / "vda.raw", vda.uri)
            platform.keep_reference(point)
            newest = point.change_ref.name
        assert names(guest, owner) == [newest]
    finally:
        guest.remove_disk("vde")
        with domain_of(guest) as domain:
            checkpoints.prune(domain, owner, ())
    assert names(guest, owner) == []


def test_another_disk_under_the_same_key(platform, guest, owner, tmp_path):
    guest.add_disk(GuestDisk("vdd", size=32 * MIB))
    base = take_full(platform, guest, owner, tmp_path, disks=("vda", "vdd"))
    guest.remove_disk("vdd")
    guest.disks.pop("vdd").unlink()
    guest.add_disk(GuestDisk("vdd", size=32 * MIB))
    try:
        with opened(platform, guest, owner, base=base, disks=("vda", "vdd")) as point:
            assert codes(point) == {("bitmap-lost", "vdd")}
    finally:
        guest.remove_disk("vdd")


def test_a_stale_job_is_ended_before_anything_is_frozen(platform, guest, owner, place):
    with domain_of(guest) as domain:
        mark = naming.mark(owner, guest.uuid)
        domain.backupBegin(
            f"<domainbackup mode='pull'><server transport='unix' socket='{place}/{mark}.sock'/>"
            f"<disks><disk name='vda' backup='yes' type='file'>"
            f"<scratch file='{place}/{mark}.vda.scratch'/></disk></disks></domainbackup>",
            None,
            0,
        )
    assert any("stale backup job" in line for line in platform.reconcile(guest.name, owner))
    assert platform.reconcile(guest.name, owner) == []


def test_a_guest_that_was_left_frozen_is_thawed(platform, guest, owner):
    with domain_of(guest) as domain:
        domain.setMetadata(
            libvirt.VIR_DOMAIN_METADATA_ELEMENT,
            f"<frozen by='{owner}'/>",
            "ruchu",
            "https://ruchu.invalid/libvirt/1",
            libvirt.VIR_DOMAIN_AFFECT_LIVE,
        )
        domain.fsFreeze(None, 0)
    assert platform.reconcile(guest.name, "somebody-else") == []
    assert guest.agent("guest-fsfreeze-status") == "frozen"
    assert platform.reconcile(guest.name, owner) == ["thawed the guest"]
    assert guest.agent("guest-fsfreeze-status") == "thawed"


def test_the_job_of_somebody_else_is_left_alone(platform, guest, owner, place):
    with domain_of(guest) as domain:
        domain.backupBegin(
            f"<domainbackup mode='pull'><server transport='unix' socket='{place}/theirs.sock'/>"
            f"<disks><disk name='vda' backup='yes' type='file'>"
            f"<scratch file='{place}/theirs'/></disk></disks></domainbackup>",
            None,
            0,
        )
        try:
            with pytest.raises(SourceBusy):
                platform.reconcile(guest.name, owner)
            with pytest.raises(SourceBusy), opened(platform, guest, owner):
                pass
            assert domain.backupGetXMLDesc(0)
        finally:
            domain.abortJob()
            for name in ("theirs", "theirs.sock"):
                (place / name).unlink(missing_ok=True)


def test_checkpoints_of_others_are_left_alone(platform, guest, owner):
    with domain_of(guest) as domain:
        theirs = f"theirs-{owner}"
        domain.checkpointCreateXML(checkpoints.definition(theirs, {"vda": 1}, ["vdb", "vdc"]), 0)
        try:
            with opened(platform, guest, owner) as point:
                platform.keep_reference(point)
            assert domain.checkpointLookupByName(theirs).getName() == theirs
        finally:
            domain.checkpointLookupByName(theirs).delete(0)
            checkpoints.prune(domain, owner, ())


def test_the_guest_is_thawed_when_the_backup_cannot_begin(libvirt_uri, guest, owner, place):
    # QEMU cannot make scratch files in /proc, which libvirt finds out when it begins the job.
    with (
        LibvirtPlatform(
            libvirt_uri, scratch_directory="/proc", socket_directory=str(place)
        ) as platform,
        platform.open_points([OpenRequest(guest.uuid, owner)], "serial") as (point,),
    ):
        assert isinstance(point, Exception)
    assert guest.agent("guest-fsfreeze-status") == "thawed"
    assert names(guest, owner) == []


def test_a_freeze_has_a_time_limit(libvirt_uri, guest, owner, place):
    with (
        LibvirtPlatform(
            libvirt_uri,
            scratch_directory=str(place),
            socket_directory=str(place),
            freeze_limit_s=0.0001,
        ) as platform,
        opened(platform, guest, owner) as point,
    ):
        assert point.consistency is Consistency.CRASH
        assert ("freeze-expired", "") in codes(point)
    assert guest.agent("guest-fsfreeze-status") == "thawed"


def test_without_quiesce_it_is_as_after_a_power_cut(platform, guest, owner):
    with opened(platform, guest, owner, quiesce=False, disks=("vda",)) as point:
        assert point.consistency is Consistency.CRASH
        assert point.degraded == ()
        assert point.frozen_s == 0


def test_a_paused_machine(platform, guest, owner):
    with domain_of(guest) as domain:
        domain.suspend()
        try:
            with opened(platform, guest, owner, disks=("vda",)) as point:
                assert codes(point) == {("machine-paused", "")}
            with (
                pytest.raises(GuestAgentError),
                opened(platform, guest, owner, require_quiesce=True),
            ):
                pass
        finally:
            domain.resume()
    assert names(guest, owner) == []


def test_keep_reference_is_for_open_points_only(platform, guest, owner):
    with opened(platform, guest, owner, disks=("vdb",)) as point:
        assert point.change_ref is None
        platform.keep_reference(point)
    with pytest.raises(NotFound):
        platform.keep_reference(point)


def test_a_disk_that_is_only_plugged_into_the_running_machine(platform, guest, owner):
    disk = GuestDisk("vdf", size=16 * MIB)
    path = make_image(guest.directory, disk, guest.name)
    with domain_of(guest) as domain:
        domain.attachDeviceFlags(disk_xml(disk, path), libvirt.VIR_DOMAIN_AFFECT_LIVE)
        try:
            with opened(platform, guest, owner) as point:
                assert "vdf" in {disk.key for disk in point.disks}
                assert "vdf" in {disk.key for disk in point.spec.disks}
                assert "vdf" not in point.spec.native
        finally:
            domain.detachDeviceFlags(disk_xml(disk, path), libvirt.VIR_DOMAIN_AFFECT_LIVE)


def test_the_freeze_of_somebody_else_is_left_alone(platform, guest, owner):
    with domain_of(guest) as domain:
        domain.fsFreeze(None, 0)
        try:
            with opened(platform, guest, owner, disks=("vda",)) as point:
                assert point.consistency is Consistency.CRASH
                assert codes(point) == {("agent-failed", "")}
            assert guest.agent("guest-fsfreeze-status") == "frozen"
            with (
                pytest.raises(GuestAgentError),
                opened(platform, guest, owner, require_quiesce=True),
            ):
                pass
            assert guest.agent("guest-fsfreeze-status") == "frozen"
        finally:
            domain.fsThaw(None, 0)
