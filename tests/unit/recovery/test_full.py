"""Restores: byte for byte, in a lease, nothing left behind after a failure."""

import contextlib
import json

import pytest

from ruchu.errors import (
    AlreadyExists,
    Cancelled,
    Damaged,
    NotFound,
    StorageFull,
    StorageReadOnly,
    UsageError,
)
from ruchu.model import configurations
from ruchu.model.machines import Placement
from ruchu.model.sources import Kind
from ruchu.protection.image import back_up_image
from ruchu.protection.machine import Order, back_up_machines
from ruchu.recovery import full
from ruchu.recovery.running import Run, leased
from ruchu.repository import locking, merging, repositories
from ruchu.storage.faulty import Effect, Fault, Faulty
from ruchu.storage.intercepting import Verb
from ruchu.units import MIB


@pytest.fixture
def path(tmp_path, rng):
    path = tmp_path / "image"
    with path.open("wb") as file:
        file.write(rng.randbytes(2 * MIB))
        file.seek(3 * MIB)
        file.write(rng.randbytes(MIB))
        file.truncate(6 * MIB + 5)
    return path


@pytest.fixture
def point(repository, path):
    """Return a chain and its only point."""
    head = back_up_image(repository, "o", path, Kind.FULL).head
    return repository.open_chain(head.chain), head


def test_an_image_comes_back(point, path, tmp_path):
    chain, head = point
    target = tmp_path / "target"
    for disk in ("0", "disk0"):
        done = full.restore_image(chain, head, disk, target, overwrite=True)
        assert target.read_bytes() == path.read_bytes()
        assert (done.size, done.leased) == (6 * MIB + 5, True)
        # Zeros are neither read nor written.
        assert done.bytes == 3 * MIB
        assert target.stat().st_blocks * 512 < 4 * MIB


def test_a_target_that_exists_stays(point, tmp_path):
    chain, head = point
    (tmp_path / "target").write_bytes(b"precious")
    with pytest.raises(AlreadyExists):
        full.restore_image(chain, head, "0", tmp_path / "target")
    with pytest.raises(UsageError):
        full.restore_image(chain, head, "0", tmp_path, overwrite=True)
    assert (tmp_path / "target").read_bytes() == b"precious"


def test_a_disk_that_is_not_there(point, tmp_path):
    with pytest.raises(NotFound, match="disk0"):
        full.restore_image(*point, "7", tmp_path / "target")


def test_damage_leaves_nothing_behind(repository, storage, point, clock, rng, tmp_path):
    chain, head = point
    faults = [Fault(Verb.READ, call, Effect.FLIP) for call in range(3, 50)]
    faulty = Faulty(storage, clock=clock, choose=rng, faults=faults)
    opened = repositories.open_repository(faulty, None, repository.surroundings)
    target = tmp_path / "target"
    target.write_bytes(b"precious")
    with pytest.raises(Damaged):
        full.restore_image(opened.open_chain(chain.id), head, "0", target, overwrite=True)
    assert target.read_bytes() == b"precious"
    assert not [each for each in tmp_path.iterdir() if "partial" in each.name]
    assert not locking.active_leases(storage, chain.id, chain.surroundings)


def test_cancelling_leaves_nothing_behind(point, tmp_path):
    with pytest.raises(Cancelled):
        full.restore_image(*point, "0", tmp_path / "target", run=Run(cancelled=lambda: True))
    assert not [each for each in tmp_path.iterdir() if "target" in each.name]


def test_a_point_that_was_deleted_meanwhile(point, tmp_path):
    chain, head = point
    with chain.exclusive("test") as lock:
        merging.delete_points(chain, lock, [head.stem])
    with pytest.raises(NotFound):
        full.restore_image(chain, head, "0", tmp_path / "target")
    assert not (tmp_path / "target").exists()


@pytest.mark.parametrize("error", [StorageReadOnly, StorageFull])
def test_a_storage_that_takes_no_lease(point, path, tmp_path, monkeypatch, error):
    chain, head = point

    def refuse(*_):
        raise error

    monkeypatch.setattr(chain.storage, "put", refuse)
    done = full.restore_image(chain, head, "0", tmp_path / "target")
    assert not done.leased
    assert (tmp_path / "target").read_bytes() == path.read_bytes()


def test_errors_within_a_lease_come_through(point):
    for kind in (StorageFull, KeyError):
        with pytest.raises(kind), leased(*point, "test"):
            raise kind


# -------------------------------------------------------------------------------------- machines


@pytest.fixture
def guest(platform, rng):
    return platform.add("web", {"vda": rng.randbytes(500_000) + bytes(MIB),
                                "vdb": rng.randbytes(100_000)})  # fmt: skip


@pytest.fixture
def machine_point(platform, guest, repository):
    (result,) = back_up_machines(platform, "sim", repository, Order(("web",)))
    return repository.open_chain(result.saved.chain), result.saved.head


def test_a_machine_comes_back(platform, guest, machine_point):
    platform.delete("web", disks=True)
    seen = []
    run = Run(watch=lambda label, progress: seen.append(label))
    done = full.restore_machine(platform, *machine_point, Placement(), run)
    assert done.machine == guest.id
    assert done.disks == ("vda", "vdb")
    assert platform.machines[guest.id].disks == guest.disks
    assert done.size == 600_000 + MIB
    assert done.bytes < 700_000
    assert seen == ["vda", "vdb"]
    assert platform.describe("web").nics == guest.spec().nics


def test_one_disk_under_another_name(platform, guest, machine_point):
    placement = Placement(name="copy", disks=("vdb",))
    full.restore_machine(platform, *machine_point, placement)
    assert platform.machines["id-copy"].disks == {"vdb": guest.disks["vdb"]}
    with pytest.raises(NotFound, match="vdz"):
        full.restore_machine(platform, *machine_point, Placement(name="x", disks=("vdz",)))


def test_a_machine_that_exists_stays(platform, guest, machine_point):
    with pytest.raises(AlreadyExists):
        full.restore_machine(platform, *machine_point, Placement())
    assert platform.machines[guest.id] is guest


def test_a_failure_makes_no_machine(platform, guest, machine_point):
    platform.delete("web", disks=True)
    run = Run(cancelled=lambda: True)
    with pytest.raises(Cancelled):
        full.restore_machine(platform, *machine_point, Placement(), run)
    assert not platform.machines


def test_disks_that_were_not_saved_are_not_restored(platform, guest, repository):
    (result,) = back_up_machines(platform, "sim", repository, Order(("web",), disks=("vdb",)))
    chain = repository.open_chain(result.saved.chain)
    assert [disk.key for disk in full.machine_of(chain, result.saved.head).disks] == ["vdb"]


def test_an_image_is_no_machine(platform, point):
    with pytest.raises(UsageError, match="no machine"):
        full.restore_machine(platform, *point, Placement())


@pytest.mark.parametrize("text", [b"no json", b"[]", b"{}", b'{"disks": 5}', b"\xff"])
def test_a_description_that_is_none(machine_point, monkeypatch, text):
    chain, head = machine_point
    monkeypatch.setattr(chain, "attachment", lambda head, name: text)
    with pytest.raises(Damaged):
        full.machine_of(chain, head)


def test_fields_of_later_releases_are_left_out(guest):
    document = configurations.to_document(guest.spec())
    document |= {"new": 1}
    document["disks"][0]["new"] = 1
    found = configurations.from_document(json.loads(json.dumps(document)), "", b"")
    assert found.disks == guest.spec().disks


def test_a_lease_keeps_the_point(point):
    chain, head = point
    with contextlib.ExitStack() as stack:
        stack.enter_context(leased(chain, head, "restore"))
        found = locking.active_leases(chain.storage, chain.id, chain.surroundings)
        assert set(found) == {head.point}
    assert not locking.active_leases(chain.storage, chain.id, chain.surroundings)
