"""Summary reports: forecasts that say how sure they are, periods of a time zone, words in both languages."""

import datetime
import random

import pytest

from ruchu.control.alarms.records import Alarm
from ruchu.control.reports import forecast, periods, wording
from ruchu.control.reports.facts import StorageUse, SummaryFacts, TroubledRun
from ruchu.control.reports.periods import ReportKind
from ruchu.model.tasks import Severity

GIB = 1 << 30
LAST = datetime.date(2026, 11, 25)


def daily(figures):
    return {
        LAST - datetime.timedelta(days=len(figures) - 1 - number): int(figure)
        for number, figure in enumerate(figures)
    }


def moment(text):
    return datetime.datetime.fromisoformat(text).replace(tzinfo=datetime.UTC)


# --------------------------------------------------------------------------------------- forecasts


def test_a_straight_line_meets_the_capacity_on_its_day():
    found = forecast.forecast(daily([number * GIB for number in range(20)]), 40 * GIB)
    assert found.growth_bytes == pytest.approx(GIB)
    # The last figure is 19 GiB; 21 days later it is 40.
    assert found.full_on == LAST + datetime.timedelta(days=21)
    assert found.earliest == found.latest == found.full_on


def test_too_few_days_are_no_forecast():
    found = forecast.forecast(daily(range(6)), 100)
    assert (found.enough, found.days, found.full_on) == (False, 6, None)
    assert forecast.forecast({}, 100).days == 0


def test_without_a_capacity_there_is_growth_only():
    found = forecast.forecast(daily([number * GIB for number in range(9)]), 0)
    assert found.growth_bytes == pytest.approx(GIB)
    assert found.full_on is None


def test_a_storage_that_is_full_is_full_today():
    assert forecast.forecast(daily([100] * 9), 100).full_on == LAST


def test_a_storage_that_shrinks_is_never_full():
    found = forecast.forecast(daily([(50 - number) * GIB for number in range(30)]), 60 * GIB)
    assert (found.full_on, found.earliest, found.latest) == (None, None, None)


def test_noise_widens_the_interval_and_may_leave_its_end_open(rng):
    quiet = forecast.forecast(daily([n * GIB + rng.gauss(0, GIB) for n in range(30)]), 60 * GIB)
    loud = forecast.forecast(daily([n * GIB + rng.gauss(0, 9 * GIB) for n in range(30)]), 60 * GIB)
    assert quiet.earliest < quiet.full_on < quiet.latest
    assert loud.earliest < quiet.earliest
    flat = forecast.forecast(daily([rng.gauss(30, 8) * GIB for _ in range(10)]), 60 * GIB)
    assert flat.latest is None


def test_the_interval_holds_what_it_promises():
    # 95 % of the intervals should contain the day on which the next noisy figure would be full.
    choose = random.Random(5)
    inside = 0
    for _ in range(200):
        figures = [100 + 5 * number + choose.gauss(0, 4) for number in range(20)]
        found = forecast.forecast(daily(figures), 300)
        future = {ahead: 100 + 5 * (19 + ahead) + choose.gauss(0, 4) for ahead in range(60)}
        real = LAST + datetime.timedelta(days=next(a for a, f in future.items() if f >= 300))
        inside += found.earliest <= real <= found.latest
    assert inside >= 185


# ------------------------------------------------------------------------------------------ periods


@pytest.mark.parametrize(
    ("kind", "now", "zone", "name", "start", "hours"),
    [
        (
            ReportKind.DAILY,
            "2026-11-26 15:59",
            "Asia/Shanghai",
            "2026-11-25",
            "2026-11-24 16:00",
            24,
        ),
        (
            ReportKind.DAILY,
            "2026-11-26 16:00",
            "Asia/Shanghai",
            "2026-11-26",
            "2026-11-25 16:00",
            24,
        ),
        (
            ReportKind.DAILY,
            "2026-03-30 06:00",
            "Europe/Berlin",
            "2026-03-29",
            "2026-03-28 23:00",
            23,
        ),
        (
            ReportKind.DAILY,
            "2026-10-26 06:00",
            "Europe/Berlin",
            "2026-10-25",
            "2026-10-24 22:00",
            25,
        ),
        (ReportKind.WEEKLY, "2026-11-26 06:00", "UTC", "2026-W47", "2026-11-16 00:00", 168),
        (ReportKind.WEEKLY, "2027-01-04 00:00", "UTC", "2026-W53", "2026-12-28 00:00", 168),
    ],
)
def test_the_last_period_that_is_over(kind, now, zone, name, start, hours):
    found = periods.last(kind, moment(now), zone)
    assert (found.name, found.start) == (name, moment(start))
    assert found.end - found.start == datetime.timedelta(hours=hours)


# -------------------------------------------------------------------------------------------- words


def facts(**changes):
    at = "2026-11-25T02:00:00.000000Z"
    values = ["1" * 32, "storage-gone", "仓库 <1>", Severity.CRITICAL, "open", at, at, 4, "", {}]
    whole = {
        "server": "srv-1",
        "outcomes": {"succeeded": 40, "failed": 1, "stopped": 0},
        "failed": [TroubledRun("夜间", "vm-1", at, "disk\n<b>gone</b>")],
        "missed": [TroubledRun("hourly", "vm-2", at, "node away")],
        "unprotected": [f"vm-{number}" for number in range(60)],
        "protected": 12,
        "storages": [
            StorageUse("s1", 30 * GIB, 60 * GIB, daily([n * GIB for n in range(31)])),
            StorageUse("s2", GIB, 0, {}),
            StorageUse("s3", GIB, 9 * GIB, daily([GIB] * 9)),
        ],
        "alarms": [Alarm(*values, None, None, None)],
    }
    return SummaryFacts(**{**whole, **changes})


def test_a_report_says_it_all_in_english():
    period = periods.last(ReportKind.DAILY, moment("2026-11-26 06:00"), "UTC")
    report = wording.report(facts(), period, "en")
    assert report.subject == "[Ruchu] srv-1: Daily report 2026-11-25, 63 need attention"
    for part in (
        "succeeded: 40",
        "2026-11-25 02:00 UTC  夜间 / vm-1: disk <b>gone</b>",
        "hourly / vm-2: node away",
        "[Critical] Storage 仓库 <1> cannot be reached (4)",
        "and 10 more",
        "s1: 30.0 GiB of 60.0 GiB (50%); +1.0 GiB a day; full about 2026-12-25",
        "s2: 1.0 GiB, without a limit; too few days for a forecast (0 of 7)",
        "s3: 1.0 GiB of 9.0 GiB (11%); +0 B a day; not full within ten years",
    ):
        assert part in report.text
    assert "<b>gone" not in report.html
    assert "&lt;b&gt;gone" in report.html


def test_a_report_says_it_all_in_chinese():
    period = periods.last(ReportKind.WEEKLY, moment("2026-11-26 06:00"), "Asia/Shanghai")
    report = wording.report(facts(), period, "zh")
    assert report.subject == "[Ruchu] srv-1: 周报 2026-W47, 63 项需要关注"
    for part in (
        "成功: 40",
        "[严重] 存储 仓库 <1> 无法访问",
        "另有 10 条",
        "已用 30.0 GiB，共 60.0 GiB（50%）；预计",
        "天数不足，无法预测（0/7）",
    ):
        assert part in report.text.replace("; ", "；").replace("；每天 +1.0 GiB", "")
    assert 'lang="zh"' in report.html


def test_a_quiet_day():
    period = periods.last(ReportKind.DAILY, moment("2026-11-26 06:00"), "UTC")
    quiet = facts(failed=[], missed=[], unprotected=[], alarms=[], storages=[], outcomes={})
    report = wording.report(quiet, period, "fr")
    assert report.subject.endswith("all well")
    assert report.text.count("none") == 6


def test_a_trend_that_does_not_fill_but_may(rng):
    figures = [(30 - 0.2 * number + rng.gauss(0, 9)) * GIB for number in range(14)]
    period = periods.last(ReportKind.DAILY, moment("2026-11-26 06:00"), "UTC")
    use = StorageUse("s", 30 * GIB, 60 * GIB, daily(figures))
    known = forecast.forecast(use.daily, use.capacity_bytes)
    text = wording.report(facts(storages=[use]), period, "en").text
    assert known.full_on or "cannot be ruled out" in text
