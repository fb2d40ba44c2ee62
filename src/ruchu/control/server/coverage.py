"""Which policies select which machines, kept up to date with what changed, for many machines.

What is asked for on every page (a search, what is protected, one machine) is answered from memory.
Only machines that came or changed, and policies whose selection changed, are looked at again.
"""

import bisect
import threading
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

from ruchu.control.inventory.inventory import Inventory, MachineRow
from ruchu.control.policies import selecting
from ruchu.control.policies.policies import Policies, PolicyRow
from ruchu.errors import NotFound

Key = tuple[str, str]
"""Platform and id of a machine."""
PROTECTED, UNPROTECTED = "protected", "unprotected"


@dataclass(frozen=True, slots=True)
class Covered:
    """A machine and the policies that select it.

    Attributes:
        row: the machine as it was seen last.
        policies: ids of all policies that select it, also of those that are off.
        protected: whether one of them is on.
    """

    row: MachineRow
    policies: tuple[str, ...]
    protected: bool


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which machines are meant; what is empty (for a place: None) means any.

    Attributes:
        text: in the name, the platform, the host or a tag.
        platform: name of a platform.
        protection: `protected` or `unprotected`.
        host, folder: where it is.
        platforms: those that may be seen; None is all of them.
    """

    text: str = ""
    platform: str = ""
    protection: str = ""
    host: str | None = None
    folder: str | None = None
    platforms: frozenset[str] | None = None


@dataclass(frozen=True, slots=True)
class Place:
    """A host and a folder of a platform, and the machines there."""

    host: str
    folder: str
    machines: int
    protected: int


@dataclass(frozen=True, slots=True)
class _Known:
    """A machine, with what a search looks at."""

    row: MachineRow
    key: Key
    order: tuple[str, str, str]
    words: str


@dataclass(slots=True)
class _State:
    """What was worked out for a certain inventory and certain policies."""

    mark: tuple[object, ...] = ()
    machines: dict[Key, _Known] = field(default_factory=dict)
    # In the order of pages.
    listed: list[_Known] = field(default_factory=list)
    policies: dict[str, PolicyRow] = field(default_factory=dict)
    chosen: dict[Key, tuple[str, ...]] = field(default_factory=dict)
    protected: frozenset[Key] = frozenset()


class Coverage:
    """Which policies select which machines. Safe in several threads."""

    def __init__(self, inventory: Inventory, policies: Policies) -> None:
        self._inventory = inventory
        self._policies = policies
        self._lock = threading.Lock()
        self._state = _State()

    def page(self, wanted: Wanted, after: str, limit: int) -> tuple[list[Covered], int]:
        """Return machines by name, behind the key of the last one seen, and how many match.

        The key is `name/id/platform`, as `key` returns it.
        """
        state = self._now()
        found = [each for each in state.listed if _matches(wanted, each, state)]
        begin = 0
        if after:
            name, identity, platform = ("", "", *after.rsplit("/", 2))[-3:]
            begin = bisect.bisect_right(
                found, (name, identity, platform), key=lambda each: each.order
            )
        return [_covered(each, state) for each in found[begin : begin + limit]], len(found)

    def refresh(self) -> None:
        """Work out now what changed, so that nobody who asks has to wait for it."""
        self._now()

    def machine(self, platform: str, identity: str) -> Covered:
        """Return a machine of a platform.

        Raises:
            NotFound: it was not seen there.
        """
        state = self._now()
        known = state.machines.get((platform, identity))
        if known is None:
            raise NotFound(f"(machine {identity[:80]!r} on platform {platform[:80]!r})")
        return _covered(known, state)

    def places(self, platform: str) -> list[Place]:
        """Return the hosts and folders of a platform."""
        state = self._now()
        all_: Counter[tuple[str, str]] = Counter()
        safe: Counter[tuple[str, str]] = Counter()
        for each in state.listed:
            if each.row.platform == platform:
                all_[each.row.host, each.row.folder] += 1
                safe[each.row.host, each.row.folder] += each.key in state.protected
        return [Place(*place, count, safe[place]) for place, count in sorted(all_.items())]

    def unprotected(self, platforms: frozenset[str] | None, after: str, limit: int) -> list[MachineRow]:  # fmt: skip
        """Return the machines that no enabled policy selects, by name, behind a key."""
        wanted = Wanted(protection=UNPROTECTED, platforms=platforms)
        return [each.row for each in self.page(wanted, after, limit)[0]]

    def _now(self) -> _State:
        """Return what holds now."""
        with self._lock:
            seen = {row.name: row.seen for row in self._inventory.platforms()}
            rows = self._policies.all()
            mark = (tuple(seen.items()), tuple((row.id, row.version, row.changed) for row in rows))
            if mark != self._state.mark:
                self._state = self._brought_up(seen, rows, mark)
            return self._state

    def _brought_up(
        self, platforms: Iterable[str], rows: Sequence[PolicyRow], mark: tuple[object, ...]
    ) -> _State:
        """Return what holds for other machines or policies, from what held before."""
        before = self._state
        found = [row for name in platforms for row in self._inventory.machines(name)]
        machines = {
            (row.platform, row.id): _known(row, before.machines.get((row.platform, row.id)))
            for row in found
        }
        policies = {row.id: row for row in rows}
        fresh = {
            identity: row.policy.selection for identity, row in policies.items()
            if identity not in before.policies
            or before.policies[identity].policy.selection != row.policy.selection
        }  # fmt: skip
        every = selecting.Index({row.id: row.policy.selection for row in rows})
        changed = selecting.Index(fresh)
        chosen = {}
        for key, known in machines.items():
            old = before.machines.get(key)
            if old is not None and _place(old.row) == _place(known.row):
                ids = {
                    each for each in before.chosen[key] if each in policies and each not in fresh
                }
                ids |= changed.of(known.row) if fresh else set()
            else:
                ids = every.of(known.row)
            chosen[key] = tuple(sorted(ids, key=lambda each: policies[each].policy.name))
        enabled = {row.id for row in rows if row.policy.enabled}
        protected = frozenset(key for key, ids in chosen.items() if not enabled.isdisjoint(ids))
        listed = sorted(machines.values(), key=lambda each: each.order)
        return _State(mark, machines, listed, policies, chosen, protected)


def key(row: MachineRow) -> str:
    """Return what a page goes on behind."""
    return f"{row.name}/{row.id}/{row.platform}"


def _place(row: MachineRow) -> tuple[object, ...]:
    """Return everything of a machine that decides whether it is selected."""
    return row.name, row.host, row.folder, tuple(row.tags)


def _known(row: MachineRow, before: _Known | None) -> _Known:
    if before is not None and _place(before.row) == _place(row):
        return _Known(row, before.key, before.order, before.words)
    words = "\n".join((row.name, row.platform, row.host, *row.tags)).casefold()
    return _Known(row, (row.platform, row.id), (row.name, row.id, row.platform), words)


def _matches(wanted: Wanted, known: _Known, state: _State) -> bool:
    row = known.row
    return (
        (wanted.platforms is None or row.platform in wanted.platforms)
        and (not wanted.platform or row.platform == wanted.platform)
        and (not wanted.text or wanted.text.casefold() in known.words)
        and (wanted.host is None or row.host == wanted.host)
        and (wanted.folder is None or row.folder == wanted.folder)
        and (
            not wanted.protection
            or (known.key in state.protected) == (wanted.protection == PROTECTED)
        )
    )


def _covered(known: _Known, state: _State) -> Covered:
    return Covered(known.row, state.chosen[known.key], known.key in state.protected)
