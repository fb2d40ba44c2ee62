"""Every storage and every wrapper passes the same suite."""

import random

import pytest

from ruchu import clock
from ruchu.storage import directory, faulty, limited, logged, retrying
from ruchu.testing import simulated_disk, storages


@pytest.fixture
def real(tmp_path):
    storage = directory.DirectoryStorage(tmp_path)
    yield storage
    storage.close()


class TestDirectory(storages.StorageContract):
    @pytest.fixture
    def storage(self, real):
        return real


class TestDirectoryOnASimulatedDisk(storages.StorageContract):
    @pytest.fixture
    def storage(self, rng):
        disk = simulated_disk.SimulatedFileSystem(rng)
        disk.short = True
        return directory.DirectoryStorage("/storage", filesystem=disk)


class TestDirectoryWithoutFlags(storages.StorageContract):
    can_protect = False

    @pytest.fixture
    def storage(self, rng):
        disk = simulated_disk.SimulatedFileSystem(rng)
        disk.without_flags = True
        return directory.DirectoryStorage("/storage", filesystem=disk)


class TestRetrying(storages.StorageContract):
    @pytest.fixture
    def storage(self, real):
        return retrying.Retrying(real, clock=clock.SYSTEM, choose=random.Random(0))


class TestLimited(storages.StorageContract):
    @pytest.fixture
    def storage(self, real):
        bandwidth = limited.Bandwidth(1 << 40, clock.SYSTEM)
        return limited.Limited(real, reads=bandwidth, writes=bandwidth)


class TestLogged(storages.StorageContract):
    @pytest.fixture
    def storage(self, real):
        return logged.Logged(real, clock=clock.SYSTEM)


class TestFaultyWithoutFaults(storages.StorageContract):
    @pytest.fixture
    def storage(self, real):
        return faulty.Faulty(real, clock=clock.SYSTEM, choose=random.Random(0))


class TestAllWrappersTogether(storages.StorageContract):
    @pytest.fixture
    def storage(self, real):
        choose = random.Random(0)
        counted = logged.Logged(
            retrying.Retrying(real, clock=clock.SYSTEM, choose=choose), clock=clock.SYSTEM
        )
        return limited.Limited(counted, writes=limited.Bandwidth(1 << 40, clock.SYSTEM))
