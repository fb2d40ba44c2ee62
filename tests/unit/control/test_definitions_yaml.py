"""Files as people write them: plain YAML, limited, without a secret in it."""

from pathlib import Path

import pytest

from ruchu.control.definitions import yaml_files
from ruchu.errors import UsageError


def test_values_are_what_they_look_like():
    found = yaml_files.load(
        "time: 02:00\nday: 2027-02-06\nno: no\non: [on, off, yes]\nflag: true\nnull_: ~\n"
        "empty:\ntext: '5'\nnumber: 010\nfloat: 1.5\nsigned: -3\n中文: 名\n"
    )
    assert found == {
        "time": "02:00", "day": "2027-02-06", "no": "no", "on": ["on", "off", "yes"],
        "flag": True, "null_": None, "empty": None, "text": "5", "number": 10, "float": 1.5,
        "signed": -3, "中文": "名",
    }  # fmt: skip


def test_anchors_may_be_used_for_what_repeats():
    found = yaml_files.load("a: &x {b: 1}\nc: *x\n")
    assert found == {"a": {"b": 1}, "c": {"b": 1}}


BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{two}: &{two} [{', '.join([f'*{one}'] * 9)}]\n"
    for one, two in zip("abcdefgh", "bcdefghi", strict=True)
)


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("a: 1\na: 2\n", "twice"),
        ("a: {b: 1, b: 2}\n", "twice"),
        ("1: a\n", "a key is a text"),
        ("[1]: a\n", "key"),
        ("- a\n", "no mapping"),
        ("", "no mapping"),
        ("a: [", "line"),
        ("a: 1\n---\nb: 2\n", "document"),
        ("a: !!python/object/apply:os.system ['true']\n", "tag"),
        ("a: !include x\n", "tag"),
        ("a: &x [*x]\n", "holds itself"),
        (BOMB, "values"),
        ("a: &x 1\nb: [" + ", ".join(["*x"] * 1001) + "]\n", "aliases"),
        ("a: " + "[" * 40 + "]" * 40 + "\n", "deep"),
        ("a: [" + ", ".join(["*x"] * 1001) + "]\n", "alias"),
        ("x: " + "a" * yaml_files.BYTES_MAX, "bytes"),
        ("a: \x00\n", "characters"),
    ],
)
def test_what_is_not_plain_is_refused(text, why):
    with pytest.raises(UsageError, match=why):
        yaml_files.load(text)


def read(path):
    return {Path("good"): b"from file\n", Path("empty"): b"\n", Path("odd"): b"\xff",
            Path("large"): b"x" * 20_000}[path]  # fmt: skip


def test_secrets_are_taken_from_where_they_are_named():
    document = {
        "ruchu": 1,
        "channels": {"hook": {"kind": "webhook", "secrets": {"key": {"env": "KEY"}}}},
        "storages": {"main": {"location": "/s", "secrets": {"passphrase": {"file": "good"}}}},
        "policies": {"p": {"storage": "main"}},
    }
    rest, secrets = yaml_files.parted(document, {"KEY": "from environment"}, read)
    assert secrets == {
        "channels": {"hook": {"key": "from environment"}},
        "storages": {"main": {"passphrase": "from file"}},
    }
    assert "secrets" not in repr(rest)
    assert rest["policies"] == document["policies"]


@pytest.mark.parametrize(
    "way",
    ["geheim", {"env": "NONE"}, {"file": "empty"}, {"file": "odd"}, {"file": "large"}, {},
     {"env": "KEY", "file": "good"}, {"vault": "x"}, None, ["env"]],
)  # fmt: skip
def test_a_secret_that_is_written_out_or_not_there_is_refused_without_showing_it(way):
    document = {"channels": {"hook": {"secrets": {"key": way}}}}
    with pytest.raises(UsageError) as error:
        yaml_files.parted(document, {"KEY": "x"}, read)
    assert "geheim" not in str(error.value)
    assert "hook" in str(error.value)
