"""Storages on block devices: made, mounted, grown, refused, on real loop devices."""

import contextlib
import os

import pytest

from ruchu import commands, errors
from ruchu.operations import storage_removal
from ruchu.operations.registry import Registry
from ruchu.operations.secrets import SecretSource
from ruchu.operations.storage_places import Preparation
from ruchu.operations.storages import Setup, Storages
from ruchu.storage import locations
from ruchu.storage.mounting import devices
from ruchu.units import MIB

pytestmark = pytest.mark.system

OPEN = SecretSource("none")
SIZE = 400 * MIB


def run(*words):
    return commands.run([str(word) for word in words], timeout_s=60).text.strip()


class Disk:
    """A file that is a block device."""

    def __init__(self, path):
        self.path = path
        with path.open("wb") as file:
            file.truncate(SIZE)
        self.attach()

    def attach(self):
        self.device = run("losetup", "--find", "--show", self.path)

    def detach(self):
        run("losetup", "--detach", self.device)

    def grow(self, size):
        os.truncate(self.path, size)
        run("losetup", "--set-capacity", self.device)

    @property
    def location(self):
        return locations.parse(f"device://{self.device}")


@pytest.fixture
def disk(tmp_path):
    disk = Disk(tmp_path / "disk")
    yield disk
    disk.detach()


@pytest.fixture
def storages(tmp_path):
    registry = Registry(tmp_path / "state")
    yield Storages(registry)
    for entry in registry.storages():
        storages = Storages(registry)
        with contextlib.suppress(errors.NotFound):
            storages.places.leave(storages.place_of(entry))


def formatted(kind, erase=""):
    return Setup(preparation=Preparation(file_system=kind, erase=erase))


def mounted():
    return run("cat", "/proc/self/mountinfo")


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
def test_a_disk_becomes_a_storage_and_grows(kind, storages, disk, tmp_path):
    entry = storages.add("s", disk.location, OPEN, setup=formatted(kind))
    point = storages.places.mounts.point("s")
    options = next(line for line in mounted().splitlines() if str(point) in line)
    assert f" - {kind} {disk.device} " in options
    assert {"nosuid", "nodev", "noexec"} <= set(options.split()[5].split(","))
    storages.raw(entry).put("kept", b"content")

    # As after a reboot: nothing is mounted, and the disk has another name.
    storages.places.mounts.unmount("s")
    disk.detach()
    other = Disk(tmp_path / "in-between")
    disk.attach()
    another_name = disk.device != other.device
    other.detach()
    assert another_name
    found = Storages(storages.registry)
    assert found.raw(entry).get("kept", 10) == b"content"

    before = found.room(entry).total
    disk.grow(2 * SIZE)
    if kind == "ext4":
        # Growing ext4 while it is mounted takes CAP_SYS_RESOURCE, which a root in a container may
        # lack; tests/system/test_storage_guest.py does it in a guest.
        found.places.mounts.unmount("s")
        run("e2fsck", "-f", "-p", disk.device)
        run("resize2fs", disk.device)
        assert found.raw(entry).get("kept", 10) == b"content"
        was, now = before, found.room(entry).total
    else:
        was, now = found.places.grow(found.place_of(entry))
    assert was == before
    assert now > before + SIZE // 2
    assert found.raw(entry).get("kept", 10) == b"content"
    assert found.list()[0].room.state == "ok"

    storage_removal.remove(found, "s")
    assert str(point) not in mounted()
    assert not point.exists()


def test_what_is_on_a_disk_is_not_written_over(storages, disk):
    run("mkfs.ext4", "-q", disk.device)
    signature = devices.file_system_of(disk.device)
    for setup in (formatted("xfs"), formatted("xfs", erase="/dev/sda")):
        with pytest.raises((errors.ForeignDirectory, errors.UsageError)):
            storages.add("s", disk.location, OPEN, setup=setup)
    assert devices.file_system_of(disk.device) == signature
    assert storages.registry.storages() == []
    storages.add("s", disk.location, OPEN, setup=formatted("xfs", erase=disk.device))
    assert devices.file_system_of(disk.device)[0] == "xfs"
    with pytest.raises(errors.StorageError, match="in use"):
        devices.make_file_system(disk.device, "ext4", bytes(16), erase=True)


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda device: run("sfdisk", "-q", "--label", "gpt", device), "gpt"),
        (lambda device: run("mkswap", device), "swap"),
        (lambda device: write(device, b"what is this"), "nothing recognises"),
        (lambda device: write(device, b"LUKS\xba\xbe\0\1" + bytes(1000)), "crypto_LUKS"),
    ],
)
def test_whatever_is_there_is_seen(make, said, storages, disk):
    make_it = make
    if said == "gpt":
        commands.run(["sfdisk", "-q", disk.device], timeout_s=60, input=b"label: gpt\n,\n")
    else:
        make_it(disk.device)
    refused = pytest.raises(errors.ForeignDirectory, match=said)
    with refused as caught:
        storages.add("s", disk.location, OPEN, setup=formatted("ext4"))
    assert f"--erase {disk.device}" in caught.value.advice


def write(device, data):
    with open(device, "r+b") as file:
        file.write(data)


def test_an_empty_disk_needs_a_file_system(storages, disk):
    with pytest.raises(errors.UsageError) as caught:
        storages.add("s", disk.location, OPEN)
    assert "--format" in caught.value.advice


def test_another_disk_in_its_place_is_found_out(storages, disk, tmp_path):
    entry = storages.add("s", disk.location, OPEN, setup=formatted("ext4"))
    storages.places.mounts.unmount("s")
    disk.detach()
    disk.path.unlink()
    other = Disk(tmp_path / "other")
    run("mkfs.ext4", "-q", other.device)
    try:
        with pytest.raises(errors.StorageGone):
            Storages(storages.registry).raw(entry)
        assert not list(storages.places.mounts.directory.glob("s/*"))
    finally:
        disk.path = other.path
        disk.device = other.device


def test_something_else_mounted_there_is_found_out(storages, disk):
    entry = storages.add("s", disk.location, OPEN, setup=formatted("ext4"))
    point = storages.places.mounts.point("s")
    storages.places.mounts.unmount("s")
    point.mkdir()
    run("mount", "-t", "tmpfs", "none", point)
    with pytest.raises(errors.StorageGone, match="is mounted on"):
        Storages(storages.registry).raw(entry)
    storages.places.mounts.unmount("s")
    assert Storages(storages.registry).raw(entry).size("ruchu-storage.json")


def test_files_where_the_mount_goes_are_not_hidden(storages, disk):
    entry = storages.add("s", disk.location, OPEN, setup=formatted("ext4"))
    storages.places.mounts.unmount("s")
    point = storages.places.mounts.point("s")
    point.mkdir()
    (point / "somebody's").write_text("x")
    with pytest.raises(errors.StorageError, match="files lie"):
        Storages(storages.registry).raw(entry)


def test_adopted_by_its_device(storages, disk, tmp_path):
    first = storages.add("s", disk.location, OPEN, setup=formatted("ext4"))
    storage_removal.remove(storages, "s")
    other = Storages(Registry(tmp_path / "other"))
    found = other.adopt("again", disk.location, None)
    assert found.id == first.id
    storage_removal.remove(other, "again")
