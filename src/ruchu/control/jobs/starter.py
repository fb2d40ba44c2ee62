"""Begins the attempts of runs, when they may begin; after a crash it begins where it was."""

import threading
from datetime import datetime

from ruchu.clock import Clock
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.admission import Admission
from ruchu.control.jobs.attempts import Outcomes
from ruchu.control.jobs.engine import ATTEMPTS_MAX, JobEngine
from ruchu.control.jobs.runs import OpenRun, Runs

# The longest that a change goes unnoticed that nobody told of: a run that a schedule made, a
# window that opens. A look is one query of an index.
ROUND_S = 1.0
# Changes that come together are looked at together: a look reads every run that is open.
GATHER_S = 0.1


class Starter:
    """A thread that looks at the runs that have not ended."""

    def __init__(
        self, runs: Runs, admission: Admission, engine: JobEngine, outcomes: Outcomes, clock: Clock
    ) -> None:
        self._runs = runs
        self._admission = admission
        self._engine = engine
        self._outcomes = outcomes
        self._clock = clock
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-starter", daemon=True)

    def begin(self) -> None:
        """Take up what was under way, then begin what may begin, from now on."""
        for run in self._runs.standing():
            if run.state in states.UNDER_WAY:
                self._engine.submit(run.id, run.attempt)
        self._thread.start()

    def close(self) -> None:
        """Begin no more."""
        self._ended.set()
        self._runs.announce_all()
        self._thread.join()

    def round(self) -> datetime | None:
        """Begin what may begin now; return when something may that must wait, if it is known."""
        found = self._runs.standing()
        self._admission.forget(found)
        free = ATTEMPTS_MAX - sum(run.state in states.UNDER_WAY for run in found)
        soonest: datetime | None = None
        waiting = [run for run in found if run.state not in states.UNDER_WAY]
        for run in sorted(waiting, key=lambda run: (run.priority, run.created)):
            wait = self._admission.decide(run, found)
            if wait is not None:
                if (run.state, run.reason) != (wait.state, wait.reason):
                    self._hold(run, wait.state, wait.reason)
                if wait.until is not None:
                    soonest = min(soonest or wait.until, wait.until)
            elif free > 0:
                free -= 1
                self._start(run)
        return soonest

    def _hold(self, run: OpenRun, state: str, reason: str) -> None:
        self._runs.move(run.id, state, reason)
        if state in states.OVER:
            self._outcomes.ended(self._runs.get(run.id))

    def _start(self, run: OpenRun) -> None:
        attempt = run.attempt + 1
        if self._runs.move(run.id, states.RUNNING, attempt=attempt, next_attempt=None):
            self._engine.submit(run.id, attempt)

    def _work(self) -> None:
        while not self._ended.is_set():
            mark = self._runs.mark()
            soonest = self.round()
            wait_s = ROUND_S
            if soonest is not None:
                wait_s = min(ROUND_S, max(0.0, (soonest - self._clock.now()).total_seconds()))
            self._runs.wait(mark, wait_s)
            self._ended.wait(GATHER_S)
