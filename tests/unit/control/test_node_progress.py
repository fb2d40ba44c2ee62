"""What nodes tell is written down together; what is not written down is not acknowledged."""

import datetime

import pytest

from ruchu.clock import to_text
from ruchu.control.events.stream import Events
from ruchu.control.nodes import intake
from ruchu.control.nodes.hub import Hub, Told
from ruchu.control.nodes.records import NodeRecords
from ruchu.control.nodes.tasks import Planned, Tasks
from ruchu.model.ids import new_id
from ruchu.model.tasks import Ending, Outcome, TaskEvent
from ruchu.wire import messages

AT = "2026-11-22T18:00:00.000000Z"


class Line:
    """A link that keeps what is sent."""

    node = "n"

    def __init__(self):
        self.sent, self.closed = [], ""

    def close(self, why):
        self.closed = why

    def send(self, message):
        self.sent.append((message.number, message.ended))


class World:
    def __init__(self, database, clock):
        self.clock = clock
        self.tasks = Tasks(database, clock)
        self.events = Events(database, clock)
        self.noted, self.fails = [], None
        told = Told(None, None, self.note, lambda *_: None)
        records = NodeRecords(database, clock)
        self.hub = Hub(records, self.tasks, None, lambda _: {}, told, clock)
        self.line = Line()
        planned = Planned(new_id(), "r" * 32, "backup", "web", {})
        self.task = planned.id
        self.tasks.plan([planned])
        self.tasks.send(self.task, "n")

    def note(self, connection, news):
        for each in news:
            if self.fails == each.task.id:
                raise OSError("full")
        for each in news:
            numbers = [event.number for event in each.events]
            self.noted.append((each.task.phase, each.task.progress.get("done"), numbers))
        number = self.events.write_all(connection, "task", {each.task.id: {} for each in news})
        return lambda: self.events.told(number)

    def tell(self, *events, task=None):
        told = tuple(
            TaskEvent(task or self.task, 1, number, AT, name, body) for number, name, body in events
        )
        self.hub.received(self.line, messages.TaskEvents(told))

    def progress(self, number):
        self.tell((number, "progress", {"done": number}))


@pytest.fixture
def world(database, clock):
    return World(database, clock)


def test_what_comes_together_is_written_down_together_and_then_acknowledged(world):
    before = world.events.last
    world.progress(1)
    world.progress(2)
    world.tell((3, "phase", {"name": "retention"}), (4, "progress", {"done": 4}))
    assert world.line.sent == []
    assert world.tasks.get(world.task).number == 0
    world.hub._intake.flush()
    assert world.line.sent == [(4, False)]
    row = world.tasks.get(world.task)
    assert (row.phase, row.progress, row.number) == ("retention", {"done": 4}, 4)
    assert world.noted == [("retention", 4, [1, 2, 3, 4])]
    assert len(world.events.after(before)) == 1
    world.hub._intake.flush()
    assert world.line.sent == [(4, False)]


def test_progress_waits_for_its_time_and_the_rest_does_not(world):
    world.progress(1)
    world.hub._intake.flush(everything=False)
    assert world.line.sent == []
    world.tell((2, "log", {"level": "info", "text": "x"}))
    world.hub._intake.flush(everything=False)
    assert world.line.sent == [(2, False)]
    world.progress(3)
    world.clock.move(datetime.timedelta(seconds=intake.PROGRESS_S))
    world.hub._intake.flush(everything=False)
    assert world.line.sent == [(2, False), (3, False)]


def test_the_end_comes_with_what_was_told_before(world):
    world.progress(1)
    ending = Ending(world.task, 1, AT, Outcome.SUCCEEDED, {})
    world.hub.received(world.line, messages.TaskEnding(ending))
    world.hub._intake.flush()
    assert world.line.sent == [(1, False), (1, True)]
    row = world.tasks.get(world.task)
    assert (row.progress, row.outcome) == ({"done": 1}, Outcome.SUCCEEDED)
    # A node that did not get the acknowledgement tells all of it again.
    world.progress(1)
    world.hub.received(world.line, messages.TaskEnding(ending))
    world.hub._intake.flush()
    assert world.line.sent[2:] == [(1, False), (1, True)]
    assert len(world.noted) == 1


def test_what_cannot_be_written_down_is_not_acknowledged_and_holds_nobody_up(world):
    other = Planned(new_id(), "s" * 32, "backup", "db", {})
    world.tasks.plan([other])
    world.tasks.send(other.id, "n")
    world.fails = world.task
    world.tell((1, "phase", {"name": "copy"}))
    world.tell((1, "phase", {"name": "copy"}), task=other.id)
    world.hub._intake.flush()
    assert world.line.sent == [(1, False)]
    assert world.line.closed
    assert world.tasks.get(world.task).number == 0
    assert world.tasks.get(other.id).phase == "copy"
    assert [event.subject for event in world.events.after(0)] == [other.id]


def test_the_thread_writes_down_what_is_told_and_what_is_left(world):
    world.hub.begin()
    world.progress(1)
    ending = Ending(world.task, 1, AT, Outcome.SUCCEEDED, {})
    world.hub.received(world.line, messages.TaskEnding(ending))
    world.hub.close()
    assert world.line.sent[-1] == (1, True)


def test_beats_are_written_down_together(world, clock):
    records = world.hub._records
    first = records.admit(records.new_token("one", "admin"), "request", {})
    second = records.admit(records.new_token("two", "admin"), "request", {})
    for node in (first, second):
        line = Line()
        line.node = node.id
        world.hub.received(line, messages.Heartbeat(AT, {"tasks": 3}))
    assert records.get("one").load == {"tasks": 3}
    assert records.get("two").last_seen is None
    world.hub.note_beats()
    assert records.get("two").last_seen == to_text(clock.now())
