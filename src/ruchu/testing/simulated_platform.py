"""A virtualization platform in memory, with machines whose disks a test writes to.

Changes are tracked by checkpoints, as libvirt does it, in granules of 64 KiB. A test can break a
map, make one forget changes, let a machine fail, and see what was left on the source.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

from ruchu.blocks import copying, nbd
from ruchu.clock import Clock
from ruchu.errors import AlreadyExists, Cancelled, NotFound, SourceBusy
from ruchu.model.extents import Content, Extent
from ruchu.model.machines import (
    DiskSpec,
    MachineSpec,
    MachineSummary,
    NicSpec,
    Placement,
    PowerState,
    ServedDisk,
)
from ruchu.model.sources import ChangeRef, Consistency, Reason
from ruchu.platforms import pictures
from ruchu.platforms.contract import Capabilities, Mirrored, Offers, OpenRequest, SourcePoint

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
        served: its disks that come from a server; the others are in `disks`.
        running: held while its guest writes, and while it is paused or switched.
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
    state: PowerState = PowerState.RUNNING
    served: dict[str, ServedDisk] = field(default_factory=dict)
    running: threading.RLock = field(default_factory=threading.RLock)

    def write(self, key: str, start: int, content: bytes) -> None:
        """Write to a disk, as its guest does."""
        self.disks[key][start : start + len(content)] = content
        if key not in self.forgetful:
            touched = range(start // GRANULE, (start + len(content) - 1) // GRANULE + 1)
            for granules in self.dirty.values():
                granules.setdefault(key, set()).update(touched)

    def spec(self) -> MachineSpec:
        """Return what `describe` says; the size of a served disk is not known here."""
        sizes = {key: len(content) for key, content in self.disks.items()}
        sizes = {**dict.fromkeys(self.served, 0), **sizes}
        disks = tuple(
            DiskSpec(key, size, "qcow2", f"/images/{self.name}-{key}")
            for key, size in sizes.items()
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


class SimulatedLanding:
    """New disks of a machine that runs from served ones: a `Landing`."""

    def __init__(
        self, machine: SimulatedMachine, sinks: Sequence[SimulatedSink], *, continued: bool
    ) -> None:
        self._machine = machine
        self.sinks = sinks
        self.continued = continued

    def pause(self) -> None:
        """Hold the machine; a write that is under way comes first."""
        with self._machine.running:
            self._machine.state = PowerState.PAUSED

    def resume(self) -> None:
        """Let it go on."""
        self._machine.state = PowerState.RUNNING

    def switch(self) -> bool:
        """Let it go on from the new disks."""
        with self._machine.running:
            assert self._machine.state is PowerState.PAUSED
            self._machine.disks = {sink.key: sink.content for sink in self.sinks}
            self._machine.served = {}
            self._machine.state = PowerState.RUNNING
        return True

    def abandon(self) -> None:
        """Forget what was written."""
        for sink in self.sinks:
            sink.content[:] = bytes(len(sink.content))


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
        # New disks of landings, which outlive the process that writes them.
        self.landed: dict[tuple[str, str, str, str], bytearray] = {}

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
                machine.id, machine.name, machine.state, 2, 1 << 30, len(machine.disks),
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

    def run_from(self, spec: MachineSpec, placement: Placement, disks: Sequence[ServedDisk]) -> str:
        """Make a machine of served disks."""
        name = placement.name or spec.name
        if any(machine.name == name for machine in self.machines.values()):
            raise AlreadyExists(f"(machine {name})")
        served = {disk.key: disk for disk in disks}
        machine = SimulatedMachine(name, f"id-{name}", {}, served=served)
        self.machines[machine.id] = machine
        self.calls.append(("run", name))
        return machine.id

    def mirror(
        self,
        machine: str,
        placement: Placement,
        watch: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> Mirrored:
        """Copy the served disks, one after the other, while the guest is held."""
        del placement
        found = self._find(machine)
        size = 0
        for key, disk in list(found.served.items()):
            if cancelled():
                raise Cancelled
            with found.running, nbd.NbdDisk(_address(disk)) as source:
                sink = SimulatedSink(key, bytearray(source.size))
                copying.copy(source, source.extents(), sink)
                found.disks[key] = sink.content
                del found.served[key]
            size += len(sink.content)
            watch(size, size)
        return Mirrored(size, 0.0)

    @contextlib.contextmanager
    def landing(self, machine: str, placement: Placement, token: str) -> Iterator[SimulatedLanding]:
        """Begin to move a machine, or go on."""
        found = self._find(machine)
        names = {key: (token, placement.directory, placement.format, key) for key in found.served}
        continued = all(name in self.landed for name in names.values())
        sinks = []
        for key, name in names.items():
            if not continued:
                with nbd.NbdDisk(_address(found.served[key])) as disk:
                    self.landed[name] = bytearray(disk.size)
            sinks.append(SimulatedSink(key, self.landed[name]))
        yield SimulatedLanding(found, sinks, continued=continued)
        for name in names.values():
            if not found.served:
                del self.landed[name]

    def abandon(self, placement: Placement, token: str) -> None:
        """Forget new disks."""
        for key in placement.disks:
            self.landed.pop((token, placement.directory, placement.format, key), None)

    def served_disks(self, machine: str, *, now: bool = False) -> tuple[ServedDisk, ...]:
        """Return the disks that are served."""
        del now
        return tuple(self._find(machine).served.values())

    def revive(self, machine: str) -> str:
        """Let a machine go on."""
        found = self._find(machine)
        before, found.state = found.state, PowerState.RUNNING
        return {PowerState.RUNNING: "", PowerState.PAUSED: "resumed", PowerState.OFF: "started"}[
            before
        ]

    def socket_owner(self) -> str:
        """Return nobody."""
        return ""

    def agent_answers(self, machine: str) -> bool:
        """Tell whether it runs."""
        return self._find(machine).state is PowerState.RUNNING

    def picture(self, machine: str) -> bytes:
        """Return a black pixel."""
        self._find(machine)
        return pictures.png(b"P6 1 1 255\n" + bytes(3))

    def offers(self) -> Offers:
        """Return one network."""
        return Offers(networks=("default",))

    def power(self, machine: str, state: PowerState) -> None:
        """Bring a machine to a state."""
        found = self._find(machine)
        with found.running:
            found.state = state
        self.calls.append((state.value, found.name))

    def switch_off(self, machine: str) -> None:
        """Switch a machine off."""
        self.power(machine, PowerState.OFF)

    def delete(self, machine: str, *, disks: bool) -> None:
        """Remove a machine that is off; one that is not served from elsewhere has its disks here."""
        found = self._find(machine)
        if found.served and found.state is not PowerState.OFF:
            raise SourceBusy(f"{found.name} runs")
        assert disks or found.served
        del self.machines[found.id]

    def close(self) -> None:
        """Nothing."""


def _address(disk: ServedDisk) -> nbd.Address:
    return nbd.Address(export=disk.path, path=disk.socket)
