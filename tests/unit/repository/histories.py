"""A chain with a model beside it: what every point must hold, and a clock that a test moves."""

import datetime
import random

from ruchu.model.sources import Kind
from ruchu.repository import chains, keyring, merging, repositories
from ruchu.repository.holders import Holder
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter

BLOCK = 4096
COSTS = keyring.Costs(8, 1, 1)
PASSPHRASE = keyring.Secret("passphrase", "correct hörse".encode())
WHAT = chains.ProtectedObject("image", "x")
NO_GRACE = datetime.timedelta(0)


class Clock:
    """Stands still until it is moved."""

    def __init__(self):
        self.moment = datetime.datetime(2026, 11, 22, 18, tzinfo=datetime.UTC)

    def now(self):
        return self.moment

    def monotonic(self):
        return self.moment.timestamp()

    def sleep(self, seconds):
        self.pass_time(seconds=seconds)

    def pass_time(self, **spans):
        self.moment += datetime.timedelta(**spans)


class FewProcesses:
    """Processes that a test names."""

    def __init__(self, pid=1):
        self.holder = Holder("host/1", "boot/ns", pid, 100 + pid)
        self.dead = set()

    def this(self):
        return self.holder

    def is_dead(self, holder):
        return holder.pid in self.dead


def surroundings(cache=None, clock=None, processes=None):
    return Surroundings(clock=clock or Clock(), processes=processes or FewProcesses(), cache=cache)


class History:
    """One chain and its model; `contents` maps the stem of each point to the bytes of its disk."""

    def __init__(self, storage, secret=keyring.NO_SECRET, cache=None, size=BLOCK * 40 + 100):
        self.storage, self.secret, self.size = storage, secret, size
        self.clock = Clock()
        self.processes = FewProcesses()
        self.surroundings = surroundings(cache, self.clock, self.processes)
        made = repositories.create(storage, "a", secret, self.surroundings, costs=COSTS)
        self.chain = made.create_chain(WHAT, size, block_size=BLOCK)
        self.contents = {}
        self.current = bytearray(size)

    def reopen(self):
        """Open the chain as a new process would."""
        opened = repositories.open_repository(self.storage, self.secret, self.surroundings)
        self.chain = opened.open_chain(self.chain.id)

    def backup(self, changes, *, attach=b"{}"):
        """Write a point; `changes` maps block numbers to contents."""
        base = self.chain.latest()
        self.current = bytearray(self.contents[base.stem] if base is not None else self.size)
        kind = Kind.FULL if base is None else Kind.INCREMENTAL
        with (
            self.chain.exclusive("backup") as lock,
            PointWriter(self.chain, lock, kind, base) as writer,
        ):
            disk = writer.open_disk("vda", self.size, on_base=base is not None)
            for block, content in changes.items():
                start = block * BLOCK
                data = content[: min(BLOCK, self.size - start)]
                self.current[start : start + len(data)] = data
                disk.write(start, memoryview(data))
            writer.attach("machine.json", attach)
            self.clock.pass_time(minutes=1)
            head = writer.commit(self.clock.now(), {})
        self.contents[head.stem] = bytes(self.current)
        return head

    def random_backup(self, rng: random.Random, blocks=8):
        changes = {}
        for _ in range(blocks):
            fill = rng.randbytes(BLOCK) if rng.random() < 0.8 else bytes(BLOCK)
            changes[rng.randrange(-(-self.size // BLOCK))] = fill
        return self.backup(changes)

    def delete(self, *stems, grace=NO_GRACE):
        with self.chain.exclusive("delete") as lock:
            merging.delete_points(self.chain, lock, stems, grace=grace)
        return {stem: self.contents.pop(stem) for stem in stems}

    def sweep(self, grace=NO_GRACE):
        with self.chain.exclusive("sweep") as lock:
            return merging.sweep(self.chain, lock, grace=grace)

    def purge(self):
        with self.chain.exclusive("purge") as lock:
            return merging.purge(self.chain, lock)

    def read(self, stem):
        head = self.chain.head(stem)
        disk = self.chain.disk(head, head.disks[0])
        buffer = bytearray(disk.size)
        disk.read_into(0, memoryview(buffer))
        self.chain.attachment(head, "machine.json")
        return bytes(buffer)

    def check(self):
        """Hold every point against the model."""
        assert self.chain.stems() == sorted(self.contents)
        for stem, wanted in self.contents.items():
            assert self.read(stem) == wanted, stem


def noise(number):
    """Return the content of a block that does not shrink, the same for the same number."""
    return random.Random(number).randbytes(BLOCK)


def noisy(*blocks, salt=0):
    """Return changes of some blocks."""
    return {block: noise(block * 1000 + salt) for block in blocks}
