"""Starts, watches and ends the processes of tasks; every attempt ends with an ending on disk."""

import json
import os
import sys
import threading
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path

from ruchu import commands
from ruchu.clock import Clock, to_text
from ruchu.errors import AlreadyExists, CommandFailed, RuchuError
from ruchu.model.tasks import Ending, Order, Outcome, TaskEvent
from ruchu.nodes.spool import Spool, Spools, TaskProcess

# How often the folders of running tasks are looked at.
POLL_S = 0.25
# A process that was asked to end flushes, thaws and removes its snapshots before it does.
END_LIMIT_S = 120.0


@dataclass(slots=True)
class _Running:
    """An attempt whose process lives, or did a moment ago."""

    spool: Spool
    process: commands.Process
    stopping: bool = False
    killed_at: float = 0.0


@dataclass(frozen=True, slots=True)
class Heard:
    """What is new of an attempt: events, and perhaps its ending."""

    task: str
    attempt: int
    events: tuple[TaskEvent, ...]
    ending: Ending | None


Hear = Callable[[Heard], None]


class Runner:
    """The tasks of a node. Safe in several threads."""

    def __init__(
        self, spools: Spools, state: Path, clock: Clock, hear: Hear, programs: Path | None = None
    ) -> None:
        self._spools = spools
        self._state = state
        self._clock = clock
        self._hear = hear
        self._programs = programs
        self._lock = threading.Lock()
        self._running: dict[str, _Running] = {}
        # The kernel ends a task with the thread that started it, so one thread starts them all.
        self._waiting: dict[str, tuple[Spool, Order]] = {}
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._watch, name="ruchu-runner", daemon=True)

    def begin(self) -> None:
        """Settle what an earlier process of this node left, and watch from now on."""
        for spool in self._spools.all():
            if spool.ending() is None:
                self._end_orphan(spool)
        self._thread.start()

    def start(self, order: Order) -> bool:
        """Start an attempt; False if it was started before, now or ever."""
        with self._lock:
            spool = self._spools.of(order.task, order.attempt)
            if spool.order() is not None:
                return False
            if order.task in self._running or order.task in self._waiting:
                raise AlreadyExists(f"(an earlier attempt of task {order.task[:8]} still runs)")
            spool.save_order(order)
            self._waiting[order.task] = (spool, order)
        self._wake.set()
        return True

    def stop(self, task: str) -> bool:
        """Ask a task to end; False if it does not run."""
        with self._lock:
            waiting = self._waiting.pop(task, None)
            running = self._running.get(task)
            if waiting is None and running is None:
                return False
        if waiting is not None:
            self._settle(waiting[0], "it was stopped before it began", Outcome.STOPPED)
            return True
        assert running is not None
        with self._lock:
            if not running.stopping:
                running.stopping = True
                running.killed_at = self._clock.monotonic() + END_LIMIT_S
                commands.signal_process(running.process.pid)
        return True

    def running(self) -> list[str]:
        """Return the tasks whose processes live."""
        with self._lock:
            return sorted({*self._running, *self._waiting})

    def close(self) -> None:
        """Ask all tasks to end, wait for them, and stop watching."""
        for task in self.running():
            self.stop(task)
        limit = self._clock.monotonic() + END_LIMIT_S
        while self.running() and self._clock.monotonic() < limit:
            self._clock.sleep(POLL_S)
        self._ended = True
        self._wake.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._lock:
            for each in self._running.values():
                each.process.stop(0)

    def _spawn(self, spool: Spool, order: Order) -> None:
        args = [sys.executable, "-m", "ruchu.nodes.task", str(spool.folder), str(self._state)]
        args += [str(self._programs or "")]
        data = json.dumps(asdict(order)).encode()
        process = commands.start_fed(args, data, log=spool.folder / "said.log")
        spool.save_process(TaskProcess(process.pid, *_identity(process.pid)))
        self._running[order.task] = _Running(spool, process)

    def _watch(self) -> None:
        while not self._ended:
            self._wake.wait(POLL_S)
            self._wake.clear()
            self._start_waiting()
            self._look()

    def _start_waiting(self) -> None:
        while True:
            with self._lock:
                task = next(iter(self._waiting), None)
                if task is None:
                    return
                spool, order = self._waiting.pop(task)
                try:
                    self._spawn(spool, order)
                    continue
                except (RuchuError, OSError) as error:
                    text = str(error)
            self._settle(spool, text)

    def _settle(self, spool: Spool, text: str, outcome: Outcome = Outcome.FAILED) -> None:
        spool.save_ending(_failed(spool.task, spool.attempt, self._clock, text, outcome))
        self._hear(Heard(spool.task, spool.attempt, (), spool.ending()))

    def _look(self) -> None:
        """Tell what is new of every running task."""
        with self._lock:
            running = list(self._running.values())
        for each in running:
            self._look_at(each)

    def _look_at(self, each: _Running) -> None:
        status = each.process.status()
        spool = each.spool
        events = tuple(spool.new_events())
        ending = spool.ending()
        if status is None:
            if each.stopping and self._clock.monotonic() > each.killed_at:
                each.process.stop(0)
            ending = None
        elif ending is None:
            text = f"its process ended with status {status}: {each.process.said()[-500:]}"
            code = Outcome.STOPPED if each.stopping else Outcome.FAILED
            spool.save_ending(_failed(spool.task, spool.attempt, self._clock, text, code))
            ending = spool.ending()
        if ending is not None:
            with self._lock:
                del self._running[spool.task]
            each.process.close()
        if events or ending is not None:
            self._hear(Heard(spool.task, spool.attempt, events, ending))

    def _end_orphan(self, spool: Spool) -> None:
        """Wait for the process of an attempt that outlived its node, then settle the attempt."""
        found = spool.process()
        if found is not None:
            limit = self._clock.monotonic() + END_LIMIT_S
            while _lives(found) and spool.ending() is None:
                commands.signal_process(found.pid)
                if self._clock.monotonic() > limit:
                    _kill(found)
                self._clock.sleep(POLL_S)
        text = "the node ended while it ran"
        spool.save_ending(_failed(spool.task, spool.attempt, self._clock, text))

    def known(self) -> Iterable[Spool]:
        """Return every attempt that is still on disk."""
        return self._spools.all()


def _failed(
    task: str, attempt: int, clock: Clock, text: str, outcome: Outcome = Outcome.FAILED
) -> Ending:
    error = {"code": "task-died", "message": f"The task died: {text}", "hint": "", "retry": True}
    return Ending(task, attempt, to_text(clock.now()), outcome, {}, error)


def boot_id() -> str:
    """Return the id of this start of the host."""
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def _identity(pid: int) -> tuple[int, str]:
    """Return when a process was started, in ticks since boot, and the boot."""
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return 0, boot_id()
    return int(stat.rpartition(")")[2].split()[19]), boot_id()


def _lives(found: TaskProcess) -> bool:
    return Path(f"/proc/{found.pid}").exists() and _identity(found.pid) == (
        found.started, found.boot,
    )  # fmt: skip


def _kill(found: TaskProcess) -> None:
    try:
        os.kill(found.pid, 9)
    except ProcessLookupError as error:
        raise CommandFailed(f"({found.pid})") from error
