"""Starts against a reference that looks at every minute, over the zones of the world."""

import calendar
import datetime
import functools
import itertools
import os
import zoneinfo
from zoneinfo import ZoneInfo

import hypothesis
import pytest
from hypothesis import strategies as st

from ruchu.control.schedules import days, starting
from ruchu.model.schedule_rules import (
    LAST,
    Daily,
    Hourly,
    Minutes,
    Monthly,
    Nth,
    Once,
    Rolling,
    Weekly,
    Yearly,
)
from ruchu.model.schedules import Schedule, from_document, to_document

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

FAULTS = os.environ.get("RUCHU_PROFILE") == "faults"
ZONES = (
    "Asia/Shanghai",
    "Europe/Berlin",
    "America/New_York",
    "America/Sao_Paulo",  # put forward at midnight
    "America/St_Johns",  # put back at a minute past midnight, to the day before
    "Australia/Lord_Howe",  # by half an hour
    "Antarctica/Troll",  # by two hours
    "Pacific/Apia",  # left out a day
    "Asia/Kathmandu",
    "Asia/Gaza",
    "Africa/Casablanca",
    "UTC",
)
MINUTE, HOUR, DAY = (datetime.timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))
# A look at a minute takes a microsecond or two.
SPAN_DAYS = 12 if FAULTS else 3
EXAMPLES = 1000 if FAULTS else 100
WARM_UP_DAYS = 2


# ------------------------------------------------------------------------------- the reference


def is_day(rule, day):
    """Tell whether a rule names a day."""
    in_month = calendar.monthrange(day.year, day.month)[1]

    def is_nth(nth):
        if day.weekday() != nth.day:
            return False
        if nth.nth == LAST:
            return day.day + 7 > in_month
        return (day.day - 1) // 7 + 1 == nth.nth

    def is_numbered(number):
        return day.day == (in_month if number == LAST else number)

    match rule:
        case Once():
            return day == rule.at.date()
        case Weekly():
            anchor = rule.anchor or day
            weeks = ((day - day.weekday() * DAY) - (anchor - anchor.weekday() * DAY)).days // 7
            return day.weekday() in rule.days and weeks % rule.every == 0
        case Monthly():
            return any(map(is_numbered, rule.days)) or any(map(is_nth, rule.weekdays))
        case Yearly():
            which = is_nth if isinstance(rule.day, Nth) else is_numbered
            return day.month == rule.month and which(rule.day)
        case _:
            return True


def may(schedule, holidays, day):
    if schedule.begin and day < schedule.begin:
        return False
    if schedule.until and day > schedule.until:
        return False
    return not (schedule.mind_holidays and day in holidays)


def minutes_of(zone, begin, end):
    """Yield every minute with what a clock shows, and with the local minutes that it passes.

    What is shown once more after a clock was put back passes nothing; what is left out when it is
    put forward is passed at once.
    """
    latest = None
    moment = begin - WARM_UP_DAYS * DAY
    day_began = None
    while moment < end:
        shown = moment.astimezone(zone).replace(tzinfo=None, fold=0)
        passed = []
        if latest is None:
            latest = shown
        while latest < shown:
            latest += MINUTE
            passed.append(latest)
            if latest.time() == datetime.time():
                day_began = moment
        if moment >= begin:
            yield moment, passed, latest.date(), day_began
        moment += MINUTE


def is_elapsed(rule, zone, moment, day_began):
    since_midnight = (moment - day_began) // MINUTE
    if isinstance(rule, Hourly):
        return since_midnight % 60 == rule.minute
    if rule.anchor is None:
        return since_midnight % rule.every == 0
    return (moment - reference_moment(rule.anchor, zone)) // MINUTE % rule.every == 0


@functools.lru_cache(maxsize=64)
def reference_moment(local, zone):
    """Return the first minute at which a clock shows a local time, or a later one."""
    moment = local.replace(tzinfo=datetime.UTC) - 2 * DAY
    while moment.astimezone(zone).replace(tzinfo=None, fold=0) < local:
        moment += MINUTE
    return moment


def times_of(rule):
    return {rule.at.time()} if isinstance(rule, Once) else set(rule.times)


def reference(schedule, zone, holidays, begin, end):
    rule = schedule.rule
    found = []
    for moment, passed, day, day_began in minutes_of(zone, begin, end):
        if isinstance(rule, Minutes | Hourly):
            is_due = may(schedule, holidays, day) and is_elapsed(rule, zone, moment, day_began)
        else:
            is_due = any(
                local.time() in times_of(rule)
                and is_day(rule, local.date())
                and may(schedule, holidays, local.date())
                for local in passed
            )
        if is_due:
            found.append(moment)
    return found


# ------------------------------------------------------------------------------------- the draw


@functools.cache
def changes(name):
    """Return what the clocks of a zone show right when they change; something if they do not."""
    zone = ZoneInfo(name)
    found = []
    moment = datetime.datetime(1999, 1, 1, tzinfo=datetime.UTC)
    end = datetime.datetime(2099, 11, 1, tzinfo=datetime.UTC)
    while moment < end:
        before, later = moment.astimezone(zone).utcoffset(), moment + 7 * DAY
        if before != later.astimezone(zone).utcoffset():
            unchanged, changed = 0, 7 * 24 * 60
            while changed - unchanged > 1:
                middle = (unchanged + changed) // 2
                same = (moment + middle * MINUTE).astimezone(zone).utcoffset() == before
                unchanged, changed = (middle, changed) if same else (unchanged, middle)
            found.append((moment + changed * MINUTE + before).replace(tzinfo=None))
        moment = later
    return found or [datetime.datetime.fromisoformat("2024-02-29T00:00")]


def zone_names():
    everywhere = sorted(zoneinfo.available_timezones())
    return st.sampled_from(ZONES) | st.sampled_from(everywhere)


@st.composite
def local_times(draw, name):
    """Draw a local time: near a change of clocks, the end of a month, a leap day, or any."""
    any_day = st.dates(datetime.date(1999, 1, 1), datetime.date(2100, 12, 1))
    ends = any_day.map(lambda day: day.replace(day=calendar.monthrange(day.year, day.month)[1]))
    february = st.integers(1999, 2100).map(lambda year: datetime.date(year, 2, 28))
    time = draw(st.sampled_from([datetime.time(), datetime.time(2, 30), datetime.time(23, 59)]))
    odd = (ends | february | any_day).map(lambda day: datetime.datetime.combine(day, time))
    change = st.sampled_from(changes(name))
    return draw(st.one_of(change, change, change, odd))


def clock_times(near):
    """Return a strategy for times, most of them around one."""
    steps = st.sampled_from([-120, -61, -60, -31, -30, -1, 0, 0, 1, 15, 29, 30, 59, 60, 119, 120])
    around = steps.map(lambda step: (near + step * MINUTE).time())
    anywhere = st.times().map(lambda time: time.replace(second=0, microsecond=0))
    times = st.one_of(around, around, around, anywhere)
    return st.lists(times, min_size=1, max_size=4).map(tuple)


@st.composite
def rules(draw, near):
    """Draw a rule, more often than not one that has starts near a day."""
    day = near.date() + draw(st.sampled_from([0, 0, 0, -1, 1, 2, 3])) * DAY
    times = draw(clock_times(near))
    nths = st.builds(
        Nth,
        st.sampled_from([(day.day - 1) // 7 + 1, LAST, 1, 5]),
        st.just(day.weekday()) | st.integers(0, 6),
    )
    numbers = st.just(day.day) | st.sampled_from([1, 28, 29, 30, 31, LAST])
    anchor = datetime.datetime.combine(day, times[0]) + draw(st.integers(-9, 9)) * 100 * DAY
    anchor = max(anchor, datetime.datetime.fromisoformat("1995-01-01T00:00"))
    some_days = st.lists(st.just(day.weekday()) | st.integers(0, 6), min_size=1, max_size=4)
    return draw(
        st.one_of(
            st.just(Once(datetime.datetime.combine(day, times[0]))),
            st.builds(Minutes, st.sampled_from([1, 7, 15, 45, 60, 90, 240, 1000, 1440])),
            st.builds(Minutes, st.sampled_from([7, 15, 90, 1440, 5000]), st.just(anchor)),
            st.builds(Hourly, st.integers(0, 59)),
            st.just(Daily(times)),
            st.builds(
                Weekly,
                some_days.map(tuple),
                st.just(times),
                st.integers(1, 3),
                st.just(anchor.date()),
            ),
            st.lists(numbers, min_size=1, max_size=4).map(
                lambda which: Monthly(times, days=tuple(which))
            ),
            st.lists(nths, min_size=1, max_size=3).map(
                lambda which: Monthly(times, weekdays=tuple(which))
            ),
            st.builds(Yearly, st.just(times), st.just(day.month), st.just(day.day) | nths),
            st.just(Yearly(times, day.month, LAST)),
        )
    )


@st.composite
def cases(draw):
    name = draw(zone_names())
    local = draw(local_times(name))
    near = local.date()
    holidays = frozenset(near + n * DAY for n in draw(st.sets(st.integers(-2, SPAN_DAYS))))
    schedule = Schedule(
        "full",
        draw(rules(local)),
        begin=draw(st.none() | st.just(near + draw(st.integers(-1, 2)) * DAY)),
        until=draw(st.none() | st.just(near + draw(st.integers(2, SPAN_DAYS)) * DAY)),
        mind_holidays=draw(st.booleans()),
    )
    begin = local.replace(tzinfo=datetime.UTC) - DAY
    begin += draw(st.integers(0, 24 * 60)) * MINUTE
    return ZoneInfo(name), schedule, holidays, begin


# ------------------------------------------------------------------------------------ the tests


@hypothesis.given(cases())
@hypothesis.settings(max_examples=EXAMPLES, suppress_health_check=[hypothesis.HealthCheck.too_slow])
def test_every_minute_of_the_world(case):
    zone, schedule, holidays, begin = case
    end = begin + SPAN_DAYS * DAY
    expected = reference(schedule, zone, holidays, begin, end)
    found = [due.at for due in starting.starts([schedule], zone, holidays, begin, end)]
    assert found == expected
    for moment, later in itertools.pairwise([begin - MINUTE, *expected]):
        for after in (moment, moment + (later - moment) / 2, later - MINUTE / 60):
            assert starting.following(schedule, after, zone, holidays) == later
    assert from_document(to_document(schedule)) == schedule


@hypothesis.given(st.data())
@hypothesis.settings(max_examples=EXAMPLES)
def test_the_days_of_a_rule_over_decades(data):
    near = data.draw(st.dates(datetime.date(1999, 1, 1), datetime.date(2090, 1, 1)))
    rule = data.draw(rules(datetime.datetime.combine(near, datetime.time())))
    end = near + 4000 * DAY
    found = itertools.takewhile(lambda day: day < end, days.of_rule(rule, near))
    wanted = [near + n * DAY for n in range(4000) if is_day(rule, near + n * DAY)]
    assert list(found) == wanted


@hypothesis.given(
    zone_names().flatmap(lambda name: st.tuples(st.just(name), local_times(name))),
    st.integers(1, 5000),
    st.integers(0, 3 * 24 * 60),
    st.sets(st.integers(-1, 6)),
)
def test_a_rolling_start_is_the_first_minute_that_may_be(place, minutes, offset, off):
    zone, near = ZoneInfo(place[0]), place[1].date()
    ended = datetime.datetime.combine(near, datetime.time(), datetime.UTC) + offset * MINUTE
    holidays = frozenset(near + n * DAY for n in off)
    schedule = Schedule("log", Rolling(minutes), mind_holidays=True)
    for moment, _, day, _ in minutes_of(zone, ended + minutes * MINUTE, ended + 14 * DAY):
        if day not in holidays:
            assert starting.following(schedule, ended, zone, holidays) == moment
            return
    pytest.fail("a day that is no holiday comes")
