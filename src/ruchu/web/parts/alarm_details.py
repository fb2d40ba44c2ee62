"""What the server itself writes into its alarms, in the language of who looks. Pure.

Alarms keep English text, since they leave by mail and webhook as well. Its shapes are known here;
what has another shape, such as the words of a program, is shown as it is.
"""

import datetime
import re

from ruchu.web.language import Language, later
from ruchu.web.parts import marks

_AT = r"\d{4}-\d\d-\d\d \d\d:\d\d"
_SHAPES = (
    (re.compile(rf"Policy (?P<policy>.+) asks for (?P<minutes>\d+) minutes; last: (?P<at>{_AT}) UTC\."),
     later("Policy {policy} asks for a point every {minutes}. The last one is of {at}.")),
    (re.compile(r"Policy (?P<policy>.+) asks for (?P<minutes>\d+) minutes; last: never\."),
     later("Policy {policy} asks for a point every {minutes}. There is none yet.")),
    (re.compile(r"(?P<share>[\d.]+) % are used; (?P<bytes>\d+) bytes are free\."),
     later("{share}% are used, {bytes} are free.")),
    (re.compile(r"It was heard of last at (?P<moment>\S+Z)\. (?P<tasks>\d+) tasks are with it\."),
     later("It was heard of last at {moment}. Tasks that are with it: {tasks}")),
    (re.compile(r"It is (?P<seconds>\d+) seconds ahead of that of the server\."),
     later("Its clock is {seconds} ahead of that of the server.")),
    (re.compile(r"It is (?P<seconds>\d+) seconds behind that of the server\."),
     later("Its clock is {seconds} behind that of the server.")),
    (re.compile(rf"Seen last at (?P<at>{_AT}) UTC; it may end from (?P<until>{_AT}) UTC on\."),
     later("It was seen last at {at}. Its certificate may end from {until} on.")),
    (re.compile(rf"(?P<count>\d+) starts \((?P<kind>.+)\) from (?P<at>{_AT}) to (?P<until>{_AT}) UTC "
                r"were not made\. One run makes up for them\."),
     later("Starts that were not made ({kind}) from {at} to {until}: {count}. One run makes up for "
           "them.")),
    (re.compile(rf"(?P<count>\d+) starts \((?P<kind>.+)\) from (?P<at>{_AT}) to (?P<until>{_AT}) UTC "
                r"were not made\. They are left out\."),
     later("Starts that were not made ({kind}) from {at} to {until}: {count}. They are left out.")),
    (re.compile(r"A run that died had left it; it was removed: (?P<what>.+)", re.DOTALL),
     later("A run that died had left it. It was removed: {what}")),
)  # fmt: skip


def said(language: Language, text: str) -> str | None:
    """Return a text of the server in a language; None if it has no known shape."""
    for pattern, words in _SHAPES:
        if found := pattern.fullmatch(text):
            facts = {name: _shown(language, name, value)
                     for name, value in found.groupdict().items()}  # fmt: skip
            return language.say(words, **facts)
    return None


def _shown(language: Language, name: str, value: str) -> str:
    ways = {
        "at": lambda: language.moment(_moment(value)),
        "until": lambda: language.moment(_moment(value)),
        "moment": lambda: language.moment(value),
        "minutes": lambda: language.duration(int(value) * 60),
        "seconds": lambda: language.duration(int(value)),
        "bytes": lambda: language.size(int(value)),
        "kind": lambda: marks.kind(language, value),
    }
    return ways[name]() if name in ways else value


def _moment(text: str) -> datetime.datetime:
    return datetime.datetime.strptime(text, "%Y-%m-%d %H:%M").replace(tzinfo=datetime.UTC)
