import errno
import itertools
import mmap
import os
import subprocess
from pathlib import Path

import pytest

from ruchu import errors
from ruchu.blocks import files
from ruchu.blocks.files import FileReader, FileWriter
from ruchu.model.extents import Content

MIB = 1 << 20


@pytest.fixture
def target(tmp_path):
    return tmp_path / "image"


@pytest.fixture
def loop(tmp_path):
    """A block device of 4 MiB."""
    backing = tmp_path / "backing"
    backing.write_bytes(b"o" * 4 * MIB)
    try:
        done = subprocess.run(
            ["losetup", "--find", "--show", str(backing)],
            check=True, capture_output=True, text=True,
        )  # fmt: skip
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("no loop devices here")
    device = Path(done.stdout.strip())
    yield device
    subprocess.run(["losetup", "--detach", str(device)], check=True)


def aligned_buffer(content):
    buffer = memoryview(mmap.mmap(-1, len(content)))
    buffer[:] = content
    return buffer


def test_holes_are_seen(target):
    with target.open("wb") as file:
        file.write(b"a" * MIB)
        file.seek(8 * MIB)
        file.write(b"b" * 100)
        file.truncate(16 * MIB + 5)
    with FileReader(target) as source:
        found = list(source.extents())
        assert source.size == 16 * MIB + 5
        assert source.preferred_io == 4 * MIB
        buffer = bytearray(200)
        source.read_into(8 * MIB - 50, memoryview(buffer))
    assert buffer == bytes(50) + b"b" * 100 + bytes(50)
    assert [extent.content for extent in found] == [
        Content.DATA, Content.HOLE, Content.DATA, Content.HOLE,
    ]  # fmt: skip
    assert found[0].start == 0
    assert all(one.end == other.start for one, other in itertools.pairwise(found))
    assert found[-1].end == 16 * MIB + 5


def test_an_empty_image_and_one_that_is_all_data(target):
    target.touch()
    with FileReader(target) as source:
        assert list(source.extents()) == []
    target.write_bytes(b"x" * MIB)
    with FileReader(target) as source:
        assert [extent.content for extent in source.extents()] == [Content.DATA]


def test_a_file_system_that_knows_no_holes(target, monkeypatch):
    target.write_bytes(b"x" * 100)

    def refuse(*args):
        raise OSError(errno.EINVAL, "no")

    monkeypatch.setattr(files.os, "lseek", refuse)
    with FileReader(target) as source:
        (extent,) = source.extents()
    assert (extent.content, extent.length) == (Content.UNKNOWN, 100)


def test_what_cannot_be_read(target, tmp_path, monkeypatch):
    with pytest.raises(errors.NotFound):
        FileReader(target)
    with pytest.raises(errors.UsageError):
        FileReader(tmp_path)
    target.write_bytes(b"x" * 100)
    with FileReader(target) as source:
        os.truncate(target, 50)
        with pytest.raises(errors.StorageError, match="shrank"):
            source.read_into(0, memoryview(bytearray(100)))

        def broken(*args):
            raise OSError(errno.EIO, "broken disk")

        monkeypatch.setattr(files.os, "preadv", broken)
        with pytest.raises(errors.StorageError, match="broken disk"):
            source.read_into(0, memoryview(bytearray(10)))


def write_something(path, **options):
    content = os.urandom(3 * 4096 + 100)
    with FileWriter(path, MIB + 100, **options) as writer:
        assert writer.fresh
        assert not path.exists() or options
        writer.write(4096, aligned_buffer(content))
        writer.write(MIB, memoryview(b"end" * 33 + b"!"))
        writer.write(100_001, memoryview(b"odd"))
        writer.zero(0, 4096)
        writer.finish()
    wanted = bytearray(MIB + 100)
    wanted[4096 : 4096 + len(content)] = content
    wanted[MIB:] = b"end" * 33 + b"!"
    wanted[100_001:100_004] = b"odd"
    assert path.read_bytes() == wanted
    assert [entry.name for entry in path.parent.iterdir() if "partial" in entry.name] == []


def test_an_image_appears_whole(target):
    write_something(target)
    with pytest.raises(errors.AlreadyExists):
        FileWriter(target, 10)
    write_something(target, overwrite=True)


def test_without_direct_writes(monkeypatch, target):
    monkeypatch.setattr(files, "_open_direct", lambda path: None)
    write_something(target)


def test_a_memory_file_system():
    place = Path("/dev/shm")
    if not place.is_dir() or not os.access(place, os.W_OK):
        pytest.skip("no tmpfs here")
    path = place / f"ruchu-test-{os.getpid()}"
    try:
        write_something(path)
    finally:
        path.unlink(missing_ok=True)


def test_a_file_system_that_refuses_direct_writes_late(monkeypatch, target):
    pwrite = os.pwrite
    direct = []

    def refuse(descriptor, data, offset):
        if descriptor in direct:
            raise OSError(errno.EINVAL, "unaligned")
        return pwrite(descriptor, data, offset)

    opened = files._open_direct
    monkeypatch.setattr(files, "_open_direct", lambda p: direct.append(opened(p)) or direct[-1])
    monkeypatch.setattr(files.os, "pwrite", refuse)
    write_something(target)


def test_direct_opening_may_fail(monkeypatch, target):
    target.touch()

    def refuse(*args):
        raise OSError(errno.EINVAL, "tmpfs")

    monkeypatch.setattr(files.os, "open", refuse)
    assert files._open_direct(target) is None


def test_what_is_given_up_leaves_nothing(target, tmp_path):
    target.write_bytes(b"old")

    def give_up():
        with FileWriter(target, MIB, overwrite=True) as writer:
            writer.write(0, memoryview(b"new"))
            raise errors.Cancelled

    with pytest.raises(errors.Cancelled):
        give_up()
    assert os.listdir(tmp_path) == ["image"]
    assert target.read_bytes() == b"old"


@pytest.mark.parametrize(
    ("number", "kind"), [(errno.ENOSPC, errors.StorageFull), (errno.EIO, errors.StorageError)]
)
@pytest.mark.parametrize("buffered", [False, True])
def test_a_disk_that_fails(monkeypatch, target, number, kind, buffered):
    def broken(*args):
        raise OSError(number, "broken")

    with FileWriter(target, MIB) as writer, monkeypatch.context() as patch:
        patch.setattr(files.os, "pwrite", broken)
        patch.setattr(files.os, "fsync", broken)
        with pytest.raises(kind):
            writer.write(1 if buffered else 0, aligned_buffer(bytes(4096)))
        with pytest.raises(kind):
            writer.finish()
    assert not target.exists()


def test_places_where_no_image_can_be(tmp_path):
    with pytest.raises(errors.UsageError):
        FileWriter(tmp_path, 10, overwrite=True)
    with pytest.raises(errors.StorageError):
        FileWriter(tmp_path / "missing" / "image", 10)


def test_a_device_is_overwritten(loop):
    with FileReader(loop) as source:
        assert source.size == 4 * MIB
        assert {extent.content for extent in source.extents()} <= {Content.UNKNOWN, Content.DATA}
    with pytest.raises(errors.AlreadyExists):
        FileWriter(loop, MIB)
    with pytest.raises(errors.UsageError, match="are needed"):
        FileWriter(loop, 5 * MIB, overwrite=True)
    with FileWriter(loop, 4 * MIB, overwrite=True) as writer:
        assert not writer.fresh
        writer.write(0, aligned_buffer(b"n" * 8192))
        writer.zero(MIB, MIB)
        writer.finish()
    content = loop.read_bytes()
    assert content[:8192] == b"n" * 8192
    assert content[8192:MIB] == b"o" * (MIB - 8192)
    assert content[MIB : 2 * MIB] == bytes(MIB)
    assert content[2 * MIB :] == b"o" * 2 * MIB
    with (
        FileWriter(loop, 4 * MIB, overwrite=True) as writer,
        pytest.raises(errors.StorageError),
    ):
        writer.zero(1, 7)  # a device zeros whole sectors only
