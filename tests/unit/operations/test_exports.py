"""Addresses, certificates and owners of exports, as options say them."""

import os

import pytest

from ruchu.errors import NotFound, UsageError
from ruchu.operations import exports, instants


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("127.0.0.1:10809", ("127.0.0.1", 10809)),
        ("[::1]:0", ("::1", 0)),
        ("host.example:65535", ("host.example", 65535)),
    ],
)
def test_addresses(text, address):
    assert exports.address_of(text) == address


@pytest.mark.parametrize("text", ["", "host", ":80", "host:", "host:x", "host:65536", "host:-1"])
def test_what_is_no_address(text):
    with pytest.raises(UsageError, match="address"):
        exports.address_of(text)


def test_hosts_in_urls():
    assert (exports.bracketed("::1"), exports.bracketed("127.0.0.1")) == ("[::1]", "127.0.0.1")


def test_certificates_that_are_none(tmp_path):
    (tmp_path / "x").write_text("x")
    for path in (tmp_path / "x", tmp_path / "missing"):
        with pytest.raises(UsageError, match="TLS"):
            exports.TlsFiles(path, path, path).context()


def test_a_socket_for_nobody(tmp_path):
    (tmp_path / "s").touch()
    with pytest.raises(NotFound, match="user"):
        exports.give_to(tmp_path / "s", "no-such-user-here")
    exports.give_to(tmp_path / "s", "")
    assert (tmp_path / "s").stat().st_uid == os.getuid()


def test_where_sockets_are(monkeypatch):
    monkeypatch.setenv(instants.RUNTIME_VARIABLE, "/x")
    assert str(instants.runtime_directory()) == "/x"
    monkeypatch.delenv(instants.RUNTIME_VARIABLE)
    monkeypatch.setattr(os, "getuid", lambda: 1000)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/1000")
    assert str(instants.runtime_directory()) == "/run/user/1000/ruchu"
    monkeypatch.delenv("XDG_RUNTIME_DIR")
    assert str(instants.runtime_directory()) == "/tmp/ruchu-1000"
