"""The folder of one attempt of a task: what was ordered, what it tells, how it ended.

The process of the task is the only writer of events and ending, the node only reads them, so both
may die at any moment. The secrets of an order are never written.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from ruchu.errors import StorageError, UsageError
from ruchu.model.ids import is_id
from ruchu.model.tasks import Ending, Order, Outcome, TaskEvent

ORDER, EVENTS, ENDING, PROCESS = "order.json", "events.jsonl", "ending.json", "process.json"
# A task that tells more has gone mad; its work goes on, what it tells is cut.
EVENTS_MAX = 100_000
# One line: a log line is cut before, results are lists of points.
LINE_BYTES_MAX = 1 << 20
ENDING_BYTES_MAX = 16 << 20


@dataclass(frozen=True, slots=True)
class TaskProcess:
    """The process that carries out an attempt; `started` in clock ticks since boot."""

    pid: int
    started: int
    boot: str


class Spool:
    """One attempt of a task. Not shared by threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.task, _, attempt = folder.name.partition(".")
        if not is_id(self.task) or not attempt.isdigit():
            raise UsageError(f"({folder} is no folder of a task)")
        self.attempt = int(attempt)
        self._read_bytes = 0

    def save_order(self, order: Order) -> None:
        """Write down what was ordered, without secrets."""
        self.folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        value = asdict(order)
        del value["secrets"]
        store(self.folder / ORDER, value)

    def order(self) -> Mapping[str, Any] | None:
        """Return what was ordered; None if that was never written whole."""
        return load(self.folder / ORDER)

    def save_process(self, process: TaskProcess) -> None:
        """Write down which process it is."""
        store(self.folder / PROCESS, asdict(process))

    def process(self) -> TaskProcess | None:
        """Return the process that carries it out, or did."""
        value = load(self.folder / PROCESS)
        return TaskProcess(**value) if value is not None else None

    def new_events(self) -> Iterator[TaskEvent]:
        """Yield the events that were not yielded by this object before; a torn line waits."""
        try:
            with (self.folder / EVENTS).open("rb") as file:
                file.seek(self._read_bytes)
                for line in file:
                    if not line.endswith(b"\n"):
                        return
                    self._read_bytes += len(line)
                    yield TaskEvent(**json.loads(line))
        except FileNotFoundError:
            return
        except (OSError, ValueError, TypeError) as error:
            raise StorageError(f"({self.folder / EVENTS}: {error})") from None

    def ending(self) -> Ending | None:
        """Return how it ended; None if it has not."""
        value = load(self.folder / ENDING)
        if value is None:
            return None
        return Ending(**{**value, "outcome": Outcome(value["outcome"])})

    def save_ending(self, ending: Ending) -> None:
        """Write down how it ended, durably; the first word stands."""
        if self.ending() is None:
            store(self.folder / ENDING, asdict(ending))

    def remove(self) -> None:
        """Forget it: the server knows everything."""
        shutil.rmtree(self.folder, ignore_errors=True)


class Spools:
    """All attempts that this node knows."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)

    def of(self, task: str, attempt: int) -> Spool:
        """Return the folder of an attempt, which may not exist yet."""
        if not is_id(task) or attempt < 1:
            raise UsageError(f"(task {task!r})")
        return Spool(self.directory / f"{task}.{attempt}")

    def all(self) -> list[Spool]:
        """Return all attempts, in the order in which they came."""
        folders = [path for path in self.directory.iterdir() if path.is_dir()]
        return [Spool(path) for path in sorted(folders, key=lambda path: path.stat().st_ctime_ns)]


def store(path: Path, value: Mapping[str, Any]) -> None:
    """Write a document, durably and whole; half characters of file names stay escapes.

    Raises:
        StorageError: it cannot be written.
    """
    temporary = path.with_suffix(".partial")
    flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
    try:
        with open(os.open(temporary, flags, 0o600), "wb") as file:  # noqa: PTH123 - a mode
            file.write(json.dumps(value).encode())
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise StorageError(f"({path}: {error.strerror})") from None


def load(path: Path) -> dict[str, Any] | None:
    """Return a document; None if there is none.

    Raises:
        StorageError: it cannot be read, or is none.
    """
    try:
        with path.open("rb") as file:
            value = json.loads(file.read(ENDING_BYTES_MAX))
    except FileNotFoundError:
        return None
    except (OSError, ValueError) as error:
        raise StorageError(f"({path}: {error})") from None
    if not isinstance(value, dict):
        raise StorageError(f"({path} is no document)")
    return value
