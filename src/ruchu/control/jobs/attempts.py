"""One attempt at a run, in three steps that may each be done again: plan, watch, settle."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol

from ruchu.clock import Clock, to_text
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.admission import OpensAt, policy_of
from ruchu.control.jobs.planning import Planner
from ruchu.control.jobs.runs import RunRow, Runs
from ruchu.control.nodes.tasks import ENDED, TaskRow, Tasks
from ruchu.errors import RuchuError
from ruchu.model.policies import Policy, Retrying
from ruchu.model.tasks import Outcome

# What nobody told of is noticed after this long.
ROUND_S = 5.0
PROBLEMS_MAX = 50
_CLOSED = "its window closed"


class Stopping(Protocol):
    """Tells nodes that tasks shall end."""

    def stop(self, tasks: Sequence[TaskRow]) -> None:
        """Tell them; a node that is away is told when it connects."""


class Outcomes(Protocol):
    """Hears of what runs did."""

    def took(self, run: RunRow, task: TaskRow) -> None:
        """Take in the result of a task that ended. May be told twice."""

    def ended(self, run: RunRow) -> None:
        """Take in that a run is over. May be told twice."""


@dataclass(frozen=True, slots=True)
class Outside:
    """What attempts tell and ask: nodes that shall end tasks, who hears of results, windows."""

    stopping: Stopping
    outcomes: Outcomes
    opens_at: OpensAt


class Attempts:
    """Carries out attempts; every step can be repeated after a crash."""

    def __init__(
        self, runs: Runs, tasks: Tasks, planner: Planner, outside: Outside, clock: Clock
    ) -> None:
        self._runs = runs
        self._tasks = tasks
        self._planner = planner
        self._outside = outside
        self._clock = clock

    def plan(self, identity: str, attempt: int) -> None:
        """Write down the tasks of an attempt: the first plans, later ones repeat what failed."""
        run = self._runs.get(identity)
        if not _under_way(run, attempt):
            return
        if attempt > 1 and self._tasks.of_run(identity):
            if not self._repeated(run, attempt):
                self._tasks.again(identity)
                self._runs.note(identity, "repeated", {"attempt": attempt})
            return
        try:
            plan = self._planner.plan(run)
        except RuchuError as error:
            problem = {"label": run.name, "message": str(error), "hint": error.advice}
            self._remember(run, [problem], retry=error.retry)
            return
        self._remember(run, plan.problems, retry=False)
        self._tasks.plan(plan.tasks)

    def _repeated(self, run: RunRow, attempt: int) -> bool:
        """Tell whether the tasks were let go again for this attempt before a crash."""
        noted = self._runs.noted(run.id, "repeated")
        return any(body.get("attempt") == attempt for body in noted)

    def _remember(self, run: RunRow, problems: Sequence[Mapping[str, str]], *, retry: bool) -> None:
        kept = list(problems[:PROBLEMS_MAX])
        self._runs.update(run.id, summary={**run.summary, "problems": kept, "retry": retry})
        for problem in kept:
            self._runs.note(run.id, "problem", problem)

    def watch(self, identity: str) -> None:
        """Wait until every task of a run has ended; ask them to end when that is wanted."""
        asked, policy = False, policy_of(self._runs.get(identity))
        while True:
            mark = self._tasks.mark()
            if not self._tasks.open_count(identity):
                return
            if not asked and (why := self._must_stop(self._runs.get(identity), policy)):
                self._runs.move(identity, states.STOPPING, why)
                self._outside.stopping.stop(self._tasks.ask_to_stop(identity))
                asked = True
                continue
            self._tasks.wait(mark, ROUND_S, identity)

    def _must_stop(self, run: RunRow, policy: Policy | None) -> str:
        if run.stop:
            return "stop asked for"
        if run.pause:
            return "pause asked for"
        if policy is not None and self._outside.opens_at(policy, self._clock.now()) is not None:
            return _CLOSED
        return ""

    def settle(self, identity: str, attempt: int) -> str:
        """Take in what the tasks did; return the state of the run afterwards."""
        run = self._runs.get(identity)
        if not _under_way(run, attempt):
            return run.state
        tasks = self._tasks.of_run(identity)
        for task in tasks:
            if task.state == ENDED:
                self._outside.outcomes.took(run, task)
        summary = _summary(run, tasks)
        state, reason = self._state(run, tasks)
        values: dict[str, Any] = {"summary": summary, "next_attempt": None}
        if state == states.WAITING and not reason.startswith(_CLOSED):
            values |= self._failed(run, summary)
        self._runs.move(identity, state, reason, **values)
        settled = self._runs.get(identity)
        if settled.over:
            self._outside.outcomes.ended(settled)
        return settled.state

    def _state(self, run: RunRow, tasks: Sequence[TaskRow]) -> tuple[str, str]:
        good = [task for task in tasks if task.outcome == Outcome.SUCCEEDED]
        problems = run.summary.get("problems") or []
        if len(good) == len(tasks) and not problems and tasks:
            return states.SUCCEEDED, ""
        if any(task.outcome == Outcome.STOPPED for task in tasks):
            return self._stopped(run, tasks, problems)
        why = _why(tasks, problems)
        if self._try_again(run, tasks):
            return states.WAITING, f"attempt {run.attempt} failed: {why}"
        return (states.PARTLY if good else states.FAILED), why

    def _stopped(
        self, run: RunRow, tasks: Sequence[TaskRow], problems: Sequence[Mapping[str, str]]
    ) -> tuple[str, str]:
        if run.stop:
            return states.STOPPED, "stopped"
        if run.pause:
            return states.PAUSED, ""
        if self._must_stop(run, policy_of(run)):
            return states.WAITING, _CLOSED
        # Nobody here asked for it: the node was ended, and what it did goes on elsewhere or later.
        if self._try_again(run, tasks):
            return states.WAITING, f"attempt {run.attempt} ended with its node"
        return states.FAILED, _why(tasks, problems)

    def _try_again(self, run: RunRow, tasks: Sequence[TaskRow]) -> bool:
        failures = int(run.summary.get("failures", 0))
        if failures + 1 >= self._retrying(run).attempts or run.stop:
            return False
        if not tasks:
            return bool(run.summary.get("retry"))
        return any(
            (task.error or {}).get("retry") or task.outcome == Outcome.STOPPED
            for task in tasks
            if task.outcome != Outcome.SUCCEEDED
        )

    def _failed(self, run: RunRow, summary: Mapping[str, Any]) -> dict[str, Any]:
        """Return what a failed attempt leaves: its number, and when the next one may begin."""
        retrying = self._retrying(run)
        failures = int(run.summary.get("failures", 0)) + 1
        delay = min(retrying.first_s * 2 ** (failures - 1), retrying.most_s)
        return {
            "next_attempt": to_text(self._clock.now() + timedelta(seconds=delay)),
            "summary": {**summary, "failures": failures},
        }

    def _retrying(self, run: RunRow) -> Retrying:
        policy = policy_of(run)
        return policy.retrying if policy is not None else Retrying(attempts=1)


def _under_way(run: RunRow, attempt: int) -> bool:
    """Tell whether this is the attempt that a run is at; after a crash it may be a later one."""
    return run.attempt == attempt and run.state in states.UNDER_WAY


def _why(tasks: Sequence[TaskRow], problems: Sequence[Mapping[str, str]]) -> str:
    found = [f"{problem['label']}: {problem['message']}" for problem in problems]
    found += [
        f"{task.label}: {(task.error or {}).get('message', 'no reason was given')}"
        for task in tasks
        if task.outcome != Outcome.SUCCEEDED
    ]
    more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    return f"{found[0]}{more}" if found else "there was nothing to do"


def _summary(run: RunRow, tasks: Sequence[TaskRow]) -> dict[str, Any]:
    machines = [machine for task in tasks for machine in (task.result or {}).get("machines", ())]
    return {
        **run.summary,
        "tasks": len(tasks),
        "succeeded": sum(task.outcome == Outcome.SUCCEEDED for task in tasks),
        "failed": sum(task.outcome == Outcome.FAILED for task in tasks),
        "points": [m["point"] for m in machines if m.get("ok")],
        "bytes_read": sum(m.get("bytes_read") or 0 for m in machines),
        "bytes_full": sum(m.get("bytes_read") or 0 for m in machines if m.get("kind") == "full"),
        "bytes_stored": sum(m.get("bytes_stored") or 0 for m in machines),
    }
