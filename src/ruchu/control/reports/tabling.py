"""The three reports as tables: how machines are protected, how full storages are, how runs end."""

import datetime
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import sqlalchemy as sa

from ruchu.clock import Clock, from_text, to_text
from ruchu.control.database.database import Database
from ruchu.control.inventory.inventory import MachineRow
from ruchu.control.jobs import runs as states
from ruchu.control.jobs.tables import RUNS
from ruchu.control.reports import run_figures
from ruchu.control.reports.keeping import Kept
from ruchu.control.reports.run_figures import Groups
from ruchu.control.reports.standing import Standing, Standings, key_of
from ruchu.control.reports.storage_use import StorageUse, StorageUses
from ruchu.control.storages.tables import POINTS

GOOD_S = 30.0
# Machines whose points one statement counts; SQLite allowed 999 values for long.
NAMES_MAX = 500
DAYS_MAX = 366
PROTECTED, UNPROTECTED, MISSED = "protected", "unprotected", "missed"
STANDINGS = ("", PROTECTED, UNPROTECTED, MISSED)

Row = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Scope:
    """What somebody may see.

    Attributes:
        groups: resource groups; None is all of them.
        platforms: names of the platforms in them.
        storages: names of the storages in them.
    """

    groups: Groups
    platforms: frozenset[str]
    storages: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which machines a protection report shows; empty means all.

    Attributes:
        text: in the name.
        platform: name.
        policy: name or id of a policy that selects them.
        standing: one of `STANDINGS`.
    """

    text: str = ""
    platform: str = ""
    policy: str = ""
    standing: str = ""


@dataclass(slots=True)
class _Success:
    """What is counted of the runs of a policy."""

    id: str | None
    name: str
    kind: str
    counts: dict[str, int] = field(default_factory=dict)
    read: int = 0
    stored: int = 0
    last: str = ""
    last_failure: str | None = None


class ReportTables:
    """Makes the tables of reports. Safe in several threads."""

    def __init__(
        self, database: Database, clock: Clock, standings: Standings, uses: StorageUses
    ) -> None:
        self._database = database
        self._clock = clock
        self._standings = standings
        self._uses = uses
        self._success: Kept[Sequence[Row]] = Kept(clock, GOOD_S)

    # Protection.

    def standings(self, scope: Scope, wanted: Wanted) -> list[Standing]:
        """Return the machines of a protection report, by name."""
        return [each for each in self._standings.all()
                if each.machine.platform in scope.platforms and shows(wanted, each)]  # fmt: skip

    def protection(self, scope: Scope, machines: Iterable[Standing]) -> Iterator[Row]:
        """Yield the row of each machine."""
        found = list(machines)
        now = self._clock.now()
        for at in range(0, len(found), NAMES_MAX):
            part = found[at : at + NAMES_MAX]
            points = self._points(scope, {each.machine.name for each in part})
            for each in part:
                machine = each.machine
                count, stored = points.get((machine.platform, machine.name), (0, 0))
                yield _protection(each, scope.groups, now) | {"points": count, "stored": stored}

    def _points(self, scope: Scope, names: set[str]) -> Mapping[tuple[str, str], tuple[int, int]]:
        """Return how many points machines have, and the bytes that they added."""
        of = (POINTS.c.platform, POINTS.c.name)
        sums = (sa.func.count(), sa.func.sum(POINTS.c.bytes_stored))
        query = sa.select(*of, *sums).where(
            POINTS.c.name.in_(names), POINTS.c.storage.in_(scope.storages)
        ).group_by(*of)  # fmt: skip
        with self._database.reading() as connection:
            return {(row[0], row[1]): (int(row[2]), int(row[3] or 0))
                    for row in connection.execute(query)}  # fmt: skip

    # Capacity.

    def capacity(self, scope: Scope) -> list[Row]:
        """Return the row of each storage, by name."""
        return [_capacity(each) for each in self._uses.all(scope.groups)]

    # Success.

    def success(self, scope: Scope, days: int, names: Mapping[str, str]) -> Sequence[Row]:
        """Return how runs of each policy, and of each kind by hand, ended in the last days.

        `names` are what policies are called now, by their ids.
        """
        return self._success.get(
            (scope.groups, days), lambda: self._succeeded(scope.groups, days, names)
        )

    def _succeeded(self, groups: Groups, days: int, names: Mapping[str, str]) -> Sequence[Row]:
        since = to_text(self._clock.now() - datetime.timedelta(days=days))
        of = (RUNS.c.policy, RUNS.c.kind, RUNS.c.state)
        sums = [sa.func.sum(run_figures.figure(name)) for name in ("bytes_read", "bytes_stored")]
        more = (sa.func.count(), *sums, sa.func.max(RUNS.c.ended), sa.func.max(RUNS.c.name))
        query = sa.select(*of, *more).where(RUNS.c.ended >= since).group_by(*of)
        if groups is not None:
            query = query.where(RUNS.c.resource_group.in_(groups))
        found: dict[tuple[str | None, str], _Success] = {}
        with self._database.reading() as connection:
            for policy, kind, state, count, read, stored, ended, name in connection.execute(query):
                shown = names.get(policy, name) if policy is not None else ""
                each = found.setdefault((policy, kind), _Success(policy, shown, kind))
                each.counts[state] = each.counts.get(state, 0) + count
                each.read += int(read or 0)
                each.stored += int(stored or 0)
                each.last = max(each.last, ended)
                if state in {states.FAILED, states.PARTLY}:
                    each.last_failure = max(each.last_failure or "", ended)
        rows = [_success(each) for each in found.values()]
        return sorted(rows, key=lambda row: (row["name"] == "", row["name"], row["kind"]))


def shows(wanted: Wanted, each: Standing) -> bool:
    """Tell whether a report shows a machine. Pure."""
    machine, text = each.machine, wanted.text.casefold()
    fits = {
        "": True,
        PROTECTED: bool(each.policies),
        UNPROTECTED: not each.policies,
        MISSED: each.missed is not None,
    }
    return (
        fits[wanted.standing]
        and (not text or text in machine.name.casefold())
        and (not wanted.platform or machine.platform == wanted.platform)
        and (not wanted.policy or any(
            wanted.policy in {row.id, row.policy.name} for row in each.policies
        ))
    )  # fmt: skip


def mark_of(machine: MachineRow) -> str:
    """Return what a page of machines goes on behind."""
    return "/".join(key_of(machine))


def _protection(each: Standing, groups: Groups, now: datetime.datetime) -> dict[str, Any]:
    machine = each.machine
    age = (now - from_text(each.newest)).total_seconds() if each.newest else None
    return {
        "platform": machine.platform, "id": machine.id, "name": machine.name,
        "state": machine.state, "protected": bool(each.policies),
        "policies": [row.policy.name for row in each.policies
                     if groups is None or row.policy.group in groups],
        "newest": each.newest, "age_s": max(age, 0.0) if age is not None else None,
        "target_minutes": each.target_minutes,
        "met": each.missed is None if each.target_minutes else None,
        "disk_size": machine.disk_size,
    }  # fmt: skip


def _capacity(use: StorageUse) -> Row:
    row, known = use.row, use.forecast
    size = row.size or None
    return {
        "id": row.id, "name": row.name, "role": row.role, "problem": row.problem,
        "size": size, "used": use.used, "free": row.free if size else None,
        "share": use.used / size if size else None, "stored": use.stored,
        "growth": round(known.growth_bytes) if known.enough else None,
        "forecast_days": known.days, "forecast_enough": known.enough,
        "full_on": known.full_on.isoformat() if known.full_on else None,
        "earliest": known.earliest.isoformat() if known.earliest else None,
        "latest": known.latest.isoformat() if known.latest else None,
        "daily": [(day.isoformat(), use.daily[day]) for day in sorted(use.daily)],
    }  # fmt: skip


def _success(each: _Success) -> Row:
    counts: defaultdict[str, int] = defaultdict(int, each.counts)
    others = counts[states.PARTLY] + counts[states.FAILED]
    return {
        "policy": each.id, "name": each.name, "kind": each.kind,
        "runs": sum(each.counts.values()), "succeeded": counts[states.SUCCEEDED],
        "partly": counts[states.PARTLY], "failed": counts[states.FAILED],
        "stopped": counts[states.STOPPED],
        "rate": run_figures.rate_of(counts[states.SUCCEEDED], others),
        "read": each.read, "stored": each.stored, "last": each.last,
        "last_failure": each.last_failure,
    }  # fmt: skip
