"""Which points stay: pure rules, and the one call that carries them out.

A point stays if any rule wants it. Without any rule everything stays. The newest point, and
points that are starred, locked or being read, always stay.
"""

import datetime
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, fields

from ruchu.errors import ClockWentBack
from ruchu.model.sources import Kind
from ruchu.repository import locking, marks, merging, protecting
from ruchu.repository.chains import Chain
from ruchu.repository.locking import ChainLock

# A clock may be corrected by seconds; a point from further ahead means that one of two is wrong.
CLOCK_TOLERANCE = datetime.timedelta(minutes=5)


@dataclass(frozen=True, slots=True)
class Policy:
    """Rules; 0 turns one off.

    Attributes:
        count: the newest points.
        days: points not older than so many days.
        chains: the newest full points, each with the points up to the next full.
        hourly, daily, weekly, monthly, yearly: the newest point of each of the newest periods
            that have any. Weeks begin on Monday.
        zone: where days begin at midnight; None is the time zone of this host.
    """

    count: int = 0
    days: int = 0
    chains: int = 0
    hourly: int = 0
    daily: int = 0
    weekly: int = 0
    monthly: int = 0
    yearly: int = 0
    zone: datetime.tzinfo | None = datetime.UTC

    def rules(self) -> int:
        """Return how many rules there are."""
        names = (field.name for field in fields(self) if field.name != "zone")
        return sum(1 for name in names if getattr(self, name) > 0)


@dataclass(frozen=True, slots=True)
class PointFacts:
    """What the rules look at. `held` says why a point must stay: `starred`, `locked`, `in use`."""

    point: str
    sequence: int
    time: datetime.datetime
    kind: Kind
    held: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Decision:
    """Points that stay, each with the reasons, and points that go; oldest first."""

    keep: dict[str, tuple[str, ...]]
    remove: tuple[str, ...]


_Period = tuple[int, ...]
_PERIODS: dict[str, Callable[[datetime.datetime], _Period]] = {
    "hourly": lambda t: (t.year, t.month, t.day, t.hour, int(_offset_s(t))),
    "daily": lambda t: (t.year, t.month, t.day),
    "weekly": lambda t: tuple(t.isocalendar()[:2]),
    "monthly": lambda t: (t.year, t.month),
    "yearly": lambda t: (t.year,),
}


def _offset_s(moment: datetime.datetime) -> float:
    """Return the offset from UTC: two hours of one number follow when summer time ends."""
    offset = moment.utcoffset()
    return offset.total_seconds() if offset is not None else 0.0


def decide(points: Sequence[PointFacts], policy: Policy, now: datetime.datetime) -> Decision:
    """Return which points stay and which go.

    Raises:
        ClockWentBack: the newest point is from the future; no age can be trusted.
    """
    ordered = sorted(points, key=lambda point: point.sequence)
    if not ordered:
        return Decision({}, ())
    newest = max(ordered, key=_age)
    if now < newest.time - CLOCK_TOLERANCE:
        raise ClockWentBack(f"(it is {now:%Y-%m-%d %H:%M}, the newest point is of "
                            f"{newest.time:%Y-%m-%d %H:%M} UTC)")  # fmt: skip
    keep: dict[str, list[str]] = {point.point: list(point.held) for point in ordered}
    for point in (newest, ordered[-1]):
        if "newest" not in keep[point.point]:
            keep[point.point].append("newest")
    for name, wanted in _wanted(ordered, policy, now):
        for point in wanted:
            keep[point.point].append(name)
    if not policy.rules():
        for reasons in keep.values():
            reasons.append("no rule")
    kept = {point: tuple(reasons) for point, reasons in keep.items() if reasons}
    return Decision(kept, tuple(p.point for p in ordered if p.point not in kept))


def _age(point: PointFacts) -> tuple[datetime.datetime, int]:
    return point.time, point.sequence


def _wanted(
    ordered: list[PointFacts], policy: Policy, now: datetime.datetime
) -> Iterable[tuple[str, list[PointFacts]]]:
    """Yield what each rule wants, by its name; points are in their sequence."""
    if policy.count > 0:
        yield "count", ordered[-policy.count :]
    if policy.days > 0:
        oldest = _days_before(now, policy.days)
        yield "days", [point for point in ordered if point.time >= oldest]
    if policy.chains > 0:
        yield "chains", _series(ordered, policy.chains)
    for name, period in _PERIODS.items():
        wanted = getattr(policy, name)
        if wanted > 0:
            yield name, _newest_of_periods(ordered, wanted, period, policy.zone)


def _days_before(now: datetime.datetime, days: int) -> datetime.datetime:
    try:
        return now - datetime.timedelta(days=days)
    except OverflowError:
        return datetime.datetime.min.replace(tzinfo=datetime.UTC)


def _series(ordered: list[PointFacts], wanted: int) -> list[PointFacts]:
    """Return the points of the newest series: each begins with a full."""
    fulls = [at for at, point in enumerate(ordered) if point.kind is Kind.FULL]
    # What comes before the first full is a series, too: its own full was removed.
    begins = fulls if fulls[:1] == [0] else [0, *fulls]
    return ordered[begins[-wanted] :] if wanted <= len(begins) else ordered


def _newest_of_periods(
    ordered: list[PointFacts],
    wanted: int,
    period: Callable[[datetime.datetime], _Period],
    zone: datetime.tzinfo | None,
) -> list[PointFacts]:
    found: dict[_Period, PointFacts] = {}
    for point in sorted(ordered, key=_age, reverse=True):
        found.setdefault(period(point.time.astimezone(zone)), point)
        if len(found) > wanted:
            break
    return list(found.values())[:wanted]


@dataclass(frozen=True, slots=True)
class Applied:
    """What a retention did to one chain: bytes to be freed after the grace period, bytes freed."""

    decision: Decision
    bytes_trashed: int = 0
    bytes_freed: int = 0


def facts_of(chain: Chain) -> list[PointFacts]:
    """Return what the rules look at, for every point of a chain."""
    now = chain.surroundings.clock.now()
    kept = marks.all_marks(chain.storage, chain.id)
    leases = locking.active_leases(chain.storage, chain.id, chain.surroundings)
    found = []
    for head in chain.points():
        mark = kept.get(head.point, marks.Marks())
        locked = mark.locked_until is not None and mark.locked_until > now
        held = (("starred", mark.starred), ("locked", locked), ("in use", head.point in leases))
        reasons = tuple(reason for reason, applies in held if applies)
        found.append(PointFacts(head.point, head.sequence, head.time, head.kind, reasons))
    return found


def plan(chain: Chain, policy: Policy) -> Decision:
    """Return what a policy would do to a chain. Changes nothing."""
    return decide(facts_of(chain), policy, chain.surroundings.clock.now())


def apply(chain: Chain, lock: ChainLock, policy: Policy, grace: datetime.timedelta) -> Applied:
    """Remove what no rule wants, and free what was removed longer ago than its grace period.

    Raises:
        ClockWentBack: nothing was removed.
        PointInUse: somebody began to read a point just now; nothing was removed. Try again.
    """
    decision = plan(chain, policy)
    going = set(decision.remove)
    stems = [stem for stem in chain.stems() if stem[11:] in going]
    trashed = 0
    if stems:
        merging.delete_points(chain, lock, stems, grace=grace, reason="retention")
        trashed = merging.sweep(chain, lock, grace=grace).bytes_trashed
    protecting.release_ended(chain, chain.surroundings.clock.now())
    return Applied(decision, trashed, merging.purge(chain, lock).bytes_freed)
