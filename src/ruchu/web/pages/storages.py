"""Storages: where points lie; how full they are, what they save, whether they are guarded."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import Language, later
from ruchu.web.parts import empty, headings, listing, locating, resources
from ruchu.web.parts.listing import Column, Row
from ruchu.web.visiting import Visit, page


def storage_row(
    language: Language, storage: Mapping[str, Any], use: Mapping[str, Any], guard: Any
) -> dict[str, Any]:
    """Return a storage as a row of a table."""
    kind = locating.described(storage["location"])
    state: dict[str, Any] = resources.storage_mark(storage).cell(language)
    if storage["problem"]:
        state["sub"] = storage["problem"]
    return {
        "id": storage["id"],
        "name": {"text": storage["name"], "link": f"/storages/{part(storage['name'])}",
                 "sub": storage["location"]},
        "kind": {"text": language.say(kind.title) if kind else storage["location"].partition("://")[0],
                 "sub": language.say("for copies") if storage["role"] == "copy" else ""},
        "use": resources.use_cell(language, storage, use["bytes_stored"]),
        "points": language.number(use["points"]),
        "reduction": resources.reduction_text(language, use),
        "state": state,
        "guard": guard.cell(language) if guard is not None else "–",
    }  # fmt: skip


async def watched(visit: Visit) -> tuple[Sequence[Any], Sequence[Any]]:
    """Return the nodes, which tell what they guard, and the open alarms.

    Whoever may not see nodes sees no guard either.
    """
    try:
        nodes = await visit.api.get("/nodes")
    except Answered as error:
        if error.status != 403:
            raise
        nodes = []
    return nodes, await visit.api.get("/alarms")


@page("/storages", later("Storages"))
async def storages(visit: Visit) -> None:
    """List the storages."""
    say = visit.say
    with headings.head(say("Storages"), say("Where points are kept.")):
        if visit.may_everywhere(Right.CONFIGURE):
            ui.button(say("Add a storage"), icon="add",
                      on_click=lambda: ui.navigate.to("/storages/new")
                      ).props("unelevated no-caps color=primary data-test=add-storage")  # fmt: skip

    async def fetch(after: str, limit: int) -> tuple[Sequence[Row], str | None]:
        known = await visit.api.get("/storages")
        nodes, alarms = await watched(visit)
        begin = int(after or 0)
        rows = []
        for each in known[begin : begin + limit]:
            use = await visit.api.get(f"/storages/{part(each['name'])}/use", days=1)
            guard = resources.guard_mark(each, nodes, alarms)
            rows.append(storage_row(visit.language, each, use, guard))
        return rows, str(begin + limit) if len(known) > begin + limit else None

    columns = [
        Column("name", say("Name")),
        Column("kind", say("Kind")),
        Column("use", say("Used"), classes="nowrap"),
        Column("points", say("Points"), "right"),
        Column("reduction", say("Data reduction"), "right"),
        Column("state", say("State")),
        Column("guard", say("Guard")),
    ]
    found = listing.Listing(
        visit, columns, fetch, nothing=lambda: _nothing(visit), label=say("Storages")
    )
    await found.refresh()
    visit.live(found.refresh, "storage", "points", "alarm", every_s=3.0)


def _nothing(visit: Visit) -> None:
    say = visit.say
    if visit.may_everywhere(Right.CONFIGURE):
        empty.empty("storage", say("There is no storage yet."),
                    say("Points need a place: a directory, a bucket, a share or a disk."),
                    action=say("Add a storage"), target="/storages/new")  # fmt: skip
    else:
        empty.empty("storage", say("There is no storage yet."),
                    say("An administrator has to add one."))  # fmt: skip
