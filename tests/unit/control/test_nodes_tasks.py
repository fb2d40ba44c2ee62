"""Tasks on the server: each word of a node counts once, limits hold, nothing is lost."""

import pytest

from ruchu.control.nodes import dispatch
from ruchu.control.nodes.dispatch import Dispatcher
from ruchu.control.nodes.records import NodeRow
from ruchu.control.nodes.tasks import ENDED, SENT, WAITING, Planned, Tasks
from ruchu.errors import NodeAway
from ruchu.model.ids import new_id
from ruchu.model.tasks import Ending, Outcome, TaskEvent

AT = "2026-11-22T18:00:00.000000Z"


def planned(run="r" * 32, **more):
    return Planned(new_id(), run, "backup", "web", {"a": 1}, **more)


def node(name, parallel=2):
    return NodeRow(
        name * 32, name, False, False, [], AT, parallel, AT, "0.1", "", {}, {}, 1
    )  # fmt: skip


def event(task, number, kind="log", **body):
    return TaskEvent(task.id, 1, number, AT, kind, body)


@pytest.fixture
def tasks(database, clock):
    return Tasks(database, clock)


def test_planning_twice_plans_once(tasks):
    one = planned()
    tasks.plan([one])
    tasks.plan([one, planned()])
    assert len(tasks.waiting()) == 2


def test_events_and_ending_count_once(tasks):
    one = planned()
    tasks.plan([one])
    assert tasks.send(one.id, "n") is True
    assert tasks.send(one.id, "m") is False
    first = [event(one, 1, "phase", name="copy"), event(one, 2, "progress", done=1, total=2)]
    assert len(tasks.tell("n", first)) == 2
    assert [e.number for e in tasks.tell("n", [*first, event(one, 3)])] == [3]
    assert tasks.tell("m", [event(one, 4)]) == []
    row = tasks.get(one.id)
    assert (row.phase, row.progress) == ("copy", {"done": 1, "total": 2})
    ending = Ending(one.id, 1, AT, Outcome.SUCCEEDED, {"x": 1})
    assert tasks.end("m", ending) is False
    assert tasks.end("n", ending) is True
    assert tasks.end("n", ending) is False
    assert tasks.get(one.id).state == ENDED


def test_an_ending_of_an_earlier_attempt_is_not_this_ones(tasks):
    one = planned()
    tasks.plan([one])
    tasks.send(one.id, "n")
    tasks.end("n", Ending(one.id, 1, AT, Outcome.FAILED, {}, {"retry": True}))
    assert tasks.again(one.run) == 1
    assert tasks.get(one.id).attempt == 2
    tasks.send(one.id, "n")
    assert tasks.end("n", Ending(one.id, 1, AT, Outcome.SUCCEEDED, {})) is False
    assert tasks.get(one.id).state == SENT


def test_stopping_ends_what_waits_and_marks_what_runs(tasks):
    one, two = planned(), planned()
    tasks.plan([one, two])
    tasks.send(one.id, "n")
    assert [row.id for row in tasks.ask_to_stop(one.run)] == [one.id]
    assert tasks.get(two.id).outcome == Outcome.STOPPED
    assert tasks.get(one.id).stop is True
    assert tasks.open_count(one.run) == 1


def test_only_what_may_move_is_taken_from_a_lost_node(tasks):
    stays, moves = planned(), planned(move=True)
    tasks.plan([stays, moves])
    for each in (stays, moves):
        tasks.send(each.id, "n")
    assert tasks.take_back(stays.id, "n") is False
    assert tasks.take_back(moves.id, "n") is True
    row = tasks.get(moves.id)
    assert (row.state, row.attempt, row.node) == (WAITING, 2, None)
    # What the lost node says later of its attempt is not taken for the new one.
    assert tasks.end("n", Ending(moves.id, 1, AT, Outcome.SUCCEEDED, {})) is False


def rows(tasks, *all_planned):
    tasks.plan(all_planned)
    return tasks.waiting()


def test_limits_hold_and_do_not_hold_up_others(tasks):
    waiting = rows(
        tasks,
        *(planned(limits={"writers:main": 2}) for _ in range(4)),
        planned(limits={"writers:other": 1}),
    )
    chosen = dispatch.choose(waiting, [], [node("a", 8)])
    assert len(chosen) == 3
    assert sum("writers:main" in task.limits for task, _ in chosen) == 2


def test_the_most_urgent_goes_first_and_work_is_shared(tasks):
    tasks.plan([planned() for _ in range(3)])
    urgent = planned(priority=1)
    tasks.plan([urgent])
    chosen = dispatch.choose(tasks.waiting(), [], [node("a"), node("b")])
    assert chosen[0][0].id == urgent.id
    assert sorted(each.name for _, each in chosen) == ["a", "a", "b", "b"]


def test_a_task_goes_only_where_it_may(tasks):
    b = node("b")
    waiting = rows(tasks, planned(nodes=(b.id,)), planned(nodes=("c" * 32,)))
    assert [(each.name) for _, each in dispatch.choose(waiting, [], [node("a"), b])] == ["b"]


class Lines:
    def __init__(self, *, away=False):
        self.away = away
        self.orders = []

    def connected_nodes(self):
        return [node("a")]

    def order(self, identity, order):
        if self.away:
            raise NodeAway
        self.orders.append((identity, order))


def test_an_order_carries_its_secrets_and_the_table_does_not(tasks):
    lines = Lines()
    tasks.plan([planned(secrets=("storage:main",))])
    told = Dispatcher(tasks, lines, lambda names: dict.fromkeys(names, "geheim"))
    assert told.round() == 1
    (sent,) = lines.orders
    order = sent[1]
    assert order.secrets == {"storage:main": "geheim"}
    assert "geheim" not in repr(tasks.get(order.task))
    assert told.round() == 0


def test_an_order_that_did_not_go_out_waits_for_the_node(tasks):
    one = planned()
    tasks.plan([one])
    Dispatcher(tasks, Lines(away=True), lambda names: {}).round()
    assert [row.id for row in tasks.of_node("a" * 32)] == [one.id]


def test_work_is_given_out_together_and_only_once(tasks):
    one, two, three = (planned(priority=n, limits={"k": 2}, nodes=("n",)) for n in (3, 1, 2))
    tasks.plan([one, two, three])
    waiting, sent = tasks.claims()
    assert [claim.id for claim in waiting] == [two.id, three.id, one.id]
    assert [(c.nodes, c.limits) for c in waiting] == [(["n"], {"k": 2})] * 3
    assert sent == []
    tasks.send(two.id, "m")
    given = tasks.send_all([(one.id, "n"), (two.id, "n"), (three.id, "n")])
    assert [(row.id, row.node, row.state) for row in given] == [
        (one.id, "n", SENT), (three.id, "n", SENT)
    ]  # fmt: skip
    waiting, sent = tasks.claims()
    assert waiting == []
    assert [(claim.id, claim.node) for claim in sent] == [
        (two.id, "m"), (three.id, "n"), (one.id, "n")
    ]  # fmt: skip


def test_whoever_waits_hears_of_the_tasks_of_its_run_and_of_work(tasks):
    one, other = planned(), planned(run="s" * 32)
    tasks.plan([one, other])
    tasks.send(one.id, "n")
    mark = tasks.mark()
    tasks.end("n", Ending(one.id, 1, AT, Outcome.SUCCEEDED, {}))
    before = tasks.mark()
    assert before > mark
    # They return at once, or the test takes a minute and fails.
    tasks.wait(mark, 60.0, one.run)
    tasks.wait(mark, 60.0)
    tasks.wait(before, 0.0, other.run)
