"""Gives waiting tasks to nodes: the most urgent first, within the limits of everything involved."""

import contextlib
import threading
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol, TypeVar

from ruchu.control.nodes.records import NodeRow
from ruchu.control.nodes.tasks import Claim, TaskRow, Tasks
from ruchu.errors import WireError
from ruchu.model.tasks import Order

# A change that nobody told of is noticed after this long.
ROUND_S = 5.0
# Changes that come together are looked at together.
GATHER_S = 0.1
# Tasks that are given out in one transaction: writing it out is shared, and others wait little.
BATCH = 64


class Lines(Protocol):
    """The nodes that are connected."""

    def connected_nodes(self) -> Sequence[NodeRow]:
        """Return them."""

    def order(self, node: str, order: Order) -> None:
        """Send an order.

        Raises:
            WireError: it did not go out; the node gets it when it connects again.
        """


T = TypeVar("T", Claim, TaskRow)

SecretsOf = Callable[[Sequence[str]], Mapping[str, str]]
"""Returns secrets by their names, such as `storage:main`."""


def choose(
    waiting: Sequence[T], sent: Sequence[Claim | TaskRow], nodes: Sequence[NodeRow]
) -> list[tuple[T, NodeRow]]:
    """Return which tasks go to which nodes now. Pure.

    A task goes to the node that has the least to do for what it can do, among those that may do
    it. A task that must wait for a limit does not hold up those behind it.
    """
    running: Counter[str] = Counter()
    busy: Counter[str] = Counter()
    for task in sent:
        running.update(task.limits.keys())
        busy[task.node or ""] += 1
    chosen = []
    for task in waiting:
        if any(running[key] >= most for key, most in task.limits.items()):
            continue
        free = [
            node
            for node in nodes
            if busy[node.id] < node.parallel
            and not node.maintenance
            and (not task.nodes or node.id in task.nodes)
        ]
        if not free:
            continue
        node = min(free, key=lambda each: (busy[each.id] / each.parallel, each.name))
        chosen.append((task, node))
        running.update(task.limits.keys())
        busy[node.id] += 1
    return chosen


def order_of(task: TaskRow, secrets_of: SecretsOf) -> Order:
    """Return the order of a task, with its secrets."""
    secrets = dict(secrets_of(list(task.secrets)))
    return Order(task.id, task.run, task.kind, task.attempt, dict(task.body), secrets)


class Dispatcher:
    """A thread that gives out work."""

    def __init__(self, tasks: Tasks, lines: Lines, secrets_of: SecretsOf) -> None:
        self._tasks = tasks
        self._lines = lines
        self._secrets_of = secrets_of
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-dispatch", daemon=True)

    def begin(self) -> None:
        """Give out work from now on."""
        self._thread.start()

    def close(self) -> None:
        """Give out no more work."""
        self._ended.set()
        self._tasks.wake()
        self._thread.join()

    def round(self) -> int:
        """Give out what can be given out now; return how many tasks were sent."""
        waiting, sent = self._tasks.claims()
        if not waiting:
            return 0
        chosen = [
            (task.id, node.id)
            for task, node in choose(waiting, sent, self._lines.connected_nodes())
        ]
        secrets_of = _remembered(self._secrets_of)
        count = 0
        for at in range(0, len(chosen), BATCH):
            given = self._tasks.send_all(chosen[at : at + BATCH])
            count += len(given)
            for task in given:
                self._order(task, secrets_of)
        return count

    def _order(self, task: TaskRow, secrets_of: SecretsOf) -> None:
        assert task.node is not None
        # It is written down that the node has it: if it does not go out, it is sent when the node
        # connects.
        with contextlib.suppress(WireError):
            self._lines.order(task.node, order_of(task, secrets_of))

    def _work(self) -> None:
        while not self._ended.is_set():
            mark = self._tasks.mark()
            self.round()
            self._tasks.wait(mark, ROUND_S)
            self._ended.wait(GATHER_S)


def _remembered(secrets_of: SecretsOf) -> SecretsOf:
    """Return what looks the same secrets up once: all orders of a round are on few storages."""
    known: dict[tuple[str, ...], Mapping[str, str]] = {}

    def found(names: Sequence[str]) -> Mapping[str, str]:
        key = tuple(names)
        if key not in known:
            known[key] = secrets_of(names)
        return known[key]

    return found
