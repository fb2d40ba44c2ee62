"""Policies in words, in the language of who looks. Pure."""

import datetime
from collections.abc import Mapping, Sequence
from typing import Any

import yaml
from babel import dates

from ruchu.control.schedules import wording
from ruchu.model import schedules
from ruchu.web import policy_form, policy_lines
from ruchu.web.language import CHINESE, Language, later
from ruchu.web.parts import marks
from ruchu.web.parts.marks import GOOD, QUIET, Mark

OFF = Mark(later("Switched off"), QUIET, "pause_circle")
ON = Mark(later("On by schedule"), GOOD, "event_available")
BY_HAND = Mark(later("By hand only"), QUIET, "touch_app")
NEVER = Mark(later("Never ran"), QUIET, "remove_circle_outline")
FAILED = frozenset({"failed", "partly"})
_NAMES = 3

SNAPSHOTS: Mapping[str, str] = {
    "serial": later("One machine after the other"),
    "parallel": later("All machines at the same time"),
    "barrier": later("Freeze all, snapshot all, thaw all"),
}
LEFT_OUT: Mapping[str, str] = {
    "free": later("Free space of file systems"),
    "swap": later("Swap"),
    "pagefile": later("Page file of Windows"),
    "hiberfil": later("Hibernation file of Windows"),
    "swapfile": later("Swap file of Windows"),
    "gaps": later("Space between partitions"),
    "recycle-bin": later("Recycle bin"),
}
LOST: Mapping[str, str] = {
    "wait": later("Wait for that node to return"),
    "move": later("Let another node take over"),
}
MISSED: Mapping[str, str] = {
    "once": later("Make up for them with one run"),
    "skip": later("Leave them out"),
}


def join(language: Language, texts: Sequence[str]) -> str:
    """Return parts of a sentence as one."""
    return ("、" if language.code == CHINESE else ", ").join(texts)


def machines(language: Language, count: int) -> str:
    """Return a number of machines."""
    if count == 1:
        return language.say("1 machine")
    return language.say("{count} machines", count=language.number(count))


def points(language: Language, count: int) -> str:
    """Return a number of points."""
    if count == 1:
        return language.say("1 point")
    return language.say("{count} points", count=language.number(count))


def selects(language: Language, selection: Mapping[str, Any]) -> str:
    """Return what a selection takes; `counts` says how long lists are that were cut."""
    say = language.say
    if selection["patterns"] == [policy_form.EVERYTHING]:
        text = say("Every machine of {platform}", platform=selection["platform"])
    else:
        found = _rules(language, selection)
        text = join(language, found) if found else say("No machine")
        text = text[0].upper() + text[1:]
    excluded = _named(language, selection, "excluded")
    return say("{what}; without {names}", what=text, names=excluded) if excluded else text


def _rules(language: Language, selection: Mapping[str, Any]) -> list[str]:
    say, found = language.say, []
    count = _count(selection, "machines")
    if count:
        found.append(machines(language, count))
    if names := _named(language, selection, "patterns"):
        found.append(say("named {names}", names=names))
    if names := _named(language, selection, "tags"):
        found.append(say("tagged {names}", names=names))
    if names := _named(language, selection, "folders"):
        found.append(say("in the folder {names}", names=names))
    if names := _named(language, selection, "hosts"):
        found.append(say("on the host {names}", names=names))
    return found


def _count(selection: Mapping[str, Any], name: str) -> int:
    counts = selection.get("counts") or {}
    return int(counts.get(name, len(selection[name])))


def _named(language: Language, selection: Mapping[str, Any], name: str) -> str:
    shown, count = list(selection[name][:_NAMES]), _count(selection, name)
    text = join(language, shown)
    if count > len(shown):
        text = language.say("{names} and {count} more", names=text, count=count - len(shown))
    return text


def when(language: Language, documents: Sequence[Mapping[str, Any]]) -> list[str]:
    """Return schedules in words; by hand if there is none."""
    if not documents:
        return [language.say("By hand only")]
    found = []
    for each in documents:
        schedule = schedules.from_document(each)
        text = wording.describe(schedule, language.code)
        if language.code != CHINESE:
            # A kind that has a name of its own is called by it.
            text = marks.kind(language, schedule.kind) + text[len(schedule.kind) :]
        found.append(text)
    return found


def keeps(language: Language, retention: Mapping[str, int]) -> str:
    """Return how long points stay."""
    say = language.say
    texts = {
        "count": later("the newest {number}"), "days": later("{number} days"),
        "chains": later("{number} full series"), "hourly": later("{number} hourly"),
        "daily": later("{number} daily"), "weekly": later("{number} weekly"),
        "monthly": later("{number} monthly"), "yearly": later("{number} yearly"),
    }  # fmt: skip
    found = [say(text, number=retention[name]) for name, text in texts.items()
             if retention.get(name)]  # fmt: skip
    text = join(language, found) if found else say("Everything")
    return text[0].upper() + text[1:]


def stays(language: Language, retention: Mapping[str, int]) -> list[str]:
    """Return what stays, a sentence for each rule."""
    say = language.say
    texts = {
        "count": later("The newest {number} points."),
        "days": later("Every point that is not older than {number} days."),
        "chains": later("The newest {number} full points, each with what builds on it."),
        "hourly": later("The last point of each of the last {number} hours with one."),
        "daily": later("The last point of each of the last {number} days with one."),
        "weekly": later("The last point of each of the last {number} weeks with one."),
        "monthly": later("The last point of each of the last {number} months with one."),
        "yearly": later("The last point of each of the last {number} years with one."),
    }
    found = [say(text, number=retention[name]) for name, text in texts.items()
             if retention.get(name)]  # fmt: skip
    return found or [say("Every point stays until somebody deletes it.")]


def window(language: Language, document: Mapping[str, Any]) -> str:
    """Return a window in words."""
    say = language.say
    days = [say(text) for number, text in enumerate(policy_lines.WEEKDAYS.values())
            if number in document["days"]]  # fmt: skip
    line = policy_lines.window_line(document)
    text = say("{days} from {begin} to {end}",
               days=join(language, days) if days else say("Every day"),
               begin=line.begin, end=line.end)  # fmt: skip
    if not document["bytes_per_s"]:
        return text
    rate = language.rate(document["bytes_per_s"])
    return say("{window}, at most {rate}", window=text, rate=rate)


def span(language: Language, minutes: int) -> str:
    """Return a length of time in minutes."""
    return language.duration(minutes * 60)


def last(language: Language, run: Mapping[str, Any] | None) -> Mark:
    """Return the mark of the newest run of a policy."""
    del language
    return marks.of(marks.RUNS, run["state"]) if run else NEVER


def state(line: Mapping[str, Any]) -> str:
    """Return by what a policy is found in a list: `off`, `failed`, `running`, `never`, `good`."""
    if not line["enabled"]:
        return "off"
    run = line["last"]
    if run is None:
        return "never"
    if run["state"] in FAILED:
        return "failed"
    return "good" if run["ended"] else "running"


STATES: Mapping[str, str] = {
    "good": later("Last run succeeded"),
    "failed": later("Last run failed"),
    "running": later("Under way"),
    "never": later("Never ran"),
    "off": later("Switched off"),
}


def as_code(document: Mapping[str, Any]) -> str:
    """Return a policy as a file of `ruchu apply` names it; what has its default is left out."""
    usual = policy_form.blank()
    shown = {key: value for key, value in document.items()
             if key in {"selection", "storage"} or value != usual.get(key)}  # fmt: skip
    name = shown.pop("name")
    shown["selection"] = {key: value for key, value in document["selection"].items() if value}
    if "retention" in shown:
        shown["retention"] = {key: each for key, each in document["retention"].items() if each}
    top = {"ruchu": 1, "owner": "default", "policies": {name: shown}}
    return str(yaml.safe_dump(top, sort_keys=False, allow_unicode=True, default_flow_style=None))


# A storage that holds nothing yet: what machines usually come to.
RATIO_ASSUMED = 0.5


def space(language: Language, preview: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return what a policy will take: the first backup, and in the long run; names and sizes."""
    say, size = language.say, preview["disk_bytes"]
    ratio = preview["ratio"] if preview["ratio"] is not None else RATIO_ASSUMED
    found = [(say("First backup"), language.size(size * ratio)),
             (say("Each day after it"), language.size(size * ratio * preview["change_a_day"]))]  # fmt: skip
    remaining = preview["remaining"]
    if remaining is not None:
        found.append((say("In the long run"), language.size(size * ratio * remaining["weight"])))
    return found


def first_bytes(preview: Mapping[str, Any]) -> int:
    """Return what the first backup will take."""
    ratio = preview["ratio"] if preview["ratio"] is not None else RATIO_ASSUMED
    size: int = preview["disk_bytes"]
    return int(size * ratio)


def assumptions(language: Language, preview: Mapping[str, Any]) -> str:
    """Return what a prediction of space assumes."""
    say = language.say
    change = language.percent(preview["change_a_day"])
    if preview["ratio"] is None:
        return say(
            "Assumed: the disks are full, {change} of them changes in a day, and compression "
            "leaves {ratio}. Nothing was saved on this storage yet that could tell better.",
            change=change, ratio=language.percent(RATIO_ASSUMED),
        )  # fmt: skip
    return say(
        "Assumed: the disks are full, {change} of them changes in a day, and {ratio} remains of "
        "what is read, as with the points on this storage.",
        change=change, ratio=language.percent(preview["ratio"]),
    )  # fmt: skip


def _age(language: Language, days: float) -> str:
    age = datetime.timedelta(days=days)
    return dates.format_timedelta(age, threshold=1, locale=language.locale)


def remains(language: Language, remaining: Mapping[str, Any] | None) -> str:
    """Return what retention leaves of a machine in the long run."""
    say = language.say
    if remaining is None:
        return say("Nothing is removed.")
    return say(
        "In the long run {points} remain of each machine, the oldest {age} old.",
        points=points(language, remaining["points"]),
        age=_age(language, remaining["oldest_days"]),
    )
