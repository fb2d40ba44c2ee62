"""Texts with typed placeholders that are escaped for where they stand. Pure.

`${name}` is replaced by a value. `${name:35}` cuts it to 35 characters, `${name:json}` and
`${name:url}` escape it once more than its place asks for: a JSON text within a query, say. Filters
work from left to right. `$$` is a dollar sign. A template that names what does not exist is refused
when it is made, not when an alarm is due.
"""

import enum
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from ruchu.errors import UsageError

TEMPLATE_MAX = 16_384
_TOKEN = re.compile(r"\$\{([a-z][a-z0-9_.]*)((?::[a-z0-9]+)*)\}|\$\$|\$")
_PHONE = re.compile(r"\+?[0-9]{3,20}")
_NOT_IN_WORDS = re.compile(r"[^A-Za-z0-9._+-]")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")


class Kind(enum.Enum):
    """The type of a value: what it can hold, whatever an alarm says."""

    TEXT = enum.auto()
    WORD = enum.auto()
    NUMBER = enum.auto()
    PHONE = enum.auto()
    SECRET = enum.auto()


class Place(enum.Enum):
    """Where a template stands, and so what its values are escaped for."""

    URL = enum.auto()
    HEADER = enum.auto()
    JSON = enum.auto()
    PLAIN = enum.auto()  # a value of a parameter, which is encoded as a whole later


# What a template can name, besides `secrets.NAME`.
VALUES: Mapping[str, Kind] = {
    "phone": Kind.PHONE,
    "title": Kind.TEXT,
    "headline": Kind.TEXT,
    "subject": Kind.TEXT,
    "text": Kind.TEXT,
    "severity": Kind.TEXT,
    "level": Kind.WORD,
    "code": Kind.WORD,
    "count": Kind.NUMBER,
    "alarms": Kind.NUMBER,
    "time": Kind.TEXT,
    "timestamp": Kind.NUMBER,
    "id": Kind.WORD,
    "language": Kind.WORD,
}


@dataclass(frozen=True, slots=True)
class _Part:
    name: str
    filters: tuple[str, ...]
    kind: Kind


class Template:
    """A text with placeholders."""

    def __init__(self, text: str, place: Place) -> None:
        """Read it.

        Raises:
            UsageError: it names what does not exist, or is too long.
        """
        if len(text) > TEMPLATE_MAX:
            raise UsageError(f"(a template of {len(text)} characters)")
        self._place = place
        self._parts: list[str | _Part] = []
        end = 0
        for found in _TOKEN.finditer(text):
            self._parts += [text[end : found.start()], _part(found)]
            end = found.end()
        self._parts.append(text[end:])

    def render(self, values: Mapping[str, str | int]) -> str:
        """Return it with values in place.

        Raises:
            UsageError: a value is missing, or is not of its type.
        """
        return "".join(
            each if isinstance(each, str) else self._rendered(each, values) for each in self._parts
        )

    def _rendered(self, part: _Part, values: Mapping[str, str | int]) -> str:
        if part.name not in values:
            raise UsageError(f"(the template needs {part.name})")
        text = _typed(part, values[part.name])
        for each in part.filters:
            text = _filtered(text, each)
        return _escaped(text, self._place)


def literal(text: str) -> str:
    """Return a text that stands for itself in a template."""
    return text.replace("$", "$$")


def _part(found: re.Match[str]) -> str | _Part:
    if found[0] == "$$":
        return "$"
    name = found[1]
    if name is None:
        hint = "Write $$ for a dollar sign, ${name} for a value."
        raise UsageError("(a template with a stray $)", hint=hint)
    kind = Kind.SECRET if name.startswith("secrets.") else VALUES.get(name)
    filters = tuple(filter(None, found[2].split(":")))
    if kind is None or not all(each in {"json", "url"} or each.isdigit() for each in filters):
        hint = f"There are: {', '.join(VALUES)}; filters: json, url, a number of characters."
        raise UsageError(f"(the placeholder {found[0]})", hint=hint)
    return _Part(name, filters, kind)


def _typed(part: _Part, value: str | int) -> str:
    match part.kind:
        case Kind.NUMBER:
            if not isinstance(value, int):
                raise UsageError(f"({part.name} is no number)")
            return str(value)
        case Kind.PHONE:
            if not _PHONE.fullmatch(str(value)):
                raise UsageError(f"(the phone number {value!r})", hint="Such as +8613800000000.")
            return str(value)
        case Kind.WORD:
            return _NOT_IN_WORDS.sub("-", str(value))
        case Kind.TEXT | Kind.SECRET:
            return str(value)


def _filtered(text: str, name: str) -> str:
    if name == "json":
        return _json(text)
    if name == "url":
        return quote(text, safe="")
    return text[: int(name)]


def _escaped(text: str, place: Place) -> str:
    match place:
        case Place.URL:
            return quote(text, safe="")
        case Place.JSON:
            return _json(text)
        case Place.HEADER:
            # A line break would begin another header; what is not ASCII has no agreed form.
            return _CONTROL.sub(" ", text).encode("ascii", "replace").decode()
        case Place.PLAIN:
            return text


def _json(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)[1:-1]
