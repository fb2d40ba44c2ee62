"""Platforms: what machines run on; added, tested, listed anew."""

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import Language, later
from ruchu.web.parts import (
    acting,
    asked,
    asking,
    empty,
    headings,
    listing,
    platform_words,
    reaching,
    resources,
)
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import Mark
from ruchu.web.visiting import Visit, page

TEST, REFRESH = "test", "refresh"


def platform_mark(platform: Mapping[str, Any]) -> Mark:
    """Return the mark of a platform."""
    if platform["problem"]:
        return resources.PLATFORM_BROKEN
    return resources.PLATFORM_FINE if platform["seen"] else resources.PLATFORM_NEW


def platform_row(
    language: Language, platform: Mapping[str, Any], machines: tuple[int, int], now: datetime,
    *, may_configure: bool,
) -> dict[str, Any]:  # fmt: skip
    """Return a platform as a row; `machines` are how many there are, and how many are protected."""
    count, safe = (language.number(each) for each in machines)
    acts = [Act(REFRESH, language.say("List machines anew"), "sync")]
    if may_configure:
        acts.insert(0, Act(TEST, language.say("Test"), "network_check"))
    state: dict[str, Any] = platform_mark(platform).cell(language)
    if platform["problem"]:
        state["sub"] = platform["problem"]
    return {
        "id": platform["name"],
        "name": {"text": platform["name"], "link": f"/platforms/{part(platform['name'])}",
                 "sub": platform["uri"]},
        "kind": language.say(platform_words.kind(platform["uri"])),
        "machines": {"text": count, "sub": language.say("{count} protected", count=safe)},
        "seen": language.ago(platform["seen"], now),
        "state": state,
        "acts": [each.cell() for each in acts],
    }  # fmt: skip


async def counted(visit: Visit, name: str) -> tuple[int, int]:
    """Return how many machines a platform has, and how many are protected."""
    places = await visit.api.get(f"/platforms/{part(name)}/tree")
    return sum(each["machines"] for each in places), sum(each["protected"] for each in places)


@page("/platforms", later("Platforms"))
async def platforms(visit: Visit) -> None:
    """List the platforms."""
    say = visit.say
    with headings.head(say("Platforms"), say("Where your machines run.")):
        if visit.may_everywhere(Right.CONFIGURE):
            ui.button(say("Add a platform"), icon="add",
                      on_click=lambda: ui.navigate.to("/platforms/new")
                      ).props("unelevated no-caps color=primary data-test=add-platform")  # fmt: skip

    async def fetch(after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        known = await visit.api.get("/platforms")
        begin = int(after or 0)
        rows = [
            platform_row(visit.language, each, await counted(visit, each["name"]), visit.now,
                         may_configure=visit.may(Right.CONFIGURE, each["resource_group"]))
            for each in known[begin : begin + limit]
        ]  # fmt: skip
        return rows, str(begin + limit) if len(known) > begin + limit else None

    async def on_act(name: str, platform: str) -> None:
        if name == TEST:
            test(visit, platform)
        else:
            await list_anew(visit, platform)

    def nothing() -> None:
        if visit.may_everywhere(Right.CONFIGURE):
            empty.empty("dns", say("There is no platform yet."),
                        say("Add the platform that your machines run on; its machines are listed at once."),
                        action=say("Add a platform"), target="/platforms/new")  # fmt: skip
        else:
            empty.empty("dns", say("There is no platform yet."),
                        say("An administrator has to add one."))  # fmt: skip

    columns = [
        Column("name", say("Name")),
        Column("kind", say("Kind")),
        Column("machines", say("Machines"), "right"),
        Column("seen", say("Last seen")),
        Column("state", say("State")),
    ]
    found = listing.Listing(
        visit, columns, fetch, on_act=on_act, nothing=nothing, label=say("Platforms")
    )
    await found.refresh()
    visit.live(found.refresh, "platform", "inventory", "policy", every_s=2.0)


async def list_anew(visit: Visit, platform: str) -> Mapping[str, Any] | None:
    """List the machines of a platform anew, and tell how many there are."""
    path = f"/platforms/{part(platform)}/refresh"
    ui.notify(visit.say("Asking {name}…", name=platform), position="top")
    found = await acting.act(visit, visit.api.post(path))
    if found is None:
        return None
    count, _ = await counted(visit, platform)
    text = visit.say(
        "{name} has {count} machines.", name=platform, count=visit.language.number(count)
    )
    ui.notify(text, type="positive", position="top")
    return dict(found)


def test(visit: Visit, platform: str) -> None:
    """Ask a platform what it can do, and show it in words."""
    say, path = visit.say, f"/platforms/{part(platform)}/check"
    with asking.dialog(say("What {name} can do", name=platform)) as dialog:
        asked.later_in(visit, say("Asking the platform…"), lambda: visit.api.post(path),
                       lambda check: abilities(visit, check))  # fmt: skip
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Close"), on_click=dialog.close).props("flat no-caps")


def abilities(visit: Visit, check: Mapping[str, Any]) -> None:
    """Show what a platform can do."""
    with ui.element("ul").classes("r-abilities").props("data-test=abilities"):
        for text, good in platform_words.can(visit.language, check):
            with ui.element("li").classes("good" if good else "warn"):
                ui.icon("check_circle" if good else "info").props("aria-hidden=true")
                ui.label(text)


@page("/platforms/new", later("Add a platform"), need=Right.CONFIGURE)
async def new_platform(visit: Visit) -> None:
    """Add a platform, test it, and list its machines."""
    say = visit.say
    with headings.head(
        say("Add a platform"), say("It is tested, and its machines are listed, right away.")
    ):
        ui.button(say("Back"), on_click=lambda: ui.navigate.to("/platforms")).props("flat no-caps")
    first = platform_words.WAYS[0]
    with ui.element("div").classes("r-stack r-wide") as form:
        with headings.card(say("How is it reached?")), ui.element("div").classes("r-form"):
            way = reaching.tiles(visit, platform_words.WAYS, first.name)
            hint = ui.label(say(first.help)).classes("r-help")
        with headings.card(say("Name and address")), ui.element("div").classes("r-form"):
            name = asking.field(say("Name"), "name", help_text=say("Such as kvm; policies name it."),
                                props="maxlength=64")  # fmt: skip
            uri = asking.field(say("Address"), "uri", first.example, props="maxlength=1000")
        reach = reaching.Reach(visit, await reaching.choices(visit))
        add = ui.button(say("Add and test")).props("unelevated no-caps color=primary data-test=add")
    place = ui.element("div").classes("r-wide r-stack")

    def chosen(value: str) -> None:
        known = platform_words.way(value)
        hint.set_text(say(known.help))
        if uri.value in {each.example for each in platform_words.WAYS} or not uri.value:
            uri.set_value(known.example)

    way.on_change(chosen)

    async def go() -> None:
        wanted = {
            "name": (name.value or "").strip(),
            "uri": (uri.value or "").strip(),
            **reach.values(),
        }
        add.props("loading")
        made = await acting.act(visit, visit.api.post("/platforms", wanted))
        add.props(remove="loading")
        if made is not None:
            form.set_visibility(False)
            with place:
                _outcome(visit, made["name"])

    add.on_click(go)


def _outcome(visit: Visit, name: str) -> None:
    say, path = visit.say, f"/platforms/{part(name)}"

    async def ask() -> Any:
        check = await visit.api.post(f"{path}/check")
        await visit.api.post(f"{path}/refresh")
        return check, await counted(visit, name)

    def show(found: Any) -> None:
        check, (count, _) = found
        with ui.element("div").classes("r-note good").props("role=status data-test=found"):
            ui.label(say("{count} machines were found.", count=visit.language.number(count)))
        abilities(visit, check)
        with ui.element("div").classes("r-actions"):
            to = f"/policies/new?platform={part(name)}"
            if visit.may(Right.OPERATE):
                ui.button(say("Protect them"), icon="add_moderator",
                          on_click=lambda: ui.navigate.to(to)
                          ).props("unelevated no-caps color=primary")  # fmt: skip
            ui.button(say("See the machines"), on_click=lambda: ui.navigate.to(path)).props(
                "flat no-caps"
            )

    with headings.card(say("{name} was added", name=name)):
        again = asked.later_in(visit, say("Asking the platform what it can do, and for its machines…"),
                               ask, show)  # fmt: skip
        with ui.element("div").classes("r-actions"):
            ui.button(say("Test again"), on_click=again).props("flat no-caps")
            ui.button(say("Change it"), on_click=lambda: ui.navigate.to(path)).props("flat no-caps")
