"""Runs through their attempts, without an engine: every step may be done twice."""

import datetime

import pytest

from ruchu.clock import from_text
from ruchu.control.events.stream import Events
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.admission import Admission
from ruchu.control.jobs.attempts import Attempts, Outside
from ruchu.control.jobs.planning import Plan
from ruchu.control.jobs.runs import NewRun, Runs
from ruchu.control.jobs.starter import Starter
from ruchu.control.nodes.tasks import Planned, Tasks
from ruchu.control.policies import documents
from ruchu.control.policies.policies import Policies
from ruchu.errors import Unreachable, UsageError
from ruchu.model.ids import new_id
from ruchu.model.policies import Policy, Retrying, Selection
from ruchu.model.tasks import Ending, Outcome

AT = "2026-11-22T18:00:00.000000Z"
RETRY = {"code": "storage-gone", "message": "gone", "hint": "", "retry": True}
BROKEN = {"code": "damaged", "message": "broken", "hint": "", "retry": False}
POLICY = Policy("nightly", Selection("kvm", ("a",)), "main", retrying=Retrying(2, 60, 600))


class World:
    """Runs, tasks, a planner that is told what to plan, and an engine that is told when."""

    def __init__(self, database, clock):
        self.clock = clock
        events = Events(database, clock)
        self.runs = Runs(database, clock, events)
        self.tasks = Tasks(database, clock)
        self.policies = Policies(database, clock, events)
        self.kept = self.policies.add(POLICY)
        self.labels = ["a"]
        self.problem = None
        self.opens = None
        self.stopped, self.took_, self.ended_ = [], [], []
        self.attempts = Attempts(
            self.runs, self.tasks, self, Outside(self, self, lambda p, n: self.opens), clock
        )
        self.submitted = []
        admission = Admission(self.runs, self.policies, lambda p, n: self.opens, clock)
        self.starter = Starter(self.runs, admission, self, self, clock)

    def plan(self, run):
        if self.problem is not None:
            raise self.problem
        return Plan(
            [
                Planned(f"{run.id[:31]}{n}", run.id, "backup", label, {})
                for n, label in enumerate(self.labels)
            ]
        )

    def submit(self, run, attempt):
        self.submitted.append((run, attempt))

    def stop(self, tasks):
        self.stopped += [task.id for task in tasks]

    def took(self, run, task):
        self.took_.append(task.label)

    def ended(self, run):
        self.ended_.append((run.id, run.state))

    def new(self, **more):
        body = {"policy": documents.to_document(POLICY), "kind": "full"}
        return self.runs.create(NewRun("backup", "nightly", body, self.kept.id, **more)).id

    def finish(self, run, *outcomes):
        for task, (outcome, error) in zip(self.tasks.of_run(run), outcomes, strict=True):
            if task.state == "waiting":
                self.tasks.send(task.id, "n")
            self.tasks.end("n", Ending(task.id, task.attempt, AT, outcome, {}, error))

    def attempt(self, run, *outcomes):
        """Carry out the attempt that was submitted last, each step twice."""
        _, number = self.submitted[-1]
        for _ in range(2):
            self.attempts.plan(run, number)
        self.finish(run, *outcomes)
        self.attempts.watch(run)
        first = self.attempts.settle(run, number)
        assert self.attempts.settle(run, number) == first
        return first


@pytest.fixture
def world(database, clock):
    return World(database, clock)


OK, AGAIN, BAD = (Outcome.SUCCEEDED, None), (Outcome.FAILED, RETRY), (Outcome.FAILED, BROKEN)


def test_a_run_that_succeeds(world):
    run = world.new()
    world.starter.round()
    assert world.submitted == [(run, 1)]
    assert world.attempt(run, OK) == states.SUCCEEDED
    assert world.ended_ == [(run, states.SUCCEEDED)]
    names = [event["name"] for event in world.runs.history(run)]
    assert names == ["queued", "running", "succeeded"]


def test_what_may_help_is_tried_again_later_and_only_what_failed(world):
    world.labels = ["a", "b"]
    run = world.new()
    world.starter.round()
    assert world.attempt(run, OK, AGAIN) == states.WAITING
    row = world.runs.get(run)
    assert from_text(row.next_attempt) == world.clock.now() + datetime.timedelta(seconds=60)
    world.starter.round()
    assert len(world.submitted) == 1
    world.clock.move(datetime.timedelta(seconds=61))
    world.starter.round()
    assert world.submitted[-1] == (run, 2)
    assert world.attempt(run, OK, OK) == states.SUCCEEDED
    assert [task.attempt for task in world.tasks.of_run(run)] == [1, 2]


def test_what_a_chatty_run_told_does_not_let_its_tasks_go_again_twice(world):
    run = world.new()
    world.starter.round()
    world.attempt(run, AGAIN)
    for number in range(states.PAGE_MAX):
        world.runs.note(run, "log", {"text": f"line {number}"})
    world.clock.move(datetime.timedelta(seconds=61))
    world.starter.round()
    world.attempts.plan(run, 2)
    (task,) = world.tasks.of_run(run)
    world.tasks.send(task.id, "n")
    world.tasks.end("n", Ending(task.id, task.attempt, AT, *BAD[:1], {}, BROKEN))
    # The step is repeated after a crash: the task that failed meanwhile must not begin once more.
    world.attempts.plan(run, 2)
    assert [task.attempt for task in world.tasks.of_run(run)] == [2]


def test_attempts_end(world):
    run = world.new()
    world.starter.round()
    assert world.attempt(run, AGAIN) == states.WAITING
    world.clock.move(datetime.timedelta(hours=1))
    world.starter.round()
    assert world.attempt(run, AGAIN) == states.FAILED
    assert "gone" in world.runs.get(run).reason


def test_what_cannot_help_is_not_tried_again(world):
    world.labels = ["a", "b"]
    run = world.new()
    world.starter.round()
    assert world.attempt(run, OK, BAD) == states.PARTLY


def test_a_plan_that_fails_for_good_and_one_that_may_succeed(world):
    run = world.new()
    world.problem = UsageError("(the storage is gone)")
    world.starter.round()
    assert world.attempt(run) == states.FAILED
    other = world.new()
    world.problem = Unreachable("(no answer)")
    world.starter.round()
    assert world.attempt(other) == states.WAITING


def test_one_run_of_a_policy_after_the_other(world):
    first = world.new()
    world.clock.move(datetime.timedelta(seconds=1))
    second = world.new()
    world.starter.round()
    assert world.submitted == [(first, 1)]
    assert "has not ended" in world.runs.get(second).reason
    world.attempt(first, OK)
    world.starter.round()
    assert world.submitted[-1] == (second, 1)


def test_a_run_waits_for_its_window_and_stops_when_it_closes(world):
    world.opens = world.clock.now() + datetime.timedelta(hours=1)
    run = world.new()
    assert world.starter.round() == world.opens
    assert world.runs.get(run).state == states.WAITING
    world.opens = None
    world.starter.round()
    world.attempts.plan(run, 1)
    (task,) = world.tasks.of_run(run)
    world.tasks.send(task.id, "n")
    world.opens = world.clock.now() + datetime.timedelta(hours=20)
    world.runs.move(run, states.STOPPING, "its window closed")
    world.tasks.ask_to_stop(run)
    world.finish(run, (Outcome.STOPPED, BROKEN))
    assert world.attempts.settle(run, 1) == states.WAITING
    world.opens = None
    world.starter.round()
    assert world.attempt(run, OK) == states.SUCCEEDED


def test_stop_before_it_began(world):
    run = world.new()
    world.runs.ask(run, stop=True)
    world.starter.round()
    assert world.runs.get(run).state == states.STOPPED
    assert world.ended_ == [(run, states.STOPPED)]
    with pytest.raises(UsageError):
        world.runs.ask(run, stop=True)


def test_stop_while_it_runs_tells_the_node(world):
    run = world.new()
    world.starter.round()
    world.attempts.plan(run, 1)
    (task,) = world.tasks.of_run(run)
    world.tasks.send(task.id, "n")
    world.runs.ask(run, stop=True)
    world.stop = lambda tasks: world.finish(run, (Outcome.STOPPED, BROKEN))
    world.attempts.watch(run)
    assert world.attempts.settle(run, 1) == states.STOPPED


def test_pause_and_go_on(world):
    run = world.new()
    world.starter.round()
    world.attempts.plan(run, 1)
    world.runs.ask(run, pause=True)
    world.attempts.watch(run)
    assert world.attempts.settle(run, 1) == states.PAUSED
    world.starter.round()
    assert len(world.submitted) == 1
    world.runs.ask(run, pause=False)
    world.starter.round()
    assert world.attempt(run, OK) == states.SUCCEEDED


def test_a_late_step_of_an_old_attempt_changes_nothing(world):
    run = world.new()
    world.starter.round()
    world.attempt(run, AGAIN)
    world.clock.move(datetime.timedelta(hours=1))
    world.starter.round()
    assert world.attempts.settle(run, 1) == states.RUNNING
    assert world.runs.get(run).attempt == 2


def test_history_is_paged_and_searched(world):
    runs = [world.new(id=new_id()) for _ in range(5)]
    page = world.runs.page(states_filter(text="night"), 2)
    assert len(page) == 2
    last = page[-1]
    rest = world.runs.page(states_filter(before=f"{last.created}/{last.id}"), 10)
    assert {row.id for row in [*page, *rest]} == set(runs)


def states_filter(**more):
    from ruchu.control.jobs.runs import RunFilter  # noqa: PLC0415

    return RunFilter(**more)
