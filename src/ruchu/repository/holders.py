"""Who holds a lock or a lease, and whether that process still lives."""

import os
import platform
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Protocol

from ruchu.errors import Damaged


@dataclass(frozen=True, slots=True)
class Holder:
    """A process on a host.

    Attributes:
        host: name of the host and its machine id, so that clones with one name differ.
        boot: id of the boot, and of the process namespace: where `pid` means something.
        pid: process id.
        started: start of the process in clock ticks since the boot, so that a reused pid differs.
    """

    host: str
    boot: str
    pid: int
    started: int

    def fields(self) -> dict[str, Any]:
        """Return it for a document."""
        return asdict(self)

    def __str__(self) -> str:
        host = self.host.split("/")[0]
        return f"process {self.pid} on {host}" if self.pid else host


UNKNOWN = Holder("an unknown host", "", 0, 0)
"""Whoever wrote a lock that cannot be read; never surely dead."""

NOBODY = Holder("this host", "", 0, 0)
"""What is needed here although nothing runs."""


def parse(name: str, value: dict[str, Any]) -> Holder:
    """Return the holder in a document."""
    try:
        return Holder(
            str(value["host"]), str(value["boot"]), int(value["pid"]), int(value["started"])
        )
    except (KeyError, TypeError, ValueError):
        raise Damaged(f"{name}: it does not say who holds it") from None


class Processes(Protocol):
    """Knows this process and what became of others."""

    def this(self) -> Holder:
        """Return this process."""

    def is_dead(self, holder: Holder) -> bool:
        """Tell whether a holder is surely dead. One on another host never surely is."""


class HostProcesses:
    """The processes of this host, out of /proc."""

    def this(self) -> Holder:
        """Return this process."""
        pid = os.getpid()
        return Holder(_host(), _boot(), pid, _started(pid) or 0)

    def is_dead(self, holder: Holder) -> bool:
        """Tell whether a holder is surely dead."""
        if holder.host != _host():
            return False
        boot, _, namespace = holder.boot.partition("/")
        own_boot, _, own_namespace = _boot().partition("/")
        if boot != own_boot:
            return True
        return namespace == own_namespace and _started(holder.pid) != holder.started


def _read(path: str) -> str:
    try:
        return Path(path).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""


def _host() -> str:
    return f"{platform.node()}/{_read('/etc/machine-id')[:12]}"


def _boot() -> str:
    try:
        namespace = str(Path("/proc/self/ns/pid").readlink())
    except OSError:
        namespace = ""
    return f"{_read('/proc/sys/kernel/random/boot_id')}/{namespace}"


def _started(pid: int) -> int | None:
    """Return when a process started, None if it does not run (or is a zombie)."""
    fields = _read(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20 or fields[0] in {"Z", "X"}:
        return None
    return int(fields[19])
