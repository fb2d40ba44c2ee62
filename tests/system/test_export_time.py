"""What it costs until an export answers: the same for a small disk and for one of 10 TiB.

Counted, not timed: bytes read and system calls to read them, by the process that serves, up to the
first answer. The times are printed.
"""

import os
import random
import re
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from ruchu import units
from ruchu.blocks.nbd import Address, NbdDisk
from ruchu.clock import SYSTEM
from ruchu.model.sources import Kind
from ruchu.operations.registry import Registry
from ruchu.operations.storages import Storages
from ruchu.repository import chains, merging
from ruchu.repository.writing import PointWriter
from ruchu.testing import nfs
from ruchu.testing.command_line import CommandLine

# One worker makes the points, once: 1,000 of them in `make long`, fewer otherwise.
pytestmark = [
    pytest.mark.system,
    pytest.mark.slow,
    pytest.mark.timeout(900),
]

BLOCK = 256 * units.KIB
# Disk size, points, blocks that are stored.
SMALL = units.GIB, 1, 100
LARGE = 10 * units.TIB, 1000 if os.environ.get("RUCHU_PROFILE") == "faults" else 200, 500
WRITES = 2
# Joins small packs: with all of them, the making of a thousand points takes minutes.
SWEEP_EVERY = 50
PASSPHRASE = "correct horse"
NFS_PATH = "/ruchu-started"
# A root names 500 segments instead of 4. Its pack was joined with others again and again, as in a
# chain that is old: a table of where records went is read for each time, of what the pack held.
MORE_BYTES_MAX = 512 * units.KIB
MORE_CALLS_MAX = 40
ROUNDS = 3


def build(cli, name, size, count, places):
    """Make a storage with a chain of so many points; return a middle one, and a block of it."""
    (cli.home / "passphrase").write_text(PASSPHRASE)
    cli.run("storage", "add", name, name, "--passphrase-file", "passphrase")
    rng = random.Random(9)
    chosen = rng.sample(range(size // BLOCK), places)
    repository = Storages(Registry(cli.state)).open(name)
    chain = repository.create_chain(chains.ProtectedObject("image", name), size, block_size=BLOCK)
    heads = []
    for number in range(count):
        base = heads[-1] if heads else None
        kind = Kind.FULL if base is None else Kind.INCREMENTAL
        with chain.exclusive("backup") as lock, PointWriter(chain, lock, kind, base) as writer:
            disk = writer.open_disk("vda", size, on_base=base is not None)
            for block in chosen if base is None else rng.sample(chosen, WRITES):
                content = block.to_bytes(8, "little") + rng.randbytes(248)
                disk.write(block * BLOCK, memoryview(content.ljust(BLOCK, b"\0")))
            heads.append(writer.commit(datetime(2026, 11, 22, tzinfo=UTC), {}))
        if number % SWEEP_EVERY == 0:
            with chain.exclusive("sweep") as lock:
                merging.sweep(chain, lock, grace=timedelta(0))
                merging.purge(chain, lock)
    return heads[len(heads) // 2].point, chosen[-1]


def read_nbd(cli, serving, place):
    buffer = bytearray(4096)
    with NbdDisk(Address("", path=str(cli.home / "sock"))) as disk:
        disk.read_into(place, memoryview(buffer))
    return buffer


def read_nfs(cli, serving, place):
    port = int(serving.answer["url"].partition("127.0.0.1:")[2].partition("/")[0])
    with nfs.Client(("127.0.0.1", port)) as client:
        handle = client.lookup(client.mount(NFS_PATH), serving.answer["files"][0])
        return client.read(handle, place, 4096)[0]


PROTOCOLS = {
    "nbd": (read_nbd, ("--socket", "sock")),
    "nfs": (read_nfs, ("--listen", "127.0.0.1:0", "--path", NFS_PATH)),
}


def start(cli, protocol, point, block):
    """Serve, read, end; return seconds until the read was answered, bytes and calls until then."""
    read, words = PROTOCOLS[protocol]
    began = SYSTEM.monotonic()
    with cli.serving("export", protocol, point, "--disk", "0", *words) as serving:
        content = read(cli, serving, block * BLOCK)
        seconds = SYSTEM.monotonic() - began
        assert int.from_bytes(content[:8], "little") == block
        told = Path(f"/proc/{serving.process.pid}/io").read_text()
        found = dict(re.findall(r"(\w+): (\d+)", told))
        assert serving.end() in {0, 130}
    return seconds, int(found["rchar"]), int(found["syscr"])


@pytest.fixture(scope="module")
def built():
    """Yield a small and a large chain: command line, point, block."""
    # A thousand points are thousands of fsyncs: in memory they cost nothing.
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="rt-", dir=memory) as made:
        clis = {}
        for name, shape in (("small", SMALL), ("large", LARGE)):
            home = Path(made, name)
            home.mkdir(mode=0o700)
            cli = CommandLine(home)
            clis[name] = cli, *build(cli, name, *shape)
        yield clis


@pytest.mark.parametrize("protocol", list(PROTOCOLS))
def test_the_start_costs_the_same_at_any_size(built, protocol, capsys):
    costs = {"small": [], "large": []}
    # The first start of all compiles modules that were edited since.
    start(built["small"][0], protocol, *built["small"][1:])
    for _ in range(ROUNDS):
        for name, (cli, point, block) in built.items():
            costs[name].append(start(cli, protocol, point, block))
    best = {name: min(each) for name, each in costs.items()}
    with capsys.disabled():
        for name, each in costs.items():
            seconds = ", ".join(f"{one[0]:.2f}" for one in each)
            print(f"\n{protocol} {name}: {seconds} s, {best[name][1:]} bytes, calls", end="")  # noqa: T201
    few = [min(one[part] for one in costs["small"]) for part in (1, 2)]
    many = [min(one[part] for one in costs["large"]) for part in (1, 2)]
    assert many[0] - few[0] < MORE_BYTES_MAX
    assert many[1] - few[1] < MORE_CALLS_MAX
