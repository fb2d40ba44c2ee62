"""The scheduler: every start once, whatever crashes, is missed, or happens to the clock."""

import contextlib
import datetime
import threading
from zoneinfo import ZoneInfo

import pytest
import sqlalchemy as sa
from sqlalchemy import event

from ruchu.clock import from_text, to_text
from ruchu.control.schedules import deciding, records, scheduler, starting
from ruchu.control.schedules.contract import ScheduledPolicy, Standing
from ruchu.control.schedules.scheduler import Scheduler
from ruchu.control.schedules.tables import PROGRESS, STARTS
from ruchu.model.policies import Missed
from ruchu.model.schedule_rules import Rolling
from ruchu.model.schedules import from_document
from ruchu.testing.clocks import ManualClock

UTC = ZoneInfo("UTC")
SECOND, MINUTE, HOUR, DAY = (
    datetime.timedelta(**{unit: 1}) for unit in ("seconds", "minutes", "hours", "days")
)
RUNS = sa.Table(
    "test_runs",
    sa.MetaData(),
    sa.Column("number", sa.Integer, primary_key=True),
    sa.Column("policy", sa.Text, nullable=False),
    sa.Column("kind", sa.Text, nullable=False),
    sa.Column("due", sa.Text, nullable=False),
)
HOURLY = {"kind": "incremental", "hourly": {"minute": 0}}
SIX = {"kind": "full", "daily": {"times": ["06:00"]}}
VERIFY = {"kind": "verify", "daily": {"times": ["06:00"]}}


class CrashError(BaseException):
    """Stands for the end of the process."""


class Source:
    def __init__(self):
        self.policies = {}
        self.error = None

    def put(self, name, *documents, missed=Missed.ONCE, since=None, zone=UTC):
        version = self.policies[name].version + 1 if name in self.policies else 1
        rules = tuple(from_document(document) for document in documents)
        self.policies[name] = ScheduledPolicy(
            name, rules, zone, frozenset(), missed, version, since
        )

    def enabled(self):
        if self.error is not None:
            raise self.error
        return list(self.policies.values())


class Runs:
    def __init__(self, database):
        self.database = database
        self.broken = set()
        self.ends = {}
        self.began, self.count = threading.Condition(), 0
        RUNS.create(database.engine)

    def start(self, connection, policy, schedule, due):
        row = {"policy": policy.id, "kind": schedule.kind, "due": to_text(due)}
        connection.execute(RUNS.insert().values(row))
        if policy.id in self.broken:
            raise ValueError(policy.id)
        if isinstance(schedule.rule, Rolling):
            self.ends[policy.id] = Standing.UNDER_WAY
        with self.began:
            self.count += 1
            self.began.notify_all()

    def last_end(self, policy, kind):
        return self.ends.get(policy, Standing.NEVER)

    def made(self):
        with self.database.reading() as connection:
            rows = connection.execute(sa.select(RUNS).order_by(RUNS.c.due, RUNS.c.policy))
            return [(row.policy, row.kind, from_text(row.due)) for row in rows]

    def wait_for(self, count):
        with self.began:
            assert self.began.wait_for(lambda: self.count >= count, 60)


class Watcher:
    def __init__(self):
        self.told = []
        self.failures = []
        self.failing = threading.Event()

    def missed(self, missed):
        self.told.append(missed)

    def failed(self, error):
        self.failures.append(error)
        self.failing.set()


class World:
    """A scheduler on a database, with everything around it."""

    def __init__(self, database):
        self.database = database
        self.clock = ManualClock(at("2027-01-04T00:30"))  # a Monday
        self.source, self.runs, self.watcher = Source(), Runs(database), Watcher()
        self.restart()

    def restart(self):
        self.scheduler = Scheduler(self.database, self.clock, self.source, self.runs, self.watcher)

    def go(self, moment):
        """Move to a moment, and look once."""
        self.clock.move(at(moment) - self.clock.now())
        return self.look()

    def look(self):
        started = self.scheduler.tick(self.clock.now())
        return [(each.policy, each.schedule.kind, f"{each.due:%d %H:%M}") for each in started]


@pytest.fixture
def world(database):
    yield World(database)
    RUNS.drop(database.engine)


@contextlib.contextmanager
def noting(database, name):
    """Yield a list that has an entry for each event of a kind in the database."""
    noted = []

    def note(*given):
        noted.append(name)

    event.listen(database.engine, name, note)
    try:
        yield noted
    finally:
        event.remove(database.engine, name, note)


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def expected(source, begin, end):
    """Return what has to be started after a moment, up to another."""
    found = []
    for policy in source.policies.values():
        due = starting.starts(
            policy.schedules,
            policy.zone,
            policy.holidays,
            begin + datetime.timedelta.resolution,
            end + datetime.timedelta.resolution,
        )
        found += [(policy.id, each.schedule.kind, each.at) for each in due]
    return sorted(found, key=lambda run: (run[2], run[0], run[1]))


# ------------------------------------------------------------------------------ in good times


def test_runs_start_when_they_are_due(world):
    world.source.put("a", HOURLY)
    assert world.look() == []
    assert world.scheduler.next_wakeup(world.clock.now()) == at("2027-01-04T01:00")
    assert world.go("2027-01-04T00:59:59") == []
    assert world.go("2027-01-04T01:00:00") == [("a", "incremental", "04 01:00")]
    assert world.look() == []
    assert world.go("2027-01-04T02:00:01.5") == [("a", "incremental", "04 02:00")]
    assert world.scheduler.ticked == world.clock.now()
    figures = world.scheduler.lateness.figures()
    assert figures.newest_s == (0.0, 1.5)
    assert figures.within[-1] == figures.count == 2
    assert figures.total_s == 1.5
    assert world.watcher.told == []


def test_the_stronger_kind_runs_and_the_other_is_satisfied(world):
    world.source.put("a", HOURLY, SIX, VERIFY)
    world.look()
    world.go("2027-01-04T05:00")
    started = world.go("2027-01-04T06:00")
    assert sorted(started) == [("a", "full", "04 06:00"), ("a", "verify", "04 06:00")]
    assert world.go("2027-01-04T06:01") == []
    assert world.go("2027-01-04T07:00") == [("a", "incremental", "04 07:00")]


def test_a_policy_is_taken_up_changed_and_dropped(world):
    world.look()
    assert world.scheduler.next_wakeup(world.clock.now()) is None
    world.source.put("a", HOURLY)
    world.scheduler.changed()
    assert world.scheduler.next_wakeup(world.clock.now()) == world.clock.now()
    world.look()
    world.source.put("a", {"kind": "log", "minutes": {"every": 10}})
    world.scheduler.changed()
    assert world.go("2027-01-04T00:35") == []
    assert world.go("2027-01-04T00:40") == [("a", "log", "04 00:40")]
    del world.source.policies["a"]
    world.scheduler.changed()
    assert world.go("2027-01-04T02:00") == []
    with world.database.reading() as connection:
        assert connection.execute(sa.select(PROGRESS)).all() == []


def test_a_change_is_noticed_without_a_word_after_a_while(world):
    world.look()
    world.source.put("a", HOURLY)
    world.clock.move(datetime.timedelta(seconds=scheduler.REFRESH_S))
    world.look()
    assert world.scheduler.next_wakeup(world.clock.now()) == at("2027-01-04T01:00")


def test_a_change_at_the_moment_of_a_start_loses_nothing(world):
    world.source.put("a", HOURLY)
    world.look()
    world.go("2027-01-04T00:59:59")
    world.source.put("a", HOURLY | {"mind_holidays": True})
    world.scheduler.changed()
    assert world.go("2027-01-04T01:00:00.5") == [("a", "incremental", "04 01:00")]


def test_a_policy_enabled_before_a_crash_starts_what_was_due_since(world):
    world.source.put("a", HOURLY, since=at("2027-01-04T00:50"))
    assert world.go("2027-01-04T01:02") == [("a", "incremental", "04 01:00")]


def test_time_when_it_was_disabled_is_not_missed(world):
    world.source.put("a", HOURLY)
    world.look()
    policy = world.source.policies.pop("a")
    world.scheduler.changed()
    world.look()
    world.source.policies["a"] = policy
    world.scheduler.changed()
    assert world.go("2027-01-05T00:30") == []
    assert world.watcher.told == []
    assert world.go("2027-01-05T01:00") == [("a", "incremental", "05 01:00")]


def test_nothing_due_costs_no_statement_and_no_arithmetic(world, monkeypatch):
    for number in range(300):
        world.source.put(f"p{number}", HOURLY, SIX, VERIFY)
    world.look()
    calls = []
    monkeypatch.setattr(starting, "following", lambda *given: calls.append(given))
    monkeypatch.setattr(world.source, "enabled", lambda: calls.append("enabled"))
    with noting(world.database, "begin") as transactions:
        assert world.go("2027-01-04T00:30:01") == []
    assert calls == transactions == []


def test_starts_that_are_due_together_share_transactions(world):
    for number in range(100):
        world.source.put(f"p{number}", HOURLY)
    world.look()
    with noting(world.database, "commit") as commits:
        assert len(world.go("2027-01-04T01:00")) == 100
    assert len(commits) == 4  # 32 each


# ------------------------------------------------------------------------------ missed starts


def test_one_run_makes_up_for_all_that_were_missed(world):
    world.source.put("a", HOURLY, SIX)
    world.look()
    world.restart()
    assert world.go("2027-01-04T09:30") == [("a", "full", "04 06:00")]
    told = {each.schedule.kind: each for each in world.watcher.told}
    assert set(told) == {"full", "incremental"}
    assert all(each.made_up for each in told.values())
    assert told["incremental"].count == 9
    assert told["incremental"].first == at("2027-01-04T01:00")
    assert told["incremental"].last == at("2027-01-04T09:00")
    assert world.go("2027-01-04T10:00") == [("a", "incremental", "04 10:00")]
    # What was missed says nothing of how late we are.
    assert world.scheduler.lateness.figures().newest_s == (0.0,)


def test_missed_starts_are_left_out(world):
    world.source.put("a", HOURLY, SIX, missed=Missed.SKIP)
    world.look()
    world.restart()
    assert world.go("2027-01-04T09:30") == []
    assert {(each.schedule.kind, each.made_up) for each in world.watcher.told} == {
        ("full", False),
        ("incremental", False),
    }
    world.restart()
    assert world.go("2027-01-04T09:59") == []
    assert len(world.watcher.told) == 2
    world.restart()
    # A start that is late by a restart was not missed.
    assert world.go("2027-01-04T10:03") == [("a", "incremental", "04 10:00")]
    assert len(world.watcher.told) == 2


def test_a_start_that_is_only_late_is_kept_where_earlier_ones_are_left_out(world):
    world.source.put("a", HOURLY, SIX, missed=Missed.SKIP)
    world.look()
    world.restart()
    assert world.go("2027-01-04T09:01") == [("a", "incremental", "04 09:00")]


def test_a_year_of_missed_minutes_is_one_run_and_quickly_counted(world):
    world.source.put("a", {"kind": "log", "minutes": {"every": 1}})
    world.look()
    assert world.go("2028-01-04T00:30:30") == [("a", "log", "04 00:30")]
    (told,) = world.watcher.told
    assert told.count == deciding.COUNTED
    assert world.look() == []
    assert world.go("2028-01-04T00:31") == [("a", "log", "04 00:31")]


@pytest.mark.parametrize(
    "document", [HOURLY, SIX, {"kind": "log", "monthly": {"days": [-1], "times": ["00:00"]}}]
)
def test_the_last_of_many_missed_moments_is_the_one_that_is_started(world, document):
    world.source.put("a", document)
    world.look()
    now = at("2047-02-13T11:11")
    last = expected(world.source, now - 40 * DAY, now)[-1][2]
    assert [each[2] for each in world.go("2047-02-13T11:11")] == [f"{last:%d %H:%M}"]
    assert world.runs.made()[0][2] == last


# ------------------------------------------------------------------------------------- clocks


def test_a_clock_that_goes_back_starts_nothing_twice(world):
    world.source.put("a", HOURLY)
    world.look()
    for hour in range(1, 6):
        world.go(f"2027-01-04T0{hour}:00")
    for minute in range(150, 360, 10):
        world.go(f"2027-01-04T0{minute // 60}:{minute % 60:02}")
    assert len(world.runs.made()) == 5
    assert world.go("2027-01-04T06:00") == [("a", "incremental", "04 06:00")]


def test_a_clock_that_went_back_while_the_server_was_down(world):
    world.source.put("a", HOURLY)
    world.look()
    for hour in range(1, 6):
        world.go(f"2027-01-04T0{hour}:00")
    world.restart()
    for minute in range(150, 420, 10):
        world.go(f"2027-01-04T0{minute // 60}:{minute % 60:02}")
    assert [f"{due:%H:%M}" for _, _, due in world.runs.made()] == [
        f"0{hour}:00" for hour in range(1, 7)
    ]


@pytest.mark.parametrize("restarts", [False, True])
def test_a_clock_that_was_years_ahead_for_a_while_holds_up_nothing(world, restarts):
    world.source.put("a", HOURLY)
    world.look()
    assert world.go("2037-06-01T00:01") == [("a", "incremental", "01 00:00")]
    if restarts:
        world.restart()
    assert world.go("2027-01-04T00:40") == []
    assert world.go("2027-01-04T01:00") == [("a", "incremental", "04 01:00")]
    assert world.go("2027-01-04T02:00") == [("a", "incremental", "04 02:00")]


# ------------------------------------------------------------------------------------ rolling


def test_a_rolling_schedule_waits_for_the_end_of_the_run(world):
    world.source.put("a", {"kind": "incremental", "rolling": {"minutes": 30}})
    assert world.look() == [("a", "incremental", "04 00:30")]
    world.scheduler.run_ended("a")
    assert world.go("2027-01-04T03:00") == []
    assert world.scheduler.next_wakeup(world.clock.now()) is None
    world.runs.ends["a"] = at("2027-01-04T03:10")
    world.clock.move(10 * MINUTE)
    world.scheduler.run_ended("a")
    assert world.look() == []
    assert world.scheduler.next_wakeup(world.clock.now()) == at("2027-01-04T03:40")
    # A run that somebody started by hand has ended later.
    world.runs.ends["a"] = at("2027-01-04T03:20")
    assert world.go("2027-01-04T03:40") == []
    assert world.go("2027-01-04T03:50") == [("a", "incremental", "04 03:50")]


def test_the_end_of_a_run_is_noticed_without_a_word_after_a_while(world):
    world.source.put("a", {"kind": "incremental", "rolling": {"minutes": 30}})
    world.runs.ends["a"] = Standing.UNDER_WAY
    assert world.look() == []
    world.runs.ends["a"] = at("2027-01-04T00:00")
    world.clock.move(datetime.timedelta(seconds=scheduler.POLL_S))
    assert world.look() == [("a", "incremental", "04 00:30")]


@pytest.mark.parametrize("missed", list(Missed))
def test_a_rolling_schedule_goes_on_after_the_server_was_down(world, missed):
    world.source.put("a", {"kind": "log", "rolling": {"minutes": 30}}, missed=missed)
    world.look()
    world.runs.ends["a"] = at("2027-01-04T00:45")
    world.restart()
    assert world.go("2027-01-05T00:00") == [("a", "log", "04 01:15")]


def test_an_end_from_a_clock_that_was_ahead_holds_up_nothing(world):
    world.source.put("a", {"kind": "log", "rolling": {"minutes": 30}})
    world.runs.ends["a"] = at("2037-01-01T00:00")
    assert world.look() == []
    assert world.go("2027-01-04T00:59") == []
    assert world.go("2027-01-04T01:00") == [("a", "log", "04 01:00")]


# ----------------------------------------------------------------------------------- failures


def test_a_policy_that_fails_holds_up_no_other_and_is_tried_again(world):
    for name in "abc":
        world.source.put(name, HOURLY)
    world.look()
    world.runs.broken = {"b"}
    with pytest.raises(ExceptionGroup) as caught:
        world.go("2027-01-04T01:00")
    assert [str(error) for error in caught.value.exceptions] == ["b"]
    assert [policy for policy, _, _ in world.runs.made()] == ["a", "c"]
    assert world.go("2027-01-04T01:00:01") == []
    world.runs.broken = set()
    assert world.go("2027-01-04T01:00:10") == [("b", "incremental", "04 01:00")]


def test_a_database_that_fails_is_tried_again(world):
    world.source.put("a", HOURLY)
    world.look()
    with crashing(world.database, 1, OSError), pytest.raises(ExceptionGroup):
        world.go("2027-01-04T01:00")
    assert world.go("2027-01-04T01:00:10") == [("a", "incremental", "04 01:00")]
    assert len(world.runs.made()) == 1


def test_a_run_of_which_nobody_knows_the_end_is_a_failure_of_its_policy(world):
    world.source.put("a", {"kind": "log", "rolling": {"minutes": 30}})
    world.source.put("b", HOURLY)
    world.runs.ends["a"] = None  # which is no answer
    with pytest.raises(ExceptionGroup):
        world.look()
    world.runs.ends["a"] = Standing.NEVER
    assert len(world.go("2027-01-04T01:00")) == 2


# ------------------------------------------------------------------------------------ crashes


@contextlib.contextmanager
def crashing(database, step, kind=CrashError):
    """Crash before a statement or a commit, counted from 0; after that, all is well."""
    steps = [step]

    def before(*given):
        steps[0] -= 1
        if steps[0] == -1:
            raise kind

    names = ("before_cursor_execute", "commit", "savepoint", "release_savepoint")
    for name in names:
        event.listen(database.engine, name, before)
    try:
        yield
    finally:
        for name in names:
            event.remove(database.engine, name, before)


@pytest.mark.slow
def test_every_start_happens_once_whatever_crashes(world, rng):
    """Kill it between any two steps, and in the calls of others, and go on with a new one."""
    world.source.put("a", HOURLY, SIX, VERIFY)
    world.source.put("b", {"kind": "log", "minutes": {"every": 20}}, SIX)
    world.source.put("c", {"kind": "full", "minutes": {"every": 60}}, missed=Missed.SKIP)
    begin, crashes = world.clock.now(), 0
    world.look()
    original = world.runs.start

    def start(*given):
        original(*given)
        if rng.random() < 0.2:
            raise CrashError

    while world.clock.now() < begin + DAY:
        due = world.scheduler.next_wakeup(world.clock.now())
        world.clock.move(due - world.clock.now() + rng.randrange(3) * SECOND)
        for _ in range(rng.randrange(4)):
            try:
                world.runs.start = start
                with crashing(world.database, rng.randrange(25)):
                    world.scheduler.tick(world.clock.now())
            except CrashError:
                crashes += 1
                world.restart()
            world.runs.start = original
        world.look()
    assert crashes > 50
    made = sorted(world.runs.made(), key=lambda run: (run[2], run[0], run[1]))
    assert made == expected(world.source, begin, world.clock.now())


def test_a_crash_right_after_the_commit(world, monkeypatch):
    world.source.put("a", HOURLY)
    world.look()
    writing = world.database.writing

    @contextlib.contextmanager
    def and_die():
        with writing() as connection:
            yield connection
        raise CrashError

    monkeypatch.setattr(world.database, "writing", and_die)
    with pytest.raises(CrashError):
        world.go("2027-01-04T01:00")
    monkeypatch.undo()
    assert world.look() == []  # the same scheduler, should it live on
    world.restart()
    assert world.look() == []
    assert len(world.runs.made()) == 1


def test_two_schedulers_on_one_database(world):
    world.source.put("a", HOURLY)
    world.source.put("b", HOURLY, SIX)
    world.look()
    both = [world.scheduler]
    world.restart()
    both.append(world.scheduler)
    world.look()
    meeting = threading.Barrier(2)

    def live(mine):
        for hour in range(1, 13):
            meeting.wait(60)
            now = at(f"2027-01-04T{hour:02}:00")
            with contextlib.suppress(ExceptionGroup):  # the database refused one of two
                mine.tick(now)
            meeting.wait(60)
            with contextlib.suppress(ExceptionGroup):
                mine.tick(now + 2 * scheduler.RETRY)

    begin = world.clock.now()
    threads = [threading.Thread(target=live, args=(each,)) for each in both]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    made = sorted(world.runs.made(), key=lambda run: (run[2], run[0], run[1]))
    assert made == expected(world.source, begin, at("2027-01-04T12:01"))


def test_old_starts_are_forgotten(world, monkeypatch):
    monkeypatch.setattr(records, "KEPT", 10)
    monkeypatch.setattr(records, "_TRIM_EVERY", 5)
    world.source.put("a", HOURLY)
    world.look()
    for number in range(60):
        world.clock.move(HOUR)
        assert len(world.look()) == 1, number
    with world.database.reading() as connection:
        numbers = connection.execute(sa.select(STARTS.c.number)).scalars().all()
    assert 10 <= len(numbers) <= 15
    assert max(numbers) - min(numbers) < 15


# ------------------------------------------------------------------------------------- thread


def test_the_thread_starts_what_is_due_and_outlives_failures(world):
    stop = threading.Event()
    world.source.put("a", HOURLY)
    world.look()
    thread = threading.Thread(target=world.scheduler.run, args=(stop,))
    thread.start()
    try:
        world.clock.move(30 * MINUTE)
        world.scheduler.wake()
        world.runs.wait_for(1)
        world.source.put("b", {"kind": "log", "rolling": {"minutes": 5}})
        world.scheduler.changed()
        world.runs.wait_for(2)
        world.source.error = OSError("gone")
        world.scheduler.changed()
        assert world.watcher.failing.wait(60)
        world.source.error = None
        world.runs.ends["b"] = world.clock.now()
        world.clock.move(5 * MINUTE)
        world.scheduler.run_ended("b")
        world.runs.wait_for(3)
    finally:
        stop.set()
        world.scheduler.wake()
        thread.join(60)
    assert not thread.is_alive()
    assert {str(error) for error in world.watcher.failures} == {"gone"}
    made = [(policy, kind) for policy, kind, _ in world.runs.made()]
    assert sorted(made) == [("a", "incremental"), ("b", "log"), ("b", "log")]
