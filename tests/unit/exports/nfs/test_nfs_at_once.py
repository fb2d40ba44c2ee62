"""Small writes that are done in the thread of the event loop."""

import pytest

from ruchu.errors import StorageFull
from ruchu.exports.nfs.file_io import AT_ONCE_MAX, FileIo, Verifier


class Content:
    """Writes at once, unless it is told not to."""

    def __init__(self):
        self.size = 1 << 20
        self.data = bytearray(self.size)
        self.busy = False
        self.failure = None

    def write_at_once(self, start, buffer):
        if self.failure is not None:
            raise self.failure
        if self.busy:
            return False
        self.write(start, buffer)
        return True

    def write(self, start, buffer):
        self.data[start : start + len(buffer)] = buffer


class Later:
    """Workers that do nothing until they are told to."""

    def __init__(self):
        self.jobs = []

    def submit(self, work, done):
        self.jobs.append((work, done))

    def run(self):
        for work, done in self.jobs:
            work()
            done(None, None)


@pytest.fixture
def disk():
    return Content()


@pytest.fixture
def later():
    return Later()


@pytest.fixture
def io(disk, later):
    return FileIo(disk, later, Verifier())


def test_a_small_write_is_done_at_once(io, disk):
    assert io.store_at_once(10, memoryview(b"abc"))
    assert disk.data[10:13] == b"abc"
    disk.busy = True
    assert not io.store_at_once(10, memoryview(b"abc"))


def test_a_large_write_is_left_to_the_workers(io):
    assert not io.store_at_once(0, memoryview(bytes(AT_ONCE_MAX + 1)))


def test_a_write_overtakes_none_that_it_overlaps(io, disk, later):
    io.write(0, b"old", lambda error: None)
    assert not io.store_at_once(2, memoryview(b"new"))
    assert io.store_at_once(3, memoryview(b"new"))
    later.run()
    assert disk.data[:6] == b"oldnew"
    assert io.store_at_once(2, memoryview(b"new"))


def test_an_error_goes_to_who_writes(io, disk):
    disk.failure = StorageFull("(full)")
    with pytest.raises(StorageFull):
        io.store_at_once(0, memoryview(b"x"))


def test_a_content_that_cannot_is_written_by_the_workers(later):
    disk = Content()
    disk.write_at_once = None
    assert not FileIo(disk, later, Verifier()).store_at_once(0, memoryview(b"x"))
