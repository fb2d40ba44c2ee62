"""How a policy works: compression, snapshots, what is left out, retries, nodes."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web import policy_form, policy_words
from ruchu.web.language import later
from ruchu.web.policy_steps.desk import Desk

_LEVELS: Mapping[int | None, str] = {
    None: later("As usual (2)"),
    0: later("0: none"),
    1: later("1: fastest"),
    2: later("2: fast"),
    3: later("3: a little smaller"),
    6: later("6: smaller, slower"),
    12: later("12: small, slow"),
    19: later("19: smallest, very slow"),
}


async def build(desk: Desk) -> None:
    """Show the step."""
    say, form = desk.visit.say, desk.form
    names = await _names(desk)
    _saving(desk)
    ui.label(say("Load and order")).classes("r-card-title").props("role=heading aria-level=3")
    with ui.element("div").classes("r-numbers"):
        desk.number(form, "parallel", say("Machines at the same time"))
        desk.number(form, "priority", say("Priority, 1 is first"))
        others = {"": say("None"), **{each["name"]: each["name"] for each in desk.policies
                                      if each["name"] != desk.own_name}}  # fmt: skip
        desk.choice(form, "after_policy", say("Waits for the policy"), others)
        desk.choice(form, "group", say("Resource group"), names["groups"])
    ui.label(say("If something fails")).classes("r-card-title").props("role=heading aria-level=3")
    with ui.element("div").classes("r-numbers"):
        desk.number(form, "attempts", say("Tries"))
        _span(desk, form.first, "first", say("First pause"))
        _span(desk, form.most, "most", say("Longest pause"))
        lost = {name: say(text) for name, text in policy_words.LOST.items()}
        desk.choice(form, "on_lost_node", say("If a node is lost"), lost)
    with ui.expansion(say("Nodes and programs")).classes("r-p-more") as more:
        more.value = bool(form.nodes or form.before or form.after)
        desk.several(form, "nodes", say("Only on the nodes"), names["nodes"],
                     help_text=say("None: any that reaches the platform and the storage."))  # fmt: skip
        desk.text(form, "before", say("Program before a run"),
                  help_text=say("A program in the folder for commands of the node, with its words."))  # fmt: skip
        desk.text(form, "after", say("Program after a run"))


def _saving(desk: Desk) -> None:
    say, form = desk.visit.say, desk.form
    with ui.element("div").classes("r-two"):
        levels = {level: say(text) for level, text in _LEVELS.items()}
        desk.choice(form, "level", say("Compression level"), levels)
        snapshots: dict[str | None, str] = {None: say("As usual (one after the other)")}
        snapshots |= {name: say(text) for name, text in policy_words.SNAPSHOTS.items()}
        desk.choice(form, "snapshots", say("Snapshots"), snapshots)
    desk.switch(
        say("Freeze file systems through the guest agent, where it runs"), "quiesce",
        value=form.quiesce is not False, act=lambda value: setattr(form, "quiesce", value),
    )  # fmt: skip
    reasons = {name: say(text) for name, text in policy_words.LEFT_OUT.items()}
    chosen = policy_form.reasons(form.leave_out)
    made = ui.select(
        {**reasons, **{each: each for each in chosen if each not in reasons}}, multiple=True,
        label=say("Leave out what a guest does not need"), value=chosen,
        on_change=lambda event: _leave_out(desk, event),
    )  # fmt: skip
    made.props("outlined dense use-chips options-dense data-test=field-leave_out").classes("r-wide")
    made.props["hint"] = say(
        "Its file systems are read to find out. What is left out comes back empty."
    )
    if form.disks:
        desk.chips(form, "disks", say("Only the disks"))


def _leave_out(desk: Desk, event: Any) -> None:
    desk.form.leave_out = ",".join(event.value) if event.value else None
    desk.changed()


def _span(desk: Desk, span: Any, name: str, label: str) -> None:
    say = desk.visit.say
    units = {"hours": say("hours"), "minutes": say("minutes"), "seconds": say("seconds")}
    with ui.element("div").classes("r-pair"):
        desk.number(span, "count", label, key=name)
        desk.choice(span, "unit", say("Unit"), units, key=f"{name}.unit")


async def _names(desk: Desk) -> dict[str, dict[str, str]]:
    """Return the names of nodes and resource groups, as far as the visitor may see them."""
    visit = desk.visit
    found: dict[str, dict[str, str]] = {"nodes": {}, "groups": {}}
    for kind, path in (("nodes", "/nodes"), ("groups", "/groups")):
        if kind == "nodes" and not visit.may_everywhere(Right.VIEW):
            continue
        try:
            rows = await visit.api.get(path)
        except Answered as error:
            if error.status == 401:
                raise
            continue
        found[kind] = {row["name"]: row["name"] for row in rows}
    return found
