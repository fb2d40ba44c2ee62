"""The scheduler: starts every run that is due, once, whatever crashes.

What is due is kept in memory; the database is touched where something starts. A start, the run
that it makes and how far its schedule is settled then become true in one transaction: a crash
leaves all of them or none, and the next scheduler goes on from there. That a moment is started
once even if clocks go back is a constraint in the database (`tables.STARTS`).
"""

import datetime
import itertools
import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import sqlalchemy as sa

from ruchu.clock import Clock
from ruchu.control.database.database import Database
from ruchu.control.schedules import deciding, records, starting
from ruchu.control.schedules.contract import PolicySource, Runs, ScheduledPolicy, Standing, Watcher
from ruchu.control.schedules.deciding import Decision, Ready
from ruchu.control.schedules.lateness import Lateness
from ruchu.control.schedules.records import ScheduleOf
from ruchu.model.schedule_rules import Rolling
from ruchu.model.schedules import Schedule

# A clock that jumps, and a stop that nobody announced, are noticed within it.
LOOK_S = 1.0
# Policies are read anew so often even if nobody said that they changed.
REFRESH_S = 60.0
# The same for runs that rolling schedules wait for.
POLL_S = 30.0
# After a failure of one policy, so that it does not fail every second.
RETRY = datetime.timedelta(seconds=10)
# Policies that start within one transaction: writing it out is shared, and others wait little.
BATCH = 32
# A run that ended later than now was dated by a clock that was wrong, beyond corrections.
CLOCK_TOLERANCE = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Started:
    """A start that was made.

    Attributes:
        policy: id.
        schedule: which of its schedules.
        due: the moment that it stands for.
    """

    policy: str
    schedule: Schedule
    due: datetime.datetime


@dataclass(slots=True)
class _Entry:
    """A policy in the plan: when to look at it next; None waits for a run or for ever."""

    policy: ScheduledPolicy
    keys: tuple[str, ...]
    look_at: datetime.datetime | None = None
    awaits_run: bool = False

    def each(self) -> Iterable[tuple[Schedule, ScheduleOf]]:
        pairs = zip(self.policy.schedules, self.keys, strict=True)
        return ((schedule, (self.policy.id, key)) for schedule, key in pairs)


@dataclass(frozen=True, slots=True)
class _Result:
    """What became of a decision."""

    entry: _Entry
    decision: Decision
    started: tuple[Started, ...] = ()
    error: Exception | None = None


class Scheduler:
    """Starts runs. One thread calls `tick` or `run`; the rest is safe in several threads."""

    def __init__(
        self, database: Database, clock: Clock, source: PolicySource, runs: Runs, watcher: Watcher
    ) -> None:
        self.lateness = Lateness()
        self._database = database
        self._clock = clock
        self._source = source
        self._runs = runs
        self._watcher = watcher
        self._condition = threading.Condition()
        self._changes, self._ended = 1, set[str]()  # under the condition
        self._woken = False
        self._applied = 0
        self._refreshed = self._polled = clock.monotonic()
        self._entries: dict[str, _Entry] = {}
        self._seen: dict[ScheduleOf, datetime.datetime] | None = None
        self._odd_ends: dict[ScheduleOf, tuple[datetime.datetime, datetime.datetime]] = {}
        self._ticked: datetime.datetime | None = None

    # --------------------------------------------------------------------- for other threads

    def changed(self) -> None:
        """Read the policies anew: one was changed, enabled, disabled or removed."""
        with self._condition:
            self._changes += 1
            self._wake()

    def run_ended(self, policy: str) -> None:
        """Look at the rolling schedules of a policy: a run of it ended."""
        with self._condition:
            self._ended.add(policy)
            self._wake()

    def wake(self) -> None:
        """Look now, and at whether to stop."""
        with self._condition:
            self._wake()

    def _wake(self) -> None:
        self._woken = True
        self._condition.notify_all()

    @property
    def ticked(self) -> datetime.datetime | None:
        """The moment of the last look that was made; None before the first. For health checks."""
        return self._ticked

    def next_wakeup(self, now: datetime.datetime) -> datetime.datetime | None:
        """Return when something is due next, not before now; None if nothing ever is."""
        if self._applied != self._changes:
            return now
        looks = [entry.look_at for entry in list(self._entries.values())]
        earliest = min((look for look in looks if look is not None), default=None)
        return None if earliest is None else max(earliest, now)

    # ------------------------------------------------------------------------------- the loop

    def run(self, stop: threading.Event) -> None:
        """Start what is due, until told to stop; call `wake` then, or it takes up to `LOOK_S`."""
        while not stop.is_set():
            try:
                self.tick(self._clock.now())
            except ExceptionGroup as error:
                self._watcher.failed(error)
                self._wait(stop)
            except Exception as error:  # noqa: BLE001 - the edge of the thread: the watcher is told
                self._watcher.failed(error)
                self._wait(stop, LOOK_S)  # the database is away; asking at once helps nobody
            else:
                self._wait(stop)

    def _wait(self, stop: threading.Event, least_s: float = 0.0) -> None:
        """Wait until something is due, or somebody wakes us."""
        now = self._clock.now()
        until = self.next_wakeup(now)
        wait_s = LOOK_S if until is None else min(LOOK_S, (until - now).total_seconds())
        with self._condition:
            self._condition.wait_for(lambda: self._woken or stop.is_set(), max(wait_s, least_s))
            self._woken = False

    def tick(self, now: datetime.datetime) -> tuple[Started, ...]:
        """Start what is due up to now; return what was started.

        Raises:
            ExceptionGroup: policies that could not be started, after all others had their turn;
                they are tried again after `RETRY`.
            Exception: the policies could not be read; nothing was started.
        """
        with self._condition:
            changes = self._changes
        stale = self._clock.monotonic() - self._refreshed >= REFRESH_S
        if changes != self._applied or stale:
            self._refresh(now)
            self._applied, self._refreshed = changes, self._clock.monotonic()
        failures: list[Exception] = []
        if self._ticked is not None and now < self._ticked:
            self._went_back(now, failures)
        self._look_for_ends(now, failures)
        due = [e for e in self._entries.values() if e.look_at is not None and e.look_at <= now]
        started: list[Started] = []
        for batch in _batches(due):
            started += self._carry_out(batch, now, failures)
        self._ticked = now
        if failures:
            raise ExceptionGroup("policies could not be started", failures)
        return tuple(started)

    # --------------------------------------------------------------------------- the policies

    def _refresh(self, now: datetime.datetime) -> None:
        """Take over the policies as they are."""
        policies = {policy.id: policy for policy in self._source.enabled()}
        if self._seen is None:
            with self._database.reading() as connection:
                found = records.progress(connection)
            self._seen = {key: min(seen, now) for key, seen in found.items()}
        entries = {id_: self._entry(policy) for id_, policy in policies.items()}
        wanted = {of: entry for entry in entries.values() for _, of in entry.each()}
        new = {of: self._begin(e.policy, now) for of, e in wanted.items() if of not in self._seen}
        gone = self._seen.keys() - wanted.keys()
        if new or gone:
            with self._database.writing() as connection:
                records.forget(connection, gone)
                records.set_progress(connection, new)
            self._seen.update(new)
            for of in gone:
                del self._seen[of]
                self._odd_ends.pop(of, None)
        known, self._entries = self._entries, entries
        for id_, entry in entries.items():
            if known.get(id_) is not entry:
                entry.look_at = now  # which plans it, or starts what is due since

    def _entry(self, policy: ScheduledPolicy) -> _Entry:
        """Return the entry of a policy, the one there is if it did not change."""
        known = self._entries.get(policy.id)
        if known is not None and known.policy.version == policy.version:
            return known
        return _Entry(policy, tuple(schedule.key for schedule in policy.schedules))

    def _begin(self, policy: ScheduledPolicy, now: datetime.datetime) -> datetime.datetime:
        """Return from when on a schedule counts that was not there before."""
        moments = [now] if policy.since is None else [now, policy.since]
        if policy.id in self._entries and self._ticked is not None:
            # What it replaces may have been due since the last look.
            moments.append(self._ticked)
        return min(moments)

    def _went_back(self, now: datetime.datetime, failures: list[Exception]) -> None:
        """Plan anew: what was settled by a clock that was ahead is not settled."""
        assert self._seen is not None
        for of, seen in self._seen.items():
            self._seen[of] = min(seen, now)
        for entry in self._entries.values():
            self._plan(entry, now, failures)

    def _look_for_ends(self, now: datetime.datetime, failures: list[Exception]) -> None:
        """Plan policies anew whose rolling schedules wait for a run that may have ended."""
        with self._condition:
            ended, self._ended = self._ended, set()
        everyone = self._clock.monotonic() - self._polled >= POLL_S
        if everyone:
            self._polled = self._clock.monotonic()
        for entry in self._entries.values():
            if entry.awaits_run and (everyone or entry.policy.id in ended):
                self._plan(entry, now, failures)

    def _plan(self, entry: _Entry, now: datetime.datetime, failures: list[Exception]) -> None:
        """Find out when to look at a policy next."""
        policy = entry.policy
        assert self._seen is not None
        entry.awaits_run = False
        moments = []
        try:
            for schedule, of in entry.each():
                if isinstance(schedule.rule, Rolling):
                    moment, waits = self._rolling(policy, schedule, of, now)
                    entry.awaits_run |= waits
                else:
                    seen = self._seen[of]
                    moment = starting.following(schedule, seen, policy.zone, policy.holidays)
                moments.append(moment)
        except Exception as error:  # noqa: BLE001 - raised by `tick`, after the others' turn
            failures.append(error)
            moments = [now + RETRY]
        entry.look_at = min((moment for moment in moments if moment is not None), default=None)

    def _rolling(
        self, policy: ScheduledPolicy, schedule: Schedule, of: ScheduleOf, now: datetime.datetime
    ) -> tuple[datetime.datetime | None, bool]:
        """Return when a rolling schedule is due, and whether that waits for the end of a run."""
        assert isinstance(schedule.rule, Rolling)
        assert self._seen is not None
        end = self._runs.last_end(policy.id, schedule.kind)
        if end is Standing.UNDER_WAY:
            return None, True
        if end is Standing.NEVER:  # the first run comes at once
            end = self._seen[of] - datetime.timedelta(minutes=schedule.rule.minutes)
        elif end > now + CLOCK_TOLERANCE:
            known, noted = self._odd_ends.get(of, (None, now))
            self._odd_ends[of] = end, noted if known == end else now
            end = self._odd_ends[of][1]
        return starting.following(schedule, end, policy.zone, policy.holidays), False

    # ----------------------------------------------------------------------------- the starts

    def _carry_out(
        self, batch: Sequence[_Entry], now: datetime.datetime, failures: list[Exception]
    ) -> list[Started]:
        """Start what is due in some policies, in one transaction."""
        decisions = []
        for entry in batch:
            entry.look_at = now + RETRY  # unless it is planned below
            try:
                due = self._ready(entry, now)
            except Exception as error:  # noqa: BLE001 - raised by `tick`, after the others' turn
                failures.append(error)
                continue
            if due:
                decisions.append((entry, deciding.decide(entry.policy, due, now)))
            else:
                self._plan(entry, now, failures)
        if not decisions:
            return []
        for _, decision in decisions:
            for missed in decision.missed:
                self._watcher.missed(missed)
        try:
            with self._database.writing() as connection:
                results = [self._attempt(connection, *each, now) for each in decisions]
        except Exception as error:  # noqa: BLE001 - raised by `tick`, after the others' turn
            failures.append(error)
            return []
        return self._settled(results, now, failures)

    def _ready(self, entry: _Entry, now: datetime.datetime) -> list[Ready]:
        """Return what is due of a policy."""
        assert self._seen is not None
        found = []
        for schedule, of in entry.each():
            if isinstance(schedule.rule, Rolling):
                due, _ = self._rolling(entry.policy, schedule, of, now)
                ready = Ready(schedule, due, due) if due is not None and due <= now else None
            else:
                ready = deciding.ready(entry.policy, schedule, self._seen[of], now)
            if ready is not None:
                found.append(ready)
        return found

    def _attempt(
        self,
        connection: sa.Connection,
        entry: _Entry,
        decision: Decision,
        now: datetime.datetime,
    ) -> _Result:
        """Start what was decided for a policy; a failure takes back this policy only."""
        policy, started = entry.policy, []
        try:
            with connection.begin_nested():
                for schedule, due in decision.starts:
                    if records.claim(connection, policy.id, schedule, due, now):
                        self._runs.start(connection, policy, schedule, due)
                        started.append(Started(policy.id, schedule, due))
                settled = {(policy.id, key): seen for key, seen in decision.seen.items()}
                records.set_progress(connection, settled)
        except Exception as error:  # noqa: BLE001 - raised by `tick`, after the others' turn
            return _Result(entry, decision, error=error)
        return _Result(entry, decision, tuple(started))

    def _settled(
        self, results: Sequence[_Result], now: datetime.datetime, failures: list[Exception]
    ) -> list[Started]:
        """Take into memory what was committed."""
        assert self._seen is not None
        started: list[Started] = []
        at = self._clock.now()
        for result in results:
            if result.error is not None:
                failures.append(result.error)
                continue
            policy = result.entry.policy
            self._seen.update({(policy.id, key): s for key, s in result.decision.seen.items()})
            started += result.started
            self._plan(result.entry, now, failures)
            refused = len(result.started) < len(result.decision.starts)
            if refused and result.entry.look_at is not None:
                # Started before, by a clock that was ahead or by another server: no hurry.
                result.entry.look_at = max(result.entry.look_at, now + RETRY)
        for each in started:
            # What was due before the last look was missed or had failed: its lateness is no
            # measure of ours.
            if self._ticked is not None and each.due > self._ticked:
                self.lateness.add(max(0.0, (at - each.due).total_seconds()))
        return started


def _batches(entries: Sequence[_Entry]) -> Iterable[Sequence[_Entry]]:
    remaining = iter(entries)
    while batch := list(itertools.islice(remaining, BATCH)):
        yield batch
