"""How a storage fills, as a chart and in words. Pure but for showing it."""

import datetime
from collections.abc import Mapping
from typing import Any
from zoneinfo import ZoneInfo

from ruchu.units import GIB, TIB
from ruchu.web.language import Language
from ruchu.web.parts import charts

# Days that the straight line goes on; further it would say more than is known.
AHEAD_DAYS = 30


def options(
    language: Language, storage: Mapping[str, Any], use: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options of the chart: what was used by day, the line on, and where it is full."""
    size = storage["size"] or 0
    largest = max(size, *(_used(each, size) for each in use["days"]), 0)
    unit, word = (TIB, "TiB") if largest >= TIB else (GIB, "GiB")
    known = {each["day"]: _used(each, size) / unit for each in use["days"]}
    days = list(known)
    growth = use["growth_bytes"]
    ahead: dict[str, float] = {}
    if growth is not None and days:
        last = datetime.date.fromisoformat(days[-1])
        for day in range(AHEAD_DAYS + 1):
            following = known[days[-1]] + growth * day / unit
            ahead[(last + datetime.timedelta(days=day)).isoformat()] = max(0.0, following)
    every = sorted({*known, *ahead})
    series: list[dict[str, Any]] = [
        {"name": language.say("used"), "type": "line", "showSymbol": len(days) < 2,
         "areaStyle": {"opacity": 0.12}, "data": [_at(known, day) for day in every]},
    ]  # fmt: skip
    if ahead:
        series.append({"name": language.say("if it goes on like this"), "type": "line",
                       "showSymbol": False, "lineStyle": {"type": "dashed"},
                       "data": [_at(ahead, day) for day in every]})  # fmt: skip
    if size:
        series.append({"name": language.say("size"), "type": "line", "showSymbol": False,
                       "lineStyle": {"width": 1}, "data": [round(size / unit, 2)] * len(every)})  # fmt: skip
    found = charts.options([_day(language, day) for day in every], series)
    found["yAxis"]["axisLabel"]["formatter"] = f"{{value}} {word}"
    return found


def _used(day: Mapping[str, Any], size: int) -> int:
    return int(size - day["free"] if size else day["stored"])


def _at(values: Mapping[str, float], day: str) -> float | None:
    return round(values[day], 2) if day in values else None


def words(language: Language, storage: Mapping[str, Any], use: Mapping[str, Any]) -> str:
    """Return what the figures say: growth, and when the storage is full."""
    growth, say = use["growth_bytes"], language.say
    if growth is None:
        return say(
            "A forecast takes a week of figures; there are {count} days.", count=len(use["days"])
        )
    if growth <= 0:
        return say("It does not grow.")
    rate = say("It grows by {size} a day.", size=language.size(growth))
    return f"{rate} {_when_full(language, use)}" if storage["size"] else rate


def _when_full(language: Language, use: Mapping[str, Any]) -> str:
    say = language.say
    if use["full_on"] is None:
        return say("At this growth it is not full within ten years.")
    full = say("At this growth it is full on {day}.", day=_day(language, use["full_on"]))
    if use["earliest"] is None or use["latest"] is None:
        return full
    between = say("With 95 % certainty between {first} and {last}.",
                  first=_day(language, use["earliest"]), last=_day(language, use["latest"]))  # fmt: skip
    return f"{full} {between}"


def _day(language: Language, day: str) -> str:
    noon = datetime.time(12, tzinfo=ZoneInfo(language.zone))
    return language.day(datetime.datetime.combine(datetime.date.fromisoformat(day), noon))
