import datetime
import os
import random
import subprocess

import histories
import pytest
from histories import noisy

from ruchu import errors
from ruchu.repository import layout, marks, protecting
from ruchu.storage.directory import DirectoryStorage

DAY = datetime.timedelta(days=1)


@pytest.fixture
def on_disk(tmp_path, small_packs):
    """A chain on the real file system; no flag outlives the test."""
    root = tmp_path / "storage"
    root.mkdir()
    if not flags_work(tmp_path / "probe"):
        pytest.skip("no immutable flags here (not root, or not ext4, xfs, btrfs)")
    history = histories.History(DirectoryStorage(root), cache=tmp_path / "cache")
    history.root = root
    try:
        yield history
    finally:
        subprocess.run(["chattr", "-R", "-i", str(root)], check=True)


def flags_work(probe):
    probe.touch()
    try:
        if subprocess.run(
            ["chattr", "+i", str(probe)], check=False, capture_output=True
        ).returncode:
            return False
        return (
            "i"
            in subprocess.run(
                ["lsattr", str(probe)], check=True, capture_output=True, text=True
            ).stdout.split()[0]
        )
    finally:
        subprocess.run(["chattr", "-i", str(probe)], check=False, capture_output=True)


def protected(history):
    found = history.storage.list(layout.chain(history.chain.id))
    return {info.name for info in found if history.storage.is_protected(info.name)}


def needed_packs(history, head):
    """Return the packs of a point the slow way: those without which it does not read."""
    found = set()
    for number in history.chain.numbers(history.chain.pack_ids()):
        name = layout.pack(history.chain.id, history.chain.table.id(number).hex())
        path = history.root / name
        path.rename(path.with_suffix(".away"))
        history.chain.storage.close()
        try:
            history.read(head.stem)
        except errors.RuchuError:
            found.add(name)
        finally:
            path.with_suffix(".away").rename(path)
    return found


def test_all_that_a_point_needs_is_immutable(on_disk):
    history = on_disk
    rng = random.Random(1)
    for _ in range(8):
        history.random_backup(rng, 10)
    stems = sorted(history.contents)
    for stem in stems[:3]:
        history.delete(stem)
        history.sweep()
        history.purge()
    head = history.chain.head(stems[4])
    packs = needed_packs(history, head)
    now = history.clock.now()
    done = protecting.protect_point(history.chain, head, now + DAY)
    assert done.enforced
    found = protected(history)
    assert done.protected == len(found)
    assert {name for name in found if name.endswith(".pack")} == packs
    assert layout.head(history.chain.id, head.stem) in found
    assert layout.chain_document(history.chain.id) in found
    assert any(name.startswith(layout.marks(history.chain.id)) for name in found)
    for name in found:
        with pytest.raises(PermissionError):
            os.unlink(history.root / name)
    assert protecting.protect_point(history.chain, head, now + DAY).protected == len(found)
    # Life goes on around it.
    for stem in stems[5:7]:
        history.delete(stem)
        history.sweep()
        history.purge()
    assert found <= protected(history)
    history.reopen()
    history.check()
    release_all(history, found)
    history.delete(head.stem)
    history.sweep()
    history.purge()
    history.check()


def release_all(history, found):
    """Before its time nothing is released, after it all."""
    assert protecting.release_ended(history.chain, history.clock.now()) == 0
    history.clock.pass_time(days=2)
    assert protecting.release_ended(history.chain, history.clock.now()) == len(found)
    assert protected(history) == set()
    assert protecting.release_ended(history.chain, history.clock.now()) == 0


def test_what_a_longer_lock_needs_stays(plain):
    one, two = plain.backup(noisy(1, 2)), plain.backup(noisy(3))
    now = plain.clock.now()
    protecting.protect_point(plain.chain, one, now + DAY)
    protecting.protect_point(plain.chain, two, now + 3 * DAY)
    longer = protecting.protect_point(plain.chain, one, now + 2 * DAY)
    assert longer.enforced
    before = protected(plain)
    plain.clock.pass_time(days=1, hours=1)
    assert protecting.release_ended(plain.chain, plain.clock.now()) == 1  # the shorter mark
    plain.clock.pass_time(days=1)
    assert protecting.release_ended(plain.chain, plain.clock.now()) == 2  # the other, the head
    left = protected(plain)
    assert layout.head(plain.chain.id, two.stem) in left
    assert {name for name in left if ".pack" in name} == {n for n in before if ".pack" in n}
    plain.clock.pass_time(days=1)
    assert protecting.release_ended(plain.chain, plain.clock.now()) == len(left)
    assert protected(plain) == set()


def test_tables_of_moved_packs_are_protected(plain):
    rng = random.Random(2)
    for _ in range(10):
        plain.random_backup(rng, 10)
    for stem in sorted(plain.contents)[:6]:
        plain.delete(stem)
        plain.sweep()
        plain.purge()
    head = plain.chain.latest()
    first = plain.chain.head(plain.chain.stems()[0])
    now = plain.clock.now()
    protecting.protect_point(plain.chain, first, now + DAY)
    found = protected(plain)
    assert any(name.endswith(".moved") for name in found)
    # Whatever is not protected may vanish, and the point still reads.
    for info in list(plain.storage.list(layout.packs(plain.chain.id))):
        if info.name not in found:
            plain.storage.delete(info.name)
    plain.reopen()
    assert plain.read(first.stem) == plain.contents[first.stem]
    assert head is not None


def test_a_storage_that_ignores_flags_is_detected(disk, plain):
    head = plain.backup(noisy(1))
    disk.flags_ignored = True
    until = plain.clock.now() + DAY
    with pytest.raises(errors.ImmutableNotApplied, match="locked by Ruchu alone") as caught:
        protecting.protect_point(plain.chain, head, until)
    assert ".lock-" in str(caught.value)
    done = protecting.protect_point(plain.chain, head, until, require=False)
    assert not done.enforced
    assert done.protected == 0
    assert done.reason
    assert layout.head(plain.chain.id, head.stem) in done.refused
    # The lock of Ruchu stands.
    assert marks.all_marks(plain.storage, plain.chain.id)[head.point].locked_until == until
    with pytest.raises(errors.PointProtected):
        plain.delete(head.stem)
    assert protecting.release_ended(plain.chain, until) == 0


def test_a_storage_without_flags_says_so(disk, plain):
    head = plain.backup(noisy(1))
    disk.without_flags = True
    until = plain.clock.now() + DAY
    done = protecting.protect_point(plain.chain, head, until, require=False)
    assert not done.enforced
    with pytest.raises(errors.ImmutableNotApplied):
        protecting.protect_point(plain.chain, head, until)


def test_objects_that_alone_could_not_be_protected_are_named(plain, monkeypatch):
    head = plain.backup(noisy(1))
    protect = plain.storage.protect

    def picky(name):
        if name.endswith(".pack"):
            raise errors.ImmutableNotApplied(name)
        protect(name)

    monkeypatch.setattr(plain.storage, "protect", picky)
    done = protecting.protect_point(plain.chain, head, plain.clock.now() + DAY, require=False)
    assert done.protected == 3  # the mark, the head, chain.json
    assert all(name.endswith(".pack") for name in done.refused)
    assert done.refused


def test_a_deleted_point_is_not_locked(plain):
    head = plain.backup(noisy(1))
    plain.backup(noisy(2))
    plain.delete(head.stem, grace=DAY)
    with pytest.raises(errors.NotFound):
        protecting.protect_point(plain.chain, head, plain.clock.now() + DAY)
    assert marks.all_marks(plain.storage, plain.chain.id) == {}


def test_a_point_locked_in_the_trash_keeps_its_head(plain):
    old, gone = plain.backup(noisy(1)), plain.backup(noisy(2))
    now = plain.clock.now()
    protecting.protect_point(plain.chain, old, now + DAY)
    plain.delete(gone.stem, grace=30 * DAY)
    marks.lock(plain.storage, plain.chain.id, gone.point, now + 9 * DAY, now)
    name = layout.head(plain.chain.id, gone.stem)
    plain.storage.protect(name)
    plain.clock.pass_time(days=2)
    assert protecting.release_ended(plain.chain, plain.clock.now()) > 0
    assert protected(plain) == {name}


def test_what_vanishes_meanwhile_is_no_error(plain, monkeypatch):
    head = plain.backup(noisy(1))
    protecting.protect_point(plain.chain, head, plain.clock.now() + DAY)
    plain.clock.pass_time(days=2)
    is_protected = plain.storage.is_protected

    def vanished(name):
        if name.endswith(".pack"):
            raise errors.ObjectMissing(name)
        return is_protected(name)

    monkeypatch.setattr(plain.storage, "is_protected", vanished)
    assert protecting.release_ended(plain.chain, plain.clock.now()) == 3


def test_a_damaged_locked_point_keeps_all_flags(disk, plain):
    short, long = plain.backup(noisy(1)), plain.backup(noisy(2))
    now = plain.clock.now()
    protecting.protect_point(plain.chain, short, now + DAY)
    protecting.protect_point(plain.chain, long, now + 9 * DAY)
    before = protected(plain)
    disk.flip_bit("/storage", layout.head(plain.chain.id, long.stem), 100)
    plain.clock.pass_time(days=2)
    with pytest.raises(errors.Damaged):
        protecting.release_ended(plain.chain, plain.clock.now())
    assert protected(plain) == before
