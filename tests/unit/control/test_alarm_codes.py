"""Every code that the product raises is in the table, with texts for people."""

import re
from pathlib import Path

import pytest

from ruchu import errors
from ruchu.control.alarms import codes

SOURCE = Path(codes.__file__).parents[2]
# Where a text of this shape is the code of an alarm, and not the name of a message or a kind.
RAISED = re.compile(
    r'"((?:guard|tamper|wire|missed|rpo|verify|snapshot)-[a-z-]+|[a-z]+-(?:failed|gone|lost))"'
)
ERRORS = {each.code for each in vars(errors).values() if hasattr(each, "code")}
# Errors of the command line and of nodes, and notes to a backup.
NO_ALARMS = ERRORS | {"question-failed", "selftest-failed", "agent-failed", "bitmap-lost"}


def raised():
    texts = [path.read_text() for path in SOURCE.rglob("*.py") if path.name != "codes.py"]
    return {code for text in texts for code in RAISED.findall(text)}


def test_every_code_that_is_raised_is_in_the_table():
    found = raised()
    assert {"guard-refused", "wire-token", "platform-gone", "tamper-changed"} <= found
    assert found - NO_ALARMS <= set(codes.CODES)


def test_every_code_of_guards_and_of_the_port_is_raised_somewhere():
    ours = {each for each in codes.CODES if each.startswith(("guard-", "tamper-", "wire-"))}
    assert ours <= raised()


@pytest.mark.parametrize(
    ("code", "moment"),
    [
        ("guard-refused", True),
        ("tamper-changed", True),
        ("wire-token", True),
        ("guard-ended", False),
        ("guard-unsupported", False),
        ("node-lost", False),
        ("storage-full", False),
        ("unknown-code", False),
    ],
)
def test_what_happened_is_told_from_what_goes_on(code, moment):
    assert codes.is_moment(code) is moment
