"""A repository in a directory, a clock that a test moves, and a platform in memory."""

import pytest

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
