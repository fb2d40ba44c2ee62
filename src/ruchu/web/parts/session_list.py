"""Where an account is signed in."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.web.parts import acting, listing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import GOOD
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
_BROWSERS = ("Edg", "Firefox", "Chrome", "Safari")
_SYSTEMS = ("Android", "iPhone", "iPad", "Windows", "Mac OS", "Linux")


def agent(text: str) -> str:
    """Return what a browser calls itself, short enough for a person. Pure."""
    browser = next((each for each in _BROWSERS if f"{each}/" in text), "")
    system = next((each for each in _SYSTEMS if each in text), "")
    found = " · ".join(filter(None, ("Edge" if browser == "Edg" else browser, system)))
    return found or text[:60] or "?"


async def sessions(visit: Visit, path: str) -> None:
    """List sessions that an endpoint answers; each can be ended."""
    say, language = visit.say, visit.language

    def row(session: Found) -> dict[str, Any]:
        here = session["id"] == visit.principal.proof
        return {
            "id": session["id"],
            "agent": {"text": agent(session["agent"])},
            "here": {"text": say("This browser"), "tone": GOOD, "icon": "check_circle"}
            if here
            else language.ago(session["seen"], visit.now),
            "address": session["address"],
            "created": language.moment(session["created"]),
            "acts": [] if here else [Act("end", say("Sign out"), "logout").cell()],
        }

    async def on_act(name: str, session: str) -> None:
        del name
        await acting.act(visit, visit.api.delete(f"/sessions/{session}"), say("Signed out."))
        await found.refresh()

    columns = [Column("agent", say("Browser")), Column("here", say("Last seen")),
               Column("address", say("Address")),
               Column("created", say("Signed in"))]  # fmt: skip
    fetch = listing.of_list(visit, path, row)

    def nothing() -> None:
        ui.label(say("Nowhere at the moment.")).classes("r-help")

    found = listing.Listing(visit, columns, fetch, on_act=on_act, nothing=nothing,
                            label=say("Sessions"))  # fmt: skip
    await found.refresh()
