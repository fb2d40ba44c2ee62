"""Fields of a message, read from a document that somebody else wrote. Pure."""

import datetime
import re
from typing import Any, Final

from ruchu.model import ids

# Ids of things, codes, names of kinds; people do not type longer ones.
NAME_LENGTH_MAX: Final = 255
# Whole numbers up to here are the same in every language and database.
COUNT_MAX: Final = 2**53 - 1
SECONDS_MAX: Final = 3600.0

Fields = dict[str, Any]


class WrongField(ValueError):
    """A field is not what it should be."""


def _get(document: Fields, name: str) -> Any:
    try:
        return document[name]
    except KeyError:
        raise WrongField(f"{name} is missing") from None


def text(document: Fields, name: str, length_max: int = NAME_LENGTH_MAX) -> str:
    """Return a text of limited length.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if not isinstance(value, str) or len(value) > length_max:
        raise WrongField(f"{name} is no text, or too long a one")
    return value


def identifier(document: Fields, name: str) -> str:
    """Return an id.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if not ids.is_id(value):
        raise WrongField(f"{name} is no id")
    return str(value)


def is_whole(value: Any, least: int = 0) -> bool:
    """Tell whether a value is a whole number in its limits."""
    return type(value) is int and least <= value <= COUNT_MAX


def count(document: Fields, name: str, least: int = 0) -> int:
    """Return a whole number.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if not is_whole(value, least):
        raise WrongField(f"{name} is no whole number from {least}")
    return int(value)


def seconds(document: Fields, name: str) -> float:
    """Return a number of seconds, up to an hour.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise WrongField(f"{name} is no number")
    if not 0 < value <= SECONDS_MAX:
        raise WrongField(f"{name} is out of range")
    return float(value)


def flag(document: Fields, name: str) -> bool:
    """Return true or false.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if not isinstance(value, bool):
        raise WrongField(f"{name} is neither true nor false")
    return value


_MOMENT: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:]{8}\.[0-9]{6}Z")


def moment(document: Fields, name: str) -> str:
    """Return a moment as `clock.to_text` writes it.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    try:
        if isinstance(value, str) and _MOMENT.fullmatch(value):
            datetime.datetime.fromisoformat(value)
            return value
    except ValueError:
        pass
    raise WrongField(f"{name} is no moment")


def mapping(document: Fields, name: str) -> Fields:
    """Return an object.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if not isinstance(value, dict):
        raise WrongField(f"{name} is no object")
    return value


def perhaps(document: Fields, name: str) -> Fields | None:
    """Return an object, or None if there is none.

    Raises:
        WrongField: it is not there, or something else.
    """
    return None if document.get(name) is None else mapping(document, name)


def items(document: Fields, name: str, length_max: int) -> list[Any]:
    """Return a list of limited length.

    Raises:
        WrongField: it is not there, or something else.
    """
    value = _get(document, name)
    if not isinstance(value, list) or len(value) > length_max:
        raise WrongField(f"{name} is no list, or too long a one")
    return value


def mappings(document: Fields, name: str, length_max: int) -> list[Fields]:
    """Return a list of objects.

    Raises:
        WrongField: it is not there, or something else.
    """
    found = items(document, name, length_max)
    if not all(isinstance(value, dict) for value in found):
        raise WrongField(f"{name} holds what is no object")
    return found
