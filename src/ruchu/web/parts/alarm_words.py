"""What alarms, their history and their deliveries are called. Pure."""

import json
from collections.abc import Mapping
from typing import Any

from ruchu.control.alarms import codes
from ruchu.web.language import NOTHING, Language, later
from ruchu.web.parts import alarm_details, run_words
from ruchu.web.parts.marks import BAD, BUSY, GOOD, QUIET, WARN, Mark

Found = Mapping[str, Any]
# A fact longer than this is one for a program.
_FACT_MAX = 600

HISTORY: Mapping[str, str] = {
    "opened": later("Opened"),
    "worse": later("Became worse"),
    "acknowledged": later("Acknowledged"),
    "escalated": later("Escalated"),
    "cleared": later("Over"),
    "sent": later("Told"),
    "not-sent": later("Not told yet"),
    "given-up": later("Telling was given up"),
    "dropped": later("Telling was dropped"),
}
REASONS: Mapping[str, str] = {
    "raised": later("It was opened"),
    "worse": later("It became worse"),
    "repeated": later("It is still open"),
    "escalated": later("Nobody acknowledged it"),
    "cleared": later("It is over"),
    "test": later("Test"),
}
DELIVERIES: Mapping[str, Mark] = {
    "waiting": Mark(later("On its way"), BUSY, "schedule_send"),
    "held": Mark(later("Held back"), QUIET, "pause_circle"),
    "sent": Mark(later("Delivered"), GOOD, "mark_email_read"),
    "failed": Mark(later("Not delivered"), BAD, "error"),
    "dropped": Mark(later("Dropped"), QUIET, "block"),
}
TRYING = Mark(later("Tried, and again soon"), WARN, "schedule_send")
ACKNOWLEDGED = Mark(later("Acknowledged"), QUIET, "how_to_reg")
OVER = Mark(later("Over"), GOOD, "check_circle")
FACTS: Mapping[str, str] = {
    "run": later("Job"),
    "group": later("Group"),
    "state": later("State"),
    "points": later("Recovery points"),
    "findings": later("Findings"),
    "node": later("Node"),
    "storage": later("Storage"),
    "platform": later("Platform"),
    "policy": later("Policy"),
    "machine": later("Machine"),
    "path": later("File"),
    "program": later("Program"),
    "address": later("Address"),
    "user": later("User"),
}


def headline(language: Language, alarm: Found) -> str:
    """Return the line that says what an alarm is."""
    said = codes.headline(alarm["code"], alarm["subject"], alarm["facts"], language.code)
    return " ".join(said.split())


def hint(language: Language, alarm: Found) -> str:
    """Return what to do about an alarm."""
    return codes.hint(alarm["code"], language.code)


def text(language: Language, alarm: Found) -> str:
    """Return its details, what the server wrote itself translated."""
    said = alarm_details.said(language, alarm["text"])
    return run_words.reason(language, alarm["text"]) if said is None else said


def group(alarm: Found) -> str:
    """Return the group of an alarm; that of all if it belongs to none."""
    found = alarm["facts"].get("group")
    return found if isinstance(found, str) else "*"


def facts(language: Language, alarm: Found) -> dict[str, str]:
    """Return the facts of an alarm by their names; what belongs to a link is left out."""
    found = {}
    for key, value in alarm["facts"].items():
        name = language.say(FACTS[key]) if key in FACTS else key.replace("_", " ")
        found[name] = _fact(value)
    return found


def _fact(value: Any) -> str:
    if isinstance(value, list) and all(isinstance(each, str) for each in value):
        shown = ", ".join(value)
    elif isinstance(value, str | int | float):
        shown = str(value)
    else:
        shown = json.dumps(value, ensure_ascii=False)
    return shown if len(shown) <= _FACT_MAX else f"{shown[: _FACT_MAX - 1]}…"


def state(alarm: Found) -> Mark | None:
    """Return how it stands, beyond its severity."""
    if alarm["state"] != "open":
        return OVER
    return ACKNOWLEDGED if alarm["acknowledged_by"] else None


def delivery(each: Found) -> Mark:
    """Return how a delivery stands."""
    if each["state"] == "waiting" and each["error"]:
        return TRYING
    return DELIVERIES.get(each["state"], DELIVERIES["waiting"])


def quiet_hours(language: Language, quiet: Found | None) -> str:
    """Return when a rule keeps still."""
    if quiet is None:
        return NOTHING
    return language.say("{start} to {end}, {zone}", start=quiet["start"], end=quiet["end"],
                        zone=quiet["zone"])  # fmt: skip


def known_codes(language: Language) -> dict[str, str]:
    """Return what codes mean, in words, for a choice."""
    about = "…"
    return {each.code: f"{each.code} · {headline(language, _example(each.code, about))}"
            for each in codes.TABLE if each.code != "test"}  # fmt: skip


def _example(code: str, subject: str) -> Found:
    return {"code": code, "subject": subject, "facts": {}}
