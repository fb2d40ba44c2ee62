import os

import pytest

from ruchu.storage.guarding import verdicts
from ruchu.storage.guarding.verdicts import Rules, Verdict

READING = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW


@pytest.mark.parametrize(
    ("flags", "verdict"),
    [
        (READING, Verdict.READING),
        (os.O_RDONLY, Verdict.READING),
        (os.O_RDONLY | os.O_CREAT, Verdict.READING),
        (os.O_WRONLY, Verdict.REFUSED_WRITING),
        (os.O_RDWR, Verdict.REFUSED_WRITING),
        (os.O_WRONLY | os.O_APPEND, Verdict.REFUSED_WRITING),
        (os.O_RDONLY | os.O_TRUNC, Verdict.REFUSED_WRITING),
        (3, Verdict.REFUSED_WRITING),  # what Linux takes for "ioctl only"
        (None, Verdict.REFUSED_WRITING),
    ],
)
def test_who_is_foreign_may_read_and_nothing_else(flags, verdict):
    assert verdicts.judge(Rules(), admitted=False, flags=flags, exe="/usr/bin/dd") is verdict
    assert verdict.allowed == (verdict is Verdict.READING)


@pytest.mark.parametrize("flags", [READING, os.O_RDWR, None])
def test_ruchu_may_everything(flags):
    rules = Rules(frozenset())
    assert verdicts.judge(rules, admitted=True, flags=flags, exe="").allowed


def test_readers_can_be_named():
    rules = Rules(frozenset({"/usr/bin/scanner"}))
    scanner = verdicts.judge(rules, admitted=False, flags=READING, exe="/usr/bin/scanner")
    assert scanner is Verdict.READING
    other = verdicts.judge(rules, admitted=False, flags=READING, exe="/usr/bin/cat")
    assert other is Verdict.REFUSED_READING
    assert not other.allowed
    writing = verdicts.judge(rules, admitted=False, flags=os.O_RDWR, exe="/usr/bin/scanner")
    assert writing is Verdict.REFUSED_WRITING
