"""A list of machines to tick, searched and paged by the server."""

import asyncio
from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.web.parts import marks
from ruchu.web.visiting import Visit

_ROWS = 12


class Picker:
    """Ticks machines of a platform; `chosen` is the list of their ids or names, changed in place.

    `changed` is called whenever it was.
    """

    def __init__(
        self, visit: Visit, platform: str, chosen: list[str], changed: Callable[[], None]
    ) -> None:
        self._visit = visit
        self._platform = platform
        self._chosen = chosen
        self._changed = changed
        self._marks = [""]
        self._next: str | None = None
        self._shown: list[Mapping[str, Any]] = []
        # By id: the machine that a row shows, the row, and its box.
        self._rows: dict[str, tuple[Mapping[str, Any], Any, Any]] = {}
        self._turn = asyncio.Lock()
        say = visit.say
        with ui.element("div").classes("r-picker"):
            with ui.element("div").classes("r-tools"):
                self._search = ui.input(say("Search machines"), on_change=self._restart)
                self._search.props("outlined dense clearable debounce=300 data-test=pick-search")
                self._page_button = self._link(say("All on this page"), self._all_shown)
                self._none_button = self._link(say("None"), self._none)
                self._count = ui.label("").classes("muted").props("aria-live=polite")
            self._list = ui.element("div").classes("r-pick-list").props("role=group")
            self._list.props(f'aria-label="{say("Machines")}"')
            self._nothing = ui.label(say("No machine is like this.")).classes("muted")
            self._nothing.set_visibility(False)
            with ui.element("div").classes("r-pager") as self._pager:
                self._where = ui.label("")
                self._back = self._arrow("chevron_left", say("Previous page"), self._go_back)
                self._on = self._arrow("chevron_right", say("Next page"), self._go_on)

    def _link(self, text: str, act: Any) -> Any:
        return ui.button(text, on_click=act).props("flat dense no-caps")

    def _arrow(self, icon: str, label: str, act: Any) -> Any:
        return ui.button(icon=icon, on_click=act).props(f'flat round dense aria-label="{label}"')

    async def refresh(self) -> None:
        """Show this page of the machines as they are now."""
        async with self._turn:
            await self._fill()

    async def _fill(self) -> None:
        """Fetch this page of the machines and show it; the caller has the turn."""
        text = (self._search.value or "").strip() or None
        found = await self._visit.api.get(
            "/machines", platform=self._platform, text=text, after=self._marks[-1], limit=_ROWS
        )
        self._shown, self._next = found["items"], found["next"]
        self._draw()

    def _draw(self) -> None:
        """Show the machines; a row that stays is the same one: who presses it just now has it."""
        wanted = {machine["id"]: machine for machine in self._shown}
        for identity, (machine, row, _) in list(self._rows.items()):
            if wanted.get(identity) != machine:
                row.delete()
                del self._rows[identity]
        for place, (identity, machine) in enumerate(wanted.items()):
            if identity not in self._rows:
                with self._list:
                    self._rows[identity] = (machine, *self._row(machine))
            _, row, box = self._rows[identity]
            if self._list.default_slot.children.index(row) != place:
                row.move(target_index=place)
            box.set_value(self._is_chosen(machine))
        self._nothing.set_visibility(not wanted)
        first = len(self._marks) == 1
        self._pager.set_visibility(self._next is not None or not first)
        self._where.set_text(self._visit.say("Page {number}", number=len(self._marks)))
        self._back.set_enabled(not first)
        self._on.set_enabled(self._next is not None)
        self._say_count()

    def _row(self, machine: Mapping[str, Any]) -> tuple[Any, Any]:
        """Make the row of a machine; return it and its box."""
        language = self._visit.language
        with ui.element("div").classes("r-pick-row") as row:
            box = ui.checkbox(
                machine["name"], value=self._is_chosen(machine),
                on_change=lambda event: self._tick(machine, chosen=bool(event.value)),
            )  # fmt: skip
            box.props(f"data-test=pick-{machine['id']}")
            mark = marks.of(marks.MACHINES, machine["state"])
            marks.show(mark, language)
            ui.label(machine["host"]).classes("muted r-pick-more")
            ui.label(language.size(machine["disk_size"])).classes("muted r-pick-size")
        return row, box

    def _is_chosen(self, machine: Mapping[str, Any]) -> bool:
        return machine["id"] in self._chosen or machine["name"] in self._chosen

    def _tick(self, machine: Mapping[str, Any], *, chosen: bool) -> None:
        if chosen == self._is_chosen(machine):
            return
        if chosen:
            self._chosen.append(machine["id"])
        else:
            mine = {machine["id"], machine["name"]}
            self._chosen[:] = [each for each in self._chosen if each not in mine]
        self._say_count()
        self._changed()

    def _say_count(self) -> None:
        count = len(self._chosen)
        self._count.set_text(self._visit.say("Chosen: {count}", count=count))
        self._none_button.set_visibility(count > 0)

    def _all_shown(self) -> None:
        added = [each["id"] for each in self._shown if not self._is_chosen(each)]
        self._chosen += added
        self._draw()
        self._changed()

    def _none(self) -> None:
        self._chosen.clear()
        self._draw()
        self._changed()

    async def _restart(self) -> None:
        await self._visit.guarded(self._first)

    async def _first(self) -> None:
        async with self._turn:
            self._marks = [""]
            await self._fill()

    async def _go_on(self) -> None:
        await self._visit.guarded(self._following)

    async def _following(self) -> None:
        async with self._turn:
            if self._next is not None:
                self._marks.append(self._next)
                await self._fill()

    async def _go_back(self) -> None:
        await self._visit.guarded(self._preceding)

    async def _preceding(self) -> None:
        async with self._turn:
            if len(self._marks) > 1:
                self._marks.pop()
                await self._fill()
