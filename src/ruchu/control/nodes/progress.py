"""How far runs are: what their tasks told last, put together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import sqlalchemy as sa

from ruchu.control.database.database import Database
from ruchu.control.nodes.tables import TASKS
from ruchu.control.nodes.tasks import ENDED, SENT

# Runs that are looked at together; SQLite allowed 999 values in a statement for long.
RUNS_MAX = 500


@dataclass(frozen=True, slots=True)
class RunProgress:
    """How far a run is.

    Attributes:
        run: its id.
        tasks: that it consists of.
        ended: of those.
        running: of those.
        phase: of a task that runs.
        done, total: bytes, of the tasks that run.
        rate: bytes a second, of the tasks that run.
        share: of the whole run that is done, 0 to 1; every task counts the same.
    """

    run: str
    tasks: int = 0
    ended: int = 0
    running: int = 0
    phase: str = ""
    done: int = 0
    total: int = 0
    rate: float = 0.0
    share: float = 0.0


def of_runs(database: Database, runs: Sequence[str]) -> Mapping[str, RunProgress]:
    """Return how far each run is that has tasks."""
    wanted = TASKS.c.run.in_(runs[:RUNS_MAX])
    counts = sa.select(TASKS.c.run, TASKS.c.state, sa.func.count()).where(wanted)
    told = sa.select(TASKS.c.run, TASKS.c.phase, TASKS.c.progress)
    found: dict[str, RunProgress] = {}
    with database.reading() as connection:
        for run, state, count in connection.execute(counts.group_by(TASKS.c.run, TASKS.c.state)):
            before = found.get(run, RunProgress(run))
            ended = before.ended + (count if state == ENDED else 0)
            found[run] = replace(before, tasks=before.tasks + count, ended=ended)
        for row in connection.execute(told.where(wanted, TASKS.c.state == SENT)):
            found[row.run] = _with(found[row.run], row.phase, row.progress)
    return {run: _shared(each) for run, each in found.items()}


def _with(before: RunProgress, phase: str, told: Mapping[str, float]) -> RunProgress:
    done, total = int(told.get("done") or 0), int(told.get("total") or 0)
    return replace(
        before, running=before.running + 1, phase=phase or before.phase, done=before.done + done,
        total=before.total + total, rate=before.rate + float(told.get("rate") or 0),
        share=before.share + (min(1.0, done / total) if total else 0.0),
    )  # fmt: skip


def _shared(each: RunProgress) -> RunProgress:
    return replace(each, share=round((each.ended + each.share) / each.tasks, 4))
