"""The table "starting X during Y": what is allowed, and what makes it safe.

Every pair is tried: Y is held in its middle, X is started by another process, Y goes on. Then all
points read back. `ARCHITECTURE.md` shows the table.
"""

import contextlib
import datetime
import itertools
import random
import re
from pathlib import Path

import pytest

from ruchu import errors
from ruchu.model.sources import Kind
from ruchu.repository import ledger, locking, merging, repositories, verifying
from ruchu.repository.verifying_findings import Depth
from ruchu.repository.writing import PointWriter
from ruchu.testing import worlds
from ruchu.testing.worlds import BLOCK, World

ARCHITECTURE = Path(__file__).parents[3] / "ARCHITECTURE.md"
MARKERS = re.compile(r"<!-- concurrency:begin -->\n(.*?)<!-- concurrency:end -->", re.DOTALL)
ZERO = datetime.timedelta(0)
POOL = [random.Random(number).randbytes(BLOCK) for number in range(40)]

BACKUP, MERGE, COMPACTION = "backup", "merge", "compaction"
VERIFY, RESTORE, COPY, ADOPT = "verify", "restore", "copy", "adopt"
DELETE = "delete what is read"
WRITERS = (BACKUP, MERGE, COMPACTION)
READERS = (RESTORE, COPY)
STARTED = (BACKUP, MERGE, COMPACTION, DELETE, VERIFY, RESTORE, COPY, ADOPT)
RUNNING = (BACKUP, MERGE, COMPACTION, VERIFY, RESTORE, COPY, ADOPT)

YES, BUSY, IN_USE = "yes", "ChainBusy", "PointInUse"


def outcome(started, running):
    """Return what happens when one is started during the other: the table itself."""
    if started in {*WRITERS, DELETE} and running in WRITERS:
        return BUSY
    if started == DELETE and running in READERS:
        return IN_USE
    return YES


def reason(started, running):
    """Return what makes a pair safe: the first that applies."""
    found = outcome(started, running)
    writers = {started, running} & {*WRITERS, DELETE}
    reasons = {
        "`ChainBusy`: chain lock": found == BUSY,
        "`PointInUse`: lease": found == IN_USE,
        "yes: opening only reads": ADOPT in {started, running},
        "yes: both only read": not writers,
        "yes: a point appears whole, by its head": BACKUP in writers,
        "yes: looks again at what vanished": VERIFY in {started, running},
        "yes: lease; `.moved` tables lead on": True,
    }
    return next(text for text, applies in reasons.items() if applies)


def table():
    """Return the table as Markdown."""
    rows = [["starting ↓ during →", *RUNNING], ["---"] * (len(RUNNING) + 1)]
    rows += [[started, *(reason(started, running) for running in RUNNING)] for started in STARTED]
    return "".join(f"| {' | '.join(row)} |\n" for row in rows)


@pytest.fixture(autouse=True)
def _small():
    with worlds.small():
        yield


class Scene:
    """Four points, of which the first is read and the second goes; then sparse packs stay."""

    def __init__(self):
        self.world = World(3)
        server = self.world.start()
        for start in (0, 6, 12, 20):
            content = b"".join(POOL[start : start + 12])
            self.world.back_up(server, Kind.FULL, {"vda": content})
        self.read, self.going = sorted(self.world.model)[:2]

    def backup(self, server, meet):
        content = b"".join(POOL[28:])
        with pytest.MonkeyPatch.context() as patched:
            patched.setattr(PointWriter, "_check_packs", before(PointWriter._check_packs, meet))
            self.world.back_up(server, Kind.FULL, {"vda": content})

    def merge(self, server, meet):
        with server.chain.exclusive("merge") as lock:
            if self.going in server.chain.stems():
                merging.delete_points(server.chain, lock, [self.going], grace=ZERO)
                del self.world.model[self.going]
            meet()
            merging.sweep(server.chain, lock, grace=ZERO)
            merging.purge(server.chain, lock)

    def compaction(self, server, meet):
        # Between the copies and the record that puts the old packs into the trash.
        with pytest.MonkeyPatch.context() as patched:
            real = merging.compaction.compact
            patched.setattr(merging.compaction, "compact", after(real, meet))
            patched.setattr(ledger.Ledger, "usage", sparse(ledger.Ledger.usage))
            with server.chain.exclusive("merge") as lock:
                merging.sweep(server.chain, lock, grace=ZERO)
                merging.purge(server.chain, lock)

    def delete(self, server, meet):
        with server.chain.exclusive("delete") as lock:
            merging.delete_points(server.chain, lock, [self.read], grace=ZERO)
            del self.world.model[self.read]
            meet()

    def verify(self, server, meet):
        calls = itertools.count()

        def progress(*_):
            if next(calls) == 1:
                meet()

        watch = verifying.Watch(progress)
        report = verifying.verify_chain(server.chain, Depth.FULL, watch=watch)
        assert report.clean, report.damages

    def restore(self, server, meet):
        head = server.chain.head(self.read)
        with server.chain.reading(head, "restore"):
            want = self.world.model[self.read]["vda"]
            disk = server.chain.disk(head, head.disks[0])
            found = bytearray(disk.size)
            view, half = memoryview(found), disk.size // 2
            disk.read_into(0, view[:half])
            meet()
            disk.read_into(half, view[half:])
            assert found == want

    def copy(self, server, meet):
        """Read what a copy reads: everything of the point, a disk and its attachments."""
        head = server.chain.head(self.read)
        with server.chain.reading(head, "copy"):
            meet()
            assert self.world.read(server.chain, self.read) == self.world.model[self.read]

    def adopt(self, server, meet):
        surroundings = self.world.surroundings(self.world.host.start())
        opened = repositories.open_repository(self.world.storage(), self.world.secret, surroundings)
        meet()
        (chain,) = opened.all_chains()
        for head in chain.points():
            self.world.read(chain, head.stem)

    def act(self, name):
        method = getattr(self, {DELETE: "delete"}.get(name, name))
        server = self.world.start()
        return lambda meet=lambda: None: method(server, meet)


def before(real, meet):
    def call(*arguments):
        meet()
        return real(*arguments)

    return call


def after(real, meet):
    def call(*arguments):
        result = real(*arguments)
        meet()
        return result

    return call


def sparse(real):
    """Let the packs look sparse, so that compaction has something to do; needed bytes count."""

    def usage(self):
        return [type(one)(one.pack, one.live, max(one.total, 3 * one.live)) for one in real(self)]

    return usage


@pytest.mark.parametrize("running", RUNNING)
@pytest.mark.parametrize("started", STARTED)
def test_starting_one_during_the_other(started, running):
    scene = Scene()
    begun = []

    def meet():
        if begun:
            return
        begun.append(started)
        try:
            other()
        except errors.ChainBusy:
            begun.append(BUSY)
        except errors.PointInUse:
            begun.append(IN_USE)
        else:
            begun.append(YES)

    first, other = scene.act(running), scene.act(started)
    first(meet)
    assert begun == [started, outcome(started, running)]
    scene.world.check(scene.world.start())
    # Whatever was refused is possible afterwards.
    if begun[1] != YES:
        other()
    scene.world.check(scene.world.start())
    assert verifying.verify_chain(scene.world.start().chain, Depth.FULL).clean


def test_nothing_waits_for_anything(monkeypatch):
    """The lock order is short: who holds the chain's lock takes no other one."""
    scene = Scene()
    held = []
    real = locking.exclusive

    @contextlib.contextmanager
    def exclusive(storage, chain, what, surroundings):
        assert not held
        with real(storage, chain, what, surroundings) as lock:
            held.append(chain)
            yield lock
            held.remove(chain)

    monkeypatch.setattr(locking, "exclusive", exclusive)
    for name in STARTED:
        scene.act(name)()
        if name == DELETE:
            scene.read = max(scene.world.model)


def test_the_table_in_the_architecture_is_this_one():
    found = MARKERS.search(ARCHITECTURE.read_text()) if ARCHITECTURE.exists() else None
    if found is None or not found[1].strip():
        pytest.skip("ARCHITECTURE.md does not show it yet")
    assert found[1] == table()
