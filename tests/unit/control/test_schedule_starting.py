"""Starts on days that are odd, by the letter; the rest is compared with a reference."""

import datetime
import itertools
from zoneinfo import ZoneInfo

import pytest

from ruchu.control.schedules import days, moments, preview, starting
from ruchu.control.schedules.contract import ScheduledPolicy
from ruchu.model.policies import Missed
from ruchu.model.schedules import from_document

UTC = ZoneInfo("UTC")


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def schedule(kind="full", **fields):
    if "from_" in fields:
        fields["from"] = fields.pop("from_")
    return from_document({"kind": kind, **fields})


def found(rule, zone, begin, end, holidays=()):
    due = starting.starts([rule], ZoneInfo(zone), frozenset(holidays), at(begin), at(end))
    return [f"{each.at:%m-%d %H:%M}" for each in due]


@pytest.mark.parametrize(
    ("zone", "times", "begin", "expected"),
    [
        # 02:00 becomes 03:00 at 01:00 UTC.
        ("Europe/Berlin", ["02:30"], "2027-03-28", ["03-28 01:00"]),
        ("Europe/Berlin", ["02:00", "02:30", "03:00"], "2027-03-28", ["03-28 01:00"]),
        ("Europe/Berlin", ["01:59", "03:01"], "2027-03-28", ["03-28 00:59", "03-28 01:01"]),
        # 03:00 becomes 02:00 at 01:00 UTC.
        ("Europe/Berlin", ["02:30"], "2027-10-31", ["10-31 00:30"]),
        ("Europe/Berlin", ["02:59", "03:00"], "2027-10-31", ["10-31 00:59", "10-31 02:00"]),
        ("America/New_York", ["02:30"], "2027-03-14", ["03-14 07:00"]),
        ("America/New_York", ["01:30"], "2027-11-07", ["11-07 05:30"]),
        # By half an hour: 02:00 becomes 02:30, and 02:00 becomes 01:30.
        ("Australia/Lord_Howe", ["02:15"], "2027-10-02", ["10-02 15:30"]),
        ("Australia/Lord_Howe", ["01:45"], "2027-04-03", ["04-03 14:45"]),
        # Midnight itself is left out.
        ("America/Sao_Paulo", ["00:00", "00:30", "01:00"], "2018-11-04", ["11-04 03:00"]),
    ],
)
def test_times_that_do_not_exist_or_exist_twice(zone, times, begin, expected):
    end = f"{begin}T23:00"
    rule = schedule(daily={"times": times})
    assert found(rule, zone, begin, end) == expected


def test_a_day_that_was_left_out():
    # Samoa went from 29 to 31 December 2011.
    rule = schedule(daily={"times": ["12:00"]})
    assert found(rule, "Pacific/Apia", "2011-12-29", "2011-12-31") == [
        "12-29 22:00",
        "12-30 10:00",  # the first moment after noon of the 30th: midnight of the 31st
        "12-30 22:00",
    ]
    every = schedule(minutes={"every": 360})
    assert found(every, "Pacific/Apia", "2011-12-29T16:00", "2011-12-30T17:00") == [
        "12-29 16:00",
        "12-29 22:00",
        "12-30 04:00",
        "12-30 10:00",
        "12-30 16:00",
    ]


@pytest.mark.parametrize(("day", "hours"), [("2027-03-28", 23), ("2027-10-31", 25)])
def test_minutes_go_by_the_time_that_passes(day, hours):
    berlin = ZoneInfo("Europe/Berlin")
    date = datetime.date.fromisoformat(day)
    begin = moments.day(date, berlin)
    end = moments.day(date + datetime.timedelta(days=1), berlin)
    for rule in (schedule(minutes={"every": 15}), schedule(hourly={"minute": 45})):
        due = [each.at for each in starting.starts([rule], berlin, frozenset(), begin, end)]
        steps = {later - earlier for earlier, later in itertools.pairwise(due)}
        assert len(steps) == 1
        assert len(due) == hours * datetime.timedelta(hours=1) / steps.pop()


def test_minutes_count_from_midnight_or_from_an_anchor():
    assert found(schedule(minutes={"every": 1000}), "UTC", "2027-01-01", "2027-01-03") == [
        "01-01 00:00",
        "01-01 16:40",
        "01-02 00:00",
        "01-02 16:40",
    ]
    anchored = schedule(minutes={"every": 1000, "anchor": "2027-01-02T00:00"})
    assert found(anchored, "UTC", "2027-01-01", "2027-01-03") == [
        "01-01 07:20",
        "01-02 00:00",
        "01-02 16:40",
    ]


def test_leap_days():
    leap = schedule(yearly={"month": 2, "day": 29, "times": ["00:00"]})
    last = schedule(yearly={"month": 2, "day": -1, "times": ["00:00"]})
    after = at("2096-02-29")
    assert starting.following(leap, after, UTC) == at("2104-02-29")  # 2100 is no leap year
    assert starting.following(last, after, UTC) == at("2097-02-28")
    assert starting.following(last, at("2027-03-01"), UTC) == at("2028-02-29")


def test_months_without_the_day_are_left_out():
    rule = schedule(monthly={"days": [31], "times": ["00:00"]})
    months = [text[:5] for text in found(rule, "UTC", "2027-01-01", "2028-01-01")]
    assert months == ["01-31", "03-31", "05-31", "07-31", "08-31", "10-31", "12-31"]
    both = schedule(monthly={"days": [-1, 31, 30], "times": ["00:00"]})
    assert found(both, "UTC", "2027-04-01", "2027-06-01") == [
        "04-30 00:00",
        "05-30 00:00",
        "05-31 00:00",
    ]


def test_fifth_weekdays_and_last_ones():
    fifth = schedule(monthly={"weekdays": [{"nth": 5, "day": "mon"}], "times": ["00:00"]})
    assert found(fifth, "UTC", "2027-01-01", "2027-07-01") == ["03-29 00:00", "05-31 00:00"]
    last = schedule(monthly={"weekdays": [{"nth": -1, "day": "mon"}], "times": ["00:00"]})
    assert found(last, "UTC", "2027-02-01", "2027-04-01") == ["02-22 00:00", "03-29 00:00"]


def test_a_fifth_sunday_of_february_is_found_decades_ahead():
    weekday = {"nth": 5, "day": "sun"}
    rule = schedule(yearly={"month": 2, "weekday": weekday, "times": ["00:00"]})
    assert starting.following(rule, at("2032-03-01"), UTC) == at("2060-02-29")
    assert starting.following(rule, at("2088-03-01"), UTC) == at("2128-02-29")


def test_other_weeks_are_counted_from_the_anchor():
    weekly = {"days": ["mon", "sun"], "times": ["00:00"], "every": 2, "anchor": "2027-01-07"}
    expected = ["01-04 00:00", "01-10 00:00", "01-18 00:00", "01-24 00:00"]
    assert found(schedule(weekly=weekly), "UTC", "2027-01-01", "2027-01-30") == expected
    weekly["anchor"] = "2030-01-04"  # a week of the same count, years later
    assert found(schedule(weekly=weekly), "UTC", "2027-01-01", "2027-01-30") == expected


def test_dates_bound_a_rule():
    rule = schedule(daily={"times": ["12:00"]}, from_="2027-01-02", until="2027-01-03")
    assert found(rule, "UTC", "2027-01-01", "2027-02-01") == ["01-02 12:00", "01-03 12:00"]
    assert starting.following(rule, at("2027-01-03T12:00"), UTC) is None
    once = schedule(once={"at": "2060-01-01T00:00"})
    assert starting.following(once, at("2027-01-01"), UTC) == at("2060-01-01")
    assert starting.following(once, at("2060-01-01"), UTC) is None
    ahead = schedule(daily={"times": ["12:00"]}, from_="2060-01-01")
    assert starting.following(ahead, at("2027-01-01"), UTC) == at("2060-01-01T12:00")


def test_a_search_has_an_end():
    every_day = {datetime.date(2027, 1, 1) + datetime.timedelta(days=n) for n in range(5000)}
    rule = schedule(daily={"times": ["12:00"]}, mind_holidays=True)
    assert starting.following(rule, at("2027-01-01"), UTC, every_day) is None
    assert starting.following(rule, at("2300-01-01"), UTC) is None
    assert starting.following(rule, at("1066-01-01"), UTC) == at("1990-01-01T12:00")


def test_holidays_keep_off_those_that_mind_them():
    holiday = {datetime.date(2027, 2, 6)}
    minds = schedule(minutes={"every": 720}, mind_holidays=True)
    assert found(minds, "Asia/Shanghai", "2027-02-05T00:00", "2027-02-07T00:00", holiday) == [
        "02-05 04:00",
        "02-06 16:00",
    ]
    rolling = schedule(rolling={"minutes": 60}, mind_holidays=True)
    shanghai = ZoneInfo("Asia/Shanghai")
    assert starting.following(rolling, at("2027-02-05T14:59"), shanghai, holiday) == at(
        "2027-02-05T15:59"
    )
    assert starting.following(rolling, at("2027-02-05T15:01"), shanghai, holiday) == at(
        "2027-02-06T16:00"
    )


def test_the_stronger_kind_wins_a_moment():
    full = schedule("full", weekly={"days": ["sun"], "times": ["02:00"]})
    more = schedule("incremental", daily={"times": ["02:00", "14:00"]})
    log = schedule("log", hourly={})
    verify = schedule("verify", weekly={"days": ["sun"], "times": ["02:00"]})
    policy = ScheduledPolicy(
        "p", (log, more, verify, full), UTC, frozenset(), Missed.ONCE, version=1
    )
    due = preview.next_starts(policy, at("2027-02-07T01:00"), 4)
    assert [(f"{each.at:%H:%M}", each.schedule.kind) for each in due] == [
        ("01:00", "log"),
        ("02:00", "full"),
        ("02:00", "verify"),
        ("03:00", "log"),
    ]
    assert due[1].satisfied == (more, log)
    assert len(preview.next_starts(policy, at("2027-02-07T01:00"))) == 10


def test_a_rolling_schedule_is_shown_as_if_runs_took_no_time():
    policy = ScheduledPolicy(
        "p", (schedule("log", rolling={"minutes": 30}),), UTC, frozenset(), Missed.ONCE, 1
    )
    due = preview.next_starts(policy, at("2027-01-01"), 2)
    assert [each.at for each in due] == [at("2027-01-01T00:30"), at("2027-01-01T01:00")]


def test_a_month_without_the_day_has_none():
    assert days.in_month(2027, 2, 29) is None
    assert days.in_month(2028, 2, 29) == datetime.date(2028, 2, 29)
