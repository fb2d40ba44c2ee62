"""Each safety step matters: with any one of them taken away, a search finds what it protects from.

The search tells one story again and again (backups, deletions, compaction, purges), and cuts the
power or kills the process somewhere in it. Where two processes must meet, the meeting is directed.
"""

import contextlib
import datetime
import random
from dataclasses import replace

import pytest

from ruchu import errors
from ruchu.model.sources import Kind
from ruchu.repository import compaction, index, ledger, locking, merging, pack_writing
from ruchu.repository.chains import Chain
from ruchu.repository.reach import Reach
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing import simulated_disk, worlds
from ruchu.testing.worlds import BLOCK, World

ZERO = datetime.timedelta(0)
DAY = datetime.timedelta(days=1)
POOL = [random.Random(number).randbytes(BLOCK) for number in range(40)]
SIZE = 20 * BLOCK - 100
BROKEN = (AssertionError, errors.RuchuError)


@pytest.fixture(autouse=True)
def _small():
    with worlds.small():
        yield


def changed(content, blocks, choose):
    """Return the content with some blocks written, which come from the pool."""
    result = bytearray(content)
    for block in blocks:
        data = choose.choice(POOL)[: SIZE - block * BLOCK]
        result[block * BLOCK : block * BLOCK + len(data)] = data
    return bytes(result)


class Story:
    """Backups and merges, by a process that starts anew after each death."""

    def __init__(self, seed, tmp_path=None, ignore=()):
        self.world = World(seed, cache=tmp_path, ignore=ignore)
        self.choose = random.Random(f"story {seed}")
        self.server = self.world.start()

    def steps(self):
        """Yield what is done, one after the other."""
        yield self.full
        for _ in range(6):
            yield self.increment
        for _ in range(3):
            yield self.delete
            yield self.sweep
            yield self.purge
            yield self.increment

    def full(self):
        content = changed(bytes(SIZE), range(18), self.choose)
        self.world.back_up(self.server, Kind.FULL, {"vda": content})

    def increment(self):
        base = max(self.world.model, default=None)
        if base is None:
            self.full()
            return
        blocks = {self.choose.randrange(20) for _ in range(4)}
        content = changed(self.world.model[base]["vda"], blocks, self.choose)
        self.world.back_up(
            self.server, Kind.INCREMENTAL, {"vda": content}, base=base, changed={"vda": blocks}
        )

    def delete(self):
        stems = sorted(self.world.model)[:-1]
        wanted = self.choose.sample(stems, min(2, len(stems)))
        self.going = {stem: self.world.model.pop(stem) for stem in wanted}
        with self.server.chain.exclusive("merge") as lock:
            merging.delete_points(self.server.chain, lock, wanted, grace=ZERO)
        self.going = {}

    going: dict = {}  # noqa: RUF012 - set anew by whoever deletes

    def sweep(self):
        with self.server.chain.exclusive("merge") as lock:
            merging.sweep(self.server.chain, lock, grace=ZERO)

    def purge(self):
        with self.server.chain.exclusive("merge") as lock:
            merging.purge(self.server.chain, lock)

    def die(self, how):
        if how == "power":
            self.world.fail_power()
        else:
            self.world.kill(self.server)
        self.server = self.world.start()
        if self.going.keys() & set(self.server.chain.stems()):
            self.world.model |= self.going
        self.going = {}
        self.world.recover(self.server)

    def go_on(self):
        """Go on after a death, as if nothing had happened."""
        for step in (self.increment, self.delete, self.sweep, self.purge, self.increment):
            step()
        self.world.check(self.server)
        self.die("power")


def calls_of_story():
    story = Story(0)
    for step in story.steps():
        step()
    return story.world.disk.calls


def search(tmp_path, *, ignore=(), stories=40, how=("power", "kill")):
    """Tell stories that end at random places; AssertionError or a RuchuError if one ends badly."""
    end = calls_of_story()
    for seed in range(stories):
        story = Story(seed, tmp_path / str(seed) if tmp_path else None, ignore)
        story.world.disk.cut_power_after(story.choose.randrange(end))
        with contextlib.suppress(simulated_disk.PowerFailure):
            for step in story.steps():
                step()
        story.die(story.choose.choice(how))
        story.go_on()


def found(tmp_path, **options):
    with pytest.raises(BROKEN) as failure:
        search(tmp_path, **options)
    return failure.value


def test_without_a_mutation_nothing_is_found(tmp_path):
    search(tmp_path, stories=60)


@pytest.mark.parametrize("sync", list(simulated_disk.Sync))
def test_each_sync_matters(tmp_path, sync):
    found(tmp_path, ignore=[sync.value], how=("power",))


# Directed meetings. Each function tells what happens and checks it; `expect` tells it twice.


def expect(monkeypatch, tell, mutate):
    """Tell without the mutation, where all must be well, and with it, where it must be found."""
    tell()
    with monkeypatch.context() as patched:
        mutate(patched)
        with pytest.raises(BROKEN):
            tell()


def world_with(*starts):
    """Return a world and a server, with one full point for each place in the pool."""
    world = World(1)
    server = world.start()
    for start in starts:
        content = b"".join(POOL[start : start + 12])
        world.back_up(server, Kind.FULL, {"vda": content})
    return world, server


def merge(server, stems=(), grace=ZERO):
    with server.chain.exclusive("merge") as lock:
        if stems:
            merging.delete_points(server.chain, lock, stems, grace=grace)
        merging.sweep(server.chain, lock, grace=grace)
        merging.purge(server.chain, lock)


@contextlib.contextmanager
def reader_of(world, stem):
    server = world.start()
    with server.chain.reading(server.chain.head(stem), "restore"):
        yield server


def skipping(real, *skipped):
    """Return a function that does nothing at the calls of these numbers."""
    calls = iter(range(1_000_000))

    def call(*arguments):
        return None if next(calls) in skipped else real(*arguments)

    return call


def a_killed_deletion_of_a_point_that_is_read():
    for calls in range(0, 200, 3):
        world, server = world_with(0, 14)
        stem = min(world.model)
        with reader_of(world, stem):
            world.disk.cut_power_after(calls)
            with contextlib.suppress(simulated_disk.PowerFailure, errors.PointInUse):
                merge(server, [stem])
            world.kill(server)
            world.check(world.start())


def test_the_first_look_for_leases_matters(monkeypatch):
    # The second one would take the deletion back, if the process lives that long.
    def mutate(patched):
        real = merging._check_leases
        real_delete = merging.delete_points

        def delete_points(*arguments, **named):
            with pytest.MonkeyPatch.context() as inner:
                inner.setattr(merging, "_check_leases", skipping(real, 0))
                real_delete(*arguments, **named)

        patched.setattr(merging, "delete_points", delete_points)

    expect(monkeypatch, a_killed_deletion_of_a_point_that_is_read, mutate)


def a_reader_comes_between(monkeypatch):
    world, server = world_with(0, 14)
    stem = min(world.model)
    real = locking.ChainLock.confirm
    with contextlib.ExitStack() as stack, monkeypatch.context() as meeting:

        def confirm(lock):
            real(lock)
            if not stack._exit_callbacks:
                stack.enter_context(reader_of(world, stem))

        meeting.setattr(locking.ChainLock, "confirm", confirm)
        with contextlib.suppress(errors.PointInUse):
            merge(server, [stem])
        world.check(world.start())


def test_the_second_look_for_leases_matters(monkeypatch):
    def mutate(patched):
        patched.setattr(merging, "_check_leases", skipping(merging._check_leases, 1))

    expect(monkeypatch, lambda: a_reader_comes_between(monkeypatch), mutate)


def a_purge_while_a_deleted_point_is_read():
    """The deleter died between its record and its second look: both count, record and lease."""
    world, server = world_with(0, 14)
    stem = min(world.model)
    with reader_of(world, stem) as reader:
        with pytest.MonkeyPatch.context() as inner:
            inner.setattr(merging, "_check_leases", lambda *_: None)
            merge_only_deleting(server, stem)
        merge(server)
        assert world.read(reader.chain, stem) == world.model[stem]
    merge(server)
    del world.model[stem]
    world.check(server)
    assert not server.chain.stems(deleted=True)


def merge_only_deleting(server, stem):
    with server.chain.exclusive("merge") as lock:
        merging.delete_points(server.chain, lock, [stem], grace=ZERO)


def test_leases_matter_to_the_purge(monkeypatch):
    def mutate(patched):
        patched.setattr(locking, "active_leases", lambda *_: {})

    expect(monkeypatch, a_purge_while_a_deleted_point_is_read, mutate)


def test_deleted_points_that_stay_matter_to_the_purge(monkeypatch):
    def mutate(patched):
        patched.setattr(merging, "_postponed", lambda chain, due, staying, found: due)

    expect(monkeypatch, a_purge_while_a_deleted_point_is_read, mutate)


def a_merge_in_the_middle_of_a_backup(take_over):
    world, server = world_with(14)
    other = world.start()

    def meet(writer):
        real_check(writer)
        if take_over:
            world.host.kill(server.process)
        with contextlib.suppress(errors.ChainBusy):
            merge(other)

    real_check = PointWriter._check_packs
    with pytest.MonkeyPatch.context() as inner:
        inner.setattr(PointWriter, "_check_packs", meet)
        with contextlib.suppress(errors.LockLost):
            world.back_up(server, Kind.FULL, {"vda": b"".join(POOL[:12])})
    world.check(world.start())


def test_the_lock_of_the_writer_matters(monkeypatch):
    class NoLock:
        number = 0

        def confirm(self):
            pass

    def mutate(patched):
        patched.setattr(Chain, "exclusive", lambda chain, what: contextlib.nullcontext(NoLock()))

    expect(monkeypatch, lambda: a_merge_in_the_middle_of_a_backup(take_over=False), mutate)


def test_confirming_the_lock_matters(monkeypatch):
    def mutate(patched):
        patched.setattr(locking.ChainLock, "confirm", lambda lock: None)

    expect(monkeypatch, lambda: a_merge_in_the_middle_of_a_backup(take_over=True), mutate)


def a_compaction():
    for calls in (None, *range(0, 400, 7)):
        world, server = world_with(0, 6, 20)
        world.disk.cut_power_after(calls if calls is not None else 1_000_000)
        with contextlib.suppress(simulated_disk.PowerFailure):
            first = min(world.model)
            going = world.model.pop(first)
            merge(server, [first])
        world.fail_power()
        server = world.start()
        if first in server.chain.stems():
            world.model[first] = going
        merge(server)
        world.check(server)


def test_new_packs_are_durable_before_old_ones_go(monkeypatch):
    class Hasty(pack_writing.PackWriter):
        def finish(self):
            """Promise it."""

    def mutate(patched):
        patched.setattr(compaction, "PackWriter", Hasty)

    expect(monkeypatch, a_compaction, mutate)


def a_ledger_that_is_wrong():
    world, server = world_with(0, 14)
    with pytest.MonkeyPatch.context() as inner:
        real = ledger.Ledger.usage
        inner.setattr(
            ledger.Ledger, "usage", lambda one: [replace(usage, live=0) for usage in real(one)]
        )
        with contextlib.suppress(errors.Damaged):
            merge(server)
    world.check(world.start())


def test_following_all_maps_before_a_purge_matters(monkeypatch):
    def mutate(patched):
        patched.setattr(merging, "reach", lambda *_: Reach())

    expect(monkeypatch, a_ledger_that_is_wrong, mutate)


def the_same_content_again_while_it_waits_in_the_trash():
    world, server = world_with(0)
    first = min(world.model)
    merge(server, [first], grace=DAY)
    del world.model[first]
    world.back_up(server, Kind.FULL, {"vda": b"".join(POOL[:12])})
    world.clock.move(2 * DAY)
    merge(server)
    world.check(world.start())


def test_nothing_is_shared_with_what_waits_in_the_trash(monkeypatch):
    real = Chain.open_index

    def mutate(patched):
        def open_index(chain, alive):
            return real(chain, alive | chain.numbers(chain.pack_ids()))

        patched.setattr(Chain, "open_index", open_index)

    expect(monkeypatch, the_same_content_again_while_it_waits_in_the_trash, mutate)


def a_cache_that_knows_a_pack_that_never_was(cache):
    world = World(1, cache=cache)
    server = world.start()
    disks = {"vda": b"".join(POOL[:12])}
    with pytest.MonkeyPatch.context() as inner:

        def die(_):
            raise simulated_disk.PowerFailure

        inner.setattr(index, "_FRESH_ROWS_MAX", 0)  # the cache is written with every pack
        inner.setattr(pack_writing._OpenPack, "commit", die)
        with pytest.raises(simulated_disk.PowerFailure):
            world.back_up(server, Kind.FULL, disks)
    world.fail_power()
    assert (cache / server.repository.facts.id / world.chain_id / "index").exists()
    server = world.start()
    world.back_up(server, Kind.FULL, disks)
    world.check(world.start())


def test_forgetting_packs_that_are_not_there_matters(monkeypatch, tmp_path):
    turns = iter(range(10))

    def tell():
        a_cache_that_knows_a_pack_that_never_was(tmp_path / str(next(turns)))

    def mutate(patched):
        patched.setattr(index.DedupIndex, "retain", lambda self, alive: None)

    expect(monkeypatch, tell, mutate)


def a_backup_after_one_that_was_killed():
    """The power fails at last: the second point must not rest on what the first had not synced."""
    disks = {"vda": b"".join(POOL[:12])}
    done, calls = False, 0
    while not done:
        world = World(calls % 3)
        server = world.start()
        done = world.run_until(
            calls, lambda world=world, server=server: world.back_up(server, Kind.FULL, disks)
        )
        world.kill(server)
        world.pending, world.model = None, {}
        stem = world.back_up(world.start(), Kind.FULL, disks)
        world.fail_power()
        server = world.start()
        assert stem in server.chain.stems()
        assert world.read(server.chain, stem) == disks
        calls += 1
    assert calls > 100


def test_what_a_killed_writer_left_is_made_durable_before_it_is_shared(monkeypatch):
    def mutate(patched):
        patched.setattr(DirectoryStorage, "_make_durable", lambda storage, top: None)

    expect(monkeypatch, a_backup_after_one_that_was_killed, mutate)
