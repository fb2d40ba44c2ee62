"""A 10 TiB disk with 1,000 points (`make long`; else 400): what opening and merging cost, counted."""

import os
import random
import subprocess
import sys
from collections import Counter
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ruchu import clock, units
from ruchu.model.sources import Kind
from ruchu.repository import chains, keyring, layout, merging, repositories
from ruchu.repository.ledger import Ledger
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage
from ruchu.storage.intercepting import Intercepting, Verb
from ruchu.storage.logged import Logged

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]

SIZE = 10 * units.TIB
BLOCK = 256 * units.KIB
# Scattered over the whole disk, but few enough that 1,000 roots fit on a test machine.
PLACES = 1500
WRITES = 8
MANY = 1000 if os.environ.get("RUCHU_PROFILE") == "faults" else 400
SWEEP_EVERY = 50
OLDEST, MIDDLE = 0.01, 0.5
MEMORY_MAX = 300 * units.MIB

OPENING = """
import re, sys, time
from pathlib import Path
from ruchu.repository import keyring, repositories
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.directory import DirectoryStorage

root, blocks = Path(sys.argv[1]), [int(text) for text in sys.argv[3:]]
storage = DirectoryStorage(root)
opened = repositories.open_repository(storage, keyring.NO_SECRET, Surroundings())
(chain,) = opened.all_chains()
started = time.monotonic()
head = chain.find(sys.argv[2])
disk = chain.disk(head, head.disks[0])
print("opened", time.monotonic() - started)
buffer = memoryview(bytearray(256 << 10))
for block in blocks:
    disk.read_into(block * len(buffer), buffer)
    print("block", int.from_bytes(buffer[:8], "little"))
# Not ru_maxrss: over an exec that remembers how large the process of pytest was.
peak = re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())
print("memory", int(peak[1]) * 1024)
"""


class Names(Intercepting):
    """Writes down which objects are read whole."""

    def __init__(self, inner):
        super().__init__(inner)
        self.got = Counter()

    def around(self, verb, name, call):
        if verb is Verb.GET:
            self.got[name.split("/")[2] if name.count("/") > 1 else name] += 1
        return call()


def build(root, count, cache):
    """Write a chain of so many points; return it and what its blocks hold, by point."""
    root.mkdir()
    rng = random.Random(9)
    places = rng.sample(range(SIZE // BLOCK), PLACES)
    surroundings = Surroundings(cache=cache)
    storage = DirectoryStorage(root)
    made = repositories.create(storage, "scale", keyring.NO_SECRET, surroundings)
    chain = made.create_chain(chains.ProtectedObject("image", "large"), SIZE)
    assert chain.block_size == BLOCK
    written = []
    for number in range(count):
        base = chain.latest()
        kind = Kind.FULL if base is None else Kind.INCREMENTAL
        chosen = places if base is None else rng.sample(places, WRITES)
        with chain.exclusive("backup") as lock, PointWriter(chain, lock, kind, base) as writer:
            disk = writer.open_disk("vda", SIZE, on_base=base is not None)
            for block in chosen:
                tag = number * 10_000_000 + block
                data = tag.to_bytes(8, "little") + bytes(BLOCK - 8)
                disk.write(block * BLOCK, memoryview(data))
            head = writer.commit(datetime(2026, 11, 22, tzinfo=UTC), {})
        written.append((head, dict.fromkeys(chosen, number)))
        if number % SWEEP_EVERY == 0:
            with chain.exclusive("sweep") as lock:
                merging.sweep(chain, lock, grace=timedelta(0))
                merging.purge(chain, lock)
    return chain, written


def counted(root, cache):
    """Open the chain as a new process would, through a storage that counts."""
    names = Names(DirectoryStorage(root))
    logged = Logged(names, clock=clock.SYSTEM)
    opened = repositories.open_repository(logged, keyring.NO_SECRET, Surroundings(cache=cache))
    (chain,) = opened.all_chains()
    return chain, logged, names


def merge_one(root, cache, which):
    """Delete and sweep one point with a warm ledger; return the calls and the bytes it took."""
    chain, logged, names = counted(root, cache)
    before = logged.snapshot()
    names.got.clear()
    stems = chain.stems()
    stem = stems[int(which * len(stems))]
    with chain.exclusive("merge") as lock:
        merging.delete_points(chain, lock, [stem], grace=timedelta(0))
        swept = merging.sweep(chain, lock, grace=timedelta(0))
    after = logged.snapshot()
    calls = {
        verb: tally.calls - (before[verb].calls if verb in before else 0)
        for verb, tally in after.items()
    }
    length = sum(tally.length for tally in after.values())
    length -= sum(tally.length for tally in before.values())
    return calls, length, names.got, swept


def warmed(root, count, cache):
    chain, written = build(root, count, cache)
    with chain.exclusive("sweep") as lock:
        merging.sweep(chain, lock)
        with Ledger(chain) as ledger:
            ledger.sync()
    return chain, written


def test_many_points_of_ten_tebibytes(tmp_path, capsys):
    costs = {}
    for count in (100, MANY):
        root, cache = tmp_path / f"storage-{count}", tmp_path / f"cache-{count}"
        chain, written = warmed(root, count, cache)
        for which in OLDEST, MIDDLE:
            calls, length, got, swept = merge_one(root, cache, which)
            costs[count, which] = sum(calls.values()), length
            assert got["points"] <= 2, "the heads are listed, not read"
            with capsys.disabled():
                work = {verb.value: number for verb, number in calls.items() if number}
                print(  # noqa: T201 - measured, not judged
                      f"\n{count} points, merging one at {which}: {work}, {length:,} bytes,",
                      f"of it whole objects: {dict(got)}, {swept}")  # fmt: skip
    for which in OLDEST, MIDDLE:
        few, many = costs[100, which], costs[MANY, which]
        assert many[0] < few[0] * 1.5 + 10
        # The record of the last sweep, which joined small packs, is read with every listing.
        assert many[1] < few[1] * 1.5 + units.MIB // 4
    check_opening(tmp_path / f"storage-{MANY}", chain, written, capsys)


def check_opening(root, chain, written, capsys):
    """Open points in the middle and at the end, in processes of their own."""
    current = {}
    for number, (head, blocks) in enumerate(written):
        current |= blocks
        if number not in {MANY * 7 // 10, MANY - 1}:
            continue
        asked = [*list(blocks)[:5], *random.Random(1).sample(sorted(current), 20)]
        done = subprocess.run(
            [sys.executable, "-c", OPENING, str(root), head.point, *map(str, asked)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
        said = [line.split() for line in done.stdout.splitlines()]
        found = [int(value) for key, value in said if key == "block"]
        assert found == [current[block] * 10_000_000 + block for block in asked]
        told = {key: float(value) for key, value in said}
        with capsys.disabled():
            memory = units.format_size(told["memory"])
            print(  # noqa: T201 - measured, not judged
                f"point {number + 1} of {MANY}: opened in {told['opened']:.3f} s, {memory} in all"
            )
        assert told["memory"] < MEMORY_MAX
    assert Path(root / layout.chain_document(chain.id)).exists()
