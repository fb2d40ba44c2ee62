"""What every platform offers. The workflows know only this."""

import datetime
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ruchu.blocks.devices import BlockReader, BlockWriter
from ruchu.model.extents import Extent
from ruchu.model.machines import MachineSpec, MachineSummary, Placement, PowerState
from ruchu.model.sources import ChangeRef, Consistency, Reason


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this platform, at this version, can do."""

    version: str
    changed_blocks: bool
    quiesce: bool
    notes: tuple[str, ...] = ()


class SourceDisk(BlockReader, Protocol):
    """A disk of a machine at one frozen moment."""

    @property
    def key(self) -> str:
        """The disk's key in the machine, such as `vda`."""

    def changed(self) -> Iterator[Extent] | None:
        """Yield what changed since the base, sorted, as DATA or ZERO extents.

        None: change tracking is lost or absent, read the allocated extents instead. The reason
        is in `SourcePoint.degraded`.
        """


@dataclass(frozen=True, slots=True)
class SourcePoint:
    """One machine, frozen at one moment.

    Attributes:
        spec: the machine as it was at that moment.
        disks: the disks that were asked for.
        change_ref: names this moment for the next incremental; None if it cannot be named.
        consistency: what was reached.
        degraded: why something is weaker than asked.
        frozen_s: seconds that the guest's file systems stood still.
        time: the moment that the disks show, by the clock of this host.
    """

    spec: MachineSpec
    disks: Sequence[SourceDisk]
    change_ref: ChangeRef | None
    consistency: Consistency
    degraded: tuple[Reason, ...]
    frozen_s: float
    time: datetime.datetime


@dataclass(frozen=True, slots=True)
class OpenRequest:
    """Which moment of which machine to open.

    Attributes:
        machine: id or name.
        owner: mark that every snapshot, checkpoint and scratch file of ours carries.
        disks: keys; empty means all.
        base: changes are wanted since this moment; None for a full.
        quiesce: freeze the guest's file systems if the agent is there.
        require_quiesce: fail instead of falling back to a crash-consistent point.
        keep: change references that later runs still need (parents of the kept points).
    """

    machine: str
    owner: str
    disks: tuple[str, ...] = ()
    base: ChangeRef | None = None
    quiesce: bool = True
    require_quiesce: bool = False
    keep: tuple[str, ...] = ()


class SinkDisk(BlockWriter, Protocol):
    """A new disk on the platform, being written. Reads as zeros where nothing was written."""

    @property
    def key(self) -> str:
        """The disk's key in the machine."""


class RestoreSession(Protocol):
    """A machine being restored: disks are written, then it is defined."""

    @property
    def sinks(self) -> Sequence[SinkDisk]:
        """One sink for each restored disk, in the order of the specification."""

    def finish(self) -> str:
        """Flush, put the disks in place, define the machine; return its id."""


class Platform(Protocol):
    """A virtualization platform. Safe to use from several threads."""

    def capabilities(self) -> Capabilities:
        """Return what it can do."""

    def inventory(self) -> list[MachineSummary]:
        """Return all machines. A listing that fails raises."""

    def describe(self, machine: str) -> MachineSpec:
        """Return one machine by id or name."""

    def reconcile(self, machine: str, owner: str) -> list[str]:
        """Remove stale jobs, scratch files and unknown checkpoints of ours; say what was done.

        Always called before anything is frozen.
        """

    def open_points(
        self, requests: Sequence[OpenRequest], order: str
    ) -> AbstractContextManager[list[SourcePoint | BaseException]]:
        """Freeze and open several machines in the order `serial`, `parallel` or `barrier`.

        A machine that fails takes the place of its point with the error; the others go on.
        On exit every snapshot is removed. The change reference of a point stays on the source
        only if `keep_reference` was called for it.
        """

    def keep_reference(self, point: SourcePoint) -> None:
        """Say that the point was committed: its change reference is to be kept."""

    def restore(
        self, spec: MachineSpec, placement: Placement
    ) -> AbstractContextManager[RestoreSession]:
        """Begin to restore a machine. Leaving without `finish` removes everything created."""

    def power(self, machine: str, state: PowerState) -> None:
        """Bring a machine to a power state and return when it is reached."""

    def delete(self, machine: str, *, disks: bool) -> None:
        """Remove a machine, with its disks if asked."""

    def close(self) -> None:
        """Give the connection back."""
