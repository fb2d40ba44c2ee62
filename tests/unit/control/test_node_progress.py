"""Progress is written now and then; what is not written is not acknowledged; the rest is at once."""

import datetime

import pytest

from ruchu.control.events.stream import Events
from ruchu.control.nodes import hub
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
        self.sent = []

    def send(self, message):
        self.sent.append((message.number, message.ended))


class World:
    def __init__(self, database, clock):
        self.clock = clock
        self.tasks = Tasks(database, clock)
        self.events = Events(database, clock)
        self.noted, self.fails = [], False
        told = Told(None, None, self.note, lambda *_: None)
        records = NodeRecords(database, clock)
        self.hub = Hub(records, self.tasks, None, lambda _: {}, told, clock)
        self.line = Line()
        planned = Planned(new_id(), "r" * 32, "backup", "web", {})
        self.task = planned.id
        self.tasks.plan([planned])
        self.tasks.send(self.task, "n")

    def note(self, connection, task, events):
        if self.fails:
            raise OSError("full")
        self.noted.append((task.phase, task.progress.get("done"), [e.number for e in events]))
        number = self.events.write(connection, "task", task.id, {})
        return lambda: self.events.told(number)

    def tell(self, *events):
        told = tuple(
            TaskEvent(self.task, 1, number, AT, name, body) for number, name, body in events
        )
        self.hub.received(self.line, messages.TaskEvents(told))

    def progress(self, number):
        self.tell((number, "progress", {"done": number}))


@pytest.fixture
def world(database, clock):
    return World(database, clock)


def test_progress_is_held_until_its_time_comes(world):
    world.progress(1)
    world.progress(2)
    world.progress(3)
    assert world.line.sent == [(1, False)]
    assert world.tasks.get(world.task).progress == {"done": 1}
    world.clock.move(datetime.timedelta(seconds=hub.PROGRESS_EVERY_S))
    world.progress(4)
    assert world.line.sent == [(1, False), (4, False)]
    row = world.tasks.get(world.task)
    assert (row.number, row.progress) == (4, {"done": 4})
    assert world.noted == [("", 1, [1]), ("", 4, [2, 3, 4])]
    assert world.events.last == 2


def test_what_is_no_progress_is_taken_in_at_once_with_what_was_held(world):
    world.progress(1)
    world.progress(2)
    world.tell((3, "phase", {"name": "retention"}))
    assert world.line.sent == [(1, False), (3, False)]
    row = world.tasks.get(world.task)
    assert (row.phase, row.progress, row.number) == ("retention", {"done": 2}, 3)


def test_the_end_takes_in_what_was_held(world):
    world.progress(1)
    world.progress(2)
    ending = Ending(world.task, 1, AT, Outcome.SUCCEEDED, {})
    world.hub.received(world.line, messages.TaskEnding(ending))
    assert world.line.sent == [(1, False), (2, True)]
    assert world.tasks.get(world.task).progress == {"done": 2}


def test_what_was_held_is_told_again_after_a_reconnect(world):
    world.progress(1)
    world.progress(2)
    world.hub._links["n"] = world.line
    world.hub.disconnected(world.line, "cut")
    world.tell((2, "progress", {"done": 2}), (3, "log", {"level": "info", "text": "x"}))
    assert world.line.sent[-1] == (3, False)
    assert world.noted[-1] == ("", 2, [2, 3])


def test_what_cannot_be_written_down_is_not_taken_in(world):
    world.fails = True
    with pytest.raises(OSError, match="full"):
        world.tell((1, "phase", {"name": "copy"}))
    assert world.line.sent == []
    assert world.tasks.get(world.task).number == 0
    assert world.events.last == 0
