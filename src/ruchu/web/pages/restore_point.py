"""One point: what it is, on which storages, what can be done with it; and points that go."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web import restore_form, visiting
from ruchu.web.language import NOTHING, later
from ruchu.web.pages import restore
from ruchu.web.parts import acting, asking, empty, headings, marks, saved_points
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
# What `POST /points/delete` takes at once.
POINTS_MAX = 500
_TIME = """
<q-td :props="props">{{ props.value }}
  <div v-if="props.row.kept" class="r-sub rt-kept">{{ props.row.kept }}</div></q-td>
"""
_BOX = '<q-checkbox v-model="props.selected" :aria-label="{label}" {more}></q-checkbox>'
DEPTHS: Mapping[str, tuple[str, str]] = {
    "structural": (later("Quick"), later("Every part is there, and is what was written down.")),
    "sampled": (later("Sampled"), later("Also reads a thousand of its blocks, drawn at random.")),
    "full": (later("In full"), later("Also reads every block of it.")),
}


@page("/restore/point/{point}", later("Point"))
async def point(visit: Visit, point: str) -> None:
    """Show a point and what can be done with it."""
    view = PointView(visit, point)
    await view.build()
    visit.live(view.refresh, "point", "points", every_s=2.0)


class PointView:
    """The page of a point; what may change is made anew when it did."""

    def __init__(self, visit: Visit, point: str) -> None:
        self._visit = visit
        self._point = point
        self._copies: list[Found] = []
        self._groups: dict[str, str] = {}

    async def _read(self) -> None:
        self._copies = await self._visit.api.get(f"/points/{self._point}")
        storages = await self._visit.api.get("/storages")
        roles = {each["name"]: each["role"] for each in storages}
        self._groups = {each["name"]: each["resource_group"] for each in storages}
        self._copies.sort(
            key=lambda each: (roles.get(each["storage"]) != "backup", each["storage"])
        )

    async def build(self) -> None:
        """Make the page."""
        await self._read()
        visit, say, first = self._visit, self._visit.say, self._copies[0]
        address = saved_points.machine_address(first["platform"], first["name"])
        with ui.link(target=address).classes("rt-crumb"):
            ui.icon("arrow_back").props("aria-hidden=true")
            ui.label(say("All points of {name}", name=first["name"]))
        lead = " · ".join([
            saved_points.platform_name(visit.language, first["platform"]),
            saved_points.kind(visit.language, first),
            visit.language.ago(first["time"], visit.now),
        ])  # fmt: skip
        with headings.head(saved_points.titled(visit.language, first), lead):
            self._head = ui.element("div").classes("r-actions")
        self._waiting = ui.element("div").classes("r-wide")
        self._acts(first)
        with ui.element("div").classes("r-grid"):
            with headings.card(say("What it holds"), "r-5"):
                self._facts = ui.element("div").classes("r-wide")
            with headings.card(say("Where it lies"), "r-7"):
                self._places = ui.element("div").classes("r-wide")
        await self._show()

    async def refresh(self) -> None:
        """Show it as it is now; a point that is gone leads back to its machine."""
        first = self._copies[0]
        try:
            await self._read()
        except Answered as error:
            if error.status != 404:
                raise
            ui.navigate.to(saved_points.machine_address(first["platform"], first["name"]))
            return
        await self._show()

    async def _show(self) -> None:
        waiting = await restore.waiting_for(self._visit, self._copies[0]["name"])
        for element, make in (
            (self._head, self._buttons), (self._facts, self._what), (self._places, self._where),
            (self._waiting, lambda: restore.shown_waiting(self._visit, waiting)),
        ):  # fmt: skip
            element.clear()
            with element:
                make()

    def _may(self, right: Right) -> bool:
        return any(self._visit.may(right, group) for group in self._groups_of_copies())

    def _groups_of_copies(self) -> list[str]:
        return [self._groups[each["storage"]] for each in self._copies
                if each["storage"] in self._groups]  # fmt: skip

    def _buttons(self) -> None:
        if not self._may(Right.OPERATE):
            return
        say, starred = self._visit.say, any(each["starred"] for each in self._copies)

        async def toggle() -> None:
            if await restore.star(self._visit, self._copies[0]["id"], starred=not starred):
                await self.refresh()

        ui.button(
            say("Take the star away") if starred else say("Star"),
            icon="star" if starred else "star_outline", on_click=toggle, color=None,
        ).props("flat no-caps data-test=star").classes("r-quiet")  # fmt: skip

    def _acts(self, first: Found) -> None:
        say, identity = self._visit.say, first["id"]
        if not self._may(Right.RESTORE):
            return
        acts = [
            ("restore", "settings_backup_restore", say("Restore"),
             say("Disks are written in full: a new machine, or over the old one.")),
            ("instant", "bolt", say("Instant restore"),
             say("The machine runs within seconds, from the storage.")),
            ("files", "folder_open", say("Browse files"),
             say("Look for single files, fetch them or send them back.")),
            ("export", "save_alt", say("Export as an image"),
             say("The disks as files, to use elsewhere.")),
        ]  # fmt: skip
        if first["object"] == "image":
            acts = acts[2:]
        with ui.element("div").classes("rt-acts"):
            for act, icon, title, text in acts:
                if f"/restore/point/{{point}}/{act}" not in visiting.PAGES:
                    continue
                target = saved_points.point_address(identity, act)
                with ui.link(target=target).classes("rt-act").props(f"data-test=act-{act}"):
                    ui.icon(icon).props("aria-hidden=true")
                    with ui.element("div"):
                        ui.label(title).classes("rt-act-title")
                        ui.label(text).classes("rt-act-text")

    def _what(self) -> None:
        say, language, first = self._visit.say, self._visit.language, self._copies[0]
        locks = [each["locked_until"] for each in self._copies if each["locked_until"]]
        disks = [f"{disk['name']} · {language.size(disk.get('size'))}" for disk in first["disks"]]
        headings.facts({
            say("Time"): language.moment(first["time"]),
            say("Kind"): saved_points.kind(language, first),
            say("Disks"): ", ".join(disks) or NOTHING,
            say("Size"): language.size(saved_points.size_of(first)),
            say("Read for it"): language.size(first["bytes_read"]),
            say("Starred"): say("Yes: retention never removes it.")
            if any(each["starred"] for each in self._copies) else say("No"),
            say("Locked"): say("Until {time}: nobody can delete it before.",
                               time=language.moment(max(locks))) if locks else say("No"),
            say("Id"): first["id"],
        })  # fmt: skip

    def _where(self) -> None:
        for copy in self._copies:
            self._place(copy)

    def _place(self, copy: Found) -> None:
        visit, say = self._visit, self._visit.say
        group = self._groups.get(copy["storage"])
        may = group is not None and visit.may(Right.OPERATE, group)
        with ui.element("div").classes("rt-copy"):
            with ui.element("div").classes("rt-copy-name"):
                ui.link(copy["storage"], f"/storages/{copy['storage']}")
                ui.label(
                    say("{size} stored · chain {chain}, number {number}",
                        size=visit.language.size(copy["bytes_stored"]), chain=copy["chain"][:8],
                        number=copy["sequence"])
                ).classes("r-sub")  # fmt: skip
            with ui.element("div"):
                marks.show(saved_points.verdict([copy]), visit.language)
                if copy["verified"]:
                    ui.label(visit.language.moment(copy["verified"])).classes("r-sub")
            if may:
                with ui.element("div").classes("rt-copy-acts"):
                    ui.button(say("Verify"), icon="fact_check",
                              on_click=lambda: self._verify(copy)).props(
                        f"flat no-caps data-test=verify-{copy['storage']}"
                    )  # fmt: skip
                    ui.button(say("Delete"), icon="delete", on_click=lambda: self._delete(copy)
                              ).props("flat no-caps color=negative "
                                      f"data-test=delete-{copy['storage']}")  # fmt: skip

    def _verify(self, copy: Found) -> None:
        visit, say = self._visit, self._visit.say
        lead = say("Reads the point on {storage}; it is not changed.", storage=copy["storage"])
        with asking.dialog(say("Verify the point"), lead=lead) as dialog:
            options = {key: f"{say(name)}: {say(text)}" for key, (name, text) in DEPTHS.items()}
            depth = ui.radio(options, value="sampled").props("data-test=depth")

            async def go() -> bool:
                body = {"storage": copy["storage"], "point": copy["id"], "depth": depth.value}
                new = {"kind": "verify", "name": copy["name"], "body": body}
                run = await acting.act(visit, visit.api.post("/runs", new))
                if run is not None:
                    ui.navigate.to(f"/runs/{run['id']}")
                return run is not None

            asking.actions(visit, dialog, say("Verify"), go)

    async def _delete(self, copy: Found) -> None:
        query = {"platform": copy["platform"], "name": copy["name"]}
        left = await count_on(self._visit, query, copy["storage"]) - 1
        await deleted(self._visit, [copy], copy["storage"], left)


async def count_on(visit: Visit, query: Mapping[str, str], storage: str) -> int:
    """Return how many points of a machine lie on a storage."""
    return len([each for each in await all_points(visit, query) if _on(each, storage)])


async def all_points(visit: Visit, query: Mapping[str, str]) -> list[Found]:
    """Return the points of a machine, the newest first, as many as can be shown."""
    found: list[Found] = []
    after: str | None = ""
    while after is not None and len(found) < 20 * POINTS_MAX:
        page_ = await visit.api.get("/points/history", **query, after=after, limit=499)
        found, after = found + page_["items"], page_["next"]
    return found


def _on(point: Found, storage: str) -> Found | None:
    return next((copy for copy in point["copies"] if copy["storage"] == storage), None)


async def deleted(visit: Visit, points: Sequence[Found], storage: str, left: int) -> bool:
    """Say what goes and what stays, let the name be typed, and delete; return whether it began."""
    say, name = visit.say, points[0]["name"]
    shown = [{**each, "kind": marks.kind(visit.language, each["kind"])} for each in points]
    lines, stays = restore_form.point_losses(visit.language, shown, storage, left)
    title = say("Delete {count} points of {name}?", count=len(points), name=name)
    if (await visit.api.get("/four-eyes"))["on"]:
        stays = f"{stays} {say('A second person has to agree first.')}"
    if not await acting.confirmed_by_name(visit, title, [*lines, stays], say("Delete"), name):
        return False
    body = {"storage": storage, "points": [each["id"] for each in points]}
    run = await acting.act(visit, visit.api.post("/points/delete", body))
    if run is None:
        return False
    ui.navigate.to(f"/runs/{run['id']}")
    return True


@page("/restore/machine/delete", later("Delete points"), need=Right.OPERATE)
async def delete(visit: Visit) -> None:
    """Choose points of a machine that shall go."""
    say = visit.say
    query = {key: visit.query.get(key, "")[:200] for key in ("platform", "name")}
    address = saved_points.machine_address(query["platform"], query["name"])
    with ui.link(target=address).classes("rt-crumb"):
        ui.icon("arrow_back").props("aria-hidden=true")
        ui.label(say("All points of {name}", name=query["name"]))
    points = await all_points(visit, query) if query["name"] else []
    groups = {each["name"]: each["resource_group"] for each in await visit.api.get("/storages")}
    storages = sorted({copy["storage"] for each in points for copy in each["copies"]
                       if visit.may(Right.OPERATE, groups.get(copy["storage"], ""))})  # fmt: skip
    lead = say("Points that stay remain whole: what they need of the others is kept.")
    with headings.head(say("Delete points of {name}", name=query["name"]), lead):
        pass
    if not storages:
        empty.empty("event_busy", say("There is no point of it that you may delete."))
        return
    restore.shown_waiting(visit, await restore.waiting_for(visit, query["name"]))
    _Deletion(visit, points, storages)


class _Deletion:
    """The points of a machine on one storage, to choose from."""

    def __init__(self, visit: Visit, points: Sequence[Found], storages: Sequence[str]) -> None:
        self._visit = visit
        self._points = points
        say = visit.say
        with ui.element("div").classes("r-tools"):
            self._storage = ui.select(list(storages), value=storages[0], label=say("Storage"),
                                      on_change=self._show)  # fmt: skip
            self._storage.props("outlined dense data-test=storage")
            ui.space()
            self._go = ui.button(say("Delete…"), icon="delete", on_click=self._delete)
            self._go.props("unelevated no-caps color=negative data-test=delete-chosen")
        columns = [
            {"name": "time", "label": say("Point"), "field": "time", "align": "left"},
            {"name": "kind", "label": say("Kind"), "field": "kind", "align": "left"},
            {"name": "stored", "label": say("Stored"), "field": "stored", "align": "right"},
            {"name": "kept", "label": say("Cannot be deleted"), "field": "kept", "align": "left"},
        ]
        with ui.element("div").classes("r-listing rt-deletion"):
            self._table = ui.table(columns=columns, rows=[], row_key="id", selection="multiple",
                                   pagination=50, on_select=self._selected)  # fmt: skip
            self._table.props(f'flat aria-label="{say("Points")}" data-test=points')
            # What is kept anyway cannot be chosen; each box says what it chooses.
            self._table.add_slot("header-selection", _BOX.format(
                label=json.dumps(say("Choose all")).replace('"', "'"), more=""))  # fmt: skip
            self._table.add_slot("body-cell-time", _TIME)
            self._table.add_slot("body-selection", _BOX.format(
                label="props.row.time", more=':disable="!!props.row.kept"'))  # fmt: skip
        self._show()

    def _there(self) -> list[Found]:
        wanted = str(self._storage.value)
        return [copy for each in self._points if (copy := _on(each, wanted)) is not None]

    def _show(self) -> None:
        language, now = self._visit.language, self._visit.now.strftime("%Y-%m-%dT%H:%M:%S")
        self._table.selected.clear()
        self._table.rows = [
            {"id": each["id"], "time": language.moment(each["time"]),
             "kind": marks.kind(language, each["kind"]),
             "stored": language.size(each["bytes_stored"]),
             "kept": saved_points.protection(language, {**each, "locked_until":
                 each["locked_until"] if (each["locked_until"] or "") > now else None})}
            for each in self._there()
        ]  # fmt: skip
        self._table.update()
        self._selected()

    def _chosen(self) -> list[Found]:
        chosen = {row["id"] for row in self._table.selected if not row["kept"]}
        return [each for each in self._there() if each["id"] in chosen]

    def _selected(self) -> None:
        count = len(self._chosen())
        self._go.set_enabled(0 < count <= POINTS_MAX)
        say = self._visit.say
        self._go.set_text(say("Delete {count} points…", count=count) if count else say("Delete…"))

    async def _delete(self) -> None:
        chosen, storage = self._chosen(), str(self._storage.value)
        await deleted(self._visit, chosen, storage, len(self._there()) - len(chosen))
