"""A repository in a directory, a clock that a test moves, and a platform in memory."""

import random
import shutil
import tempfile
from pathlib import Path

import pytest

from ruchu.protection.machine import Order, back_up_machines
from ruchu.protection.running import Run
from ruchu.repository import keyring, repositories
from ruchu.repository.surroundings import Surroundings
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing.clocks import ManualClock
from ruchu.testing.simulated_platform import SimulatedPlatform


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def storage(tmp_path):
    (tmp_path / "storage").mkdir()
    return DirectoryStorage(tmp_path / "storage")


@pytest.fixture
def repository(storage, clock):
    return repositories.create(storage, "s", keyring.NO_SECRET, Surroundings(clock=clock))


@pytest.fixture
def platform(clock):
    return SimulatedPlatform(clock)


@pytest.fixture
def run(rng):
    return Run(choose=rng)


SIZES = {"vda": 3 * (1 << 20) + 512, "vdb": (1 << 20) + 3 * 4096 + 512}


@pytest.fixture
def saved(platform, repository, seed):
    """Return a chain and the point of a machine with disks of odd sizes; the machine is gone."""
    draw = random.Random(seed)
    disks = {
        key: draw.randbytes(size // 3) + bytes(size // 3) + draw.randbytes(size - 2 * (size // 3))
        for key, size in SIZES.items()
    }
    platform.add("web", disks)
    (result,) = back_up_machines(platform, "sim", repository, Order(("web",)))
    platform.delete("web", disks=True)
    return repository.open_chain(result.saved.chain), result.saved.head


@pytest.fixture
def short():
    """Return a directory whose path leaves room for that of a socket."""
    made = Path(tempfile.mkdtemp(prefix="ri-"))
    yield made
    shutil.rmtree(made)
