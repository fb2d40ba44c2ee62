"""What a machine wrote, kept as a point: exactly that, on top of the point it ran from."""

import pytest
from instant_world import Exports, Guest
from test_instants import contents, order

from ruchu.errors import ChainBusy
from ruchu.model.sources import Kind
from ruchu.recovery import keeping
from ruchu.recovery.instant_records import Instants
from ruchu.recovery.instants import InstantRestores
from ruchu.recovery.running import Run, leased
from ruchu.repository import locking, merging


@pytest.fixture
def world(platform, saved, tmp_path, short):
    known = Instants(tmp_path / "instants", short / "run")
    exports = Exports(known, *saved)
    restores = InstantRestores(known, exports.launch)
    started = restores.start(platform, *saved, order()).instant
    yield restores, started
    exports.close()


def test_it_is_kept_exactly(world, platform, saved):
    chain, head = saved
    restores, started = world
    before = contents(chain, head)
    with Guest(platform.machines[started.machine], before, 3) as guest:
        guest.wait_for(100)
    kept = []
    with leased(chain, head, "keep"):
        restores.stop(
            platform, started, lambda: kept.append(keeping.keep(chain, head, started, Run()))
        )
    (point,) = kept
    assert contents(chain, point) == guest.model
    assert contents(chain, head) == before
    assert (point.kind, point.parent) == (Kind.INCREMENTAL, head.point)
    assert set(point.attachments) == set(head.attachments)
    # The point that it ran from may go; what was kept stays what it is.
    with chain.exclusive("delete") as lock:
        merging.delete_points(chain, lock, [head.stem])
        merging.sweep(chain, lock)
    assert contents(chain, point) == guest.model


def test_what_cannot_be_kept_now_is_kept_later(world, platform, saved):
    chain, head = saved
    restores, started = world
    with Guest(platform.machines[started.machine], contents(chain, head), 4) as guest:
        guest.wait_for(30)
    kept = []

    def keep():
        kept.append(keeping.keep(chain, head, started, Run()))

    with chain.exclusive("backup"), pytest.raises(ChainBusy):
        restores.stop(platform, started, keep)
    assert restores.known.all() == [started]
    assert started.cache_of("vda").exists()
    restores.stop(platform, started, keep)
    assert contents(chain, kept[0]) == guest.model
    assert restores.known.all() == []
    assert not locking.active_leases(chain.storage, chain.id, chain.surroundings)
