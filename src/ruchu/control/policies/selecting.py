"""Which machines a policy selects, and which machines no policy does. Pure."""

import fnmatch
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeVar

from ruchu.model.policies import Policy, Selection


@dataclass(frozen=True, slots=True)
class Machine:
    """What a selection looks at."""

    platform: str
    id: str
    name: str
    host: str = ""
    folder: str = ""
    tags: tuple[str, ...] = ()


class Selectable(Protocol):
    """A machine, however it is kept."""

    @property
    def platform(self) -> str:
        """Name of its platform."""

    @property
    def id(self) -> str:
        """As the platform calls it."""

    @property
    def name(self) -> str:
        """For people."""

    @property
    def host(self) -> str:
        """Where it runs."""

    @property
    def folder(self) -> str:
        """Where it is kept."""

    @property
    def tags(self) -> Sequence[str]:
        """What it is marked with."""


T = TypeVar("T", bound=Selectable)


def selects(selection: Selection, machine: Selectable) -> bool:
    """Tell whether a selection takes a machine."""
    if machine.platform != selection.platform or _excluded(selection, machine):
        return False
    return (
        machine.id in selection.machines
        or machine.name in selection.machines
        or any(fnmatch.fnmatchcase(machine.name, each) for each in selection.patterns)
        or not set(machine.tags).isdisjoint(selection.tags)
        or any(_within(machine.folder, each) for each in selection.folders)
        or machine.host in selection.hosts
    )


def _excluded(selection: Selection, machine: Selectable) -> bool:
    return any(
        each in {machine.id, machine.name} or fnmatch.fnmatchcase(machine.name, each)
        for each in selection.excluded
    )


def _within(folder: str, top: str) -> bool:
    return folder == top or folder.startswith(top.rstrip("/") + "/")


def selected(selection: Selection, machines: Iterable[T]) -> list[T]:
    """Return the machines that a selection takes, by name."""
    return sorted(filter(_chooser(selection), machines), key=lambda m: m.name)


def _chooser(selection: Selection) -> Callable[[Selectable], bool]:
    """Return what tells whether a selection takes a machine, fit for thousands of them."""
    named = frozenset(selection.machines)
    if selection.patterns or selection.tags or selection.folders or selection.hosts:
        return lambda machine: selects(selection, machine)

    def chosen(machine: Selectable) -> bool:
        # Nearly all are of other policies: nothing but two looks into a set.
        return (machine.id in named or machine.name in named) and selects(selection, machine)

    return chosen


def missing(selection: Selection, machines: Sequence[Selectable]) -> list[str]:
    """Return the machines that a selection names and that are not there."""
    if not selection.machines:
        return []
    there = {each.id for each in machines} | {each.name for each in machines}
    return [name for name in selection.machines if name not in there]


def unprotected(machines: Iterable[T], policies: Sequence[Policy]) -> list[T]:
    """Return the machines that no enabled policy selects."""
    active = [_chooser(policy.selection) for policy in policies if policy.enabled]
    return [each for each in machines if not any(takes(each) for takes in active)]
