"""Roles: what each may do, and a matrix of who has which where."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.model.principals import ALL_GROUPS, ROLES, Right, Role
from ruchu.web.language import NOTHING, Language, later
from ruchu.web.parts import acting
from ruchu.web.visiting import Visit

NAMES: Mapping[Role, str] = {
    Role.ADMINISTRATOR: later("Administrator"),
    Role.OPERATOR: later("Operator"),
    Role.RESTORE_OPERATOR: later("Restore operator"),
    Role.AUDITOR: later("Auditor"),
    Role.READ_ONLY: later("Read only"),
}
WORDS: Mapping[Role, str] = {
    Role.ADMINISTRATOR: later("Everything, also accounts, settings and approvals."),
    Role.OPERATOR: later("Sees; writes policies, starts and stops jobs, acknowledges alarms."),
    Role.RESTORE_OPERATOR: later("Sees; restores machines and files. Changes no policy."),
    Role.AUDITOR: later("Sees; reads the audit trail. Changes nothing."),
    Role.READ_ONLY: later("Sees. Changes nothing."),
}


def names(language: Language, roles: Sequence[str]) -> str:
    """Return what roles are called, in the order of how much they may do."""
    return ", ".join(language.say(NAMES[role]) for role in Role if role.value in roles)


def summary(language: Language, grants: Mapping[str, Sequence[str]]) -> str:
    """Return the roles of an account in a line."""
    said = [
        language.say("{roles} everywhere", roles=names(language, roles))
        if group == ALL_GROUPS
        else language.say("{roles} in {group}", roles=names(language, roles), group=group)
        for group, roles in sorted(grants.items())
        if roles
    ]
    return "; ".join(said) or NOTHING


def legend(visit: Visit) -> None:
    """Say what every role may do."""
    with ui.element("dl").classes("r-facts"):
        for role in Role:
            with ui.element("dt"):
                ui.label(visit.say(NAMES[role]))
            with ui.element("dd"):
                ui.label(visit.say(WORDS[role]))


def table(visit: Visit) -> None:
    """Show which right comes with which role."""
    say = visit.say
    with ui.element("div").classes("r-scroll"), ui.element("table").classes("r-matrix"):
        with ui.element("tr"):
            ui.element("td")
            for right in Right:
                with ui.element("th").props("scope=col"):
                    ui.label(say(acting.RIGHTS[right]))
        for role in Role:
            with ui.element("tr"):
                with ui.element("th").props("scope=row"):
                    ui.label(say(NAMES[role]))
                for right in Right:
                    with ui.element("td"):
                        has = right in ROLES[role]
                        icon = ui.icon("check" if has else "remove")
                        icon.classes("r-yes" if has else "r-no")
                        icon.props(f'role=img aria-label="{say("yes") if has else say("no")}"')


class RoleMatrix:
    """A row for each group, a box for each role."""

    def __init__(
        self, visit: Visit, groups: Sequence[Mapping[str, Any]], grants: Mapping[str, Sequence[str]]
    ) -> None:
        self._visit = visit
        self._boxes: dict[str, dict[Role, Any]] = {}
        self._titles = {each["name"]: each["title"] or each["name"] for each in groups}
        self._rows = ui.element("div").classes("r-roles")
        self._add(ALL_GROUPS, grants.get(ALL_GROUPS, ()))
        for group, roles in sorted(grants.items()):
            if group != ALL_GROUPS:
                self._add(group, roles)
        self._more = ui.select(self._others(), label=visit.say("Roles in one group only"))
        self._more.props("outlined dense options-dense data-test=more-groups").classes("r-wide")
        self._more.on_value_change(self._chosen)
        self._more.set_visibility(bool(self._others()))

    def grants(self) -> dict[str, list[str]]:
        """Return the roles that are ticked, by group."""
        found = {
            group: [role.value for role, box in boxes.items() if box.value]
            for group, boxes in self._boxes.items()
        }
        return {group: roles for group, roles in found.items() if roles}

    def _others(self) -> dict[str, str]:
        return {name: title for name, title in self._titles.items() if name not in self._boxes}

    def _chosen(self, event: Any) -> None:
        if event.value and event.value not in self._boxes:
            self._add(event.value, ())
            self._more.set_options(self._others(), value=None)
            self._more.set_visibility(bool(self._others()))

    def _add(self, group: str, roles: Sequence[str]) -> None:
        say = self._visit.say
        title = say("All groups") if group == ALL_GROUPS else self._titles.get(group, group)
        self._boxes[group] = {}
        with self._rows, ui.element("fieldset").classes("r-role-row"):
            with ui.element("legend"):
                ui.label(title)
            for role in Role:
                box = ui.checkbox(say(NAMES[role]), value=role.value in roles)
                box.props(f"dense data-test=role-{role.value}-{'all' if group == '*' else group}")
                box.tooltip(say(WORDS[role]))
                self._boxes[group][role] = box
