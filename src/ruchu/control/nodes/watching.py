"""Notices nodes that are lost, tells people, and lets others take over what may move."""

import threading

from ruchu.control.nodes.hub import Hub, RaiseAlarm
from ruchu.control.nodes.records import NodeRecords, NodeRow
from ruchu.control.nodes.states import NodeState
from ruchu.control.nodes.tasks import Tasks
from ruchu.model.tasks import Severity

ROUND_S = 5.0


class NodeWatch:
    """A thread that looks at all nodes now and then."""

    def __init__(self, records: NodeRecords, hub: Hub, tasks: Tasks, alarm: RaiseAlarm) -> None:
        self._records = records
        self._hub = hub
        self._tasks = tasks
        self._alarm = alarm
        self._lost: set[str] = set()
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-nodes", daemon=True)

    def begin(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._thread.join()

    def round(self) -> None:
        """Look once."""
        self._hub.note_beats()
        for node in self._records.all():
            if self._hub.state(node) is NodeState.LOST:
                self._is_lost(node)
            else:
                self._lost.discard(node.id)

    def _is_lost(self, node: NodeRow) -> None:
        mine = self._tasks.of_node(node.id)
        if node.id not in self._lost:
            self._lost.add(node.id)
            text = f"It was heard of last at {node.last_seen}. {len(mine)} tasks are with it."
            self._alarm("node-lost", Severity.ERROR, node.name, text, {"tasks": len(mine)})
        for task in mine:
            if task.move:
                self._tasks.take_back(task.id, node.id)

    def _work(self) -> None:
        while not self._end.wait(ROUND_S):
            self.round()
