"""What a list is narrowed to: fields above it, kept in the address so that it can be linked to."""

import datetime
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.clock import to_text
from ruchu.web.language import Language, later
from ruchu.web.parts import tabbing
from ruchu.web.visiting import Visit

PERIODS: Mapping[str, tuple[str, datetime.timedelta]] = {
    "day": (later("Last 24 hours"), datetime.timedelta(days=1)),
    "week": (later("Last 7 days"), datetime.timedelta(days=7)),
    "month": (later("Last 30 days"), datetime.timedelta(days=30)),
    "quarter": (later("Last 90 days"), datetime.timedelta(days=90)),
}


def periods(language: Language) -> dict[str, str]:
    """Return the names of the periods, for a choice."""
    return {key: language.say(title) for key, (title, _) in PERIODS.items()}


def since(period: str, now: datetime.datetime) -> str | None:
    """Return when a period began; None if there is none of this name."""
    return to_text(now - PERIODS[period][1]) if period in PERIODS else None


class Filters:
    """Fields above a list; `changed` is called whenever one of them was changed."""

    def __init__(
        self, visit: Visit, changed: Callable[[], Awaitable[None]], fixed: Mapping[str, str]
    ) -> None:
        """Make the row; `fixed` stays in the address, such as the tab."""
        self._visit = visit
        self._changed = changed
        self._fixed = dict(fixed)
        self._values: dict[str, str] = {}
        self._fields: dict[str, Any] = {}
        self._row = ui.element("div").classes("r-tools").props("role=search")

    def __getitem__(self, name: str) -> str:
        """Return what a field says; empty: nothing."""
        return self._values[name]

    def __bool__(self) -> bool:
        """Tell whether the list is narrowed at all."""
        return any(self._values.values())

    def text(self, name: str, label: str) -> None:
        """Add a field for a text that is looked for."""
        self._values[name] = self._visit.query.get(name, "")[:200]
        with self._row:
            field = ui.input(label, value=self._values[name])
            field.props("outlined dense clearable debounce=350 type=search maxlength=200")
            with field.add_slot("prepend"):
                ui.icon("search").props("aria-hidden=true")
        self._follow(name, field)

    def choice(self, name: str, label: str, options: Mapping[str, str]) -> None:
        """Add a field that is one of some, or nothing."""
        wanted = self._visit.query.get(name, "")
        self._values[name] = wanted if wanted in options else ""
        with self._row:
            field = ui.select(dict(options), label=label, value=self._values[name] or None)
            field.props("outlined dense clearable options-dense")
        self._follow(name, field)

    async def clear(self) -> None:
        """Empty every field."""
        for field in self._fields.values():
            field.set_value(None)

    def _follow(self, name: str, field: Any) -> None:
        field.props(f"data-test=filter-{name}")
        self._fields[name] = field

        async def change(event: Any) -> None:
            value = str(event.value or "").strip()
            if value == self._values[name]:
                return
            self._values[name] = value
            tabbing.address(self._visit, self._fixed | self._values)
            await self._visit.guarded(self._changed)

        field.on_value_change(change)
