"""Policies: what is protected, when, and for how long it is kept."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.parts import acting, empty, headings, listing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.visiting import Visit, page


@page("/policies", later("Policies"))
async def policies(visit: Visit) -> None:
    """List the policies."""
    say = visit.say
    with headings.head(say("Policies"), say("What is protected, when, and how long it is kept.")):
        if visit.may(Right.OPERATE):
            ui.button(
                say("New policy"), icon="add", on_click=lambda: ui.navigate.to("/policies/new")
            ).props("unelevated no-caps")

    def row(policy: Mapping[str, Any]) -> dict[str, Any]:
        document = policy["policy"]
        return {
            "id": policy["id"],
            "name": {"text": document["name"], "link": f"/policies/{policy['id']}"},
            "storage": document["storage"],
            "changed": visit.language.moment(policy["changed"]),
            "acts": [Act("run", say("Run now"), "play_arrow").cell()],
        }

    async def on_act(name: str, policy: str) -> None:
        del name
        await acting.act(visit, visit.api.post(f"/policies/{policy}/run", {}), say("Started."))

    def nothing() -> None:
        empty.empty("shield", say("Nothing is protected yet."),
                    say("A policy says what is backed up, where to, when, and how long it is kept."),
                    action=say("New policy"), target="/policies/new")  # fmt: skip

    columns = [
        Column("name", say("Name")),
        Column("storage", say("Storage")),
        Column("changed", say("Changed")),
    ]
    found = listing.Listing(
        visit, columns, listing.of_list(visit, "/policies", row), on_act=on_act, nothing=nothing
    )
    await found.refresh()
    visit.live(found.refresh, "policy")
