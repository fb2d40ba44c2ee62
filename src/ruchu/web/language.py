"""Words, dates and sizes in the language of who looks: Chinese or English.

The English text is the key; `locale/zh/*.po` hold the Chinese ones, in the format of GNU gettext.
They are read as they are, so that no file has to be compiled and none can be out of date.
"""

import functools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from importlib import resources
from typing import Any
from zoneinfo import ZoneInfo

from babel import Locale, dates, numbers
from babel.messages import pofile

from ruchu import errors, units
from ruchu.clock import from_text
from ruchu.errors import RuchuError

ENGLISH, CHINESE = "en", "zh"
LANGUAGES: Mapping[str, str] = {ENGLISH: "English", CHINESE: "中文"}
# What stands where nothing is known.
NOTHING = "—"
# As browsers and Quasar call them.
TAGS: Mapping[str, str] = {ENGLISH: "en-US", CHINESE: "zh-CN"}


def later(text: str) -> str:
    """Mark a text that `Language.say` translates when it is shown."""
    return text


@functools.cache
def catalogue(code: str) -> Mapping[str, str]:
    """Return the translations into a language by their English text."""
    if code == ENGLISH:
        return {}
    found: dict[str, str] = {}
    for path in (resources.files("ruchu.web") / "locale" / code).iterdir():
        with path.open("rb") as file:
            read = pofile.read_po(file, locale=code)
        found |= {message.id: message.string for message in read
                  if isinstance(message.id, str) and isinstance(message.string, str)}  # fmt: skip
    return found


def choose(wanted: str, accepted: str = "") -> str:
    """Return the language for a choice that was made, or for what a browser accepts."""
    for text in (wanted, *(each.partition(";")[0].strip() for each in accepted.split(","))):
        code = text.lower()[:2]
        if code in LANGUAGES:
            return code
    return ENGLISH


@dataclass(frozen=True, slots=True)
class Language:
    """A language, and the zone whose wall clock is shown.

    Attributes:
        code: `en` or `zh`.
        zone: name of a time zone.
    """

    code: str
    zone: str = "UTC"

    @property
    def locale(self) -> Locale:
        """The locale of dates and numbers."""
        return _locale(self.code)

    def say(self, text: str, **facts: Any) -> str:
        """Return a text, translated; `facts` fill its places in braces."""
        found = catalogue(self.code).get(text) or text
        return found.format(**facts) if facts else found

    def number(self, value: float, digits: int = 0) -> str:
        """Return a number."""
        shape = "#,##0" if not digits else "#,##0." + "0" * digits
        return numbers.format_decimal(value, format=shape, locale=self.locale)

    def percent(self, share: float, digits: int = 0) -> str:
        """Return a share, 1 being all of it."""
        shape = "#,##0%" if not digits else "#,##0." + "0" * digits + "%"
        return numbers.format_percent(share, format=shape, locale=self.locale)

    def size(self, count: float | None) -> str:
        """Return a number of bytes; a dash if it is not known."""
        return NOTHING if count is None else units.format_size(int(count))

    def rate(self, per_second: float | None) -> str:
        """Return bytes a second."""
        return NOTHING if per_second is None else f"{units.format_size(int(per_second))}/s"

    def moment(self, at: str | datetime | None) -> str:
        """Return a moment: date and time of day; a dash if there was none."""
        if not at:
            return NOTHING
        shape = "yyyy-MM-dd HH:mm" if self.code == CHINESE else "d MMM yyyy, HH:mm"
        return dates.format_datetime(self._there(at), shape, locale=self.locale)

    def day(self, at: str | datetime | None) -> str:
        """Return the date of a moment."""
        if not at:
            return NOTHING
        shape = "yyyy-MM-dd" if self.code == CHINESE else "d MMM yyyy"
        return dates.format_datetime(self._there(at), shape, locale=self.locale)

    def time(self, at: str | datetime | None) -> str:
        """Return the time of day of a moment, with seconds."""
        if not at:
            return NOTHING
        return dates.format_datetime(self._there(at), "HH:mm:ss", locale=self.locale)

    def ago(self, at: str | datetime | None, now: datetime) -> str:
        """Return how long ago a moment was, or in how long it will be."""
        if not at:
            return NOTHING
        away = self._there(at) - now
        return dates.format_timedelta(away, add_direction=True, locale=self.locale)

    def duration(self, seconds: float | None) -> str:
        """Return a length of time."""
        if seconds is None:
            return NOTHING
        if seconds < 60:
            return self.say("{count} s", count=self.number(seconds, 1 if seconds < 10 else 0))
        left, days = int(seconds), int(seconds) // 86400
        hours, minutes = left % 86400 // 3600, left % 3600 // 60
        if days:
            return self.say("{days} d {hours} h", days=days, hours=hours)
        if hours:
            return self.say("{hours} h {minutes} min", hours=hours, minutes=minutes)
        return self.say("{minutes} min {seconds} s", minutes=minutes, seconds=left % 60)

    def between(self, begin: str | None, end: str | None, now: datetime) -> str:
        """Return how long something took, or takes by now."""
        if not begin:
            return NOTHING
        until = from_text(end) if end else now
        return self.duration(max(timedelta(0), until - from_text(begin)).total_seconds())

    def problem(self, error: RuchuError) -> str:
        """Return what an error says: its fixed words translated, its details as they are."""
        return _translated(str(error), self)

    def hint(self, error: RuchuError) -> str:
        """Return what to do about an error."""
        return self.say(error.advice) if error.advice else ""

    def _there(self, at: str | datetime) -> datetime:
        moment = from_text(at) if isinstance(at, str) else at
        return moment.replace(tzinfo=moment.tzinfo or UTC).astimezone(ZoneInfo(self.zone))


@functools.cache
def _locale(code: str) -> Locale:
    return Locale.parse("zh_Hans_CN" if code == CHINESE else "en_GB")


@functools.cache
def messages() -> tuple[str, ...]:
    """Return the fixed words of all errors, the longest first."""
    kinds = [getattr(errors, name) for name in errors.__all__]
    found = {(kind.__doc__ or "").splitlines()[0] for kind in kinds}
    return tuple(sorted(found, key=len, reverse=True))


def hints() -> tuple[str, ...]:
    """Return the fixed hints of all errors."""
    return tuple(sorted({kind.hint for name in errors.__all__
                         if (kind := getattr(errors, name)).hint}))  # fmt: skip


def _translated(text: str, language: Language) -> str:
    """Return a text with its fixed words translated, and those of the error that it tells of."""
    for known in messages():
        if text.startswith(known):
            rest = text[len(known) :]
            inner = rest.lstrip(" (")
            return (
                language.say(known) + rest[: len(rest) - len(inner)] + _translated(inner, language)
            )
    return text
