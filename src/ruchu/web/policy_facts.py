"""What a policy says and will do, shown: on its page and before it is kept."""

from collections.abc import Mapping, Sequence
from typing import Any
from zoneinfo import ZoneInfo

from nicegui import ui

from ruchu.clock import from_text
from ruchu.web import policy_form, policy_words
from ruchu.web.language import Language
from ruchu.web.parts import marks
from ruchu.web.visiting import Visit

_NAMES = 12


def cut(language: Language, names: Sequence[str]) -> str:
    """Return the first names, and how many more there are."""
    shown = policy_words.join(language, names[:_NAMES])
    if len(names) <= _NAMES:
        return shown
    return language.say("{names} and {count} more", names=shown, count=len(names) - _NAMES)


def facts(language: Language, document: Mapping[str, Any]) -> dict[str, Any]:
    """Return a policy as pairs; what is as usual is left out."""
    say = language.say
    found: dict[str, Any] = {
        say("Protects"): policy_words.selects(language, document["selection"]),
        say("Platform"): document["selection"]["platform"],
        say("Storage"): document["storage"],
        say("When"): _lines(policy_words.when(language, document["schedules"])),
    }
    if document["schedules"]:
        found[say("Time zone")] = document["zone"]
    if document["windows"]:
        windows = [policy_words.window(language, each) for each in document["windows"]]
        found[say("Only within")] = _lines(windows)
    if document["holidays"]:
        found[say("Holidays")] = cut(language, document["holidays"])
    found[say("Keeps")] = policy_words.keeps(language, document["retention"])
    if document["rpo_minutes"]:
        found[say("No machine without a point for longer than")] = policy_words.span(
            language, document["rpo_minutes"]
        )
    return found | _how(language, document)


def _how(language: Language, document: Mapping[str, Any]) -> dict[str, Any]:
    say, options = language.say, document["options"]
    found: dict[str, Any] = {say("Machines at the same time"): str(document["parallel"])}
    if "level" in options:
        found[say("Compression level")] = str(options["level"])
    if options.get("snapshots", "serial") != "serial":
        found[say("Snapshots")] = say(policy_words.SNAPSHOTS.get(str(options["snapshots"]), "–"))
    if options.get("quiesce") is False:
        found[say("File systems of guests")] = say("not frozen")
    if options.get("leave_out", "none") != "none":
        found[say("Left out")] = left_out(language, str(options["leave_out"]))
    if options.get("disks"):
        found[say("Only the disks")] = policy_words.join(language, options["disks"])
    return found | _order(language, document)


def _order(language: Language, document: Mapping[str, Any]) -> dict[str, Any]:
    say, usual, found = language.say, policy_form.blank(), {}
    if document["priority"] != usual["priority"]:
        found[say("Priority")] = str(document["priority"])
    if document["nodes"]:
        found[say("Only on the nodes")] = policy_words.join(language, document["nodes"])
    if document["on_lost_node"] != usual["on_lost_node"]:
        found[say("If a node is lost")] = say(policy_words.LOST[document["on_lost_node"]])
    if document["after_policy"]:
        found[say("Waits for the policy")] = document["after_policy"]
    if document["group"] != usual["group"]:
        found[say("Resource group")] = document["group"]
    return found


def left_out(language: Language, text: str) -> str:
    """Return what is not saved, such as `free,swap`."""
    words = [each.strip() for each in text.split(",") if each.strip()]
    if "all" in words:
        return language.say("everything that a guest does not need")
    known = policy_words.LEFT_OUT
    return policy_words.join(language, [language.say(known.get(each, each)) for each in words])


def _lines(texts: Sequence[str]) -> Any:
    def show() -> None:
        for text in texts:
            ui.label(text)

    return show


def show_starts(visit: Visit, starts: Sequence[Mapping[str, Any]], zone: str) -> None:
    """Show starts that are to come."""
    language = visit.language
    if not starts:
        ui.label(visit.say("It starts by hand only.")).classes("muted")
        return
    with ui.element("ol").classes("r-starts"):
        for start in starts:
            with ui.element("li"):
                at = Language(language.code, zone).moment(start["at"])
                ui.label(at).classes("r-start-at")
                ui.label(marks.kind(language, start["kind"]))
                ui.label(language.ago(start["at"], visit.now)).classes("muted")
    if _differs(zone, language.zone, starts):
        text = visit.say("On the clock of {zone}.", zone=zone)
        ui.label(text).classes("r-help")


def _differs(zone: str, other: str, starts: Sequence[Mapping[str, Any]]) -> bool:
    moments = [from_text(start["at"]) for start in starts]
    return any(
        each.astimezone(ZoneInfo(zone)).utcoffset() != each.astimezone(ZoneInfo(other)).utcoffset()
        for each in moments
    )
