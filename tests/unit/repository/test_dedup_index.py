import random
import threading

import numpy as np
import pytest

from ruchu.repository import index as indexes
from ruchu.repository import maps, packs
from ruchu.repository.index import DedupIndex
from ruchu.repository.pack_writing import Location

DATA, SEGMENT, ROOT = packs.KIND_DATA, packs.KIND_SEGMENT, packs.KIND_ROOT


def entries_of(ids, kind=DATA):
    entries = np.zeros(len(ids), packs.ENTRY)
    for number, chunk_id in enumerate(ids):
        entries[number]["id"] = np.void(chunk_id)
        entries[number]["offset"], entries[number]["stored"] = 64 + 100 * number, 48 + number
        entries[number]["kind"] = kind
    return entries


def ids_of(seed, count):
    rng = random.Random(seed)
    return [rng.randbytes(32) for _ in range(count)]


def table_of(count):
    table = maps.PackTable()
    table.numbers([bytes([n]) * 16 for n in range(count)])
    return table


def test_what_is_added_is_found():
    index = DedupIndex(table_of(30), None)
    packs_of = {number: ids_of(number, 50) for number in range(20)}
    for number, ids in packs_of.items():
        index.add(number, entries_of(ids))
        index.add(number, entries_of(ids))  # a second time changes nothing
    for number, ids in packs_of.items():
        assert index.find(ids, DATA) == [
            Location(number, 64 + 100 * n, 48 + n) for n in range(len(ids))
        ]
        assert index.find(ids[:3], SEGMENT) == [None] * 3
    assert index.find(ids_of("other", 5), DATA) == [None] * 5
    assert index.find([], DATA) == []
    assert index.pack_numbers == frozenset(range(20))


def test_roots_are_not_shared():
    index = DedupIndex(table_of(1), None)
    index.add(0, entries_of(ids_of(1, 3), ROOT))
    assert index.find(ids_of(1, 3), ROOT) == [None] * 3
    assert index.pack_numbers == {0}


@pytest.mark.parametrize("consolidated", [False, True])
def test_equal_prefixes_are_told_apart(consolidated, monkeypatch):
    if consolidated:
        monkeypatch.setattr(indexes, "_FRESH_ROWS_MAX", 1)
    rng = random.Random(1)
    crafted = [bytes(8) + rng.randbytes(24) for _ in range(5)]
    index = DedupIndex(table_of(3), None)
    index.add(0, entries_of(crafted[:3]))
    index.add(1, entries_of([crafted[0], crafted[3]], SEGMENT))
    index.retain([0, 1])
    assert [place and place.pack for place in index.find(crafted, DATA)] == [0, 0, 0, None, None]
    assert [place and place.pack for place in index.find(crafted, SEGMENT)] == [
        1, None, None, 1, None,
    ]  # fmt: skip
    # The same chunk in a dead pack and in a live one.
    index.add(2, entries_of(crafted[:2]))
    index.retain([1, 2])
    assert [place and place.pack for place in index.find(crafted, DATA)] == [2, 2, None, None, None]


def test_the_cache_is_taken_over_by_the_next_process(tmp_path, monkeypatch):
    cache = tmp_path / "deep" / "index"
    first = DedupIndex(table_of(5), cache)
    first.load()  # there is none yet
    for number in range(5):
        first.add(number, entries_of(ids_of(number, 20)))
    first.save()
    before = cache.stat().st_mtime_ns
    first.save()  # nothing new
    assert cache.stat().st_mtime_ns == before
    assert first.find(ids_of(3, 20), DATA)[7].pack == 3
    # Another process numbers packs in another order.
    table = maps.PackTable()
    table.numbers([bytes([n]) * 16 for n in (9, 4, 3, 2, 1, 0)])
    second = DedupIndex(table, cache)
    second.load()
    assert second.pack_numbers == frozenset(range(1, 6))
    found = second.find(ids_of(3, 20), DATA)
    assert {table.id(place.pack) for place in found} == {bytes([3]) * 16}
    # A pack vanished, another came: it is written anew without the dead rows.
    second.retain(second.pack_numbers - {table.number(bytes([3]) * 16)})
    assert second.find(ids_of(3, 20), DATA) == [None] * 20
    second.add(0, entries_of(ids_of("new", 4)))
    second.save()
    third = DedupIndex(maps.PackTable(), cache)
    third.load()
    assert third.find(ids_of(3, 20), DATA) == [None] * 20
    assert None not in third.find(ids_of("new", 4) + ids_of(1, 20), DATA)


def test_an_empty_cache(tmp_path):
    cache = tmp_path / "index"
    first = DedupIndex(table_of(2), cache)
    first.add(0, entries_of([]))
    first.save()
    second = DedupIndex(table_of(2), cache)
    second.load()
    assert second.find(ids_of(1, 1), DATA) == [None]


@pytest.mark.parametrize("way", ["empty", "front", "cut", "magic", "ids", "rows"])
def test_a_damaged_cache_is_as_good_as_none(tmp_path, way):
    cache = tmp_path / "index"
    first = DedupIndex(table_of(2), cache)
    first.add(0, entries_of(ids_of(1, 20)))
    first.save()
    data = bytearray(cache.read_bytes())
    if way == "magic":
        data[0] ^= 1
    elif way == "ids":
        data[60] ^= 1
    elif way == "rows":
        data[-9] ^= 1
    else:
        del data[{"empty": 0, "front": 20, "cut": len(data) - 1}[way] :]
    cache.write_bytes(data)
    second = DedupIndex(table_of(2), cache)
    second.load()
    assert second.pack_numbers == frozenset()
    assert second.find(ids_of(1, 20), DATA) == [None] * 20


def test_several_threads(tmp_path, monkeypatch):
    monkeypatch.setattr(indexes, "_FRESH_ROWS_MAX", 300)
    index = DedupIndex(table_of(64), tmp_path / "index")
    failures = []

    def work(first):
        try:
            for number in range(first, 64, 4):
                index.add(number, entries_of(ids_of(number, 30)))
                for place in index.find(ids_of(number, 30), DATA):
                    assert place.pack == number
        except BaseException as error:  # noqa: BLE001
            failures.append(error)

    threads = [threading.Thread(target=work, args=(n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    for number in range(64):
        assert {place.pack for place in index.find(ids_of(number, 30), DATA)} == {number}
