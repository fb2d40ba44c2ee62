"""Recovery point targets: who misses, and since when."""

import datetime

from ruchu.control.schedules import targets
from ruchu.control.schedules.targets import Miss

HOUR = datetime.timedelta(hours=1)
NOW = datetime.datetime(2027, 1, 1, 12, 0, tzinfo=datetime.UTC)


def test_who_misses_and_since_when():
    points = {
        "young": [NOW - 5 * HOUR, NOW - HOUR],
        "old": [NOW - 5 * HOUR, NOW - 9 * HOUR],
        "older": [NOW - 9 * HOUR],
        "exact": [NOW - 2 * HOUR],
        "none": [],
    }
    assert targets.misses(2 * HOUR, points, NOW) == [
        Miss("none", None, None),
        Miss("older", NOW - 9 * HOUR, NOW - 7 * HOUR),
        Miss("old", NOW - 5 * HOUR, NOW - 3 * HOUR),
    ]


def test_what_is_new_is_given_time():
    points = {"new": [], "not so new": []}
    since = {"new": NOW - HOUR, "not so new": NOW - 3 * HOUR}
    assert targets.misses(2 * HOUR, points, NOW, since) == [Miss("not so new", None, NOW - HOUR)]


def test_a_point_from_the_future_proves_nothing():
    points = {"a": [NOW + HOUR], "b": [NOW + HOUR, NOW - 3 * HOUR], "c": [NOW + HOUR / 60]}
    assert [each.name for each in targets.misses(2 * HOUR, points, NOW)] == ["a", "b"]


def test_no_target():
    assert targets.misses(datetime.timedelta(), {"a": []}, NOW) == []
