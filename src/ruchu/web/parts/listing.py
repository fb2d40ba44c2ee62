"""Tables that a server pages: rows on a screen, cards on a phone, links that can be opened."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ruchu.web.visiting import Visit

ROWS = 25
# So many columns have no room beside one another on a tablet.
MANY = 7

# A cell is its text, or an object with `text` and, as far as wanted: `link` (an address), `sub` (a
# second line), `tone` and `icon` (a mark), `bar` (0 to 1, with `tone`).
_BODY = r"""
<q-tr :props="props">
  <q-td v-for="(col, index) in props.cols" :key="col.name" :props="props" :data-label="col.label"
        :class="[index === 0 ? 'first' : '', col.name === 'acts' ? 'acts nowrap' : '', col.classes]">
    <template v-if="col.name === 'acts'">
      <q-btn v-for="act in props.row.acts" :key="act.name" flat round dense :icon="act.icon"
             :aria-label="act.label" @click="$parent.$emit('act', {name: act.name, id: props.row.id})">
        <q-tooltip>{{ act.label }}</q-tooltip>
      </q-btn>
    </template>
    <template v-else-if="col.value !== null && typeof col.value === 'object'">
      <div>
        <span v-if="col.value.tone !== undefined && col.value.icon" :class="'r-state ' + col.value.tone">
          <q-icon :name="col.value.icon" aria-hidden="true"></q-icon>{{ col.value.text }}</span>
        <a v-else-if="col.value.link" :href="col.value.link">{{ col.value.text }}</a>
        <span v-else>{{ col.value.text }}</span>
        <div v-if="col.value.bar !== undefined" :class="'r-bar ' + (col.value.tone || '')">
          <i :style="{width: Math.round(col.value.bar * 100) + '%'}"></i></div>
        <div v-if="col.value.sub" class="r-sub">{{ col.value.sub }}</div>
      </div>
    </template>
    <template v-else>{{ col.value }}</template>
  </q-td>
</q-tr>
"""


@dataclass(frozen=True, slots=True)
class Column:
    """A column: key in the rows, heading (translated), `left` or `right`, classes of its cells."""

    name: str
    label: str
    align: str = "left"
    classes: str = ""


@dataclass(frozen=True, slots=True)
class Act:
    """Something that can be done with a row: a button at its end."""

    name: str
    label: str
    icon: str

    def cell(self) -> dict[str, str]:
        """Return it as the row names it."""
        return {"name": self.name, "label": self.label, "icon": self.icon}


Row = Mapping[str, Any]
Fetch = Callable[[str, int], Awaitable[tuple[Sequence[Row], str | None]]]
"""Returns the rows behind a mark (empty: the first ones), and the mark of the next page."""


class Listing:
    """A table of pages.

    `fetch` returns rows, each with an `id`, a cell for each column, and `acts` if there is anything
    to be done with it. `on_act` is called with the name of an act and the id of a row. `nothing`
    shows what there is to say when there is no row at all.
    """

    def __init__(
        self, visit: Visit, columns: Sequence[Column], fetch: Fetch, *,
        on_act: Callable[[str, str], Awaitable[None]] | None = None,
        nothing: Callable[[], None] | None = None,
        label: str = "",
    ) -> None:  # fmt: skip
        self._visit = visit
        self._fetch = fetch
        self._marks = [""]
        self._next: str | None = None
        self._nothing = nothing
        # What is shown last is what was asked for last, whichever answer comes first.
        self._turn = asyncio.Lock()
        shown = [{"name": each.name, "label": each.label, "field": each.name, "align": each.align,
                  "classes": each.classes} for each in columns]  # fmt: skip
        if on_act is not None:
            shown.append(
                {"name": "acts", "label": "", "field": "id", "align": "right", "classes": ""}
            )
        many = " r-many" if len(shown) >= MANY else ""
        with ui.element("div").classes(f"r-listing{many}"):
            self._table = ui.table(columns=shown, rows=[], row_key="id")
            self._table.props("flat hide-bottom hide-pagination")
            if label:
                self._table.props(f'aria-label="{label}"')
            self._table.add_slot("body", _BODY)
            self._empty = ui.element("div").classes("r-wide")
            with ui.element("div").classes("r-pager") as self._pager:
                self._where = ui.label("")
                self._back = _arrow("chevron_left", visit.say("Previous page"), self._go_back)
                self._on = _arrow("chevron_right", visit.say("Next page"), self._go_on)
        self._pager.set_visibility(False)
        if on_act is not None:
            self._table.on("act", lambda event: on_act(event.args["name"], event.args["id"]))

    async def refresh(self) -> None:
        """Show the rows of this page as they are now."""
        async with self._turn:
            await self._fill()

    async def _fill(self) -> None:
        """Fetch the rows of this page and show them; the caller has the turn."""
        rows, self._next = await self._fetch(self._marks[-1], ROWS)
        self._table.rows = [dict(row) for row in rows]
        self._table.update()
        first = len(self._marks) == 1
        nothing = not rows and first
        self._table.set_visibility(not nothing)
        self._empty.clear()
        self._empty.set_visibility(nothing)
        if nothing and self._nothing is not None:
            with self._empty:
                self._nothing()
        self._pager.set_visibility(self._next is not None or not first)
        self._where.set_text(self._visit.say("Page {number}", number=len(self._marks)))
        self._back.set_enabled(not first)
        self._on.set_enabled(self._next is not None)

    async def restart(self) -> None:
        """Show the first page anew, as after another filter was chosen."""
        async with self._turn:
            self._marks = [""]
            await self._fill()

    async def _go_on(self) -> None:
        async with self._turn:
            if self._next is not None:
                self._marks.append(self._next)
                await self._fill()

    async def _go_back(self) -> None:
        async with self._turn:
            if len(self._marks) > 1:
                self._marks.pop()
                await self._fill()


def _arrow(icon: str, label: str, go: Callable[[], Awaitable[None]]) -> Any:
    return ui.button(icon=icon, on_click=go).props(f'flat round dense aria-label="{label}"')


def of_page(
    visit: Visit, path: str, row: Callable[[Mapping[str, Any]], Row], **query: Any
) -> Fetch:
    """Return what fetches the pages of an endpoint that answers `items` and `next`."""

    async def fetch(after: str, limit: int) -> tuple[Sequence[Row], str | None]:
        found = await visit.api.get(path, after=after, limit=limit, **query)
        return [row(each) for each in found["items"]], found["next"]

    return fetch


def of_list(
    visit: Visit, path: str, row: Callable[[Mapping[str, Any]], Row],
    keep: Callable[[Mapping[str, Any]], bool] | None = None, **query: Any,
) -> Fetch:  # fmt: skip
    """Return what pages an endpoint that answers a whole list."""

    async def fetch(after: str, limit: int) -> tuple[Sequence[Row], str | None]:
        begin = int(after or 0)
        kept = [each for each in await visit.api.get(path, **query) if keep is None or keep(each)]
        shown = kept[begin : begin + limit]
        following = begin + limit
        return [row(each) for each in shown], str(following) if len(kept) > following else None

    return fetch
