"""A data centre that is not there, for the console to show: machines, hosts, storages, nodes."""

import datetime
import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from ruchu import __version__
from ruchu.clock import SYSTEM, to_text
from ruchu.errors import WireError
from ruchu.model.tasks import Order
from ruchu.testing.simulated_nodes import Park, ScaledClock, SimulatedNode, Stage
from ruchu.units import GIB, MIB, TIB
from ruchu.wire import messages

PLATFORMS = {
    "kvm-beijing": "qemu+ssh://ruchu@kvm01.bj.example.com/system",
    "kvm-shanghai": "qemu+ssh://ruchu@kvm01.sh.example.com/system",
}
# What runs there: name, how many, cores, memory and disk in GiB, tags.
_SERVICES: Sequence[tuple[str, int, int, int, int, tuple[str, ...]]] = (
    ("erp-db", 2, 16, 64, 800, ("production", "database")),
    ("erp-app", 4, 8, 32, 120, ("production",)),
    ("mes-db", 2, 16, 64, 600, ("production", "database")),
    ("mes-app", 4, 8, 16, 100, ("production",)),
    ("mail", 2, 8, 32, 1200, ("production", "office")),
    ("oa-portal", 3, 4, 16, 160, ("office",)),
    ("fileserver", 2, 4, 16, 4000, ("office",)),
    ("web", 8, 4, 8, 60, ("production", "web")),
    ("gitlab", 1, 8, 32, 700, ("engineering",)),
    ("build", 6, 8, 16, 200, ("engineering",)),
    ("k8s-node", 10, 8, 32, 150, ("production", "containers")),
    ("pacs-archive", 2, 8, 32, 6000, ("production",)),
    ("monitor", 2, 4, 16, 300, ("infrastructure",)),
    ("dns", 2, 2, 4, 20, ("infrastructure",)),
    ("vdi", 8, 4, 8, 80, ("office", "desktops")),
    ("test", 6, 4, 8, 60, ("test",)),
)
# Name, address, role, size, and the share of it that is used.
STORAGES: Sequence[tuple[str, str, str, int, float]] = (
    ("main", "/srv/ruchu/main", "backup", 48 * TIB, 0.61),
    ("archive", "s3://ruchu-archive/bj?endpoint=https://s3.example.com&region=cn-north-1",
     "backup", 120 * TIB, 0.34),
    ("offsite", "nfs://nas.sh.example.com/volume1/ruchu", "copy", 24 * TIB, 0.86),
)  # fmt: skip
NODES = ("node-beijing-1", "node-beijing-2", "node-shanghai-1")
# A backup takes so long that it still runs when a page of it is looked at.
BACKUP_S = (1500.0, 3000.0)
# As real nodes say it of themselves.
_FACTS = {"system": "Linux 6.1.0-26-amd64", "python": "3.11.2", "release": __version__,
          "cores": 16, "memory": 64 * GIB, "root": True}  # fmt: skip


def machines(platform: str) -> list[dict[str, Any]]:
    """Return the machines of a platform, as a node lists them."""
    found: list[dict[str, Any]] = []
    names = list(PLATFORMS)
    for service, count, vcpus, memory, disk, tags in _SERVICES:
        for number in range(1, count + 1):
            name = f"{service}-{number:02}"
            # What comes in twos and more is spread over both sites.
            site = names[number % 2 if count > 1 else 0]
            if site != platform:
                continue
            short = "bj" if site == names[0] else "sh"
            found.append({
                "id": identity(name), "name": name, "vcpus": vcpus, "memory": memory * GIB,
                "state": "off" if name in {"test-05", "test-06", "vdi-07"} else "running",
                "host": f"kvm{len(found) % 4 + 1:02}.{short}.example.com", "folder": f"/{tags[0]}",
                "tags": list(tags), "disk_size": disk * GIB,
            })  # fmt: skip
    return found


def identity(name: str) -> str:
    """Return an id that is always the same for a name."""
    return hashlib.sha256(name.encode()).hexdigest()[:32]


class ShowPark(Park):
    """The machines above; `saved` makes points of them."""

    def __init__(self, rng: random.Random) -> None:
        super().__init__(0, rng)
        self._draw = rng

    def saved(
        self, machine: str, order: Order, at: datetime.datetime, seconds: float
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        """Make a point of a machine."""
        fields, kept = super().saved(machine, order, at, seconds)
        fields["bytes_read"] = self._draw.randrange(2, 40) * GIB
        fields["bytes_stored"] = fields["bytes_read"] // 3
        return fields, kept


def stage(rng: random.Random) -> Stage:
    """Return what lets the tasks of the nodes pass, as fast as time does."""
    now = SYSTEM.now().timestamp()
    return Stage(ShowPark(rng), ScaledClock(1.0, now, now), rng)


class Answers(Protocol):
    """What the nodes know beyond their work."""

    def answers(self) -> Mapping[str, Callable[[Mapping[str, Any]], Any]]:
        """Return what answers a question, by its name."""


class ShowNode(SimulatedNode):
    """A node that answers for the park above. Its backups are found in the midst of their work."""

    total_bytes = 180 * GIB

    def __init__(self, path: Path, on: Stage, answers: Answers) -> None:
        super().__init__(path, on, BACKUP_S)
        self._of = on
        self._of_answers = answers

    def hello(self) -> messages.Hello:
        """Say who this is, as a real node does."""
        said = super().hello()
        facts = {"host": "ruchu.example.com", **_FACTS}
        return messages.Hello(said.versions, said.release, said.boot, said.tasks, facts)

    def _begin(self, order: Order) -> None:
        super()._begin(order)
        with self._lock:
            task = self._tasks.get((order.task, order.attempt))
            if task is not None and task.number == 1:
                share = self._of.rng.uniform(0.05, 0.7)
                task.begun -= datetime.timedelta(seconds=task.seconds * share)

    def _answer(self, what: str, body: Mapping[str, Any]) -> Any:
        answer = self._of_answers.answers().get(what)
        return super()._answer(what, body) if answer is None else answer(body)

    def beat(self) -> None:
        """Say that this node lives, and how busy it is."""
        with self._lock:
            running = sum(task.ending is None for task in self._tasks.values())
        draw = self._of.rng
        busy = 60 * MIB * running
        load = {
            "tasks": running, "load_1": round(0.4 + 1.7 * running, 2), "memory": 64 * GIB,
            "load_5": round(0.4 + 1.6 * running, 2), "memory_available": 43 * GIB,
            "cpu": round(draw.uniform(0.05, 0.12) + 0.16 * running, 3),
            "memory_used": int(64 * GIB * draw.uniform(0.31, 0.34)),
            "received": busy * draw.uniform(0.9, 1.1), "sent": busy * draw.uniform(0.3, 0.4),
            "read": busy * draw.uniform(0.1, 0.2), "written": busy * draw.uniform(0.4, 0.5),
        }  # fmt: skip
        try:
            self._dialler.send(messages.Heartbeat(to_text(self._of.clock.now()), load))
        except WireError:
            # It says so again with its next beat.
            return


def space(storage: str) -> dict[str, int]:
    """Return how full a storage is."""
    for name, _, _, size, used in STORAGES:
        if name == storage:
            return {"free": int(size * (1 - used)), "total": size}
    return {"free": 600 * GIB, "total": TIB}


def point(machine: Mapping[str, Any], storage: str, at: datetime.datetime) -> dict[str, Any]:
    """Return what is common to all points of a machine."""
    return {
        "storage": storage, "name": machine["name"], "object": "vm", "time": to_text(at),
        "disks": [{"name": "vda", "size": machine["disk_size"], "format": "qcow2"}],
        "bytes_read": 0, "bytes_stored": 0, "starred": False, "locked_until": None,
    }  # fmt: skip


def changed_bytes(machine: Mapping[str, Any], kind: str, rng: random.Random) -> tuple[int, int]:
    """Return how many bytes a backup of a machine reads, and how many of them it stores."""
    size = int(machine["disk_size"])
    share = rng.uniform(0.35, 0.6) if kind == "full" else rng.uniform(0.004, 0.03)
    read = int(size * share) // MIB * MIB
    return read, int(read * rng.uniform(0.28, 0.45))
