"""Tasks as the server keeps them: planned, sent, told of, ended; each word of a node counts once."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.events.signals import Signals
from ruchu.control.nodes.tables import TASKS
from ruchu.model.tasks import Ending, Outcome, TaskEvent

WAITING, SENT, ENDED = "waiting", "sent", "ended"
# Tasks that are looked at for one round of giving out work.
ROUND_MAX = 2000
# Ids in one statement; SQLite allowed 999 values for long.
_IDS_MAX = 500


@dataclass(frozen=True, slots=True)
class Planned:
    """A task that is to be done.

    Attributes:
        id: made from run and place, so that planning twice plans once.
        run: id of the run.
        kind: of `ruchu.nodes.kinds`.
        label: what it is about, for people, such as the name of a machine.
        body: of the order.
        secrets: names of secrets that the order carries, such as `storage:main`.
        nodes: ids of the nodes that may do it; empty means any.
        limits: key to the number of tasks of that key that may run at the same time.
        priority: 1 is first.
        move: may be given to another node when its own is lost.
    """

    id: str
    run: str
    kind: str
    label: str
    body: Mapping[str, Any]
    secrets: tuple[str, ...] = ()
    nodes: tuple[str, ...] = ()
    limits: Mapping[str, int] = field(default_factory=dict)
    priority: int = 5
    move: bool = False


@dataclass(frozen=True, slots=True)
class TaskRow:
    """A task as it is now; see the table."""

    id: str
    run: str
    kind: str
    label: str
    attempt: int
    priority: int
    state: str
    node: str | None
    body: Mapping[str, Any]
    secrets: Sequence[str]
    nodes: Sequence[str]
    limits: Mapping[str, int]
    move: bool
    stop: bool
    created: str
    sent: str | None
    ended: str | None
    number: int
    phase: str
    progress: Mapping[str, Any]
    outcome: str | None
    result: Mapping[str, Any] | None
    error: Mapping[str, Any] | None


@dataclass(frozen=True, slots=True)
class Claim:
    """What a task takes, or would take, of what is limited."""

    id: str
    node: str | None
    nodes: Sequence[str]
    limits: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a task is, right after it told."""

    id: str
    run: str
    label: str
    phase: str
    progress: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Telling:
    """What a node told of one attempt: events in their order, and how it ended if it did."""

    node: str
    events: Sequence[TaskEvent]
    ending: Ending | None = None


@dataclass(frozen=True, slots=True)
class News:
    """What is new of a task: how far it is now, and what it told, in its order."""

    task: Progress
    events: Sequence[TaskEvent]


Within = Callable[[sa.Connection, Sequence[News]], None]
"""Writes down what tasks told, in the transaction that takes it in."""

# The key of whoever waits for work that can be given out.
WORK = "work"


class Tasks:
    """The tasks of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._changed = Signals()
        # What a task takes never changes, and is looked at many times while it waits and runs.
        self._claims: dict[str, tuple[Sequence[str], Mapping[str, int]]] = {}

    def plan(self, tasks: Sequence[Planned]) -> None:
        """Write down tasks; one that was planned before stays as it is."""
        now = to_text(self._clock.now())
        with self._database.writing() as connection:
            ids = [task.id for task in tasks]
            known = set(
                connection.execute(sa.select(TASKS.c.id).where(TASKS.c.id.in_(ids))).scalars()
            )
            rows = [_row(task, now) for task in tasks if task.id not in known]
            if rows:
                connection.execute(TASKS.insert(), rows)
        self._fire({task.run for task in tasks})

    def again(self, run: str) -> int:
        """Let the failed tasks of a run be tried once more; return how many there are."""
        failed = sa.and_(
            TASKS.c.run == run, TASKS.c.state == ENDED, TASKS.c.outcome != Outcome.SUCCEEDED.value
        )
        values: dict[str, Any] = {
            "state": WAITING, "attempt": TASKS.c.attempt + 1, "node": None, "number": 0,
            "phase": "", "progress": {}, "outcome": None, "result": None, "error": None,
            "sent": None, "ended": None, "stop": False,
        }  # fmt: skip
        with self._database.writing() as connection:
            count = connection.execute(TASKS.update().where(failed).values(values)).rowcount
        self._fire([run])
        return count

    def get(self, task: str) -> TaskRow | None:
        """Return a task."""
        found = self._select(TASKS.c.id == task)
        return found[0] if found else None

    def of_run(self, run: str) -> list[TaskRow]:
        """Return the tasks of a run, in the order of their ids."""
        return self._select(TASKS.c.run == run)

    def of_node(self, node: str) -> list[TaskRow]:
        """Return the tasks that were sent to a node and have not ended."""
        return self._select(TASKS.c.node == node, TASKS.c.state == SENT)

    def sent(self) -> list[TaskRow]:
        """Return all tasks that were sent and have not ended."""
        return self._select(TASKS.c.state == SENT)

    def waiting(self) -> list[TaskRow]:
        """Return the tasks that wait for a node, the most urgent first."""
        return self._select(TASKS.c.state == WAITING, order=(TASKS.c.priority, TASKS.c.created))

    def claims(self) -> tuple[list[Claim], list[Claim]]:
        """Return what waits for a node, the most urgent first, and what was sent.

        One thread calls this.
        """
        order = (TASKS.c.priority, TASKS.c.created, TASKS.c.id)
        query = sa.select(TASKS.c.id, TASKS.c.node, TASKS.c.state).order_by(*order)
        takes = sa.select(TASKS.c.id, TASKS.c.nodes, TASKS.c.limits)
        with self._database.reading() as connection:
            rows = [
                row
                for state in (WAITING, SENT)
                for row in connection.execute(query.where(TASKS.c.state == state).limit(ROUND_MAX))
            ]
            fresh = [row.id for row in rows if row.id not in self._claims]
            for at in range(0, len(fresh), _IDS_MAX):
                wanted = TASKS.c.id.in_(fresh[at : at + _IDS_MAX])
                for row in connection.execute(takes.where(wanted)):
                    self._claims[row.id] = row.nodes, row.limits
        self._claims = {row.id: self._claims[row.id] for row in rows}
        waiting, sent = (
            [Claim(row.id, row.node, *self._claims[row.id]) for row in rows if row.state == state]
            for state in (WAITING, SENT)
        )
        return waiting, sent

    def _select(self, *where: Any, order: tuple[Any, ...] = (TASKS.c.id,)) -> list[TaskRow]:
        query = sa.select(TASKS).where(*where).order_by(*order).limit(ROUND_MAX)
        with self._database.reading() as connection:
            return [TaskRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - a row's public name for its fields

    def send(self, task: str, node: str) -> bool:
        """Give a waiting task to a node; False if it does not wait any more."""
        return bool(self.send_all([(task, node)]))

    def send_all(self, pairs: Sequence[tuple[str, str]]) -> list[TaskRow]:
        """Give waiting tasks to nodes; return those that still waited, as they are now."""
        now, sent = to_text(self._clock.now()), []
        with self._database.writing() as connection:
            for task, node in pairs:
                values = {"state": SENT, "node": node, "sent": now}
                statement = TASKS.update().where(
                    TASKS.c.id == task, TASKS.c.state == WAITING, TASKS.c.stop.is_(False)
                )
                row = connection.execute(statement.values(values).returning(TASKS)).one_or_none()
                if row is not None:
                    sent.append(TaskRow(**row._mapping))  # noqa: SLF001 - public in SQLAlchemy
        return sent

    def take_back(self, task: str, node: str) -> bool:
        """Let a task of a node that is lost be done by another one, as a new attempt."""
        values: dict[str, Any] = {
            "state": WAITING, "node": None, "attempt": TASKS.c.attempt + 1, "number": 0
        }  # fmt: skip
        done = self._update(TASKS.update().where(
            TASKS.c.id == task, TASKS.c.node == node, TASKS.c.state == SENT, TASKS.c.move
        ).values(values).returning(TASKS.c.run))  # fmt: skip
        return self._told_of(done)

    def ask_to_stop(self, run: str) -> list[TaskRow]:
        """Ask the tasks of a run to end; those that wait end at once. Return those to be told."""
        now = to_text(self._clock.now())
        waiting = {
            "state": ENDED, "ended": now, "outcome": Outcome.STOPPED.value, "stop": True,
            "result": {}, "error": {"code": "cancelled", "message": "It was stopped.", "hint": "",
                                    "retry": False},
        }  # fmt: skip
        mine = TASKS.c.run == run
        with self._database.writing() as connection:
            connection.execute(TASKS.update().where(mine, TASKS.c.state == WAITING).values(waiting))
            connection.execute(TASKS.update().where(mine, TASKS.c.state == SENT).values(stop=True))
        self._fire([run])
        return [row for row in self.of_run(run) if row.state == SENT]

    def tell(self, node: str, events: Sequence[TaskEvent]) -> list[TaskEvent]:
        """Take in what a node told of one attempt, in order; return what is new."""
        found: list[TaskEvent] = []

        def within(_: sa.Connection, news: Sequence[News]) -> None:
            found.extend(event for each in news for event in each.events)

        if events:
            self.take_in([Telling(node, events)], within)
        return found

    def end(self, node: str, ending: Ending) -> bool:
        """Take in how an attempt ended; False if that is known, or nobody waits for it."""
        return self.take_in([Telling(node, (), ending)], lambda *_: None) > 0

    def take_in(self, tellings: Sequence[Telling], within: Within) -> int:
        """Take in what nodes told of some attempts, all of it in one transaction or nothing.

        `within` writes down what is new, in that transaction. Returns how many ended with it.
        """
        told = [each for each in tellings if each.events]
        now = to_text(self._clock.now())
        with self._database.writing() as connection:
            news = [each for at in range(0, len(told), _IDS_MAX)
                    for each in _take_in(connection, told[at : at + _IDS_MAX])]  # fmt: skip
            if news:
                within(connection, news)
            ended = [
                run
                for each in tellings
                if each.ending is not None
                for run in _end(connection, each.node, each.ending, now)
            ]
        if ended:
            self._fire(ended)
        return len(ended)

    def lose(self, task: str, code: str, text: str) -> bool:
        """End a task that its node does not know any more; it may be tried again."""
        error = {"code": code, "message": text, "hint": "", "retry": True}
        values = {
            "state": ENDED, "ended": to_text(self._clock.now()), "outcome": Outcome.FAILED.value,
            "result": {}, "error": error,
        }  # fmt: skip
        mine = TASKS.update().where(TASKS.c.id == task, TASKS.c.state == SENT)
        return self._told_of(self._update(mine.values(values).returning(TASKS.c.run)))

    def _update(self, statement: sa.Executable) -> list[str]:
        """Change tasks; return the runs that they belong to."""
        with self._database.writing() as connection:
            return list(connection.execute(statement).scalars())

    def _told_of(self, runs: Sequence[str]) -> bool:
        """Wake who waits for these runs, or for work; tell whether there are any."""
        self._fire(runs)
        return bool(runs)

    def _fire(self, runs: Iterable[str]) -> None:
        for run in runs:
            self._changed.fire(run)
        self._changed.fire(WORK)

    def open_count(self, run: str) -> int:
        """Return how many tasks of a run have not ended."""
        query = sa.select(sa.func.count()).where(TASKS.c.run == run, TASKS.c.state != ENDED)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def wake(self) -> None:
        """Wake everybody who waits here."""
        self._changed.fire_all()

    def mark(self) -> int:
        """Return a mark for `wait`, to be taken before the look at the tasks."""
        return self._changed.mark()

    def wait(self, mark: int, timeout_s: float, key: str = WORK) -> None:
        """Wait for a change since a mark, or for the time to pass.

        `key` is the id of a run, or `WORK` for a change of any.
        """
        self._changed.wait(key, mark, timeout_s)


def _row(task: Planned, now: str) -> dict[str, Any]:
    return {
        "id": task.id, "run": task.run, "kind": task.kind, "label": task.label, "attempt": 1,
        "priority": task.priority, "state": WAITING, "node": None, "body": dict(task.body),
        "secrets": list(task.secrets), "nodes": list(task.nodes), "limits": dict(task.limits),
        "move": task.move, "stop": False, "created": now, "number": 0, "phase": "",
        "progress": {},
    }  # fmt: skip


_WANTED = ("id", "run", "label", "phase", "progress", "node", "attempt", "number", "state")
_TOLD = TASKS.update().where(TASKS.c.id == sa.bindparam("told_id")).values(
    number=sa.bindparam("told_number"), phase=sa.bindparam("told_phase"),
    progress=sa.bindparam("told_progress"),
)  # fmt: skip


def _take_in(connection: sa.Connection, told: Sequence[Telling]) -> list[News]:
    """Write down how far tasks are; return what is new of them. Each attempt is told of once."""
    ids = [each.events[0].task for each in told]
    query = sa.select(*(TASKS.c[name] for name in _WANTED)).where(TASKS.c.id.in_(ids))
    rows = {row.id: row for row in connection.execute(query)}
    news, values = [], []
    for each in told:
        first = each.events[0]
        row = rows.get(first.task)
        mine = (each.node, first.attempt, SENT)
        if row is None or (row.node, row.attempt, row.state) != mine:
            continue
        new = [event for event in each.events if event.number > row.number]
        if new:
            known = {"phase": row.phase, "progress": row.progress, **_told(new)}
            values.append({f"told_{key}": value for key, value in {**known, "id": row.id}.items()})
            progress = Progress(row.id, row.run, row.label, known["phase"], known["progress"])
            news.append(News(progress, new))
    if values:
        connection.execute(_TOLD, values)
    return news


def _end(connection: sa.Connection, node: str, ending: Ending, now: str) -> list[str]:
    values = {
        "state": ENDED, "ended": now, "outcome": ending.outcome.value,
        "result": dict(ending.result),
        "error": dict(ending.error) if ending.error is not None else None,
    }  # fmt: skip
    statement = TASKS.update().where(
        TASKS.c.id == ending.task, TASKS.c.node == node, TASKS.c.state == SENT,
        TASKS.c.attempt == ending.attempt,
    ).values(values)  # fmt: skip
    return list(connection.execute(statement.returning(TASKS.c.run)).scalars())


def _told(events: Sequence[TaskEvent]) -> dict[str, Any]:
    values: dict[str, Any] = {"number": events[-1].number}
    for event in events:
        if event.name == "phase":
            values["phase"] = str(event.body.get("name", ""))
        elif event.name == "progress":
            values["progress"] = dict(event.body)
    return values
