import pathlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ruchu import errors
from ruchu.storage import names
from ruchu.testing.storages import UNSAFE_NAMES


@pytest.mark.parametrize("name", UNSAFE_NAMES)
def test_unsafe_names_are_refused(name):
    assert not names.is_safe(name)
    with pytest.raises(errors.UnsafeName):
        names.check(name)


@pytest.mark.parametrize(
    "name",
    [
        "ruchu-storage.json",
        "FORMAT.txt",
        "chains/c-1/packs/0f/a.pack",
        "a..b",
        "_",
        "-",
        "h/" * 7 + "h",
    ],
)
def test_safe_names_are_taken(name):
    assert names.check(name) == name


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("", "empty"),
        ("/a", "absolute"),
        ("a/../b", "dot"),
        ("a//b", "empty"),
        ("a" * 201, "200"),
        ("/".join(["a" * 200] * 6), "1000"),
        ("/".join("a" * 9), "8 components"),
        ("a*", "characters"),
        ("a\n", "characters"),
        ("a.partial", "not whole"),
    ],
)
def test_the_reason_is_told(name, reason):
    with pytest.raises(errors.UnsafeName, match=reason):
        names.check(name)


def test_limits_are_inclusive():
    assert names.is_safe("/".join(["a" * 124] * 8))
    assert names.is_safe("a" * 200)


@given(st.text(max_size=40) | st.from_regex(r"[a.\-_/]{0,20}", fullmatch=True))
def test_a_safe_name_stays_below_its_directory(name):
    if names.is_safe(name):
        path = pathlib.PurePosixPath("/root") / name
        assert str(path) == f"/root/{name}"
        assert ".." not in path.parts
        assert name.isascii()


@given(st.from_regex(r"[a-z]{1,9}(/[a-z]{1,9}){0,4}", fullmatch=True))
def test_an_unfinished_object_is_told_from_a_whole_one(name):
    unfinished = names.partial(name, "0123456789abcdef")
    assert names.is_partial(unfinished)
    assert not names.is_safe(unfinished)
    assert not names.is_partial(name)


@pytest.mark.parametrize(
    "name", ["a.partial-0123", ".partial-0123456789abcdef", "../a.partial-0123456789abcdef"]
)
def test_what_no_writer_would_use_is_not_unfinished(name):
    assert not names.is_partial(name)


@given(st.from_regex(r"[a-z]{1,3}(/[a-z]{1,3}){0,4}", fullmatch=True))
def test_split_and_join_undo_each_other(name):
    assert names.join(*names.split(name)) == name
