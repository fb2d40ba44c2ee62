"""What requests say will be lost, in the language of who decides.

The lines are part of what is agreed to, so they are kept as they were written; here they are only
shown in other words. A line that is not known is shown as it is.
"""

import re

from ruchu.web.language import Language, later
from ruchu.web.parts import marks, run_words

_POINT = re.compile(
    r"(?P<at>\S+Z) (?P<name>.+) \((?P<kind>[\w-]+), (?P<size>[^)]+)\) on (?P<storage>\S+), "
    r"(?P<id>\w+)"
)
# In front of a point.
_BEFORE = (
    ("No longer known: ", later("No longer known: {point}")),
    ("Retention may remove: ", later("Retention may remove: {point}")),
)
_PATTERNS = tuple((re.compile(pattern), words) for pattern, words in (
    (r"The storage (?P<name>\S+) at (?P<place>.+); what lies there stays\.",
     later("The storage {name} at {place}; what lies there stays.")),
    (r"The passphrase that this server keeps for it\. Without it nobody reads the points\.",
     later("The passphrase that this server keeps for it. Without it nobody reads the points.")),
    (r"No longer known: (?P<count>\d+) older points\.",
     later("No longer known: {count} older points.")),
    (r"Points of (?P<what>.+) on (?P<storage>\S+) that these rules do not keep: (?P<rules>.+)\.",
     later("Points of {what} on {storage} that these rules do not keep: {rules}.")),
    (r"Retention of (?P<name>.+) goes on\. It stopped at (?P<since>\S+Z): (?P<why>.+)",
     later("Retention of {name} goes on. It stopped at {since}: {why}")),
    (r"Points beyond (?P<rule>\w+) (?P<count>\d+); before, all of them stayed\.",
     later("Points beyond {rule} {count}; before, all of them stayed.")),
    (r"Points kept by (?P<rule>\w+): (?P<old>\d+) before, (?P<new>\d+) from now on\.",
     later("Points kept by {rule}: {old} before, {new} from now on.")),
    (r"Removed points can be brought back for (?P<new>\S+) days, not (?P<old>\S+)\.",
     later("Removed points can be brought back for {new} days, not {old}.")),
    (r"The account (?P<name>\S+) \((?P<display>.*)\) with its roles: (?P<roles>.+)\.",
     later("The account {name} ({display}) with its roles: {roles}.")),
    (r"Its sessions, tokens and authenticator end at once\.",
     later("Its sessions, tokens and authenticator end at once.")),
    (r"From then on one person alone can delete backups\.",
     later("From then on one person alone can delete backups.")),
))  # fmt: skip
_OTHER = re.compile(r"Machines of the policy (?P<policy>.+?), too: (?P<line>.+)")


def said(language: Language, line: str) -> str:
    """Return a line in a language."""
    if other := _OTHER.fullmatch(line):
        inner = said(language, other["line"])
        return language.say("Machines of the policy {policy}, too: {line}",
                            policy=other["policy"], line=inner)  # fmt: skip
    for begin, words in _BEFORE:
        if line.startswith(begin) and _POINT.fullmatch(line.removeprefix(begin)):
            return language.say(words, point=_point(language, line.removeprefix(begin)))
    for pattern, words in _PATTERNS:
        if found := pattern.fullmatch(line):
            return run_words.moments(language, language.say(words, **found.groupdict()))
    return _point(language, line)


def _point(language: Language, line: str) -> str:
    found = _POINT.fullmatch(line)
    if found is None:
        return run_words.moments(language, line)
    return language.say(
        "{name}, {time}: {kind}, {size}, on {storage} ({id})", name=found["name"],
        time=language.moment(found["at"]), kind=marks.kind(language, found["kind"]),
        size=found["size"], storage=found["storage"], id=found["id"],
    )  # fmt: skip
