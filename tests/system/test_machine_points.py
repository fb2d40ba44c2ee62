"""Every restored disk is the disk of its moment: kinds, chains, merges, and each lost increment.

The truth is what qemu-img copied of the frozen export while the point was being taken, and
qemu-img judges: no reader of ours has a say in either.
"""

import contextlib
import dataclasses
import datetime
import itertools
import json
import os
import random
import subprocess
import sys
from pathlib import Path

import libvirt
import libvirt_qemu
import pytest

from ruchu import commands
from ruchu.model.machines import Placement
from ruchu.model.sources import Consistency, Kind
from ruchu.platforms.contract import SourcePoint
from ruchu.platforms.libvirt import checkpoints
from ruchu.protection.machine import MachineResult, Order, Saved, back_up_machines
from ruchu.protection.running import Run
from ruchu.recovery import full
from ruchu.repository import keyring, merging, repositories, verifying
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.verifying_findings import Depth
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing import truth
from ruchu.testing.guests import guest as guests
from ruchu.testing.guests.guest import GuestDisk, booted, defined
from ruchu.units import KIB, MIB

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
]
SECRET = keyring.Secret("passphrase", b"correct horse")
CHEAP = keyring.Costs(memory_kib=8, iterations=1, lanes=1)
KINDS = {"f": Kind.FULL, "i": Kind.INCREMENTAL, "d": Kind.DIFFERENTIAL}
AT_ONCE = datetime.timedelta()
# More than the blocks of any disk here: each one is cross-checked.
ALL_BLOCKS = 1_000_000


class Witness:
    """A platform that keeps a copy of each disk it opens, and lies about changes if told to."""

    def __init__(self, platform, directory, lies=()):
        self._platform = platform
        self._directory = directory
        self._lies = lies
        self._told = {}
        self.truths = {}

    def __getattr__(self, name):
        return getattr(self._platform, name)

    @contextlib.contextmanager
    def open_points(self, requests, order):
        with self._platform.open_points(requests, order) as points:
            yield [self._seen(point) for point in points]

    def keep_reference(self, point):
        self._platform.keep_reference(self._told.get(id(point), point))

    def _seen(self, point):
        if not isinstance(point, SourcePoint):
            return point
        for disk in point.disks:
            copy = self._directory / f"{len(os.listdir(self._directory))}-{disk.key}"
            commands.run(
                ["qemu-img", "convert", "-U", "-f", "raw", "-O", "raw", disk.uri, str(copy)],
                timeout_s=60,
            )
            self.truths[disk.key] = copy
        disks = [Liar(disk) if disk.key in self._lies else disk for disk in point.disks]
        told = dataclasses.replace(point, disks=disks)
        self._told[id(told)] = point
        return told


class Liar:
    """A disk whose list of changes leaves out the largest one."""

    def __init__(self, disk):
        self._disk = disk

    def __getattr__(self, name):
        return getattr(self._disk, name)

    def changed(self):
        listed = list(self._disk.changed())
        largest = max(listed, key=lambda extent: (not extent.reads_as_zeros, extent.length))
        # Else a neighbour in the same block would hide the lie.
        assert largest.length >= 256 * KIB
        return iter([extent for extent in listed if extent != largest])


@dataclasses.dataclass(frozen=True, slots=True)
class Taken:
    """A point that was made, and copies of its disks as they were."""

    saved: Saved
    truths: dict[str, Path]

    @property
    def head(self):
        return self.saved.head

    def facts(self, key):
        return self.head.disk(key).facts

    def codes(self):
        """Return code and disk of each reason that was told; the head must say the same."""
        told = {(reason.code, reason.disk) for reason in self.saved.reasons}
        written = {
            (reason["code"], reason["disk"])
            for facts in (self.head.facts, *(disk.facts for disk in self.head.disks))
            for reason in facts["degraded"]
        }
        assert written == {each for each in told if each[0] != "no-base"}
        return told


class Lab:
    """A repository of one test."""

    def __init__(self, platform, directory):
        self.platform = platform
        self.directory = directory
        self._numbers = itertools.count()
        for name in ("storage", "truth", "restored"):
            (directory / name).mkdir()
        storage = DirectoryStorage(directory / "storage")
        surroundings = Surroundings(cache=directory / "cache")
        self.repository = repositories.create(storage, "s", SECRET, surroundings, costs=CHEAP)

    def back_up(self, guest, kind=Kind.INCREMENTAL, *, lies=(), sample=64, **order) -> Taken:
        witness = Witness(self.platform, self.directory / "truth", lies)
        run = Run(sample=sample, choose=random.Random(1))
        (result,) = back_up_machines(
            witness, "kvm", self.repository, Order((guest.uuid,), kind, **order), run
        )
        if result.error is not None:
            raise result.error
        assert isinstance(result, MachineResult)
        return Taken(result.saved, dict(witness.truths))

    def chain(self, taken):
        return self.repository.open_chain(taken.saved.chain)

    def equal(self, taken, key):
        """Restore a disk of a point, and let qemu-img compare it."""
        target = self.directory / "restored" / f"{next(self._numbers)}-{key}"
        chain = self.chain(taken)
        full.restore_image(chain, chain.find(taken.head.point), key, target)
        try:
            return truth.same(target, taken.truths[key])
        finally:
            target.unlink()

    def check(self, *points):
        for number, taken in enumerate(points):
            assert [disk.name for disk in taken.head.disks] == list(taken.truths)
            for key in taken.truths:
                assert self.equal(taken, key), f"{key} of point {number}"

    def delete(self, *points):
        chain = self.chain(points[0])
        with chain.exclusive("delete") as lock:
            stems = [taken.head.stem for taken in points]
            merging.delete_points(chain, lock, stems, grace=AT_ONCE)
            merging.sweep(chain, lock, grace=AT_ONCE)
            merging.purge(chain, lock)
        assert not set(chain.stems()) & set(stems)
        assert not set(chain.stems(deleted=True)) & set(stems)

    def verify(self):
        report = verifying.verify_storage(self.repository, Depth.FULL)
        assert report.clean, report.findings


@pytest.fixture
def lab(platform, tmp_path):
    return Lab(platform, tmp_path)


@pytest.fixture(scope="module")
def guest(libvirt_uri):
    disks = [
        GuestDisk("vda", size=96 * MIB),
        GuestDisk("vdb", format="raw", size=32 * MIB),
        GuestDisk("vdc", size=48 * MIB),
    ]
    with booted(libvirt_uri, disks, prefix="ruchu-points") as guest:
        yield guest


@contextlib.contextmanager
def domain_of(guest):
    with guest.connect() as connection:
        yield connection.lookupByUUIDString(guest.uuid)


def write(guest, *, blocks=16, keys=("vda", "vdb", "vdc"), seed=0):
    """Write so many pieces of 64 KiB, into new and old places, on each disk."""
    guest.run(
        "".join(
            f"dd if=/dev/urandom of=/mnt/{key}/file bs=64k count={blocks} seek={seed * 7 % 90} "
            f"conv=notrunc 2>/dev/null; rm -f /mnt/{key}/old; mv /mnt/{key}/new /mnt/{key}/old "
            f"2>/dev/null; head -c 300000 /dev/urandom > /mnt/{key}/new;"
            for key in keys
        )
        + "sync"
    )


# ------------------------------------------------------------------------- chains and merges


@pytest.mark.parametrize(
    ("shape", "merges"),
    [
        ("fii", [(0,), (1,)]),
        ("fii", [(0, 1)]),
        ("fidi", [(1,), (0,)]),
        ("fidi", [(3,), (0, 1)]),
        ("ff", [(0,)]),
    ],
)
def test_every_point_of_a_chain_is_its_moment(lab, guest, shape, merges):
    points = []
    for number, letter in enumerate(shape):
        write(guest, seed=number)
        points.append(lab.back_up(guest, KINDS[letter]))
    fulls = [taken for taken, letter in zip(points, shape, strict=True) if letter == "f"]
    for number, (taken, letter) in enumerate(zip(points, shape, strict=True)):
        head = taken.head
        parent = {"f": None, "i": points[number - 1].head.point, "d": fulls[-1].head.point}[letter]
        assert (head.kind, head.parent, head.sequence) == (KINDS[letter], parent, number + 1)
        assert head.facts["consistency"] == "filesystem"
        reads = [taken.facts(key)["read"] for key in ("vda", "vdb", "vdc")]
        if letter == "f":
            assert reads == ["all", "all", "all"]
        else:
            assert reads == ["changes", "all", "changes"]
            assert taken.codes() == {("format-untracked", "vdb")}
            assert 0 < taken.facts("vda")["bytes_read"] < points[0].facts("vda")["bytes_read"]
    lab.check(*points)
    left = list(points)
    for merge in merges:
        gone = [points[number] for number in merge]
        lab.delete(*gone)
        left = [taken for taken in left if taken not in gone]
        assert [head.point for head in lab.chain(left[0]).points()] == [
            taken.head.point for taken in left
        ]
        lab.check(*left)
    lab.verify()
    # The chain goes on: the newest point that is left is the base, and its moment is still known.
    write(guest, seed=len(shape))
    next_one = lab.back_up(guest)
    assert next_one.head.parent == left[-1].head.point
    assert next_one.facts("vda")["read"] == "changes"
    lab.check(*left, next_one)


def test_a_restored_machine_has_the_disks_of_its_moment(lab, guest, platform):
    write(guest)
    first = lab.back_up(guest, Kind.FULL)
    write(guest, seed=1)
    second = lab.back_up(guest)
    for number, taken in enumerate((first, second)):
        placement = Placement(name=f"{guest.name}-{number}", directory=str(lab.directory / "vm"))
        done = full.restore_machine(platform, lab.chain(taken), taken.head, placement)
        try:
            assert done.disks == ("vda", "vdb", "vdc")
            made = platform.describe(done.machine).disks
            assert [disk.format for disk in made] == ["qcow2", "raw", "qcow2"]
            for disk in made:
                assert truth.same(taken.truths[disk.key], disk.location, disk.format)
        finally:
            platform.delete(done.machine, disks=True)


@pytest.mark.parametrize("image", ["qcow2", "raw"])
def test_a_machine_of_one_disk(lab, libvirt_uri, image):
    with booted(libvirt_uri, [GuestDisk("vda", format=image, size=64 * MIB)]) as single:
        points = []
        for number, kind in enumerate((*KINDS.values(), Kind.INCREMENTAL)):
            write(single, keys=("vda",), seed=number)
            points.append(lab.back_up(single, kind))
        read = [taken.facts("vda")["read"] for taken in points]
        if image == "qcow2":
            assert read == ["all", "changes", "changes", "changes"]
        else:
            assert read == ["all"] * 4
            assert points[1].codes() == {("format-untracked", "vda"), ("no-reference", "vda")}
            # What did not change is read, and not stored again.
            assert points[1].saved.bytes_stored < points[1].saved.bytes_read
        lab.check(*points)
        lab.delete(*points[:2])
        lab.check(*points[2:])
        lab.verify()


# --------------------------------------------------------------- each way to lose an increment


def grow(guest, key, more):
    with domain_of(guest) as domain:
        size = domain.blockInfo(key)[0] + more
        domain.blockResize(key, size, libvirt.VIR_DOMAIN_BLOCK_RESIZE_BYTES)
    return size


def test_a_disk_that_grew(lab, guest):
    write(guest)
    first = lab.back_up(guest, Kind.FULL)
    write(guest, seed=1)
    size = grow(guest, "vdc", 16 * MIB + 512)
    raw = grow(guest, "vdb", 1 * MIB)
    second = lab.back_up(guest)
    assert second.head.kind is Kind.INCREMENTAL
    assert (second.head.disk("vdc").size, second.head.disk("vdb").size) == (size, raw)
    assert second.codes() == {("disk-resized", "vdc"), ("format-untracked", "vdb")}
    assert (second.facts("vda")["read"], second.facts("vdc")["read"]) == ("changes", "all")
    assert second.facts("vda")["bytes_read"] < first.facts("vda")["bytes_read"]
    write(guest, seed=2)
    third = lab.back_up(guest)
    assert third.facts("vdc")["read"] == "changes"
    lab.check(first, second, third)
    lab.delete(first)
    lab.check(second, third)


def test_disks_that_come_and_go(lab, guest):
    write(guest)
    guest.add_disk(GuestDisk("vdd", size=32 * MIB))
    write(guest, keys=("vdd",))
    points = [lab.back_up(guest, Kind.FULL)]
    guest.remove_disk("vdd")
    guest.disks.pop("vdd").unlink()
    guest.add_disk(GuestDisk("vde", size=32 * MIB))
    try:
        write(guest, keys=("vda", "vde"), seed=1)
        points.append(lab.back_up(guest))
        assert list(points[1].truths) == ["vda", "vdb", "vdc", "vde"]
        assert points[1].codes() == {("disk-new", "vde"), ("format-untracked", "vdb")}
        for key in ("vda", "vdc"):
            assert points[1].facts(key)["read"] == "changes"
            assert points[1].facts(key)["bytes_read"] < points[0].facts(key)["bytes_read"]
        write(guest, keys=("vda", "vde"), seed=2)
        points.append(lab.back_up(guest))
        assert points[2].facts("vde")["read"] == "changes"
        lab.check(*points)
        lab.delete(points[0])
        lab.check(*points[1:])
    finally:
        guest.remove_disk("vde")
        guest.disks.pop("vde").unlink()


def remove_bitmap(guest, key, bitmap):
    with domain_of(guest) as domain:
        query = {"execute": "query-named-block-nodes", "arguments": {"flat": True}}
        nodes = json.loads(libvirt_qemu.qemuMonitorCommand(domain, json.dumps(query), 0))
        node = next(
            node["node-name"]
            for node in nodes["return"]
            if node["drv"] == "qcow2" and str(guest.disks[key]) in node["file"]
        )
        arguments = {"node": node, "name": bitmap}
        remove = {"execute": "block-dirty-bitmap-remove", "arguments": arguments}
        answer = libvirt_qemu.qemuMonitorCommand(domain, json.dumps(remove), 0)
        assert "error" not in json.loads(answer)


def test_a_lost_bitmap_costs_its_disk_only(lab, guest):
    write(guest)
    first = lab.back_up(guest, Kind.FULL)
    write(guest, seed=1)
    remove_bitmap(guest, "vdc", first.head.facts["change_ref"]["name"])
    second = lab.back_up(guest)
    assert (second.head.kind, second.head.parent) == (Kind.INCREMENTAL, first.head.point)
    assert second.codes() == {("bitmap-lost", "vdc"), ("format-untracked", "vdb")}
    assert [each["code"] for each in second.facts("vdc")["degraded"]] == ["bitmap-lost"]
    assert (second.facts("vda")["read"], second.facts("vdc")["read"]) == ("changes", "all")
    assert second.facts("vda")["bytes_read"] < first.facts("vda")["bytes_read"]
    write(guest, seed=2)
    third = lab.back_up(guest)
    assert third.codes() == {("format-untracked", "vdb")}
    lab.check(first, second, third)


def test_checkpoints_that_are_gone_cost_an_increment(lab, guest):
    write(guest)
    first = lab.back_up(guest, Kind.FULL)
    with domain_of(guest) as domain:
        assert checkpoints.prune(domain, first.saved.chain, ())
    write(guest, seed=1)
    second = lab.back_up(guest)
    gone = {("no-reference", "vda"), ("no-reference", "vdc"), ("format-untracked", "vdb")}
    assert second.codes() == gone
    write(guest, seed=2)
    third = lab.back_up(guest)
    assert third.facts("vda")["read"] == "changes"
    lab.check(first, second, third)


def test_a_map_that_forgets_a_change_is_found_out(lab, guest):
    write(guest)
    first = lab.back_up(guest, Kind.FULL)
    write(guest, seed=1)
    # Without the cross-check nobody would notice: the point holds something else.
    wrong = lab.back_up(guest, lies=("vda",), sample=0)
    assert wrong.facts("vda")["read"] == "changes"
    assert not lab.equal(wrong, "vda")

    write(guest, seed=40)
    second = lab.back_up(guest, lies=("vda",), sample=ALL_BLOCKS)
    assert ("sample-mismatch", "vda") in second.codes()
    assert (second.facts("vda")["read"], second.facts("vdc")["read"]) == ("all", "changes")
    assert second.saved.samples["vda"].differs_at is not None
    assert second.saved.samples["vdc"].differs_at is None
    lab.check(first, second)


# ------------------------------------------------------------------ chosen disks, off machines


def test_chosen_disks_only(lab, guest, platform):
    write(guest)
    first = lab.back_up(guest, Kind.FULL, disks=("vdc",))
    write(guest, seed=1)
    second = lab.back_up(guest, disks=("vdc",))
    assert list(second.truths) == ["vdc"]
    assert second.facts("vdc")["read"] == "changes"
    write(guest, seed=2)
    third = lab.back_up(guest)
    assert ("disk-new", "vda") in third.codes()
    assert (third.facts("vda")["read"], third.facts("vdc")["read"]) == ("all", "changes")
    lab.check(first, second, third)
    name, directory = f"{guest.name}-part", str(lab.directory / "vm")
    for taken, disks in ((second, ()), (third, ("vdb", "vdc"))):
        placement = Placement(name=name, directory=directory, disks=disks)
        done = full.restore_machine(platform, lab.chain(taken), taken.head, placement)
        try:
            made = platform.describe(done.machine).disks
            assert [disk.key for disk in made] == list(disks or ("vdc",))
            for disk in made:
                assert truth.same(taken.truths[disk.key], disk.location, disk.format)
        finally:
            platform.delete(done.machine, disks=True)


def test_off_and_on_again(lab, guest):
    """The bitmaps are in the images then; the judge compares with the images themselves."""
    write(guest)
    points = [lab.back_up(guest, Kind.FULL)]
    write(guest, seed=1)
    guest.stop()
    try:
        for kind in (Kind.INCREMENTAL, Kind.DIFFERENTIAL, Kind.FULL):
            taken = lab.back_up(guest, kind)
            assert taken.head.facts["consistency"] == Consistency.OFFLINE.value
            for key, image in guest.disks.items():
                assert truth.same(taken.truths[key], image, image.suffix.removeprefix("."))
            points.append(taken)
        assert [taken.facts("vda")["read"] for taken in points] == ["all", *["changes"] * 2, "all"]
    finally:
        guest.start()
    write(guest, seed=2)
    points.append(lab.back_up(guest))
    assert points[-1].facts("vda")["read"] == "changes"
    lab.check(*points)
    lab.delete(points[0], points[3])
    lab.check(points[1], points[2], points[4])
    lab.verify()


def scribble(path, image, seed):
    """Write into an image of a machine that is off, as QEMU would."""
    command = f"write -P {seed + 1} {seed * 3 + 1}M 1536k"
    commands.run(["qemu-io", "-f", image, "-c", command, str(path)], timeout_s=30)


def test_a_machine_that_never_ran(lab, libvirt_uri):
    disks = [GuestDisk("vda", size=64 * MIB), GuestDisk("vdb", format="raw", size=32 * MIB)]
    with defined(libvirt_uri, disks) as off:
        points = []
        for number, kind in enumerate((*KINDS.values(), Kind.INCREMENTAL)):
            scribble(off.disks["vda"], "qcow2", number)
            scribble(off.disks["vdb"], "raw", number)
            taken = lab.back_up(off, kind)
            for key, image in off.disks.items():
                assert truth.same(taken.truths[key], image, image.suffix.removeprefix("."))
            points.append(taken)
        # Nothing tracks its changes; they are found by their content.
        assert ("no-reference", "vda") in points[1].codes()
        assert points[1].saved.bytes_stored < points[0].saved.bytes_stored
        lab.check(*points)
        lab.delete(points[0], points[2])
        lab.check(points[1], points[3])


# ---------------------------------------------------------------------------- the command line


@pytest.fixture
def ruchu(libvirt_uri, place, tmp_path):
    """Return a function that runs a command and returns its document."""

    def run(*words):
        command = [sys.executable, "-m", "ruchu", "--state", tmp_path / "state", *words, "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    tmp_path.chmod(0o755)
    run("storage", "add", "s", str(tmp_path / "s"), "--no-encryption")
    run("platform", "add", "kvm", libvirt_uri, "--scratch", str(place))
    return run


NETWORK = """<interface type='network'><mac address='52:54:00:ab:cd:ef'/>
<source network='office'/><model type='virtio'/></interface>"""


@pytest.fixture
def off(libvirt_uri, tmp_path):
    """Yield a machine that is off, with copies of its disks in `tmp_path`."""
    disks = [GuestDisk("vda", size=64 * MIB), GuestDisk("vdb", format="raw", size=32 * MIB)]
    with defined(libvirt_uri, disks) as off:
        with domain_of(off) as domain:
            domain.attachDeviceFlags(NETWORK, libvirt.VIR_DOMAIN_AFFECT_CONFIG)
        for seed, (key, image) in enumerate(off.disks.items()):
            kind = image.suffix.removeprefix(".")
            scribble(image, kind, seed)
            convert = ["qemu-img", "convert", "-f", kind, "-O", "raw", str(image)]
            commands.run([*convert, str(tmp_path / f"truth-{key}")], timeout_s=60)
        yield off


@pytest.fixture
def restored(ruchu, libvirt_uri):
    """Return a function that restores a machine; at the end it is gone."""
    made = []

    def restore(point, *words):
        done = ruchu("restore", "vm", point, *map(str, words))
        made.append(done["machine"])
        return done

    yield restore
    for identity in made:
        guests.remove(libvirt_uri, identity)


def test_as_another_machine(ruchu, restored, off, platform, tmp_path):
    (done,) = ruchu("backup", "vm", off.name, "--storage", "s")
    shown = ruchu("points", "show", done["point"])
    assert shown["facts"]["consistency"] == "offline"
    # Why a disk was read in full is written in the head, and shown.
    (reason,) = shown["disks"][1]["degraded"]
    assert (reason["code"], reason["disk"]) == ("format-untracked", "vdb")

    name = f"{off.name}-new"
    changes = ("--vcpus", 3, "--memory", "200MiB", "--network", "office=isolated", "--mac", "new")
    where = ("--as", name, "--directory", tmp_path / "images")
    told = restored(done["point"], *where, *changes)
    assert told["disks"] == ["vda", "vdb"]
    made, old = platform.describe(told["machine"]), platform.describe(off.uuid)
    assert (made.name, made.vcpus, made.memory) == (name, 3, 200 * MIB)
    assert made.id != old.id
    networks = {nic.network for nic in made.nics}
    assert "isolated" in networks
    assert "office" not in networks
    assert not {nic.mac for nic in made.nics} & {nic.mac for nic in old.nics}
    for disk in made.disks:
        assert Path(disk.location).parent == tmp_path / "images"
        assert truth.same(tmp_path / f"truth-{disk.key}", disk.location, disk.format)


def test_a_part_of_a_machine_in_another_format(ruchu, restored, off, platform, tmp_path):
    (done,) = ruchu("backup", "vm", off.name, "--storage", "s")
    for key, kind in (("vda", "raw"), ("vdb", "qcow2")):
        chosen = ("--disk", key, "--format", kind)
        where = ("--as", f"{off.name}-{key}", "--directory", tmp_path / "part")
        told = restored(done["point"], *chosen, *where)
        (disk,) = platform.describe(told["machine"]).disks
        assert (disk.key, disk.format) == (key, kind)
        assert truth.same(tmp_path / f"truth-{key}", disk.location, kind)
