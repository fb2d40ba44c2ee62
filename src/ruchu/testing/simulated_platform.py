"""A virtualization platform in memory, with machines whose disks a test writes to.

Changes are tracked by checkpoints, as libvirt does it, in granules of 64 KiB. A test can break a
map, make one forget changes, let a machine fail, and see what was left on the source.
"""

import contextlib
import threading
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace

from ruchu.clock import Clock
from ruchu.errors import AlreadyExists, NotFound, PlatformError
from ruchu.model.extents import Content, Extent
from ruchu.model.machines import (
    DiskSpec,
    MachineSpec,
    MachineSummary,
    NicSpec,
    Placement,
    PowerState,
)
from ruchu.model.sources import ChangeRef, Consistency, Reason
from ruchu.platforms.contract import Capabilities, OpenRequest, SourcePoint

GRANULE = 64 << 10


@dataclass(slots=True)
class SimulatedMachine:
    """A machine: contents of its disks, and by checkpoint the granules written since.

    Attributes:
        lost: keys of disks whose map of changes is lost.
        forgetful: keys of disks whose map forgets what is written from now on.
        failure: raised instead of opening it.
        leftovers: what a dead run has left.
        read: bytes read of each disk, in all.
    """

    name: str
    id: str
    disks: dict[str, bytearray]
    dirty: dict[str, dict[str, set[int]]] = field(default_factory=dict)
    lost: set[str] = field(default_factory=set)
    forgetful: set[str] = field(default_factory=set)
    failure: BaseException | None = None
    leftovers: list[str] = field(default_factory=list)
    read: dict[str, int] = field(default_factory=dict)

    def write(self, key: str, start: int, content: bytes) -> None:
        """Write to a disk, as its guest does."""
        self.disks[key][start : start + len(content)] = content
        if key not in self.forgetful:
            touched = range(start // GRANULE, (start + len(content) - 1) // GRANULE + 1)
            for granules in self.dirty.values():
                granules.setdefault(key, set()).update(touched)

    def spec(self) -> MachineSpec:
        """Return what `describe` says."""
        disks = tuple(
            DiskSpec(key, len(content), "qcow2", f"/images/{self.name}-{key}")
            for key, content in self.disks.items()
        )
        nics = (NicSpec("52:54:00:00:00:01", "default"),)
        native = f"<domain><name>{self.name}</name></domain>"
        return MachineSpec(self.id, self.name, 2, 1 << 30, "bios", disks, nics, native, b"nvram")


@dataclass(slots=True)
class SimulatedDisk:
    """A disk at a frozen moment: a `SourceDisk`."""

    key: str
    content: bytes
    changes: list[Extent] | None
    machine: SimulatedMachine
    preferred_io: int = GRANULE

    @property
    def size(self) -> int:
        """Bytes of the disk."""
        return len(self.content)

    def read_into(self, start: int, buffer: memoryview) -> None:
        """Fill the buffer."""
        assert start + len(buffer) <= self.size
        buffer[:] = self.content[start : start + len(buffer)]
        self.machine.read[self.key] = self.machine.read.get(self.key, 0) + len(buffer)

    def extents(self) -> Iterator[Extent]:
        """Yield each granule, as data or as a hole."""
        for start in range(0, self.size, GRANULE):
            piece = self.content[start : start + GRANULE]
            yield Extent(start, len(piece), Content.DATA if any(piece) else Content.HOLE)

    def changed(self) -> Iterator[Extent] | None:
        """Yield what changed since the base."""
        return iter(self.changes) if self.changes is not None else None


@dataclass(slots=True)
class SimulatedSink:
    """A disk being restored: a `SinkDisk`."""

    key: str
    content: bytearray

    def write(self, start: int, buffer: memoryview) -> None:
        """Store the buffer."""
        self.content[start : start + len(buffer)] = buffer

    def zero(self, start: int, length: int) -> None:
        """Make the range zeros."""
        self.content[start : start + length] = bytes(length)

    def flush(self) -> None:
        """Nothing."""


@dataclass(slots=True)
class SimulatedRestore:
    """A machine being restored: a `RestoreSession`."""

    platform: "SimulatedPlatform"
    spec: MachineSpec
    sinks: Sequence[SimulatedSink]

    def finish(self) -> str:
        """Make the machine."""
        disks = {sink.key: sink.content for sink in self.sinks}
        machine = SimulatedMachine(self.spec.name, self.spec.id, disks)
        self.platform.machines[machine.id] = machine
        return machine.id


class SimulatedPlatform:
    """A `Platform`. `opened` counts the points that are open; `calls` is what was done, in order."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._kept: set[int] = set()
        self.machines: dict[str, SimulatedMachine] = {}
        self.opened = 0
        self.opened_most = 0
        self.calls: list[tuple[str, str]] = []

    def add(self, name: str, disks: dict[str, bytes]) -> SimulatedMachine:
        """Make a machine."""
        identity = f"id-{name}"
        contents = {key: bytearray(content) for key, content in disks.items()}
        self.machines[identity] = SimulatedMachine(name, identity, contents)
        return self.machines[identity]

    def capabilities(self) -> Capabilities:
        """Return what it can do."""
        return Capabilities("simulated", changed_blocks=True, quiesce=True)

    def inventory(self) -> list[MachineSummary]:
        """Return all machines."""
        return [
            MachineSummary(
                machine.id, machine.name, PowerState.RUNNING, 2, 1 << 30, len(machine.disks),
                sum(map(len, machine.disks.values())),
            )
            for machine in self.machines.values()
        ]  # fmt: skip

    def describe(self, machine: str) -> MachineSpec:
        """Return one machine by id or name."""
        return self._find(machine).spec()

    def _find(self, machine: str) -> SimulatedMachine:
        for found in self.machines.values():
            if machine in {found.id, found.name}:
                return found
        raise NotFound(f"(machine {machine!r})")

    def reconcile(self, machine: str, owner: str) -> list[str]:
        """Remove what was left."""
        found = self._find(machine)
        self.calls.append(("reconcile", found.name))
        assert owner
        done, found.leftovers = found.leftovers, []
        return done

    @contextlib.contextmanager
    def open_points(
        self, requests: Sequence[OpenRequest], order: str
    ) -> Iterator[list[SourcePoint | BaseException]]:
        """Open machines; on exit, checkpoints that were not kept are gone."""
        assert order in {"serial", "parallel", "barrier"}
        points = [self._open(request) for request in requests]
        with self._lock:
            self.opened += len(points)
            self.opened_most = max(self.opened_most, self.opened)
        try:
            yield points
        finally:
            with self._lock:
                self.opened -= len(points)
            for request, point in zip(requests, points, strict=True):
                if isinstance(point, SourcePoint):
                    self._close(self._find(request.machine), point)

    def _open(self, request: OpenRequest) -> SourcePoint | BaseException:
        machine = self._find(request.machine)
        self.calls.append(("open", machine.name))
        if machine.failure is not None:
            return machine.failure
        for name in set(machine.dirty) - set(request.keep):
            del machine.dirty[name]
        keys = request.disks or tuple(machine.disks)
        disks, reasons = [], []
        for key in keys:
            changes = self._changes(machine, key, request.base)
            if changes is None and request.base is not None:
                reasons.append(Reason("bitmap-lost", "the map is not there any more", key))
            disks.append(SimulatedDisk(key, bytes(machine.disks[key]), changes, machine))
        moment = ChangeRef(f"ruchu-{request.owner}-{len(self.calls)}", keys)
        machine.dirty[moment.name] = {}
        return SourcePoint(
            spec=machine.spec(), disks=disks, change_ref=moment,
            consistency=Consistency.FILESYSTEM if request.quiesce else Consistency.CRASH,
            degraded=tuple(reasons), frozen_s=0.25, time=self._clock.now(),
        )  # fmt: skip

    def _changes(
        self, machine: SimulatedMachine, key: str, base: ChangeRef | None
    ) -> list[Extent] | None:
        if base is None or base.name not in machine.dirty or key in machine.lost:
            return None
        if key not in base.disks:
            return None
        size = len(machine.disks[key])
        granules = sorted(machine.dirty[base.name].get(key, ()))
        return [
            Extent(number * GRANULE, min(GRANULE, size - number * GRANULE)) for number in granules
        ]

    def _close(self, machine: SimulatedMachine, point: SourcePoint) -> None:
        self.calls.append(("close", machine.name))
        if id(point) not in self._kept and point.change_ref is not None:
            machine.dirty.pop(point.change_ref.name, None)

    def keep_reference(self, point: SourcePoint) -> None:
        """Keep the checkpoint of a point."""
        self.calls.append(("keep", point.spec.name))
        self._kept.add(id(point))

    @contextlib.contextmanager
    def restore(self, spec: MachineSpec, placement: Placement) -> Iterator[SimulatedRestore]:
        """Begin to restore a machine."""
        if placement.name:
            spec = replace(spec, name=placement.name, id=f"id-{placement.name}")
        if spec.id in self.machines and not placement.replace:
            raise AlreadyExists(f"(machine {spec.name})")
        wanted = placement.disks or tuple(disk.key for disk in spec.disks)
        sinks = [
            SimulatedSink(disk.key, bytearray(disk.size))
            for disk in spec.disks
            if disk.key in wanted
        ]
        yield SimulatedRestore(self, spec, sinks)

    def power(self, machine: str, state: PowerState) -> None:
        """Not simulated."""
        raise PlatformError(f"{machine} stays as it is, not {state.value}")

    def delete(self, machine: str, *, disks: bool) -> None:
        """Remove a machine."""
        assert disks
        del self.machines[self._find(machine).id]

    def close(self) -> None:
        """Nothing."""
