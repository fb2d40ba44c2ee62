import pytest

from ruchu.blocks.caching import CachedReader
from ruchu.blocks.kept_blocks import KeptBlocks
from ruchu.testing.memory_disk import MemoryDisk

BLOCK = 4096
ZEROS = memoryview(bytes(BLOCK))


def view(number):
    return memoryview(bytes([number + 1]) * BLOCK)


@pytest.fixture
def kept():
    """Room for ten blocks, two of them for what passes by."""
    return KeptBlocks(10 * BLOCK, 2 * BLOCK, BLOCK, ZEROS)


def there(kept, numbers=range(100)):
    return [number for number in numbers if number in kept]


def test_what_passes_by_pushes_out_only_its_own_kind(kept):
    kept.add(50, [view(50), view(51)], passing=False)
    for number in range(20):
        kept.add(number, [view(number)], passing=True)
        assert kept.passes(number)
    assert there(kept) == [18, 19, 50, 51]
    assert not kept.passes(50)
    assert kept.size == 4 * BLOCK


def test_what_passed_by_and_is_needed_again_stays(kept):
    for _ in range(2):
        for number in range(5):
            if number not in kept:
                kept.add(number, [view(number)], passing=True)
    for number in range(60, 80):
        kept.add(number, [view(number)], passing=True)
    # The last two were still there when they were needed again.
    assert there(kept) == [0, 1, 2, 78, 79]
    assert kept.find(2) == view(2)


def test_the_rest_goes_by_how_recently_it_was_used(kept):
    kept.add(0, [view(number) for number in range(8)], passing=False)
    assert kept.find(0) == view(0)
    assert kept.find(99) is None
    kept.add(8, [view(8)], passing=False)
    assert there(kept) == [0, *range(2, 9)]


def test_zeros_cost_next_to_nothing(kept):
    kept.add(0, [ZEROS] * 40, passing=True)
    kept.add(50, [ZEROS] * 40, passing=False)
    # Two blocks of room are worth 32 of them; no other one has to go.
    assert there(kept) == [*range(8, 40), *range(50, 90)]
    assert kept.size == 72 * 256


def test_without_room_for_what_passes_everything_is_alike():
    kept = KeptBlocks(3 * BLOCK, 0, BLOCK, ZEROS)
    kept.add(0, [view(number) for number in range(5)], passing=True)
    assert there(kept) == [2, 3, 4]


def test_nothing_is_left_when_all_is_forgotten(kept):
    kept.add(0, [view(0)], passing=True)
    kept.add(1, [view(1)], passing=False)
    kept.clear()
    assert (there(kept), kept.size) == ([], 0)


def test_numbers_that_passed_by_are_forgotten_in_the_end(kept):
    for number in range(30):
        kept.add(number, [view(number)], passing=True)
    # Only the last ten that went are known: block 5 passes by once more, 25 stays.
    kept.add(5, [view(5)], passing=True)
    kept.add(25, [view(25)], passing=True)
    assert kept.passes(5)
    assert not kept.passes(25)


def test_who_goes_on_where_another_ended_reads_in_order(kept):
    assert not kept.in_order(5, 8)
    assert not kept.in_order(20, 21)
    assert kept.in_order(8, 9)
    assert not kept.in_order(8, 9)
    kept.add(30, [view(30)], passing=True)
    assert kept.in_order(31, 32)
    for number in range(100, 300, 2):
        assert not kept.in_order(number, number + 1)
    assert not kept.in_order(21, 22)


def test_a_copy_leaves_the_cache_to_others(rng):
    """One reads the whole disk in order, while another comes back to the same blocks."""
    disk = MemoryDisk(rng.randbytes(400 * BLOCK))
    with CachedReader(disk, block=BLOCK, cache_bytes=64 * BLOCK) as reader:
        again, buffer = (10, 200, 390), memoryview(bytearray(BLOCK))
        for number in again:
            reader.read_into(number * BLOCK, buffer)
        for number in range(400):
            reader.read_into(number * BLOCK, buffer)
            assert buffer == disk.content[number * BLOCK : (number + 1) * BLOCK]
        assert reader.statistics.kept <= 64 * BLOCK
        for number in again:
            assert reader.peek(number * BLOCK, BLOCK) is not None
