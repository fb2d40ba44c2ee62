"""Retention: the rules against an obvious reference, and what is never removed."""

import datetime
from datetime import UTC, timedelta

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from ruchu.errors import ClockWentBack
from ruchu.model.sources import Kind
from ruchu.protection import image, retention
from ruchu.protection.retention import CLOCK_TOLERANCE, PointFacts, Policy, decide
from ruchu.repository import marks

START = datetime.datetime(2024, 1, 1, tzinfo=UTC)
NOW = datetime.datetime(2026, 6, 1, 12, tzinfo=UTC)
# Two hours ahead in summer, one in winter, written out so that no time zone database is needed.
FIXED = datetime.timezone(timedelta(hours=8))

moments = st.integers(0, int((NOW - START).total_seconds())).map(
    lambda seconds: START + timedelta(seconds=seconds)
)
held = st.sampled_from([(), (), (), ("starred",), ("locked",), ("in use",)])


@st.composite
def chains(draw):
    """Points in their sequence; times mostly grow with it, clocks being what they are."""
    times = draw(st.lists(moments, max_size=25))
    if draw(st.booleans()):
        times.sort()
    kinds = st.sampled_from(list(Kind))
    return [
        PointFacts(f"p{number}", number, time, draw(kinds), draw(held))
        for number, time in enumerate(times, 1)
    ]


counts = st.integers(0, 6)
policies = st.builds(
    Policy, count=counts, days=st.integers(0, 900), chains=counts, hourly=counts, daily=counts,
    weekly=counts, monthly=counts, yearly=counts, zone=st.sampled_from([UTC, FIXED]),
)  # fmt: skip

FORMS = {
    "hourly": "%Y-%m-%d %H", "daily": "%Y-%m-%d", "weekly": "%G-%V", "monthly": "%Y-%m",
    "yearly": "%Y",
}  # fmt: skip


def slowly_wanted(points, policy, point):
    """Say, for one point alone, whether any rule wants it."""
    later = [other for other in points if other.sequence > point.sequence]
    if len(later) < policy.count:
        return True
    if policy.days and NOW - point.time <= timedelta(days=policy.days):
        return True
    fulls_after = [other for other in later if other.kind is Kind.FULL]
    if policy.chains and len(fulls_after) < policy.chains:
        return True
    for rule, form in FORMS.items():
        wanted = getattr(policy, rule)

        def period(other, form=form):
            return other.time.astimezone(policy.zone).strftime(form)

        mates = [other for other in points if period(other) == period(point)]
        newest = max(mates, key=lambda other: (other.time, other.sequence))
        newer_periods = {
            period(other) for other in points
            if other.time > newest.time and period(other) != period(point)
        }  # fmt: skip
        if wanted and newest is point and len(newer_periods) < wanted:
            return True
    return False


@given(chains(), policies)
@example([], Policy(count=1))
def test_the_rules_are_those_of_the_reference(points, policy):
    decision = decide(points, policy, NOW)
    everything = not policy.rules()
    expected = set()
    for point in points:
        newest = point.sequence == len(points) or point is max(
            points, key=lambda other: (other.time, other.sequence)
        )
        if everything or point.held or newest or slowly_wanted(points, policy, point):
            expected.add(point.point)
    assert set(decision.keep) == expected
    assert list(decision.remove) == [p.point for p in points if p.point not in expected]
    assert all(decision.keep.values())


@given(chains(), policies, policies)
def test_more_rules_never_remove_more(points, one, other):
    both = Policy(
        **{
            name: max(getattr(one, name), getattr(other, name))
            for name in (
                "count",
                "days",
                "chains",
                "hourly",
                "daily",
                "weekly",
                "monthly",
                "yearly",
            )
        }
    )
    if one.rules() and one.zone is UTC:
        assert set(decide(points, one, NOW).keep) <= set(decide(points, both, NOW).keep)


@given(chains(), policies)
def test_applied_again_nothing_more_goes(points, policy):
    first = decide(points, policy, NOW)
    left = [point for point in points if point.point in first.keep]
    again = decide(left, policy, NOW)
    # Series are counted by their fulls, which may be what was removed.
    if not policy.chains:
        assert set(again.keep) == set(first.keep)


@given(chains(), policies)
def test_what_is_held_and_the_newest_stay(points, policy):
    removed = set(decide(points, policy, NOW).remove)
    assert not removed & {point.point for point in points if point.held}
    if points:
        assert points[-1].point not in removed
        assert len(removed) < len(points)


def test_a_clock_that_went_back_removes_nothing():
    points = [
        PointFacts("old", 1, NOW - timedelta(days=99), Kind.FULL),
        PointFacts("new", 2, NOW + CLOCK_TOLERANCE + timedelta(seconds=1), Kind.INCREMENTAL),
    ]
    with pytest.raises(ClockWentBack):
        decide(points, Policy(count=1), NOW)
    assert decide(points, Policy(count=1), NOW + timedelta(seconds=1)).remove == ("old",)


def test_no_rule_keeps_everything():
    points = [PointFacts(f"p{n}", n, START, Kind.INCREMENTAL) for n in range(5)]
    assert not decide(points, Policy(), NOW).remove


def test_the_series_before_the_first_full_counts():
    kinds = [Kind.INCREMENTAL, Kind.FULL, Kind.INCREMENTAL, Kind.FULL, Kind.INCREMENTAL]
    points = [
        PointFacts(f"p{n}", n, START + timedelta(days=n), kind) for n, kind in enumerate(kinds)
    ]
    assert decide(points, Policy(chains=1), NOW).remove == ("p0", "p1", "p2")
    assert decide(points, Policy(chains=2), NOW).remove == ("p0",)
    assert decide(points, Policy(chains=3), NOW).remove == ()


def test_the_hour_that_comes_twice_is_two():
    paris = [timedelta(hours=2), timedelta(hours=1)]  # before and after summer time ends
    first = datetime.datetime(2025, 10, 26, 0, 30, tzinfo=UTC)
    texts = {(first + timedelta(hours=n)).astimezone(datetime.timezone(o)).strftime("%H:%M")
             for n, o in enumerate(paris)}  # fmt: skip
    assert texts == {"02:30"}
    hourly = retention._PERIODS["hourly"]
    moments_ = [(first + timedelta(hours=n)).astimezone(datetime.timezone(o))
                for n, o in enumerate(paris)]  # fmt: skip
    assert hourly(moments_[0]) != hourly(moments_[1])


@pytest.fixture
def chain(repository, clock, tmp_path, run, rng):
    """Return a chain of five points, an hour apart, of an image that changes."""
    path = tmp_path / "image"
    for _ in range(5):
        path.write_bytes(rng.randbytes(300_000))
        image.back_up_image(repository, "o", path, Kind.INCREMENTAL, run=run)
        clock.move(timedelta(hours=1))
    (chain,) = repository.all_chains()
    return chain


def test_it_is_carried_out(chain, clock):
    first, second, *_ = chain.points()
    marks.star(chain.storage, chain.id, first.point, clock.now())
    with chain.exclusive("retention") as lock, chain.reading(second, "test"):
        assert retention.plan(chain, Policy(count=1)).remove == tuple(
            head.point for head in chain.points()[2:4]
        )
        applied = retention.apply(chain, lock, Policy(count=1), timedelta(0))
    assert applied.decision.keep[first.point] == ("starred",)
    assert applied.decision.keep[second.point] == ("in use",)
    assert applied.bytes_trashed > 0
    assert len(chain.points()) == 3
    for head in chain.points():
        disk = chain.disk(head, head.disks[0])
        disk.read_into(0, memoryview(bytearray(disk.size)))


def test_what_is_in_the_trash_goes_when_its_time_has_come(chain, clock):
    with chain.exclusive("retention") as lock:
        applied = retention.apply(chain, lock, Policy(count=1), timedelta(days=1))
        assert applied.bytes_trashed > applied.bytes_freed == 0
        clock.move(timedelta(days=1, seconds=1))
        again = retention.apply(chain, lock, Policy(count=1), timedelta(days=1))
    assert again.bytes_freed >= applied.bytes_trashed
    assert not again.decision.remove
