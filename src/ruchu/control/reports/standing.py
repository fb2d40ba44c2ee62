"""How each machine stands: which policies protect it, its newest point, whether that is too old."""

import datetime
import threading
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from ruchu.clock import Clock, from_text, to_text
from ruchu.control.inventory.inventory import Inventory, MachineRow
from ruchu.control.policies import selecting
from ruchu.control.policies.policies import Policies, PolicyRow
from ruchu.control.reports.keeping import Kept
from ruchu.control.schedules.targets import CLOCK_TOLERANCE
from ruchu.control.storages.catalogue import Catalogue

# The newest point of each of 20,000 machines is a tenth of a second's work.
GOOD_S = 20.0


@dataclass(frozen=True, slots=True)
class Covered:
    """A machine, and the enabled policies that select it, by name."""

    machine: MachineRow
    policies: tuple[PolicyRow, ...]


@dataclass(frozen=True, slots=True)
class Standing:
    """How a machine stands.

    Attributes:
        machine: as it was seen last.
        policies: that are enabled and select it.
        newest: moment of its newest point, RFC 3339; None if it has none.
        target_minutes: the shortest recovery point target of its policies; 0: none has one.
        missed: the policy whose target it misses, the one with the shortest; None if none.
    """

    machine: MachineRow
    policies: tuple[PolicyRow, ...]
    newest: str | None
    target_minutes: int
    missed: PolicyRow | None


class Coverage:
    """Which policies protect which machines; worked out anew after a change. Thread-safe."""

    def __init__(self, inventory: Inventory, policies: Policies) -> None:
        self._inventory = inventory
        self._policies = policies
        self._lock = threading.Lock()
        self._known: tuple[object, Sequence[Covered]] | None = None

    def all(self) -> Sequence[Covered]:
        """Return all machines, by name."""
        policies = self._policies.all()
        platforms = self._inventory.platforms()
        mark = (
            tuple((row.id, row.version) for row in policies),
            tuple((row.name, row.seen) for row in platforms),
        )
        with self._lock:
            if self._known is not None and self._known[0] == mark:
                return self._known[1]
            found = [
                each
                for platform in platforms
                for each in covered(self._inventory.machines(platform.name), policies)
            ]
            found.sort(key=lambda each: key_of(each.machine))
            self._known = mark, found
            return found


def key_of(machine: MachineRow) -> tuple[str, str, str]:
    """Return what machines are sorted by."""
    return machine.name, machine.id, machine.platform


def covered(machines: Iterable[MachineRow], policies: Sequence[PolicyRow]) -> list[Covered]:
    """Return machines with the enabled policies that select them. Pure.

    Machines that the same policies select share one tuple of them.
    """
    rows = {row.id: row for row in policies if row.policy.enabled}
    index = selecting.Index({row.id: row.policy.selection for row in rows.values()})
    shared: dict[frozenset[str], tuple[PolicyRow, ...]] = {}
    found = []
    for machine in machines:
        key = frozenset(index.of(machine))
        if key not in shared:
            shared[key] = tuple(row for name, row in rows.items() if name in key)
        found.append(Covered(machine, shared[key]))
    return found


class Standings:
    """How all machines stand. Safe in several threads."""

    def __init__(self, coverage: Coverage, catalogue: Catalogue, clock: Clock) -> None:
        self._coverage = coverage
        self._catalogue = catalogue
        self._clock = clock
        self._kept: Kept[tuple[Sequence[Covered], Sequence[Standing]]] = Kept(clock, GOOD_S)

    def all(self) -> Sequence[Standing]:
        """Return how each machine stands, by name; its points as they were some seconds ago."""
        now = self._coverage.all()
        covered_then, found = self._kept.get(None, lambda: self._made(now))
        if covered_then is not now:
            # A policy or a listing has changed: that is shown at once.
            self._kept.forget(None)
            _, found = self._kept.get(None, lambda: self._made(now))
        return found

    def _made(self, machines: Sequence[Covered]) -> tuple[Sequence[Covered], Sequence[Standing]]:
        return machines, judged(machines, self._catalogue.newest(), self._clock.now())


@dataclass(frozen=True, slots=True)
class _Target:
    """What a policy asks for at a moment: the oldest a newest point may be.

    `bare` tells whether a machine without any point misses it already.
    """

    row: PolicyRow
    oldest: str
    bare: bool


def judged(
    machines: Iterable[Covered], newest: Mapping[tuple[str, str], str], now: datetime.datetime
) -> list[Standing]:
    """Return how machines stand, as the alarms judge it (`schedules.targets`). Pure.

    Moments are compared as texts, which takes a tenth of the time and comes to the same.
    """
    ahead = to_text(now + CLOCK_TOLERANCE)
    targets: dict[int, Sequence[_Target]] = {}
    found = []
    for each in machines:
        known = targets.get(id(each.policies))
        if known is None:
            known = targets[id(each.policies)] = _targets(each.policies, now)
        at = newest.get((each.machine.platform, each.machine.name))
        if not known:
            found.append(Standing(each.machine, each.policies, at, 0, None))
            continue
        # A point from further ahead than clocks differ says nothing of its age.
        bare = at is None or at > ahead
        missed = next((target.row for target in known
                       if (target.bare if bare else str(at) < target.oldest)), None)  # fmt: skip
        minutes = known[0].row.policy.rpo_minutes
        found.append(Standing(each.machine, each.policies, at, minutes, missed))
    return found


def _targets(policies: Sequence[PolicyRow], now: datetime.datetime) -> Sequence[_Target]:
    """Return what some policies ask for, the shortest target first."""
    found = []
    for row in policies:
        if row.policy.rpo_minutes:
            oldest = now - datetime.timedelta(minutes=row.policy.rpo_minutes)
            found.append(_Target(row, to_text(oldest), from_text(row.created) < oldest))
    return sorted(found, key=lambda each: each.row.policy.rpo_minutes)
