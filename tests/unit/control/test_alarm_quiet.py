"""Quiet hours: over midnight, on some days, and on the days when the clocks change."""

import datetime
import zoneinfo

import pytest

from ruchu.control.alarms import quiet
from ruchu.control.alarms.records import QuietHours
from ruchu.errors import UsageError

BERLIN = zoneinfo.ZoneInfo("Europe/Berlin")


def local(text, zone=BERLIN, fold=0):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=zone, fold=fold)


def until(hours, text, fold=0):
    end = quiet.until(hours, local(text, zoneinfo.ZoneInfo(hours.zone), fold))
    return end and end.astimezone(zoneinfo.ZoneInfo(hours.zone)).strftime("%m-%d %H:%M")


NIGHT = QuietHours("Europe/Berlin", "22:00", "07:00")


@pytest.mark.parametrize(
    ("moment", "end"),
    [
        ("2026-11-26 21:59", None),
        ("2026-11-26 22:00", "11-27 07:00"),
        ("2026-11-27 00:30", "11-27 07:00"),
        ("2026-11-27 06:59", "11-27 07:00"),
        ("2026-11-27 07:00", None),
    ],
)
def test_a_night_over_midnight(moment, end):
    assert until(NIGHT, moment) == end


def test_a_noon_within_a_day():
    noon = QuietHours("Asia/Shanghai", "12:00", "14:00")
    assert until(noon, "2026-11-26 13:59") == "11-26 14:00"
    assert until(noon, "2026-11-26 14:00") is None


def test_the_days_are_those_on_which_it_begins():
    weekend = QuietHours("Europe/Berlin", "20:00", "08:00", days=(5, 6))
    assert until(weekend, "2026-11-28 21:00") == "11-29 08:00"  # a Saturday
    assert until(weekend, "2026-11-30 07:00") == "11-30 08:00"  # Monday, since Sunday
    assert until(weekend, "2026-11-30 21:00") is None
    assert until(weekend, "2026-11-28 07:00") is None  # Friday had none


@pytest.mark.parametrize(
    ("begin", "hours"), [("2026-03-28 22:00", 8), ("2026-10-24 22:00", 10), ("2026-11-26 22:00", 9)]
)
def test_a_night_in_which_the_clocks_change_is_as_long_as_it_is(begin, hours):
    start = local(begin)
    end = quiet.until(NIGHT, start)
    assert end - start.astimezone(datetime.UTC) == datetime.timedelta(hours=hours)


def test_an_end_that_the_clock_skips_is_after_the_gap():
    # On 29 March 2026 there is no 02:30 in Berlin; 02:00 becomes 03:00.
    early = QuietHours("Europe/Berlin", "22:00", "02:30")
    end = quiet.until(early, local("2026-03-28 23:00"))
    assert end == datetime.datetime(2026, 3, 29, 1, 30, tzinfo=datetime.UTC)


def test_an_end_that_comes_twice_is_the_first():
    # On 25 October 2026, 02:30 comes twice; who is told an hour early is not told too late.
    early = QuietHours("Europe/Berlin", "22:00", "02:30")
    end = quiet.until(early, local("2026-10-24 23:00"))
    assert end == datetime.datetime(2026, 10, 25, 0, 30, tzinfo=datetime.UTC)
    assert until(early, "2026-10-25 02:15", fold=1) is None


@pytest.mark.parametrize(
    "hours",
    [
        QuietHours("Europe/Atlantis", "22:00", "07:00"),
        QuietHours("../../etc/passwd", "22:00", "07:00"),
        QuietHours("Europe/Berlin", "25:00", "07:00"),
        QuietHours("Europe/Berlin", "22:00", "late"),
        QuietHours("Europe/Berlin", "22:00", "07:00", days=()),
        QuietHours("Europe/Berlin", "22:00", "07:00", days=(7,)),
    ],
)
def test_what_means_nothing_is_refused(hours):
    with pytest.raises(UsageError):
        quiet.check(hours)
