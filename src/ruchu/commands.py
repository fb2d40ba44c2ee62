"""External programs: the only place that starts a process.

A program gets the C locale, a list of arguments (never a shell line), a time limit, and no input
unless it is given some. An error carries the end of what the program said, without secrets.
"""

import contextlib
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import BinaryIO

from ruchu.errors import CommandFailed

# A program that is asked to end gets this long before it is killed: qemu-nbd flushes first.
STOP_LIMIT_S = 30.0
# The end of what a program said is what explains its failure; more would drown the message.
ERROR_TEXT_MAX = 2000
# Nothing we run says more; a program that does is broken and must not fill our memory.
OUTPUT_MAX = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Result:
    """What a finished program left: its exit status, output, and error text."""

    status: int
    stdout: bytes
    stderr: str

    @property
    def text(self) -> str:
        """Standard output as text."""
        return self.stdout.decode("utf-8", "replace")


def run(
    args: Sequence[str],
    *,
    timeout_s: float,
    input: bytes | None = None,  # noqa: A002 - the name that subprocess gave it
    check: bool = True,
    secrets: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
) -> Result:
    """Run a program to its end.

    Args:
        args: program and arguments; no shell is involved.
        timeout_s: seconds after which it is killed.
        input: bytes for its standard input.
        check: raise if the exit status is not zero.
        secrets: texts that must not appear in an error.
        env: variables added to the environment.

    Raises:
        CommandFailed: it is not there, took too long, said too much, or failed (with `check`).
    """
    hidden = tuple(secrets)
    try:
        done = subprocess.run(  # noqa: S603 - a list of arguments, no shell
            list(args),
            # `input` and an explicit stdin exclude each other; empty input closes it at once.
            input=b"" if input is None else input,
            capture_output=True,
            timeout=timeout_s,
            check=False,
            env=_environment(env),
        )
    except subprocess.TimeoutExpired as error:
        raise _failed(args, hidden, f"no end after {timeout_s:g} s") from error
    except OSError as error:
        raise _failed(args, hidden, _missing(error)) from error
    stderr = scrub(done.stderr.decode("utf-8", "replace"), hidden)
    if len(done.stdout) > OUTPUT_MAX:
        raise _failed(args, hidden, f"more than {OUTPUT_MAX} bytes of output")
    if check and done.returncode:
        raise _failed(args, hidden, f"exit status {done.returncode}: {stderr.strip()}")
    return Result(done.returncode, done.stdout, stderr)


@dataclass(slots=True)
class Process:
    """A program that runs in the background; `start` makes it, and ends it."""

    args: tuple[str, ...]
    _popen: "subprocess.Popen[bytes]"
    _log: BinaryIO
    _secrets: tuple[str, ...] = field(default=(), repr=False)

    @property
    def pid(self) -> int:
        """The process id."""
        return self._popen.pid

    def status(self) -> int | None:
        """Return the exit status, None while it runs (negative: ended by that signal)."""
        return self._popen.poll()

    def said(self) -> str:
        """Return the end of what it printed so far."""
        self._log.flush()
        size = os.fstat(self._log.fileno()).st_size
        start = max(0, size - ERROR_TEXT_MAX)
        text = os.pread(self._log.fileno(), ERROR_TEXT_MAX, start)
        return scrub(text.decode("utf-8", "replace"), self._secrets).strip()

    def wait(self, timeout_s: float) -> int:
        """Wait for its end and return the exit status.

        Raises:
            CommandFailed: it did not end in time.
        """
        try:
            return self._popen.wait(timeout_s)
        except subprocess.TimeoutExpired as error:
            raise _failed(self.args, self._secrets, f"no end after {timeout_s:g} s") from error

    def close(self) -> None:
        """Let go of what it printed; it has ended."""
        self._log.close()

    def stop(self, timeout_s: float = STOP_LIMIT_S) -> int:
        """Ask it to end, kill it if it does not; return the exit status. Idempotent."""
        if self._popen.poll() is None:
            self._popen.terminate()
            try:
                self._popen.wait(timeout_s)
            except subprocess.TimeoutExpired:
                self._popen.kill()
                self._popen.wait(timeout_s)
        return self._popen.returncode


@contextlib.contextmanager
def start(
    args: Sequence[str],
    *,
    secrets: Iterable[str] = (),
    env: Mapping[str, str] | None = None,
    stop_limit_s: float = STOP_LIMIT_S,
) -> Iterator[Process]:
    """Run a program in the background; it is ended when the context is left.

    It has its own session, so that a Ctrl-C meant for us does not end it before we are done.

    Raises:
        CommandFailed: it could not be started.
    """
    with tempfile.TemporaryFile() as log:
        hidden = tuple(secrets)
        popen = _spawn(args, log, hidden, env)
        process = Process(tuple(args), popen, log, hidden)
        try:
            yield process
        finally:
            process.stop(stop_limit_s)


@contextlib.contextmanager
def start_in_terminal(args: Sequence[str]) -> Iterator["Process"]:
    """Run a program that has this process's terminal; it is ended when the context is left.

    Raises:
        CommandFailed: it could not be started.
    """
    try:
        popen = subprocess.Popen(list(args), env=_environment(None))  # noqa: S603 - no shell
    except OSError as error:
        raise _failed(args, (), _missing(error)) from error
    with tempfile.TemporaryFile() as log:
        process = Process(tuple(args), popen, log)
        try:
            yield process
        finally:
            process.stop()


def start_fed(args: Sequence[str], data: bytes, *, log: os.PathLike[str]) -> "Process":
    """Start a program in a session of its own, hand it `data` on its standard input, return it.

    Its output goes into the file `log`. The caller looks at its status, and closes it at the end.

    Raises:
        CommandFailed: it could not be started, or did not take the data.
    """
    output = open(log, "w+b")  # noqa: PTH123, SIM115 - the process object closes it
    try:
        popen = subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            list(args), stdin=subprocess.PIPE, stdout=output, stderr=subprocess.STDOUT,
            env=_environment(None), start_new_session=True,
        )  # fmt: skip
    except OSError as error:
        output.close()
        raise _failed(args, (), _missing(error)) from error
    assert popen.stdin is not None
    try:
        with popen.stdin as pipe:
            pipe.write(data)
    except OSError as error:
        popen.kill()
        popen.wait()
        output.close()
        raise _failed(args, (), _missing(error)) from error
    return Process(tuple(args), popen, output)


def start_detached(args: Sequence[str], *, log: str, stdin: int | None = None) -> int:
    """Start a program that outlives this process; return its process id.

    For test helpers and services only: nobody ends it but the caller, by its id.

    Args:
        args: the program and its arguments.
        log: file that takes what it says.
        stdin: descriptor that it reads from; None for an empty input.

    Raises:
        CommandFailed: it could not be started.
    """
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
    source: tuple[int, ...] = (os.POSIX_SPAWN_DUP2, stdin or 0, 0)
    if stdin is None:
        source = (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)  # type: ignore[assignment]
    try:
        # No Popen object: nobody here will wait for it, and Popen would complain about that.
        return os.posix_spawnp(
            args[0],
            list(args),
            _environment(None),
            file_actions=[
                source,
                (os.POSIX_SPAWN_DUP2, descriptor, 1),
                (os.POSIX_SPAWN_DUP2, descriptor, 2),
            ],
            setsid=True,
        )
    except OSError as error:
        raise _failed(args, (), _missing(error)) from error
    finally:
        os.close(descriptor)


def _spawn(
    args: Sequence[str], log: BinaryIO, secrets: tuple[str, ...], env: Mapping[str, str] | None
) -> "subprocess.Popen[bytes]":
    try:
        return subprocess.Popen(  # noqa: S603 - a list of arguments, no shell
            list(args),
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            env=_environment(env),
            start_new_session=True,
        )
    except OSError as error:
        raise _failed(args, secrets, _missing(error)) from error


def signal_process(pid: int, number: signal.Signals = signal.SIGTERM) -> bool:
    """Send a signal to one process; return whether it was there."""
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return False
    return True


def scrub(text: str, secrets: Iterable[str]) -> str:
    """Return the text with each secret replaced by `***`."""
    for secret in secrets:
        if secret:
            text = text.replace(secret, "***")
    return text


def _environment(extra: Mapping[str, str] | None) -> dict[str, str]:
    environment = {key: value for key, value in os.environ.items() if not key.startswith("LC_")}
    environment |= {"LC_ALL": "C", "LANG": "C"}
    if extra:
        environment |= extra
    return environment


def _missing(error: OSError) -> str:
    return error.strerror or str(error)


def _failed(args: Sequence[str], secrets: tuple[str, ...], why: str) -> CommandFailed:
    text = scrub(f"{' '.join(args)}: {why}", secrets)
    if len(text) > ERROR_TEXT_MAX:
        text = f"{text[: ERROR_TEXT_MAX // 2]} … {text[-ERROR_TEXT_MAX // 2 :]}"
    return CommandFailed(text)
