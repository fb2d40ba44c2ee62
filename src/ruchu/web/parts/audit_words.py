"""What acts and their outcomes are called in the audit trail. Pure."""

import csv
import io
import json
from collections.abc import Mapping, Sequence
from typing import Any

from ruchu.web.language import Language, later
from ruchu.web.parts.marks import BAD, BUSY, GOOD, QUIET, WARN, Mark

Found = Mapping[str, Any]
_FACTS_MAX = 140
# What a spreadsheet would take for a formula.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")

OUTCOMES: Mapping[str, Mark] = {
    "done": Mark(later("Done"), GOOD, "check_circle"),
    "refused": Mark(later("Refused"), WARN, "block"),
    "failed": Mark(later("Failed"), BAD, "cancel"),
    "requested": Mark(later("Asked for"), BUSY, "how_to_reg"),
}
# By the beginning of the name of an act.
AREAS: Mapping[str, str] = {
    "session.": later("Session"),
    "user.": later("Accounts"),
    "token.": later("API tokens"),
    "group.": later("Groups"),
    "provider.": later("Identity providers"),
    "policy.": later("Policies"),
    "run.": later("Jobs"),
    "point.": later("Recovery points"),
    "storage.": later("Storages"),
    "platform.": later("Platforms"),
    "node.": later("Nodes"),
    "alarm": later("Alarms"),
    "freeze.": later("Freezes"),
    "act.": later("Acts that destroy"),
    "approval.": later("Approvals"),
    "four-eyes.": later("Four eyes"),
    "settings.": later("Settings"),
    "definitions.": later("Definitions"),
    "site.": later("Sites"),
}
_VERBS: Mapping[str, str] = {
    "add": later("added"),
    "create": later("made"),
    "change": later("changed"),
    "put": later("written"),
    "remove": later("removed"),
    "open": later("opened"),
    "close": later("ended"),
    "run": later("run by hand"),
    "stop": later("stopped"),
    "pause": later("paused"),
    "resume": later("resumed"),
    "restore": later("restore started"),
    "instant": later("instant restore started"),
    "verify": later("verification started"),
    "grant": later("roles given"),
    "disable": later("locked out"),
    "enable": later("let in again"),
    "password": later("password changed"),
    "password-link": later("password link made"),
    "authenticator-on": later("authenticator on"),
    "authenticator-off": later("authenticator off"),
    "authenticator-reset": later("authenticator reset"),
    "acknowledge": later("acknowledged"),
    "test": later("tested"),
    "decide": later("decided"),
    "approve": later("approved"),
    "expired": later("expired"),
    "request": later("asked for"),
    "invite": later("invited"),
    "revoke": later("revoked"),
    "reap": later("left-overs removed"),
    "assign": later("moved to another group"),
    "browse": later("looked into"),
    "search": later("searched"),
    "star": later("starred, or no more"),
    "files-return": later("files sent back"),
    "grow": later("grown"),
    "probe": later("looked at"),
    "first": later("first administrator made"),
    "first-link": later("first link made"),
    "apply": later("applied from a file"),
    "on": later("turned on"),
    "off": later("turned off"),
    "export": later("exported"),
    "import": later("imported"),
    "attach": later("attached"),
    "detach": later("detached"),
    "call": later("passed on"),
    "delete-points": later("deletion of points"),
    "remove-storage": later("removal of a storage"),
    "shorten-retention": later("shorter retention"),
    "remove-user": later("removal of an account"),
    "release-protection": later("release of protection"),
    "four-eyes-off": later("four eyes off"),
}


def act(language: Language, action: str) -> str:
    """Return what an act is called; one that is not known goes by its own name."""
    area = next((name for begin, name in AREAS.items() if action.startswith(begin)), "")
    verb = _VERBS.get(action.rpartition(".")[2], "")
    if not area or not verb:
        return action
    return language.say("{area}: {verb}", area=language.say(area), verb=language.say(verb))


def outcome(name: str) -> Mark:
    """Return how an outcome is shown."""
    return OUTCOMES.get(name) or Mark(name, QUIET, "help_outline")


def facts(found: Found) -> str:
    """Return the facts of a record in a line."""
    said = ", ".join(f"{key}: {_fact(value)}" for key, value in found.items())
    return said if len(said) <= _FACTS_MAX else f"{said[: _FACTS_MAX - 1]}…"


def _fact(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def as_csv(rows: Sequence[Found]) -> bytes:
    """Return records for a spreadsheet, none of whose cells it takes for a formula."""
    file = io.StringIO()
    written = csv.writer(file)
    names = ("number", "at", "actor", "action", "subject", "outcome", "facts")
    written.writerow(names)
    for row in rows:
        cells = [_fact(row[name]) for name in names]
        written.writerow([f"'{each}" if each.startswith(_FORMULA) else each for each in cells])
    # With a mark, so that a spreadsheet reads it as UTF-8.
    return file.getvalue().encode("utf-8-sig")
