"""The wall view: everything on one dark screen, to be read from across a room."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu import __version__
from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.parts import wall_tiles
from ruchu.web.parts.following import EVERY_S, Following
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
# Hosts tell of their load every ten seconds, sites are looked at every minute.
_LOAD_EVERY_S, _SITES_EVERY_S = 9.0, 60.0


class _Source:
    """Fetches what the wall shows: the overview each time, the rest as often as it changes."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._load: Found = {}
        self._sites: list[Found] = []
        self._due = {"load": 0.0, "sites": 0.0}

    async def fetch(self) -> Found:
        api, everything = self._visit.api, self._visit.may_everywhere(Right.VIEW)
        found = dict(await api.get("/overview"))
        if everything and self._is_due("load", _LOAD_EVERY_S):
            self._load = await api.get("/load")
        if everything and self._is_due("sites", _SITES_EVERY_S):
            self._sites = await api.get("/sites")
        return found | {"load": self._load, "sites": self._sites}

    def _is_due(self, name: str, every_s: float) -> bool:
        now = self._visit.house.services.clock.monotonic()
        due = self._due[name] <= now
        if due:
            self._due[name] = now + every_s
        return due


@page("/wall", later("Wall view"), bare=True)
async def wall(visit: Visit) -> None:
    """Show everything at once, and follow it."""
    ui.context.client.page.dark = True
    ui.add_body_html(f'<script src="/_ruchu/wall.js?{__version__}" defer></script>')
    following = Following(visit, _Source(visit).fetch)
    with ui.element("main").classes("w"):
        _top(visit, following)
        wall_tiles.figures(visit, following)
        with ui.element("div").classes("w-row w-middle"):
            if visit.may_everywhere(Right.VIEW):
                wall_tiles.hosts(visit, following)
            wall_tiles.throughput(visit, following)
        with ui.element("div").classes("w-row w-lower"):
            wall_tiles.storages(visit, following)
            wall_tiles.running(visit, following)
            wall_tiles.sites(visit, following)
        wall_tiles.ticker(visit, following)
    await following.refresh()
    following.begin(slow=round(_LOAD_EVERY_S / EVERY_S))


def _top(visit: Visit, following: Following) -> None:
    say = visit.say
    with ui.element("header").classes("w-top"):
        with ui.link(target="/").classes("w-brand") as brand:
            brand.props["aria-label"] = say("Back to the dashboard")
            ui.element("img").props('src="/_ruchu/mark.svg" alt=""')
        title = ui.label(say("Wall view")).classes("w-title")
        title.props("role=heading aria-level=1")

        def named(found: Found) -> None:
            if found["load"]:
                title.set_text(found["load"]["server"]["name"])

        following.on(("load",), named)
        clock = ui.label("").classes("w-clock").props("data-test=clock aria-hidden=true")
        clock.props["data-zone"] = visit.language.zone
        clock.props["data-lang"] = visit.language.locale.language
        full = ui.button(icon="fullscreen", color=None).props("flat round data-test=full-screen")
        full.props["aria-label"] = say("Full screen")
        full.on("click", js_handler="() => window.ruchuWall.full()")
