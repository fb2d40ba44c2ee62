"""Tasks as the server keeps them: planned, sent, told of, ended; each word of a node counts once."""

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.nodes.tables import TASKS
from ruchu.model.tasks import Ending, Outcome, TaskEvent

WAITING, SENT, ENDED = "waiting", "sent", "ended"
# Tasks that are looked at for one round of giving out work.
ROUND_MAX = 2000


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


class Tasks:
    """The tasks of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock
        self._changed = threading.Condition()

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
        self.wake()

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
        self.wake()
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

    def _select(self, *where: Any, order: tuple[Any, ...] = (TASKS.c.id,)) -> list[TaskRow]:
        query = sa.select(TASKS).where(*where).order_by(*order).limit(ROUND_MAX)
        with self._database.reading() as connection:
            return [TaskRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001 - a row's public name for its fields

    def send(self, task: str, node: str) -> bool:
        """Give a waiting task to a node; False if it does not wait any more."""
        values = {"state": SENT, "node": node, "sent": to_text(self._clock.now())}
        return self._update(TASKS.update().where(
            TASKS.c.id == task, TASKS.c.state == WAITING, TASKS.c.stop.is_(False)
        ).values(values)) > 0  # fmt: skip

    def take_back(self, task: str, node: str) -> bool:
        """Let a task of a node that is lost be done by another one, as a new attempt."""
        values: dict[str, Any] = {
            "state": WAITING, "node": None, "attempt": TASKS.c.attempt + 1, "number": 0
        }  # fmt: skip
        done = self._update(TASKS.update().where(
            TASKS.c.id == task, TASKS.c.node == node, TASKS.c.state == SENT, TASKS.c.move
        ).values(values))  # fmt: skip
        self.wake()
        return done > 0

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
        self.wake()
        return [row for row in self.of_run(run) if row.state == SENT]

    def tell(self, node: str, events: Sequence[TaskEvent]) -> list[TaskEvent]:
        """Take in what a node told of one attempt, in order; return what is new."""
        if not events:
            return []
        first = events[0]
        with self._database.writing() as connection:
            row = connection.execute(sa.select(
                TASKS.c.node, TASKS.c.attempt, TASKS.c.number, TASKS.c.state
            ).where(TASKS.c.id == first.task)).one_or_none()  # fmt: skip
            if row is None or (row.node, row.attempt, row.state) != (node, first.attempt, SENT):
                return []
            new = [event for event in events if event.number > row.number]
            if new:
                connection.execute(
                    TASKS.update().where(TASKS.c.id == first.task).values(_told(new))
                )
        return new

    def end(self, node: str, ending: Ending) -> bool:
        """Take in how an attempt ended; False if that is known, or nobody waits for it."""
        values = {
            "state": ENDED, "ended": to_text(self._clock.now()),
            "outcome": ending.outcome.value, "result": dict(ending.result),
            "error": dict(ending.error) if ending.error is not None else None,
        }  # fmt: skip
        done = self._update(TASKS.update().where(
            TASKS.c.id == ending.task, TASKS.c.node == node, TASKS.c.state == SENT,
            TASKS.c.attempt == ending.attempt,
        ).values(values))  # fmt: skip
        self.wake()
        return done > 0

    def lose(self, task: str, code: str, text: str) -> bool:
        """End a task that its node does not know any more; it may be tried again."""
        error = {"code": code, "message": text, "hint": "", "retry": True}
        values = {
            "state": ENDED, "ended": to_text(self._clock.now()), "outcome": Outcome.FAILED.value,
            "result": {}, "error": error,
        }  # fmt: skip
        done = self._update(
            TASKS.update().where(TASKS.c.id == task, TASKS.c.state == SENT).values(values)
        )
        self.wake()
        return done > 0

    def _update(self, statement: sa.Update) -> int:
        with self._database.writing() as connection:
            return connection.execute(statement).rowcount

    def open_count(self, run: str) -> int:
        """Return how many tasks of a run have not ended."""
        query = sa.select(sa.func.count()).where(TASKS.c.run == run, TASKS.c.state != ENDED)
        with self._database.reading() as connection:
            return int(connection.execute(query).scalar_one())

    def wake(self) -> None:
        """Wake who waits for a change of any task."""
        with self._changed:
            self._changed.notify_all()

    def wait(self, timeout_s: float) -> None:
        """Wait for a change of any task, or for the time to pass."""
        with self._changed:
            self._changed.wait(timeout_s)


def _row(task: Planned, now: str) -> dict[str, Any]:
    return {
        "id": task.id, "run": task.run, "kind": task.kind, "label": task.label, "attempt": 1,
        "priority": task.priority, "state": WAITING, "node": None, "body": dict(task.body),
        "secrets": list(task.secrets), "nodes": list(task.nodes), "limits": dict(task.limits),
        "move": task.move, "stop": False, "created": now, "number": 0, "phase": "",
        "progress": {},
    }  # fmt: skip


def _told(events: Sequence[TaskEvent]) -> dict[str, Any]:
    values: dict[str, Any] = {"number": events[-1].number}
    for event in events:
        if event.name == "phase":
            values["phase"] = str(event.body.get("name", ""))
        elif event.name == "progress":
            values["progress"] = dict(event.body)
    return values
