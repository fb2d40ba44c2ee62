"""What runs now: how far, how fast."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock
from ruchu.control.database.database import Database
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.tables import RUNS
from ruchu.control.nodes import tasks
from ruchu.control.nodes.tables import TASKS
from ruchu.control.reports.keeping import Kept

# Tasks tell of their progress about once a second.
GOOD_S = 1.5
# What a page shows; the rest is counted.
SHOWN_MAX = 50
# Ids in one statement; SQLite allowed 999 values for long.
_IDS_MAX = 500


@dataclass(frozen=True, slots=True)
class RunUnderWay:
    """A run that runs.

    Attributes:
        id, kind, name, policy, group, state, started: see the table of runs.
        what: of its tasks that run, such as machines and disks.
        tasks, ended: how many tasks it has, and how many of them have ended.
        share: how much of it is done, 0 to 1, as far as its tasks tell.
        rate: bytes a second.
    """

    id: str
    kind: str
    name: str
    policy: str | None
    group: str
    state: str
    started: str | None
    what: str = ""
    tasks: int = 0
    ended: int = 0
    share: float = 0.0
    rate: float = 0.0


@dataclass(frozen=True, slots=True)
class UnderWay:
    """What runs now.

    Attributes:
        count: of runs that run.
        waiting: how many wait for their turn, a window or an attempt.
        rate: bytes a second of all that run.
        runs: the oldest first, not more than fit on a page.
    """

    count: int
    waiting: int
    rate: float
    runs: Sequence[RunUnderWay]


class Progress:
    """What runs, for everybody who looks. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._kept: Kept[tuple[Sequence[RunUnderWay], Sequence[tuple[str, str]]]] = Kept(
            clock, GOOD_S
        )

    def under_way(self, groups: tuple[str, ...] | None) -> UnderWay:
        """Return what runs in some groups; None is all groups."""
        running, waiting = self._kept.get(None, self._made)
        seen = [run for run in running if groups is None or run.group in groups]
        queued = [group for group, _ in waiting if groups is None or group in groups]
        rate = sum(run.rate for run in seen)
        return UnderWay(len(seen), len(queued), rate, seen[:SHOWN_MAX])

    def rate(self) -> float:
        """Return the bytes a second of everything that runs."""
        return self.under_way(None).rate

    def _made(self) -> tuple[Sequence[RunUnderWay], Sequence[tuple[str, str]]]:
        columns = (RUNS.c.id, RUNS.c.kind, RUNS.c.name, RUNS.c.policy, RUNS.c.resource_group,
                   RUNS.c.state, RUNS.c.started)  # fmt: skip
        query = sa.select(*columns).where(RUNS.c.state.in_(states.OPEN)).order_by(RUNS.c.created)
        with self._database.reading() as connection:
            rows = connection.execute(query).all()
            running = [RunUnderWay(*row) for row in rows if row.state in states.UNDER_WAY]
            waiting = [(row.resource_group, row.state) for row in rows
                       if row.state not in states.UNDER_WAY]  # fmt: skip
            ids = [run.id for run in running]
            counts = _counts(connection, ids) if ids else {}
            sent = _sent(connection) if ids else {}
        return [with_tasks(run, counts.get(run.id, {}), sent.get(run.id, ()))
                for run in running], waiting  # fmt: skip


def _counts(connection: sa.Connection, ids: Sequence[str]) -> Mapping[str, Mapping[str, int]]:
    """Return how many tasks runs have, by their state."""
    found: defaultdict[str, dict[str, int]] = defaultdict(dict)
    of = (TASKS.c.run, TASKS.c.state)
    for at in range(0, len(ids), _IDS_MAX):
        mine = TASKS.c.run.in_(ids[at : at + _IDS_MAX])
        for row in connection.execute(sa.select(*of, sa.func.count()).where(mine).group_by(*of)):
            found[row.run][row.state] = row[2]
    return found


def _sent(connection: sa.Connection) -> Mapping[str, Sequence[Mapping[str, Any]]]:
    """Return what the tasks tell that are with nodes, by run."""
    found: defaultdict[str, list[Mapping[str, Any]]] = defaultdict(list)
    query = sa.select(TASKS.c.run, TASKS.c.label, TASKS.c.progress)
    for row in connection.execute(query.where(TASKS.c.state == tasks.SENT)):
        found[row.run].append({"task": row.label, **row.progress})
    return found


def with_tasks(
    run: RunUnderWay, counts: Mapping[str, int], told: Sequence[Mapping[str, Any]]
) -> RunUnderWay:
    """Return a run with what its tasks tell. Pure."""
    total, ended = sum(counts.values()), counts.get(tasks.ENDED, 0)
    done = sum(_part(each) for each in told)
    labels = [str(each.get("task") or each.get("label") or "") for each in told]
    return replace(
        run, what=", ".join(filter(None, labels[:3])), tasks=total, ended=ended,
        share=round(min((ended + done) / total, 1.0), 4) if total else 0.0,
        rate=sum(float(each.get("rate") or 0.0) for each in told),
    )  # fmt: skip


def _part(told: Mapping[str, Any]) -> float:
    total = float(told.get("total") or 0)
    return min(float(told.get("done") or 0) / total, 1.0) if total > 0 else 0.0
