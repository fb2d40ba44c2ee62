"""The last look at a policy before it is kept: in words, with starts and space."""

from nicegui import ui

from ruchu.control.policies import documents
from ruchu.errors import RuchuError
from ruchu.web import policy_facts, policy_form, policy_words
from ruchu.web.parts import headings
from ruchu.web.policy_steps.desk import Desk


async def build(desk: Desk) -> None:
    """Show the step."""
    say, form = desk.visit.say, desk.form
    desk.complaint("")
    with ui.element("div").classes("r-two"):
        desk.text(form, "name", say("Name of the policy"))
        desk.switch(say("Its schedules start backups"), "enabled", value=form.enabled,
                    act=lambda value: setattr(form, "enabled", value))  # fmt: skip
    with ui.element("div").classes("r-grid"):
        with headings.card(say("What it does"), "r-6"):
            _facts(desk)
        with headings.card(say("Next starts"), "r-6"):
            starts = ui.element("div").classes("r-wide")
    with headings.card(say("Space that it will take")):
        space = ui.element("div").classes("r-wide")

    def show() -> None:
        starts.clear()
        with starts:
            preview = desk.preview or {}
            policy_facts.show_starts(desk.visit, preview.get("starts", ()), form.zone)
        space.clear()
        with space:
            _space(desk)

    desk.follow(show)


def _facts(desk: Desk) -> None:
    """Show the policy in words; the fields say what is missing."""
    language = desk.visit.language
    document = policy_form.document(desk.form)
    document["name"] = document["name"] or "policy"
    try:
        shown = documents.to_document(documents.from_document(document))
    except RuchuError:
        ui.label(
            desk.visit.say("Something is missing. The steps that have it are marked.")
        ).classes("r-note warn")
        return
    headings.facts(policy_facts.facts(language, shown))


def _space(desk: Desk) -> None:
    language, preview = desk.visit.language, desk.preview
    if preview is None or not preview["count"]:
        ui.label(desk.visit.say("It selects no machine now.")).classes("muted")
        return
    with ui.element("div").classes("r-p-figures"):
        for name, size in policy_words.space(language, preview):
            headings.figure(name, size)
    ui.label(policy_words.remains(language, preview["remaining"]))
    ui.label(policy_words.assumptions(language, preview)).classes("r-help")
    storage = next((row for row in desk.storages if row["name"] == desk.form.storage), None)
    first = policy_words.first_bytes(preview)
    if storage is not None and storage["free"] is not None and storage["free"] < first:
        text = desk.visit.say("The storage {storage} has {free} free: the first backup may not fit.",
                              storage=storage["name"], free=language.size(storage["free"]))  # fmt: skip
        ui.label(text).classes("r-note warn")
