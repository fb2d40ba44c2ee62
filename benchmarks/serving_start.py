"""Time from the command to the first answered read: a small disk, and 10 TiB with 1,000 points."""

import random
import subprocess
import sys
import time
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from benchmarks import data, measure, peers, workloads
from benchmarks.measure import Failed
from benchmarks.workloads import Sample
from ruchu.model.sources import Kind
from ruchu.operations.registry import Registry
from ruchu.operations.storages import Storages
from ruchu.repository import chains, merging
from ruchu.repository.writing import PointWriter

LARGE = "10 TiB, 1,000 points"
BLOCK = 256 << 10
WRITES = 2
# Joins small packs: with all of them, the making of a thousand points takes minutes.
SWEEP_EVERY = 50


@dataclass(frozen=True, slots=True)
class Shape:
    """A disk that is mostly holes: its size, points, blocks that are stored."""

    tool: str
    size: int
    points: int
    blocks: int


# The small one is in place of Ruchu, the large one of a peer: the ratio says what size costs.
SHAPES = (Shape(peers.RUCHU, 1 << 30, 1, 100), Shape(LARGE, 10 << 40, 1000, 500))


def measure_all(rounds: int, work: Path, facts: dict[str, Any]) -> list[Sample]:
    """Start exports of both disks by turns, over NBD, and read one block of each."""
    home = work / "start"
    home.mkdir(mode=0o700)
    built = {shape.tool: _build(home / str(shape.points), shape) for shape in SHAPES}
    facts["start"] = {"points": SHAPES[1].points, "size": SHAPES[1].size}
    samples = []
    for number in range(rounds):
        order = SHAPES if number % 2 else SHAPES[::-1]
        samples += [_sample(shape, *built[shape.tool], number) for shape in order]
    return samples


def _build(home: Path, shape: Shape) -> tuple[peers.Ruchu, int]:
    """Make a storage with a chain; its point in the middle is what is served."""
    ruchu = peers.Ruchu(home, home / "disk.img")
    ruchu.prepare()
    # A socket is made only where nobody else may enter.
    ruchu.home.chmod(0o700)
    chance = random.Random(data.SEED)
    places = chance.sample(range(shape.size // BLOCK), shape.blocks)
    repository = Storages(Registry(ruchu.home / "state")).open("bench")
    what = chains.ProtectedObject("image", "disk")
    chain = repository.create_chain(what, shape.size, block_size=BLOCK)
    heads = []
    print(f"Making {shape.points} points of {shape.size >> 30} GiB.", file=sys.stderr)
    for number in range(shape.points):
        base = heads[-1] if heads else None
        kind = Kind.FULL if base is None else Kind.INCREMENTAL
        with chain.exclusive("backup") as lock, PointWriter(chain, lock, kind, base) as writer:
            disk = writer.open_disk("vda", shape.size, on_base=base is not None)
            for block in places if base is None else chance.sample(places, WRITES):
                content = block.to_bytes(8, "little") + chance.randbytes(248)
                disk.write(block * BLOCK, memoryview(content.ljust(BLOCK, b"\0")))
            heads.append(writer.commit(datetime(2026, 11, 22, tzinfo=UTC), {}))
        if number % SWEEP_EVERY == 0:
            with chain.exclusive("sweep") as lock:
                merging.sweep(chain, lock, grace=timedelta(0))
                merging.purge(chain, lock)
    ruchu.point = heads[len(heads) // 2].point
    return ruchu, places[-1]


def _sample(shape: Shape, ruchu: peers.Ruchu, block: int, number: int) -> Sample:
    socket = ruchu.home / "sock"
    args = [ruchu.command, "--state", str(ruchu.home / "state"), "export", "nbd", ruchu.point]
    args += ["--disk", "0", "--socket", str(socket)]
    url = f"nbd+unix:///?socket={socket}"
    before, began = measure.Load.now(), time.monotonic()
    process = subprocess.Popen(args, stdout=subprocess.PIPE)
    try:
        assert process.stdout is not None
        if not process.stdout.readline():
            raise Failed(f"{' '.join(args)}: it does not serve")
        read = ["qemu-io", "-f", "raw", "-r", "-c", f"read {block * BLOCK} 4096", url]
        subprocess.run(read, check=True, capture_output=True)
        wall_s = time.monotonic() - began
        cpu_s = measure.cpu_of(process.pid)
        peak = measure.memory_of(process.pid)
    finally:
        process.terminate()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()
    after = measure.Load.now()
    capacity = wall_s * measure.CORES
    others = max(0.0, after.busy_s - before.busy_s - cpu_s) / capacity
    metrics = {"wall": wall_s, "cpu": cpu_s, "rss": peak}
    print(
        f"round {number + 1}  {workloads.START}  {shape.tool}  {wall_s:.2f} s, cpu {cpu_s:.2f} s",
        file=sys.stderr,
    )
    steal = (after.steal_s - before.steal_s) / capacity
    return Sample(workloads.START, shape.tool, number, metrics, others, steal)
