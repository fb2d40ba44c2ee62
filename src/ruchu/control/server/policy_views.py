"""Policies at a glance, and what one that is not kept yet would do. Reads only."""

import datetime
import zoneinfo
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from ruchu.clock import to_text
from ruchu.control.inventory.inventory import Inventory, MachineRow
from ruchu.control.jobs.tables import RUNS
from ruchu.control.policies import documents
from ruchu.control.policies.policies import PolicyRow
from ruchu.control.policies.tables import POLICIES
from ruchu.control.schedules import preview
from ruchu.control.schedules.contract import ScheduledPolicy
from ruchu.control.server import scheduling
from ruchu.control.storages.tables import POINTS
from ruchu.model.policies import Policy
from ruchu.model.sources import Kind
from ruchu.protection import retention
from ruchu.protection.retention import PointFacts

# Starts that are played through to see what retention leaves: ten years of nights.
STARTS_MAX = 4000
# Beyond what a rule reaches, so that the oldest point it keeps has an older one to lose.
_MARGIN = 1.25
_MARGIN_DAYS = 40
# What changes on a machine in a day, of its size: an assumption, stated wherever it is used.
CHANGE_A_DAY = 0.10
_DAY_S = 86_400.0
_KINDS = {"full": Kind.FULL, "differential": Kind.DIFFERENTIAL}


@dataclass(frozen=True, slots=True)
class LastRun:
    """The newest backup of a policy."""

    policy: str
    id: str
    kind: str
    state: str
    created: str
    started: str | None
    ended: str | None
    reason: str


@dataclass(frozen=True, slots=True)
class Remaining:
    """What retention leaves in the long run.

    Attributes:
        points: of one machine.
        fulls: how many of them are full ones.
        oldest_days: how old the oldest is, just after a start.
        weight: how much they take, in sizes of the machine: a full point counts as one, another
            one as what changed since the point before it.
        starts: that were played through.
    """

    points: int
    fulls: int
    oldest_days: float
    weight: float
    starts: int


@dataclass(frozen=True, slots=True)
class Place:
    """A host, folder or tag, and how many machines it has."""

    name: str
    machines: int


@dataclass(frozen=True, slots=True)
class Places:
    """By what the machines of a platform can be selected."""

    machines: int
    disk_bytes: int
    hosts: Sequence[Place]
    folders: Sequence[Place]
    tags: Sequence[Place]


def last_runs(connection: sa.Connection) -> dict[str, LastRun]:
    """Return the newest backup of each policy, by the id of the policy."""
    newest = (
        sa.select(RUNS.c.id).where(RUNS.c.policy == POLICIES.c.id, RUNS.c.kind == "backup")
        .order_by(RUNS.c.created.desc()).limit(1).correlate(POLICIES).scalar_subquery()
    )  # fmt: skip
    names = ("policy", "id", "state", "created", "started", "ended", "reason")
    kind = RUNS.c.body["kind"].as_string().label("kind")
    query = sa.select(*(RUNS.c[name] for name in names), kind).where(
        RUNS.c.id.in_(sa.select(newest).select_from(POLICIES))
    )
    rows = connection.execute(query).all()
    return {
        row.policy: LastRun(**{**row._mapping, "kind": row.kind or "incremental"})  # noqa: SLF001 - public in SQLAlchemy
        for row in rows
    }


def next_start(row: PolicyRow, now: datetime.datetime) -> Mapping[str, Any] | None:
    """Return the next start of a policy; None if it starts by hand only."""
    if not row.policy.enabled or not row.policy.schedules:
        return None
    return next(iter(scheduling.next_starts(row, now, 1)), None)


def unkept(policy: Policy, now: datetime.datetime) -> PolicyRow:
    """Return a policy as if it had just been kept."""
    moment = to_text(now)
    return PolicyRow(policy.name, 0, moment, moment, policy, documents.to_document(policy))


def remaining(policy: Policy, now: datetime.datetime) -> Remaining | None:
    """Return what retention leaves of the starts of a policy in the long run.

    None if the policy has no schedule, or no rule: then everything stays.
    """
    rules = retention.Policy(**asdict(policy.retention), zone=zoneinfo.ZoneInfo(policy.zone))
    if not policy.schedules or not rules.rules():
        return None
    scheduled = scheduling.scheduled(unkept(policy, now))
    points = _played(scheduled, now, _reach_days(policy))
    if not points:
        return None
    last = points[-1].time
    keep = retention.decide(points, rules, last).keep
    kept = [point for point in points if point.point in keep]
    fulls = sum(1 for point in kept if point.kind is Kind.FULL)
    oldest = (last - kept[0].time).total_seconds() / _DAY_S
    return Remaining(len(kept), fulls, oldest, _weight(kept), len(points))


def _reach_days(policy: Policy) -> float:
    """Return how far back the rules may reach, in days."""
    rules = policy.retention
    days = max(rules.days, rules.hourly / 24, rules.daily, rules.weekly * 7, rules.monthly * 31,
               rules.yearly * 366)  # fmt: skip
    if rules.count or rules.chains:
        # These count starts; how many days that is, the schedule says.
        return float("inf")
    return days * _MARGIN + _MARGIN_DAYS


def _played(policy: ScheduledPolicy, now: datetime.datetime, days: float) -> list[PointFacts]:
    """Return the points that the next starts would make."""
    found: list[PointFacts] = []
    for number, due in enumerate(preview.next_starts(policy, now, STARTS_MAX)):
        if (due.at - now).total_seconds() > days * _DAY_S:
            break
        kind = _KINDS.get(due.schedule.kind, Kind.INCREMENTAL)
        # The first point of a machine is a full one, whatever was asked for.
        found.append(
            PointFacts(f"{number:08}", number, due.at, kind if number else Kind.FULL)
        )  # fmt: skip
    return found


def _weight(kept: Sequence[PointFacts]) -> float:
    weight = 0.0
    before: datetime.datetime | None = None
    full: datetime.datetime | None = None
    for point in kept:
        since = full if point.kind is Kind.DIFFERENTIAL else before
        if point.kind is Kind.FULL or since is None:
            weight, full = weight + 1, point.time
        else:
            days = (point.time - since).total_seconds() / _DAY_S
            weight += min(1.0, CHANGE_A_DAY * days)
        before = point.time
    return weight


def ratio(connection: sa.Connection, storage: str) -> float | None:
    """Return what the points of a storage take, of what was read for them; None: none yet."""
    sums = sa.select(sa.func.sum(POINTS.c.bytes_stored), sa.func.sum(POINTS.c.bytes_read)).where(
        POINTS.c.storage == storage, POINTS.c.bytes_stored.is_not(None), POINTS.c.bytes_read > 0
    )
    stored, read = connection.execute(sums).one()
    return float(stored) / float(read) if read else None


def places(inventory: Inventory, platform: str) -> Places:
    """Return by what the machines of a platform can be selected."""
    machines: Sequence[MachineRow] = inventory.machines(platform)
    tags = Counter(tag for each in machines for tag in set(each.tags))
    return Places(
        machines=len(machines),
        disk_bytes=sum(each.disk_size for each in machines),
        hosts=_places(Counter(each.host for each in machines if each.host)),
        folders=_places(Counter(each.folder for each in machines if each.folder)),
        tags=_places(tags),
    )


def _places(counted: Counter[str]) -> list[Place]:
    return [Place(name, count) for name, count in sorted(counted.items())]
