"""The libvirt platform: what `contract.Platform` asks for, put together.

What is verified where is said in `docs/` and in the support matrix: `qemu:///system` is tested with
real QEMU; `qemu+ssh://` runs the same code over OpenSSH; `qemu+tls://` is refused, as the files of
such a host cannot be reached.
"""

import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager
from typing import Self

from ruchu.clock import SYSTEM, Clock
from ruchu.errors import GuestAgentError, NotFound, SourceBusy
from ruchu.model.machines import (
    MachineSpec,
    MachineSummary,
    Placement,
    PowerState,
    ServedDisk,
)
from ruchu.platforms.contract import (
    Capabilities,
    GuestChannel,
    Landing,
    Mirrored,
    Offers,
    OpenRequest,
    RestoreSession,
    SourcePoint,
)
from ruchu.platforms.libvirt import (
    agent,
    hosts,
    instants,
    inventory,
    landing,
    leftovers,
    machines,
    mirroring,
    naming,
    offers,
    power,
    quiesce,
    screens,
    snapshots,
)
from ruchu.platforms.libvirt.capture import Capture, Settings, Target
from ruchu.platforms.libvirt.client import Client, translated
from ruchu.platforms.libvirt.offline import OfflineCapture
from ruchu.platforms.libvirt.running import RunningCapture

DEFAULT_URI = "qemu:///system"
# Beside libvirt's own files; QEMU writes scratch files there.
DEFAULT_DIRECTORY = "/var/lib/libvirt/ruchu"
# Databases stand still meanwhile; VSS gives writers 10 s, too.
FREEZE_LIMIT_S = 10.0
# A guest that runs services needs a minute or so to end them.
SHUTDOWN_LIMIT_S = 90.0
# NBD connections for each disk; two already fill two cores.
CONNECTIONS = 4
# backupBegin with a bitmap and a mode for each disk: libvirt 7.10 with QEMU 4.2.
LIBVIRT_MIN = 7_010_000
QEMU_MIN = 4_002_000


class LibvirtPlatform:
    """QEMU machines of one libvirt host. Safe to use from several threads. A context manager."""

    def __init__(
        self,
        uri: str = DEFAULT_URI,
        *,
        scratch_directory: str = DEFAULT_DIRECTORY,
        socket_directory: str = DEFAULT_DIRECTORY,
        freeze_limit_s: float = FREEZE_LIMIT_S,
        shutdown_limit_s: float = SHUTDOWN_LIMIT_S,
        clock: Clock = SYSTEM,
    ) -> None:
        """Name the host; nothing is opened yet.

        Args:
            uri: libvirt URI: `qemu:///system`, `qemu:///session`, `qemu+ssh://user@host/system`.
            scratch_directory: on that host, writable by QEMU, with room for what guests overwrite
                while they are read.
            socket_directory: on that host, short (socket paths have 107 bytes).
            freeze_limit_s: a guest frozen for longer is thawed, come what may.
            shutdown_limit_s: a guest that ignores a shutdown for so long is switched off.
            clock: for names and time limits.

        Raises:
            Unsupported: the files of that host cannot be reached.
        """
        self._client = Client(uri)
        self._shutdown_limit_s = shutdown_limit_s
        self._settings = Settings(
            host=hosts.host_of(uri, clock),
            clock=clock,
            scratch_directory=scratch_directory.rstrip("/"),
            socket_directory=socket_directory.rstrip("/"),
            freeze_limit_s=freeze_limit_s,
            connections=CONNECTIONS,
        )
        self._lock = threading.Lock()
        # Points that are open, by identity: two of the same moment may be equal.
        self._open: dict[int, Capture] = {}
        # Machines with open points: a second run of ours would take their jobs for stale.
        self._busy: set[str] = set()

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Close it."""
        self.close()

    def capabilities(self) -> Capabilities:
        """Return what this host can do."""
        connection = self._client.connection()
        with translated("version"):
            library, hypervisor = connection.getLibVersion(), connection.getVersion()
        tracked = library >= LIBVIRT_MIN and hypervisor >= QEMU_MIN
        notes = ["raw disks are read in full"]
        if not tracked:
            notes.append("no backup jobs: libvirt 7.10 and QEMU 4.2 are needed")
        version = f"libvirt {_version(library)}, QEMU {_version(hypervisor)}"
        return Capabilities(version, changed_blocks=tracked, quiesce=True, notes=tuple(notes))

    def inventory(self) -> list[MachineSummary]:
        """Return all machines."""
        return inventory.summaries(self._client.connection())

    def describe(self, machine: str) -> MachineSpec:
        """Return one machine by id or name. Its native definition holds its passwords."""
        return inventory.describe(self._client.domain(machine), self._settings.host)

    def reconcile(self, machine: str, owner: str) -> list[str]:
        """Remove stale jobs, freezes, scratch files, sockets and servers of ours.

        Checkpoints are pruned by `open_points`, which is told which are still needed.
        """
        domain = self._client.domain(machine)
        with translated(f"machine {machine}"), self._reserved(domain.UUIDString()):
            return leftovers.reconcile(
                domain,
                owner,
                self._settings.host,
                self._settings.directories,
                self._settings.clock,
            )

    @contextlib.contextmanager
    def open_points(
        self, requests: Sequence[OpenRequest], order: str
    ) -> Iterator[list[SourcePoint | BaseException]]:
        """Freeze and open several machines in the order `serial`, `parallel` or `barrier`."""
        mine: list[int] = []

        def created(point: SourcePoint, capture: Capture) -> None:
            with self._lock:
                self._open[id(point)] = capture
                mine.append(id(point))

        with contextlib.ExitStack() as stack:
            prepared = [self._capture(request, stack) for request in requests]
            try:
                with snapshots.opened(prepared, order, created) as points:
                    yield points
            finally:
                with self._lock:
                    for number in mine:
                        del self._open[number]

    def keep_reference(self, point: SourcePoint) -> None:
        """Say that the point was committed: its change reference is to be kept.

        Raises:
            NotFound: the point is not open.
        """
        with self._lock:
            capture = self._open.get(id(point))
        if capture is None:
            raise NotFound("this point is not open")
        capture.keep()

    def restore(
        self, spec: MachineSpec, placement: Placement
    ) -> AbstractContextManager[RestoreSession]:
        """Begin to restore a machine. Leaving without `finish` removes everything created."""
        return machines.Restore(self._client, self._settings, spec, placement)

    def run_from(self, spec: MachineSpec, placement: Placement, disks: Sequence[ServedDisk]) -> str:
        """Define a machine whose disks are served from elsewhere, and start it; return its id."""
        return instants.run(self._client, self._settings, spec, placement, tuple(disks))

    def mirror(
        self,
        machine: str,
        placement: Placement,
        watch: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> Mirrored:
        """Move a machine that runs from served disks into images, by block copy and pivot."""
        domain = self._client.domain(machine)
        targets = instants.targets(domain, placement)
        return mirroring.mirror(self._client, self._settings, domain, targets, watch, cancelled)

    def landing(
        self, machine: str, placement: Placement, token: str
    ) -> AbstractContextManager[Landing]:
        """Begin to move a machine that runs from served disks into images, by our means."""
        domain = self._client.domain(machine)
        targets = instants.targets(domain, placement)
        return landing.DiskLanding(self._client, self._settings, domain, targets, token)

    def abandon(self, placement: Placement, token: str) -> None:
        """Remove the images that interrupted moves have left."""
        landing.abandon(self._settings, placement, token)

    def served_disks(self, machine: str, *, now: bool = False) -> tuple[ServedDisk, ...]:
        """Return the disks that a machine has from a server, now or at its next start."""
        return instants.served_disks(self._client.domain(machine), now=now)

    def revive(self, machine: str) -> str:
        """Let a machine go on whose served disks were gone for a while."""
        return power.revive(self._client.domain(machine), self._settings.clock)

    def socket_owner(self) -> str:
        """Return the number of QEMU's user on this host; empty if it is root or not told."""
        return instants.qemu_user(self._client)

    def agent_answers(self, machine: str) -> bool:
        """Tell whether the guest agent of a running machine answers."""
        return agent.answers(self._client.domain(machine))

    def guest_channel(self, machine: str) -> GuestChannel:
        """Return the way to files and programs of a running machine."""
        domain = self._client.domain(machine)
        if not agent.answers(domain):
            hint = "Check that the machine runs, and qemu-guest-agent in it."
            raise GuestAgentError(f"(machine {machine!r})", hint=hint)
        return agent.AgentChannel(domain, self._settings.clock)

    def picture(self, machine: str) -> bytes:
        """Return what the display of a running machine shows, as PNG."""
        return screens.picture(self._client, machine)

    def offers(self) -> Offers:
        """Return the networks and storage pools of this host."""
        return offers.offers(self._client.connection())

    def power(self, machine: str, state: PowerState) -> None:
        """Bring a machine to a power state and return when it is reached."""
        domain = self._client.domain(machine)
        power.bring_to(domain, state, self._settings.clock, self._shutdown_limit_s)

    def switch_off(self, machine: str) -> None:
        """Switch a machine off at once."""
        power.bring_to(self._client.domain(machine), PowerState.OFF, self._settings.clock, 0)

    def delete(self, machine: str, *, disks: bool) -> None:
        """Remove a machine that is off, with its disks if asked."""
        power.remove(self._client.domain(machine), self._settings.host, disks=disks)

    def close(self) -> None:
        """Give the connection back."""
        self._client.close()
        self._settings.host.close()

    @contextlib.contextmanager
    def _reserved(self, identity: str) -> Iterator[None]:
        with self._lock:
            if identity in self._busy:
                raise SourceBusy(f"machine {identity} is being read by this process")
            self._busy.add(identity)
        try:
            yield
        finally:
            with self._lock:
                self._busy.discard(identity)

    def _capture(
        self, request: OpenRequest, stack: contextlib.ExitStack
    ) -> Capture | BaseException:
        try:
            naming.check_owner(request.owner)
            domain = self._client.domain(request.machine)
            target = Target(domain, inventory.describe(domain, self._settings.host), request)
            stack.enter_context(self._reserved(target.spec.id))
            with translated(f"machine {request.machine}"):
                off = quiesce.state(domain) is PowerState.OFF
            kind = OfflineCapture if off else RunningCapture
            return kind(target, self._settings)
        except Exception as error:  # noqa: BLE001 - takes the place of this machine's point
            return error


def _version(number: int) -> str:
    return f"{number // 1_000_000}.{number // 1000 % 1000}.{number % 1000}"
