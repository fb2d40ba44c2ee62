"""Nodes without machines: real enrolment, the real channel, backups that only take their time.

Many of them live in one process. What they tell is what a real node tells: phases, progress every
two seconds, the result of each backup; what is not acknowledged is kept, and told again after a
reconnect. Time may run faster than it does (`ScaledClock`), for the server and for them alike.
"""

import datetime
import hashlib
import heapq
import itertools
import random
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self, assert_never

from ruchu import __version__
from ruchu.clock import SYSTEM, Clock, to_text
from ruchu.errors import WireError
from ruchu.model import ids
from ruchu.model.tasks import Ending, Order, Outcome, TaskEvent
from ruchu.units import GIB, MIB
from ruchu.wire import messages
from ruchu.wire.dialler import Dialler
from ruchu.wire.enrolment import Invitation, Joining
from ruchu.wire.identity import Identity

# As `ruchu.nodes.telling` does it.
PROGRESS_S = 2.0
HOSTS = 100
SIZE = 40 * GIB
# Of a listing, the share of machines that are in another state than in the one before.
_RESTLESS = 0.005


class ScaledClock:
    """A `Clock` on which everything passes faster, beginning at a moment that processes agree on.

    Attributes:
        speed: seconds that pass on it in a second.
        origin: when it began, by the clock of this host, in seconds since 1970.
        start: what it showed then. In the past, so that no certificate is of the future.
    """

    def __init__(self, speed: float, origin: float, start: float) -> None:
        self.speed = speed
        self.origin = origin
        self.start = start

    def now(self) -> datetime.datetime:
        """Return the wall clock."""
        passed = (SYSTEM.now().timestamp() - self.origin) * self.speed
        return datetime.datetime.fromtimestamp(self.start + passed, datetime.UTC)

    def monotonic(self) -> float:
        """Return seconds that never go back."""
        return SYSTEM.monotonic() * self.speed

    def sleep(self, seconds: float) -> None:
        """Wait."""
        SYSTEM.sleep(seconds / self.speed)


class Park:
    """The machines of a platform that is not there, and the points that nodes made of them.

    Safe in several threads.
    """

    def __init__(self, machines: int, rng: random.Random) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._machines = [
            {
                "id": hashlib.sha256(f"machine {number}".encode()).hexdigest()[:32],
                "name": name_of(number),
                "state": "running",
                "host": f"host-{number % HOSTS:03}",
                "folder": f"/site/{number % 20}",
                "tags": [f"team-{number % 30}"],
                "vcpus": 4,
                "memory": 8 * GIB,
                "disk_size": SIZE,
            }
            for number in range(machines)
        ]
        self._points: dict[str, list[str]] = {}
        self._sequence: dict[str, int] = {}

    def listing(self) -> Sequence[Mapping[str, Any]]:
        """Return all machines; a few change their state from listing to listing."""
        with self._lock:
            for _ in range(max(1, int(len(self._machines) * _RESTLESS))):
                machine = self._rng.choice(self._machines)
                machine["state"] = "shut off" if machine["state"] == "running" else "running"
            return [dict(machine) for machine in self._machines]

    def saved(
        self, machine: str, order: Order, at: datetime.datetime, seconds: float
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Make a point of a machine; return its fields, and those of the retention after it."""
        body = order.body
        chain = hashlib.sha256(f"chain {machine}".encode()).hexdigest()[:32]
        point = ids.new_id()
        keep = int((body.get("retention") or {}).get("count") or 0)
        with self._lock:
            points = self._points.setdefault(machine, [])
            parent = points[-1] if points else None
            points.append(point)
            gone = points[:-keep] if keep else []
            del points[: len(gone)]
            self._sequence[machine] = sequence = self._sequence.get(machine, 0) + 1
            changed = int(self._rng.uniform(0.8, 1.2) * 512 * MIB)
        fields = {
            "machine": str((body.get("names") or {}).get(machine, machine)),
            "ok": True,
            "point": point,
            "time": to_text(at),
            "kind": "incremental" if parent else "full",
            "storage": str(body["storage"]),
            "chain": chain,
            "sequence": sequence,
            "parent": parent,
            "disks": [{"name": "vda", "size": SIZE, "format": "qcow2"}],
            "bytes_read": changed,
            "bytes_stored": changed // 3,
            "seconds": round(seconds, 3),
            "consistency": "file-system",
            "frozen_s": 0.21,
            "samples": {"vda": {"entropy": 5.1, "ratio": 0.34}},
            "reasons": [],
            "cleaned": [],
        }
        return fields, {"chain": chain, "keep": list(points), "remove": gone}


def name_of(number: int) -> str:
    """Return the name of a machine."""
    return f"vm-{number:05}"


@dataclass(slots=True)
class _Task:
    """An attempt that runs, or whose end is not acknowledged."""

    order: Order
    seconds: float
    begun: datetime.datetime
    number: int = 0
    told: list[TaskEvent] = field(default_factory=list)
    ending: Ending | None = None

    @property
    def key(self) -> tuple[str, int]:
        return self.order.task, self.order.attempt

    def event(self, at: datetime.datetime, name: str, body: Mapping[str, Any]) -> TaskEvent:
        self.number += 1
        made = TaskEvent(*self.key, self.number, to_text(at), name, body)
        self.told.append(made)
        return made


class Stage:
    """The thread that lets the tasks of all nodes of a process pass. A context manager."""

    def __init__(self, park: Park, clock: ScaledClock, rng: random.Random) -> None:
        self.park = park
        self.clock = clock
        self.rng = rng
        self._due: list[tuple[float, int, SimulatedNode, tuple[str, int]]] = []
        self._order = itertools.count()
        self._changed = threading.Condition()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="stage", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()

    def at(self, seconds: float, node: "SimulatedNode", key: tuple[str, int]) -> None:
        """Call a node for a task in so many seconds."""
        due = self.clock.monotonic() + seconds
        with self._changed:
            heapq.heappush(self._due, (due, next(self._order), node, key))
            self._changed.notify_all()

    def _work(self) -> None:
        while True:
            with self._changed:
                while not self._ended:
                    now = self.clock.monotonic()
                    if self._due and self._due[0][0] <= now:
                        break
                    wait = (self._due[0][0] - now) / self.clock.speed if self._due else None
                    self._changed.wait(wait)
                if self._ended:
                    return
                _, _, node, key = heapq.heappop(self._due)
            node.step(key)


class SimulatedNode:
    """A `NodeSide` on the real channel.

    Args:
        path: file of its identity.
        stage: the process that it lives in.
        backup_s: the least and the most that a backup takes.
    """

    # What a backup reads, as its progress tells it.
    total_bytes = 512 * MIB

    def __init__(self, path: Path, stage: Stage, backup_s: tuple[float, float]) -> None:
        self._stage = stage
        self._backup_s = backup_s
        self._tasks: dict[tuple[str, int], _Task] = {}
        self._acknowledged: dict[tuple[str, int], int] = {}
        self._lock = threading.RLock()
        rng = random.Random(stage.rng.random())  # noqa: S311 - jitter
        self._dialler = Dialler(path, self, SYSTEM, rng)

    def __enter__(self) -> Self:
        self._dialler.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._dialler.__exit__(*error)

    def beat(self) -> None:
        """Say that this node lives."""
        with self._lock:
            running = sum(task.ending is None for task in self._tasks.values())
        load = {"tasks": running, "load_1m": 0.5}
        self._send(messages.Heartbeat(to_text(self._stage.clock.now()), load))

    # What the line tells.

    def hello(self) -> messages.Hello:
        """Say who this is, and what it knows."""
        with self._lock:
            states = tuple(
                messages.TaskState(
                    *key, self._acknowledged.get(key, 0), ended=task.ending is not None
                )
                for key, task in self._tasks.items()
            )
        facts = {"host": "simulated", "cpus": 4, "memory": 8 * GIB}
        return messages.Hello(messages.VERSIONS, __version__, ids.new_id(), states, facts)

    def connected(self, welcome: messages.Welcome) -> None:
        """Tell again what was not acknowledged."""
        del welcome
        with self._lock:
            tasks = list(self._tasks.values())
        for task in tasks:
            if task.told:
                self._send(messages.TaskEvents(tuple(task.told)))
            if task.ending is not None:
                self._send(messages.TaskEnding(task.ending))

    def received(self, message: messages.ServerMessage) -> None:
        """Do what the server says."""
        match message:
            case messages.OrderTask():
                self._begin(message.order)
            case messages.StopTask():
                self._stop(message.task)
            case messages.Acknowledge():
                self._acknowledge(message)
            case messages.Ask():
                value = self._answer(message.what, message.arguments.get("body") or {})
                self._send(messages.Answer(message.request, value))
            case messages.Welcome() | messages.Refuse():
                pass
            case _:
                assert_never(message)

    def disconnected(self, error: WireError) -> None:
        """Go on; the dialler comes back."""

    def renewed(self, identity: Identity) -> None:
        """Take note of a fresh certificate."""

    # What it does.

    def _begin(self, order: Order) -> None:
        with self._lock:
            key = (order.task, order.attempt)
            if key in self._tasks:
                return
            clock = self._stage.clock
            task = _Task(order, self._stage.rng.uniform(*self._backup_s), clock.now())
            self._tasks[key] = task
            event = task.event(task.begun, "phase", {"name": "copy"})
        self._send(messages.TaskEvents((event,)))
        self._stage.at(min(PROGRESS_S, task.seconds), self, key)

    def step(self, key: tuple[str, int]) -> None:
        """Go on with a task: tell its progress, or end it."""
        with self._lock:
            task = self._tasks.get(key)
            if task is None or task.ending is not None:
                return
            now = self._stage.clock.now()
            passed = (now - task.begun).total_seconds()
            total = self.total_bytes
            done = int(total * min(1.0, passed / task.seconds))
            body = {"label": "vda", "done": done, "total": total, "rate": total / task.seconds}
            events = [task.event(now, "progress", body)]
            if over := passed >= task.seconds:
                events.append(task.event(now, "phase", {"name": "retention"}))
                task.ending = self._ending(task, now)
        self._send(messages.TaskEvents(tuple(events)))
        if over:
            assert task.ending is not None
            self._send(messages.TaskEnding(task.ending))
        else:
            self._stage.at(min(PROGRESS_S, task.seconds - passed), self, key)

    def _ending(self, task: _Task, now: datetime.datetime) -> Ending:
        result: dict[str, Any] = {}
        if task.order.kind == "backup":
            pairs = [
                self._stage.park.saved(str(each), task.order, now, task.seconds)
                for each in task.order.body.get("machines", ())
            ]
            result = {
                "machines": [fields for fields, _ in pairs],
                "retention": [each for _, each in pairs],
            }
        return Ending(*task.key, to_text(now), Outcome.SUCCEEDED, result)

    def _stop(self, identity: str) -> None:
        with self._lock:
            found = [task for task in self._tasks.values() if task.order.task == identity]
            now = to_text(self._stage.clock.now())
            error = {"code": "cancelled", "message": "It was stopped.", "hint": "", "retry": False}
            for task in found:
                task.ending = task.ending or Ending(*task.key, now, Outcome.STOPPED, {}, error)
        for task in found:
            if task.ending is not None:
                self._send(messages.TaskEnding(task.ending))

    def _acknowledge(self, message: messages.Acknowledge) -> None:
        key = (message.task, message.attempt)
        with self._lock:
            task = self._tasks.get(key)
            if task is None:
                return
            if message.ended and task.ending is not None:
                del self._tasks[key]
                self._acknowledged.pop(key, None)
                return
            self._acknowledged[key] = max(self._acknowledged.get(key, 0), message.number)
            task.told = [event for event in task.told if event.number > message.number]

    def _answer(self, what: str, body: Mapping[str, Any]) -> Any:
        match what:
            case "inventory":
                return {"machines": self._stage.park.listing()}
            case "storage-make":
                made = {"id": ids.new_id(), "encrypted": True, "writer": ""}
                where = {"location": str(body["directory"]), "name": body["name"], "probe": {}}
                return {"storage": {**made, **where, "role": body["role"], **_space()}}
            case "storage-look":
                names = [str(each["name"]) for each in body.get("storages", ())]
                return {"storages": [{"name": each, "problem": "", **_space()} for each in names]}
            case _:
                nothing: list[Any] = []
                return {"cleaned": {}, "points": nothing, "problems": nothing, "checks": nothing}

    def _send(self, message: messages.NodeMessage) -> None:
        try:
            self._dialler.send(message)
        except WireError:
            # It is kept, and told again after the next welcome.
            return


def _space() -> dict[str, int]:
    return {"free": 600 * GIB, "total": 1000 * GIB}


def enrol(url: str, path: Path, facts: Mapping[str, Any]) -> None:
    """Enrol a node with the token URL of a server, and save who it is.

    Raises:
        Refused: the server does not take it.
        WireError: the server does not answer.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    Joining.begin(Invitation.parse(url)).enrol(facts).save(path)


class Beats:
    """The thread that lets the nodes of a process say that they live. A context manager."""

    def __init__(self, nodes: Sequence[SimulatedNode], clock: Clock, every_s: float) -> None:
        self._nodes = nodes
        self._clock = clock
        self._every_s = every_s
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="beats", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended = True
        self._thread.join()

    def _work(self) -> None:
        # Each in its turn, as nodes that were started at different times do.
        for node in itertools.cycle(self._nodes):
            if self._ended:
                return
            node.beat()
            self._clock.sleep(self._every_s / len(self._nodes))
