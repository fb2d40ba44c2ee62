"""What differs between what is wanted and what is there. Pure."""

import enum
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from ruchu.errors import UsageError

Fields = Mapping[str, Any]
World = Mapping[str, Mapping[str, Fields]]
"""Fields of definitions by kind and name."""

SECRET = "secret "  # noqa: S105 - how the name of a field begins that is one
GIVEN, OTHER = "(given)", "(another one)"


class Action(enum.StrEnum):
    """What happens to a definition."""

    CREATE = "create"
    CHANGE = "change"
    REMOVE = "remove"
    RELEASE = "release"  # it belongs to no file any more, and stays
    SAME = "same"
    KEEP = "keep"  # it differs, and stays as it is


@dataclass(frozen=True, slots=True)
class FieldChange:
    """A field before and after; None is a field that is not there. Never holds a secret."""

    field: str
    before: Any
    after: Any


@dataclass(frozen=True, slots=True)
class Change:
    """What happens to one definition."""

    kind: str
    name: str
    action: Action
    fields: tuple[FieldChange, ...] = ()


def flattened(fields: Fields, prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Yield every field with its dotted name; lists and empty mappings are values."""
    for key, value in fields.items():
        name = f"{prefix}{key}"
        if isinstance(value, Mapping) and value:
            yield from flattened(value, f"{name}.")
        else:
            yield name, value


def differences(before: Fields, after: Fields) -> tuple[FieldChange, ...]:
    """Return the fields that differ, by name."""
    old, new = dict(flattened(before)), dict(flattened(after))
    # A mapping that became empty, or was, is told by its parts alone.
    return tuple(
        FieldChange(name, old.get(name), new.get(name))
        for name in sorted(old.keys() | new.keys())
        if old.get(name) != new.get(name) and not (_is_hollow(old, name) and _is_hollow(new, name))
    )


def _is_hollow(fields: Mapping[str, Any], name: str) -> bool:
    """Tell whether a field is not there, or is an empty mapping."""
    return name not in fields or fields[name] == {}


def secret_changes(before: Mapping[str, str], after: Mapping[str, str]) -> tuple[FieldChange, ...]:
    """Return the secrets that would change, without their values; what is not given stays."""
    return tuple(
        FieldChange(f"{SECRET}{field}", GIVEN if field in before else None, OTHER)
        for field in sorted(after)
        if before.get(field) != after[field]
    )


@dataclass(frozen=True, slots=True)
class Compared:
    """What is compared: fields of everything, secrets of what is wanted, who owns what.

    Attributes:
        wanted, current: fields by kind and name; `current` holds everything that there is.
        secrets: changes of secrets by kind and name.
        owners: the label of the file that something belongs to, by kind and name.
    """

    wanted: World
    current: World
    secrets: Mapping[tuple[str, str], Sequence[FieldChange]]
    owners: Mapping[tuple[str, str], str]


def plan(
    label: str, compared: Compared, kinds: Sequence[str], lasting: Sequence[str]
) -> list[Change]:
    """Return what a file with a label changes, in the order in which it is done.

    Args:
        label: whose file it is; only what was made by a file with this label is removed.
        compared: what is wanted, and what there is.
        kinds: in the order in which they are made; they are removed in the other.
        lasting: kinds that no file removes.

    Raises:
        UsageError: something belongs to the file of another label.
    """
    made = [
        change
        for kind in kinds
        for name in sorted(compared.wanted.get(kind, {}))
        if (change := _wanted_change(label, kind, name, compared)) is not None
    ]
    gone = []
    for kind in reversed(kinds):
        for name in sorted(compared.current.get(kind, {})):
            if name in compared.wanted.get(kind, {}):
                continue
            if compared.owners.get((kind, name)) == label:
                action = Action.RELEASE if kind in lasting else Action.REMOVE
                gone.append(Change(kind, name, action))
    return made + gone


def _wanted_change(label: str, kind: str, name: str, compared: Compared) -> Change | None:
    wanted = compared.wanted[kind][name]
    current = compared.current.get(kind, {}).get(name)
    secrets = tuple(compared.secrets.get((kind, name), ()))
    if current is None:
        given = tuple(replace(each, after=GIVEN) for each in secrets)
        return Change(kind, name, Action.CREATE, differences({}, wanted) + given)
    owner = compared.owners.get((kind, name))
    if owner not in {None, label}:
        hint = f"Take it out of one of the files; it was applied with the owner {owner}."
        raise UsageError(f"({kind} {name} belongs to another file)", hint=hint)
    taken = () if owner == label else (FieldChange("owner", None, label),)
    fields = taken + differences(current, wanted) + secrets
    return Change(kind, name, Action.CHANGE, fields) if fields else None


def drifted(applied: World, current: World) -> list[Change]:
    """Return what was changed by hand since files were applied."""
    found = []
    for kind, names in applied.items():
        for name, fields in names.items():
            now = current.get(kind, {}).get(name)
            if now is None:
                found.append(Change(kind, name, Action.REMOVE))
                continue
            differs = differences(fields, now)
            if differs:
                found.append(Change(kind, name, Action.CHANGE, differs))
    return found
