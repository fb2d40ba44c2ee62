"""Answers every question of the kernel about an open: at once, whatever goes wrong."""

import contextlib
import queue
import select
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from ruchu.storage.guarding import fanotify, processes, verdicts
from ruchu.storage.guarding.admitting import Admitted
from ruchu.storage.guarding.processes import Program
from ruchu.storage.guarding.verdicts import Rules, Verdict

# Between two signs of life when nobody opens anything.
BEAT_S = 0.5
# Refusals that wait to be told; whoever fills it is reported already.
_WAITING_MAX = 1000
# Programs that opened something last: by the time a notice of it is read they may be gone.
_REMEMBERED_MAX = 500


@dataclass(frozen=True, slots=True)
class RefusedOpen:
    """An open that was refused: why, of what, by whom."""

    verdict: Verdict
    path: str
    program: Program


class Decider:
    """A thread that answers, from `open` to `close`; then nobody is refused any more.

    Args:
        rules: who may read.
        admitted: the processes of Ruchu.
        beat: is called all the time while the thread is well, at least every `BEAT_S`.
    """

    def __init__(self, rules: Rules, admitted: Admitted, beat: Callable[[], None]) -> None:
        self._questions = fanotify.Questions()
        self._rules = rules
        self._admitted = admitted
        self._beat = beat
        self._refused: queue.Queue[RefusedOpen] = queue.Queue(_WAITING_MAX)
        self._seen: dict[int, Program] = {}
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._run, name="decider", daemon=True)

    def open(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Let every open that waits go on, and end."""
        self._ending.set()
        self._thread.join()
        self._questions.close()

    def mark(self, directory: str) -> None:
        """Be asked about the files in a directory."""
        self._questions.mark(directory)

    def who_was(self, pid: int) -> Program | None:
        """Return the foreign process that had a number when it opened something."""
        return self._seen.get(pid)

    def refused(self) -> list[RefusedOpen]:
        """Return what was refused since the last call."""
        found: list[RefusedOpen] = []
        with contextlib.suppress(queue.Empty):
            while len(found) < _WAITING_MAX:
                found.append(self._refused.get_nowait())
        return found

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._questions.descriptor, select.POLLIN)
        while not self._ending.is_set():
            self._beat()
            if poller.poll(BEAT_S * 1000):
                for question in self._questions.read():
                    self._decide(question)

    def _decide(self, question: fanotify.Question) -> None:
        verdict = Verdict.REFUSED_WRITING
        try:
            pid = processes.group_of(question.thread)
            if self._admitted.has(pid):
                verdict = Verdict.OURS
                return
            # It waits for us, so it is there, and nobody else has its number.
            program = processes.look(pid)
            flags = processes.open_flags(question.thread)
            verdict = verdicts.judge(self._rules, admitted=False, flags=flags, exe=program.exe)
            self._remember(program)
            if not verdict.allowed:
                path = str(Path(f"/proc/self/fd/{question.file}").readlink())
                with contextlib.suppress(queue.Full):
                    self._refused.put_nowait(RefusedOpen(verdict, path, program))
        finally:
            self._questions.answer(question, allow=verdict.allowed)

    def _remember(self, program: Program) -> None:
        self._seen.pop(program.pid, None)
        self._seen[program.pid] = program
        if len(self._seen) > _REMEMBERED_MAX:
            del self._seen[next(iter(self._seen))]
