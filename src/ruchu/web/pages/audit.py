"""The audit trail: searched, and followed from its first record to its last."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.parts import acting, asking, audit_words, empty, filtering, headings, listing
from ruchu.web.parts.filtering import Filters
from ruchu.web.parts.listing import Act, Column, Fetch
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
# A file for a spreadsheet; who needs more uses `ruchu audit export`.
_FILE_ROWS = 20_000
_AT_ONCE = 499


@page("/audit", later("Audit"), need=Right.AUDIT)
async def audit(visit: Visit) -> None:
    """Search the audit trail."""
    say = visit.say
    lead = say("Who did what, when, and with what outcome. No record can be changed unnoticed.")
    with headings.head(say("Audit"), lead):
        fetch = ui.button(say("As CSV"), icon="download", color=None)
        fetch.props("flat no-caps data-test=csv").classes("r-quiet")
        verify = ui.button(say("Verify"), icon="fact_check", color=None)
        verify.props("flat no-caps data-test=verify").classes("r-quiet")
    verdict = ui.element("div").classes("r-wide").props("role=status data-test=verdict")

    async def restart() -> None:
        await found.restart()

    filters = Filters(visit, restart, {})
    filters.text("text", say("Search by person, act or object"))
    filters.choice("action", say("Kind of act"), {key: say(name) for key, name in
                                                  audit_words.AREAS.items()})  # fmt: skip
    outcomes = {key: say(mark.word) for key, mark in audit_words.OUTCOMES.items()}
    filters.choice("outcome", say("Outcome"), outcomes)
    filters.choice("period", say("Period"), filtering.periods(visit.language))
    found = _listing(visit, filters)
    fetch.on_click(lambda: _download(visit, filters))
    verify.on_click(lambda: _verify(visit, verdict))
    await found.refresh()


def _query(visit: Visit, filters: Filters) -> dict[str, Any]:
    return {
        "text": filters["text"] or None, "action": filters["action"] or None,
        "outcome": filters["outcome"] or None,
        "since": filtering.since(filters["period"], visit.now),
    }  # fmt: skip


def _listing(visit: Visit, filters: Filters) -> listing.Listing:
    say = visit.say
    columns = [
        Column("act", say("Act"), "left", "r-act"),
        Column("subject", say("On what")),
        Column("actor", say("Who")),
        Column("at", say("When"), "left", "nowrap"),
        Column("outcome", say("Outcome")),
        Column("facts", say("Details")),
    ]

    def nothing() -> None:
        empty.empty("search_off", say("No record matches."), say("Look for something else."),
                    action=say("Clear the filters") if filters else "",
                    target=filters.clear)  # fmt: skip

    async def on_act(name: str, number: str) -> None:
        del name
        before = int(number) + 1
        found = await visit.api.get("/audit", after=str(before), limit=1)
        for each in found["items"]:
            _show(visit, each)

    return listing.Listing(
        visit, columns, _fetch(visit, filters), nothing=nothing, label=say("Audit"),
        on_act=on_act,
    )  # fmt: skip


def _show(visit: Visit, record: Found) -> None:
    """Show a record whole."""
    say, language = visit.say, visit.language
    with asking.dialog(audit_words.act(language, record["action"])) as made:
        headings.facts({
            say("Number"): str(record["number"]),
            say("When"): f"{language.day(record['at'])} {language.time(record['at'])}",
            say("Who"): record["actor"],
            say("On what"): record["subject"],
            say("Act"): record["action"],
            say("Outcome"): say(audit_words.outcome(record["outcome"]).word),
        })  # fmt: skip
        ui.label(json.dumps(record["facts"], indent=2, ensure_ascii=False)).classes("r-code r-pre")
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Close"), on_click=made.close).props("flat no-caps")


def _fetch(visit: Visit, filters: Filters) -> Fetch:
    async def fetch(after: str, limit: int) -> tuple[Sequence[dict[str, Any]], str | None]:
        answer = await visit.api.get("/audit", after=after, limit=limit, **_query(visit, filters))
        return [row(visit, each) for each in answer["items"]], answer["next"]

    return fetch


def row(visit: Visit, record: Found) -> dict[str, Any]:
    """Return the row of a record."""
    language = visit.language
    return {
        "id": str(record["number"]),
        "act": {"text": audit_words.act(language, record["action"]), "sub": record["action"]},
        "subject": record["subject"],
        "actor": record["actor"],
        "at": {"text": language.moment(record["at"]), "sub": f"#{record['number']}"},
        "outcome": audit_words.outcome(record["outcome"]).cell(language),
        "facts": {"text": "", "sub": audit_words.facts(record["facts"])},
        "acts": [Act("show", visit.say("Show all of it"), "more_horiz").cell()],
    }


async def _verify(visit: Visit, place: Any) -> None:
    """Follow the chain, and show what it says."""
    say = visit.say
    place.clear()
    with place, ui.element("div").classes("r-waiting"):
        ui.spinner(size="1.2em")
        ui.label(say("The trail is read from its first record to its last."))
    found = await acting.act(visit, visit.api.get("/audit/verification"))
    place.clear()
    if found is None:
        return
    number = visit.language.number
    with place:
        if found["whole"]:
            text = say("The trail is whole: {records} records were read, {anchors} anchors "
                       "compared.", records=number(found["records"]),
                       anchors=number(found["anchors"]))  # fmt: skip
            note = ui.element("div").classes("r-note")
        else:
            text = say("The trail was changed or cut. The first record that is wrong: {number}. "
                       "Keep the database as it is.", number=found["broken"])  # fmt: skip
            note = ui.element("div").classes("r-note bad")
        with note:
            ui.label(text).classes("r-trouble")
            if found["reason"]:
                ui.label(found["reason"])
            ui.label(say("Newest record: {number}, hash {hash}", number=found["number"],
                         hash=found["hash"])).classes("r-sub")  # fmt: skip


async def _download(visit: Visit, filters: Filters) -> None:
    """Fetch what matches, for a spreadsheet."""
    rows: list[Found] = []
    after: str | None = ""
    while after is not None and len(rows) < _FILE_ROWS:
        call = visit.api.get("/audit", after=after, limit=_AT_ONCE, **_query(visit, filters))
        answer = await acting.act(visit, call)
        if answer is None:
            return
        rows += answer["items"]
        after = answer["next"]
    ui.download.content(audit_words.as_csv(rows), "audit.csv", "text/csv")
