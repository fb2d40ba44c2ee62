"""The overview: everything that the dashboard and the wall show, worked out once for all of them."""

import datetime
import heapq
import json
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Protocol

import sqlalchemy as sa

from ruchu.clock import Clock, to_text
from ruchu.control.alarms.records import Alarm
from ruchu.control.database.database import Database
from ruchu.control.inventory.inventory import PlatformRow
from ruchu.control.policies.policies import PolicyRow
from ruchu.control.reports.keeping import KEYS_MAX, Kept
from ruchu.control.reports.run_figures import Day, Groups, Outcomes, RunFigures
from ruchu.control.reports.standing import Standing, Standings
from ruchu.control.reports.storage_use import StorageUse, StorageUses
from ruchu.control.reports.under_way import Progress, UnderWay
from ruchu.control.storages.tables import POINTS

# Twenty browsers that look every few seconds are one look of the database.
GOOD_S = 2.0
# The first of each list; pages of their own have the rest.
SHOWN_MAX = 10
DAY_H, WEEK_H = 24, 7 * 24
# Days of use that a small chart shows.
USE_DAYS = 30
# The next start of a policy is looked up anew when it has passed, or after so long: days and
# windows may be changed by what is outside of the policy.
_STARTS_GOOD_S = 60.0
# Policies whose starts are remembered; of some that were removed, too.
STARTS_MAX = 5000


class OpenAlarms(Protocol):
    """The alarms of a server."""

    def open_alarms(self) -> Sequence[Alarm]:
        """Return what is wrong now, the worst and latest first."""


@dataclass(frozen=True, slots=True)
class MachineSeen:
    """A machine in a list; `policy` is the one whose target it misses, `minutes` that target."""

    platform: str
    id: str
    name: str
    newest: str | None = None
    policy: str = ""
    minutes: int = 0


@dataclass(frozen=True, slots=True)
class Machines:
    """How machines stand.

    Attributes:
        total, protected, unprotected: how many there are, and are selected by an enabled policy.
        targeted, missed: how many have a recovery point target, and miss it.
        bytes: of the disks of those that are protected.
        first_unprotected, first_missed: the first of them.
    """

    total: int
    protected: int
    unprotected: int
    targeted: int
    missed: int
    bytes: int
    first_unprotected: Sequence[MachineSeen]
    first_missed: Sequence[MachineSeen]


@dataclass(frozen=True, slots=True)
class StorageSeen:
    """How full a storage is; `daily` are pairs of a day and the bytes taken at its end.

    Without `forecast_enough` there are too few days (`forecast_days`) for a forecast.
    """

    id: str
    name: str
    role: str
    problem: str
    seen: str | None
    free: int | None
    size: int | None
    used: int
    stored: int
    warn_percent: int
    stop_percent: int
    daily: Sequence[tuple[str, int]]
    forecast_days: int
    forecast_enough: bool
    growth: float
    full_on: str | None
    earliest: str | None
    latest: str | None


@dataclass(frozen=True, slots=True)
class NextStart:
    """When a policy starts next, and which kind of run."""

    policy: str
    name: str
    at: str
    kind: str


@dataclass(frozen=True, slots=True)
class AlarmSeen:
    """An open alarm, as a list shows it."""

    id: str
    code: str
    subject: str
    severity: str
    last_at: str
    text: str
    facts: Mapping[str, Any]
    acknowledged: bool


@dataclass(frozen=True, slots=True)
class Alarms:
    """Open alarms: how many of each severity, and the worst and latest of them."""

    critical: int
    error: int
    warning: int
    info: int
    first: Sequence[AlarmSeen]


@dataclass(frozen=True, slots=True)
class SetUp:
    """How far the server is set up: what there is of each."""

    storages: int
    platforms: int
    policies: int
    points: int


@dataclass(frozen=True, slots=True)
class Reduction:
    """What deduplication and compression saved in the last days; no ratio if nothing was stored."""

    read: int
    stored: int
    ratio: float | None


@dataclass(frozen=True, slots=True)
class Overview:
    """How everything is that somebody may see."""

    at: str
    set_up: SetUp
    machines: Machines
    day: Outcomes
    week: Outcomes
    days: Sequence[Day]
    reduction: Reduction
    storages: Sequence[StorageSeen]
    next_starts: Sequence[NextStart]
    alarms: Alarms
    under_way: UnderWay


@dataclass(frozen=True, slots=True)
class Sources:
    """Where an overview comes from.

    Attributes:
        standings, runs, uses, progress: figures, each kept as long as it is good.
        alarms: of the server.
        policies, platforms: return all of them.
        next_starts: returns the next starts of a policy.
    """

    standings: Standings
    runs: RunFigures
    uses: StorageUses
    progress: Progress
    alarms: OpenAlarms
    policies: Callable[[], Sequence[PolicyRow]]
    platforms: Callable[[], Sequence[PlatformRow]]
    next_starts: Callable[[PolicyRow, int], Sequence[Mapping[str, Any]]]


class Overviews:
    """Overviews, one for all who may see the same. Safe in several threads."""

    def __init__(self, database: Database, clock: Clock, sources: Sources) -> None:
        self._database = database
        self._clock = clock
        self._sources = sources
        self._kept: Kept[bytes] = Kept(clock, GOOD_S)
        self._starts: dict[str, tuple[int, float, Sequence[NextStart]]] = {}
        # By groups: what the machines were counted of, and what came out.
        self._counted: dict[Groups, tuple[Sequence[Standing], frozenset[str], Machines]] = {}

    def document(self, groups: Groups) -> bytes:
        """Return the overview of some groups (None is all of them) as JSON.

        It is at most some seconds old, and the same bytes for everybody who asks meanwhile.
        """
        return self._kept.get(groups, lambda: _json(self.made(groups)))

    def made(self, groups: Groups) -> Overview:
        """Work an overview out."""
        sources, now = self._sources, self._clock.now()
        platforms = frozenset(
            row.name for row in sources.platforms() if _may(row.resource_group, groups)
        )
        policies = [row for row in sources.policies() if _may(row.policy.group, groups)]
        uses = sources.uses.all(groups)
        days = sources.runs.days(groups)
        return Overview(
            at=to_text(now),
            set_up=SetUp(len(uses), len(platforms), len(policies), self._points(uses)),
            machines=self._machines(platforms, groups),
            day=sources.runs.outcomes(DAY_H, groups),
            week=sources.runs.outcomes(WEEK_H, groups),
            days=days,
            reduction=_reduction(days),
            storages=[_storage(each) for each in uses],
            next_starts=self._next(policies, now),
            alarms=_alarms(sources.alarms.open_alarms(), groups),
            under_way=sources.progress.under_way(groups),
        )

    def _machines(self, platforms: frozenset[str], groups: Groups) -> Machines:
        """Return how machines stand; they are counted anew when anything is known anew."""
        standings = self._sources.standings.all()
        known = self._counted.get(groups)
        if known is not None and known[0] is standings and known[1] == platforms:
            return known[2]
        found = machines_of(standings, platforms, groups)
        if len(self._counted) >= KEYS_MAX:
            self._counted.clear()
        self._counted[groups] = standings, platforms, found
        return found

    def _points(self, uses: Sequence[StorageUse]) -> int:
        """Return whether there is a point on any of some storages: 0 or 1."""
        names = [each.row.name for each in uses]
        query = sa.select(POINTS.c.id).where(POINTS.c.storage.in_(names)).limit(1)
        with self._database.reading() as connection:
            return int(connection.execute(query).first() is not None)

    def _next(self, rows: Sequence[PolicyRow], now: datetime.datetime) -> list[NextStart]:
        """Return the next start of each policy that is enabled, the first of them."""
        text, enabled = to_text(now), [row for row in rows if row.policy.enabled]
        found = [start for row in enabled for start in self._start_of(row, text)]
        return heapq.nsmallest(SHOWN_MAX, found, key=lambda each: (each.at, each.name))

    def _start_of(self, row: PolicyRow, now: str) -> Sequence[NextStart]:
        if not row.policy.schedules:
            return ()
        known, at = self._starts.get(row.id), self._clock.monotonic()
        if known is not None and known[0] == row.version and at - known[1] < _STARTS_GOOD_S:
            found = known[2]
            if found and found[0].at > now:
                return found
        fresh = [
            NextStart(row.id, row.policy.name, str(each["at"]), str(each["kind"]))
            for each in self._sources.next_starts(row, 1)
        ]
        if len(self._starts) >= STARTS_MAX:
            self._starts.clear()
        self._starts[row.id] = row.version, at, fresh
        return fresh


def _may(group: str, groups: Groups) -> bool:
    return groups is None or group in groups


def machines_of(
    standings: Sequence[Standing], platforms: frozenset[str], groups: Groups
) -> Machines:
    """Return how the machines of some platforms stand; targets are those of policies in groups."""
    seen = [each for each in standings if each.machine.platform in platforms]
    bare = [each for each in seen if not each.policies]
    missed = [each for each in seen
              if each.missed is not None and _may(each.missed.policy.group, groups)]  # fmt: skip
    missed.sort(key=lambda each: each.newest or "")
    return Machines(
        total=len(seen), protected=len(seen) - len(bare), unprotected=len(bare),
        targeted=sum(1 for each in seen if each.target_minutes), missed=len(missed),
        bytes=sum(each.machine.disk_size for each in seen if each.policies),
        first_unprotected=[_machine(each) for each in bare[:SHOWN_MAX]],
        first_missed=[_machine(each) for each in missed[:SHOWN_MAX]],
    )  # fmt: skip


def _machine(each: Standing) -> MachineSeen:
    machine = each.machine
    name, minutes = "", 0
    if each.missed is not None:
        name, minutes = each.missed.policy.name, each.missed.policy.rpo_minutes
    return MachineSeen(machine.platform, machine.id, machine.name, each.newest, name, minutes)


def _reduction(days: Sequence[Day]) -> Reduction:
    read = sum(each.full + each.incremental for each in days)
    stored = sum(each.stored for each in days)
    return Reduction(read, stored, read / stored if stored else None)


def _storage(use: StorageUse) -> StorageSeen:
    row, known = use.row, use.forecast
    daily = [(day.isoformat(), use.daily[day]) for day in sorted(use.daily)[-USE_DAYS:]]
    return StorageSeen(
        id=row.id, name=row.name, role=row.role, problem=row.problem, seen=row.seen,
        free=row.free, size=row.size, used=use.used, stored=use.stored,
        warn_percent=row.warn_percent, stop_percent=row.stop_percent, daily=daily,
        forecast_days=known.days, forecast_enough=known.enough, growth=known.growth_bytes,
        full_on=known.full_on.isoformat() if known.full_on else None,
        earliest=known.earliest.isoformat() if known.earliest else None,
        latest=known.latest.isoformat() if known.latest else None,
    )  # fmt: skip


def _alarms(found: Sequence[Alarm], groups: Groups) -> Alarms:
    seen = [each for each in found if groups is None or each.group in groups]
    counts = Counter(each.severity.value for each in seen)
    first = [
        AlarmSeen(each.id, each.code, each.subject, each.severity.value, each.last_at,
                  each.text[:300], _short(each.facts), each.acknowledged_by is not None)
        for each in seen[:SHOWN_MAX]
    ]  # fmt: skip
    return Alarms(counts["critical"], counts["error"], counts["warning"], counts["info"], first)


def _short(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return the facts that a headline may name: those that are no lists."""
    return {key: value[:300] if isinstance(value, str) else value
            for key, value in facts.items() if isinstance(value, str | int | float)}  # fmt: skip


def _json(overview: Overview) -> bytes:
    return json.dumps(asdict(overview), ensure_ascii=False, separators=(",", ":")).encode()
