"""Schedules as documents: what is read, what is refused and how, and how they are told."""

import datetime
import json

import pytest

from ruchu.control.schedules import wording
from ruchu.errors import InvalidName, UsageError
from ruchu.model import schedule_rules, schedules
from ruchu.model.schedules import Schedule, from_document, from_documents, to_document

NIGHT = {"times": ["02:00"]}
TOLD = [
    (
        {"kind": "full", "weekly": {"days": ["sun"], **NIGHT}},
        "Full every Sunday at 02:00",
        "每周日 02:00 全量",
    ),
    (
        {
            "kind": "x",
            "weekly": {"days": ["mon", "fri"], "every": 2, "anchor": "2027-01-04", **NIGHT},
        },
        "X every 2 weeks on Monday and Friday at 02:00",
        "每 2 周的周一、周五 02:00 x",
    ),
    ({"kind": "log", "minutes": {"every": 15}}, "Log every 15 minutes", "每 15 分钟 日志"),
    (
        {"kind": "log", "minutes": {"every": 15, "anchor": "2027-01-01T00:07"}},
        "Log every 15 minutes, counted from 2027-01-01 00:07",
        "自 2027-01-01 00:07 起每 15 分钟 日志",
    ),
    (
        {"kind": "copy", "hourly": {"minute": 5}},
        "Copy every hour at minute 05",
        "每小时第 5 分 复制",
    ),
    (
        {"kind": "incremental", "daily": {"times": ["02:00", "14:30"]}, "mind_holidays": True},
        "Incremental every day at 02:00 and 14:30, not on holidays",
        "每天 02:00、14:30 增量 节假日除外",
    ),
    (
        {"kind": "verify", "monthly": {"days": [1, 15, -1], **NIGHT}, "from": "2027-01-01"},
        "Verify every month on day 1, day 15 and the last day at 02:00, from 2027-01-01",
        "每月 1 日、15 日、最后一天 02:00 校验 自 2027-01-01 起",
    ),
    (
        {
            "kind": "drill",
            "monthly": {"weekdays": [{"nth": -1, "day": "fri"}, {"nth": 2, "day": "tue"}], **NIGHT},
        },
        "Drill every month on the last Friday and the second Tuesday at 02:00",
        "每月 最后一个周五、第 2 个周二 02:00 演练",
    ),
    (
        {"kind": "full", "yearly": {"month": 2, "day": -1, **NIGHT}, "until": "2040-01-01"},
        "Full every year on the last day of February at 02:00, until 2040-01-01",
        "每年 2 月 最后一天 02:00 全量 至 2040-01-01 止",
    ),
    (
        {"kind": "full", "yearly": {"month": 5, "weekday": {"nth": 1, "day": "mon"}, **NIGHT}},
        "Full every year on the first Monday of May at 02:00",
        "每年 5 月 第 1 个周一 02:00 全量",
    ),
    (
        {"kind": "full", "once": {"at": "2027-03-28T02:30"}},
        "Full once on 2027-03-28 at 02:30",
        "2027-03-28 02:30 一次 全量",
    ),
    (
        {"kind": "differential", "rolling": {"minutes": 30}},
        "Differential 30 minutes after the last run has ended",
        "上次运行结束 30 分钟后 差异",
    ),
]


@pytest.mark.parametrize(("document", "english", "chinese"), TOLD, ids=lambda case: str(case)[:30])
def test_a_document_comes_back_and_is_told(document, english, chinese):
    schedule = from_document(json.loads(json.dumps(document)))
    assert to_document(schedule) == document
    assert wording.describe(schedule, "en") == english
    assert wording.describe(schedule, "zh") == chinese


def test_a_language_that_is_not_spoken():
    with pytest.raises(UsageError, match="fr"):
        wording.describe(from_document(TOLD[0][0]), "fr")


WRONG = [
    ("text", "document"),
    (None, "document"),
    ({"kind": "full"}, "one rule, not none"),
    ({"kind": "full", "daily": NIGHT, "hourly": {}}, "hourly and daily"),
    ({"kind": "full", "daily": "02:00"}, "daily is a document"),
    ({"daily": NIGHT}, "kind is missing"),
    ({"kind": 7, "daily": NIGHT}, "kind is not 7"),
    ({"kind": "full", "daily": NIGHT, "form": "2027-01-01"}, "'form' is not known"),
    ({"kind": "full", "daily": {**NIGHT, "time": 1}}, "'time' is not known"),
    ({"kind": "full", "daily": {}}, "no time"),
    ({"kind": "full", "daily": {"times": "02:00"}}, "a list"),
    ({"kind": "full", "daily": {"times": [750]}}, "times is not 750"),
    ({"kind": "full", "daily": {"times": ["24:00"]}}, "24:00"),
    ({"kind": "full", "daily": {"times": ["2:00"]}}, "2:00"),
    ({"kind": "full", "daily": {"times": ["02:00\n"]}}, "02:00"),
    ({"kind": "full", "daily": {"times": ["02:00"] * 289}}, "up to 288"),
    ({"kind": "full", "daily": NIGHT, "from": "2027-1-1"}, "2027-1-1"),
    ({"kind": "full", "daily": NIGHT, "from": "1066-10-14"}, "between"),
    ({"kind": "full", "daily": NIGHT, "from": datetime.date(2027, 1, 1)}, "from is not"),
    ({"kind": "full", "daily": NIGHT, "from": "2027-02-30"}, "2027-02-30"),
    ({"kind": "full", "daily": NIGHT, "from": "2027-02-02", "until": "2027-02-01"}, "before"),
    ({"kind": "full", "daily": NIGHT, "mind_holidays": "yes"}, "true or false"),
    ({"kind": "full", "minutes": {"every": 0}}, "1 to 1440"),
    ({"kind": "full", "minutes": {"every": 1441}}, "1 to 1440"),
    ({"kind": "full", "minutes": {"every": True}}, "whole number"),
    ({"kind": "full", "minutes": {"every": "5"}}, "whole number"),
    ({"kind": "full", "minutes": {}}, "every is missing"),
    ({"kind": "full", "hourly": {"minute": 60}}, "0 to 59"),
    ({"kind": "full", "rolling": {"minutes": 10**9}}, "rolling"),
    ({"kind": "full", "once": {}}, "at is missing"),
    ({"kind": "full", "once": {"at": "2027-01-01"}}, "at is not"),
    ({"kind": "full", "weekly": {"days": [], **NIGHT}}, "no day"),
    ({"kind": "full", "weekly": {"days": ["sunday"], **NIGHT}}, "mon, tue"),
    ({"kind": "full", "weekly": {"days": [6], **NIGHT}}, "mon, tue"),
    ({"kind": "full", "weekly": {"days": ["sun"], "every": 2, **NIGHT}}, "which week"),
    ({"kind": "full", "weekly": {"days": ["sun"], "every": 999, **NIGHT}}, "1 to 104"),
    ({"kind": "full", "monthly": NIGHT}, "either"),
    ({"kind": "full", "monthly": {"days": [32], **NIGHT}}, "32"),
    ({"kind": "full", "monthly": {"days": [-2], **NIGHT}}, "-2"),
    ({"kind": "full", "monthly": {"weekdays": [{"nth": 6, "day": "mon"}], **NIGHT}}, "nth"),
    ({"kind": "full", "monthly": {"weekdays": [{"nth": 1}], **NIGHT}}, "day is missing"),
    ({"kind": "full", "monthly": {"weekdays": ["last"], **NIGHT}}, "weekdays is a document"),
    ({"kind": "full", "yearly": {"month": 13, "day": 1, **NIGHT}}, "1 to 12"),
    ({"kind": "full", "yearly": {"month": 2, "day": 30, **NIGHT}}, "1 to 29"),
    ({"kind": "full", "yearly": {"month": 2, **NIGHT}}, "either day or weekday"),
]


@pytest.mark.parametrize(("document", "said"), WRONG, ids=lambda case: str(case)[:50])
def test_what_is_wrong_is_said(document, said):
    with pytest.raises(UsageError, match=said):
        from_document(document)


@pytest.mark.parametrize("kind", ["", "Full", "a b", "a" * 33, "../x", "7"])
def test_a_kind_is_a_plain_word(kind):
    with pytest.raises(InvalidName):
        from_document({"kind": kind, "daily": NIGHT})


def test_the_schedules_of_a_policy():
    daily, hourly = {"kind": "full", "daily": NIGHT}, {"kind": "log", "hourly": {"minute": 0}}
    assert [each.kind for each in from_documents([daily, hourly])] == ["full", "log"]
    with pytest.raises(UsageError, match="twice"):
        from_documents([daily, daily])
    with pytest.raises(UsageError, match="32"):
        from_documents([daily] * 33)
    with pytest.raises(UsageError, match="list"):
        from_documents(daily)


def test_a_key_is_kept_until_something_changes():
    one = from_document({"kind": "full", "daily": {"times": ["14:00", "02:00", "02:00"]}})
    same = from_document({"kind": "full", "daily": {"times": ["02:00", "14:00"]}})
    other = from_document({"kind": "full", "daily": {"times": ["02:00", "14:01"]}})
    assert one == same
    assert one.key == same.key != other.key


def test_kinds_of_backups_compete_and_others_do_not():
    rule = schedule_rules.Hourly()
    lanes = {kind: Schedule(kind, rule).lane for kind in (*schedules.STRENGTH, "verify", "copy")}
    assert set(lanes.values()) == {schedules.BACKUPS, "verify", "copy"}
    weakness = [Schedule(kind, rule).weakness for kind in schedules.STRENGTH]
    assert weakness == sorted(weakness)


def test_a_value_made_in_code_is_checked_too():
    night = (datetime.time(2, 0, 30),)
    with pytest.raises(UsageError, match="whole minutes"):
        schedule_rules.Daily(night)
    with pytest.raises(UsageError, match="local"):
        schedule_rules.Once(datetime.datetime(2027, 1, 1, tzinfo=datetime.UTC))
    with pytest.raises(UsageError, match="weekday"):
        schedule_rules.Nth(1, 7)
    with pytest.raises(UsageError, match="more than"):
        times = tuple(datetime.time(n // 60, n % 60) for n in range(289))
        schedule_rules.Daily(times)
