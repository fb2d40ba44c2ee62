"""What a server tells becomes the error that it was, with its status for the command line."""

import json

import pytest

from ruchu import errors
from ruchu.api import problems
from ruchu.control.sites import client
from ruchu.errors import ControlError, PartlyFailed, ServerAway

KINDS = [getattr(errors, name) for name in errors.__all__ if name != "PartlyFailed"]


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.code)
def test_an_error_is_the_same_on_the_other_side(kind):
    error = kind("(web-1)", hint="Do this.")
    answer = problems.of_error(error)
    found = client.error_of(answer.status_code, bytes(answer.body).decode())
    assert type(found) is kind
    assert str(found) == str(error)
    assert (found.advice, found.exit_status) == ("Do this.", kind.exit_status)


def test_what_this_release_does_not_know_is_told_as_it_is():
    for code in ("quite-new", PartlyFailed.code):
        text = json.dumps({"code": code, "detail": "Something (x)", "hint": "Wait."})
        found = client.error_of(409, text)
        assert type(found) is ControlError
        assert code in str(found)
        assert "Something (x)" in str(found)
        assert found.advice == "Wait."


@pytest.mark.parametrize("text", ["", "<html>", "[]", "{}", '{"code": 1}', "[" * 100_000])
def test_what_is_no_answer_of_ours_is_said(text):
    assert isinstance(client.error_of(502, text), ServerAway)
