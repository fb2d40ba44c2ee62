"""What differs between two points, against the bytes themselves."""

import itertools
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.blocks import copying
from ruchu.model.extents import Extent
from ruchu.model.sources import Kind
from ruchu.repository import chains, comparing, disk_maps, disk_writing, keyring, maps, repositories
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage

BLOCK = 4096
# A disk as letters: one for each block, `.` for zeros; the end may be part of a block.
disks = st.tuples(st.text("..ab", max_size=20), st.integers(0, 1))


class Letters:
    """A disk out of letters."""

    preferred_io = BLOCK

    def __init__(self, letters, short):
        self.content = b"".join(
            bytes(BLOCK) if letter == "." else letter.encode() * BLOCK for letter in letters
        )
        if short:
            self.content = self.content[:-100]

    @property
    def size(self):
        return len(self.content)

    def read_into(self, start, buffer):
        buffer[:] = self.content[start : start + len(buffer)]


def save(chain, source, name="d"):
    with chain.exclusive("test") as lock, PointWriter(chain, lock, Kind.FULL, None) as writer:
        target = writer.open_disk(name, source.size, on_base=False)
        if source.size:
            copying.copy(source, [Extent(0, source.size)], target)
        return writer.commit(chain.surroundings.clock.now(), {})


@pytest.fixture(scope="module")
def chain(tmp_path_factory):
    root = tmp_path_factory.mktemp("comparing")
    repository = repositories.create(DirectoryStorage(root), "s", keyring.NO_SECRET, Surroundings())
    what = chains.ProtectedObject("image", "o")
    return repository.create_chain(what, 0, block_size=BLOCK)


@pytest.fixture(autouse=True)
def small_segments():
    modules = (maps, disk_maps, disk_writing, comparing)
    assert all(module.maps is maps for module in modules[1:])
    with mock.patch.object(maps, "SEGMENT_BLOCKS", 4):
        yield


def slowly(one, other):
    """Return the blocks that differ."""
    size = max(len(one), len(other))
    found = set()
    for start in range(0, size, BLOCK):
        pieces = one[start : start + BLOCK], other[start : start + BLOCK]
        if pieces[0] != pieces[1]:
            found.add(start // BLOCK)
    return found


@given(disks, disks)
def test_it_is_what_the_bytes_say(chain, first, second):
    sources = Letters(*first), Letters(*second)
    heads = [save(chain, source) for source in sources]
    found = comparing.differences(chain, *heads, "d")
    blocks = [
        at for extent in found for at in range(extent.start // BLOCK, -(-extent.end // BLOCK))
    ]
    assert len(blocks) == len(set(blocks))
    assert set(blocks) == slowly(*(source.content for source in sources))
    assert all(one.end < other.start for one, other in itertools.pairwise(found))
    assert all(extent.end <= max(source.size for source in sources) for extent in found)


def test_a_disk_that_grew_by_zeros_differs_there(chain):
    one, other = save(chain, Letters("a", 0)), save(chain, Letters("..", 0))
    assert comparing.differences(chain, one, other, "d") == [Extent(0, 2 * BLOCK)]


def test_a_disk_that_only_one_has(chain):
    one, other = save(chain, Letters("ab", 0), "d"), save(chain, Letters("ab", 0), "e")
    assert comparing.differences(chain, one, other, "d") == [Extent(0, 2 * BLOCK)]
    assert comparing.differences(chain, one, other, "f") == []
    assert comparing.size_of(one, "d") == 2 * BLOCK
    assert comparing.size_of(one, "e") is None
