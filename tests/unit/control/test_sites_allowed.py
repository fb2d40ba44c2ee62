"""What is passed on to a server below, and what never is."""

import pytest

from ruchu.control.sites import allowed
from ruchu.control.sites.client import Server
from ruchu.errors import Forbidden, UsageError
from ruchu.model.principals import Right


@pytest.mark.parametrize(
    ("method", "path", "body", "right"),
    [
        ("GET", "/runs", None, Right.VIEW),
        ("GET", "/runs/abc/history", None, Right.VIEW),
        ("POST", "/policies/nightly/run", {}, Right.OPERATE),
        ("PUT", "/policies/nightly", {}, Right.OPERATE),
        ("POST", "/runs", {"kind": "restore"}, Right.RESTORE),
        ("POST", "/runs", {"kind": "migration"}, Right.RESTORE),
        ("POST", "/runs", {"kind": "verify"}, Right.OPERATE),
        ("POST", "/runs", None, Right.OPERATE),
    ],
)
def test_what_is_passed_on_takes_its_right(method, path, body, right):
    assert allowed.right_of(method, path, body) is right


@pytest.mark.parametrize(
    ("method", "path"),
    [
        ("GET", "/users"), ("POST", "/tokens"), ("POST", "/definitions/export"),
        ("PUT", "/settings"), ("DELETE", "/nodes/a"), ("POST", "/nodes/tokens"),
        ("GET", "/runs/../users"), ("GET", "/runs/.."), ("GET", "/runs/."), ("GET", "runs"),
        ("GET", "/runs?x=1"), ("GET", "/runs/a?b"), ("GET", "/runs/a#b"), ("GET", "/runs/%2e%2e"),
        ("GET", "/runs/a/"), ("GET", "//runs"), ("GET", "/runs/a\n"), ("get", "/runs"),
        ("GET", "@evil.example/runs"), ("GET", ""), ("DELETE", "/runs"), ("POST", "/points/a"),
    ],
)  # fmt: skip
def test_everything_else_is_not(method, path):
    with pytest.raises(Forbidden):
        allowed.right_of(method, path)


@pytest.mark.parametrize(
    "url",
    [
        "http://backup.example.com:8443", "http://10.0.0.1", "ftp://x", "https://", "x",
        "https://u:p@x", "https://x?a=b", "https://x#f", "https://x:99999", "https://" + "x" * 600,
    ],
)  # fmt: skip
def test_an_address_that_cannot_be_or_would_show_the_token_is_refused(url):
    with pytest.raises(UsageError):
        Server(url, "secret")


@pytest.mark.parametrize("url", ["http://127.0.0.1:1", "http://[::1]:1", "https://x.example:8443"])
def test_an_address_shows_no_token(url):
    assert "secret" not in repr(Server(url, "secret"))
