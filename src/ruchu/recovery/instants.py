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
from ruchu.model.machines import Placement, PowerState
from ruchu.platforms.contract import Platform
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
    """An export that was started: tells whether it lives, and what it said."""

    alive: Callable[[], bool]
    said: Callable[[], str]


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
    """

    storage: str
    platform: str
    placement: Placement
    protocol: str = "nbd"
    host: str = ""
    clients: tuple[str, ...] = ()
    cache: str = ""
    agent_limit_s: float = 0.0


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
            UsageError, NotFound: the point holds no machine, or not the disks asked for.
            ExportError, PlatformError: it could not be; nothing is left behind.
        """
        began = self._clock.monotonic()
        instant = self._planned(chain, head, order)
        spec = machine_of(chain, head)
        self.known.prepare(instant)
        self.known.store(instant)
        try:
            self._serve(instant)
            served_s = self._clock.monotonic() - began
            disks = self.known.served(instant)
            machine = platform.run_from(spec, order.placement, disks)
            instant = self.known.change(instant, machine=machine, state="running")
        except BaseException:
            self._end_export(instant)
            self.known.remove(instant)
            raise
        started_s = self._clock.monotonic() - began
        agent_s = None
        if order.agent_limit_s and self._agent_answers(platform, machine, order.agent_limit_s):
            agent_s = self._clock.monotonic() - began
        return Started(instant, served_s, started_s, agent_s)

    def resume(self, platform: Platform, instant: Instant) -> list[str]:
        """Start again what does not run: the export, the machine. Returns what was done."""
        done = []
        if not control.is_answering(self.known.control(instant)):
            self.known.prepare(instant)
            self._serve(instant)
            done.append("export")
        if instant.machine and (revived := platform.revive(instant.machine)):
            done.append(f"machine {revived}")
        return done

    def stop(self, platform: Platform, instant: Instant, keep: Callable[[], None] | None) -> None:
        """End an instant restore and remove what it took.

        Args:
            platform: where its machine is.
            instant: which.
            keep: called when the machine is off and the export has ended, before the write caches
                go; if it fails, they stay, and the instant restore too.
        """
        if instant.machine and instant.state != "moved":
            state = state_of(platform, instant)
            if state is not None:
                if keep is not None:
                    platform.power(instant.machine, PowerState.OFF)
                else:
                    platform.switch_off(instant.machine)
        self._end_export(instant)
        if keep is not None:
            keep()
        if instant.machine and instant.state != "moved":
            # Somebody may have removed it by hand.
            with contextlib.suppress(NotFound):
                platform.delete(instant.machine, disks=False)
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

    def _planned(self, chain: Chain, head: Head, order: Order) -> Instant:
        if order.protocol not in PROTOCOLS:
            raise UsageError(f"(--protocol {order.protocol!r})", hint=f"{' or '.join(PROTOCOLS)}.")
        spec = machine_of(chain, head)
        wanted = order.placement.disks
        keys = tuple(disk.key for disk in spec.disks if not wanted or disk.key in wanted)
        if missing := set(wanted) - set(keys):
            raise NotFound(f"(disks {', '.join(sorted(missing))} of point {head.point[:8]})")
        identity = new_id()
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
            cache=order.cache or str(self.known.directory / identity / "cache"),
            created=clocks.to_text(self._clock.now()),
        )

    def _serve(self, instant: Instant) -> None:
        """Start the export and return when it answers."""
        process = self._launch(instant)
        path = self.known.control(instant)
        deadline = self._clock.monotonic() + EXPORT_LIMIT_S
        while not (path.exists() and control.is_answering(path)):
            if not process.alive():
                raise ExportError(f"({process.said()[-LOG_TAIL:].strip()})")
            if self._clock.monotonic() > deadline:
                raise ExportError(f"(no answer after {EXPORT_LIMIT_S:g} s)")
            self._clock.sleep(POLL_S)

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
