"""The simulated file system behaves as the real one, where nothing fails."""

import contextlib
import errno
import os

import pytest

from ruchu.storage import filesystem
from ruchu.storage.filesystem import Kind


@pytest.fixture(params=["real", "real, by links", "simulated"])
def system(request, disk, monkeypatch):
    if request.param == "simulated":
        return disk

    def refuse(*_):
        raise OSError(errno.EINVAL, "as NFS does")

    if request.param == "real, by links":
        monkeypatch.setattr(filesystem, "_rename_noreplace", refuse)
    return filesystem.OsFileSystem()


@pytest.fixture
def top(system, tmp_path):
    handle = system.open_root(str(tmp_path))
    yield handle
    system.close(handle)


def make(system, top, name, content=b""):
    file = system.create(top, name)
    assert not content or system.write(file, [content]) == len(content)
    system.close(file)


def content(system, top, name):
    file = system.open_file(top, name)
    buffer = bytearray(100)
    length = system.read(file, 0, memoryview(buffer))
    system.close(file)
    return bytes(buffer[:length])


def refused(number):
    return pytest.raises(OSError, check=lambda error: error.errno == number)


def test_files_are_made_once(system, top):
    make(system, top, "a", b"content")
    with refused(errno.EEXIST):
        system.create(top, "a")
    assert content(system, top, "a") == b"content"


def test_a_rename_moves(system, top):
    make(system, top, "a", b"content")
    system.rename(top, "a", "b")
    assert content(system, top, "b") == b"content"
    assert [entry.name for entry in system.scan(top)] == ["b"]


def test_a_rename_never_replaces(system, top):
    make(system, top, "a", b"new")
    make(system, top, "b", b"old")
    system.make_directory(top, "c")
    for target in ("b", "c"):
        with refused(errno.EEXIST):
            system.rename(top, "a", target)
    assert content(system, top, "b") == b"old"
    assert content(system, top, "a") == b"new"


def test_a_rename_of_nothing_fails(system, top):
    with refused(errno.ENOENT):
        system.rename(top, "a", "b")


def test_directories_are_opened_as_such(system, top):
    system.make_directory(top, "d")
    with refused(errno.EEXIST):
        system.make_directory(top, "d")
    below = system.open_directory(top, "d")
    make(system, below, "a", b"1")
    assert system.status_at(below, "a").size == 1
    system.sync_directory(below)
    system.close(below)
    with refused(errno.ENOENT):
        system.open_directory(top, "e")
    make(system, top, "f")
    with refused(errno.ENOTDIR):
        system.open_directory(top, "f")


def test_a_scan_tells_kinds_and_sizes(system, top):
    make(system, top, "a", b"123")
    system.make_directory(top, "d")
    found = {entry.name: entry for entry in system.scan(top)}
    assert found["a"].kind is Kind.FILE
    assert found["a"].size == 3
    assert found["d"].kind is Kind.DIRECTORY


def test_an_open_file_outlives_its_name(system, top):
    make(system, top, "a", b"content")
    file = system.open_file(top, "a")
    assert system.status(file).links == 1
    system.unlink(top, "a")
    assert system.status(file).links == 0
    buffer = bytearray(7)
    assert system.read(file, 0, memoryview(buffer)) == 7
    system.close(file)
    with refused(errno.ENOENT):
        system.unlink(top, "a")
    with refused(errno.ENOENT):
        system.status_at(top, "a")


def test_identities_differ(system, top):
    make(system, top, "a")
    make(system, top, "b")
    assert system.status_at(top, "a").identity != system.status_at(top, "b").identity
    assert system.status_at(top, "a").identity == system.status_at(top, "a").identity


def test_a_read_past_the_end_gives_nothing(system, top):
    make(system, top, "a", b"123")
    file = system.open_file(top, "a")
    assert system.read(file, 3, memoryview(bytearray(1))) == 0
    system.close(file)


def test_more_parts_than_the_system_takes_at_once(system, top):
    file = system.create(top, "a")
    written = system.write(file, [b"1"] * 5000)
    assert 0 < written <= 5000
    system.sync_file(file)
    system.start_write_back(file, 0, written)
    assert system.status(file).size == written
    system.close(file)


def test_there_is_space(system, top):
    assert system.free(top) > 0


def test_a_lost_answer_of_nfs_is_no_conflict(tmp_path):
    (tmp_path / "a").write_bytes(b"content")
    os.link(tmp_path / "a", tmp_path / "b")
    top = os.open(tmp_path, os.O_RDONLY)
    filesystem.link_and_unlink(top, "a", "b")
    os.close(top)
    assert os.listdir(tmp_path) == ["b"]


def test_directories_that_cannot_be_synced_are_durable_at_once(monkeypatch):
    def refuse(number):
        def fsync(_):
            raise OSError(number, "no such call")

        monkeypatch.setattr(os, "fsync", fsync)

    system = filesystem.OsFileSystem()
    refuse(errno.EINVAL)
    system.sync_directory(0)
    refuse(errno.EIO)
    with refused(errno.EIO):
        system.sync_directory(0)


def test_a_library_without_the_call_falls_back(tmp_path, monkeypatch):
    monkeypatch.setattr(filesystem, "_LIBC", object())
    (tmp_path / "a").write_bytes(b"content")
    top = os.open(tmp_path, os.O_RDONLY)
    filesystem.OsFileSystem().rename(top, "a", "b")
    os.close(top)
    assert os.listdir(tmp_path) == ["b"]


def test_special_files_do_not_hang_us(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "link").symlink_to("fifo")
    system = filesystem.OsFileSystem()
    top = system.open_root(str(tmp_path))
    file = system.open_file(top, "fifo")
    assert system.status(file).kind is Kind.OTHER
    assert system.status_at(top, "link").kind is Kind.LINK
    with refused(errno.ELOOP):
        system.open_file(top, "link")
    system.close(file)
    system.close(top)


def test_a_file_that_vanishes_during_a_scan_is_left_out(tmp_path, monkeypatch):
    class Vanished:
        name = "a"

        def stat(self, *, follow_symlinks):
            assert not follow_symlinks
            raise FileNotFoundError

    monkeypatch.setattr(os, "scandir", lambda _: contextlib.nullcontext([Vanished()]))
    assert filesystem.OsFileSystem().scan(0) == []
