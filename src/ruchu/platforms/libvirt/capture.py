"""One machine of one call of `open_points`: what both kinds of machines share."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from ruchu.clock import Clock
from ruchu.model.machines import MachineSpec
from ruchu.platforms.contract import OpenRequest, SourcePoint
from ruchu.platforms.libvirt.client import Domain
from ruchu.platforms.libvirt.hosts import Host


@dataclass(frozen=True, slots=True)
class Settings:
    """What the platform was configured with.

    Attributes:
        host: where QEMU runs.
        clock: for names and time limits.
        scratch_directory: on the host; QEMU writes what the guest overwrites meanwhile.
        socket_directory: on the host.
        freeze_limit_s: after this a frozen guest is thawed, come what may.
        connections: per disk.
    """

    host: Host
    clock: Clock
    scratch_directory: str
    socket_directory: str
    freeze_limit_s: float
    connections: int

    @property
    def directories(self) -> frozenset[str]:
        """The directories that hold files of ours."""
        return frozenset({self.scratch_directory, self.socket_directory})


@dataclass(frozen=True, slots=True)
class Target:
    """A machine and what is asked of it. `spec` is as it was when it was looked up."""

    domain: Domain
    spec: MachineSpec
    request: OpenRequest

    def keeps(self, *more: str) -> Iterable[str]:
        """Return the names of the checkpoints that stay."""
        return {name for name in (*self.request.keep, *more) if name}


class Capture(Protocol):
    """Freezes and opens one machine. The steps are called in this order, each once at most."""

    def prepare(self) -> None:
        """Remove what is stale and decide what is read how. Nothing is frozen yet."""

    def freeze(self) -> None:
        """Freeze the guest's file systems."""

    def begin(self) -> None:
        """Take the moment."""

    def thaw(self) -> None:
        """Thaw the guest; called whatever happened, also when nothing was frozen."""

    def connect(self) -> SourcePoint:
        """Return the point."""

    def keep(self) -> None:
        """Remember that the point was committed."""

    def close(self) -> None:
        """End everything; called whatever happened."""
