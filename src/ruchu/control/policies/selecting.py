"""Which machines a policy selects, and which machines no policy does. Pure."""

import fnmatch
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

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


def selects(selection: Selection, machine: Machine) -> bool:
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


def _excluded(selection: Selection, machine: Machine) -> bool:
    return any(
        each in {machine.id, machine.name} or fnmatch.fnmatchcase(machine.name, each)
        for each in selection.excluded
    )


def _within(folder: str, top: str) -> bool:
    return folder == top or folder.startswith(top.rstrip("/") + "/")


def selected(selection: Selection, machines: Iterable[Machine]) -> list[Machine]:
    """Return the machines that a selection takes, by name."""
    return sorted((each for each in machines if selects(selection, each)), key=lambda m: m.name)


def missing(selection: Selection, machines: Sequence[Machine]) -> list[str]:
    """Return the machines that a selection names and that are not there."""
    there = {each.id for each in machines} | {each.name for each in machines}
    return [name for name in selection.machines if name not in there]


def unprotected(machines: Iterable[Machine], policies: Sequence[Policy]) -> list[Machine]:
    """Return the machines that no enabled policy selects."""
    active = [policy.selection for policy in policies if policy.enabled]
    return [each for each in machines if not any(selects(rule, each) for rule in active)]
