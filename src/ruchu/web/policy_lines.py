"""Schedules and windows of a policy as lines of a form, and back; nothing is lost on the way.

What cannot be read stays as it was typed, and is told as a problem of its field.
"""

import datetime
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ruchu.errors import RuchuError
from ruchu.model import schedules
from ruchu.model.schedules import DAY_NAMES
from ruchu.web.language import later

Document = Mapping[str, Any]
LAST_DAY = "last"
_TIME = re.compile(r"([01]?[0-9]|2[0-3]):([0-5][0-9])")
_DAY_MINUTES = 24 * 60
# Units of a speed, the largest first; the first that divides a figure shows it.
RATES: Mapping[str, int] = {"GiB/s": 1 << 30, "MiB/s": 1 << 20, "KiB/s": 1 << 10, "B/s": 1}

RULES: Mapping[str, str] = {
    "daily": later("Every day"),
    "weekly": later("On days of the week"),
    "monthly": later("On days of the month"),
    "yearly": later("Once a year"),
    "hourly": later("Every hour"),
    "minutes": later("Every so many minutes"),
    "rolling": later("So many minutes after the last run"),
    "once": later("Once"),
}
# A time of day belongs to these.
_TIMED = frozenset({"daily", "weekly", "monthly", "yearly"})


@dataclass(slots=True)
class ScheduleLine:
    """A schedule as it is filled in.

    Attributes:
        kind: of the run.
        rule: one of `RULES`.
        times: such as `02:00, 14:00`.
        weekdays: names of `DAY_NAMES`.
        weeks: every so many weeks.
        anchor: date of a week that counts, or the moment that minutes are counted from.
        days: days of the month, such as `1, 15, last`; of a year, one.
        nths: weekdays of the month, such as `1-mon` or `-1-sun`; of a year, one.
        month: 1 to 12.
        minute: of the hour.
        minutes: between starts, or after the last run.
        at: the moment of a single start.
        begin, until: first and last date.
        mind_holidays: does not start on holidays.
    """

    kind: str = "incremental"
    rule: str = "daily"
    times: str = "02:00"
    weekdays: list[str] = field(default_factory=lambda: ["sun"])
    weeks: int | None = 1
    anchor: str = ""
    days: str = "1"
    nths: list[str] = field(default_factory=list)
    month: int = 1
    minute: int | None = 0
    minutes: int | None = 60
    at: str = ""
    begin: str = ""
    until: str = ""
    mind_holidays: bool = False


def line_of(document: Document) -> ScheduleLine:
    """Return the line of the document of a schedule."""
    rule = next(name for name in RULES if name in document)
    inner = document[rule]
    line = ScheduleLine(
        kind=document["kind"], rule=rule, begin=document.get("from", ""),
        until=document.get("until", ""), mind_holidays=document.get("mind_holidays", False),
    )  # fmt: skip
    if "times" in inner:
        line.times = ", ".join(inner["times"])
    line.anchor = inner.get("anchor", "")
    match rule:
        case "weekly":
            line.weekdays, line.weeks = list(inner["days"]), inner.get("every", 1)
        case "monthly":
            line.days = ", ".join(_day_text(day) for day in inner.get("days", ()))
            line.nths = [_nth_text(each) for each in inner.get("weekdays", ())]
        case "yearly":
            line.month = inner["month"]
            line.days = _day_text(inner["day"]) if "day" in inner else ""
            line.nths = [_nth_text(inner["weekday"])] if "weekday" in inner else []
        case "hourly":
            line.minute = inner.get("minute", 0)
        case "minutes":
            line.minutes = inner["every"]
        case "rolling":
            line.minutes = inner["minutes"]
        case "once":
            line.at = inner["at"]
        case _:
            pass  # `daily` has times and nothing else
    return line


def document_of(line: ScheduleLine) -> dict[str, Any]:
    """Return the document of a line."""
    inner: dict[str, Any] = _inner(line)
    if line.rule in _TIMED:
        inner["times"] = [_padded(each) for each in parts(line.times)]
    document: dict[str, Any] = {"kind": line.kind, line.rule: inner}
    if line.begin:
        document["from"] = line.begin
    if line.until:
        document["until"] = line.until
    if line.mind_holidays:
        document["mind_holidays"] = True
    return document


def _inner(line: ScheduleLine) -> dict[str, Any]:
    anchor = {"anchor": line.anchor} if line.anchor else {}
    match line.rule:
        case "weekly":
            every = {} if line.weeks == 1 else {"every": line.weeks}
            return {"days": list(line.weekdays), **every, **anchor}
        case "monthly" | "yearly":
            return _inner_days(line)
        case "minutes":
            return {"every": line.minutes, **anchor}
        case _:
            plain: dict[str, dict[str, Any]] = {"hourly": {"minute": line.minute}, "rolling": {"minutes": line.minutes},
                     "once": {"at": line.at}}  # fmt: skip
            return plain.get(line.rule, {})


def _inner_days(line: ScheduleLine) -> dict[str, Any]:
    monthly = line.rule == "monthly"
    month = {} if monthly else {"month": line.month}
    if line.nths:
        found = [_nth(each) for each in line.nths]
        return {"weekdays": found} if monthly else {**month, "weekday": found[0]}
    days = [_day(each) for each in parts(line.days)]
    return {"days": days} if monthly else {**month, "day": days[0] if days else ""}


def parts(text: str) -> list[str]:
    """Return what stands between commas."""
    return [each.strip() for each in re.split(r"[,，、;\n]", text) if each.strip()]


def _padded(text: str) -> str:
    """Return a time with two digits for its hour, as far as it is one."""
    return text.zfill(5) if _TIME.fullmatch(text) else text


def _day(text: str) -> int | str:
    if text.lower() == LAST_DAY:
        return -1
    return int(text) if text.isdecimal() else text


def _day_text(day: int) -> str:
    return LAST_DAY if day == -1 else str(day)


def _nth(text: str) -> dict[str, Any]:
    nth, _, day = text.rpartition("-")
    return {"nth": int(nth), "day": day}


def _nth_text(nth: Mapping[str, Any]) -> str:
    return f"{nth['nth']}-{nth['day']}"


def schedule_problems(lines: Sequence[ScheduleLine]) -> dict[str, str]:
    """Return what is wrong with lines, by field, such as `schedules.0.times`."""
    found: dict[str, str] = {}
    seen: list[dict[str, Any]] = []
    for number, line in enumerate(lines):
        wrong = _line_problems(line)
        document = document_of(line)
        if not wrong:
            try:
                schedules.from_document(document)
            except RuchuError:
                wrong = {"rule": later("This schedule cannot be.")}
        if document in seen:
            wrong = {"kind": later("The same schedule is there twice.")}
        seen.append(document)
        found |= {f"schedules.{number}.{name}": text for name, text in wrong.items()}
    return found


def _line_problems(line: ScheduleLine) -> dict[str, str]:
    found: dict[str, str] = {}
    times = parts(line.times)
    if line.rule in _TIMED and not (times and all(_TIME.fullmatch(each) for each in times)):
        found["times"] = later("Times such as 02:00, several with commas.")
    if line.rule == "weekly":
        found |= _week_problems(line)
    if line.rule in {"monthly", "yearly"} and not line.nths and not _days_are(line):
        found["days"] = later("Days such as 1 or 15, or “last”.")
    if line.rule == "hourly" and not _whole(line.minute, 0, 59):
        found["minute"] = later("A minute from 0 to 59.")
    if line.rule in {"minutes", "rolling"} and not _whole(line.minutes, 1, 366 * _DAY_MINUTES):
        found["minutes"] = later("A whole number of minutes.")
    if line.rule == "once" and not _parsed(line.at, "%Y-%m-%dT%H:%M"):
        found["at"] = later("A date and a time, such as 2027-01-31T02:30.")
    for name in ("begin", "until"):
        text = getattr(line, name)
        if text and not _parsed(text, "%Y-%m-%d"):
            found[name] = later("A date such as 2027-01-31.")
    return found


def _week_problems(line: ScheduleLine) -> dict[str, str]:
    found: dict[str, str] = {}
    if not line.weekdays:
        found["weekdays"] = later("Choose at least one day.")
    if not _whole(line.weeks, 1, 104):
        found["weeks"] = later("A whole number of weeks.")
    elif line.weeks != 1 and not _parsed(line.anchor, "%Y-%m-%d"):
        found["anchor"] = later("A date in a week that counts, such as 2027-01-31.")
    return found


def _days_are(line: ScheduleLine) -> bool:
    days = [_day(each) for each in parts(line.days)]
    one = line.rule == "monthly" or len(days) == 1
    return bool(days) and one and all(day == -1 or day in range(1, 32) for day in days)


def _whole(value: object, least: int, most: int) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and least <= value <= most


def is_date(text: str) -> bool:
    """Tell whether a text is a date."""
    return _parsed(text, "%Y-%m-%d")


def _parsed(text: str, form: str) -> bool:
    try:
        return datetime.datetime.strptime(text, form).strftime(form) == text  # noqa: DTZ007 - local
    except ValueError:
        return False


# ------------------------------------------------------------------------------------ windows


@dataclass(slots=True)
class WindowLine:
    """A window as it is filled in: days (0 is Monday), times of day, and a speed."""

    days: list[int] = field(default_factory=list)
    begin: str = "20:00"
    end: str = "06:00"
    rate: float | None = 0
    unit: str = "MiB/s"


def window_line(document: Document) -> WindowLine:
    """Return the line of the document of a window."""
    rate = document["bytes_per_s"]
    unit = next((name for name, size in RATES.items() if rate and rate % size == 0), "MiB/s")
    return WindowLine(
        list(document["days"]), _clock(document["begin"]), _clock(document["end"]),
        rate // RATES[unit], unit,
    )  # fmt: skip


def window_document(line: WindowLine) -> dict[str, Any]:
    """Return the document of a line."""
    return {
        "days": list(line.days), "begin": minutes_of(line.begin), "end": minutes_of(line.end),
        "bytes_per_s": round((line.rate or 0) * RATES[line.unit]),
    }  # fmt: skip


def _clock(minutes: int) -> str:
    return f"{minutes // 60:02}:{minutes % 60:02}"


def minutes_of(text: str) -> int:
    """Return a time of day in minutes since midnight; -1 if it is none."""
    if text.strip() == "24:00":
        return _DAY_MINUTES
    found = _TIME.fullmatch(text.strip())
    return int(found[1]) * 60 + int(found[2]) if found else -1


def window_problems(lines: Sequence[WindowLine]) -> dict[str, str]:
    """Return what is wrong with lines, by field, such as `windows.0.begin`."""
    found: dict[str, str] = {}
    for number, line in enumerate(lines):
        where = f"windows.{number}"
        if not 0 <= minutes_of(line.begin) < _DAY_MINUTES:
            found[f"{where}.begin"] = later("A time such as 20:00.")
        if minutes_of(line.end) < 0:
            found[f"{where}.end"] = later("A time such as 06:00, or 24:00.")
        if line.rate is None or line.rate < 0:
            found[f"{where}.rate"] = later("A number; 0 is no limit.")
    return found


WEEKDAYS: Mapping[str, str] = dict(zip(DAY_NAMES, (
    later("Monday"), later("Tuesday"), later("Wednesday"), later("Thursday"), later("Friday"),
    later("Saturday"), later("Sunday"),
), strict=True))  # fmt: skip
MONTHS: Sequence[str] = (
    later("January"), later("February"), later("March"), later("April"), later("May"),
    later("June"), later("July"), later("August"), later("September"), later("October"),
    later("November"), later("December"),
)  # fmt: skip
# Which weekday of a month, by the number that a document has.
ORDINALS: Mapping[int, str] = {
    1: later("first {day}"), 2: later("second {day}"), 3: later("third {day}"),
    4: later("fourth {day}"), 5: later("fifth {day}"), -1: later("last {day}"),
}  # fmt: skip
