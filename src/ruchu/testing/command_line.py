"""The command `ruchu` as a user runs it: a process of its own, with a state of its own."""

import contextlib
import json
import os
import subprocess  # noqa: TID251 - a test starts the product as its user does
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUN_LIMIT_S = 300
READY_LIMIT_S = 120


class CommandLine:
    """Runs commands; `home` is the working directory, and holds the state."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.state = home / "state"
        self.err = ""

    def popen(self, *words: object, **more: Any) -> "subprocess.Popen[bytes]":
        """Start a command."""
        command = [sys.executable, "-m", "ruchu", "--state", str(self.state), *map(str, words)]
        pipe = subprocess.PIPE
        return subprocess.Popen(  # noqa: S603 - arguments of a test
            command, stdin=subprocess.DEVNULL, stdout=pipe, stderr=pipe, cwd=self.home, **more
        )

    def run(self, *words: object, status: int = 0, **more: Any) -> str:
        """Run a command that ends with a status; return what it printed."""
        process = self.popen(*words, **more)
        out, err = process.communicate(timeout=RUN_LIMIT_S)
        self.err = err.decode()
        assert process.returncode == status, (process.returncode, out.decode(), self.err)
        return out.decode()

    def json(self, *words: object, status: int = 0, **more: Any) -> Any:
        """Run a command with `--json`; return the document."""
        return json.loads(self.run(*words, "--json", status=status, **more))

    def fails(self, status: int, code: str, *words: object, **more: Any) -> Any:
        """Run a command that must fail; it says so as a document and as a message."""
        error = self.json(*words, status=status, **more)["error"]
        assert error["code"] == code, error
        assert self.err.startswith("ruchu: ")
        return error

    @contextlib.contextmanager
    def serving(self, *words: object, **more: Any) -> Iterator["Serving"]:
        """Run a command that serves until it is ended; yield it when it says that it answers."""
        with tempfile_beside(self.home) as log:
            process = subprocess.Popen(  # noqa: S603 - arguments of a test
                [sys.executable, "-m", "ruchu", "--state", str(self.state), *map(str, words)],
                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=log, cwd=self.home,
                **more,
            )  # fmt: skip
            try:
                assert process.stdout is not None
                line = process.stdout.readline()
                if not line:
                    process.wait()
                    said = Path(log.name).read_text()
                    raise AssertionError(f"{words}: status {process.returncode}: {said}")
                yield Serving(process, json.loads(line), Path(log.name))
            finally:
                if process.poll() is None:
                    process.terminate()
                process.wait(READY_LIMIT_S)
                if process.stdout is not None:
                    process.stdout.close()


class Serving:
    """A command that serves: what it answered, and its process."""

    def __init__(
        self, process: "subprocess.Popen[bytes]", answer: dict[str, Any], log: Path
    ) -> None:
        self.process = process
        self.answer = answer
        self._log = log

    def said(self) -> str:
        """Return what it said on standard error so far."""
        return self._log.read_text()

    def kill(self) -> None:
        """End it as a power cut ends a process."""
        self.process.kill()
        self.process.wait()

    def end(self) -> int:
        """End it as Ctrl-C does; return its status."""
        self.process.terminate()
        return self.process.wait(READY_LIMIT_S)


@contextlib.contextmanager
def tempfile_beside(directory: Path) -> Iterator[Any]:
    """Yield an open log file in a directory."""
    number = len(list(directory.glob("serving-*.log")))
    with (directory / f"serving-{number}-{os.getpid()}.log").open("wb") as file:
        yield file
