"""The table of files: chosen with boxes, opened with links; cards on a phone."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.web.visiting import Visit

_BODY = r"""
<q-tr :props="props" :class="props.selected ? 'gf-on' : ''">
  <q-td class="gf-box">
    <q-checkbox v-model="props.selected" dense :disable="!props.row.content"
                :aria-label="props.row.chooses"></q-checkbox>
  </q-td>
  <q-td v-for="(col, index) in props.cols" :key="col.name" :props="props" :data-label="col.label"
        :class="[index === 0 ? 'first' : '', col.classes]">
    <a v-if="col.name === 'acts' && props.row.content" :href="props.row.content" download class="gf-fetch"
       :aria-label="props.row.fetches"><q-icon name="download" aria-hidden="true"></q-icon></a>
    <div v-else-if="index === 0" class="gf-name">
      <q-icon :name="props.row.icon" aria-hidden="true" :class="'gf-icon ' + props.row.icon"></q-icon>
      <div class="gf-words">
        <a v-if="props.row.link" :href="props.row.link">{{ props.row.name }}</a>
        <span v-else>{{ props.row.name }}</span>
        <span class="r-hidden">{{ props.row.kind }}</span>
        <div v-if="props.row.sub" :class="props.row.bad ? 'r-sub gf-bad' : 'r-sub'">{{ props.row.sub }}</div>
      </div>
    </div>
    <template v-else>{{ col.value }}</template>
  </q-td>
</q-tr>
"""


class FileTable:
    """Rows of files. `chosen` is told the keys of those that are chosen whenever that changes."""

    def __init__(self, visit: Visit, chosen: Callable[[Sequence[str]], None]) -> None:
        say = visit.say
        self._say = say
        self._chosen = chosen
        columns = [
            _column("name", say("Name")),
            _column("size", say("Size"), "right nowrap", align="right"),
            _column("modified", say("Changed"), "nowrap"),
            _column("rights", say("Mode and owner"), "nowrap mono gf-rights"),
            _column("acts", "", "acts nowrap gf-acts", align="right"),
        ]
        with ui.element("div").classes("r-listing gf-table"):
            self._table = ui.table(
                columns=columns, rows=[], row_key="id", selection="multiple",
                on_select=lambda _: self._told(),
            ).props("flat hide-bottom hide-pagination data-test=files")  # fmt: skip
            self._table.props(f'aria-label="{say("Files")}"')
            self._table.add_slot("body", _BODY)

    @property
    def rows(self) -> Sequence[Mapping[str, Any]]:
        """What is shown."""
        return self._table.rows

    def show(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Show rows; none of them is chosen."""
        say = self._say
        self._table.rows = [
            {**row, "chooses": say("Choose {name}", name=row["name"]),
             "fetches": say("Download {name}", name=row["name"])}
            for row in rows
        ]  # fmt: skip
        self._table.selected = []
        self._table.update()
        self._told()

    def clear(self) -> None:
        """Choose nothing."""
        self._table.selected = []
        self._table.update()
        self._told()

    def _told(self) -> None:
        self._chosen([str(each["id"]) for each in self._table.selected if each.get("content")])


def _column(name: str, label: str, classes: str = "", *, align: str = "left") -> dict[str, str]:
    return {"name": name, "label": label, "field": name, "align": align, "classes": classes}
