"""The power fails at any call: what was promised is there, and nothing else appears as an object.

The same search with one kind of sync taken away must find a broken promise: that shows that the
sync matters and that the search would notice.
"""

import functools
import os
import random
import shutil

import hypothesis
import pytest
from hypothesis import stateful
from hypothesis import strategies as st

from ruchu import errors
from ruchu.storage import directory, filesystem
from ruchu.testing import simulated_disk

CALLS_MAX = 500


class Work:
    """What a backup does to a storage, and what it was promised on the way."""

    def __init__(self, disk):
        self.disk = disk
        self.promised = {}
        self.possible = {}
        self.deleted = set()

    def run(self):
        storage = directory.DirectoryStorage("/storage", filesystem=self.disk)
        self.put(storage, "ruchu-storage.json", b'{"id": 1}')
        for turn in range(2):
            self.write(storage, f"chains/c/packs/0{turn}/p.pack", [b"record" * 50] * 7)
            self.put(storage, f"chains/c/points/{turn}.json", b"head %d" % turn)
        self.delete(storage, "chains/c/points/0.json")
        self.put(storage, "chains/c/trash/0.json", b"head 0")

    def put(self, storage, name, content):
        self.possible[name] = content
        storage.put(name, content)
        self.promised[name] = content

    def write(self, storage, name, parts):
        self.possible[name] = b"".join(parts)
        with storage.open_writer(name) as writer:
            for part in parts:
                writer.write([part])
            writer.commit()
        self.promised[name] = self.possible[name]

    def delete(self, storage, name):
        del self.promised[name]
        storage.delete(name)
        del self.possible[name]

    def check(self):
        """Raise AssertionError for a broken promise, after the crash."""
        storage = directory.DirectoryStorage("/storage", filesystem=self.disk)
        found = {info.name: storage.get(info.name, info.size) for info in storage.list("")}
        for name, content in self.promised.items():
            assert found.get(name) == content, f"{name} is lost or torn"
        for name, content in found.items():
            assert self.possible.get(name) == content, f"{name} is torn, or came back"
        storage.sweep_unfinished("")
        assert storage.sweep_unfinished("") == 0
        assert not storage.foreign()


def crash_after(calls, choose, ignore=()):
    """Run until the power fails; return whether it did before the end."""
    disk = simulated_disk.SimulatedFileSystem(choose, ignore=ignore)
    work = Work(disk)
    disk.cut_power_after(calls)
    try:
        work.run()
    except simulated_disk.PowerFailure:
        failed = True
    else:
        failed = False
    disk.crash()
    work.check()
    return failed


def test_nothing_promised_is_lost_wherever_the_power_fails(rng):
    calls = 0
    while crash_after(calls, rng):
        calls += 1
        assert calls < CALLS_MAX
    assert calls > 100


@pytest.mark.parametrize("sync", list(simulated_disk.Sync))
def test_each_sync_matters(sync, rng):
    def search():
        for calls in range(CALLS_MAX):
            crash_after(calls, rng, ignore=[sync.value])

    with pytest.raises(AssertionError, match=r"lost or torn|came back"):
        search()


def test_an_object_survives_in_a_directory_that_another_writer_has_just_made(rng):
    for _ in range(20):
        disk = simulated_disk.SimulatedFileSystem(rng)
        top = disk.open_root("/storage")
        disk.make_directory(top, "chains")
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        storage.put("chains/a", b"content")
        disk.crash()
        assert directory.DirectoryStorage("/storage", filesystem=disk).get("chains/a", 9)


@pytest.mark.parametrize("by_put", [True, False])
def test_an_object_survives_once_a_second_writer_was_refused(rng, monkeypatch, by_put):
    def stand_still(_):
        raise simulated_disk.PowerFailure

    for _ in range(20):
        disk = simulated_disk.SimulatedFileSystem(rng)
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        with storage.open_writer("a") as second:
            # The first writer stands still between its rename and its sync.
            with monkeypatch.context() as patched:
                patched.setattr(disk, "sync_directory", stand_still)
                with pytest.raises(simulated_disk.PowerFailure):
                    storage.put("a", b"first")
            put = functools.partial(storage.put, "a", b"second")
            with pytest.raises(errors.ObjectExists):
                (put if by_put else second.commit)()
        disk.crash()
        assert directory.DirectoryStorage("/storage", filesystem=disk).get("a", 9) == b"first"


def test_a_protected_object_stays_protected(rng):
    for _ in range(20):
        disk = simulated_disk.SimulatedFileSystem(rng)
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        storage.put("a", b"content")
        storage.protect("a")
        disk.crash()
        assert directory.DirectoryStorage("/storage", filesystem=disk).is_protected("a")


def test_a_released_object_stays_released(rng):
    for _ in range(20):
        disk = simulated_disk.SimulatedFileSystem(rng)
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        storage.put("a", b"content")
        storage.protect("a")
        storage.release("a")
        disk.crash()
        assert not directory.DirectoryStorage("/storage", filesystem=disk).is_protected("a")


def test_what_another_process_is_removing_does_not_come_back(rng, monkeypatch):
    def stand_still(_):
        raise simulated_disk.PowerFailure

    for _ in range(20):
        disk = simulated_disk.SimulatedFileSystem(rng)
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        storage.put("a", b"content")
        with monkeypatch.context() as patched:
            patched.setattr(disk, "sync_directory", stand_still)
            with pytest.raises(simulated_disk.PowerFailure):
                storage.delete("a")
        storage.delete("a")
        disk.crash()
        storage = directory.DirectoryStorage("/storage", filesystem=disk)
        assert not tuple(storage.list(""))


class SyncsSeen(filesystem.OsFileSystem):
    """The real one; it writes down which directories were synced."""

    def __init__(self):
        self.synced = []

    def sync_directory(self, directory):
        super().sync_directory(directory)
        self.synced.append(os.readlink(f"/proc/self/fd/{directory}"))


def test_a_directory_made_anew_is_made_durable_anew(tmp_path):
    seen = SyncsSeen()
    storage = directory.DirectoryStorage(tmp_path, filesystem=seen)
    storage.put("d/a", b"")
    storage.put("d/b", b"")
    assert seen.synced.count(str(tmp_path)) == 1  # once is enough
    shutil.rmtree(tmp_path / "d")
    storage.put("d/a", b"")
    assert seen.synced.count(str(tmp_path)) == 2


def test_a_storage_that_came_back_is_not_trusted_to_be_durable(tmp_path):
    root = tmp_path / "storage"
    root.mkdir()
    seen = SyncsSeen()
    storage = directory.DirectoryStorage(root, filesystem=seen)
    storage.put("ruchu-storage.json", b"{}")
    storage.put("d/a", b"")
    shutil.copytree(root, tmp_path / "copy")
    root.rename(tmp_path / "before")
    (tmp_path / "copy").rename(root)
    seen.synced.clear()
    storage.put("d/b", b"")
    assert seen.synced.count(str(root)) == 1


NAMES = st.sampled_from(["ruchu-storage.json", "a", "d/a", "d/b", "d/e/a", "f/a"])
CONTENTS = st.binary(max_size=600)


class DirectoryMachine(stateful.RuleBasedStateMachine):
    """A storage against a dictionary, with power failures and killed processes in between."""

    @stateful.initialize(seed=st.integers(0, 2**32))
    def begin(self, seed):
        self.choose = random.Random(seed)
        self.disk = simulated_disk.SimulatedFileSystem(self.choose)
        self.disk.short = True
        self.model = {}
        self.protected = set()
        self.open()

    def open(self):
        self.storage = directory.DirectoryStorage("/storage", filesystem=self.disk)

    @stateful.rule(name=NAMES, content=CONTENTS)
    def put(self, name, content):
        if name in self.model:
            with pytest.raises(errors.ObjectExists):
                self.storage.put(name, content)
        else:
            self.storage.put(name, content)
            self.model[name] = content

    @stateful.rule(name=NAMES, parts=st.lists(CONTENTS, max_size=4), commit=st.booleans())
    def write(self, name, parts, commit):
        with self.storage.open_writer(name) as writer:
            writer.write(parts)
            if commit and name in self.model:
                with pytest.raises(errors.ObjectExists):
                    writer.commit()
            elif commit:
                writer.commit()
                self.model[name] = b"".join(parts)

    @stateful.rule(name=NAMES)
    def delete(self, name):
        if name in self.protected:
            with pytest.raises(errors.StorageReadOnly):
                self.storage.delete(name)
        else:
            self.storage.delete(name)
            self.model.pop(name, None)

    @stateful.rule(name=NAMES)
    def protect(self, name):
        if name in self.model:
            self.storage.protect(name)
            self.protected.add(name)

    @stateful.rule(name=NAMES)
    def release(self, name):
        if name in self.model:
            self.storage.release(name)
            self.protected.discard(name)

    @stateful.rule(name=NAMES, content=CONTENTS, calls=st.integers(0, 30))
    def put_until_the_power_fails(self, name, content, calls):
        self.disk.cut_power_after(calls)
        try:
            self.put(name, content)
        except simulated_disk.PowerFailure:
            self.disk.crash()
            self.open()
            found = {info.name for info in self.storage.list("")}
            if name in found and name not in self.model:
                self.model[name] = content
        else:
            self.disk.crash()
            self.open()

    @stateful.rule()
    def the_power_fails(self):
        self.disk.crash()
        self.open()

    @stateful.rule()
    def the_process_is_killed(self):
        writer = self.storage.open_writer("d/half")
        writer.__enter__().write([b"half"])
        self.disk.kill()
        self.open()
        assert self.storage.sweep_unfinished("") >= 1  # a power failure may have left more

    @stateful.invariant()
    def the_storage_is_the_dictionary(self):
        sizes = {info.name: info.size for info in self.storage.list("")}
        assert sizes == {name: len(content) for name, content in self.model.items()}
        for name, content in self.model.items():
            assert self.storage.get(name, 10_000) == content
            buffer = bytearray(len(content) // 2)
            self.storage.read_into(name, len(content) - len(buffer), memoryview(buffer))
            assert buffer == content[len(content) - len(buffer) :]
            assert self.storage.is_protected(name) == (name in self.protected)


TestDirectoryMachine = DirectoryMachine.TestCase
TestDirectoryMachine.settings = hypothesis.settings(
    suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
