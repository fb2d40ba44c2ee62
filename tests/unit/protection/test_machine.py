"""Machines: which base, what is read, what a failure of one means to the others."""

import json
import threading

import pytest

from ruchu.errors import Cancelled, ChainBusy, NotFound, SourceBusy, StorageFull
from ruchu.model import configurations
from ruchu.model.sources import Kind, SnapshotOrder
from ruchu.protection import machine as machines
from ruchu.protection.machine import Order, back_up_machines
from ruchu.protection.running import Run
from ruchu.repository import repositories
from ruchu.storage.faulty import Effect, Fault, Faulty
from ruchu.storage.intercepting import Verb
from ruchu.testing.simulated_platform import GRANULE

SIZE = 40 * GRANULE + 1000


@pytest.fixture
def guest(platform, rng):
    half = SIZE // 2
    return platform.add("web", {
        "vda": rng.randbytes(half) + bytes(SIZE - half),
        "vdb": rng.randbytes(3 * GRANULE),
    })  # fmt: skip


@pytest.fixture
def back_up(platform, repository, run):
    def back_up(*names, **more):
        order = Order(names or ("web",), **more)
        return back_up_machines(platform, "sim", repository, order, run)

    return back_up


@pytest.fixture
def saved(back_up):
    def saved(**more):
        (result,) = back_up(**more)
        if result.error is not None:
            raise result.error
        return result.saved

    return saved


def content(repository, done, key):
    chain = repository.open_chain(done.chain)
    disk = chain.disk(done.head, done.head.disk(key))
    buffer = bytearray(disk.size)
    disk.read_into(0, memoryview(buffer))
    return buffer


def codes(done):
    return {(reason.code, reason.disk) for reason in done.reasons}


def same(repository, done, guest):
    return all(content(repository, done, key) == data for key, data in guest.disks.items())


def test_full_incremental_and_differential(saved, guest, repository, rng):
    full = saved()
    assert full.head.kind is Kind.FULL
    assert codes(full) == {("no-base", "")}
    assert same(repository, full, guest)

    guest.write("vda", 5 * GRANULE, rng.randbytes(100))
    second = saved()
    assert (second.head.kind, second.head.parent) == (Kind.INCREMENTAL, full.head.point)
    assert second.bytes_read == GRANULE
    assert second.head.disk("vda").facts["read"] == "changes"
    assert not second.reasons
    assert same(repository, second, guest)

    guest.write("vdb", 0, rng.randbytes(100))
    differential = saved(kind=Kind.DIFFERENTIAL)
    assert differential.head.parent == full.head.point
    assert differential.bytes_read == 2 * GRANULE
    assert same(repository, differential, guest)
    # That of the former newest point goes with the next run: had this one failed, it were needed.
    assert len(guest.dirty) == 3
    for _ in range(3):
        saved()
    assert len(guest.dirty) == 3
    assert full.head.facts["change_ref"]["name"] in guest.dirty

    third = saved(kind=Kind.FULL)
    assert third.head.parent is None
    assert third.bytes_stored < 20_000


def test_what_a_point_says_of_itself(saved, guest, repository):
    done = saved()
    facts = done.head.facts
    assert facts["consistency"] == "filesystem"
    assert facts["frozen_s"] == 0.25
    assert facts["machine"] == {"id": guest.id, "name": "web"}
    assert facts["platform"] == "sim"
    assert set(facts["change_ref"]["disks"]) == {"vda", "vdb"}
    assert facts["bytes_read"] == done.bytes_read
    chain = repository.open_chain(done.chain)
    assert chain.object.kind == machines.OBJECT_KIND
    spec = configurations.from_document(
        json.loads(chain.attachment(done.head, configurations.SPEC)),
        chain.attachment(done.head, configurations.NATIVE).decode(),
        chain.attachment(done.head, configurations.NVRAM),
    )
    assert spec == guest.spec()


def test_cleaning_up_comes_before_anything_is_frozen(saved, guest, platform):
    guest.leftovers = ["ended a job", "removed a scratch file"]
    done = saved()
    assert done.cleaned == ("ended a job", "removed a scratch file")
    kinds = [kind for kind, _ in platform.calls]
    # The reference is kept only after the commit, while the point is open.
    assert kinds == ["reconcile", "open", "keep", "close"]


def test_a_lost_map_costs_one_disk_a_full_read(saved, guest, repository, rng):
    full = saved()
    guest.lost = {"vdb"}
    guest.write("vda", 0, rng.randbytes(10))
    guest.write("vdb", 0, rng.randbytes(10))
    done = saved()
    assert done.head.parent == full.head.point
    assert codes(done) == {("bitmap-lost", "vdb")}
    assert done.head.disk("vdb").facts["read"] == "all"
    assert done.head.disk("vdb").facts["degraded"][0]["code"] == "bitmap-lost"
    assert done.head.disk("vda").facts["read"] == "changes"
    assert done.bytes_stored < 3 * GRANULE
    assert same(repository, done, guest)


def test_a_map_that_forgets_is_noticed(saved, guest, repository, rng):
    saved()
    guest.forgetful = {"vda"}
    guest.write("vda", 0, rng.randbytes(30 * GRANULE))
    done = saved()
    assert codes(done) == {("sample-mismatch", "vda")}
    assert done.head.disk("vda").facts["read"] == "all"
    assert same(repository, done, guest)


def test_the_chance_of_an_oversight_is_stated(saved, guest, platform, repository, rng):
    saved()
    order = Order(("web",), disks=("vda",))
    (result,) = back_up_machines(platform, "sim", repository, order, Run(choose=rng, sample=10))
    sample = result.saved.samples["vda"]
    assert (sample.blocks, sample.unchanged) == (10, 41)
    assert sample.unseen(0.05) == pytest.approx(0.95**10)
    facts = result.saved.head.disk("vda").facts["sample"]
    assert facts["unseen"]["0.05"] == pytest.approx(0.95**10, abs=1e-6)


def test_a_base_without_a_moment(saved, guest, repository, platform, rng):
    saved()
    guest.dirty.clear()
    guest.write("vda", 0, rng.randbytes(10))
    lost = saved()
    assert codes(lost) == {("bitmap-lost", "vda"), ("bitmap-lost", "vdb")}
    assert same(repository, lost, guest)


def test_a_point_that_names_no_moment(saved, guest, repository, platform, monkeypatch, rng):
    monkeypatch.setattr(machines, "change_ref", lambda head: None)
    saved()
    guest.write("vda", 0, rng.randbytes(10))
    done = saved()
    assert codes(done) == {("no-reference", "vda"), ("no-reference", "vdb")}
    assert done.head.kind is Kind.INCREMENTAL
    assert same(repository, done, guest)


def test_disks_that_come_grow_and_shrink(saved, guest, repository, rng):
    saved(disks=("vda",))
    guest.disks["vda"] += rng.randbytes(3 * GRANULE)
    guest.disks["vdc"] = bytearray(rng.randbytes(GRANULE))
    done = saved()
    assert ("bitmap-lost", "vdb") in codes(done)
    assert same(repository, done, guest)
    del guest.disks["vda"][5 * GRANULE + 1 :]
    done = saved()
    assert codes(done) == {("disk-resized", "vda")}
    assert same(repository, done, guest)


def test_differential_without_a_full(saved, guest):
    done = saved(kind=Kind.DIFFERENTIAL)
    assert done.head.kind is Kind.FULL
    assert codes(done) == {("no-base", "")}


@pytest.mark.parametrize("order", list(SnapshotOrder))
def test_one_failure_does_not_stop_the_others(back_up, platform, order, rng, repository):
    guests = [platform.add(f"m{n}", {"vda": rng.randbytes(GRANULE)}) for n in range(5)]
    guests[1].failure = SourceBusy("(a migration)")
    guests[3].failure = RuntimeError("a bug")
    names = ("m0", "m1", "missing", "m2", "m3", "m4", "m0")
    results = back_up(*names, snapshots=order, parallel=3)
    assert [result.name for result in results] == ["m0", "m1", "missing", "m2", "m3", "m4"]
    kinds = [type(result.error) for result in results]
    nothing = type(None)
    assert kinds == [nothing, SourceBusy, NotFound, nothing, RuntimeError, nothing]
    for result in results:
        if result.saved is not None:
            assert same(repository, result.saved, platform._find(result.name))
    assert platform.opened == 0
    if order is SnapshotOrder.SERIAL:
        assert platform.opened_most <= 3
    assert len(repository.chain_ids()) == 5


def test_missing_disks_are_an_error_before_anything_is_opened(saved, guest, platform):
    with pytest.raises(NotFound, match="vdx"):
        saved(disks=("vda", "vdx"))
    assert not platform.calls


def test_a_chain_that_is_busy(saved, guest, repository, platform):
    done = saved()
    platform.calls.clear()
    with repository.open_chain(done.chain).exclusive("test"), pytest.raises(ChainBusy):
        saved()
    assert not platform.calls


def test_cancelling_leaves_nothing(platform, repository, guest, rng):
    asked = threading.Event()

    def cancelled():
        # The first question comes before the machine is opened, the next ones while it is copied.
        was, _ = asked.is_set(), asked.set()
        return was

    run = Run(choose=rng, cancelled=cancelled)
    (result,) = back_up_machines(platform, "sim", repository, Order(("web",)), run)
    assert isinstance(result.error, Cancelled)
    assert platform.calls[-1] == ("close", "web")
    assert not guest.dirty
    (chain,) = repository.all_chains()
    assert not chain.points()
    assert not chain.pack_ids()


def test_a_storage_that_fills_up(storage, platform, guest, clock, rng, repository):
    faults = [Fault(Verb.COMMIT, 1, Effect.FAIL, StorageFull)]
    faulty = Faulty(storage, clock=clock, choose=rng, faults=faults)
    opened = repositories.open_repository(faulty, None, repository.surroundings)
    (result,) = back_up_machines(platform, "sim", opened, Order(("web",)), Run(choose=rng))
    assert isinstance(result.error, StorageFull)
    assert not guest.dirty
    (result,) = back_up_machines(platform, "sim", opened, Order(("web",)), Run(choose=rng))
    assert same(repository, result.saved, guest)


def test_a_reference_that_cannot_be_kept_is_told(saved, guest, platform, monkeypatch):
    def refuse(point):
        raise SourceBusy("(it just went off)")

    monkeypatch.setattr(platform, "keep_reference", refuse)
    done = saved()
    assert ("reference-not-kept", "") in codes(done)
    done = saved()
    assert ("bitmap-lost", "vda") in codes(done)


def test_progress_is_shown(platform, repository, guest, rng):
    seen = {}
    run = Run(choose=rng, watch=seen.__setitem__)
    back_up_machines(platform, "sim", repository, Order(("web",)), run)
    assert set(seen) == {"web/vda", "web/vdb"}
    assert all(progress.done == progress.total for progress in seen.values())
    assert seen["web/vda"].total == SIZE


@pytest.mark.parametrize("fact", [None, 5, {}, {"name": 5}, "x"])
def test_a_reference_that_is_none(fact, saved, guest, repository, monkeypatch):
    done = saved()
    monkeypatch.setitem(done.head.facts, "change_ref", fact)
    assert machines.change_ref(done.head) is None
    assert machines.change_ref(None) is None
