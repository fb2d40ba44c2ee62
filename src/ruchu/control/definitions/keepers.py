"""What a kind of definition is: its fields, how it is read, made, changed, removed.

A keeper works on a bench, so that everything that it does is part of one transaction.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any, Protocol

from ruchu.control.definitions.bench import Bench
from ruchu.errors import UsageError
from ruchu.model.principals import DEFAULT_GROUP, Right

# A name longer than that is none of ours.
NAME_MAX = 300

Fields = dict[str, Any]
Secrets = Mapping[str, str]


class Keeper(Protocol):
    """A kind of definition.

    Attributes:
        kind: its name in documents.
        right: what it takes to define one.
    """

    kind: str
    right: Right

    def normal(self, name: str, fields: Mapping[str, Any]) -> Fields:
        """Return all fields, with defaults where none are given.

        Raises:
            UsageError, InvalidName: they cannot be.
        """

    def all(self, bench: Bench) -> dict[str, Fields]:
        """Return the fields of all that there are, by name."""

    def secrets(self, bench: Bench, name: str) -> Secrets:
        """Return the secrets of one, which may not be there."""

    def create(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Make one; its fields are normal.

        Raises:
            RuchuError: it cannot be.
        """

    def change(self, bench: Bench, name: str, fields: Fields, secrets: Secrets) -> None:
        """Make one like these fields.

        Raises:
            RuchuError: it cannot be.
        """

    def remove(self, bench: Bench, name: str) -> None:
        """Remove one.

        Raises:
            RuchuError: it cannot be.
        """


def whole(what: str, fields: Mapping[str, Any], defaults: Mapping[str, Any]) -> Fields:
    """Return fields with defaults; `...` stands for what must be given.

    Raises:
        UsageError: one is unknown, missing, or of another type than its default.
    """
    if unknown := sorted(str(key) for key in set(fields) - set(defaults)):
        hint = f"Known: {', '.join(sorted(defaults))}."
        raise UsageError(f"({what}: {', '.join(unknown)[:200]})", hint=hint)
    found = {}
    for key, default in defaults.items():
        value = fields.get(key, default)
        if value is ...:
            raise UsageError(f"({what}: {key} is missing)")
        expected = str if default is ... else type(default)
        if type(value) is not expected:
            raise UsageError(f"({what}: {key} is no {_WORDS[expected]})")
        found[key] = value
    return found


_WORDS = {str: "text", int: "whole number", bool: "yes or no", list: "list", dict: "mapping"}


def group_of(fields: Mapping[str, Any]) -> str:
    """Return the resource group that a definition belongs to."""
    return str(fields.get("group") or DEFAULT_GROUP)


def as_lists(value: Any) -> Any:
    """Return a value as JSON would bring it back: lists, texts, mappings of texts."""
    if isinstance(value, Mapping):
        return {str(key): as_lists(each) for key, each in value.items()}
    if isinstance(value, tuple | list | set | frozenset):
        return [as_lists(each) for each in value]
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_lists(dataclasses.asdict(value))
    return getattr(value, "value", value)
