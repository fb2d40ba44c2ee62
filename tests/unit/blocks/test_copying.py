import itertools
import random
import threading

import pytest

from ruchu import errors
from ruchu.blocks import copying
from ruchu.blocks.copying import PIECE_BYTES, Progress, copy
from ruchu.model.extents import Content, Extent

SIZE = 3 * PIECE_BYTES + 1000
ALL = [Extent(0, SIZE)]


class Memory:
    """A disk in memory that can be told to fail."""

    def __init__(self, size=SIZE, content=None):
        self.data = bytearray(content if content is not None else size)
        self.size = len(self.data)
        self.preferred_io = 1 << 20
        self.zeroed, self.flushed, self.fail_at = [], 0, None
        self.lock = threading.Lock()

    def read_into(self, start, buffer):
        if self.fail_at is not None and start <= self.fail_at < start + len(buffer):
            raise errors.StorageError(f"read at {start}")
        buffer[:] = self.data[start : start + len(buffer)]

    def write(self, start, buffer):
        with self.lock:
            self.data[start : start + len(buffer)] = buffer

    def zero(self, start, length):
        with self.lock:
            self.zeroed.append((start, length))
            self.data[start : start + length] = bytes(length)

    def flush(self):
        self.flushed += 1

    def extents(self):
        yield Extent(0, self.size)


@pytest.mark.parametrize("workers", [1, 2, 3, 4])
def test_data_is_copied_and_zeros_are_not_read(rng: random.Random, workers):
    source, target = Memory(content=rng.randbytes(SIZE)), Memory(content=b"x" * SIZE)
    source.fail_at = 5000  # in a range that is known to be zeros
    cuts = [0, 4096, 9000, PIECE_BYTES - 7, 2 * PIECE_BYTES + 5, SIZE]
    kinds = [Content.DATA, Content.HOLE, Content.UNKNOWN, Content.DATA, Content.ZERO]
    extents = [
        Extent(start, end - start, kind)
        for (start, end), kind in zip(itertools.pairwise(cuts), kinds, strict=True)
    ]
    progress = Progress(total=SIZE)
    assert copy(source, extents, target, workers=workers, progress=progress) is progress
    wanted = bytearray(source.data)
    wanted[4096:9000] = bytes(9000 - 4096)
    wanted[cuts[4] :] = bytes(SIZE - cuts[4])
    assert target.data == wanted
    assert (progress.zero, progress.done) == (9000 - 4096 + SIZE - cuts[4], SIZE)
    assert target.flushed == 1
    assert sorted(target.zeroed) == [(4096, 4904), (cuts[4], SIZE - cuts[4])]


@pytest.mark.parametrize("workers", [1, 4])
def test_the_first_error_wins(workers):
    source, target = Memory(), Memory()
    source.fail_at = PIECE_BYTES
    with pytest.raises(errors.StorageError, match=f"read at {PIECE_BYTES}"):
        copy(source, ALL, target, workers=workers)
    assert target.flushed == 0
    assert threading.active_count() < 20


def test_an_error_of_the_planner_is_told():
    def broken():
        yield Extent(0, 4096)
        raise errors.NbdError("block status")

    with pytest.raises(errors.NbdError):
        copy(Memory(), broken(), Memory(), workers=3)


@pytest.mark.parametrize("workers", [1, 3])
def test_a_copy_is_cancelled_between_pieces(workers):
    target = Memory()
    asked = itertools.count()
    with pytest.raises(errors.Cancelled):
        copy(Memory(), ALL, target, workers=workers, cancelled=lambda: next(asked) >= 2)
    assert target.flushed == 0


def test_less_than_planned_is_incomplete(monkeypatch):
    monkeypatch.setattr(copying._Copy, "copy", lambda self, piece, buffer: None)
    with pytest.raises(errors.Incomplete, match=f"0 of {SIZE}"):
        copy(Memory(), ALL, Memory())


def test_progress_goes_on_over_several_copies():
    progress = copy(Memory(), ALL, Memory())
    copy(Memory(), [Extent(0, 10)], Memory(), progress=progress)
    assert progress.data == SIZE + 10


def test_an_extent_outside_of_the_disk_is_our_own_bug():
    with pytest.raises(AssertionError):
        copy(Memory(), [Extent(SIZE - 5, 6)], Memory())
