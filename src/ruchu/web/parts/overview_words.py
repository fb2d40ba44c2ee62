"""What the overview, the wall and the reports say in words. Pure."""

import datetime
import zoneinfo
from collections.abc import Mapping
from typing import Any

from ruchu.control.reports import forecast
from ruchu.web.language import CHINESE, Language
from ruchu.web.parts.marks import BAD, GOOD, QUIET, WARN

Found = Mapping[str, Any]
# A storage that is full so soon wants to be looked at; one that is full later wants to be planned.
SOON_DAYS, PLANNED_DAYS = 30, 90
# Success below these shares is no success.
GOOD_RATE, FAIR_RATE = 0.99, 0.9


def day(language: Language, text: str) -> str:
    """Return a date of the zone of the reports."""
    noon = datetime.datetime.fromisoformat(text).replace(hour=12)
    return language.day(noon.replace(tzinfo=zoneinfo.ZoneInfo(language.zone)))


def rate(language: Language, share: float | None) -> str:
    """Return a success rate; a dash if nothing ran. It is never rounded up to all of it."""
    if share is None:
        return "–"
    shown = min(share, 0.999) if share < 1 else share
    return language.percent(shown, 0 if share in {0, 1} else 1)


def rate_tone(share: float | None) -> str:
    """Return the tone of a success rate."""
    if share is None:
        return QUIET
    return GOOD if share >= GOOD_RATE else WARN if share >= FAIR_RATE else BAD


def storage_tone(storage: Found) -> str:
    """Return the tone of a storage: gone, beyond its limits, or soon full."""
    share = used_share(storage)
    if storage["problem"] or (share is not None and share * 100 >= storage["stop_percent"]):
        return BAD
    if share is not None and share * 100 >= storage["warn_percent"]:
        return WARN
    return QUIET


def used_share(storage: Found) -> float | None:
    """Return how full a storage is; None if there is no telling."""
    return min(storage["used"] / storage["size"], 1.0) if storage["size"] else None


def used(language: Language, storage: Found) -> str:
    """Return how full a storage is."""
    if not storage["size"]:
        return language.say("{used}, without a limit", used=language.size(storage["used"]))
    return language.say(
        "{used} of {size} used, {free} free", used=language.size(storage["used"]),
        size=language.size(storage["size"]), free=language.size(storage["free"] or 0),
    )  # fmt: skip


def outlook(language: Language, storage: Found) -> str:
    """Return when a storage will be full."""
    say = language.say
    if not storage["forecast_enough"]:
        return say("Too few days for a forecast ({days} of {least}).",
                   days=storage["forecast_days"], least=forecast.DAYS_MIN)  # fmt: skip
    growth = storage["growth"]
    if growth >= 0:
        grows = say("Grows {growth} a day.", growth=language.size(growth))
    else:
        grows = say("Shrinks {growth} a day.", growth=language.size(-growth))
    if not storage["size"]:
        return grows
    full = _full(language, storage)
    return f"{grows}{full}" if language.code == CHINESE else f"{grows} {full}"


def _full(language: Language, storage: Found) -> str:
    say, dates = language.say, {
        key: day(language, storage[key]) for key in ("full_on", "earliest", "latest")
        if storage[key]
    }  # fmt: skip
    if "full_on" in dates and len(set(dates.values())) == 1 and "latest" in dates:
        return say("Full about {full_on}.", full_on=dates["full_on"])
    if "full_on" in dates and "latest" in dates:
        return say("Full about {full_on} (between {earliest} and {latest}).", **dates)
    if "full_on" in dates:
        return say("Full about {full_on}, {earliest} at the earliest.", **dates)
    if "earliest" in dates:
        return say("Not full by the trend, but {earliest} cannot be ruled out.", **dates)
    return say("Not full within ten years.")


def outlook_tone(storage: Found, now: datetime.datetime) -> str:
    """Return the tone of a forecast."""
    if not storage["full_on"]:
        return QUIET
    left = (datetime.date.fromisoformat(storage["full_on"]) - now.date()).days
    return BAD if left <= SOON_DAYS else WARN if left <= PLANNED_DAYS else QUIET


def reduction(language: Language, found: Found) -> str:
    """Return how many bytes became one."""
    if found["ratio"] is None:
        return "–"
    return language.say("{ratio} : 1", ratio=language.number(found["ratio"], 1))


def outcomes(language: Language, found: Found) -> str:
    """Return how runs ended."""
    say = language.say
    parts = [say("{count} succeeded", count=language.number(found["succeeded"]))]
    for name, text in (
        ("partly", say("{count} partly", count=language.number(found["partly"]))),
        ("failed", say("{count} failed", count=language.number(found["failed"]))),
    ):
        if found[name]:
            parts.append(text)
    return " · ".join(parts)


def tasks(language: Language, run: Found) -> str:
    """Return how far a run is."""
    share = language.percent(run["share"])
    if run["tasks"] < 2:
        return share
    return language.say("{share}, {ended} of {tasks} tasks", share=share, ended=run["ended"],
                        tasks=run["tasks"])  # fmt: skip


def target(language: Language, minutes: int) -> str:
    """Return a length of time that somebody chose: mostly whole days or hours."""
    if minutes % (24 * 60) == 0:
        return language.say("{count} d", count=minutes // (24 * 60))
    if minutes % 60 == 0:
        return language.say("{count} h", count=minutes // 60)
    return language.duration(minutes * 60)


def standing(found: Found) -> float:
    """Return the share of machines that are protected; 1 if there is none."""
    return found["protected"] / found["total"] if found["total"] else 1.0
