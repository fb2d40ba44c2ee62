"""The days of a machine's points, as a strip: what kinds there are on each, and which is chosen.

It is one element, so that two months cost no more than a paragraph; its days are buttons.
"""

import html
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import date, datetime, time, timedelta
from typing import Any
from zoneinfo import ZoneInfo

from babel import dates
from nicegui import ui

from ruchu.web.language import CHINESE, Language
from ruchu.web.parts import marks
from ruchu.web.visiting import Visit

DAYS, STEP = 60, 45
# More are shown as a number.
DOTS_MAX = 5
# In the order in which they are shown; what else there is looks like the last.
_KINDS = ("full", "synthetic", "differential", "incremental")
_EXPLAINED = ("full", "incremental")
_PICK = "(event) => {{ const day = event.target.closest('[data-day]'); if (day) {{ {emit} }} }}"


def window(days: Sequence[str], today: date, back: int) -> list[date]:
    """Return the days of the strip, `back` steps before the last one.

    The last one is today, as long as that is near: a machine that is gone has its own.
    """
    last = max(map(date.fromisoformat, days), default=today)
    end = today if (today - last).days < STEP else last
    end -= timedelta(days=STEP * back)
    return [end - timedelta(days=number) for number in range(DAYS - 1, -1, -1)]


def strip(
    language: Language, shown: Sequence[date], days: Mapping[str, Mapping[str, Any]], chosen: str
) -> str:
    """Return the strip as HTML."""
    months, cells = [], []
    for number, day in enumerate(shown):
        if number == 0 or day.day == 1:
            months.append((number, _month(language, day)))
        cells.append(_cell(language, day, days.get(day.isoformat()), chosen))
    spans = [
        f'<span style="grid-column: {begin + 1} / '
        f'{(months[at + 1][0] if at + 1 < len(months) else len(shown)) + 1}">'
        f"<b>{html.escape(name)}</b></span>"
        for at, (begin, name) in enumerate(months)
    ]
    return f'<div class="rt-strip">{"".join(spans)}{"".join(cells)}</div>'


def _month(language: Language, day: date) -> str:
    shape = "yyyy年M月" if language.code == CHINESE else "MMM yyyy"
    return dates.format_date(day, shape, locale=language.locale)


def _date(language: Language, day: date) -> str:
    return language.day(datetime.combine(day, time(12), ZoneInfo(language.zone)))


def _cell(language: Language, day: date, found: Mapping[str, Any] | None, chosen: str) -> str:
    number = f'<span class="rt-number">{day.day}</span>'
    if found is None:
        return f'<span class="rt-day rt-none" aria-hidden="true">{number}</span>'
    on = day.isoformat() == chosen
    label = html.escape(spoken(language, day, found), quote=True)
    star = '<span class="rt-star material-icons" aria-hidden="true">star</span>'
    return (
        f'<button type="button" class="rt-day{" rt-on" if on else ""}" '
        f'data-day="{day.isoformat()}" aria-pressed="{str(on).lower()}" aria-label="{label}" '
        f'title="{label}"><span class="rt-dots">{_dots(found)}</span>'
        f"{star if found['starred'] else ''}{number}</button>"
    )


def _dots(found: Mapping[str, Any]) -> str:
    kinds = found["kinds"]
    order = [each for each in _KINDS if each in kinds]
    order += [each for each in kinds if each not in _KINDS]
    dots = [each for each in order for _ in range(kinds[each])]
    more = len(dots) - DOTS_MAX
    if more > 0:
        dots = dots[: DOTS_MAX - 1]
    shown = [f'<i class="rt-dot {each if each in _KINDS else _KINDS[-1]}"></i>' for each in dots]
    if more > 0:
        shown.append(f'<b class="rt-more">+{more + 1}</b>')
    return "".join(shown)


def spoken(language: Language, day: date, found: Mapping[str, Any]) -> str:
    """Return a day in words."""
    kinds = [f"{count} {marks.kind(language, kind)}" for kind, count in found["kinds"].items()]
    starred = [language.say("{count} starred", count=found["starred"])] if found["starred"] else []
    return f"{_date(language, day)}: {', '.join([*kinds, *starred])}"


class Timeline:
    """The strip on a page; `choose` is called with a day, or with nothing if it was let go."""

    def __init__(
        self, visit: Visit, today: date, chosen: str, choose: Callable[[str], Awaitable[None]]
    ) -> None:
        self._visit = visit
        self._today = today
        self._chosen = chosen
        self._choose = choose
        self._back = 0
        self._days: dict[str, Mapping[str, Any]] = {}
        with ui.element("div").classes("rt-timeline"):
            with ui.element("div").classes("rt-head"):
                self._earlier = _arrow("chevron_left", visit.say("Earlier days"), self._go_back)
                self._legend()
                self._later = _arrow("chevron_right", visit.say("Later days"), self._go_on)
            self._strip = ui.html("", sanitize=False).classes("rt-scroll")
            self._strip.props(f'role=group aria-label="{visit.say("Points by day")}"')
            self._strip.on(
                "click", self._picked, js_handler=_PICK.format(emit="emit(day.dataset.day)")
            )

    def show(self, days: Sequence[Mapping[str, Any]]) -> None:
        """Show what was saved on which day."""
        fresh = not self._days
        self._days = {each["day"]: each for each in days}
        self._draw()
        if fresh:
            self._to_the_end()

    def _draw(self) -> None:
        shown = window(list(self._days), self._today, self._back)
        self._strip.set_content(strip(self._visit.language, shown, self._days, self._chosen))
        first = min(self._days, default="")
        self._earlier.set_enabled(bool(first) and first < shown[0].isoformat())
        self._later.set_enabled(self._back > 0)

    def _to_the_end(self) -> None:
        name = f"c{self._strip.id}"
        _ = ui.run_javascript(
            f"{{ const strip = document.getElementById('{name}');"
            " if (strip) strip.scrollLeft = strip.scrollWidth; }"
        )

    async def _picked(self, event: Any) -> None:
        self._chosen = "" if event.args == self._chosen else str(event.args)
        self._draw()
        await self._choose(self._chosen)

    async def _go_back(self) -> None:
        self._back += 1
        self._draw()

    async def _go_on(self) -> None:
        self._back = max(0, self._back - 1)
        self._draw()

    def _legend(self) -> None:
        with ui.element("div").classes("rt-legend"):
            for name in _EXPLAINED:
                with ui.element("span"):
                    ui.element("i").classes(f"rt-dot {name}")
                    ui.label(marks.kind(self._visit.language, name))


def _arrow(icon: str, label: str, go: Callable[[], Awaitable[None]]) -> Any:
    return ui.button(icon=icon, on_click=go, color=None).props(
        f'flat round dense aria-label="{label}"'
    )
