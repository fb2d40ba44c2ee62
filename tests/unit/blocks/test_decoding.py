"""Processes that decode ahead of readers: what they give, and what is without them."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from ruchu import errors
from ruchu.blocks import decoding
from ruchu.blocks.caching import CachedReader
from ruchu.blocks.decoding import DecodedAhead, Decoders
from ruchu.blocks.slots import Slots
from ruchu.testing.memory_disk import MemoryDisk

BLOCK = 4096
BLOCKS = 300
BAD = 17


class Encoded(MemoryDisk):
    """A disk in blocks, of which some are not stored, and which counts those that it decodes."""

    block_size = BLOCK

    def __init__(self, content, missing=()):
        super().__init__(content)
        self.missing = set(missing)
        self.decoded = []
        self.bad = None

    def read_blocks(self, first, last, room):
        for number in range(first, last):
            if number == self.bad:
                raise errors.Damaged("a block")
            if number not in self.missing:
                piece = self.content[number * BLOCK : (number + 1) * BLOCK]
                room(number)[:] = piece.ljust(BLOCK, b"\0")
                self.decoded.append(number)


@pytest.fixture
def disk(rng):
    content = bytearray(rng.randbytes(BLOCKS * BLOCK - 77))
    for number in (3, 4, 200):
        content[number * BLOCK : (number + 1) * BLOCK] = bytes(BLOCK)
    return Encoded(bytes(content), missing=[4])


def whole(reader, step=3 * BLOCK):
    """Read all of it in order, as a client would."""
    found = bytearray(reader.size)
    for start in range(0, len(found), step):
        reader.read_into(start, memoryview(found)[start : start + step])
    return bytes(found)


def until(condition, limit_s=30):
    """Wait until something is so."""
    deadline = time.monotonic() + limit_s
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def is_gone(process):
    """Tell whether a process ended: it may wait to be reaped."""
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def test_slots_hold_what_the_processes_decoded(disk):
    with Decoders(2, lambda number: disk) as decoders:
        slots = Slots(BLOCK, shared=decoders.memory)
        for _ in range(3):
            found = DecodedAhead(decoders, 0).decode(2, 8, slots)
            assert found is not None
            assert [view is None for view in found] == [False, True, True, False, False, False]
            assert found[0] == disk.content[2 * BLOCK : 3 * BLOCK]
            assert found[5] == disk.content[7 * BLOCK : 8 * BLOCK]
            assert found[0].readonly
    assert disk.decoded == []


def test_the_last_block_of_a_disk_is_short(disk):
    with (
        Decoders(1, lambda number: disk) as decoders,
        CachedReader(disk, block=BLOCK, ahead=DecodedAhead(decoders, 0)) as reader,
    ):
        reader.prefetch((BLOCKS - 1) * BLOCK, BLOCK)
        until(lambda: reader.statistics.fetched)
        last = reader.peek((BLOCKS - 1) * BLOCK, BLOCK - 77)
        assert last == disk.content[-(BLOCK - 77) :]
        assert reader.peek((BLOCKS - 1) * BLOCK, BLOCK) is None


def test_what_is_read_ahead_is_decoded_by_the_processes(disk):
    with (
        Decoders(2, lambda number: disk) as decoders,
        CachedReader(disk, block=BLOCK, ahead=DecodedAhead(decoders, 0)) as reader,
    ):
        reader.prefetch(0, disk.size)
        until(lambda: reader.statistics.fetched == disk.size)
        assert whole(reader) == disk.content
        assert reader.statistics.misses == 0
        assert disk.decoded == []


def test_each_disk_is_opened_in_the_process_that_needs_it(disk, rng):
    other = Encoded(rng.randbytes(20 * BLOCK))
    with Decoders(1, lambda number: (disk, other)[number]) as decoders:
        slots = Slots(BLOCK, shared=decoders.memory)
        first = DecodedAhead(decoders, 0).decode(5, 6, slots)
        second = DecodedAhead(decoders, 1).decode(5, 6, slots)
        assert (first, second) == (
            [disk.content[5 * BLOCK : 6 * BLOCK]],
            [other.content[5 * BLOCK : 6 * BLOCK]],
        )


def test_who_needs_a_damaged_block_is_told(disk):
    disk.bad = BAD
    with (
        Decoders(2, lambda number: disk) as decoders,
        CachedReader(disk, block=BLOCK, ahead=DecodedAhead(decoders, 0)) as reader,
    ):
        buffer = memoryview(bytearray(BLOCK))
        for number in range(BAD):
            reader.read_into(number * BLOCK, buffer)
            assert buffer == disk.content[number * BLOCK : (number + 1) * BLOCK]
        with pytest.raises(errors.Damaged):
            reader.read_into(BAD * BLOCK, buffer)
        reader.read_into((BAD + 1) * BLOCK, buffer)
        assert buffer == disk.content[(BAD + 1) * BLOCK : (BAD + 2) * BLOCK]


def test_a_disk_that_cannot_be_opened_there_is_read_here(disk):
    def refuse(number):
        raise errors.StorageGone("x")

    with (
        Decoders(1, refuse) as decoders,
        CachedReader(disk, block=BLOCK, ahead=DecodedAhead(decoders, 0)) as reader,
    ):
        assert whole(reader) == disk.content
        assert len(disk.decoded) == BLOCKS - len(disk.missing)


@pytest.mark.parametrize("killed", [1, 2])
def test_without_the_processes_it_is_done_here(disk, killed):
    with (
        Decoders(2, lambda number: disk) as decoders,
        CachedReader(
            disk, block=BLOCK, cache_bytes=40 * BLOCK, ahead=DecodedAhead(decoders, 0)
        ) as reader,
    ):
        assert whole(reader) == disk.content
        for process in decoders.processes[:killed]:
            os.kill(process, signal.SIGKILL)
        assert whole(reader) == disk.content
    if killed == 2:
        assert len(disk.decoded) >= BLOCKS - len(disk.missing)


def test_one_that_dies_in_the_middle_costs_nothing(disk):
    """It is killed again and again while others read."""
    with (
        Decoders(4, lambda number: disk) as decoders,
        CachedReader(
            disk, block=BLOCK, cache_bytes=80 * BLOCK, ahead=DecodedAhead(decoders, 0)
        ) as reader,
    ):
        found = []
        readers = [
            threading.Thread(target=lambda: found.append(whole(reader, BLOCK))) for _ in range(3)
        ]
        for thread in readers:
            thread.start()
        for process in decoders.processes:
            os.kill(process, signal.SIGKILL)
        for thread in readers:
            thread.join()
        assert found == [disk.content] * 3


def test_they_end_with_the_context(disk):
    with Decoders(2, lambda number: disk) as decoders:
        processes = decoders.processes
        assert len(processes) == 2
        assert not any(is_gone(each) for each in processes)
    assert all(not Path(f"/proc/{each}").exists() for each in processes)
    decoders.close()


def test_one_that_hangs_does_not_hold_up_the_end(disk, monkeypatch):
    monkeypatch.setattr(decoding, "_END_S", 0.2)
    with Decoders(1, lambda number: disk) as decoders:
        (process,) = decoders.processes
        os.kill(process, signal.SIGSTOP)
    assert is_gone(process)


def test_there_are_as_many_as_the_system_gives(disk, monkeypatch):
    fork, made = os.fork, []

    def scarce():
        if made:
            raise BlockingIOError
        made.append(fork())
        return made[0]

    monkeypatch.setattr(os, "fork", scarce)
    with Decoders(3, lambda number: disk) as decoders:
        assert decoders.count == 1
        slots = Slots(BLOCK, shared=decoders.memory)
        found = DecodedAhead(decoders, 0).decode(0, 2, slots)
        assert found == [disk.content[:BLOCK], disk.content[BLOCK : 2 * BLOCK]]


def test_none_is_well():
    with Decoders(0, lambda number: pytest.fail("nobody asks")) as decoders:
        assert decoders.processes == ()


OWNER = """
import time
from ruchu.blocks import decoding
assert decoding.wanted() == {wanted}
found = decoding.Decoders(2, lambda number: None)
print(*found.processes, flush=True)
time.sleep(600)
"""


def test_they_end_with_whoever_started_them():
    """A process of one thread has as many as it has cores; killed, it leaves none of them."""
    cores = len(os.sched_getaffinity(0))
    wanted = min(cores, decoding.DECODERS_MAX) if cores > 1 else 0
    args = [sys.executable, "-c", OWNER.format(wanted=wanted)]
    with subprocess.Popen(args, stdout=subprocess.PIPE) as owner:
        processes = [int(word) for word in owner.stdout.readline().split()]
        assert len(processes) == 2
        assert not any(is_gone(each) for each in processes)
        owner.kill()
        until(lambda: all(is_gone(each) for each in processes))


def test_a_process_with_threads_has_none():
    ended = threading.Event()
    thread = threading.Thread(target=ended.wait)
    thread.start()
    try:
        assert decoding.wanted() == 0
    finally:
        ended.set()
        thread.join()
