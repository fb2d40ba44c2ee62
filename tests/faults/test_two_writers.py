"""Two writers on one real directory: one at a time commits, and every commit counts."""

import multiprocessing
import random
import threading

import pytest
from blake3 import blake3

from ruchu import errors
from ruchu.model.sources import Kind
from ruchu.repository import keyring, repositories
from ruchu.repository.surroundings import Surroundings
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing import worlds
from ruchu.testing.worlds import BLOCK


@pytest.fixture(autouse=True)
def _small():
    with worlds.small():
        yield


def commit_some(root, name, barrier, results):
    """Try to back up until three points are committed; runs in a thread or a process."""
    surroundings = Surroundings()
    repository = repositories.open_repository(
        DirectoryStorage(root, reserve_bytes=0), keyring.NO_SECRET, surroundings
    )
    (chain,) = repository.all_chains()
    barrier.wait()
    done = 0
    while done < 3:
        content = random.Random(f"{name} {done}").randbytes(30 * BLOCK)
        try:
            with chain.exclusive(name) as lock, PointWriter(chain, lock, Kind.FULL, None) as writer:
                writer.open_disk("vda", len(content), on_base=False).write(0, memoryview(content))
                head = writer.commit(surroundings.clock.now(), {})
        except errors.ChainBusy:
            continue
        results.put((head.stem, blake3(content).hexdigest()))
        done += 1


def commit_in_a_process(*arguments):
    with worlds.small(threads=True):
        commit_some(*arguments)


@pytest.mark.parametrize("how", ["threads", "processes"])
def test_two_writers_at_once(tmp_path, how):
    context = multiprocessing.get_context("spawn")
    root = tmp_path / "storage"
    root.mkdir()
    repository = repositories.create(
        DirectoryStorage(root, reserve_bytes=0), "a", keyring.NO_SECRET, Surroundings()
    )
    chain = repository.create_chain(worlds.OBJECT, 1, block_size=BLOCK)
    start, work = threading.Thread, commit_some
    if how == "processes":
        start, work = context.Process, commit_in_a_process
    barrier, results = context.Barrier(2), context.SimpleQueue()
    both = [
        start(target=work, args=(root, f"writer {number}", barrier, results)) for number in range(2)
    ]
    for one in both:
        one.start()
    found = dict(results.get() for _ in range(6))
    for one in both:
        one.join(60)
    assert chain.stems() == sorted(found)
    assert [int(stem[:10]) for stem in chain.stems()] == [1, 2, 3, 4, 5, 6]
    for head in chain.points():
        disk = chain.disk(head, head.disks[0])
        content = bytearray(disk.size)
        disk.read_into(0, memoryview(content))
        assert blake3(content).hexdigest() == found[head.stem]
