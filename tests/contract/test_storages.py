"""Every storage and every wrapper passes the same suite."""

import itertools
import random

import pytest

from ruchu import clock
from ruchu.storage import directory, faulty, limited, logged, retrying
from ruchu.testing import s3_servers, simulated_disk, storages


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


_NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def moto():
    with s3_servers.moto() as endpoint:
        yield endpoint


@pytest.fixture(scope="module")
def rclone(tmp_path_factory):
    with s3_servers.rclone(tmp_path_factory.mktemp("buckets")) as endpoint:
        yield endpoint


@pytest.fixture(scope="class")
def make(request, tmp_path_factory):
    """Return what makes storages in a bucket on the server that the class names."""
    endpoint = request.getfixturevalue(request.cls.server)
    name = request.cls.__name__.lower()
    bucket = s3_servers.new_bucket(endpoint, name, locking=request.cls.can_protect)
    return s3_servers.storages_of(bucket, tmp_path_factory.mktemp("lock") / "writer.lock")


class OnS3(storages.StorageContract):
    @pytest.fixture
    def storage(self, make):
        storage = make(f"some/where/{next(_NUMBERS)}")
        yield storage
        storage.close()


@pytest.mark.slow
class TestS3(OnS3):
    """On a server that enforces conditions, in a bucket without object lock."""

    server = "moto"
    can_protect = False


@pytest.mark.slow
class TestS3WithObjectLock(OnS3):
    """In a bucket that keeps versions, under legal holds."""

    server = "moto"


@pytest.mark.slow
class TestS3WithoutConditions(OnS3):
    """On a server that decides nothing among writers."""

    server = "rclone"
    can_protect = False
