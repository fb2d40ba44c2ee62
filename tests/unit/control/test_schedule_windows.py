"""Windows: open or not, when they open and close, which limit holds, where clocks change too."""

import datetime
from zoneinfo import ZoneInfo

import hypothesis
from hypothesis import strategies as st

from ruchu.control.schedules import windows
from ruchu.model.policies import Window

UTC, BERLIN = ZoneInfo("UTC"), ZoneInfo("Europe/Berlin")
NIGHT = (Window(begin=22 * 60, end=6 * 60),)
MINUTE = datetime.timedelta(minutes=1)


def at(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


def test_without_windows_work_may_always_run():
    now = at("2027-01-01T12:00")
    assert windows.is_open((), now, UTC)
    assert windows.opens((), now, UTC) == now
    assert windows.closes((), now, UTC) is None
    assert windows.limit((), now, UTC) == 0
    assert windows.changes((), now, UTC) is None


def test_a_night():
    noon, late, early = (at(f"2027-01-0{t}") for t in ("1T12:00", "1T22:00", "2T05:59"))
    assert not windows.is_open(NIGHT, noon, UTC)
    assert windows.opens(NIGHT, noon, UTC) == late == windows.changes(NIGHT, noon, UTC)
    assert windows.is_open(NIGHT, late, UTC)
    assert windows.is_open(NIGHT, early, UTC)
    assert windows.closes(NIGHT, late, UTC) == at("2027-01-02T06:00")
    assert windows.closes(NIGHT, early, UTC) == at("2027-01-02T06:00")
    assert not windows.is_open(NIGHT, at("2027-01-02T06:00"), UTC)


def test_a_night_on_which_clocks_change():
    # From 21:00 UTC, until 06:00 of an hour less, and of an hour more.
    assert windows.closes(NIGHT, at("2027-03-27T21:00"), BERLIN) == at("2027-03-28T04:00")
    assert windows.closes(NIGHT, at("2027-10-30T20:00"), BERLIN) == at("2027-10-31T05:00")


def test_a_window_that_ends_in_an_hour_that_comes_twice_ends_at_the_first():
    window = (Window(begin=0, end=150),)
    assert windows.closes(window, at("2027-10-30T22:00"), BERLIN) == at("2027-10-31T00:30")
    assert not windows.is_open(window, at("2027-10-31T01:15"), BERLIN)  # 02:15 once more


def test_a_window_within_an_hour_that_does_not_exist_is_left_out_that_day():
    window = (Window(begin=125, end=155),)
    assert windows.opens(window, at("2027-03-27T12:00"), BERLIN) == at("2027-03-29T00:05")


def test_days_of_the_week():
    # A window of Friday goes on into Saturday.
    friday = (Window(days=(4,), begin=20 * 60, end=4 * 60),)
    assert windows.opens(friday, at("2027-01-02T12:00"), UTC) == at("2027-01-08T20:00")
    assert windows.is_open(friday, at("2027-01-09T03:59"), UTC)
    assert not windows.is_open(friday, at("2027-01-08T03:59"), UTC)


def test_windows_that_touch_are_one_and_limits_change_within():
    day_and_night = (
        Window(begin=8 * 60, end=18 * 60, bytes_per_s=1000),
        Window(begin=18 * 60, end=8 * 60),
        Window(days=(6,), begin=12 * 60, end=13 * 60, bytes_per_s=10),
    )
    friday = at("2027-01-01T09:00")
    assert windows.closes(day_and_night, friday, UTC) is None
    assert windows.limit(day_and_night, friday, UTC) == 1000
    assert windows.changes(day_and_night, friday, UTC) == at("2027-01-01T18:00")
    assert windows.limit(day_and_night, at("2027-01-01T18:00"), UTC) == 0
    sunday = at("2027-01-03T12:30")
    assert windows.limit(day_and_night, sunday, UTC) == 10
    assert windows.changes(day_and_night, sunday, UTC) == at("2027-01-03T13:00")


def test_a_whole_day_written_either_way():
    for window in (Window(), Window(begin=0, end=0), Window(begin=600, end=600)):
        assert windows.closes((window,), at("2027-01-01T12:00"), UTC) is None
        assert windows.changes((window,), at("2027-01-01T12:00"), UTC) is None


def test_a_window_on_no_day_never_opens():
    assert windows.opens((Window(days=(9,)),), at("2027-01-01"), UTC) is None


@st.composite
def some_windows(draw):
    one = st.builds(
        Window,
        st.lists(st.integers(0, 6), max_size=3).map(tuple),
        st.integers(0, 1439),
        st.integers(0, 1440),
        st.sampled_from([0, 10, 20]),
    )
    return tuple(draw(st.lists(one, min_size=1, max_size=3)))


@hypothesis.given(
    some_windows(),
    st.sampled_from(["UTC", "Europe/Berlin", "Australia/Lord_Howe", "Pacific/Apia"]),
    st.datetimes(at("2010-01-01").replace(tzinfo=None), at("2040-01-01").replace(tzinfo=None)),
)
def test_answers_agree_with_one_another(drawn, name, naive):
    zone, now = ZoneInfo(name), naive.replace(second=0, microsecond=0, tzinfo=datetime.UTC)

    def state(moment):
        return windows.is_open(drawn, moment, zone), windows.limit(drawn, moment, zone)

    change = windows.changes(drawn, now, zone)
    until = change or now + datetime.timedelta(days=13)
    for part in range(20):
        assert state(now + (until - now) * part / 20) == state(now)
    if change is not None:
        assert state(change) != state(now)
    opens = windows.opens(drawn, now, zone)
    assert windows.is_open(drawn, opens, zone)
    if opens > now:
        assert not windows.is_open(drawn, opens - MINUTE, zone)
    closes = windows.closes(drawn, opens, zone)
    if closes is not None:
        assert not windows.is_open(drawn, closes, zone)
        assert windows.is_open(drawn, closes - MINUTE / 60, zone)
