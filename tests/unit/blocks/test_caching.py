import random
import threading

import pytest

from ruchu import errors
from ruchu.blocks.caching import CachedReader
from ruchu.blocks.read_ahead import PIECE_BLOCKS, Fetchers, Places
from ruchu.testing.memory_disk import MemoryDisk

BLOCK = 4096


class GatedDisk(MemoryDisk):
    """Reads wait until the gate is open, and tell that they came."""

    def __init__(self, content):
        super().__init__(content)
        self.gate = threading.Event()
        self.came = threading.Semaphore(0)

    def read_into(self, start, buffer):
        self.came.release()
        assert self.gate.wait(30)
        super().read_into(start, buffer)


@pytest.fixture
def disk(rng):
    return MemoryDisk(rng.randbytes(40 * BLOCK + 77))


def cached(disk, **options):
    return CachedReader(disk, block=BLOCK, **({"read_ahead": 0} | options))


def content(reader, start, length):
    buffer = bytearray(length)
    reader.read_into(start, memoryview(buffer))
    return bytes(buffer)


def test_every_range_is_right(disk, rng):
    with cached(disk, cache_bytes=9 * BLOCK, read_ahead=4 * BLOCK) as reader:
        assert (reader.size, reader.preferred_io) == (disk.size, disk.preferred_io)
        assert list(reader.extents()) == list(disk.extents())
        for _ in range(2000):
            start = rng.randrange(disk.size)
            length = min(rng.choice([0, 1, 100, BLOCK, 5 * BLOCK, disk.size]), disk.size - start)
            expected = disk.content[start : start + length]
            assert content(reader, start, length) == expected
            view = reader.peek(start, length)
            assert view is None or view == expected


def test_what_is_kept_is_not_read_again(disk):
    with cached(disk) as reader:
        assert reader.peek(10, 10) is None
        assert content(reader, 10, 10) == disk.content[10:20]
        assert content(reader, 0, BLOCK) == disk.content[:BLOCK]
        view = reader.peek(100, 200)
        assert view == disk.content[100:300]
        assert view.readonly
        assert reader.peek(BLOCK - 1, 2) is None
        assert disk.reads == [(0, BLOCK)]
        assert (reader.statistics.hits, reader.statistics.misses) == (2, 1)
        assert reader.statistics.fetched == reader.statistics.kept == BLOCK


def test_missing_runs_are_one_request_each(disk):
    with cached(disk) as reader:
        content(reader, 5 * BLOCK, 1)
        content(reader, 0, 10 * BLOCK + 1)
        content(reader, 40 * BLOCK, 77)
        assert disk.reads == [
            (5 * BLOCK, BLOCK),
            (0, 5 * BLOCK),
            (6 * BLOCK, 5 * BLOCK),
            (40 * BLOCK, 77),
        ]
        assert reader.peek(40 * BLOCK, 77) == disk.content[40 * BLOCK :]
        assert reader.peek(40 * BLOCK, 78) is None


def test_memory_is_bounded_and_the_oldest_goes(disk):
    with cached(disk, cache_bytes=4 * BLOCK) as reader:
        for number in range(4):
            content(reader, number * BLOCK, 1)
        view = reader.peek(BLOCK, BLOCK)
        assert content(reader, 0, 1)  # used again, so block 1 is the oldest but for the peek
        content(reader, 4 * BLOCK, 1)
        assert reader.peek(2 * BLOCK, 1) is None
        assert reader.peek(0, 1) is not None
        content(reader, 10 * BLOCK, 20 * BLOCK)
        assert reader.statistics.kept == 4 * BLOCK
        assert view == disk.content[BLOCK : 2 * BLOCK]


def test_zero_blocks_take_no_memory():
    disk = MemoryDisk(bytes(100 * BLOCK))
    with cached(disk, cache_bytes=8 * BLOCK) as reader:
        content(reader, 0, disk.size)
        assert reader.peek(99 * BLOCK, BLOCK) == bytes(BLOCK)
        assert reader.statistics.kept < 8 * BLOCK


def test_errors_go_to_the_reader_and_are_not_kept(disk):
    with cached(disk, read_ahead=16 * BLOCK) as reader:
        disk.error = errors.Damaged("a chunk")
        for _ in range(2):
            with pytest.raises(errors.Damaged):
                content(reader, 0, 3 * BLOCK)
        reader.prefetch(0, disk.size)
        disk.error = None
        assert content(reader, 0, disk.size) == disk.content


def test_one_decode_for_all_who_wait(rng):
    disk = GatedDisk(rng.randbytes(4 * BLOCK))
    found = []
    with cached(disk) as reader:
        threads = [
            threading.Thread(target=lambda: found.append(content(reader, 0, 2 * BLOCK)))
            for _ in range(8)
        ]
        for thread in threads:
            thread.start()
        assert disk.came.acquire(timeout=30)
        disk.gate.set()
        for thread in threads:
            thread.join()
        assert found == [disk.content[: 2 * BLOCK]] * 8
        assert disk.reads == [(0, 2 * BLOCK)]


def test_who_waits_for_a_decode_that_fails_gets_the_error_himself(rng):
    disk = GatedDisk(rng.randbytes(4 * BLOCK))
    disk.error = errors.Damaged("a chunk")
    failed = []

    def read():
        with pytest.raises(errors.Damaged) as caught:
            content(reader, 0, BLOCK)
        failed.append(caught.value)

    with cached(disk) as reader:
        threads = [threading.Thread(target=read) for _ in range(3)]
        for thread in threads:
            thread.start()
        disk.gate.set()
        for thread in threads:
            thread.join()
        assert len(failed) == 3
        assert not reader._flights


def test_a_sequential_reader_finds_its_blocks_there(rng):
    disk = GatedDisk(rng.randbytes(64 * BLOCK))
    disk.gate.set()
    with cached(disk, cache_bytes=1 << 20, read_ahead=8 * BLOCK, threads=1) as reader:
        content(reader, 0, BLOCK)
        content(reader, BLOCK, BLOCK)
        for _ in range(3):  # two of the reader, the first piece ahead
            assert disk.came.acquire(timeout=30)
        for number in range(2, 60):
            start = number * BLOCK
            assert content(reader, start, BLOCK) == disk.content[start : start + BLOCK]
    assert disk.reads[:3] == [(0, BLOCK), (BLOCK, BLOCK), (2 * BLOCK, 4 * BLOCK)]
    assert sum(length for _, length in disk.reads) <= disk.size


def test_prefetched_blocks_are_peeked(disk):
    gated = GatedDisk(disk.content)
    gated.gate.set()
    with cached(gated, threads=1) as reader:
        reader.prefetch(3 * BLOCK + 5, 2 * BLOCK)
        reader.prefetch(disk.size - 1, 1 << 40)
        reader.prefetch(disk.size, 1)
        for _ in range(2):
            assert gated.came.acquire(timeout=30)
        content(reader, disk.size - 1, 1)
        assert reader.peek(5 * BLOCK, BLOCK) == disk.content[5 * BLOCK : 6 * BLOCK]
        assert gated.reads == [(3 * BLOCK, 3 * BLOCK), (40 * BLOCK, 77)]


def test_closing_drops_what_waits(rng):
    disk = GatedDisk(rng.randbytes(64 * BLOCK))
    reader = cached(disk, threads=1)
    reader.prefetch(0, disk.size)
    assert disk.came.acquire(timeout=30)
    closing = threading.Thread(target=reader.close)
    closing.start()
    while not reader._fetchers._closed:
        closing.join(0.001)
    disk.gate.set()
    closing.join()
    assert disk.reads == [(0, PIECE_BLOCKS * BLOCK)]
    reader.close()
    reader.prefetch(0, BLOCK)
    assert content(reader, 7, 7) == disk.content[7:14]


def test_windows_double_and_end_with_the_disk():
    places = Places(100, 16)
    assert places.touched(0, 1, missed=True) is None
    assert places.touched(1, 2, missed=True) == (2, 6)
    assert 2 in places
    assert places.touched(3, 4, missed=False) is None
    assert places.touched(2, 3, missed=False) == (6, 14)
    assert places.touched(6, 7, missed=False) == (14, 30)
    assert places.touched(14, 20, missed=False) == (30, 46)
    assert places.touched(30, 31, missed=False) == (46, 62)
    assert places.touched(98, 99, missed=True) is None
    assert places.touched(99, 100, missed=True) is None
    assert Places(100, 0).touched(0, 1, missed=True) is None


def test_random_readers_are_not_read_ahead_of():
    rng = random.Random(1)
    places = Places(1 << 40, 16)
    for _ in range(10_000):
        block = rng.randrange(1 << 40)
        assert places.touched(block, block + 1, missed=True) is None
    assert len(places._expected) <= 256


def test_a_full_queue_drops_the_rest():
    asked, gate = [], threading.Event()

    def fetch(first, last):
        gate.wait(30)
        asked.append((first, last))

    fetchers = Fetchers(fetch, threads=1, queued_max=2 * PIECE_BLOCKS)
    fetchers.ask(0, 100 * PIECE_BLOCKS)
    gate.set()
    while len(asked) < 2:
        gate.wait(0.001)
    fetchers.close()
    assert 2 <= len(asked) <= 3


def test_errors_ahead_of_a_reader_are_dropped():
    asked, done = [], threading.Event()

    def fetch(first, last):
        asked.append((first, last))
        if first:
            done.set()
        raise errors.Damaged("a chunk")

    fetchers = Fetchers(fetch, threads=1, queued_max=1000)
    fetchers.ask(0, PIECE_BLOCKS + 3)
    assert done.wait(30)
    fetchers.close()
    assert asked == [(0, PIECE_BLOCKS), (PIECE_BLOCKS, PIECE_BLOCKS + 3)]


class BlockwiseDisk(MemoryDisk):
    """Gives whole blocks in any order, and leaves out zeros."""

    block_size = BLOCK

    def read_blocks(self, first, last, room):
        self.reads.append((first, last))
        if self.error is not None:
            raise self.error
        for number in sorted(range(first, last), key=lambda number: number * 7 % 11):
            whole = self.content[number * BLOCK : (number + 1) * BLOCK]
            if any(whole):
                room(number)[:] = whole.ljust(BLOCK, b"\0")

    def read_into(self, start, buffer):
        raise AssertionError("it is read by blocks")


@pytest.fixture
def blockwise(rng):
    parts = [rng.randbytes(BLOCK), bytes(BLOCK), rng.randbytes(BLOCK // 2) + bytes(BLOCK // 2)]
    return BlockwiseDisk(b"".join(rng.choices(parts, k=40)) + rng.randbytes(77))


def test_whole_blocks_are_right_and_kept(blockwise, rng):
    with cached(blockwise, cache_bytes=9 * BLOCK, read_ahead=4 * BLOCK) as reader:
        for _ in range(2000):
            start = rng.randrange(blockwise.size)
            length = min(rng.choice([1, 100, BLOCK, 5 * BLOCK, 41 * BLOCK]), blockwise.size - start)
            expected = blockwise.content[start : start + length]
            assert content(reader, start, length) == expected
            view = reader.peek(start, length)
            assert view is None or (view == expected and view.readonly)
        assert reader.statistics.kept <= 9 * BLOCK


def test_a_short_last_block_of_zeros():
    disk = BlockwiseDisk(bytes(2 * BLOCK + 5))
    with cached(disk) as reader:
        assert content(reader, BLOCK, BLOCK + 5) == bytes(BLOCK + 5)
        assert reader.peek(2 * BLOCK, 5) == bytes(5)
        assert reader.peek(2 * BLOCK, 6) is None


def test_errors_of_whole_blocks_are_not_kept(blockwise):
    with cached(blockwise) as reader:
        blockwise.error = errors.Damaged("x")
        for _ in range(2):
            with pytest.raises(errors.Damaged):
                content(reader, 0, BLOCK)
        blockwise.error = None
        assert content(reader, 0, 3 * BLOCK) == blockwise.content[: 3 * BLOCK]


def test_another_block_size_is_read_by_ranges(blockwise):
    with CachedReader(blockwise, block=2 * BLOCK) as reader, pytest.raises(AssertionError):
        content(reader, 0, 1)


def test_a_block_that_is_being_read_is_waited_for(rng):
    disk = GatedDisk(rng.randbytes(4 * BLOCK))
    with cached(disk) as reader:
        assert reader.peek_coming(0, 10, 30) is None
        other = threading.Thread(target=content, args=(reader, 0, 2 * BLOCK))
        other.start()
        assert disk.came.acquire(timeout=30)
        with pytest.raises(TimeoutError):
            reader.peek_coming(BLOCK, 10, 0)
        assert reader.peek_coming(2 * BLOCK, 10, 30) is None
        disk.gate.set()
        other.join()
        assert reader.peek(BLOCK, 10) == disk.content[BLOCK : BLOCK + 10]


def test_who_waits_for_a_block_gets_it(rng):
    disk = GatedDisk(rng.randbytes(4 * BLOCK))
    found = []
    with cached(disk) as reader:
        reader.prefetch(0, BLOCK)
        assert disk.came.acquire(timeout=30)
        waiting = threading.Thread(target=lambda: found.append(reader.peek_coming(5, 10, 30)))
        waiting.start()
        disk.gate.set()
        waiting.join()
        assert found == [disk.content[5:15]]
