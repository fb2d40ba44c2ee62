"""Machines: what there is, what protects it, and its newest point."""

from collections.abc import Sequence
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import asked, empty, headings, listing, machine_acts, marks, resources
from ruchu.web.parts.filtering import Filters
from ruchu.web.parts.listing import Column, Row
from ruchu.web.visiting import Visit, page

_PROTECTION = {"protected": later("Protected"), "unprotected": later("Not protected")}
# A listing of a platform tells of each machine once; a page need not follow faster than this.
_LIVE_S = 3.0


@page("/machines", later("Machines"))
async def machines(visit: Visit) -> None:
    """List machines, searched by the server."""
    say = visit.say
    with headings.head(say("Machines"), say("What the platforms have, and what protects it.")):
        if visit.may(Right.OPERATE):
            ui.button(say("New policy"), icon="add", on_click=lambda: ui.navigate.to("/policies/new")
                      ).props("unelevated no-caps color=primary")  # fmt: skip
    platforms = await visit.api.get("/platforms")
    table: list[listing.Listing] = []

    async def changed() -> None:
        await table[0].restart()

    filters = Filters(visit, changed, {})
    filters.text("text", say("Name, host, tag"))
    filters.choice("platform", say("Platform"), {each["name"]: each["name"] for each in platforms})
    filters.choice("protection", say("Protection"),
                   {key: say(title) for key, title in _PROTECTION.items()})  # fmt: skip
    count = ui.label("").classes("r-count").props("role=status data-test=machine-count")
    found = _listing(visit, filters, count, some=bool(platforms))
    table.append(found)
    await found.refresh()
    visit.live(found.refresh, "inventory", "platform", "policy", "point", "points", every_s=_LIVE_S)


def _listing(visit: Visit, filters: Filters, count: ui.label, *, some: bool) -> listing.Listing:
    say, kept = visit.say, dict[str, Any]()
    may_operate = visit.may(Right.OPERATE)

    async def fetch(after: str, limit: int) -> tuple[Sequence[Row], str | None]:
        query = {key: filters[key] for key in ("text", "platform", "protection")}
        answer = await visit.api.get("/machines/overview", after=after, limit=limit, **query)
        total = visit.language.number(answer["total"])
        count.set_text(say("{count} machines", count=total))
        count.set_visibility(answer["total"] > 0)
        kept.clear()
        kept.update({f"{each['machine']['platform']}/{each['machine']['id']}": each
                     for each in answer["items"]})  # fmt: skip
        rows = [resources.machine_row(visit.language, each, visit.now, may_operate=may_operate)
                for each in answer["items"]]  # fmt: skip
        return rows, answer["next"]

    async def on_act(name: str, row: str) -> None:
        if name == resources.PROTECT:
            ui.navigate.to(resources.protect_address(kept[row]["machine"]))
        else:
            await machine_acts.back_up(visit, kept[row])

    def nothing() -> None:
        _nothing(visit, narrowed=bool(filters), some=some)

    columns = [
        Column("name", say("Name")),
        Column("state", say("State")),
        Column("size", say("Disks"), "right"),
        Column("newest", say("Newest point"), classes="nowrap"),
        Column("protection", say("Policy")),
    ]
    return listing.Listing(
        visit, columns, fetch, on_act=on_act, nothing=nothing, label=say("Machines")
    )


def _nothing(visit: Visit, *, narrowed: bool, some: bool) -> None:
    say = visit.say
    if narrowed:
        empty.empty("search_off", say("No machine matches."), say("Try other words, or no filter."))
    elif some:
        empty.empty("computer", say("No machine was seen yet."),
                    say("List the machines of a platform anew, and see what it answers."),
                    action=say("To the platforms"), target="/platforms")  # fmt: skip
    elif visit.may_everywhere(Right.CONFIGURE):
        empty.empty("dns", say("There is no platform yet."),
                    say("Add the platform that your machines run on; they appear here by themselves."),
                    action=say("Add a platform"), target="/platforms/new")  # fmt: skip
    else:
        empty.empty("dns", say("There is no platform yet."),
                    say("An administrator has to add one."))  # fmt: skip


@page("/machines/{platform}/{machine}", later("Machine"))
async def machine(visit: Visit, platform: str, machine: str) -> None:
    """Show a machine: what it is, what protects it, its disks, its points."""
    say, path = visit.say, f"/machines/{part(platform)}/{part(machine)}"
    shown = await visit.api.get(path)
    known = shown["machine"]
    with headings.head(known["name"], say("on {platform}", platform=known["platform"])):
        _acts(visit, shown)
    with ui.element("div").classes("r-grid"):
        with headings.card(say("Machine"), "r-6"):
            _facts(visit, known)
        with headings.card(say("Protection"), "r-6") as protection:
            _protection(visit, shown)
        with headings.card(say("Disks")):
            _hardware(visit, f"{path}/hardware")
    ui.label(say("Points")).classes("r-section").props("role=heading aria-level=2")
    points = _points(visit, known)
    await points.refresh()

    async def refresh() -> None:
        await points.refresh()
        found = await visit.api.get(path)
        protection.clear()
        with protection:
            ui.label(say("Protection")).classes("r-card-title").props("role=heading aria-level=2")
            _protection(visit, found)

    visit.live(refresh, "point", "points", "policy", every_s=_LIVE_S)


def _acts(visit: Visit, shown: Any) -> None:
    say, known = visit.say, shown["machine"]
    main = "unelevated no-caps color=primary"
    if visit.may(Right.RESTORE) and shown["newest"]:
        ui.button(say("Restore"), icon="settings_backup_restore",
                  on_click=lambda: ui.navigate.to(f"/restore?name={part(known['name'])}")
                  ).props("flat no-caps data-test=restore")  # fmt: skip
    if not visit.may(Right.OPERATE):
        return
    if any(each["enabled"] for each in shown["policies"]):
        ui.button(say("Back up now"), icon="play_arrow",
                  on_click=lambda: machine_acts.back_up(visit, shown)
                  ).props(f"{main} data-test=back-up")  # fmt: skip
    else:
        target = resources.protect_address(known)
        ui.button(say("Protect"), icon="add_moderator", on_click=lambda: ui.navigate.to(target)
                  ).props(f"{main} data-test=protect")  # fmt: skip


def _facts(visit: Visit, known: Any) -> None:
    say, language = visit.say, visit.language
    headings.facts({
        say("State"): lambda: _state(visit, known["state"]),
        say("Platform"): lambda: ui.link(known["platform"], f"/platforms/{part(known['platform'])}"),
        say("Host"): known["host"] or "–",
        say("Folder"): known["folder"] or "–",
        say("Tags"): ", ".join(known["tags"]) or "–",
        say("Processors"): language.number(known["vcpus"]),
        say("Memory"): language.size(known["memory"]),
        say("Disks together"): language.size(known["disk_size"]),
        say("Last listed"): language.ago(known["seen"], visit.now),
        say("Id"): lambda: ui.label(known["id"]).classes("mono"),
    })  # fmt: skip


def _state(visit: Visit, state: str) -> None:
    marks.show(marks.of(marks.MACHINES, state), visit.language)


def _protection(visit: Visit, shown: Any) -> None:
    say = visit.say
    mark = resources.PROTECTED if shown["protected"] else resources.UNPROTECTED
    marks.show(mark, visit.language)
    newest = shown["newest"]
    when = visit.language.ago(newest, visit.now) if newest else say("none yet")
    headings.facts({say("Newest point"): when, say("Made"): visit.language.moment(newest)})
    if not shown["policies"]:
        ui.label(say("No policy selects this machine.")).classes("muted")
    for each in shown["policies"]:
        with ui.element("div").classes("r-selected-by"):
            ui.link(each["name"], f"/policies/{part(each['id'])}")
            state = resources.ENABLED if each["enabled"] else resources.SUSPENDED
            marks.show(state, visit.language)


def _hardware(visit: Visit, path: str) -> None:
    """Ask the platform for the disks."""
    say = visit.say

    def show(found: Any) -> None:
        rows = [resources.disk_row(visit.language, each) for each in found["disks"]]
        columns = [
            Column("name", say("Disk")),
            Column("size", say("Size"), "right"),
            Column("format", say("Format")),
            Column("tracked", say("Changed blocks")),
        ]
        table = listing.Listing(visit, columns, asked.of_rows(rows), label=say("Disks"))
        ui.timer(0.0, table.refresh, once=True)
        cards = "; ".join(f"{each['mac']} ({each['network']})" for each in found["nics"])
        headings.facts({
            say("Firmware"): found["firmware"].upper(),
            say("Network cards"): cards or say("none"),
        })  # fmt: skip

    asked.later_in(visit, say("Asking the platform…"), lambda: visit.api.get(path), show)


def _points(visit: Visit, known: Any) -> listing.Listing:
    say, language = visit.say, visit.language
    columns = [
        Column("name", say("When")),
        Column("kind", say("Kind")),
        Column("stored", say("Stored"), "right"),
        Column("storage", say("Storage")),
        Column("marks", say("Marks")),
    ]

    def nothing() -> None:
        empty.empty("history", say("There is no point of this machine yet."),
                    say("A point is made by each backup of a policy that selects it."))  # fmt: skip

    def row(point: Any) -> dict[str, Any]:
        return resources.point_row(language, point, visit.now)

    fetch = listing.of_page(visit, "/points", row, name=known["name"])
    return listing.Listing(visit, columns, fetch, nothing=nothing, label=say("Points"))
