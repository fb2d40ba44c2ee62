import os
import threading

import histories
import pytest
from histories import FewProcesses

from ruchu import errors
from ruchu.repository import documents, holders, layout, locking, marks
from ruchu.repository.holders import Holder, HostProcesses

CHAIN = "ab" * 16
POINT = "cd" * 16


def hold(storage, around, what="backup"):
    return locking.exclusive(storage, CHAIN, what, around)


def test_one_writer_at_a_time(storage):
    one, two = histories.surroundings(), histories.surroundings(processes=FewProcesses(2))
    assert locking.holder_of(storage, CHAIN) is None
    with hold(storage, one) as lock:
        lock.confirm()
        held = locking.holder_of(storage, CHAIN)
        assert held.what == "backup"
        assert "process 1 on host, backup, since 2026" in str(held)
        with pytest.raises(errors.ChainBusy, match="process 1"), hold(storage, two):
            pass
    assert locking.holder_of(storage, CHAIN) is None
    for _ in range(5):
        with hold(storage, two):
            pass
    with pytest.raises(errors.LockLost):
        lock.confirm()
    assert len(list(storage.list(layout.locks(CHAIN)))) <= 4


def test_the_lock_of_a_dead_process_is_taken_over(storage):
    one, two = histories.surroundings(), histories.surroundings(processes=FewProcesses(2))
    with hold(storage, one) as lost:
        two.processes.dead.add(1)
        with hold(storage, two) as lock:
            lock.confirm()
            with pytest.raises(errors.LockLost):
                lost.confirm()
    # The one thought dead goes on, and releases what is not his any more: no harm.
    with hold(storage, one) as lock:
        lock.confirm()


def test_a_takeover_is_won_by_exactly_one(storage):
    for round_number in range(5):
        with hold(storage, histories.surroundings(processes=FewProcesses(99))):
            barrier = threading.Barrier(8)
            results, done = [], threading.Barrier(8)

            def race(pid, barrier=barrier, done=done, results=results):
                around = histories.surroundings(processes=FewProcesses(pid))
                around.processes.dead.add(99)
                barrier.wait()
                try:
                    with hold(storage, around) as lock:
                        lock.confirm()
                        results.append(pid)
                        done.wait()
                        return
                except errors.ChainBusy:
                    pass
                done.wait()

            threads = [threading.Thread(target=race, args=(pid,)) for pid in range(1, 9)]
            for thread in threads:
                thread.start()
            for thread in threads:
                thread.join()
            assert len(results) == 1, round_number


def test_a_lock_is_broken_by_an_administrator(storage):
    assert locking.break_lock(storage, CHAIN) is None
    with hold(storage, histories.surroundings()) as lock:
        assert locking.break_lock(storage, CHAIN).holder.pid == 1
        with pytest.raises(errors.LockLost):
            lock.confirm()
        with hold(storage, histories.surroundings(processes=FewProcesses(2))):
            pass


def test_a_lock_that_vanishes_between_two_looks(storage, monkeypatch):
    with hold(storage, histories.surroundings()):
        monkeypatch.setattr(locking, "_held", lambda *args: None)
        with hold(storage, histories.surroundings()) as lock:
            lock.confirm()


def test_foreign_files_among_the_locks_are_ignored(storage):
    storage.put(f"{layout.locks(CHAIN)}/README", b"")
    with hold(storage, histories.surroundings()) as lock:
        lock.confirm()
        assert lock.number == 1


def test_leases(storage):
    around = histories.surroundings()
    other = histories.surroundings(processes=FewProcesses(2))
    storage.put(f"{layout.leases(CHAIN)}/README", b"")
    with (
        locking.lease(storage, CHAIN, POINT, "restore", around),
        locking.lease(storage, CHAIN, POINT, "verify", other),
    ):
        found = locking.active_leases(storage, CHAIN, around)
        assert len(found[POINT]) == 2
        assert "process 2" in locking.describe(found[POINT])
        around.processes.dead.add(2)
        assert [held.what for held in locking.active_leases(storage, CHAIN, around)[POINT]] == [
            "restore"
        ]
    assert locking.active_leases(storage, CHAIN, around) == {}


# Who is dead.


def test_this_process_lives():
    host = HostProcesses()
    assert not host.is_dead(host.this())
    assert host.this().pid == os.getpid()
    assert holders.parse("x", host.this().fields()) == host.this()


def test_who_is_surely_dead(monkeypatch):
    host = HostProcesses()
    me = host.this()
    boot, _, namespace = me.boot.partition("/")
    reused = Holder(me.host, me.boot, me.pid, me.started + 1)
    gone = Holder(me.host, me.boot, 1 << 22, 5)
    rebooted = Holder(me.host, f"other/{namespace}", me.pid, me.started)
    assert all(map(host.is_dead, (reused, gone, rebooted)))
    elsewhere = Holder("other/1", "other/x", 1, 1)
    contained = Holder(me.host, f"{boot}/pid:[1]", 1 << 22, 5)
    assert not any(map(host.is_dead, (elsewhere, contained)))


def test_a_zombie_is_dead():
    child = os.posix_spawn("/bin/true", ["true"], {})
    started = None
    while (
        started is None or holders._read(f"/proc/{child}/stat").rpartition(")")[2].split()[0] != "Z"
    ):
        started = int(holders._read(f"/proc/{child}/stat").rpartition(")")[2].split()[19])
    me = HostProcesses().this()
    assert HostProcesses().is_dead(Holder(me.host, me.boot, child, started))
    os.waitpid(child, 0)


def test_a_host_without_namespaces(monkeypatch):
    def refuse(self):
        raise OSError

    monkeypatch.setattr(holders.Path, "readlink", refuse)
    assert holders._boot().endswith("/")
    assert holders._read("/nowhere") == ""


@pytest.mark.parametrize(
    "value", [{}, {"host": "x", "boot": "y", "pid": "z", "started": 1},
              {"host": "x", "boot": "y", "pid": None, "started": 1}],
)  # fmt: skip
def test_a_holder_that_says_nothing_is_damage(value):
    with pytest.raises(errors.Damaged):
        holders.parse("x", value)


# Marks.


def test_marks(storage):
    clock = histories.Clock()
    now = clock.now()
    later, latest = now + histories.datetime.timedelta(1), now + histories.datetime.timedelta(2)
    for _ in range(2):
        marks.star(storage, CHAIN, POINT, now)
        for until in (latest, later):
            marks.lock(storage, CHAIN, POINT, until, now)
    storage.put(f"{layout.marks(CHAIN)}/README", b"")
    found = marks.all_marks(storage, CHAIN)
    assert found == {POINT: marks.Marks(starred=True, locked_until=latest)}
    assert found[POINT].keeps(latest)
    locked = marks.Marks(locked_until=later)
    assert locked.keeps(now)
    assert not locked.keeps(later)
    assert sorted(lock.until for lock in marks.locks(storage, CHAIN)) == [later, latest]
    for info in storage.list(layout.marks(CHAIN)):
        if not info.name.endswith("README"):
            marks.check(info.name, storage.get(info.name, 1 << 20))
    marks.unstar(storage, CHAIN, POINT)
    assert not marks.all_marks(storage, CHAIN)[POINT].starred
    marks.remove_all(storage, CHAIN, POINT)
    assert marks.all_marks(storage, CHAIN) == {}


def test_a_lock_with_no_date_never_ends(storage):
    storage.put(layout.lock_until(CHAIN, POINT, "20269999T000000Z"), b"damaged")
    now = histories.Clock().now()
    assert marks.all_marks(storage, CHAIN)[POINT].keeps(now.replace(year=9000))


def mark(kind, **fields):
    return documents.sealed(kind, {"point": POINT, "until": "2026-11-22T18:00:00.000000Z"} | fields)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        (f"{POINT}.lock-20261122T180001Z", mark("ruchu-lock-until")),
        (f"{POINT}.lock-20261122T180000Z", mark("ruchu-lock-until", point="ef" * 16)),
        (f"{POINT}.lock-20261122T180000Z", mark("ruchu-lock-until", until="x")),
        (f"{POINT}.lock-20261122T180000Z", mark("ruchu-lock-until", until=5)),
        (f"{POINT}.lock-20261122T180000Z", mark("ruchu-star")),
        (f"{POINT}.star", mark("ruchu-star", point=5)),
        (f"{POINT}.odd", mark("ruchu-star")),
    ],
    ids=range(7),
)
def test_a_mark_that_is_not_what_was_written(name, data):
    marks.check(f"{POINT}.lock-20261122T180000Z.json", mark("ruchu-lock-until"))
    with pytest.raises(errors.Damaged):
        marks.check(f"{name}.json", data)
