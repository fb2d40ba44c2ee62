"""The local state: written atomically, names checked, several processes at once."""

import concurrent.futures
import json
import os

import pytest

from ruchu.errors import AlreadyExists, InvalidName, NotFound, UsageError
from ruchu.operations.registry import PlatformEntry, Registry, StorageEntry

ENTRY = StorageEntry("main", "/backup", "0" * 32, "backup", "passphrase", "/root/p")


@pytest.fixture
def registry(tmp_path):
    return Registry(tmp_path / "deep" / "state")


def test_what_is_put_is_found(registry):
    assert registry.storages() == []
    assert not registry.directory.exists()
    registry.put_storage(ENTRY)
    registry.put_platform(PlatformEntry("kvm", "qemu:///system"))
    again = Registry(registry.directory)
    assert again.storages() == [ENTRY]
    assert again.storage("main") == ENTRY
    assert again.platform("") == again.platform("kvm") == PlatformEntry("kvm", "qemu:///system")


def test_files_are_private(registry):
    registry.put_storage(ENTRY)
    assert registry.directory.stat().st_mode & 0o777 == 0o700
    for name in os.listdir(registry.directory):
        assert (registry.directory / name).stat().st_mode & 0o777 == 0o600


def test_a_name_is_taken_once(registry):
    registry.put_storage(ENTRY)
    with pytest.raises(AlreadyExists):
        registry.put_storage(ENTRY)
    with pytest.raises(AlreadyExists):
        registry.require_free("main")
    registry.put_storage(StorageEntry("main", "/other", "1" * 32, "copy", "none"), replace=True)
    assert registry.storage("main").directory == "/other"


@pytest.mark.parametrize("name", ["", ".", "..", "../x", "a/b", "-a", "a b", "ä", "a\n", "x" * 65])
def test_names_that_are_none(registry, name):
    with pytest.raises(InvalidName):
        registry.put_platform(PlatformEntry(name, "qemu:///system"))
    with pytest.raises(InvalidName):
        registry.require_free(name)


def test_which_platform(registry):
    with pytest.raises(NotFound):
        registry.platform("")
    for name in ("one", "two"):
        registry.put_platform(PlatformEntry(name, "qemu:///system"))
    with pytest.raises(UsageError, match="one, two"):
        registry.platform("")
    with pytest.raises(NotFound):
        registry.platform("three")
    with pytest.raises(NotFound):
        registry.storage("three")


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "{}",
        '{"format": "ruchu-storages", "version": 2, "storages": []}',
        '{"format": "ruchu-storages", "version": 1, "storages": 5}',
        '{"format": "ruchu-storages", "version": 1, "storages": [{"name": "x"}]}',
        '{"format": "ruchu-storages", "version": 1, "storages": [{"odd": "x"}]}',
    ],
)
def test_documents_that_are_none(registry, text):
    registry.put_storage(ENTRY)
    (registry.directory / "storages.json").write_text(text)
    with pytest.raises(UsageError):
        registry.storages()


def test_many_at_once(registry):
    def put(number):
        entry = StorageEntry(f"s{number:02}", "/x", f"{number:032}", "backup", "none")
        Registry(registry.directory).put_storage(entry)

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(put, range(24)))
    assert [entry.name for entry in registry.storages()] == [f"s{n:02}" for n in range(24)]
    assert json.loads((registry.directory / "storages.json").read_text())["version"] == 1
