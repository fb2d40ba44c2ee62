"""The control socket: it answers, whatever it is asked, so that an export can always be ended."""

import os
import socket
import tempfile
from pathlib import Path

import pytest

from ruchu.errors import ExportError, UsageError
from ruchu.exports import control
from ruchu.exports.control import ControlServer


@pytest.fixture
def path():
    with tempfile.TemporaryDirectory(prefix="rc-") as made:
        yield Path(made) / "control.sock"


def refuse(request):
    raise UsageError(f"({request['why']})")


def break_(request):
    return request["nothing"]


@pytest.fixture
def server(path):
    handlers = {"echo": dict, "refuse": refuse, "break": break_}
    with ControlServer(path, handlers) as server:
        yield server


def test_it_answers(server, path):
    assert control.is_answering(path)
    assert control.ask(path, "echo", a=[1, "ü"]) == {"do": "echo", "a": [1, "ü"]}
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_refusal_and_a_failure_are_told_and_survived(server, path, capsys):
    with pytest.raises(ExportError, match="because"):
        control.ask(path, "refuse", why="because")
    with pytest.raises(ExportError, match="nothing"):
        control.ask(path, "break")
    assert "KeyError" in capsys.readouterr().err
    with pytest.raises(ExportError, match="is none"):
        control.ask(path, "unknown")
    assert control.ask(path, "echo")


@pytest.mark.parametrize(
    "line", [b"", b"\n", b"[]\n", b"5\n", b'{"do": []}\n', b"\xff\n", b"[" * 60_000 + b"\n"]
)
def test_nonsense_is_survived(server, path, line):
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as connection:
        connection.connect(os.fspath(path))
        connection.sendall(line)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(1000)
    assert control.ask(path, "echo")


def test_a_socket_is_taken_over_only_from_the_dead(server, path):
    with pytest.raises(ExportError, match="another export"):
        ControlServer(path, {})
    dead = path.with_name("dead.sock")
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as left:
        left.bind(os.fspath(dead))
    assert not control.is_answering(dead)
    with ControlServer(dead, {"echo": dict}):
        assert control.ask(dead, "echo")
    assert not dead.exists()
    file = path.with_name("file")
    file.write_text("somebody's")
    with pytest.raises(ExportError, match="no socket"):
        ControlServer(file, {})
    assert file.read_text() == "somebody's"


def test_nobody_there(path):
    assert not control.is_answering(path)
    with pytest.raises(ExportError, match="No such file"):
        control.ask(path, "status")
    with pytest.raises(ExportError, match="too long"):
        ControlServer(path.with_name("long" * 40), {})
    assert not control.is_answering(path.with_name("long" * 40))
