import random

import histories
import pytest

from ruchu.repository import compaction, packs
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing.simulated_disk import SimulatedFileSystem


@pytest.fixture
def disk():
    return SimulatedFileSystem(random.Random(1))


@pytest.fixture
def storage(disk):
    """A storage in memory."""
    return DirectoryStorage("/storage", filesystem=disk)


@pytest.fixture
def small_packs(monkeypatch):
    """Packs of few records, so that sparse packs and small packs occur."""
    monkeypatch.setattr(packs, "PACK_BYTES_TARGET", 6 * histories.BLOCK)
    monkeypatch.setattr(compaction, "SMALL_PACK_BYTES", 2 * histories.BLOCK)
    monkeypatch.setattr(compaction, "SMALL_PACKS_MAX", 4)


@pytest.fixture(params=["plain", "encrypted"])
def history(request, storage, tmp_path, small_packs):
    """A chain of an unencrypted and of an encrypted storage, in memory, with a cache on disk."""
    secret = histories.PASSPHRASE if request.param == "encrypted" else histories.keyring.NO_SECRET
    return histories.History(storage, secret, tmp_path / "cache")


@pytest.fixture
def plain(storage, tmp_path, small_packs):
    return histories.History(storage, cache=tmp_path / "cache")
