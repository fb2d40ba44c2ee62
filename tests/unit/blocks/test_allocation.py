import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.blocks.allocation import AllocationMap
from ruchu.errors import StorageError
from ruchu.model.extents import Content, Extent

DATA, HOLE = Content.DATA, Content.HOLE
RUNS = st.lists(st.tuples(st.integers(1, 9), st.sampled_from(Content)), min_size=1, max_size=40)


class Told:
    """A disk of which only the extents matter."""

    preferred_io = 1 << 16

    def __init__(self, runs):
        self.runs = runs
        self.size = sum(length for length, _ in runs)
        self.told = 0
        self.failure = None

    def read_into(self, start, buffer):
        raise AssertionError

    def extents(self):
        at = 0
        for length, content in self.runs:
            if self.failure:
                raise self.failure
            self.told += 1
            yield Extent(at, length, content)
            at += length


def truth(device):
    return [
        DATA if content is Content.UNKNOWN else content
        for length, content in device.runs
        for _ in range(length)
    ]


@given(RUNS, st.lists(st.tuples(st.floats(0, 0.999), st.integers(1, 50), st.integers(1, 5))),
       st.integers(1, 4))  # fmt: skip
def test_every_query_is_answered_as_a_model_does(runs, queries, kept):
    device = Told(runs)
    known, table = AllocationMap(device, kept), truth(device)
    for share, wanted, most in queries:
        start = int(share * device.size)
        length = min(wanted, device.size - start)
        found = known.status(start, length, most)
        assert 1 <= len(found) <= most
        flat = [flags for count, flags in found for _ in range(count)]
        assert flat == table[start : start + len(flat)]
        assert all(a[1] != b[1] for a, b in itertools.pairwise(found))
        assert len(flat) == length or len(found) == most


def test_a_disk_asked_for_piece_by_piece_is_told_once():
    device = Told([(5, DATA), (5, HOLE)] * 50)
    known = AllocationMap(device)
    for _ in range(2):
        for start in range(0, device.size, 5):
            assert known.status(start, 5, 9) == [(5, DATA if start % 10 == 0 else HOLE)]
    assert device.told == 100


def test_a_change_is_seen():
    device = Told([(10, HOLE)])
    known = AllocationMap(device)
    assert known.status(0, 10, 9) == [(10, HOLE)]
    device.runs = [(4, DATA), (6, HOLE)]
    known.changed()
    assert known.status(0, 10, 9) == [(4, DATA), (6, HOLE)]


def test_a_failure_is_raised_and_not_remembered():
    device = Told([(4, DATA), (6, HOLE)])
    known = AllocationMap(device)
    device.failure = StorageError("(gone)")
    with pytest.raises(StorageError):
        known.status(5, 1, 9)
    device.failure = None
    assert known.status(5, 5, 9) == [(5, HOLE)]


def test_extents_with_a_gap_are_refused():
    device = Told([(4, DATA)])
    device.size = 10
    with pytest.raises(StorageError):
        AllocationMap(device).status(0, 10, 9)
