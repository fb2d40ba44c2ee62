"""Many machines in one run: each fails alone, one moment for all, one writer for each."""

import contextlib
import datetime
import json
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import libvirt
import pytest

from ruchu import clock
from ruchu.cli.session import Session
from ruchu.errors import ChainBusy, NotFound, RuchuError, SourceBusy, Unreachable
from ruchu.model.sources import Kind, SnapshotOrder
from ruchu.platforms.contract import SourcePoint
from ruchu.protection.machine import Order, back_up_machines
from ruchu.protection.running import Run
from ruchu.repository import verifying
from ruchu.repository.verifying_findings import Depth
from ruchu.testing import truth
from ruchu.testing.guests.guest import GuestDisk, booted, defined
from ruchu.units import MIB

pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
]
WAIT_S = 60


@pytest.fixture(scope="module")
def guests(libvirt_uri):
    disks = [GuestDisk("vda", size=64 * MIB)]
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(booted(libvirt_uri, disks, prefix="ruchu-many")) for _ in range(3)
        ]
        for guest in made:
            guest.run("dd if=/dev/urandom of=/mnt/vda/data bs=1M count=4 2>/dev/null; sync")
        yield made


class Host:
    """A state with two storages and a platform; commands run in a process of their own."""

    def __init__(self, directory, uri, place):
        self.directory = directory
        for name in ("s", "other"):
            self.run("storage", "add", name, directory / name, "--no-encryption")
        self.run("platform", "add", "kvm", uri, "--scratch", place)

    def run(self, *words, status=0):
        command = [sys.executable, "-m", "ruchu", "--state", self.directory / "state"]
        command = [*map(str, command), *map(str, words), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
        assert done.returncode == status, (done.returncode, done.stdout, done.stderr)
        self.said = done.stderr
        return json.loads(done.stdout)

    def back_up(self, names, *words, status=0, storage="s"):
        return self.run("backup", "vm", *names, "--storage", storage, *words, status=status)

    def storage(self, name="s"):
        return Session(self.directory / "state").storages.open(name)

    def verify(self, name="s"):
        assert verifying.verify_storage(self.storage(name), Depth.FULL).clean


@pytest.fixture
def host(libvirt_uri, place, tmp_path):
    return Host(tmp_path, libvirt_uri, place)


def names(guests):
    return [guest.name for guest in guests]


# ------------------------------------------------------------------------- each fails alone


@pytest.mark.parametrize("order", ["serial", "parallel", "barrier"])
def test_one_that_fails_does_not_stop_the_others(host, guests, libvirt_uri, order):
    with defined(libvirt_uri, [GuestDisk("vda", size=32 * MIB)]) as broken:
        with broken.disks["vda"].open("r+b") as image:
            image.write(bytes(512))
        first, *rest = names(guests)
        wanted = [first, "no-such-machine", broken.name, *rest]
        done = host.back_up(wanted, "--snapshot", order, status=3)
        # The first of the failures decides the status.
        assert [each["machine"] for each in done] == wanted
        assert [each["ok"] for each in done] == [True, False, False, True, True]
        errors = [each["error"] for each in done if not each["ok"]]
        assert errors[0]["code"] == "not-found"
        assert errors[1]["code"] != "internal"
        assert "qcow2" in errors[1]["message"]
        for name in ("no-such-machine", broken.name):
            assert f"ruchu: {name}: " in host.said
        assert host.back_up([broken.name, first], "--snapshot", order, status=11)[1]["ok"]
    listed = host.run("points", "list", "--storage", "s")
    assert sorted(point["name"] for point in listed) == sorted([*names(guests), first])
    host.verify()


def test_a_disk_that_one_machine_does_not_have(host, guests):
    done = host.back_up(names(guests)[:2], "--disk", "vdz", status=3)
    assert [each["error"]["code"] for each in done] == ["not-found", "not-found"]
    assert host.run("points", "list") == []


@pytest.mark.parametrize("end", ["destroyed", "undefined"])
@pytest.mark.parametrize("order", ["serial", "barrier"])
def test_one_that_vanishes_while_it_is_copied(host, guests, platform, order, end):
    victim = guests[1]
    with victim.connect() as connection:
        domain = connection.lookupByUUIDString(victim.uuid)
        definition = domain.XMLDesc(libvirt.VIR_DOMAIN_XML_INACTIVE)

        def watch(label, progress):
            if label.startswith(victim.name):
                domain.destroy()
                if end == "undefined":
                    domain.undefineFlags(libvirt.VIR_DOMAIN_UNDEFINE_CHECKPOINTS_METADATA)

        wanted = Order(tuple(names(guests)), Kind.FULL, snapshots=SnapshotOrder(order))
        try:
            results = back_up_machines(platform, "kvm", host.storage(), wanted, Run(watch=watch))
        finally:
            connection.defineXML(definition)
            victim.start()
    assert [result.name for result in results] == names(guests)
    assert [result.saved is not None for result in results] == [True, False, True]
    assert isinstance(results[1].error, RuchuError)
    assert len(host.run("points", "list")) == 2
    done = host.back_up(names(guests))
    assert [each["kind"] for each in done] == ["incremental", "full", "incremental"]
    assert [each["disks"][0]["read"] for each in done] == ["changes", "all", "changes"]
    host.verify()


class Unclean:
    """A platform that fails to clean up: libvirt went away just then."""

    def __init__(self, platform):
        self._platform = platform

    def __getattr__(self, name):
        return getattr(self._platform, name)

    @contextlib.contextmanager
    def open_points(self, requests, order):
        with self._platform.open_points(requests, order) as points:
            yield points
        raise Unreachable("(libvirt went away)")


@pytest.mark.parametrize("order", ["serial", "barrier"])
def test_what_is_left_on_the_source_does_not_hide_the_points(host, guests, platform, order):
    wanted = Order((*names(guests), "no-such-machine"), snapshots=SnapshotOrder(order))
    results = back_up_machines(Unclean(platform), "kvm", host.storage(), wanted)
    assert [result.saved is not None for result in results] == [True, True, True, False]
    assert isinstance(results[3].error, NotFound)
    for result in results[:3]:
        assert [reason.code for reason in result.saved.reasons] == ["no-base", "not-cleaned"]
    assert len(host.run("points", "list")) == 3


# ------------------------------------------------------------------------ as many as allowed


class Counting:
    """A platform that knows how many machines are open at once, and holds them for a moment."""

    def __init__(self, platform, wanted):
        self._platform = platform
        self._wanted = wanted
        self._changed = threading.Condition()
        self.now = self.most = 0

    def __getattr__(self, name):
        return getattr(self._platform, name)

    @contextlib.contextmanager
    def open_points(self, requests, order):
        with self._platform.open_points(requests, order) as points:
            with self._changed:
                self.now += 1
                self.most = max(self.most, self.now)
                self._changed.notify_all()
            try:
                yield points
            finally:
                with self._changed:
                    self.now -= 1

    def wait(self):
        """Return once as many as wanted were open."""
        with self._changed:
            assert self._changed.wait_for(lambda: self.most >= self._wanted, WAIT_S)


@pytest.mark.parametrize("parallel", [1, 2, 3])
def test_no_more_than_allowed_at_the_same_time(host, guests, platform, parallel):
    counting = Counting(platform, parallel)
    waited = []

    def watch(label, progress):
        # The copy of the first one waits for the others that may run beside it.
        counting.wait()
        waited.append(label)

    order = Order(tuple(names(guests)), Kind.FULL, parallel=parallel)
    results = back_up_machines(counting, "kvm", host.storage(), order, Run(watch=watch))
    assert [result.error for result in results] == [None] * 3
    assert (counting.most, counting.now) == (parallel, 0)
    assert sorted(waited) == sorted(f"{name}/vda" for name in names(guests))
    host.verify()


# ---------------------------------------------------------------------- one moment for all


def moment(done):
    """Return when the moment of a point was taken, as its checkpoint says."""
    text = done["change_ref"]["name"].split("-")[2]
    return datetime.datetime.strptime(text, "%Y%m%dT%H%M%S%fZ").replace(tzinfo=datetime.UTC)


def test_a_barrier_is_one_moment_for_all(host, guests):
    for kind in ("full", "incremental"):
        began = clock.SYSTEM.now()
        # Copied one after the other: their times are those of the moment all the same.
        order = ("--snapshot", "barrier", "--parallel", "1", "--kind", kind)
        done = host.back_up(names(guests), *order)
        ended = clock.SYSTEM.now()
        shown = [host.run("points", "show", each["point"]) for each in done]
        assert [each["facts"]["consistency"] for each in shown] == ["filesystem"] * 3
        frozen = [each["frozen_s"] for each in done]
        moments = [moment(each["facts"]) for each in shown]
        times = [clock.from_text(each["time"]) for each in shown]
        assert all(began < each < ended for each in times)
        window = (max(moments) - min(moments)).total_seconds()
        spread = (max(times) - min(times)).total_seconds()
        print(  # noqa: T201 - `pytest -s` shows what was measured
            f"\nbarrier, {kind}: moments within {window:.3f} s, times within {spread:.3f} s, "
            f"frozen {min(frozen):.2f} to {max(frozen):.2f} s"
        )
        # All of them stood still when the first and the last moment was taken.
        assert 0 <= window < min(frozen) < 10
        assert spread < 1
        assert max(abs(one - other) for one in moments for other in times).total_seconds() < 10
    host.verify()


def test_a_copy_that_waits_for_others_does_not_change_its_moment(host, guests, platform):
    def watch(label, progress):
        threading.Event().wait(1)

    wanted = Order(tuple(names(guests)), Kind.FULL, snapshots=SnapshotOrder.BARRIER, parallel=1)
    results = back_up_machines(platform, "kvm", host.storage(), wanted, Run(watch=watch))
    times = [result.saved.head.time for result in results]
    assert (max(times) - min(times)).total_seconds() < 1
    moments = [moment(result.saved.head.facts) for result in results]
    assert max(abs(a - b) for a, b in zip(times, moments, strict=True)).total_seconds() < 1


# -------------------------------------------------------------------------- two runs at once


class Waiting:
    """A platform whose points wait, once they are open, until they are let go."""

    def __init__(self, platform, directory):
        self._platform = platform
        self._directory = directory
        self.opened = threading.Event()
        self.go_on = threading.Event()

    def __getattr__(self, name):
        return getattr(self._platform, name)

    @contextlib.contextmanager
    def open_points(self, requests, order):
        with self._platform.open_points(requests, order) as points:
            for point in points:
                assert isinstance(point, SourcePoint)
                for disk in point.disks:
                    truth.save(disk, self._directory / disk.key)
            self.opened.set()
            assert self.go_on.wait(WAIT_S)
            # What came in between did not end the job of this one.
            for point in points:
                for disk in point.disks:
                    assert truth.same(self._directory / disk.key, disk.uri)
            yield points


def test_two_runs_at_once_on_one_machine(host, guests, platform, tmp_path):
    guest = guests[0]
    first = host.back_up([guest.name])[0]
    guest.run("dd if=/dev/urandom of=/mnt/vda/more bs=64k count=9 2>/dev/null; sync")
    (tmp_path / "truth").mkdir()
    waiting = Waiting(platform, tmp_path / "truth")
    with ThreadPoolExecutor(1) as pool:
        order = Order((guest.name,))
        future = pool.submit(back_up_machines, waiting, "kvm", host.storage(), order)
        try:
            assert waiting.opened.wait(WAIT_S)
            # The same chain: somebody writes there.
            (busy,) = host.back_up([guest.name], status=9)
            assert busy["error"]["code"] == ChainBusy.code
            assert "backup" in busy["error"]["message"]
            assert "backup" in host.said
            # Another storage, so another chain: the machine itself is taken.
            (busy,) = host.back_up([guest.name], status=10, storage="other")
            assert busy["error"]["code"] == SourceBusy.code
            assert guest.agent("guest-fsfreeze-status") == "thawed"
            # Other machines are not.
            assert host.back_up([guests[1].name])[0]["ok"]
        finally:
            waiting.go_on.set()
        (result,) = future.result(WAIT_S)
    assert result.error is None
    head = result.saved.head
    assert (head.parent, head.disks[0].facts["read"]) == (first["point"], "changes")
    host.run("restore", "image", head.point, tmp_path / "restored")
    assert truth.same(tmp_path / "truth" / "vda", tmp_path / "restored")
    # And now it is free again, for both.
    assert host.back_up([guest.name])[0]["disks"][0]["read"] == "changes"
    assert host.back_up([guest.name], storage="other")[0]["ok"]
    host.verify()
    host.verify("other")


def test_two_commands_at_once(host, guests):
    """Whoever is first, one of them saves the machine, and nothing is left of the other."""
    guest = guests[2]
    assert host.back_up([guest.name])[0]["ok"]
    command = [sys.executable, "-m", "ruchu", "--state", str(host.directory / "state")]
    command += ["backup", "vm", guest.name, "--storage", "s", "--json"]
    runs = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
        for _ in range(2)
    ]
    found = [(run.communicate(timeout=WAIT_S)[0], run.returncode) for run in runs]
    statuses = sorted(status for _, status in found)
    assert statuses[0] == 0
    for out, status in found:
        (done,) = json.loads(out)
        assert done["ok"] is (status == 0)
        if status:
            assert (status, done["error"]["code"]) in {(9, "chain-busy"), (10, "source-busy")}
    expected = 1 + statuses.count(0)
    assert len(host.run("points", "list")) == expected
    assert host.back_up([guest.name])[0]["disks"][0]["read"] == "changes"
    host.verify()
