"""The rules of schedules: when something starts, in local dates and times.

A rule that contradicts itself cannot be made. `ruchu.model.schedules` reads and writes them.
"""

import datetime
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import NoReturn

from ruchu.errors import UsageError

LAST = -1  # of a month: its last day, or the last Sunday
DAY_MINUTES = 24 * 60

# Dates from outside; beyond them the rules of time zones are guesses, and typing errors likely.
EARLIEST, LATEST = datetime.date(1990, 1, 1), datetime.date(2200, 12, 31)
# One every five minutes; whoever wants more means a rule of minutes.
TIMES_MAX = 288
# A year: longer steps are what yearly rules are for.
MINUTES_MAX = 366 * DAY_MINUTES
# Two years, as for minutes: longer steps are what yearly rules are for.
WEEKS_MAX = 104

_MONTH_DAYS = (31, 29, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


@dataclass(frozen=True, slots=True)
class Nth:
    """The nth weekday of a month.

    Attributes:
        nth: 1 to 5, or `LAST`; months without a fifth are left out.
        day: 0 is Monday.
    """

    nth: int
    day: int

    def __post_init__(self) -> None:
        if self.nth not in {1, 2, 3, 4, 5, LAST}:
            refuse(f"nth is 1 to 5 or -1 for the last, not {self.nth}")
        _check_days([self.day])


@dataclass(frozen=True, slots=True)
class Once:
    """One start, at a local time."""

    at: datetime.datetime

    def __post_init__(self) -> None:
        _check_local(self.at)


@dataclass(frozen=True, slots=True)
class Minutes:
    """Every so many minutes of time that passes, whatever clocks do meanwhile.

    Attributes:
        every: minutes.
        anchor: local time that one of the starts falls on; None counts from each midnight anew.
    """

    every: int
    anchor: datetime.datetime | None = None

    def __post_init__(self) -> None:
        most = DAY_MINUTES if self.anchor is None else MINUTES_MAX
        if not 1 <= self.every <= most:
            hint = "Give an anchor for steps of more than a day." if self.anchor is None else ""
            refuse(f"minutes: every is 1 to {most}, not {self.every}", hint)
        if self.anchor is not None:
            _check_local(self.anchor)


@dataclass(frozen=True, slots=True)
class Hourly:
    """Every hour that passes, at a minute of it (counted from midnight)."""

    minute: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.minute <= 59:
            refuse(f"hourly: minute is 0 to 59, not {self.minute}")


@dataclass(frozen=True, slots=True)
class Daily:
    """Every day at some times."""

    times: tuple[datetime.time, ...]

    def __post_init__(self) -> None:
        _settle_times(self)


@dataclass(frozen=True, slots=True)
class Weekly:
    """On weekdays at some times.

    Attributes:
        days: 0 is Monday.
        times: on each of the days.
        every: 1 is every week, 2 every other.
        anchor: a day of a week that counts; needed where `every` is more than 1.
    """

    days: tuple[int, ...]
    times: tuple[datetime.time, ...]
    every: int = 1
    anchor: datetime.date | None = None

    def __post_init__(self) -> None:
        _settle_times(self)
        if not self.days:
            refuse("weekly: there is no day")
        _check_days(self.days)
        object.__setattr__(self, "days", tuple(sorted(set(self.days))))
        if not 1 <= self.every <= WEEKS_MAX:
            refuse(f"weekly: every is 1 to {WEEKS_MAX}, not {self.every}")
        if self.every > 1 and self.anchor is None:
            refuse("weekly: which week counts is not said", "Give a date in it as `anchor`.")
        check_date(self.anchor)


@dataclass(frozen=True, slots=True)
class Monthly:
    """On days of every month at some times; either `days` or `weekdays` says which.

    Attributes:
        times: on each of the days.
        days: 1 to 31, or `LAST`; months without such a day are left out.
        weekdays: such as the last Friday.
    """

    times: tuple[datetime.time, ...]
    days: tuple[int, ...] = ()
    weekdays: tuple[Nth, ...] = ()

    def __post_init__(self) -> None:
        _settle_times(self)
        if bool(self.days) == bool(self.weekdays):
            refuse("monthly: either days or weekdays, not both")
        for day in self.days:
            if not (1 <= day <= 31 or day == LAST):
                refuse(f"monthly: a day is 1 to 31 or -1 for the last, not {day}")
        object.__setattr__(self, "days", tuple(dict.fromkeys(self.days)))
        object.__setattr__(self, "weekdays", tuple(dict.fromkeys(self.weekdays)))

    @property
    def named(self) -> Sequence[int | Nth]:
        """Its days, whichever way they are named."""
        return self.days or self.weekdays


@dataclass(frozen=True, slots=True)
class Yearly:
    """On one day of every year at some times.

    Attributes:
        times: on that day.
        month: 1 to 12.
        day: of the month, or `LAST`, or an nth weekday. 29 February is in leap years only.
    """

    times: tuple[datetime.time, ...]
    month: int
    day: int | Nth

    def __post_init__(self) -> None:
        _settle_times(self)
        if not 1 <= self.month <= 12:
            refuse(f"yearly: month is 1 to 12, not {self.month}")
        if isinstance(self.day, Nth):
            return
        most = _MONTH_DAYS[self.month - 1]
        if not (1 <= self.day <= most or self.day == LAST):
            refuse(f"yearly: a day of month {self.month} is 1 to {most} or -1, not {self.day}")


@dataclass(frozen=True, slots=True)
class Rolling:
    """So many minutes after the last run has ended."""

    minutes: int

    def __post_init__(self) -> None:
        if not 1 <= self.minutes <= MINUTES_MAX:
            refuse(f"rolling: minutes is 1 to {MINUTES_MAX}, not {self.minutes}")


Rule = Once | Minutes | Hourly | Daily | Weekly | Monthly | Yearly | Rolling


def refuse(text: str, hint: str = "") -> NoReturn:
    """Refuse a schedule.

    Raises:
        UsageError: always.
    """
    raise UsageError(f"(schedule: {text})", hint=hint)


def _settle_times(rule: Daily | Weekly | Monthly | Yearly) -> None:
    """Put the times of a rule in order, each once."""
    if not rule.times:
        refuse("there is no time")
    if len(rule.times) > TIMES_MAX:
        refuse(f"more than {TIMES_MAX} times", "Use a rule of minutes.")
    for each in rule.times:
        if each.second or each.microsecond or each.tzinfo is not None:
            refuse(f"a time is in whole minutes and local, not {each.isoformat()}")
    object.__setattr__(rule, "times", tuple(sorted(set(rule.times))))


def _check_days(days: Iterable[int]) -> None:
    for day in days:
        if not 0 <= day <= 6:
            refuse(f"a weekday is 0 (Monday) to 6, not {day}")


def _check_local(moment: datetime.datetime) -> None:
    if moment.tzinfo is not None or moment.second or moment.microsecond:
        refuse(f"a moment is in whole minutes and local, not {moment.isoformat()}")
    check_date(moment.date())


def check_date(day: datetime.date | None) -> None:
    """Check a date from outside; None is fine.

    Raises:
        UsageError: it is too far away.
    """
    if day is not None and not EARLIEST <= day <= LATEST:
        refuse(f"{day} is not between {EARLIEST} and {LATEST}")
