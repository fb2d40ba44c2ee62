"""Where the points of a policy go."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.web.parts import empty
from ruchu.web.policy_steps.desk import Desk
from ruchu.web.visiting import Visit

_FULL, _NEARLY = 0.95, 0.8


async def build(desk: Desk) -> None:
    """Show the step."""
    say = desk.visit.say
    shown = [row for row in desk.storages
             if row["role"] == "backup" or row["name"] == desk.form.storage]  # fmt: skip
    if not shown:
        empty.empty("storage", say("There is no storage yet."),
                    say("A storage is where points are kept: a folder, a device or a bucket."),
                    action=say("Add a storage"), target="/storages/new")  # fmt: skip
        return
    desk.complaint("storage")
    cards: dict[str, Any] = {}
    with ui.element("div").classes("r-choices").props("role=radiogroup") as group:
        group.props(f'aria-label="{say("Storage")}"')
        for row in shown:
            with ui.element("button").classes("r-choice") as card:
                card.props(f"type=button role=radio data-test=storage-{row['name']}")
                _card(desk.visit, row)
            card.on("click", lambda name=row["name"]: choose(name))
            cards[row["name"]] = card

    def choose(name: str) -> None:
        desk.form.storage = name
        _marked(cards, name)
        desk.changed()

    _marked(cards, desk.form.storage)


def _marked(cards: Mapping[str, Any], name: str) -> None:
    for each, card in cards.items():
        chosen = each == name
        card.props(f"aria-checked={'true' if chosen else 'false'}")
        card.classes(add="r-chosen-card" if chosen else "",
                     remove="" if chosen else "r-chosen-card")  # fmt: skip


def _card(visit: Visit, row: Mapping[str, Any]) -> None:
    say, language = visit.say, visit.language
    with ui.element("span").classes("r-choice-head"):
        ui.icon("lock" if row["encrypted"] else "lock_open").props("aria-hidden=true")
        ui.label(row["name"]).classes("r-choice-name")
    ui.label(row["location"]).classes("r-sub mono")
    if row["size"] and row["free"] is not None:
        used = (row["size"] - row["free"]) / row["size"]
        tone = "bad" if used >= _FULL else "warn" if used >= _NEARLY else ""
        with ui.element("span").classes(f"r-bar {tone}"):
            ui.element("i").style(f"width: {round(used * 100)}%")
        free, size = language.size(row["free"]), language.size(row["size"])
        ui.label(say("{free} free of {size}", free=free, size=size)).classes("r-sub")
    ui.label(say("Encrypted") if row["encrypted"] else say("Not encrypted")).classes("r-sub")
    if row["problem"]:
        ui.label(row["problem"]).classes("r-note bad")
