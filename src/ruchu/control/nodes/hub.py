"""The server's side of the channel: who may connect, what is sent to whom, what nodes tell."""

import contextlib
import threading
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruchu import __version__
from ruchu.clock import Clock, from_text, to_text
from ruchu.control.nodes.dispatch import SecretsOf, order_of
from ruchu.control.nodes.intake import Heard, Intake
from ruchu.control.nodes.loads import Loads
from ruchu.control.nodes.records import NodeRecords, NodeRow
from ruchu.control.nodes.states import HEARTBEAT_S, NodeState, state_of
from ruchu.control.nodes.tasks import TaskRow, Tasks
from ruchu.errors import NodeAway, NotFound, Refused, WireError
from ruchu.model.ids import is_id
from ruchu.model.tasks import Order, Severity
from ruchu.wire import messages
from ruchu.wire.authority import Authority, Certificates
from ruchu.wire.links import Link
from ruchu.wire.messages import Hello, Welcome

# Alarms that nodes take back by themselves.
_TAKEN_BACK = ("guard-ended", "guard-hung", "guard-unsupported")
# That nodes live is written down for all of them together, so often.
BEATS_S = 2.0
RaiseAlarm = Callable[[str, Severity, str, str, Mapping[str, Any]], None]
ClearAlarm = Callable[[str, str], None]


@dataclass(frozen=True, slots=True)
class Told:
    """Who hears of what nodes tell.

    Attributes:
        alarm: raises an alarm: code, severity, subject, text, facts.
        clear: clears one: code, subject.
        events: writes new events of a task down.
        changed: hears of a node that came or went: id, name, state, why.
    """

    alarm: RaiseAlarm
    clear: ClearAlarm
    events: Heard
    changed: Callable[[str, str, str, str], None]


class Hub:
    """A `ServerSide`: the nodes of a server. Safe in several threads."""

    def __init__(
        self, records: NodeRecords, tasks: Tasks, authority: Authority, secrets_of: SecretsOf,
        told: Told, clock: Clock,
    ) -> None:  # fmt: skip
        self._records = records
        self._tasks = tasks
        self._authority = authority
        self._secrets_of = secrets_of
        self._told = told
        self._clock = clock
        self._lock = threading.Lock()
        self._links: dict[str, Link] = {}
        self._intake = Intake(tasks, told.events, clock)
        self.loads = Loads(clock)
        # By node: when it was heard of last, and its load, as far as that is not written down.
        self._beats: dict[str, tuple[str, Mapping[str, Any]]] = {}
        self._beaten = float("-inf")
        # By node: how many seconds its clock was ahead of ours at its last heartbeat.
        self._clocks_off_s: dict[str, float] = {}

    def begin(self) -> None:
        """Write down what nodes tell, from now on."""
        self._intake.begin()

    def close(self) -> None:
        """Write down what was told, and no more."""
        self._intake.close()

    # What the listener asks.

    def enrol(self, token: str, request: str, facts: Mapping[str, Any]) -> Certificates:
        """Take a node in."""
        node = self._records.admit(token, request, facts)
        return self._certify(node.id, request)

    def renew(self, node: str, request: str) -> Certificates:
        """Certify a fresh key of a node."""
        return self._certify(node, request)

    def _certify(self, node: str, request: str) -> Certificates:
        certificates = self._authority.sign_node(request, node)
        self._records.certified(node, certificates.serial)
        return certificates

    def admitted(self, node: str, serial: str) -> bool:
        """Tell whether a node may come in with this certificate."""
        return self._records.admitted(node, serial)

    def connected(self, link: Link, hello: Hello) -> Welcome | messages.Refuse:
        """Welcome a node, and send it what it should have and does not."""
        row = self._records.get(link.node)
        try:
            version = messages.agree(hello.versions)
        except Refused as error:
            self._records.seen(link.node, release=hello.release, problem="incompatible")
            self._told.alarm(
                "node-incompatible", Severity.ERROR, row.name, str(error),
                {"release": hello.release, "server": __version__},
            )  # fmt: skip
            return messages.Refuse("incompatible", f"{error} {error.advice}")
        self._records.seen(link.node, release=hello.release, problem="", facts=dict(hello.facts))
        with self._lock:
            self._links[link.node] = link
        for code in ("node-lost", "node-incompatible"):
            self._told.clear(code, row.name)
        self._send_missing(link, hello)
        self._told.changed(row.id, row.name, NodeState.ONLINE.value, "")
        self._tasks.wake()
        return Welcome(version, to_text(self._clock.now()), HEARTBEAT_S)

    def _send_missing(self, link: Link, hello: Hello) -> None:
        """Send the orders that the node does not know, and what shall end."""
        known = {(each.task, each.attempt): each for each in hello.tasks}
        mine = {task.id: task for task in self._tasks.of_node(link.node)}
        for task in mine.values():
            if (task.id, task.attempt) not in known:
                link.send(messages.OrderTask(order_of(task, self._secrets_of)))
            if task.stop:
                link.send(messages.StopTask(task.id))
        for (identity, attempt), state in known.items():
            found = mine.get(identity)
            if found is None or found.attempt != attempt:
                # Nobody waits for it any more: it shall end, and be forgotten.
                link.send(messages.StopTask(identity))
                link.send(messages.Acknowledge(identity, attempt, state.number, state.ended))

    def received(self, link: Link, message: messages.NodeMessage) -> None:
        """Take in what a node says."""
        match message:
            case messages.TaskEvents():
                self._intake.events(link, message.events)
            case messages.TaskEnding():
                self._intake.ending(link, message.ending)
            case messages.Heartbeat():
                self._beat(link.node, message)
            case messages.NodeAlarm():
                self._alarm_of_node(link, message)
            case _:
                link.close("it said what only opens a connection")

    def _alarm_of_node(self, link: Link, message: messages.NodeAlarm) -> None:
        """Tell people, then the node that it is known: until then it sends it again."""
        name = self._records.get(link.node).name
        subject = message.subject or name
        facts = dict(message.facts)
        identity = facts.pop("id", None)
        if facts.pop("over", False) is True:
            # A node that somebody took over must not take back what others told.
            if message.code in _TAKEN_BACK:
                self._told.clear(message.code, subject)
        else:
            facts["node"] = name
            self._told.alarm(message.code, message.severity, subject, message.text, facts)
        if is_id(identity):
            link.send(messages.Acknowledge(str(identity), 1, 0, ended=True))

    def _beat(self, node: str, beat: messages.Heartbeat) -> None:
        now = self._clock.now()
        with self._lock:
            self._beats[node] = to_text(now), dict(beat.load)
            self._clocks_off_s[node] = (from_text(beat.at) - now).total_seconds()
            due = self._clock.monotonic() - self._beaten >= BEATS_S
        self.loads.heard(node, beat.load)
        if due:
            self.note_beats()

    def clock_off_s(self, node: str) -> float | None:
        """Return how many seconds the clock of a node is ahead of ours; None before it told."""
        with self._lock:
            return self._clocks_off_s.get(node)

    def note_beats(self) -> None:
        """Write down which nodes were heard of."""
        with self._lock:
            beats, self._beats = self._beats, {}
            self._beaten = self._clock.monotonic()
        if beats:
            self._records.heard(beats)

    def disconnected(self, link: Link, why: str) -> None:
        """Learn that a node is gone."""
        with self._lock:
            if self._links.get(link.node) is link:
                del self._links[link.node]
        try:
            row = self._records.get(link.node)
        except NotFound:
            return
        self._told.changed(row.id, row.name, NodeState.LATE.value, why)

    def alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Tell people of somebody who was refused."""
        if code == "wire-incompatible":
            self._is_incompatible(str(facts.get("node")), str(facts.get("release")), text)
        self._told.alarm(code, severity, subject, text, facts)

    def _is_incompatible(self, node: str, release: str, text: str) -> None:
        """Show a node as what it is: the port refuses it before we are asked."""
        with contextlib.suppress(NotFound):
            name = self._records.get(node).name
            self._records.seen(node, release=release, problem="incompatible")
            facts = {"release": release, "server": __version__}
            self._told.alarm("node-incompatible", Severity.ERROR, name, text, facts)

    # What the rest of the server asks.

    def connected_ids(self) -> set[str]:
        """Return the ids of the nodes that have a line."""
        with self._lock:
            return set(self._links)

    def connected_nodes(self) -> Sequence[NodeRow]:
        """Return the nodes that are online."""
        there, now = self.connected_ids(), self._clock.now()
        return [
            row
            for row in self._records.all()
            if row.id in there and state_of(row, now, connected=True) is NodeState.ONLINE
        ]

    def state(self, row: NodeRow) -> NodeState:
        """Return how a node is."""
        return state_of(row, self._clock.now(), connected=row.id in self.connected_ids())

    def order(self, node: str, order: Order) -> None:
        """Send an order.

        Raises:
            WireError: it did not go out; the node gets it when it connects again.
        """
        self._link(node).send(messages.OrderTask(order))

    def stop(self, tasks: Sequence[TaskRow]) -> None:
        """Tell nodes that tasks shall end; one that is away is told when it connects."""
        for task in tasks:
            if task.node is None:
                continue
            try:
                self._link(task.node).send(messages.StopTask(task.id))
            except WireError:
                continue

    def ask(self, node: str, what: str, arguments: Mapping[str, Any], timeout_s: float) -> Any:
        """Ask a node something.

        Raises:
            NodeAway: it is not connected, or does not answer.
            NodeFailed: it answered with an error.
        """
        return self._link(node).ask(what, arguments, timeout_s)

    def _link(self, node: str) -> Link:
        with self._lock:
            found = self._links.get(node)
        if found is None:
            raise NodeAway
        return found
