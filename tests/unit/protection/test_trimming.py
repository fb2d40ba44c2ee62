"""Leaving out what does not count: whole blocks only, never what a volume counts."""

import itertools

import numpy as np
import pytest

from ruchu.errors import UsageError
from ruchu.guests import extraction, ranges
from ruchu.guests.extraction import InUse
from ruchu.model.extents import Content, Extent
from ruchu.protection import trimming
from ruchu.protection.trimming import _trim

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


def test_what_is_left_out_is_not_cross_checked():
    found = trim(1000, free=[(300, 500)])
    unlooked = found.unlooked([Extent(100, 100)], BLOCK)
    assert [(each.start, each.end) for each in unlooked] == [(100, 200), (300, 500)]


def test_nothing_is_asked_of_disks_if_nothing_may_go():
    assert trimming.survey({"d": None}, frozenset(), BLOCK, frozen=False) == {}


def test_reasons_have_names():
    assert extraction.parse_reasons("none") == frozenset()
    assert extraction.parse_reasons("free, swap") == {"free", "swap"}
    assert extraction.parse_reasons("all") == set(extraction.REASONS) - {"recycle-bin"}
    assert extraction.parse_reasons("all,recycle-bin") == set(extraction.REASONS)
    with pytest.raises(UsageError):
        extraction.parse_reasons("free,air")
