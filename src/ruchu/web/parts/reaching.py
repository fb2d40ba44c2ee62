"""Who reaches a thing, and how much at the same time: the fields that platforms and storages share."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web.parts import asking
from ruchu.web.visiting import Visit


class Tile(Protocol):
    """What can be chosen."""

    @property
    def name(self) -> str:
        """Of it."""

    @property
    def title(self) -> str:
        """In English."""

    @property
    def icon(self) -> str:
        """Name of a Material icon."""


class Tiles:
    """Something that is one of a few, each with an icon: radio buttons for eyes and screen readers."""

    def __init__(self, visit: Visit, tiles: Sequence[Tile], chosen: str) -> None:
        self.value = chosen
        self._told: list[Callable[[str], None]] = []
        self._buttons: dict[str, Any] = {}
        with ui.element("div").classes("r-tiles").props("role=radiogroup"):
            for each in tiles:
                button = ui.element("button").classes("r-tile")
                button.props(f"type=button role=radio data-test=kind-{each.name}")
                button.on("click", lambda name=each.name: self.choose(name))
                with button:
                    ui.icon(each.icon).props("aria-hidden=true")
                    ui.label(visit.say(each.title))
                self._buttons[each.name] = button
        self._mark()

    def on_change(self, told: Callable[[str], None]) -> None:
        """Call this with what was chosen."""
        self._told.append(told)

    def choose(self, name: str) -> None:
        """Choose one."""
        self.value = name
        self._mark()
        for told in self._told:
            told(name)

    def _mark(self) -> None:
        for name, button in self._buttons.items():
            on = name == self.value
            button.props(f"aria-checked={'true' if on else 'false'}")
            button.classes(add="r-tile-on") if on else button.classes(remove="r-tile-on")


def tiles(visit: Visit, of: Sequence[Tile], chosen: str) -> Tiles:
    """Show what can be chosen; return the choice."""
    return Tiles(visit, of, chosen)


@dataclass(frozen=True, slots=True)
class Choices:
    """What can be chosen: nodes and resource groups, by name."""

    nodes: Mapping[str, str]
    groups: Mapping[str, str]


async def choices(visit: Visit) -> Choices:
    """Return the nodes and the groups that a visitor may see."""
    try:
        nodes = await visit.api.get("/nodes")
    except Answered as error:
        if error.status != 403:
            raise
        nodes = []
    groups = await visit.api.get("/groups")
    return Choices(
        {each["id"]: each["name"] for each in nodes if each["state"] != "revoked"},
        {each["name"]: each["title"] or each["name"] for each in groups},
    )


class Reach:
    """The fields of a platform that most administrators leave as they are."""

    def __init__(
        self, visit: Visit, known: Choices, before: Mapping[str, Any] | None = None
    ) -> None:
        now = before or {}
        say = visit.say
        opened = ui.expansion(say("More: scratch files, nodes, limits, group")).classes("r-more")
        opened.props("data-test=more")
        with opened, ui.element("div").classes("r-form"):
            self._scratch = asking.field(
                say("Directory for scratch files, on the platform"), "scratch", now.get("scratch", ""),
                help_text=say("Snapshots grow there while a backup runs. Empty: the usual place."),
            )  # fmt: skip
            self._nodes = asking.several(say("Nodes that reach it"), "nodes", known.nodes,
                                         now.get("nodes", ()), help_text=say("None chosen: all."))  # fmt: skip
            with ui.element("div").classes("r-two"):
                self._parallel = asking.number(say("Tasks at the same time"), "parallel",
                                               now.get("parallel", 4), least=1, most=1000)  # fmt: skip
                self._hosts = asking.number(say("Of them on one host"), "host_parallel",
                                            now.get("host_parallel", 2), least=1, most=1000)  # fmt: skip
            self._group = asking.choice(say("Resource group"), "group", known.groups,
                                        now.get("resource_group", "default"))  # fmt: skip

    def values(self) -> dict[str, Any]:
        """Return what the API takes."""
        return {
            "scratch": (self._scratch.value or "").strip(), "nodes": list(self._nodes.value or ()),
            "parallel": int(self._parallel.value or 1), "host_parallel": int(self._hosts.value or 1),
            "resource_group": self._group.value or "default",
        }  # fmt: skip
