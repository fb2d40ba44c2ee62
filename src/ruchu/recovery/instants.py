"""Instant restore: a point runs within seconds, from its storage, with a write cache before it.

An export (a process of its own) serves the disks; the platform runs a machine from them. The
document of the instant restore is written before anything is started and removed after everything
is gone, so what a crash leaves is always found: `resume` starts again what does not run.
"""

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ruchu import clock as clocks
from ruchu.clock import Clock
from ruchu.errors import ExportError, NotFound, UsageError
from ruchu.exports import control
from ruchu.model.ids import new_id
from ruchu.model.machines import MachineSpec, Placement, PowerState
from ruchu.platforms.contract import Platform
from ruchu.recovery import landings
from ruchu.recovery.full import machine_of
from ruchu.recovery.instant_records import Instant, Instants
from ruchu.repository.chains import Chain
from ruchu.repository.heads import Head

PROTOCOLS = ("nbd", "nfs")
# Opening a storage and a map takes a second; a slow one gets this.
EXPORT_LIMIT_S = 120.0
POLL_S = 0.02
AGENT_POLL_S = 0.2
LOG_TAIL = 2000
# The kernel connects to any address of it from 127.0.0.1.
LOOPBACK = "127.0.0.0/8"


@dataclass(frozen=True, slots=True)
class Launched:
    """An export that was started: tells whether it lives, what it said; `end` ends it."""

    alive: Callable[[], bool]
    said: Callable[[], str]
    end: Callable[[], None]


Launch = Callable[[Instant], Launched]


@dataclass(frozen=True, slots=True)
class Order:
    """What to start and how.

    Attributes:
        storage, platform: names, for the document.
        placement: name, processors, memory, networks, disks; `start` is taken as true.
        protocol: how the hypervisor reads the disks.
        host: NFS: the address to serve on; empty: a loopback address of its own.
        clients: NFS: networks that may connect; empty: this host.
        cache: directory for the write caches; empty: beside the document.
        agent_limit_s: wait so long for the guest agent; 0 does not wait.
        identity: the id that it gets; empty: a new one.
    """

    storage: str
    platform: str
    placement: Placement
    protocol: str = "nbd"
    host: str = ""
    clients: tuple[str, ...] = ()
    cache: str = ""
    agent_limit_s: float = 0.0
    identity: str = ""


@dataclass(frozen=True, slots=True)
class Started:
    """An instant restore that runs: seconds until it was served, started, answered (or None)."""

    instant: Instant
    served_s: float
    started_s: float
    agent_s: float | None


class InstantRestores:
    """The instant restores of one state directory."""

    def __init__(self, known: Instants, launch: Launch, clock: Clock = clocks.SYSTEM) -> None:
        self.known = known
        self._launch = launch
        self._clock = clock

    def start(self, platform: Platform, chain: Chain, head: Head, order: Order) -> Started:
        """Run a machine of a point on a platform.

        Raises:
            AlreadyExists: an instant restore or a machine of that name runs.
            UsageError, NotFound: the point holds no machine, or not the disks asked for.
            ExportError, PlatformError: it could not be; nothing is left behind.
        """
        began = self._clock.monotonic()
        spec = machine_of(chain, head)
        instant = self.known.add(self._planned(spec, head, order))
        with self.known.exclusive(instant):
            machine = ""
            try:
                self.known.prepare(instant)
                self._serve(instant)
                served_s = self._clock.monotonic() - began
                machine = platform.run_from(spec, order.placement, self.known.served(instant))
                instant = self.known.change(instant, machine=machine, state="running")
            except BaseException:
                self._take_back(platform, instant, machine)
                raise
            started_s = self._clock.monotonic() - began
        agent_s = None
        if order.agent_limit_s and self._agent_answers(platform, machine, order.agent_limit_s):
            agent_s = self._clock.monotonic() - began
        return Started(instant, served_s, started_s, agent_s)

    def _take_back(self, platform: Platform, instant: Instant, machine: str) -> None:
        """Remove what a start that failed has made."""
        if machine:
            platform.switch_off(machine)
            platform.delete(machine, disks=False)
        self._end_export(instant)
        self.known.remove(instant)

    def resume(self, platform: Platform, instant: Instant) -> list[str]:
        """Start again what does not run: the export, the machine. Returns what was done.

        One that was moved, and only not tidied up, is tidied up.

        Raises:
            NotFound: its machine was removed, or its start was interrupted before there was one.
            SourceBusy: another command works on it.
        """
        with self.known.exclusive(instant) as found:
            instant = self.settled(platform, found)
            if instant.state == "moved":
                self._tidy(platform, instant)
                return ["moved before; tidied up"]
            if not instant.machine or state_of(platform, instant) is None:
                hint = f"End it: `ruchu instant stop {instant.id[:8]}`."
                raise NotFound(f"(the machine of instant restore {instant.name})", hint=hint)
            return self._revive(platform, instant)

    def ready(self, platform: Platform, instant: Instant) -> None:
        """Bring an instant restore up that is to be migrated; a machine that is off stays off."""
        state = state_of(platform, instant)
        if state is None:
            raise NotFound(f"(the machine of instant restore {instant.name})")
        if not control.is_answering(self.known.control(instant)):
            self.known.prepare(instant)
            self._serve(instant)
        if state is PowerState.PAUSED:
            platform.revive(instant.machine)

    def _revive(self, platform: Platform, instant: Instant) -> list[str]:
        done = []
        if not control.is_answering(self.known.control(instant)):
            self.known.prepare(instant)
            self._serve(instant)
            done.append("export")
        if revived := platform.revive(instant.machine):
            done.append(f"machine {revived}")
        return done

    def settled(self, platform: Platform, instant: Instant, *, ending: bool = False) -> Instant:
        """Return an instant restore as it truly is, and note it: what a kill kept from being noted.

        A machine that was started is found by its name and its disks; one that has no served disk
        any more was moved. If it is off, the kill came within the switch, which takes it off one
        disk and has it go on from the other: it is started, unless all this is `ending` anyway.
        """
        if instant.state == "starting":
            machine = self._started(platform, instant)
            if machine:
                instant = self.known.change(instant, machine=machine, state="running")
        if (
            instant.state == "running"
            and state_of(platform, instant) is not None
            and not platform.served_disks(instant.machine)
        ):
            if not ending and state_of(platform, instant) is PowerState.OFF:
                platform.power(instant.machine, PowerState.RUNNING)
            instant = self.known.change(instant, state="moved")
        return instant

    def _started(self, platform: Platform, instant: Instant) -> str:
        """Return the id of the machine that an interrupted start has made; empty for none."""
        for machine in platform.inventory():
            if machine.name == instant.name and any(
                instant.id[:16] in f"{disk.socket}{disk.path}"
                for disk in platform.served_disks(machine.id)
            ):
                return machine.id
        return ""

    def stop(self, platform: Platform, instant: Instant, keep: Callable[[], None] | None) -> bool:
        """End an instant restore and remove what it took; return whether its machine was removed.

        A machine that was moved stays and runs on.

        Args:
            platform: where its machine is.
            instant: which.
            keep: called when the machine is off and the export has ended, before the write caches
                go; if it fails, they stay, and the instant restore too.

        Raises:
            UsageError: it was moved in part, so it runs from new disks, too; or it was moved, and
                there is nothing to keep.
            SourceBusy: another command works on it.
        """
        with self.known.exclusive(instant) as found:
            instant = self.settled(platform, found, ending=True)
            if instant.state == "moved":
                if keep is not None:
                    hint = "Back its machine up as any other; then stop without --keep."
                    raise UsageError(f"({instant.name} was moved)", hint=hint)
                self._tidy(platform, instant)
                return False
            there = bool(instant.machine) and state_of(platform, instant) is not None
            if there:
                self._require_unmoved(platform, instant)
                if keep is not None:
                    platform.power(instant.machine, PowerState.OFF)
                else:
                    platform.switch_off(instant.machine)
            self._end_export(instant)
            if keep is not None:
                keep()
            if there:
                # Somebody may remove it by hand.
                with contextlib.suppress(NotFound):
                    platform.delete(instant.machine, disks=False)
            self._tidy(platform, instant)
            return there

    def _require_unmoved(self, platform: Platform, instant: Instant) -> None:
        """Refuse a machine that some of its disks have left the export.

        Raises:
            UsageError: to end it would lose what it wrote to the disks that it has of its own.
        """
        served = {disk.key for disk in platform.served_disks(instant.machine, now=True)}
        if moved := sorted(set(instant.disks) - served):
            hint = "End the migration: `ruchu instant migrate`. Or remove the machine yourself."
            raise UsageError(f"({instant.name}: {', '.join(moved)} were moved already)", hint=hint)

    def _tidy(self, platform: Platform, instant: Instant) -> None:
        """End the export and remove all that is left; the machine is not touched."""
        self._end_export(instant)
        move = landings.of(self.known.folder(instant))
        if move.directory:
            platform.abandon(move.placement(instant), instant.token)
        self.known.remove(instant)

    def fields(self, instant: Instant) -> dict[str, Any]:
        """Return what there is to know of an instant restore, without asking its platform."""
        answer: dict[str, Any] = {}
        with contextlib.suppress(ExportError):
            answer = control.ask(self.known.control(instant), "status")
        return {
            "instant": instant.id,
            "name": instant.name,
            "machine": instant.machine,
            "state": instant.state,
            "export": "running" if answer else "stopped",
            "point": instant.point,
            "storage": instant.storage,
            "platform": instant.platform,
            "protocol": instant.protocol,
            "disks": list(instant.disks),
            "cache": instant.cache,
            "cache_bytes": answer.get("cache_bytes"),
            "since": instant.created,
        }

    def _planned(self, spec: MachineSpec, head: Head, order: Order) -> Instant:
        if order.protocol not in PROTOCOLS:
            raise UsageError(f"(--protocol {order.protocol!r})", hint=f"{' or '.join(PROTOCOLS)}.")
        wanted = order.placement.disks
        keys = tuple(disk.key for disk in spec.disks if not wanted or disk.key in wanted)
        if missing := set(wanted) - set(keys):
            raise NotFound(f"(disks {', '.join(sorted(missing))} of point {head.point[:8]})")
        identity = order.identity or new_id()
        host = order.host or _loopback(identity)
        return Instant(
            id=identity,
            state="starting",
            point=head.point,
            storage=order.storage,
            platform=order.platform,
            machine="",
            name=order.placement.name or spec.name,
            protocol=order.protocol,
            host=host,
            clients=order.clients or (host, *(() if order.host else (LOOPBACK,))),
            disks=keys,
            cache=self.known.cache_for(identity, order.cache),
            runtime=self.known.runtime_of(identity),
            created=clocks.to_text(self._clock.now()),
        )

    def _serve(self, instant: Instant) -> None:
        """Start the export and return when it answers."""
        process = self._launch(instant)
        try:
            self._wait_until_served(instant, process)
        except BaseException:
            process.end()
            raise

    def _wait_until_served(self, instant: Instant, process: Launched) -> None:
        path = self.known.control(instant)
        deadline = self._clock.monotonic() + EXPORT_LIMIT_S
        while not self._is_served(path):
            if not process.alive():
                raise ExportError(f"({process.said()[-LOG_TAIL:].strip()})")
            if self._clock.monotonic() > deadline:
                raise ExportError(f"(no answer after {EXPORT_LIMIT_S:g} s)")
            self._clock.sleep(POLL_S)

    @staticmethod
    def _is_served(path: Path) -> bool:
        """Tell whether clients may come; the control socket answers before they may."""
        try:
            return control.ask(path, "status").get("serving") is True
        except ExportError:
            return False

    def _end_export(self, instant: Instant) -> None:
        path = self.known.control(instant)
        if not control.is_answering(path):
            return
        control.ask(path, "stop")
        deadline = self._clock.monotonic() + EXPORT_LIMIT_S
        while control.is_answering(path):
            if self._clock.monotonic() > deadline:
                raise ExportError(f"(it does not end after {EXPORT_LIMIT_S:g} s)")
            self._clock.sleep(POLL_S)

    def _agent_answers(self, platform: Platform, machine: str, limit_s: float) -> bool:
        deadline = self._clock.monotonic() + limit_s
        while not platform.agent_answers(machine):
            if self._clock.monotonic() > deadline:
                return False
            self._clock.sleep(AGENT_POLL_S)
        return True


def state_of(platform: Platform, instant: Instant) -> PowerState | None:
    """Return the state of the machine of an instant restore; None if it is gone."""
    for machine in platform.inventory():
        if machine.id == instant.machine:
            return machine.state
    return None


def log_text(path: Path) -> str:
    """Return the end of what an export said."""
    try:
        return path.read_text(errors="replace")[-LOG_TAIL:]
    except OSError as error:
        return str(error)


def _loopback(identity: str) -> str:
    """Return a loopback address of its own: the portmapper's port is one for each address."""
    numbers = bytes.fromhex(identity[:6])
    return f"127.{1 + numbers[0] % 254}.{numbers[1]}.{1 + numbers[2] % 254}"
