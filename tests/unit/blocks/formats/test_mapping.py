import threading

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu.blocks.formats.mapping import (
    DISK_MAX,
    BytesDisk,
    ComposedDisk,
    ComputedDisk,
    Kept,
    MappedDisk,
    Part,
    Span,
    Table,
    run_of,
)
from ruchu.errors import ImageDamaged
from ruchu.model.extents import Content, Extent


def read(disk, start=0, length=None):
    buffer = bytearray(b"?" * (disk.size - start if length is None else length))
    disk.read_into(start, memoryview(buffer))
    return bytes(buffer)


GAPS = st.lists(st.tuples(st.integers(0, 9), st.binary(max_size=12), st.integers(0, 3)))


@given(GAPS, st.integers(0, 9), st.data())
def test_a_composed_disk_is_its_parts_and_zeros_between(gaps, tail, data):
    parts, whole = [], b""
    for gap, content, skipped in gaps:
        whole += bytes(gap)
        parts.append(Part(len(whole), len(content), BytesDisk(b"#" * skipped + content), skipped))
        whole += content
    whole += bytes(tail)
    disk = ComposedDisk(len(whole), parts)
    start = data.draw(st.integers(0, len(whole)))
    length = data.draw(st.integers(0, len(whole) - start))
    assert read(disk, start, length) == whole[start : start + length]
    at = 0
    for extent in disk.extents():
        assert extent.start == at
        assert extent.content is Content.DATA or not any(whole[at : extent.end])
        at = extent.end
    assert at == len(whole)


@pytest.mark.parametrize(
    "parts",
    [
        [Part(0, 5, BytesDisk(b"1234"))],
        [Part(0, 4, BytesDisk(b"1234"), 1)],
        [Part(7, 4, BytesDisk(b"1234"))],
        [Part(0, 4, BytesDisk(b"1234")), Part(3, 4, BytesDisk(b"1234"))],
    ],
)
def test_parts_that_do_not_fit_are_refused(parts):
    with pytest.raises(ImageDamaged):
        ComposedDisk(10, parts)


@pytest.mark.parametrize(("start", "length"), [(-1, 1), (10, 1), (0, 11)])
def test_nothing_is_read_outside(start, length):
    disks = [ComposedDisk(10, []), Scripted(10, [Span(10, Content.HOLE)])]
    for disk in disks:
        with pytest.raises(ImageDamaged):
            disk.read_into(start, memoryview(bytearray(length)))


class Scripted(MappedDisk):
    def __init__(self, size, spans):
        super().__init__(size)
        self.spans = spans

    def span(self, start):
        at = 0
        for span in self.spans:
            if start < at + span.length:
                return self.behind(span, start - at)
            at += span.length
        raise AssertionError

    @staticmethod
    def behind(span, within):
        load = (lambda: span.load()[within:]) if span.load else None
        return Span(span.length - within, span.content, span.source, span.offset + within, load)


def test_a_mapped_disk_is_its_spans():
    below = BytesDisk(b"0123456789")
    spans = [
        Span(3, Content.HOLE),
        Span(4, Content.DATA, below, 2),
        Span(2, Content.DATA, load=lambda: b"ab"),
        Span(9, Content.ZERO),
    ]
    disk = Scripted(12, spans)
    whole = b"\0\0\0" + b"2345" + b"ab" + b"\0\0\0"
    for start in range(12):
        for length in range(12 - start):
            assert read(disk, start, length) == whole[start : start + length]
    assert list(disk.extents()) == [
        Extent(0, 3, Content.HOLE), Extent(3, 6, Content.DATA), Extent(9, 3, Content.ZERO),
    ]  # fmt: skip


def test_a_disk_larger_than_any_is_refused():
    with pytest.raises(ImageDamaged):
        Scripted(DISK_MAX + 1, [])


def test_a_table_is_read_in_pieces(rng):
    numbers = [rng.getrandbits(32) for _ in range(40_000)]
    source = BytesDisk(b"xy" + np.array(numbers, ">u4").tobytes())
    table = Table(source, 2, len(numbers), ">u4")
    assert [table[index] for index in range(0, 40_000, 997)] == numbers[::997]
    assert len(table.entries(0)) == 16384
    for index in (-1, 40_000):
        with pytest.raises(ImageDamaged):
            table[index]
    with pytest.raises(ImageDamaged):
        Table(source, 3, len(numbers), ">u4")


@pytest.mark.parametrize(
    ("entries", "step", "expected"),
    [([7], 0, 1), ([7, 7, 8], 0, 2), ([7, 8, 9, 11], 1, 3), ([0, 0], 0, 2), ([255, 0], 1, 2)],
)
def test_runs(entries, step, expected):
    assert run_of(np.array(entries, np.uint8), step=step) == expected


def test_a_computed_disk_computes_blocks_when_they_are_read():
    made = []

    def compute(number):
        made.append(number)
        return bytes([number]) * 4

    disk = ComputedDisk(1000, 4, compute)
    assert read(disk, 6, 4) == b"\1\1\2\2"
    assert read(disk, 4, 4) == b"\1" * 4
    assert made == [1, 2]
    assert list(disk.extents()) == [Extent(0, 1000)]


def test_what_was_made_lately_is_kept():
    made = []
    kept = Kept(2)
    for key in (1, 2, 1, 3, 1, 2):
        kept.get(key, made.append)
    assert made == [1, 2, 3, 2]


def test_slow_values_do_not_hold_up_others():
    kept, gate = Kept(2), threading.Event()
    waiting = threading.Thread(target=kept.get, args=(1, lambda _: gate.wait()))
    waiting.start()
    assert kept.get(2, str) == "2"
    gate.set()
    waiting.join()
