"""Three machines at once: serial, parallel, behind a barrier, and one that fails."""

import contextlib

import pytest

from ruchu.errors import InvalidName, NotFound, SourceBusy, UsageError
from ruchu.model.sources import Consistency
from ruchu.platforms.contract import OpenRequest
from ruchu.platforms.libvirt import checkpoints
from ruchu.testing import truth
from ruchu.testing.guests.guest import GuestDisk, booted
from ruchu.units import MIB

pytestmark = [pytest.mark.system, pytest.mark.slow]


@pytest.fixture(scope="module")
def guests(libvirt_uri):
    with contextlib.ExitStack() as stack:
        made = [
            stack.enter_context(booted(libvirt_uri, [GuestDisk("vda", size=64 * MIB)]))
            for _ in range(3)
        ]
        yield made


def requests(guests, owner):
    return [OpenRequest(guest.uuid, owner) for guest in guests]


def left(guest, owner):
    with guest.connect() as connection:
        return checkpoints.ours(connection.lookupByUUIDString(guest.uuid), owner)


@pytest.mark.parametrize("order", ["serial", "parallel", "barrier"])
def test_three_machines(platform, guests, owner, tmp_path, order):
    with platform.open_points(requests(guests, owner), order) as points:
        assert [point.spec.id for point in points] == [guest.uuid for guest in guests]
        for guest, point in zip(guests, points, strict=True):
            assert point.consistency is Consistency.FILESYSTEM
            assert 0 < point.frozen_s < 10
            assert guest.agent("guest-fsfreeze-status") == "thawed"
            truth.save(point.disks[0], tmp_path / guest.name)
            assert truth.same(tmp_path / guest.name, point.disks[0].uri)
        platform.keep_reference(points[1])
        kept = points[1].change_ref.name
    assert [left(guest, owner) for guest in guests] == [[], [kept], []]
    with platform.open_points([OpenRequest(guests[1].uuid, owner)], "serial"):
        pass
    assert left(guests[1], owner) == []


@pytest.mark.parametrize("order", ["serial", "parallel", "barrier"])
def test_one_that_fails_does_not_stop_the_others(platform, guests, owner, order):
    wanted = requests(guests, owner)
    wanted[1] = OpenRequest(guests[1].uuid, owner, disks=("vdz",))
    wanted.append(OpenRequest("no-such-machine", owner))
    with platform.open_points(wanted, order) as points:
        assert isinstance(points[1], NotFound)
        assert isinstance(points[3], NotFound)
        assert points[0].spec.id == guests[0].uuid
        assert points[2].spec.id == guests[2].uuid
    for guest in guests:
        assert guest.agent("guest-fsfreeze-status") == "thawed"
        assert left(guest, owner) == []


def test_a_group_is_one_moment(platform, guests, owner):
    """What one guest wrote after the barrier began is in no point."""
    with platform.open_points(requests(guests, owner), "barrier") as points:
        assert all(point.frozen_s >= max(p.frozen_s for p in points) / 3 for point in points)


def test_odd_requests(platform, guests):
    with pytest.raises(UsageError), platform.open_points([], "sideways"):
        pass
    with platform.open_points([OpenRequest(guests[0].uuid, "../x")], "serial") as (point,):
        assert isinstance(point, InvalidName)
    with platform.open_points([], "barrier") as points:
        assert points == []


def test_a_machine_is_read_once_at_a_time(platform, guests, owner):
    request = OpenRequest(guests[0].uuid, owner)
    with platform.open_points([request, request], "parallel") as (first, second):
        assert not isinstance(first, BaseException)
        assert isinstance(second, SourceBusy)
        with pytest.raises(SourceBusy):
            platform.reconcile(guests[0].name, owner)
        first.disks[0].read_into(0, memoryview(bytearray(4096)))
    assert platform.reconcile(guests[0].name, owner) == []
