"""Restore: which machine, or which moment; then which of its points."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any
from zoneinfo import ZoneInfo

from nicegui import ui

from ruchu.clock import to_text
from ruchu.model.principals import Right
from ruchu.web.language import Language, later
from ruchu.web.parts import acting, empty, headings, listing, saved_points, tabbing
from ruchu.web.parts.filtering import Filters
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.tabbing import View
from ruchu.web.parts.timeline import Timeline
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
# As browsers give the date and time of a field.
_LOCAL = "%Y-%m-%dT%H:%M"


def moment_of(text: str, zone: str) -> str:
    """Return what a field of date and time says on a clock of a zone, as a moment; empty: nothing."""
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return ""
    return to_text(found if found.tzinfo else found.replace(tzinfo=ZoneInfo(zone)))


@page("/restore", later("Restore"))
async def restore(visit: Visit) -> None:
    """Choose by machine or by time."""
    say = visit.say
    lead = say("Choose a machine, or a moment to go back to. Machines that are gone are here, too.")
    with headings.head(say("Restore"), lead):
        pass
    await tabbing.tabbed(visit, [
        View("machines", say("By machine"), lambda: _by_machine(visit)),
        View("time", say("By time"), lambda: _by_time(visit)),
    ])  # fmt: skip


async def _by_machine(visit: Visit) -> None:
    say = visit.say

    async def restart() -> None:
        await found.restart()

    filters = Filters(visit, restart, {})
    filters.text("text", say("Search by name"))
    columns = [
        Column("name", say("Name")),
        Column("points", say("Points"), "right", "nowrap"),
        Column("newest", say("Newest")),
        Column("oldest", say("Oldest")),
        Column("stored", say("Stored"), "right", "nowrap"),
        Column("storages", say("Storages")),
    ]

    async def fetch(after: str, limit: int) -> tuple[Sequence[Found], str | None]:
        query = {"text": filters["text"], "after": after, "limit": limit}
        page_ = await visit.api.get("/points/machines", **query)
        return [machine_row(visit.language, each, visit.now) for each in page_["items"]], page_[
            "next"
        ]

    found = listing.Listing(
        visit, columns, fetch, nothing=lambda: _nothing(visit, searched=bool(filters)),
        label=say("Machines with points"),
    )  # fmt: skip
    await found.refresh()
    visit.live(found.refresh, "point", "points", "inventory", every_s=3.0)


def machine_row(language: Language, found: Found, now: datetime) -> dict[str, Any]:
    """Return the row of a machine that points exist of."""
    platform = saved_points.platform_name(language, found["platform"])
    gone = [language.say("no longer there")] if found["exists"] is False else []
    starred = [language.say("{count} starred", count=found["starred"])] if found["starred"] else []
    return {
        "id": f"{found['platform']}/{found['name']}",
        "name": {
            "text": found["name"], "sub": " · ".join([platform, *gone]),
            "link": saved_points.machine_address(found["platform"], found["name"]),
        },
        "points": {"text": language.number(found["points"]), "sub": " ".join(starred)},
        "newest": {"text": language.moment(found["newest"]),
                   "sub": language.ago(found["newest"], now)},
        "oldest": language.moment(found["oldest"]),
        "stored": language.size(found["bytes_stored"]),
        "storages": ", ".join(found["storages"]),
    }  # fmt: skip


def _nothing(visit: Visit, *, searched: bool) -> None:
    say = visit.say
    if searched:
        empty.empty("search_off", say("No machine matches."), say("Look for another name."))
        return
    empty.empty(
        "settings_backup_restore", say("There is nothing to restore yet."),
        say("Points appear here after the first backup. A policy makes them by its schedule, or"
            " now."),
        action=say("Policies") if visit.may(Right.VIEW) else "", target="/policies",
    )  # fmt: skip


# ------------------------------------------------------------------------------------- by time


async def _by_time(visit: Visit) -> None:
    say, zone = visit.say, visit.language.zone
    now = visit.now.astimezone(ZoneInfo(zone)).strftime(_LOCAL)
    at = [visit.query.get("at", "") or now]
    text = [visit.query.get("find", "")[:200]]
    with ui.element("div").classes("r-tools").props("role=search"):
        when = ui.input(say("Date and time ({zone})", zone=zone), value=at[0])
        when.props("outlined dense type=datetime-local debounce=350 data-test=at stack-label")
        find = ui.input(say("Search by name"), value=text[0]).classes("rt-find")
        find.props("outlined dense clearable debounce=350 type=search data-test=find")
        with find.add_slot("prepend"):
            ui.icon("search").props("aria-hidden=true")
    ui.label(say("For every machine, its newest point that is not younger.")).classes("r-lead")
    columns = [
        Column("name", say("Name")),
        Column("time", say("Point"), classes="nowrap"),
        Column("kind", say("Kind")),
        Column("storages", say("Storages")),
    ]

    async def fetch(after: str, limit: int) -> tuple[Sequence[Found], str | None]:
        moment = moment_of(at[0], zone)
        if not moment:
            return [], None
        query = {"text": text[0], "at": moment, "after": after, "limit": limit}
        page_ = await visit.api.get("/points/machines", **query)
        return [_point_row(visit, each) for each in page_["items"]], page_["next"]

    async def on_act(act: str, point: str) -> None:
        ui.navigate.to(saved_points.point_address(point, act))

    found = listing.Listing(
        visit, columns, fetch, on_act=on_act, label=say("Points at that time"),
        nothing=lambda: empty.empty("history", say("No machine has a point from before that time."),
                                    say("Choose a later time, or look for another name.")),
    )  # fmt: skip

    async def changed() -> None:
        at[0], text[0] = str(when.value or ""), str(find.value or "").strip()
        tabbing.address(visit, {"tab": "time", "at": at[0], "find": text[0]})
        await visit.guarded(found.restart)

    when.on_value_change(changed)
    find.on_value_change(changed)
    await found.refresh()


def _point_row(visit: Visit, found: Found) -> dict[str, Any]:
    language = visit.language
    platform = saved_points.platform_name(language, found["platform"])
    gone = [language.say("no longer there")] if found["exists"] is False else []
    machine = found["object"] != "image"
    return {
        "id": found["point"],
        "name": {"text": found["name"], "sub": " · ".join([platform, *gone]),
                 "link": saved_points.machine_address(found["platform"], found["name"])},
        "time": {"text": language.moment(found["newest"]),
                 "link": saved_points.point_address(found["point"])},
        "kind": saved_points.kind(language, found),
        "storages": ", ".join(found["storages"]),
        "acts": [act.cell() for act in acts_of(visit, machine=machine)],
    }  # fmt: skip


def acts_of(visit: Visit, *, machine: bool, group: str | None = None) -> list[Act]:
    """Return what a visitor can do with a point; an image is no machine that could run."""
    if not visit.may(Right.RESTORE, group):
        return []
    say = visit.say
    whole = [
        Act("restore", say("Restore"), "settings_backup_restore"),
        Act("instant", say("Instant restore"), "bolt"),
    ]
    return [*(whole if machine else ()), Act("files", say("Browse files"), "folder_open")]


# -------------------------------------------------------------------------- points of a machine


@page("/restore/machine", later("Points of a machine"))
async def machine(visit: Visit) -> None:
    """Show the points of a machine: by day, and each."""
    say = visit.say
    name, platform = visit.query.get("name", "")[:200], visit.query.get("platform", "")[:64]
    _crumb(visit)
    days = await visit.api.get("/points/days", name=name, platform=platform) if name else []
    with headings.head(name or say("No machine"), saved_points.platform_name(visit.language,
                                                                             platform)):  # fmt: skip
        if days and visit.may(Right.OPERATE):
            target = saved_points.machine_address(platform, name).replace(
                "/machine?", "/machine/delete?"
            )
            ui.button(say("Delete points…"), icon="delete_sweep", color=None,
                      on_click=lambda: ui.navigate.to(target)).props(
                "flat no-caps data-test=delete-points"
            ).classes("r-quiet")  # fmt: skip
    if not days:
        empty.empty("event_busy", say("There is no point of it."),
                    say("It was never saved, its points were deleted, or you may not see them."),
                    action=say("All machines"), target="/restore")  # fmt: skip
        return
    waiting = await waiting_for(visit, name)
    shown_waiting(visit, waiting)
    await _Points(visit, platform, name).begin(days)


def _crumb(visit: Visit) -> None:
    with ui.link(target="/restore").classes("rt-crumb"):
        ui.icon("arrow_back").props("aria-hidden=true")
        ui.label(visit.say("All machines"))


async def waiting_for(visit: Visit, name: str) -> list[Found]:
    """Return the requests that wait for a second person, and would lose points of a machine."""
    page_ = await visit.api.get("/approvals", state="waiting", limit=100)
    of_points = {"delete-points", "release-protection"}
    return [
        each
        for each in page_["items"]
        if each["kind"] in of_points and any(f" {name} (" in line for line in each["losses"])
    ]


def shown_waiting(visit: Visit, waiting: Sequence[Found]) -> None:
    """Show requests that wait, with the way to where they are decided."""
    if not waiting:
        return
    say = visit.say
    with ui.element("div").classes("rt-notice").props("role=status"):
        ui.icon("how_to_reg").props("aria-hidden=true")
        with ui.element("div"):
            for each in waiting[:5]:
                what = (
                    say("{who} asks to delete {count} points.",
                        who=each["requester_name"], count=len(each["losses"]))
                    if each["kind"] == "delete-points"
                    else say("{who} asks to take a star away.", who=each["requester_name"])
                )  # fmt: skip
                ui.label(what)
            ui.link(say("See what waits for approval"), "/approvals")


class _Points:
    """The timeline of a machine and the list of its points, on one page."""

    def __init__(self, visit: Visit, platform: str, name: str) -> None:
        self._visit = visit
        self._of = {"platform": platform, "name": name}
        self._day = visit.query.get("day", "")[:10]
        self._listing: listing.Listing | None = None
        self._starred: dict[str, bool] = {}

    async def begin(self, days: Sequence[Found]) -> None:
        """Make both, and follow what changes."""
        visit, say = self._visit, self._visit.say
        today = visit.now.astimezone(ZoneInfo(visit.language.zone)).date()
        timeline = Timeline(visit, today, self._day, self._choose)
        timeline.show(days)
        self._chosen = ui.element("div").classes("rt-chosen")
        columns = [
            Column("time", say("Point"), classes="nowrap"),
            Column("kind", say("Kind")),
            Column("state", say("State")),
            Column("size", say("Size"), "right", "nowrap"),
            Column("stored", say("Stored"), "right", "nowrap"),
            Column("storages", say("Storages")),
            Column("chain", say("Chain")),
        ]
        found = listing.Listing(
            visit, columns, self._fetch, on_act=self._act, label=say("Points"),
            nothing=lambda: empty.empty("event_busy", say("No point on this day.")),
        )  # fmt: skip
        self._listing = found
        self._show_choice()
        await found.refresh()

        async def refresh() -> None:
            timeline.show(await visit.api.get("/points/days", **self._of))
            await found.refresh()

        visit.live(refresh, "point", "points", every_s=2.0)

    async def _choose(self, day: str) -> None:
        self._day = day
        tabbing.address(self._visit, {**self._of, "day": day})
        self._show_choice()
        if self._listing is not None:
            await self._visit.guarded(self._listing.restart)

    def _show_choice(self) -> None:
        say = self._visit.say
        self._chosen.clear()
        with self._chosen:
            title = say("Points of {day}", day=self._day) if self._day else say("All points")
            ui.label(title).classes("r-card-title").props("role=heading aria-level=2")

    async def _fetch(self, after: str, limit: int) -> tuple[Sequence[Found], str | None]:
        between = day_between(self._day, self._visit.language.zone)
        page_ = await self._visit.api.get(
            "/points/history", **self._of, **between, after=after, limit=limit
        )
        self._starred = {each["id"]: each["starred"] for each in page_["items"]}
        return [self._row(each) for each in page_["items"]], page_["next"]

    def _row(self, point: Found) -> dict[str, Any]:
        language, copy = self._visit.language, point["copies"][0]
        acts = acts_of(self._visit, machine=copy["object"] != "image")
        if self._visit.may(Right.OPERATE):
            acts.append(
                Act("unstar", language.say("Take the star away"), "star")
                if point["starred"]
                else Act("star", language.say("Star"), "star_outline")
            )
        return {
            "id": point["id"],
            "time": {"text": language.moment(point["time"]),
                     "link": saved_points.point_address(point["id"]),
                     "sub": language.ago(point["time"], self._visit.now)},
            "kind": saved_points.kind(language, point),
            "state": saved_points.state_cell(language, point),
            "size": language.size(saved_points.size_of(copy)),
            "stored": language.size(saved_points.stored(point["copies"])),
            "storages": ", ".join(each["storage"] for each in point["copies"]),
            "chain": f"{copy['chain'][:8]} · {copy['sequence']}",
            "acts": [act.cell() for act in acts],
        }  # fmt: skip

    async def _act(self, act: str, point: str) -> None:
        if act in {"star", "unstar"}:
            await star(self._visit, point, starred=act == "star")
            if self._listing is not None:
                await self._listing.refresh()
            return
        ui.navigate.to(saved_points.point_address(point, act))


def day_between(day: str, zone: str) -> dict[str, str]:
    """Return the moments between which a day of a zone lies; nothing for no day."""
    try:
        begin = datetime.fromisoformat(f"{day}T00:00:00").replace(tzinfo=ZoneInfo(zone))
    except ValueError:
        return {}
    end = begin.replace(hour=23, minute=59, second=59, microsecond=999_999)
    return {"since": to_text(begin), "until": to_text(end)}


async def star(visit: Visit, point: str, *, starred: bool) -> bool:
    """Star a point, or take its star away; tell what came of it."""
    told = (
        visit.say("Starred: retention never removes it.") if starred
        else visit.say("The star is gone: retention decides about it again.")
    )  # fmt: skip
    call = visit.api.put(f"/points/{point}/star", {"starred": starred})
    return await acting.act(visit, call, told) is not None
