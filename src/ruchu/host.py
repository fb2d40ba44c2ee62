"""How busy this host is: its processors, memory, network and disks, as the kernel counts them."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

_SECTOR = 512
_NETWORKS, _BLOCKS = Path("/sys/class/net"), Path("/sys/block")


@dataclass(frozen=True, slots=True)
class Counters:
    """What the kernel has counted since the host started.

    Attributes:
        busy, total: time of all processors, in ticks; `total` has the idle time as well.
        received, sent: bytes over its networks.
        read, written: bytes of its disks.
    """

    busy: int = 0
    total: int = 0
    received: int = 0
    sent: int = 0
    read: int = 0
    written: int = 0


@dataclass(slots=True)
class LoadMeter:
    """Tells how busy the host was between two looks. Safe in several threads.

    Attributes:
        monotonic: the clock.
    """

    monotonic: Callable[[], float]
    _before: Counters = field(init=False)
    _at: float = field(init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def __post_init__(self) -> None:
        """Begin to count now."""
        self._before, self._at = counters(), self.monotonic()

    def look(self) -> dict[str, float]:
        """Return how busy the host was since the look before, and its memory now.

        `cpu` is a share (1: all processors), `memory` and `memory_used` are bytes; `received`,
        `sent`, `read` and `written` are bytes a second.
        """
        with self._lock:
            now, at = counters(), self.monotonic()
            before, passed_s = self._before, max(at - self._at, 1e-3)
            self._before, self._at = now, at
        return {**_rates(before, now, passed_s), **memory()}


def _rates(before: Counters, now: Counters, passed_s: float) -> dict[str, float]:
    """Return what happened between two counts. A counter that fell was started anew: nothing."""
    ticks = now.total - before.total
    share = (now.busy - before.busy) / ticks if ticks > 0 else 0.0
    rates: dict[str, float] = {"cpu": round(min(max(share, 0.0), 1.0), 4)}
    for name in ("received", "sent", "read", "written"):
        rates[name] = round(max(getattr(now, name) - getattr(before, name), 0) / passed_s)
    return rates


def counters() -> Counters:
    """Return what the kernel has counted."""
    busy, total = _processors(Path("/proc/stat").read_text())
    received, sent = _networks(Path("/proc/net/dev").read_text(), _real(_NETWORKS, ("lo",)))
    read, written = _disks(
        Path("/proc/diskstats").read_text(), _real(_BLOCKS, ("loop", "ram", "dm-", "md", "nbd"))
    )
    return Counters(busy, total, received, sent, read, written)


def memory() -> dict[str, float]:
    """Return the bytes of memory that there are, and that are used."""
    found: Mapping[str, int] = {
        name: int(rest.split()[0]) * 1024
        for name, _, rest in (
            line.partition(":") for line in Path("/proc/meminfo").read_text().splitlines()
        )
        if name in {"MemTotal", "MemAvailable"}
    }
    total = found.get("MemTotal", 0)
    return {"memory": total, "memory_used": max(total - found.get("MemAvailable", 0), 0)}


def _real(directory: Path, others: tuple[str, ...]) -> frozenset[str]:
    """Return the devices that are no view of another one, so that nothing counts twice.

    In a container none may be real: then it is all but those with certain beginnings.
    """
    try:
        names = sorted(each.name for each in directory.iterdir())
    except OSError:
        return frozenset()
    real = [name for name in names if (directory / name / "device").exists()]
    return frozenset(real or [name for name in names if not name.startswith(others)])


def _processors(text: str) -> tuple[int, int]:
    """Return the busy and the whole time out of `/proc/stat`; what waits for a disk is idle."""
    ticks = [int(word) for word in text.split("\n", 1)[0].split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _networks(text: str, names: frozenset[str]) -> tuple[int, int]:
    received = sent = 0
    for line in text.splitlines()[2:]:
        name, _, figures = line.partition(":")
        if name.strip() in names:
            words = figures.split()
            received, sent = received + int(words[0]), sent + int(words[8])
    return received, sent


def _disks(text: str, names: frozenset[str]) -> tuple[int, int]:
    read = written = 0
    for line in text.splitlines():
        words = line.split()
        if words[2] in names:
            read, written = read + int(words[5]) * _SECTOR, written + int(words[9]) * _SECTOR
    return read, written
