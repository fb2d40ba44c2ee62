"""A directory that one process uses at a time."""

import os
import signal
import subprocess
import sys

import pytest

from ruchu import process
from ruchu.errors import ControlError

HOLD = """
import sys, pathlib, signal
from ruchu import process
with process.only_one(pathlib.Path(sys.argv[1])):
    print("held", flush=True)
    signal.pause()
"""


def test_a_second_process_is_kept_away_until_the_first_is_dead(tmp_path):
    lock = tmp_path / "a" / "x.lock"
    assert process.holder(lock) is None
    with subprocess.Popen([sys.executable, "-c", HOLD, str(lock)], stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"held\n"
        assert process.holder(lock) == other.pid
        with pytest.raises(ControlError), process.only_one(lock):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait(30)
    assert process.holder(lock) is None
    with process.only_one(lock):
        assert lock.read_text() == str(os.getpid())
