import contextlib
import datetime
import random

import histories
import pytest
from histories import NO_GRACE, noisy

from ruchu import errors
from ruchu.repository import compaction, layout, ledger, locking, marks, merging, moves, trash
from ruchu.repository.ledger import Usage
from ruchu.testing.simulated_disk import PowerFailure

DAY = datetime.timedelta(days=1)


def names(history, suffix):
    found = history.storage.list(layout.chain(history.chain.id))
    return [info.name for info in found if info.name.endswith(suffix)]


def undelete_everything(history):
    for record in trash.read_all(history.storage, history.chain.id):
        history.storage.delete(layout.trash_record(history.chain.id, record.id))


@pytest.mark.parametrize("seed", range(4))
def test_random_histories_leave_every_point_whole(history, seed):
    rng = random.Random(seed)
    compacted = 0
    for step in range(30):
        choice = rng.random()
        deletable = sorted(history.contents)
        if len(deletable) < 3 or choice < 0.5:
            history.random_backup(rng, rng.choice([1, 4, 30]))
        else:
            history.delete(*rng.sample(deletable, rng.choice([1, 1, 2])))
            compacted += history.sweep().bytes_copied
            history.purge()
        if rng.random() < 0.3:
            history.reopen()
        if step % 3 == 0:
            history.check()
    history.reopen()
    history.check()
    assert compacted


def test_what_nobody_needs_is_gone_at_the_end(plain):
    rng = random.Random(3)
    for _ in range(12):
        plain.random_backup(rng, 6)
    for stem in sorted(plain.contents)[:-1]:
        plain.delete(stem)
        plain.sweep()
        plain.purge()
    plain.check()
    plain.delete(*plain.contents)
    plain.sweep()
    plain.purge()
    plain.sweep()
    plain.purge()
    assert names(plain, ".pack") == names(plain, ".moved") == []
    assert trash.read_all(plain.storage, plain.chain.id) == []


def test_a_deletion_is_taken_back_before_the_purge(history):
    rng = random.Random(7)
    for _ in range(8):
        history.random_backup(rng, 6)
    gone = {}
    for stem in sorted(history.contents)[:4]:
        gone |= history.delete(stem, grace=DAY)
        history.sweep(grace=DAY)
    assert history.purge() == merging.Swept()
    undelete_everything(history)
    history.contents |= gone
    history.check()
    # And life goes on: what was compacted meanwhile must not be taken for what is needed.
    for _ in range(4):
        stem = min(history.contents)
        history.delete(stem)
        history.sweep()
        history.purge()
        history.check()
        history.random_backup(rng, 3)
    history.reopen()
    history.check()


def test_a_point_in_the_trash_can_be_read_until_the_purge(plain):
    head = plain.backup(noisy(1, 2, 3))
    plain.backup(noisy(1, 2, salt=1))
    gone = plain.delete(head.stem, grace=DAY)
    plain.sweep(grace=DAY)
    assert plain.read(head.stem) == gone[head.stem]
    assert plain.chain.stems(deleted=True) == [head.stem]
    plain.clock.pass_time(days=1)
    purged = plain.purge()
    assert purged.points_purged == 1
    assert plain.chain.stems(deleted=True) == []
    plain.check()


def test_points_that_must_stay_stay(plain):
    starred, locked, read, free = (plain.backup(noisy(n)) for n in range(4))
    chain, now = plain.chain, plain.clock.now()
    marks.star(plain.storage, chain.id, starred.point, now)
    marks.lock(plain.storage, chain.id, locked.point, now + DAY, now)
    with pytest.raises(errors.PointProtected, match="starred"):
        plain.delete(free.stem, starred.stem)
    with pytest.raises(errors.PointProtected, match="locked until 2026-11-23"):
        plain.delete(locked.stem)
    with chain.reading(read, "restore"), pytest.raises(errors.PointInUse, match="restore"):
        plain.delete(read.stem)
    with pytest.raises(errors.NotFound):
        plain.delete(free.stem[:-1] + "g")
    plain.check()
    plain.clock.pass_time(days=1)
    plain.delete(locked.stem, read.stem)
    plain.purge()
    marks.unstar(plain.storage, chain.id, starred.point)
    assert marks.all_marks(plain.storage, chain.id) == {}
    plain.check()


def test_a_reader_that_comes_while_a_point_is_deleted_wins(plain, monkeypatch):
    head = plain.backup(noisy(1))
    write = trash.write

    def late(*args):
        write(*args)
        stack.enter_context(
            locking.lease(plain.storage, plain.chain.id, head.point, "restore", plain.surroundings)
        )

    monkeypatch.setattr(trash, "write", late)
    with contextlib.ExitStack() as stack:
        with pytest.raises(errors.PointInUse):
            plain.delete(head.stem)
        assert plain.chain.stems() == [head.stem]
    monkeypatch.undo()
    plain.delete(head.stem)
    with pytest.raises(errors.NotFound), plain.chain.reading(head, "restore"):
        pass


def test_a_leased_point_is_not_purged(plain):
    head = plain.backup(noisy(1))
    plain.backup(noisy(2))
    plain.delete(head.stem)
    with locking.lease(plain.storage, plain.chain.id, head.point, "restore", plain.surroundings):
        assert plain.purge() == merging.Swept()
    assert plain.purge().points_purged == 1


def test_a_trash_that_holds_what_is_needed_destroys_nothing(plain):
    plain.backup(noisy(1, 2, 3))
    record = trash.new_record(
        plain.surroundings.entropy, plain.clock.now(), "tampered",
        packs=tuple(plain.chain.pack_ids()[:1]),
    )  # fmt: skip
    trash.write(plain.storage, plain.chain.id, record, plain.clock.now())
    with pytest.raises(errors.Damaged):
        plain.purge()
    plain.storage.delete(layout.trash_record(plain.chain.id, record.id))
    plain.check()


def test_a_purge_interrupted_anywhere_is_completed_by_the_next(disk, plain):
    rng = random.Random(5)
    for _ in range(6):
        plain.random_backup(rng, 5)
    for stem in sorted(plain.contents)[:3]:
        plain.delete(stem, grace=DAY)
        plain.sweep(grace=DAY)
    plain.clock.pass_time(days=2)
    for calls in range(0, 4000, 45):
        disk.cut_power_after(calls)
        try:
            plain.purge()
            finished = True
        except PowerFailure:
            finished = False
        disk.crash()
        plain.processes.dead.add(plain.processes.holder.pid)
        plain.processes = plain.surroundings.processes
        plain.reopen()
        plain.check()
        if finished:
            break
    assert finished
    assert trash.read_all(plain.storage, plain.chain.id) == []


def test_a_sweep_interrupted_anywhere_harms_nothing(disk, plain):
    rng = random.Random(6)
    for _ in range(8):
        plain.random_backup(rng, 5)
    plain.delete(*sorted(plain.contents)[:4])
    for calls in range(5, 4000, 61):
        disk.cut_power_after(calls)
        try:
            plain.sweep()
            finished = True
        except PowerFailure:
            finished = False
        disk.crash()
        plain.processes.dead.add(plain.processes.holder.pid)
        plain.reopen()
        plain.check()
        if finished:
            break
    assert finished
    plain.purge()
    plain.check()
    plain.sweep()
    plain.purge()
    plain.check()


def test_a_table_left_by_a_crash_does_not_mislead_its_process(plain):
    """The table of a sweep that crashed is seen by a purge, and replaced by the next sweep."""
    rng = random.Random(8)
    for _ in range(8):
        plain.random_backup(rng, 5)
    plain.delete(*sorted(plain.contents)[:4])
    with plain.chain.exclusive("sweep") as lock, pytest.MonkeyPatch.context() as patch:
        patch.setattr(trash, "write", lambda *args: None)
        merging.sweep(plain.chain, lock, grace=NO_GRACE)
    assert names(plain, ".moved")
    plain.purge()
    plain.sweep()
    plain.purge()
    plain.check()


def test_small_packs_are_joined(plain):
    heads = [plain.backup(noisy(n)) for n in range(8)]
    before = len(plain.chain.pack_ids())
    plain.delete(heads[0].stem)
    swept = plain.sweep()
    plain.purge()
    assert swept.bytes_copied > 0
    assert len(plain.chain.pack_ids()) < before
    plain.check()


def test_a_protected_pack_is_not_compacted():
    usages = [Usage(1, 10, 100), Usage(2, 10, 100), Usage(3, 0, 100), Usage(4, 90, 100)]
    assert compaction.choose(usages[:2], lambda pack: pack == 2) == [1]
    many = [*usages, *(Usage(n, 100, 100) for n in range(5, 5 + compaction.SMALL_PACKS_MAX))]
    chosen = compaction.choose(many, lambda pack: pack == 5)
    assert sorted(chosen) == [1, 2, 4, *range(6, 5 + compaction.SMALL_PACKS_MAX)]


def test_a_damaged_pack_is_not_compacted(disk, plain):
    heads = [plain.backup(noisy(*range(n, n + 4))) for n in range(6)]
    for name in names(plain, ".pack"):
        disk.flip_bit("/storage", name, 8 * 200)
    plain.delete(*(head.stem for head in heads[:4]))
    swept = plain.sweep()
    assert swept.damaged


def test_records_move_through_several_tables(history):
    rng = random.Random(11)
    for _ in range(3):
        history.random_backup(rng, 30)
    hops = 0
    for _ in range(25):
        history.random_backup(rng, 3)
        history.delete(sorted(history.contents)[1])
        history.sweep()
        history.purge()
        for name in names(history, ".moved"):
            hops = max(hops, hops_from(history.chain, name))
    history.check()
    assert hops > 1


def hops_from(chain, name):
    number = chain.table.number(bytes.fromhex(layout.stem_of(name, ".moved")))
    alive = chain.numbers(chain.pack_ids())
    hops = 0
    level = {number} - alive
    while level:
        hops += 1
        assert hops <= moves.HOPS_MAX
        tables = [chain.reader.moves_of(n) for n in level]
        level = {
            int(n) for t in tables if t is not None for n in chain.table.numbers(list(t.targets))
        } - alive
    return hops


def test_marks_of_a_purged_point_go_even_if_they_are_immutable(plain):
    head = plain.backup(noisy(1))
    plain.backup(noisy(2))
    now = plain.clock.now()
    mark = marks.lock(plain.storage, plain.chain.id, head.point, now + DAY, now)
    plain.storage.protect(mark)
    plain.storage.protect(layout.head(plain.chain.id, head.stem))
    plain.clock.pass_time(days=2)
    plain.delete(head.stem)
    plain.purge()
    assert marks.all_marks(plain.storage, plain.chain.id) == {}


def test_a_ledger_without_a_cache(storage, small_packs):
    history = histories.History(storage)
    history.backup(noisy(1, 2))
    with ledger.Ledger(history.chain) as counts:
        counts.sync()
        assert all(usage.live == usage.total for usage in counts.usage())
