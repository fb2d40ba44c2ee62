"""Leaving out what does not count: whole blocks only, never what a volume counts."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from ruchu.errors import Damaged, UsageError
from ruchu.guests import extraction, ranges
from ruchu.guests.extraction import InUse
from ruchu.model.extents import Content, Extent
from ruchu.model.sources import Kind
from ruchu.protection import lacking, trimming
from ruchu.protection.machine import Order, back_up_machines
from ruchu.protection.trimming import _trim
from ruchu.testing.memory_disk import MemoryDisk

BLOCK = 100


def trim(size, **left_out):
    pairs = {reason: ranges.of_pairs(each) for reason, each in left_out.items()}
    return _trim("d", InUse(size, pairs), BLOCK)


def bits(extents, size, content):
    found = np.zeros(size, bool)
    for each in extents:
        if each.content is content:
            found[each.start : each.end] = True
    return found


def test_only_whole_blocks_go():
    found = trim(1050, free=[(50, 250), (399, 600)], swap=[(600, 720), (1000, 1050)])
    assert found.whole.tolist() == [[100, 200], [400, 700], [1000, 1050]]
    assert found.left_out["free"].tolist() == [[100, 200], [400, 600]]
    assert found.left_out["swap"].tolist() == [[600, 700], [1000, 1050]]


def test_two_reasons_share_a_block():
    found = trim(300, free=[(100, 150)], swap=[(150, 200)])
    assert found.whole.tolist() == [[100, 200]]
    assert {key: ranges.total(each) for key, each in found.left_out.items()} == {
        "free": 50, "swap": 50
    }  # fmt: skip


def test_trimming_changes_nothing_but_what_is_left_out(rng):
    size = 4000
    for _ in range(200):
        free = [(at, at + rng.randrange(1, 400)) for at in rng.sample(range(size - 400), 5)]
        found = trim(size, free=ranges.of_pairs(free).tolist())
        kinds = [rng.choice([Content.DATA, Content.ZERO, None]) for _ in range(size // BLOCK)]
        extents = [Extent(n * BLOCK, BLOCK, kind) for n, kind in enumerate(kinds) if kind]
        trimmed, saved = found.trimmed(extents)
        left_out = np.zeros(size, bool)
        for first, end in found.whole.tolist():
            left_out[first:end] = True
        data = bits(extents, size, Content.DATA)
        assert (bits(trimmed, size, Content.DATA) == (data & ~left_out)).all()
        zero = bits(extents, size, Content.ZERO) | (data & left_out)
        assert (bits(trimmed, size, Content.ZERO) == zero).all()
        assert sum(saved.values()) == int((data & left_out).sum())
        assert all(a.end <= b.start for a, b in itertools.pairwise(trimmed))


def test_a_point_lacks_what_it_neither_reads_nor_finds_in_its_base():
    found = trim(1000, free=[(300, 500), (700, 900)])
    read = [Extent(300, 100), Extent(900, 100)]
    lacks = found.lacks(read, ranges.of_pairs([(700, 800), (0, 100)]), on_base=True)
    assert lacks.tolist() == [[300, 400], [700, 800]]
    assert found.lacks(read, ranges.empty(), on_base=False).tolist() == found.whole.tolist()


def test_what_is_lacked_is_kept_exactly(rng):
    for size in (1, 99, 100, 801, 5050):
        for _ in range(20):
            count = -(-size // BLOCK)
            chosen = [n for n in range(count) if rng.random() < 0.4]
            lacks = ranges.of_pairs((n * BLOCK, min(size, (n + 1) * BLOCK)) for n in chosen)
            data = lacking.encode(lacks, size, BLOCK)
            assert lacking.decode(data, BLOCK).tolist() == lacks.tolist()
    for broken in (b"", data[:-1], data + b"x", b"x" + data[1:]):
        with pytest.raises(Damaged):
            lacking.decode(broken, BLOCK)
    with pytest.raises(Damaged):
        lacking.decode(data, 2 * BLOCK)


def test_nothing_is_asked_of_disks_if_nothing_may_go():
    assert trimming.survey({"d": None}, frozenset(), BLOCK, frozen=False) == {}


def test_reasons_have_names():
    assert extraction.parse_reasons("none") == frozenset()
    assert extraction.parse_reasons("free, swap") == {"free", "swap"}
    assert extraction.parse_reasons("all") == set(extraction.REASONS) - {"recycle-bin"}
    assert extraction.parse_reasons("all,recycle-bin") == set(extraction.REASONS)
    with pytest.raises(UsageError):
        extraction.parse_reasons("free,air")


def test_a_fault_of_ours_in_a_reader_costs_no_backup(monkeypatch):
    def fails(*_, **__):
        raise IndexError("ours")

    monkeypatch.setattr(extraction, "in_use", fails)
    (trim,) = trimming.survey(
        {"d": MemoryDisk(bytes(1000))}, {"free"}, BLOCK, frozen=False
    ).values()
    assert (trim.whole.tolist(), trim.left_out) == ([], {})
    (reason,) = trim.reasons
    assert (reason.code, reason.disk) == ("counts-as-whole", "d")
    assert "ours" in reason.text


@pytest.fixture
def forgetful(monkeypatch):
    """Yield what is said to be free, which a test changes as a guest does without writing."""
    free = {"vda": []}

    def in_use(disks, reasons, *, frozen):
        assert reasons == {"free"}
        return {
            key: InUse(disk.size, {"free": ranges.of_pairs(free.get(key, []))})
            for key, disk in disks.items()
        }

    monkeypatch.setattr(extraction, "in_use", in_use)
    return free


def test_what_counts_again_without_a_write_is_read(platform, repository, run, rng, forgetful):
    """The point that follows a point with less in it is whole where it counts."""
    block = 64 << 10
    content = rng.randbytes(20 * block)
    guest = platform.add("web", {"vda": content})
    trimmed = replace(run, leave_out=frozenset({"free"}))

    def back_up(how, **more):
        (done,) = back_up_machines(platform, "p", repository, Order(("web",), **more), how)
        assert done.error is None, done.error
        return done.saved

    def check(saved, lacking_blocks):
        (chain,) = repository.all_chains()
        disk = chain.disk(saved.head, saved.head.disks[0])
        found = bytearray(disk.size)
        disk.read_into(0, memoryview(found))
        for number in range(20):
            here = slice(number * block, (number + 1) * block)
            if number not in lacking_blocks:
                assert found[here] == guest.disks["vda"][here], number

    forgetful["vda"] = [(4 * block, 9 * block)]
    full = back_up(trimmed)
    check(full, range(4, 9))
    # Nothing is written, and three of the blocks count again; another one does not any more.
    forgetful["vda"] = [(4 * block, 6 * block), (15 * block, 16 * block)]
    second = back_up(trimmed)
    check(second, range(4, 6))
    assert second.bytes_read == 3 * block
    guest.write("vda", 5 * block, b"new")
    guest.write("vda", 10 * block, b"new")
    third = back_up(trimmed)
    check(third, range(4, 6))
    assert third.bytes_read == block
    # Without leaving anything out the chain is whole again, byte for byte.
    fourth = back_up(run)
    check(fourth, ())
    assert fourth.bytes_read == 2 * block
    assert not any("sample" in reason.code for reason in fourth.reasons)
    check(back_up(run, kind=Kind.DIFFERENTIAL), ())
