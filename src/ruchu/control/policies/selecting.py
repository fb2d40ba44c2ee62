"""Which machines a policy selects, and which machines no policy does. Pure."""

import fnmatch
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

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
Matches = Callable[[str], Any]


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
    found = Index({"": selection})
    return sorted((each for each in machines if found.of(each)), key=lambda m: m.name)


class Index:
    """Tells which of many selections take a machine, for thousands of machines.

    A machine is looked up by what it is called and where it is; only patterns are tried one by one.

    Args:
        selections: by a name for each.
    """

    def __init__(self, selections: Mapping[str, Selection]) -> None:
        self._selections = selections
        self._exact: defaultdict[tuple[str, str, str], list[str]] = defaultdict(list)
        self._patterns: defaultdict[str, list[tuple[str, Matches]]] = defaultdict(list)
        self._folders: defaultdict[str, list[tuple[str, str]]] = defaultdict(list)
        # Many machines share few folders.
        self._of_folder: dict[tuple[str, str], list[str]] = {}
        for name, selection in selections.items():
            for kind in ("machines", "tags", "hosts"):
                for each in getattr(selection, kind):
                    self._exact[selection.platform, kind, each].append(name)
            for folder in selection.folders:
                self._folders[selection.platform].append((folder, name))
            if selection.patterns:
                pattern = "|".join(map(fnmatch.translate, selection.patterns))
                self._patterns[selection.platform].append((name, re.compile(pattern).match))

    def of(self, machine: Selectable) -> set[str]:
        """Return the names of the selections that take a machine."""
        platform, exact = machine.platform, self._exact
        found: set[str] = set()
        for key in ((platform, "machines", machine.id), (platform, "machines", machine.name),
                    (platform, "hosts", machine.host),
                    *((platform, "tags", tag) for tag in machine.tags)):  # fmt: skip
            if key in exact:
                found.update(exact[key])
        if platform in self._patterns:
            name = machine.name
            found.update(each for each, match in self._patterns[platform] if match(name))
        if platform in self._folders:
            found.update(self._within(platform, machine.folder))
        return {each for each in found if not _excluded(self._selections[each], machine)}

    def _within(self, platform: str, folder: str) -> list[str]:
        key = (platform, folder)
        if key not in self._of_folder:
            tops = self._folders[platform]
            self._of_folder[key] = [name for top, name in tops if _within(folder, top)]
        return self._of_folder[key]


def each_selected(
    selections: Mapping[str, Selection], machines: Iterable[T]
) -> Mapping[str, Sequence[T]]:
    """Return the machines that each of many selections takes, each machine looked at once."""
    index = Index(selections)
    found: dict[str, list[T]] = {name: [] for name in selections}
    for machine in machines:
        for name in index.of(machine):
            found[name].append(machine)
    return found


def missing(selection: Selection, machines: Sequence[Selectable]) -> list[str]:
    """Return the machines that a selection names and that are not there."""
    if not selection.machines:
        return []
    there = {each.id for each in machines} | {each.name for each in machines}
    return [name for name in selection.machines if name not in there]


def unprotected(machines: Iterable[T], policies: Sequence[Policy]) -> list[T]:
    """Return the machines that no enabled policy selects."""
    index = Index({str(at): each.selection for at, each in enumerate(policies) if each.enabled})
    return [each for each in machines if not index.of(each)]
