"""The rules of an order, as a node reads them."""

import datetime

import pytest

from ruchu.errors import UsageError
from ruchu.model.sources import Kind
from ruchu.nodes import work_backup
from ruchu.protection import retention
from ruchu.protection.retention import PointFacts

# On both sides of midnight in Shanghai, on one day in London.
EVENING = datetime.datetime(2026, 11, 22, 15, 30, tzinfo=datetime.UTC)
MORNING = EVENING + datetime.timedelta(hours=1)
POINTS = [
    PointFacts("old", 0, EVENING, Kind.FULL),
    PointFacts("new", 1, MORNING, Kind.INCREMENTAL),
]


@pytest.mark.parametrize(
    ("zone", "stays"),
    [
        ("Asia/Shanghai", {"old", "new"}), ("Europe/London", {"new"}), ("UTC", {"new"}),
        (None, {"new"}),
    ],
)  # fmt: skip
def test_days_begin_at_midnight_of_the_policy(zone, stays):
    body = {"retention": {"daily": 7}} | ({"zone": zone} if zone else {})
    rules = work_backup.retention_policy(body)
    assert set(retention.decide(POINTS, rules, MORNING).keep) == stays


@pytest.mark.parametrize(
    "body", [{"retention": {"often": 3}}, {"zone": "Mars/Olympus"}, {"zone": "../etc/passwd"}]
)
def test_what_is_not_known_is_refused(body):
    with pytest.raises(UsageError):
        work_backup.retention_policy(body)
