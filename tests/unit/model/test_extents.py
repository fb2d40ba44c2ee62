import itertools

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from ruchu.model.extents import Content, Extent, aligned, total

DATA, ZERO, HOLE, UNKNOWN = Content.DATA, Content.ZERO, Content.HOLE, Content.UNKNOWN
BLOCK = 8
ZEROS = (ZERO, HOLE)


@st.composite
def extents(draw):
    """A disk and sorted extents on it, which may overlap in any way."""
    size = draw(st.integers(1, 10 * BLOCK))
    found = []
    for _ in range(draw(st.integers(0, 8))):
        start = draw(st.integers(0, size - 1))
        length = draw(st.integers(1, size - start))
        found.append(Extent(start, length, draw(st.sampled_from(Content))))
    return size, sorted(found, key=lambda extent: extent.start)


@st.composite
def disjoint_extents(draw):
    """A disk and extents as a block device tells them: sorted, disjoint, with gaps or without."""
    size = draw(st.integers(1, 12 * BLOCK))
    cuts = sorted(draw(st.sets(st.integers(0, size), max_size=12)) | {0, size})
    found = [
        Extent(start, end - start, content)
        for start, end in itertools.pairwise(cuts)
        if (content := draw(st.sampled_from([*Content, None]))) is not None
    ]
    return size, found


def blocks_of(size):
    return [range(at, min(at + BLOCK, size)) for at in range(0, size, BLOCK)]


def by_block(size, found):
    """Return what the extents say of each block, byte by byte: a content, or None."""
    bytes_said = [None] * size
    for extent in found:
        for at in range(extent.start, extent.end):
            if bytes_said[at] is not DATA:
                bytes_said[at] = ZERO if extent.content in ZEROS else DATA
    said = []
    for block in blocks_of(size):
        kinds = {bytes_said[at] for at in block}
        said.append(kinds.pop() if len(kinds) == 1 else DATA)
    return said


def check_shape(size, result):
    """Check that the extents are sorted, disjoint, of whole blocks, and joined."""
    for extent in result:
        assert extent.length > 0
        assert extent.content in {DATA, ZERO}
        assert extent.start % BLOCK == 0
        assert extent.end % BLOCK == 0 or extent.end == size
        assert 0 <= extent.start < extent.end <= size
    for one, other in itertools.pairwise(result):
        assert one.end <= other.start
        assert one.end < other.start or one.content is not other.content


@given(disjoint_extents())
@settings(max_examples=400)
@example((20, [Extent(0, 20, HOLE)]))
@example((20, [Extent(0, 3, HOLE), Extent(3, 17, ZERO)]))
def test_disjoint_extents_become_what_a_slow_reference_says(case):
    size, found = case
    result = list(aligned(found, BLOCK, size))
    check_shape(size, result)
    assert by_block(size, result) == by_block(size, found)


@given(extents())
@settings(max_examples=400)
@example((24, [Extent(0, 24, ZERO), Extent(0, 9, DATA)]))
@example((24, [Extent(0, 9, DATA), Extent(0, 24, ZERO)]))
@example((32, [Extent(0, 32, ZERO), Extent(8, 8, DATA), Extent(16, 16, ZERO)]))
@example((80, [Extent(0, 80, ZERO), Extent(3, 70, UNKNOWN), Extent(79, 1, HOLE)]))
def test_overlapping_extents_become_what_a_slow_reference_says(case):
    size, found = case
    result = list(aligned(found, BLOCK, size))
    check_shape(size, result)
    assert by_block(size, result) == by_block(size, found)


def test_a_block_touched_by_data_is_data():
    found = [Extent(0, 1), Extent(23, 2)]
    assert list(aligned(found, BLOCK, 100)) == [Extent(0, 8), Extent(16, 16)]


def test_a_zero_extent_shrinks_and_its_ends_become_data():
    found = [Extent(3, 30, ZERO)]
    assert list(aligned(found, BLOCK, 100)) == [
        Extent(0, 8), Extent(8, 24, ZERO), Extent(32, 8),
    ]  # fmt: skip
    assert list(aligned([Extent(3, 3, HOLE)], BLOCK, 100)) == [Extent(0, 8)]


def test_the_last_block_may_be_short():
    assert list(aligned([Extent(8, 3, HOLE)], BLOCK, 11)) == [Extent(8, 3, ZERO)]
    assert list(aligned([Extent(9, 1)], BLOCK, 11)) == [Extent(8, 3)]


def test_neighbours_are_joined():
    found = [Extent(0, 8), Extent(8, 8, UNKNOWN), Extent(16, 8, ZERO), Extent(24, 8, HOLE)]
    assert list(aligned(found, BLOCK, 32)) == [Extent(0, 16), Extent(16, 16, ZERO)]


@pytest.mark.parametrize(("content", "zeros"), [(DATA, False), (UNKNOWN, False), (ZERO, True)])
def test_what_reads_as_zeros(content, zeros):
    assert Extent(0, 1, content).reads_as_zeros is zeros


def test_nothing_gives_nothing():
    assert list(aligned([], BLOCK, 100)) == []
    assert total([]) == 0
    assert total([Extent(3, 4), Extent(9, 1, HOLE)]) == 5
