import json

import pytest

from ruchu.errors import Damaged
from ruchu.storage.guarding import journal as journals
from ruchu.storage.guarding.journal import Journal
from ruchu.storage.guarding.trees import Seen

A = Seen(10, 1, 100, sealed=True, locked=False)
B = Seen(20, 2, 200, sealed=False, locked=True)


@pytest.fixture
def place(tmp_path):
    return tmp_path / "guard" / "one"


def test_what_is_recorded_is_read_again(place):
    first = Journal(place)
    assert first.is_new
    first.rewrite({"a": A})
    first.record({"b": B})
    first.record({"a": None, "c": A})
    first.record({})
    again = Journal(place)
    assert not again.is_new
    assert again.seen == {"b": B, "c": A} == first.seen
    again.record({"c": B})
    assert Journal(place, writable=False).seen == {"b": B, "c": B}


def test_nobody_else_may_read_the_key(place):
    Journal(place)
    assert (place / "key").stat().st_mode & 0o777 == 0o600
    assert place.stat().st_mode & 0o777 == 0o700


@pytest.fixture
def lines(place):
    journal = Journal(place)
    journal.rewrite({"a": A})
    journal.record({"b": B})
    journal.record({"a": None})
    return (place / "journal").read_bytes().splitlines(keepends=True)


@pytest.mark.parametrize(
    "forge",
    [
        lambda lines: [lines[0].replace(b"[10,", b"[11,"), *lines[1:]],
        lambda lines: [lines[0], lines[2]],
        lambda lines: [lines[1], lines[0], lines[2]],
        lambda lines: lines[:2],
        lambda lines: [],
        lambda lines: [*lines, lines[2]],
        lambda lines: [*lines, b"[]\n"],
        lambda lines: [*lines, b"nonsense\n"],
        lambda lines: [json.dumps([1, {}, "0" * 64]).encode() + b"\n", *lines[1:]],
    ],
    ids=["changed", "dropped", "swapped", "cut", "emptied", "repeated", "shaped", "text", "forged"],
)
@pytest.mark.parametrize("writable", [True, False])
def test_tampering_is_noticed(place, lines, forge, writable):
    (place / "journal").write_bytes(b"".join(forge(lines)))
    with pytest.raises(Damaged):
        Journal(place, writable=writable)


def test_a_line_that_was_being_written_does_not_count(place, lines):
    whole = b"".join(lines)
    (place / "journal").write_bytes(whole + b'[4, {"x": [1')
    assert Journal(place, writable=False).seen == {"b": B}
    assert (place / "journal").read_bytes() != whole
    assert Journal(place).seen == {"b": B}
    assert (place / "journal").read_bytes() == whole


def test_a_guard_killed_between_line_and_head_is_no_tampering(place, lines):
    (place / "journal").write_bytes(b"".join(lines[:2]))
    (place / "head").write_text(json.dumps([1, json.loads(lines[0])[2]]))
    assert Journal(place).seen == {"a": A, "b": B}


def test_a_damaged_head_or_key_is_noticed(place, lines):
    (place / "head").write_text("?")
    with pytest.raises(Damaged, match="head"):
        Journal(place)
    (place / "key").write_bytes(b"short")
    with pytest.raises(Damaged, match="key"):
        Journal(place)


def test_a_journal_that_is_long_is_written_anew(place, monkeypatch):
    monkeypatch.setattr(journals, "_REWRITE_MIN", 10)
    journal = Journal(place)
    journal.rewrite({"a": A})
    for turn in range(11):
        journal.record({"a": Seen(turn, 1, 1, sealed=True, locked=False)})
    assert journal.is_long()
    journal.rewrite(dict(journal.seen))
    assert not journal.is_long()
    assert Journal(place).seen == journal.seen


def test_many_objects_are_several_lines(place, monkeypatch):
    monkeypatch.setattr(journals, "_BATCH", 3)
    journal = Journal(place)
    journal.rewrite({str(number): A for number in range(10)})
    assert len((place / "journal").read_text().splitlines()) == 4
    assert len(Journal(place).seen) == 10
