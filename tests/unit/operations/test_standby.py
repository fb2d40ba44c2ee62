"""An export that is started before it is known what it serves."""

import os
import subprocess
import sys

import pytest

from ruchu.errors import ExportError
from ruchu.operations.standby import Standby

POINT = "0123456789"
AWAITED = "from ruchu.operations import standby; print(standby.awaited(), flush=True)"


def run(line):
    return subprocess.run(
        [sys.executable, "-c", AWAITED], input=line, capture_output=True, check=True
    )


def test_without_an_order_it_ends(tmp_path):
    with Standby(tmp_path, POINT, "ab" * 16) as standby:
        assert standby.instant == "ab" * 16
    assert os.waitpid(standby.pid, 0)[1] == 0


def test_the_order_says_what_to_serve_and_where_to_tell(tmp_path):
    log = tmp_path / "export.log"
    log.write_text("before\n")
    done = run(f'{{"args": ["nbd", "--disk=\\u7a32"], "log": "{log}"}}\n'.encode())
    assert (done.stdout, done.stderr) == (b"", b"")
    assert log.read_text() == "before\n['nbd', '--disk=\u7a32']\n"


@pytest.mark.parametrize("line", [b"", b'{"args": ["nbd"], "log": "'])
def test_an_order_that_does_not_come_is_none(line):
    assert run(line).stdout == b"None\n"


def test_an_order_to_one_that_ended_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", "/bin/true")
    with Standby(tmp_path, POINT, "ab" * 16) as standby:
        os.waitpid(standby.pid, 0)
        with pytest.raises(ExportError, match="ended before"):
            standby.order(["nbd"], tmp_path / "log")


def test_what_cannot_be_started_leaves_nothing_open(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "none"))
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(Exception, match="none"):
        Standby(tmp_path, POINT, "ab" * 16)
    assert len(os.listdir("/proc/self/fd")) == before


def test_an_order_arrives(tmp_path):
    log = tmp_path / "export.log"
    with Standby(tmp_path, POINT, "ab" * 16) as standby:
        standby.order(["nbd", POINT, "--disk=0", f"--socket={tmp_path}/s"], log)
    assert os.waitpid(standby.pid, 0)[1] != 0
    assert POINT in log.read_text()
