"""Runs: created, followed, asked to stop; every change is an event of their history."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.database.database import Database
from ruchu.control.events.signals import Signals
from ruchu.control.events.stream import Events
from ruchu.control.jobs.tables import RUN_EVENTS, RUNS
from ruchu.errors import NotFound, UsageError
from ruchu.model.ids import new_id

QUEUED, WAITING, RUNNING = "queued", "waiting", "running"
STOPPING, PAUSED = "stopping", "paused"
SUCCEEDED, PARTLY, FAILED, STOPPED = "succeeded", "partly", "failed", "stopped"
OPEN = (QUEUED, WAITING, RUNNING, STOPPING, PAUSED)
UNDER_WAY = (RUNNING, STOPPING)
OVER = (SUCCEEDED, PARTLY, FAILED, STOPPED)
# What one run tells: a run that logs without end must not fill the database.
EVENTS_MAX = 5_000
PAGE_MAX = 500


@dataclass(frozen=True, slots=True)
class NewRun:
    """A run that is to be.

    Attributes:
        kind: of the work, such as `backup`.
        name: for people: of the policy or of the machine.
        body: what is to be done; the planner of the kind reads it.
        policy: id of its policy, if it has one.
        started_by: `schedule`, or the name of who asked.
        due: when it was due, RFC 3339.
        priority: 1 is first.
        group: resource group.
        id: fixed where the same start must not make two runs.
    """

    kind: str
    name: str
    body: Mapping[str, Any]
    policy: str | None = None
    started_by: str = "schedule"
    due: str | None = None
    priority: int = 5
    group: str = "default"
    id: str = field(default_factory=new_id)


@dataclass(frozen=True, slots=True)
class RunRow:
    """A run as it is now; see the table."""

    id: str
    kind: str
    name: str
    policy: str | None
    started_by: str
    due: str | None
    priority: int
    resource_group: str
    state: str
    reason: str
    body: Mapping[str, Any]
    attempt: int
    stop: bool
    pause: bool
    created: str
    started: str | None
    ended: str | None
    next_attempt: str | None
    summary: Mapping[str, Any]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class RunShown:
    """A run as a list shows it: all but what it is to do, which may hold a whole policy."""

    id: str
    kind: str
    name: str
    policy: str | None
    started_by: str
    due: str | None
    priority: int
    resource_group: str
    state: str
    reason: str
    attempt: int
    stop: bool
    pause: bool
    created: str
    started: str | None
    ended: str | None
    next_attempt: str | None
    summary: Mapping[str, Any]

    @property
    def over(self) -> bool:
        """Whether it has ended."""
        return self.state in OVER


@dataclass(frozen=True, slots=True)
class OpenRun:
    """What a run that has not ended waits for; see the table."""

    id: str
    policy: str | None
    priority: int
    state: str
    reason: str
    attempt: int
    stop: bool
    pause: bool
    created: str
    next_attempt: str | None


@dataclass(frozen=True, slots=True)
class RunFilter:
    """Which runs a page shows; empty means all.

    Attributes:
        states, policy, kind, groups: one of these, exactly this.
        text: somewhere in the name.
        before: `created/id` of the last one seen.
        since, until: when they were made; from and including, up to and excluding.
    """

    states: tuple[str, ...] = ()
    policy: str = ""
    kind: str = ""
    text: str = ""
    groups: tuple[str, ...] = ()
    before: str = ""
    since: str = ""
    until: str = ""


class Runs:
    """The runs of a server. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, events: Events) -> None:
        self._database = database
        self._clock = clock
        self._events = events
        self._changed = Signals()

    def add(self, connection: sa.Connection, run: NewRun) -> None:
        """Write a run down within the caller's transaction; tell of it with `announce`."""
        now = to_text(self._clock.now())
        row = {
            "id": run.id, "kind": run.kind, "name": run.name, "policy": run.policy,
            "started_by": run.started_by, "due": run.due, "priority": run.priority,
            "resource_group": run.group, "state": QUEUED, "reason": "", "body": dict(run.body),
            "attempt": 0, "stop": False, "pause": False, "created": now, "summary": {},
        }  # fmt: skip
        connection.execute(RUNS.insert().values(row))
        _note(connection, run.id, now, "queued", {"by": run.started_by, "due": run.due})

    def create(self, run: NewRun) -> RunRow:
        """Write a run down."""
        with self._database.writing() as connection:
            self.add(connection, run)
        self.announce(run.id)
        return self.get(run.id)

    def get(self, run: str) -> RunRow:
        """Return a run.

        Raises:
            NotFound: there is none.
        """
        with self._database.reading() as connection:
            found = connection.execute(sa.select(RUNS).where(RUNS.c.id == run)).one_or_none()
        if found is None:
            raise NotFound(f"(run {run[:40]!r})")
        return RunRow(**found._mapping)  # noqa: SLF001 - public in SQLAlchemy

    def standing(self) -> list[OpenRun]:
        """Return what a look at every run that has not ended takes, the oldest first."""
        columns = [RUNS.c[each.name] for each in fields(OpenRun)]
        query = sa.select(*columns).where(RUNS.c.state.in_(OPEN)).order_by(RUNS.c.created)
        with self._database.reading() as connection:
            return [OpenRun(*row) for row in connection.execute(query)]

    def open(self) -> list[RunRow]:
        """Return every run that has not ended, the oldest first."""
        query = sa.select(RUNS).where(RUNS.c.state.in_(OPEN)).order_by(RUNS.c.created)
        with self._database.reading() as connection:
            return [RunRow(**row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def page(self, wanted: RunFilter, limit: int) -> list[RunShown]:
        """Return runs, the newest first; `before` is the (created, id) of the last one seen."""
        newest = (RUNS.c.created.desc(), RUNS.c.id.desc())
        # Looked for in an index that holds all that is asked for: the rows themselves, with their
        # bodies, are ten times as much to read.
        found = sa.select(RUNS.c.id).where(*_conditions(wanted)).order_by(*newest)
        found = found.limit(min(limit, PAGE_MAX))
        columns = [RUNS.c[each.name] for each in fields(RunShown)]
        query = sa.select(*columns).where(RUNS.c.id.in_(found)).order_by(*newest)
        with self._database.reading() as connection:
            return [RunShown(*row) for row in connection.execute(query)]

    def last_ended(self, policy: str) -> RunRow | None:
        """Return the run of a policy that ended last."""
        query = sa.select(RUNS).where(RUNS.c.policy == policy, RUNS.c.state.in_(OVER))
        with self._database.reading() as connection:
            found = connection.execute(query.order_by(RUNS.c.ended.desc()).limit(1)).one_or_none()
        return RunRow(**found._mapping) if found is not None else None  # noqa: SLF001

    def newest(self, policy: str, kind: str) -> RunRow | None:
        """Return the newest run of a policy that a schedule of a kind started, or a person."""
        query = sa.select(RUNS).where(RUNS.c.policy == policy).order_by(RUNS.c.created.desc())
        with self._database.reading() as connection:
            for row in connection.execute(query.limit(PAGE_MAX)):
                found = RunRow(**row._mapping)  # noqa: SLF001 - public in SQLAlchemy
                if found.body.get("kind", found.kind) == kind:
                    return found
        return None

    def move(self, run: str, state: str, reason: str = "", **values: Any) -> bool:
        """Bring a run into a state; False if it is over, or is in that state for that reason."""
        now = to_text(self._clock.now())
        changes: dict[str, Any] = {"state": state, "reason": reason, **values}
        if state in OVER:
            changes["ended"] = now
        if state == RUNNING:
            changes["started"] = sa.func.coalesce(RUNS.c.started, now)
        differs = sa.or_(RUNS.c.state != state, RUNS.c.reason != reason)
        statement = RUNS.update().where(RUNS.c.id == run, RUNS.c.state.in_(OPEN), differs)
        statement = statement.values(changes).returning(RUNS.c.name, RUNS.c.kind)
        with self._database.writing() as connection:
            row = connection.execute(statement).one_or_none()
            if row is None:
                return False
            _note(connection, run, now, state, {"reason": reason} if reason else {})
            body = {"state": state, "name": row.name, "kind": row.kind}
            number = self._events.write(connection, "run", run, body)
        self._events.told(number)
        self.announce_all()
        return True

    def update(self, run: str, **values: Any) -> None:
        """Change what is known of a run without changing its state."""
        with self._database.writing() as connection:
            connection.execute(RUNS.update().where(RUNS.c.id == run).values(values))

    def note(self, run: str, name: str, body: Mapping[str, Any], task: str | None = None) -> None:
        """Add an event to the history of a run."""
        with self._database.writing() as connection:
            count = connection.execute(
                sa.select(sa.func.count()).where(RUN_EVENTS.c.run == run)
            ).scalar_one()
            if count < EVENTS_MAX:
                _note(connection, run, to_text(self._clock.now()), name, body, task)

    def notes(self, connection: sa.Connection, rows: Sequence[Mapping[str, Any]]) -> None:
        """Add events that tasks told, within the caller's transaction.

        Each has `run`, `task`, `at`, `name`, `body`.
        """
        runs = {row["run"] for row in rows}
        query = sa.select(RUN_EVENTS.c.run, sa.func.count()).where(RUN_EVENTS.c.run.in_(runs))
        counts: Counter[str] = Counter(
            dict(connection.execute(query.group_by(RUN_EVENTS.c.run)).tuples().all())
        )
        kept = []
        for row in rows:
            counts[row["run"]] += 1
            if counts[row["run"]] <= EVENTS_MAX:
                kept.append(dict(row))
        if kept:
            connection.execute(RUN_EVENTS.insert(), kept)

    def history(self, run: str, after: int = 0, limit: int = PAGE_MAX) -> list[dict[str, Any]]:
        """Return the events of a run that follow a number, oldest first."""
        query = sa.select(RUN_EVENTS).where(RUN_EVENTS.c.run == run, RUN_EVENTS.c.number > after)
        query = query.order_by(RUN_EVENTS.c.number).limit(min(limit, PAGE_MAX))
        with self._database.reading() as connection:
            return [dict(row._mapping) for row in connection.execute(query)]  # noqa: SLF001

    def noted(self, run: str, name: str) -> list[Mapping[str, Any]]:
        """Return the bodies of the events of one name in the history of a run, oldest first."""
        query = sa.select(RUN_EVENTS.c.body).where(
            RUN_EVENTS.c.run == run, RUN_EVENTS.c.name == name
        )
        with self._database.reading() as connection:
            return list(connection.execute(query.order_by(RUN_EVENTS.c.number)).scalars())

    def ask(self, run: str, *, stop: bool | None = None, pause: bool | None = None) -> RunRow:
        """Ask a run to stop, to pause, or to go on.

        Raises:
            NotFound: there is none.
            UsageError: it has ended.
        """
        values = {"stop": stop} if stop is not None else {"pause": pause}
        what = "stop asked for" if stop else "pause asked for" if pause else "resume asked for"
        with self._database.writing() as connection:
            done = connection.execute(
                RUNS.update().where(RUNS.c.id == run, RUNS.c.state.in_(OPEN)).values(values)
            )
            if done.rowcount:
                _note(connection, run, to_text(self._clock.now()), what, {})
        found = self.get(run)
        if not done.rowcount:
            raise UsageError(f"(run {run[:8]} has ended: {found.state})")
        self.announce(run)
        return found

    def announce(self, run: str) -> None:
        """Tell who follows that a run changed, and wake who waits for it."""
        row = self.get(run)
        self._events.publish("run", run, {"state": row.state, "name": row.name, "kind": row.kind})
        self.announce_all()

    def announce_all(self) -> None:
        """Wake who waits for any run."""
        self._changed.fire_all()

    def mark(self) -> int:
        """Return a mark for `wait`, to be taken before the look at the runs."""
        return self._changed.mark()

    def wait(self, mark: int, timeout_s: float) -> None:
        """Wait until any run has changed since a mark, or for the time to pass."""
        self._changed.wait("", mark, timeout_s)


def _note(
    connection: sa.Connection, run: str, at: str, name: str, body: Mapping[str, Any],
    task: str | None = None,
) -> None:  # fmt: skip
    row = {"run": run, "task": task, "at": at, "name": name, "body": dict(body)}
    connection.execute(RUN_EVENTS.insert().values(row))


def _conditions(wanted: RunFilter) -> list[Any]:
    conditions: list[Any] = []
    if wanted.states and set(wanted.states) <= set(OPEN):
        conditions.append(RUNS.c.state.in_(wanted.states))
    elif wanted.states:
        # Most runs are over. By the index of states SQLite would read and sort them all, for a
        # page; so that index is kept out of it.
        conditions.append(RUNS.c.state.concat("").in_(wanted.states))
    if wanted.since:
        conditions.append(RUNS.c.created >= wanted.since)
    if wanted.until:
        conditions.append(RUNS.c.created < wanted.until)
    if wanted.policy:
        conditions.append(RUNS.c.policy == wanted.policy)
    if wanted.kind:
        conditions.append(RUNS.c.kind == wanted.kind)
    if wanted.groups:
        conditions.append(RUNS.c.resource_group.in_(wanted.groups))
    if wanted.text:
        conditions.append(RUNS.c.name.icontains(wanted.text, autoescape=True))
    if wanted.before:
        created, _, identity = wanted.before.partition("/")
        same = sa.and_(RUNS.c.created == created, RUNS.c.id < identity)
        # The first one follows from the second, and is what the index is entered by.
        conditions += [RUNS.c.created <= created, sa.or_(RUNS.c.created < created, same)]
    return conditions
