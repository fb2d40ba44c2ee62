"""Processes that a test starts, kills and brings down with their host, and random bytes of theirs."""

import random
from dataclasses import dataclass, field

from ruchu.repository.holders import Holder

_HOST = "test/0123456789ab"


@dataclass(slots=True)
class SimulatedHost:
    """Knows which of its processes live. Another host's processes are never surely dead."""

    name: str = _HOST
    boot: int = 1
    _pid: int = 100
    _alive: set[Holder] = field(default_factory=set)

    def start(self) -> "SimulatedProcess":
        """Start a process."""
        self._pid += 1
        holder = Holder(self.name, f"boot-{self.boot}/pid", self._pid, 7 * self._pid)
        self._alive.add(holder)
        return SimulatedProcess(self, holder)

    def kill(self, process: "SimulatedProcess") -> None:
        """End one process."""
        self._alive.discard(process.this())

    def reboot(self) -> None:
        """End all processes."""
        self._alive.clear()
        self.boot += 1

    def lives(self, holder: Holder) -> bool:
        """Tell whether a process of this host lives."""
        return holder in self._alive


class SimulatedProcess:
    """A `Processes`: what one process on a simulated host knows."""

    def __init__(self, host: SimulatedHost, holder: Holder) -> None:
        self._host = host
        self._holder = holder

    def this(self) -> Holder:
        """Return this process."""
        return self._holder

    def is_dead(self, holder: Holder) -> bool:
        """Tell whether a holder is surely dead."""
        return holder.host == self._host.name and not self._host.lives(holder)


class SeededEntropy:
    """An `Entropy` that a seed brings back. Never for anything but tests."""

    def __init__(self, seed: int | str) -> None:
        self._choose = random.Random(f"entropy {seed}")  # noqa: S311 - it must be repeatable

    def __call__(self, length: int) -> bytes:
        """Return so many bytes."""
        return self._choose.randbytes(length)
