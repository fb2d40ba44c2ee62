"""The dashboard: how everything is, what runs, what comes next, what wants to be looked at."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.parts import dashboard_cards, empty, headings
from ruchu.web.parts.following import Following
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]


@page("/", later("Dashboard"))
async def dashboard(visit: Visit) -> None:
    """Show how everything is, and follow it."""
    say = visit.say
    with headings.head(say("Dashboard"), say("What is protected, what runs, what to look at.")):
        ui.button(
            say("Wall view"), icon="tv", on_click=lambda: ui.navigate.to("/wall"), color=None
        ).props("flat no-caps data-test=wall")
    following = Following(visit, lambda: visit.api.get("/overview"))
    _first_steps(visit, following)
    dashboard_cards.figures(visit, following)
    with ui.element("div").classes("r-grid"):
        dashboard_cards.days(visit, following)
        dashboard_cards.running(visit, following)
        dashboard_cards.storages(visit, following)
        dashboard_cards.next_starts(visit, following)
        dashboard_cards.alarms(visit, following)
        dashboard_cards.unprotected(visit, following)
        dashboard_cards.missed(visit, following)
    await following.refresh()
    following.begin()


def _first_steps(visit: Visit, following: Following) -> None:
    """Lead to the guide while the server is not set up."""
    say = visit.say
    place = ui.element("div").classes("r-wide")

    def show(found: Found) -> None:
        set_up = found["set_up"]
        place.clear()
        place.set_visibility(not set_up["policies"])
        if set_up["policies"]:
            return
        with place:
            if visit.may_everywhere(Right.CONFIGURE):
                empty.empty(
                    "rocket_launch", say("Nothing is protected yet."),
                    say("The guide leads from a storage to the first backup in a few minutes."),
                    action=say("Open the guide"), target="/guide",
                )  # fmt: skip
            else:
                empty.empty(
                    "shield", say("Nothing is protected yet."),
                    say("An administrator has to set up a storage and a platform first."),
                )  # fmt: skip

    following.on(("set_up",), show)
