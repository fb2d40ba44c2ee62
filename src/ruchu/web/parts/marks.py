"""Marks of states, the same everywhere: a word, a colour and a sign, never a colour alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ruchu.web.language import Language, later

GOOD, WARN, BAD, BUSY, QUIET = "good", "warn", "bad", "busy", ""


@dataclass(frozen=True, slots=True)
class Mark:
    """How a state is shown: its word in English, its tone, its icon."""

    word: str
    tone: str
    icon: str

    def cell(self, language: Language) -> dict[str, str]:
        """Return what a cell of the kind `state` shows."""
        return {"text": language.say(self.word), "tone": self.tone, "icon": self.icon}


RUNS: Mapping[str, Mark] = {
    "queued": Mark(later("Queued"), QUIET, "schedule"),
    "waiting": Mark(later("Waiting"), QUIET, "hourglass_empty"),
    "running": Mark(later("Running"), BUSY, "sync"),
    "stopping": Mark(later("Stopping"), WARN, "stop_circle"),
    "paused": Mark(later("Paused"), WARN, "pause_circle"),
    "succeeded": Mark(later("Succeeded"), GOOD, "check_circle"),
    "partly": Mark(later("Partly"), WARN, "error"),
    "failed": Mark(later("Failed"), BAD, "cancel"),
    "stopped": Mark(later("Stopped"), QUIET, "block"),
}
SEVERITIES: Mapping[str, Mark] = {
    "info": Mark(later("Info"), BUSY, "info"),
    "warning": Mark(later("Warning"), WARN, "warning"),
    "error": Mark(later("Error"), BAD, "error"),
    "critical": Mark(later("Critical"), BAD, "report"),
}
MACHINES: Mapping[str, Mark] = {
    "running": Mark(later("On"), GOOD, "power"),
    "paused": Mark(later("Paused"), WARN, "pause_circle"),
    "off": Mark(later("Off"), QUIET, "power_off"),
    "stopped": Mark(later("Off"), QUIET, "power_off"),
    "shut off": Mark(later("Off"), QUIET, "power_off"),
}
NODES: Mapping[str, Mark] = {
    "connected": Mark(later("Connected"), GOOD, "link"),
    "away": Mark(later("Away"), BAD, "link_off"),
    "maintenance": Mark(later("In maintenance"), WARN, "build"),
    "revoked": Mark(later("Revoked"), QUIET, "block"),
    "invited": Mark(later("Not seen yet"), QUIET, "hourglass_empty"),
}
KINDS: Mapping[str, str] = {
    "backup": later("Backup"),
    "full": later("Full"),
    "incremental": later("Incremental"),
    "differential": later("Differential"),
    "synthetic": later("Synthetic full"),
    "restore": later("Restore"),
    "instant": later("Instant restore"),
    "instant-stop": later("End of an instant restore"),
    "migration": later("Migration to production"),
    "verify": later("Verification"),
    "merge": later("Retention"),
    "repair": later("Repair"),
    "evacuate": later("Evacuation"),
    "delete-points": later("Deletion of points"),
    "files-return": later("Files sent back"),
    "copy": later("Copy"),
    "drill": later("Drill"),
}


def of(marks: Mapping[str, Mark], state: str) -> Mark:
    """Return the mark of a state; a state that is not known is shown as it is."""
    return marks.get(state) or Mark(state, QUIET, "help_outline")


def kind(language: Language, name: str) -> str:
    """Return what a kind of run or point is called."""
    return language.say(KINDS.get(name, name))


def show(mark: Mark, language: Language) -> Any:
    """Show a mark; return its element."""
    with ui.element("span").classes(f"r-state {mark.tone}") as element:
        ui.icon(mark.icon).props("aria-hidden=true")
        ui.label(language.say(mark.word))
    return element
