"""Files inside a point: volumes, directories, search; fetched, or sent back into the machine."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web.language import later
from ruchu.web.parts import empty, guest_files, headings, saved_points, sending_back
from ruchu.web.parts.file_table import FileTable
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
FOUND_MAX = 200


@page("/restore/point/{point}/files", later("Browse files"), need=Right.RESTORE)
async def files(visit: Visit, point: str) -> None:
    """Look through the files of a point. All that is shown is in the address."""
    view = FilesView(visit, point)
    await view.build()


class FilesView:
    """The page of one directory, or of one search."""

    def __init__(self, visit: Visit, point: str) -> None:
        self._visit = visit
        self._point = point
        query = visit.query
        self._storage = query.get("storage", "")
        self._key = query.get("key", "") or guest_files.ROOT
        self._search = query.get("q", "").strip()
        self._sort = query.get("sort", "") if query.get("sort") in guest_files.SORTS else "name"
        self._after = query.get("after", "")
        self._first: Found = {}
        self._keys: Sequence[str] = ()
        self._table: FileTable | None = None

    async def build(self) -> None:
        """Make the page; what takes a node comes later."""
        copies = await self._visit.api.get(f"/points/{self._point}")
        self._first = copies[0]
        head(self._visit, self._first, self._visit.say("Files of {name}", name=self._first["name"]))
        self._tools()
        self._bar = ui.element("div").classes("gf-bar").props("data-test=chosen role=status")
        self._bar.set_visibility(False)
        self._body = ui.element("div").classes("r-wide gf-body")
        with self._body, ui.element("div").classes("gf-wait").props("role=status"):
            ui.spinner(size="28px")
            ui.label(self._visit.say("Opening the point. The first time takes a moment."))
        ui.timer(0.05, lambda: self._visit.guarded(self._load), once=True)

    def _address(self, key: str, **query: Any) -> str:
        return guest_files.address(self._point, key, storage=self._storage, **query)

    def _tools(self) -> None:
        say = self._visit.say
        with ui.element("nav").classes("gf-crumbs").props(f'aria-label="{say("Folder")}"'):
            self._crumbs()
        with ui.element("div").classes("r-tools"):
            field = ui.input(say("Search below this folder"), value=self._search)
            field.props("outlined dense clearable data-test=search autocomplete=off type=search")
            field.classes("gf-search")
            field.on("keydown.enter", lambda: self._look(field.value))
            ui.button(
                say("Search"), icon="search", on_click=lambda: self._look(field.value), color=None
            ).props("flat no-caps data-test=search-go").classes("r-quiet")
            if self._key != guest_files.ROOT and not self._search:
                names = {key: say(each[2]) for key, each in guest_files.SORTS.items()}
                ui.select(
                    names, value=self._sort, label=say("Sort"),
                    on_change=lambda event: ui.navigate.to(
                        self._address(self._key, sort=event.value)
                    ),
                ).props("outlined dense data-test=sort").classes("gf-sort")  # fmt: skip

    def _look(self, text: str | None) -> None:
        wanted = (text or "").strip()
        ui.navigate.to(self._address(self._key, q=wanted))

    def _crumbs(self) -> None:
        parts = [(self._visit.say("Volumes"), guest_files.ROOT), *guest_files.crumbs(self._key)]
        for number, (name, key) in enumerate(parts):
            if number:
                ui.icon("chevron_right").props("aria-hidden=true")
            if number == len(parts) - 1 and not self._search:
                ui.label(name).props("aria-current=page")
            else:
                ui.link(name, self._address("" if key == guest_files.ROOT else key))

    async def _load(self) -> None:
        try:
            if self._search:
                await self._found()
            elif self._key == guest_files.ROOT:
                await self._volumes()
            else:
                await self._directory()
        except Answered as error:
            if error.status == 401:
                raise
            self._body.clear()
            with self._body:
                empty.empty("error_outline", self._visit.language.problem(error),
                            self._visit.language.hint(error))  # fmt: skip

    # What is shown.

    async def _volumes(self) -> None:
        found = await self._visit.api.get(f"/points/{self._point}/files", storage=self._storage)
        say = self._visit.say
        self._body.clear()
        with self._body:
            if not found["volumes"]:
                empty.empty("album", say("There is nothing on the disks of this point."),
                            say("No partition, no volume, no file system was found."))  # fmt: skip
                return
            with ui.element("div").classes("gf-volumes"):
                for each in found["volumes"]:
                    self._volume(each)

    def _volume(self, volume: Found) -> None:
        say, language = self._visit.say, self._visit.language
        facts = [volume["kind"], language.size(volume["size"])]
        inner = (
            ui.link(target=self._address(volume["key"])).classes("gf-volume")
            if volume["readable"] else ui.element("div").classes("gf-volume gf-closed")
        )  # fmt: skip
        with inner:
            ui.icon("storage" if volume["readable"] else "lock").props("aria-hidden=true")
            with ui.element("div").classes("gf-words"):
                ui.label(volume["label"] or volume["name"]).classes("gf-volume-name")
                ui.label(" · ".join([*([volume["name"]] if volume["label"] else []), *facts]))
                reason = volume["reason"] or ("" if volume["readable"] else say("Not readable"))
                for text in (reason, *volume["notes"]):
                    if text:
                        ui.label(text).classes("r-sub")

    async def _directory(self) -> None:
        by, descending, _ = guest_files.SORTS[self._sort]
        found = await self._visit.api.get(
            f"/points/{self._point}/files", key=self._key, sort=by,
            descending="true" if descending else None, after=self._after,
            limit=guest_files.ROWS, storage=self._storage,
        )  # fmt: skip
        say, number = self._visit.say, self._visit.language.number
        self._body.clear()
        with self._body:
            if found["problem"]:
                _notice(say("Not all of this folder could be read: {why}", why=found["problem"]))
            if found["cut"]:
                _notice(say("It has more entries than can be listed. Search for a name."))
            if not found["items"]:
                empty.empty("folder_open", say("This folder is empty."), "")
                return
            self._show(found["items"], whole=False)
            start = int(self._after or 0)
            with ui.element("div").classes("r-pager"):
                ui.label(say("{first} to {last} of {count}", first=number(start + 1),
                             last=number(start + len(found["items"])),
                             count=number(found["total"])))  # fmt: skip
                if start or found["next"]:
                    self._arrows(start, found["next"])

    def _arrows(self, start: int, following: str | None) -> None:
        say = self._visit.say
        before = max(0, start - guest_files.ROWS)
        for icon, label, target in (
            ("chevron_left", say("Previous page"), str(before or "") if start else None),
            ("chevron_right", say("Next page"), following),
        ):  # fmt: skip
            button = ui.button(icon=icon, on_click=lambda target=target: ui.navigate.to(
                self._address(self._key, sort=self._sort, after=target)
            ))  # fmt: skip
            button.props(f'flat round dense aria-label="{label}"').set_enabled(target is not None)

    async def _found(self) -> None:
        found = await self._visit.api.get(
            f"/points/{self._point}/files/search", key=self._key, limit=FOUND_MAX,
            pattern=guest_files.pattern_of(self._search), storage=self._storage,
        )  # fmt: skip
        say = self._visit.say
        self._body.clear()
        with self._body:
            stopped = {
                "limit": say("There is more than is shown here. Search for more of the name."),
                "time": say("Looking took too long, and was given up. Search in a folder below."),
            }.get(found["stopped"])
            if stopped:
                _notice(stopped)
            if found["failed"]:
                _notice(say("Some places could not be looked through: {why}",
                            why="; ".join(found["problems"][:3])))  # fmt: skip
            if not found["items"]:
                empty.empty("search_off", say("Nothing of this name was found."),
                            say("A pattern such as *.conf matches whole names."))  # fmt: skip
                return
            self._show(found["items"], whole=True)

    def _show(self, items: Sequence[Found], *, whole: bool) -> None:
        language = self._visit.language
        rows = [
            guest_files.row(language, self._point, each, whole=whole, storage=self._storage)
            for each in items
        ]
        self._table = FileTable(self._visit, self._chose)
        self._table.show(rows)

    # What is done with what is chosen.

    def _chose(self, keys: Sequence[str]) -> None:
        say = self._visit.say
        self._keys = keys
        self._bar.clear()
        self._bar.set_visibility(bool(keys))
        if not keys:
            return
        with self._bar:
            ui.label(say("{count} chosen", count=len(keys))).classes("gf-count")
            ui.button(say("Download as zip"), icon="download", on_click=self._fetch).props(
                "unelevated no-caps color=primary data-test=fetch-zip"
            )
            if self._visit.may(Right.RESTORE):
                ui.button(
                    say("Send back to the machine"), icon="reply", on_click=self._send, color=None
                ).props("flat no-caps data-test=send-back").classes("r-quiet")
            clear = ui.button(icon="close", on_click=self._clear, color=None)
            clear.props(f'flat round dense aria-label="{say("Choose nothing")}"')

    def _clear(self) -> None:
        if self._table is not None:
            self._table.clear()

    def _fetch(self) -> None:
        target = guest_files.content_address(self._point, self._keys, self._storage, "zip")
        if len(target) > guest_files.ADDRESS_MAX:
            ui.notify(
                self._visit.say("These are too many at once. Choose the folder they are in."),
                type="warning", position="top",
            )  # fmt: skip
            return
        ui.download.from_url(target)

    async def _send(self) -> None:
        assert self._table is not None
        names = guest_files.named(self._table.rows, self._keys)
        await sending_back.send(self._visit, self._first, self._keys, names, self._storage)


def head(visit: Visit, point: Found, title: str) -> None:
    """Show the way back to a point, and the head of what is done with it."""
    with ui.link(target=saved_points.point_address(point["id"])).classes("rt-crumb"):
        ui.icon("arrow_back").props("aria-hidden=true")
        ui.label(visit.say("Back to the point"))
    lead = " · ".join([
        saved_points.platform_name(visit.language, point["platform"]),
        visit.language.moment(point["time"]),
        visit.language.ago(point["time"], visit.now),
    ])  # fmt: skip
    with headings.head(title, lead):
        pass


def _notice(text: str) -> None:
    ui.label(text).classes("r-note warn").props("role=status")
