import datetime

import pytest

from ruchu.storage import directory
from ruchu.testing import simulated_disk


class ManualClock:
    """Sleeping moves it on, and is written down."""

    def __init__(self):
        self.seconds = 1000.0
        self.slept = []

    def now(self):
        return datetime.datetime.fromtimestamp(self.seconds, datetime.UTC)

    def monotonic(self):
        return self.seconds

    def sleep(self, seconds):
        self.slept.append(seconds)
        self.seconds += seconds


@pytest.fixture
def clock():
    return ManualClock()


@pytest.fixture
def disk(rng):
    return simulated_disk.SimulatedFileSystem(rng)


@pytest.fixture
def simulated(disk):
    """A storage on the simulated disk, with its marker, as a repository leaves it."""
    storage = directory.DirectoryStorage("/storage", filesystem=disk)
    storage.put("ruchu-storage.json", b'{"id": 1}')
    return storage


@pytest.fixture
def real(tmp_path):
    root = tmp_path / "storage"
    root.mkdir()
    storage = directory.DirectoryStorage(root)
    storage.put("ruchu-storage.json", b'{"id": 1}')
    yield storage
    storage.close()


@pytest.fixture
def root(tmp_path):
    """Where `real` lies."""
    return tmp_path / "storage"
