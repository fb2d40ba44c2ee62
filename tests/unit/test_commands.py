"""External programs: limits, the locale, secrets, and that nothing is left running."""

import os
import signal
import sys

import pytest

from ruchu import commands
from ruchu.clock import SYSTEM
from ruchu.errors import CommandFailed


def test_output_input_and_locale():
    done = commands.run(
        ["sh", "-c", "cat; echo $LC_ALL-$EXTRA; echo oops >&2"],
        timeout_s=10,
        input=b"in ",
        env={"EXTRA": "x"},
    )
    assert done.text == "in C-x\n"
    assert done.stderr == "oops\n"
    assert done.status == 0


def test_without_input_there_is_none():
    assert commands.run(["cat"], timeout_s=10).stdout == b""


def test_a_failure_carries_what_the_program_said():
    with pytest.raises(CommandFailed, match=r"exit status 3: the reason"):
        commands.run(["sh", "-c", "echo the reason >&2; exit 3"], timeout_s=10)
    done = commands.run(["sh", "-c", "exit 3"], timeout_s=10, check=False)
    assert done.status == 3


def test_secrets_are_scrubbed():
    with pytest.raises(CommandFailed) as caught:
        commands.run(
            ["sh", "-c", "echo key=hunter2 >&2; false", "hunter2"],
            timeout_s=10,
            secrets=["hunter2", ""],
        )
    assert "hunter2" not in str(caught.value)
    assert "key=***" in str(caught.value)


def test_a_time_limit():
    with pytest.raises(CommandFailed, match="no end after"):
        commands.run(["sleep", "60"], timeout_s=0.1)


def test_a_program_that_is_not_there():
    with pytest.raises(CommandFailed, match="No such file"):
        commands.run(["/no/such/program"], timeout_s=1)
    with pytest.raises(CommandFailed), commands.start(["/no/such/program"]):
        pass
    with pytest.raises(CommandFailed):
        commands.start_detached(["/no/such/program"], log=os.devnull)


def test_too_much_output(monkeypatch):
    monkeypatch.setattr(commands, "OUTPUT_MAX", 10)
    with pytest.raises(CommandFailed, match="more than 10 bytes"):
        commands.run(["seq", "100"], timeout_s=10)


def test_a_long_error_is_cut():
    with pytest.raises(CommandFailed) as caught:
        commands.run(["sh", "-c", "seq 5000 >&2; echo last >&2; false"], timeout_s=10)
    assert len(str(caught.value)) < 3000
    assert "last" in str(caught.value)


def test_a_background_program_ends_with_its_context():
    with commands.start(["sleep", "60"]) as process:
        assert process.status() is None
        assert process.pid > 0
        with pytest.raises(CommandFailed):
            process.wait(0.05)
    assert process.status() == -signal.SIGTERM
    assert process.stop() == -signal.SIGTERM


def test_what_a_background_program_said():
    with commands.start(["sh", "-c", "echo first; echo hunter2 >&2"], secrets=["hunter2"]) as one:
        assert one.wait(10) == 0
        assert one.said() == "first\n***"


def test_one_that_ignores_us_is_killed():
    script = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN);"
    script += "print('up', flush=True); time.sleep(60)"
    with commands.start([sys.executable, "-c", script], stop_limit_s=0.1) as process:
        deadline = SYSTEM.monotonic() + 10
        while process.said() != "up":
            assert SYSTEM.monotonic() < deadline
            SYSTEM.sleep(0.01)
    assert process.status() == -signal.SIGKILL


def test_one_that_outlives_us(tmp_path):
    log = tmp_path / "log"
    pid = commands.start_detached(["sh", "-c", "echo here; exec sleep 60"], log=str(log))
    deadline = SYSTEM.monotonic() + 10
    while log.read_text() != "here\n":
        assert SYSTEM.monotonic() < deadline
        SYSTEM.sleep(0.01)
    assert commands.signal_process(pid)
    os.waitpid(pid, 0)
    assert not commands.signal_process(pid)
