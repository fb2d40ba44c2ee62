"""A node: one line to its server, tasks below it, and everything that is not acknowledged yet."""

import contextlib
import random
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, assert_never

from ruchu import __version__
from ruchu.clock import Clock, to_text
from ruchu.errors import AlreadyExists, ProtocolViolation, Refused, UsageError, WireError
from ruchu.host import LoadMeter
from ruchu.model.tasks import Ending, Order, TaskEvent
from ruchu.nodes import identity, point_readers
from ruchu.nodes.alarming import NodeAlarms
from ruchu.nodes.guarding import Guarding
from ruchu.nodes.identity import Layout
from ruchu.nodes.point_readers import PointReaders
from ruchu.nodes.questions import Questions
from ruchu.nodes.runner import Heard, Runner, boot_id
from ruchu.nodes.spool import Spool, Spools
from ruchu.wire import authority, messages
from ruchu.wire.dialler import Dialler, Patience
from ruchu.wire.enrolment import Invitation, Joining
from ruchu.wire.identity import Identity

IDENTITY = "identity.json"
# How often a server that does not answer is asked to take this node in.
_JOIN_ATTEMPTS, _JOIN_PAUSE_S = 30, 2.0


@dataclass(frozen=True, slots=True)
class Settings:
    """How a node runs.

    Attributes:
        state: its directory.
        programs: folder of the programs that policies may run here; None: they may run none.
        tell: is told what happens, for the log of the service.
        patience: times of the connection.
        guard: let nobody but Ruchu change storages in directories of this host.
    """

    state: Path
    programs: Path | None = None
    tell: Callable[[str], None] = print
    patience: Patience | None = None
    guard: bool = False


def join(url: str, state: Path, clock: Clock) -> Identity:
    """Enrol this host with the token URL of a server, unless it is enrolled already.

    Raises:
        UsageError: the URL is none, or this directory belongs to a node of another server.
        Refused: the server does not take it.
        WireError: the server does not answer.
    """
    path = Layout(state).wire / IDENTITY
    invitation = Invitation.parse(url)
    if path.exists():
        return _known(path, invitation)
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    found = _enrolled(Joining.begin(invitation), clock)
    found.save(path)
    return found


def _enrolled(joining: Joining, clock: Clock) -> Identity:
    for _ in range(_JOIN_ATTEMPTS - 1):
        try:
            return joining.enrol(identity.facts())
        except Refused:
            raise
        except WireError:
            # The server may be starting; with the same key no answer can be lost.
            clock.sleep(_JOIN_PAUSE_S)
    return joining.enrol(identity.facts())


def _known(path: Path, invitation: Invitation) -> Identity:
    found = Identity.load(path)
    if authority.fingerprint(found.authority) != invitation.fingerprint:
        hint = "Take another --state, or remove that directory if its server is gone."
        raise UsageError(f"({path.parent.parent} belongs to another server)", hint=hint)
    return found


class Node:
    """A `NodeSide` that runs until it is told to end."""

    def __init__(self, settings: Settings, clock: Clock, rng: random.Random) -> None:
        layout = Layout(settings.state)
        self._settings = settings
        self._clock = clock
        self._spools = Spools(layout.tasks)
        self._acknowledged: dict[tuple[str, int], int] = {}
        # Attempts that wait for the end of an earlier one of the same task.
        self._later: dict[str, Order] = {}
        self._runner = Runner(self._spools, layout.registry, clock, self._heard, settings.programs)
        self._questions = Questions(settings.state, clock, self._answer)
        self._points = PointReaders(settings.state, clock, self._answer)
        self._dialler = Dialler(layout.wire / IDENTITY, self, clock, rng, settings.patience)
        self._alarms = NodeAlarms(layout.alarms, self._dialler.send, clock, settings.tell)
        self._guarding = Guarding(layout.registry, self._alarms, clock, settings.tell)
        self._beat_s = 10.0
        self._meter = LoadMeter(clock.monotonic)
        self._end = threading.Event()

    @property
    def id(self) -> str:
        """The id that the server gave this node."""
        return self._dialler.identity.node

    def run(self) -> None:
        """Work until `stop`; then end every task, and leave what is not reported on disk."""
        self._runner.begin()
        try:
            with contextlib.ExitStack() as stack:
                stack.enter_context(self._dialler)
                stack.enter_context(self._alarms)
                if self._settings.guard:
                    stack.enter_context(self._guarding)
                while not self._end.wait(self._beat_s):
                    self._send(messages.Heartbeat(to_text(self._clock.now()), self._load()))
                self._runner.close()
        finally:
            self._questions.close()
            self._points.close()

    def _load(self) -> dict[str, Any]:
        load = {**identity.load(), **self._meter.look(), "tasks": len(self._runner.running())}
        return {**load, "guarded": self._guarding.guarded()} if self._settings.guard else load

    def stop(self) -> None:
        """End soon."""
        self._end.set()

    # What the line tells.

    def hello(self) -> messages.Hello:
        """Say who this is, and what it knows."""
        states = []
        for spool in self._spools.all():
            number = self._acknowledged.get((spool.task, spool.attempt), 0)
            ended = spool.ending() is not None
            states.append(messages.TaskState(spool.task, spool.attempt, number, ended))
        return messages.Hello(
            messages.VERSIONS, __version__, boot_id(), tuple(states), identity.facts()
        )

    def connected(self, welcome: messages.Welcome) -> None:
        """Send again what was not acknowledged."""
        self._beat_s = welcome.heartbeat_s
        self._settings.tell("connected")
        self._alarms.connected()
        running = set(self._runner.running())
        for spool in self._spools.all():
            self._send_events(spool.task, spool.attempt, list(Spool(spool.folder).new_events()))
            if spool.task not in running and (ending := spool.ending()) is not None:
                self._send_ending(ending)

    def received(self, message: messages.ServerMessage) -> None:
        """Do what the server says."""
        match message:
            case messages.OrderTask():
                try:
                    self._runner.start(message.order)
                except AlreadyExists as error:
                    self._settings.tell(str(error))
                    self._later[message.order.task] = message.order
                    self._runner.stop(message.order.task)
            case messages.StopTask():
                self._later.pop(message.task, None)
                self._runner.stop(message.task)
            case messages.Acknowledge():
                self._acknowledge(message)
            case messages.Ask() if message.what in point_readers.KINDS:
                self._points.ask(message)
            case messages.Ask():
                self._questions.ask(message)
            case messages.Welcome() | messages.Refuse():
                self._settings.tell("the server opened a connection that was open")
            case _:
                assert_never(message)

    def _acknowledge(self, message: messages.Acknowledge) -> None:
        if self._alarms.acknowledged(message.task):
            return
        key = (message.task, message.attempt)
        spool = self._spools.of(*key)
        if message.ended and spool.ending() is not None:
            self._acknowledged.pop(key, None)
            spool.remove()
            return
        known = self._acknowledged.get(key, 0)
        self._acknowledged[key] = max(known, message.number)

    def disconnected(self, error: WireError) -> None:
        """Go on; the dialler comes back."""
        self._settings.tell(f"not connected: {error}")

    def renewed(self, identity: Identity) -> None:
        """Take note of a fresh certificate."""
        del identity
        self._settings.tell("the certificate was renewed")

    # What is told.

    def _heard(self, heard: Heard) -> None:
        self._send_events(heard.task, heard.attempt, list(heard.events))
        if heard.ending is not None:
            self._send_ending(heard.ending)
            later = self._later.pop(heard.task, None)
            if later is not None:
                self._runner.start(later)

    def _send_ending(self, ending: Ending) -> None:
        try:
            messages.encode(messages.TaskEnding(ending))
        except ProtocolViolation as error:
            said = {"code": "result-unsayable", "message": str(error), "hint": "", "retry": False}
            ending = replace(ending, result={}, error=ending.error or said)
        self._send(messages.TaskEnding(ending))

    def _send_events(self, task: str, attempt: int, events: list[TaskEvent]) -> None:
        known = self._acknowledged.get((task, attempt), 0)
        new = [event for event in events if event.number > known]
        for at in range(0, len(new), messages.EVENTS_MAX):
            self._send(messages.TaskEvents(tuple(new[at : at + messages.EVENTS_MAX])))

    def _answer(self, answer: messages.Answer) -> None:
        self._send(answer)

    def _send(self, message: messages.NodeMessage) -> None:
        try:
            self._dialler.send(message)
        except WireError:
            # It lies on disk, or is told anew: after the next welcome it is sent again.
            return
