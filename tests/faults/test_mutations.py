"""Each safety step matters: with any one of them taken away, a search finds what it protects from.

The search tells one story again and again (backups, deletions, compaction, purges), and cuts the
power or kills the process somewhere in it. Where two processes must meet, the meeting is directed.
"""

import contextlib
import datetime
import random

import pytest

from ruchu import errors
from ruchu.model.sources import Kind
from ruchu.repository import compaction, ledger, locking, merging, reach
from ruchu.repository.chains import Chain
from ruchu.repository.index import DedupIndex
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
