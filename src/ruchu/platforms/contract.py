"""What every platform offers. The workflows know only this."""

import datetime
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Protocol

from ruchu.blocks.devices import BlockReader, BlockWriter
from ruchu.model.extents import Extent
from ruchu.model.machines import (
    MachineSpec,
    MachineSummary,
    Placement,
    PowerState,
    ServedDisk,
)
from ruchu.model.sources import ChangeRef, Consistency, Reason


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What this platform, at this version, can do."""

    version: str
    changed_blocks: bool
    quiesce: bool
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Place:
    """A directory for images on a platform: what it is called, its path, its free bytes."""

    name: str
    path: str
    free: int


@dataclass(frozen=True, slots=True)
class Offers:
    """What a platform offers to a machine that comes: names of networks, places for images."""

    networks: tuple[str, ...] = ()
    places: tuple[Place, ...] = ()


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


class Landing(Protocol):
    """New disks of a machine that runs from served ones, and the switch over to them."""

    @property
    def sinks(self) -> Sequence[SinkDisk]:
        """One sink for each disk, in the order of the machine."""

    @property
    def continued(self) -> bool:
        """Whether the disks were begun by an earlier landing of the same token."""

    def pause(self) -> None:
        """Hold the machine: when this returns, all that it wrote has reached its disks."""

    def resume(self) -> None:
        """Let the machine go on where it is, after `pause`."""

    def switch(self) -> bool:
        """Let the paused machine go on from the new disks, for good.

        Returns:
            Whether it went on with its memory; otherwise it was started anew.

        Raises:
            PlatformError: it could not; it is still paused where it was.
        """

    def abandon(self) -> None:
        """Remove the new disks; without this, leaving keeps them for the next landing."""


@dataclass(frozen=True, slots=True)
class Mirrored:
    """What a migration by the hypervisor did: bytes of the disks, seconds of the last step."""

    size: int
    pivot_s: float


@dataclass(frozen=True, slots=True)
class GuestRun:
    """How a program in a guest ended: its exit status, what it printed and what it said."""

    status: int
    output: bytes
    said: str


class GuestChannel(Protocol):
    """Files and programs of a running guest. For one thread.

    Raises:
        GuestAgentError: of any method: the guest refused, or does not answer.
    """

    def open(self, path: str) -> int:
        """Open a file to be written, and make it empty; return a handle."""

    def write(self, handle: int, content: memoryview) -> None:
        """Write all of the bytes behind what was written before."""

    def close(self, handle: int) -> None:
        """Flush and close a file."""

    def run(self, program: str, arguments: Sequence[str]) -> GuestRun:
        """Run a program of the guest to its end; no shell is involved."""


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

    def run_from(self, spec: MachineSpec, placement: Placement, disks: Sequence[ServedDisk]) -> str:
        """Define a machine whose disks are served from elsewhere, and start it; return its id.

        It gets a new identity if the old one is in use. A failure leaves nothing behind.

        Raises:
            AlreadyExists: a machine of that name exists.
            Unsupported: the platform cannot reach disks that way.
        """

    def mirror(
        self,
        machine: str,
        placement: Placement,
        watch: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> Mirrored:
        """Move a machine that runs from served disks to own ones, by the hypervisor's means.

        The machine runs on all the time. Only disks that are served yet are moved, so that a
        second call goes on after a first one that failed.

        Args:
            machine: its id.
            placement: directory and format of the new disks.
            watch: told bytes done and bytes in all.
            cancelled: asked now and then.

        Raises:
            Cancelled: the machine runs on where it was; nothing is left behind.
        """

    def landing(
        self, machine: str, placement: Placement, token: str
    ) -> AbstractContextManager[Landing]:
        """Begin to move a machine that runs from served disks to own ones, by our means.

        Args:
            machine: its id.
            placement: directory and format of the new disks.
            token: names this migration: a second landing with it goes on with the same disks.
        """

    def abandon(self, placement: Placement, token: str) -> None:
        """Remove the new disks that interrupted moves have left; those in use always stay.

        Args:
            placement: name of the machine, keys of its disks, directory and format of the new ones.
            token: of the landing.
        """

    def served_disks(self, machine: str, *, now: bool = False) -> tuple[ServedDisk, ...]:
        """Return the disks that a machine has from a server, now or at its next start.

        With `now`, only those that it has from a server while it runs as it does (if it is off:
        at its next start). A move that was interrupted has left the others to the next start.

        Raises:
            NotFound: there is no such machine.
        """

    def revive(self, machine: str) -> str:
        """Let a machine go on whose served disks were gone for a while.

        Returns:
            What was done: empty if it runs; `resumed` with its memory; `started`; `restarted` if
            the hypervisor has lost its disks for good, as if the power had been cut.
        """

    def socket_owner(self) -> str:
        """Return the user (name or number) that connects to unix sockets; empty: root, or none."""

    def agent_answers(self, machine: str) -> bool:
        """Tell whether the guest agent of a running machine answers."""

    def guest_channel(self, machine: str) -> GuestChannel:
        """Return the way to files and programs of a running machine.

        Raises:
            GuestAgentError: its agent does not answer.
        """

    def picture(self, machine: str) -> bytes:
        """Return what the display of a running machine shows, as PNG.

        Raises:
            SourceBusy: it does not run.
            Unsupported: it has no display.
        """

    def offers(self) -> Offers:
        """Return what it offers to a machine that comes."""

    def power(self, machine: str, state: PowerState) -> None:
        """Bring a machine to a power state and return when it is reached."""

    def switch_off(self, machine: str) -> None:
        """Switch a machine off at once, as if the power were cut; no error if it is off."""

    def delete(self, machine: str, *, disks: bool) -> None:
        """Remove a machine, with its disks if asked."""

    def close(self) -> None:
        """Give the connection back."""
