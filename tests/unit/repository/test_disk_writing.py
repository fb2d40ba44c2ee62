"""Blocks to maps and back: random writes against a bytearray, at every alignment."""

import contextlib
import random
import threading

import histories
import numpy as np
import pytest
from histories import BLOCK, noise, noisy
from hypothesis import given, settings
from hypothesis import strategies as st

from ruchu import errors
from ruchu.chunks import codec
from ruchu.model.extents import Content
from ruchu.model.sources import Kind
from ruchu.repository import disk_writing, layout, maps, packs
from ruchu.repository.chunk_storing import ChunkStore
from ruchu.repository.index import DedupIndex
from ruchu.repository.pack_writing import Location, PackWriter
from ruchu.repository.writing import PointWriter
from ruchu.storage.directory import DirectoryStorage
from ruchu.testing.simulated_disk import SimulatedFileSystem


def fresh_history(size):
    disk = SimulatedFileSystem(random.Random(1))
    return histories.History(DirectoryStorage("/storage", filesystem=disk), size=size)


def write_point(history, size, orders, base=None):
    """Carry out orders (block, count, seed or None for zero) on a point; return its head."""
    chain = history.chain
    kind = Kind.FULL if base is None else Kind.INCREMENTAL
    with chain.exclusive("b") as lock, PointWriter(chain, lock, kind, base) as writer:
        disk = writer.open_disk("vda", size, on_base=base is not None)
        for block, count, seed in orders:
            start = block * BLOCK
            length = min(count * BLOCK, size - start)
            if seed is None:
                disk.zero(start, length)
            else:
                disk.write(start, memoryview(pattern(seed, length)))
        disk.flush()
        return writer.commit(history.clock.now(), {})


def pattern(seed, length):
    """Return few distinct blocks, some of them zeros, so that dedup and zeros occur."""
    rng = random.Random(seed)
    kinds = [bytes(BLOCK), b"t" * BLOCK, random.Random(rng.randrange(5)).randbytes(BLOCK)]
    return b"".join(rng.choice(kinds) for _ in range(-(-length // BLOCK)))[:length]


def apply(model, size, orders):
    model += bytes(size - len(model))
    for block, count, seed in orders:
        start = block * BLOCK
        length = min(count * BLOCK, size - start)
        model[start : start + length] = bytes(length) if seed is None else pattern(seed, length)


def read_all(chain, head):
    disk = chain.disk(head, head.disks[0])
    buffer = bytearray(disk.size)
    disk.read_into(0, memoryview(buffer))
    return buffer


@settings(max_examples=25)
@given(st.data())
def test_random_writes_are_read_back(data):
    segment = maps.SEGMENT_BLOCKS
    sizes = sorted(data.draw(st.lists(
        st.integers(1, 3 * segment * BLOCK), min_size=1, max_size=3)))  # fmt: skip
    history = fresh_history(sizes[0])
    model, head = bytearray(), None
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(disk_writing, "_DRAFTS_MAX", data.draw(st.sampled_from([1, 2, 64])))
        for size in sizes:
            blocks = -(-size // BLOCK)
            near = st.sampled_from([0, blocks - 1, segment - 1, segment, 2 * segment - 1])
            place = st.integers(0, blocks - 1) | near.filter(lambda b, n=blocks: b < n)
            order = st.tuples(place, st.integers(1, 9), st.none() | st.integers(0, 99))
            orders = data.draw(st.lists(order, max_size=8))
            head = write_point(history, size, orders, head)
            apply(model, size, orders)
            assert read_all(history.chain, head) == model
    disk = history.chain.disk(head, head.disks[0])
    for _ in range(10):
        start = data.draw(st.integers(0, disk.size))
        length = data.draw(st.integers(0, min(disk.size - start, 5 * BLOCK)))
        buffer = bytearray(b"x" * length)
        disk.read_into(start, memoryview(buffer))
        assert buffer == model[start : start + length]
    check_extents(disk, model)


def check_extents(disk, model):
    at = 0
    last = None
    for extent in disk.extents():
        assert extent.start == at
        assert extent.content is not last
        if extent.content is Content.HOLE:
            assert not any(model[at : extent.end])
        else:
            for block in range(at, extent.end, BLOCK):
                assert any(model[block : block + BLOCK])
        at, last = extent.end, extent.content
    assert at == disk.size


def test_a_segment_touched_again_after_it_was_finished(monkeypatch):
    monkeypatch.setattr(disk_writing, "_DRAFTS_MAX", 1)
    size = 3 * maps.SEGMENT_BLOCKS * BLOCK
    history = fresh_history(size)
    orders = [(0, 1, 1), (1024, 1, 2), (1, 1, 3), (2048, 1, 4), (1024, 1, None), (0, 3, 5),
              (1025, 2, 6), (5, 1, 7), (0, 9, None), (2048, 1, 8), (0, 1, 9)]  # fmt: skip
    model = bytearray()
    head = write_point(history, size, orders)
    apply(model, size, orders)
    assert read_all(history.chain, head) == model
    # On a base: back to what it was, which is not stored again.
    again = write_point(history, size, [(7, 1, 3), (1030, 1, 2), (7, 1, None), (7, 1, None)], head)
    apply(model, size, [(1030, 1, 2)])
    assert read_all(history.chain, again) == model


def test_an_equal_segment_is_not_written_again():
    history = fresh_history(5000 * BLOCK)
    head = write_point(history, history.size, [(0, 9, 1), (1024, 1, 2)])
    same = write_point(history, history.size, [(0, 9, 1), (1024, 1, 2)], head)
    maps_of = [history.chain.disk_map(h, h.disks[0]) for h in (head, same)]
    assert np.array_equal(maps_of[0].branches, maps_of[1].branches)
    assert same.disks[0].root == head.disks[0].root or same.facts["chunks_new"] <= 1


def test_zero_of_what_is_unknown_costs_nothing():
    history = fresh_history(5000 * BLOCK)
    head = write_point(history, history.size, [(0, 5000, None)])
    assert history.chain.disk_map(head, head.disks[0]).branches.size == 0
    later = write_point(history, history.size, [(0, 4000, None)], head)
    disk = history.chain.disk(later, later.disks[0])
    (extent,) = disk.extents()
    assert extent.content is Content.HOLE
    assert extent.length == history.size
    assert disk.preferred_io >= 64 << 10
    assert disk.map.branch(0) is None


def test_an_empty_disk():
    history = fresh_history(1)
    head = write_point(history, 0, [])
    disk = history.chain.disk(head, head.disks[0])
    assert list(disk.extents()) == []
    disk.read_into(0, memoryview(bytearray()))


def test_segments_kept_decoded_are_bounded(monkeypatch):
    from ruchu.repository import disk_maps  # noqa: PLC0415

    monkeypatch.setattr(disk_maps, "_SEGMENTS_KEPT", 2)
    size = 4 * maps.SEGMENT_BLOCKS * BLOCK
    history = fresh_history(size)
    head = write_point(history, size, [(n * 1024, 1, n) for n in range(4)])
    disk = history.chain.disk(head, head.disks[0])
    for segment in (0, 0, 1, 2, 3, 0):
        disk.map.segment(segment)
        assert len(disk.map._kept) <= 2
    assert disk.map.segment_count == 4


def test_a_lost_segment_of_the_base_does_not_stop_a_backup():
    size = 4 * maps.SEGMENT_BLOCKS * BLOCK
    history = fresh_history(size)
    first = write_point(history, size, [(0, 1, 1)])
    second = write_point(history, size, [(1024, 4, 7)], first)
    for pack in history.chain.pack_ids():
        if pack == first.disks[0].root.pack:
            history.storage.delete(layout.pack(history.chain.id, pack))
    history.reopen()
    third = write_point(history, size, [(2048, 2, 9)], second)
    disk = history.chain.disk(third, third.disks[0])
    buffer = bytearray(2 * BLOCK)
    disk.read_into(2048 * BLOCK, memoryview(buffer))
    assert buffer == pattern(9, 2 * BLOCK)
    with pytest.raises(errors.Damaged):
        disk.read_into(0, memoryview(buffer))


def test_disks_that_cannot_build_on_the_base():
    history = fresh_history(BLOCK * 10)
    head = write_point(history, BLOCK * 10, [(0, 3, 1)])
    chain = history.chain
    with (
        chain.exclusive("b") as lock,
        PointWriter(chain, lock, Kind.INCREMENTAL, head) as writer,
    ):
        assert writer.base_map("vdb", BLOCK * 10) is None
        assert writer.base_map("vda", BLOCK * 9) is None  # it shrank
        assert writer.base_map("vda", BLOCK * 11) is not None
        writer.open_disk("vda", BLOCK * 10, on_base=True)
        writer.open_disk("vdb", BLOCK, on_base=False)
        writer.describe_disk("vda", {"why": "x"})
        found = writer.commit(history.clock.now(), {"more": 1})
    assert found.disks[0].facts == {"why": "x"}
    assert found.facts["more"] == 1


def test_a_pack_that_is_gone_at_the_commit_stops_it():
    history = fresh_history(BLOCK * 10)
    head = write_point(history, BLOCK * 10, [(0, 3, 1)])
    chain = history.chain
    with chain.exclusive("b") as lock, PointWriter(chain, lock, Kind.FULL, None) as writer:
        disk = writer.open_disk("vda", BLOCK * 10, on_base=False)
        disk.write(0, memoryview(pattern(1, 3 * BLOCK)))  # known: in the old pack
        for pack in chain.pack_ids():
            history.storage.delete(layout.pack(chain.id, pack))
        with pytest.raises(errors.Incomplete):
            writer.commit(history.clock.now(), {})
    assert chain.stems() == [head.stem]


# Storing chunks, by several threads.


@pytest.fixture
def stored(plain):
    """A chunk store of a chain of its own, and its pack writer."""
    index = DedupIndex(plain.chain.table, None)
    store = ChunkStore(index, plain.chain.keys, codec.Compressor(0))
    with PackWriter(
        plain.storage, plain.chain.identity, plain.chain.table, plain.surroundings.entropy,
        store.on_sealed,
    ) as writer:  # fmt: skip
        store.writer = writer
        yield store, writer, plain


def test_each_chunk_is_stored_once(stored):
    store, writer, plain = stored
    chunks = [noise(number) for number in range(60)]
    ids = [store.identify(chunk) for chunk in chunks]
    found, failures = [], []

    def work(seed):
        rng = random.Random(seed)
        try:
            for _ in range(20):
                rows = [rng.randrange(60) for _ in range(rng.randrange(1, 12))]
                places = store.store(
                    packs.KIND_DATA, [ids[row] for row in rows], [chunks[row] for row in rows]
                )
                found.extend(zip(rows, places, strict=True))
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    writer.finish()
    places = dict(found)
    assert all(places[row] == place for row, place in found)
    assert len(set(places.values())) == len(places) == store.new_chunks
    assert store.known_chunks + store.new_chunks == len(found)
    stored_records = sum(len(plain.chain.reader.entries(number)) for number in set(writer.sealed))
    assert stored_records == len(places)


def test_a_failure_in_one_thread_wakes_the_others(stored):
    store, _, _ = stored
    claimed, waiting = threading.Event(), threading.Event()
    chunk = noise(1)
    chunk_id = store.identify(chunk)
    told = []

    class Failing:
        def append(self, prepared):
            claimed.set()
            waiting.wait(5)
            raise errors.StorageFull

    store.writer = Failing()

    def first():
        with pytest.raises(errors.StorageFull):
            store.store(packs.KIND_DATA, [chunk_id], [chunk])

    def second():
        with pytest.raises(errors.RepositoryError, match="Another thread") as caught:
            store.store(packs.KIND_DATA, [chunk_id], [chunk])
        told.append(caught)

    threads = [threading.Thread(target=first), threading.Thread(target=second)]
    threads[0].start()
    claimed.wait(5)
    threads[1].start()
    waiting.set()
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert told


def test_who_waits_finds_what_was_sealed_meanwhile(stored, monkeypatch):
    store, writer, _ = stored
    chunk = noise(2)
    chunk_id = store.identify(chunk)
    store.store(packs.KIND_DATA, [chunk_id], [chunk])
    store._claims[packs.KIND_DATA, chunk_id] = None
    monkeypatch.setattr(
        store._changed, "wait", lambda *args: writer.finish() if store._claims else None
    )
    place = store._await((packs.KIND_DATA, chunk_id), None)
    assert isinstance(place, Location)


def test_kinds_are_kept_apart(stored):
    store, writer, _ = stored
    chunk = noise(3)
    chunk_id = store.identify(chunk)
    (one,) = store.store(packs.KIND_DATA, [chunk_id], [chunk])
    (two,) = store.store(packs.KIND_ATTACHMENT, [chunk_id], [chunk])
    assert one != two
    writer.finish()
    (three,) = store.store(packs.KIND_DATA, [chunk_id], [chunk])
    assert three == one
    (four,) = store.store(packs.KIND_ATTACHMENT, [chunk_id], [chunk])
    assert four == two


# Reading packs.


def slots_for(chain, head, count):
    return chain.disk_map(head, head.disks[0]).segment(0)[:count]


def test_near_records_are_read_in_one_request(storage, tmp_path, monkeypatch):
    history = histories.History(storage, cache=tmp_path / "cache")
    head = history.backup(noisy(*range(30)))
    reader = history.chain.reader
    slots = slots_for(history.chain, head, 30)
    requests = []
    read_into = storage.read_into

    def counting(name, start, buffer):
        requests.append((start, len(buffer)))
        read_into(name, start, buffer)

    monkeypatch.setattr(storage, "read_into", counting)
    found = {row: bytes(chunk) for row, _, chunk in reader.read(slots[::-1], 1)}
    assert found == {29 - block: noise(block * 1000) for block in range(30)}
    assert len(requests) == 1
    requests.clear()
    list(reader.read(slots[[0, 25]], 1))  # a gap of more than 64 KiB
    assert len(requests) == 2
    requests.clear()
    list(reader.read(slots[[0, 9]], 1))
    assert len(requests) == 1
    # The same record twice.
    assert [row for row, _, _ in reader.read(slots[[3, 3]], 1)] == [0, 1]


def test_records_that_are_not_what_the_map_says(history):
    head = history.backup(noisy(1, 2, 3))
    chain = history.chain
    stored = slots_for(chain, head, 4)[1:]
    for column in ("prefix", "stored"):
        wrong = stored.copy()
        wrong[column] ^= 1
        with pytest.raises(errors.Damaged):
            list(chain.reader.read(wrong, packs.KIND_DATA))
    with pytest.raises(errors.Damaged):
        list(chain.reader.read(stored, packs.KIND_SEGMENT))
    huge = stored.copy()
    huge["stored"] = (1 << 32) - 1
    with pytest.raises(errors.Damaged):
        list(chain.reader.read(huge, packs.KIND_DATA))
    root = head.disks[0].root
    other = type(root)(root.pack, root.offset, root.stored, root.id[:16] + "00" * 24)
    with pytest.raises(errors.Damaged):
        chain.reader.read_one(other, packs.KIND_ROOT)
    missing = type(root)("00" * 16, root.offset, root.stored, root.id)
    with pytest.raises(errors.Damaged, match="is missing"):
        chain.reader.read_one(missing, packs.KIND_ROOT)


def packs_on(history):
    return [layout.pack(history.chain.id, pack) for pack in history.chain.pack_ids()]


def test_any_damage_of_a_pack_is_found_when_it_is_read(history, disk):
    rng = random.Random(3)
    head = history.backup(noisy(1, 2, 3))
    for name in packs_on(history):
        size = history.storage.size(name)
        for _ in range(60):
            bit = rng.randrange(8 * size)
            disk.flip_bit("/storage", name, bit)
            history.reopen()
            number = history.chain.table.number(bytes.fromhex(layout.stem_of(name, ".pack")))
            with contextlib.suppress(errors.Damaged, errors.UnknownFormat):
                assert history.read(head.stem) == history.contents[head.stem]
                history.chain.reader.entries(number)
            disk.flip_bit("/storage", name, bit)
    history.reopen()
    history.check()


def test_a_pack_cut_off_anywhere_is_damage(history):
    head = history.backup(noisy(1, 2))
    for name in packs_on(history):
        content = history.storage.get(name, 1 << 30)
        for length in (0, 63, 64, 127, 128, len(content) // 2, len(content) - 1):
            history.storage.delete(name)
            history.storage.put(name, content[:length])
            history.reopen()
            number = history.chain.table.number(bytes.fromhex(layout.stem_of(name, ".pack")))
            with pytest.raises((errors.Damaged, errors.UnknownFormat)):
                history.chain.reader.entries(number)
            with contextlib.suppress(errors.Damaged):
                assert history.read(head.stem) == history.contents[head.stem]
        history.storage.delete(name)
        history.storage.put(name, content)


def test_a_pack_of_the_other_kind_of_encryption_is_refused(history):
    history.backup(noisy(1))
    identity = history.chain.identity
    other = type(identity)(identity.id, identity.keys, not identity.encrypted)
    reader = type(history.chain.reader)(history.storage, other, history.chain.table)
    (pack, *_) = history.chain.pack_ids()
    with pytest.raises(errors.Damaged, match="encryption"):
        reader.entries(history.chain.table.number(bytes.fromhex(pack)))


def test_a_pack_that_cannot_be_made_durable_fails_the_run(plain, disk):
    disk.capacity = disk.used() + 3 * BLOCK
    with pytest.raises(errors.StorageFull):
        plain.backup(noisy(*range(40)))
    disk.capacity = 1 << 60
    assert plain.chain.stems() == []
    plain.backup(noisy(1))
    plain.check()
