"""Schedules in words, for people: `Full every Sunday at 02:00`, `每周日 02:00 全量`."""

import datetime
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from ruchu.errors import UsageError
from ruchu.model.schedule_rules import (
    LAST,
    Daily,
    Hourly,
    Minutes,
    Monthly,
    Nth,
    Once,
    Rolling,
    Rule,
    Weekly,
    Yearly,
)
from ruchu.model.schedules import Schedule


@dataclass(frozen=True, slots=True)
class _Words:
    """A language: its words, and sentences with gaps; `date` and `nth` make their parts."""

    kinds: Mapping[str, str]
    weekdays: Sequence[str]
    and_: tuple[str, str]  # between the members of a list, and before its last
    sentences: Mapping[str, str]
    day: Callable[[int], str]
    nth: Callable[[int, str], str]
    month: Callable[[int], str]


_MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September",
    "October", "November", "December",
)  # fmt: skip
_ORDINALS = {1: "first", 2: "second", 3: "third", 4: "fourth", 5: "fifth", LAST: "last"}

_ENGLISH = _Words(
    kinds={},
    weekdays=(
        "Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday",
    ),
    and_=(", ", " and "),
    sentences={
        "whole": "{kind} {rule}{bounds}",
        "once": "once on {date} at {time}",
        "minutes": "every {every} minutes",
        "minutes from": "every {every} minutes, counted from {date} {time}",
        "hourly": "every hour at minute {minute:02}",
        "daily": "every day at {times}",
        "weekly": "every {days} at {times}",
        "weeks": "every {every} weeks on {days} at {times}",
        "monthly": "every month on {days} at {times}",
        "yearly": "every year on {day} of {month} at {times}",
        "rolling": "{minutes} minutes after the last run has ended",
        "from": ", from {date}",
        "until": ", until {date}",
        "holidays": ", not on holidays",
    },
    day=lambda day: "the last day" if day == LAST else f"day {day}",
    nth=lambda nth, day: f"the {_ORDINALS[nth]} {day}",
    month=lambda month: _MONTHS[month - 1],
)  # fmt: skip

_CHINESE = _Words(
    kinds={
        "full": "全量",
        "incremental": "增量",
        "differential": "差异",
        "log": "日志",
        "copy": "复制",
        "verify": "校验",
        "merge": "合并",
        "drill": "演练",
    },
    weekdays=("周一", "周二", "周三", "周四", "周五", "周六", "周日"),
    and_=("、", "、"),
    sentences={
        "whole": "{rule} {kind}{bounds}",
        "once": "{date} {time} 一次",
        "minutes": "每 {every} 分钟",
        "minutes from": "自 {date} {time} 起每 {every} 分钟",
        "hourly": "每小时第 {minute} 分",
        "daily": "每天 {times}",
        "weekly": "每{days} {times}",
        "weeks": "每 {every} 周的{days} {times}",
        "monthly": "每月 {days} {times}",
        "yearly": "每年 {month} {day} {times}",
        "rolling": "上次运行结束 {minutes} 分钟后",
        "from": " 自 {date} 起",
        "until": " 至 {date} 止",
        "holidays": " 节假日除外",
    },
    day=lambda day: "最后一天" if day == LAST else f"{day} 日",
    nth=lambda nth, day: f"最后一个{day}" if nth == LAST else f"第 {nth} 个{day}",
    month=lambda month: f"{month} 月",
)

_LANGUAGES = {"en": _ENGLISH, "zh": _CHINESE}
LANGUAGES = tuple(_LANGUAGES)


def describe(schedule: Schedule, language: str) -> str:
    """Return a schedule in words.

    Raises:
        UsageError: the language is none of `LANGUAGES`.
    """
    words = _LANGUAGES.get(language)
    if words is None:
        raise UsageError(f"(the language {language!r:.20})", hint=f"One of {', '.join(LANGUAGES)}.")
    bounds = ""
    if schedule.begin is not None:
        bounds += words.sentences["from"].format(date=schedule.begin)
    if schedule.until is not None:
        bounds += words.sentences["until"].format(date=schedule.until)
    if schedule.mind_holidays:
        bounds += words.sentences["holidays"]
    kind = words.kinds.get(schedule.kind, schedule.kind)
    text = words.sentences["whole"].format(
        kind=kind, rule=_rule(schedule.rule, words), bounds=bounds
    )
    return text[0].upper() + text[1:]


def _rule(rule: Rule, words: _Words) -> str:
    match rule:
        case Once():
            return words.sentences["once"].format(**_parts(rule.at))
        case Minutes():
            name = "minutes" if rule.anchor is None else "minutes from"
            parts = {} if rule.anchor is None else _parts(rule.anchor)
            return words.sentences[name].format(every=rule.every, **parts)
        case Hourly():
            return words.sentences["hourly"].format(minute=rule.minute)
        case Rolling():
            return words.sentences["rolling"].format(minutes=rule.minutes)
        case _:
            return _on_days(rule, words)


def _on_days(rule: Daily | Weekly | Monthly | Yearly, words: _Words) -> str:
    times = _list([f"{each:%H:%M}" for each in rule.times], words)
    match rule:
        case Daily():
            return words.sentences["daily"].format(times=times)
        case Weekly():
            days = _list([words.weekdays[day] for day in rule.days], words)
            name = "weekly" if rule.every == 1 else "weeks"
            return words.sentences[name].format(days=days, times=times, every=rule.every)
        case Monthly():
            which = [_day(each, words) for each in rule.named]
            return words.sentences["monthly"].format(days=_list(which, words), times=times)
        case Yearly():
            month = words.month(rule.month)
            day = _day(rule.day, words)
            return words.sentences["yearly"].format(day=day, month=month, times=times)


def _day(which: int | Nth, words: _Words) -> str:
    if isinstance(which, Nth):
        return words.nth(which.nth, words.weekdays[which.day])
    return words.day(which)


def _parts(local: datetime.datetime) -> dict[str, str]:
    return {"date": local.date().isoformat(), "time": f"{local:%H:%M}"}


def _list(members: Sequence[str], words: _Words) -> str:
    between, before_last = words.and_
    if len(members) == 1:
        return members[0]
    return between.join(members[:-1]) + before_last + members[-1]
