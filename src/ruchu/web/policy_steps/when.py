"""When a policy starts: presets, schedules of one's own, windows, and how old points may get."""

import functools
import zoneinfo
from typing import Any

from nicegui import ui

from ruchu.web import policy_facts, policy_form, policy_lines, policy_words
from ruchu.web.parts import marks
from ruchu.web.policy_lines import ScheduleLine, WindowLine
from ruchu.web.policy_steps.desk import Desk

_KINDS = ("incremental", "full", "differential")


async def build(desk: Desk) -> None:
    """Show the step."""
    _When(desk).show()


class _When:
    """The step, and its lists that grow and shrink."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._form = desk.form

    def show(self) -> None:
        desk, form, say = self._desk, self._form, self._desk.visit.say
        with ui.element("div").classes("r-chips").props("role=group") as group:
            group.props(f'aria-label="{say("Usual schedules")}"')
            for name, text in policy_form.PRESETS.items():
                button = ui.button(say(text), on_click=functools.partial(self._preset, name),
                                   color=None)  # fmt: skip
                button.props(f"flat no-caps data-test=preset-{name}").classes("r-quiet")
        self._lines = ui.element("div").classes("r-form-wide")
        self._draw_lines()
        with ui.element("div").classes("r-two"):
            zones = {name: name for name in sorted(zoneinfo.available_timezones())}
            desk.choice(form, "zone", say("Time zone"), zones).props("use-input input-debounce=0")
            with ui.element("div").classes("r-pair"):
                desk.number(form.rpo, "count", say("No machine without a point for longer than"),
                            key="rpo", help_text=say("0: no target"))  # fmt: skip
                desk.choice(form.rpo, "unit", say("Unit"), self._units(policy_form.MINUTES),
                            key="rpo.unit")  # fmt: skip
        with ui.element("div").classes("r-card r-quiet-card"):
            ui.label(say("Next starts")).classes("r-card-title")
            self._preview = ui.element("div").classes("r-wide").props("aria-live=polite")
        desk.follow(self._show_preview)
        with ui.expansion(say("Windows, bandwidth and holidays")).classes("r-p-more") as more:
            more.props("data-test=windows").value = bool(form.windows or form.holidays)
            self._windows = ui.element("div").classes("r-form-wide")
            self._draw_windows()
            desk.chips(form, "holidays", say("Holidays"),
                       help_text=say("Dates such as 2027-02-06. Press Enter after each."))  # fmt: skip
            missed = {name: say(text) for name, text in policy_words.MISSED.items()}
            desk.choice(form, "missed", say("Starts that were missed"), missed)

    def _units(self, units: Any) -> dict[str, str]:
        say = self._desk.visit.say
        texts = {"days": say("days"), "hours": say("hours"), "minutes": say("minutes"),
                 "seconds": say("seconds")}  # fmt: skip
        return {name: texts[name] for name in units}

    def _preset(self, name: str) -> None:
        self._form.schedules[:] = policy_form.preset(name)
        self._draw_lines()
        self._desk.changed()

    # Schedules.

    def _draw_lines(self) -> None:
        say = self._desk.visit.say
        self._lines.clear()
        with self._lines:
            for number, line in enumerate(self._form.schedules):
                with ui.element("section").classes("r-p-line"):
                    self._line(number, line)
            if not self._form.schedules:
                ui.label(say("It starts by hand only.")).classes("r-note")
            add = ui.button(say("Add a schedule"), icon="add", on_click=self._add)
            add.props("flat no-caps data-test=add-schedule")

    def _add(self) -> None:
        self._form.schedules.append(ScheduleLine())
        self._draw_lines()
        self._desk.changed()

    def _drop(self, number: int) -> None:
        del self._form.schedules[number]
        self._draw_lines()
        self._desk.changed()

    def _line(self, number: int, line: ScheduleLine) -> None:
        desk, say = self._desk, self._desk.visit.say
        kinds = {kind: marks.kind(desk.visit.language, kind) for kind in _KINDS}
        rules = {name: say(text) for name, text in policy_lines.RULES.items()}
        at = f"schedules.{number}"
        with ui.element("div").classes("r-line-fields"):
            desk.choice(line, "kind", say("Kind"), kinds, key=f"{at}.kind")
            desk.choice(line, "rule", say("How often"), rules, key=f"{at}.rule",
                        act=self._draw_lines)  # fmt: skip
            self._rule(line, at)
            holidays = ui.checkbox(say("Not on holidays"), value=line.mind_holidays)
            holidays.on_value_change(functools.partial(self._mind, line))
            if line.begin or line.until:
                desk.text(line, "begin", say("First date"), key=f"{at}.begin")
                desk.text(line, "until", say("Last date"), key=f"{at}.until")
        drop = ui.button(icon="delete", on_click=functools.partial(self._drop, number), color=None)
        drop.props(f'flat round aria-label="{say("Remove this schedule")}"')

    def _mind(self, line: ScheduleLine, event: Any) -> None:
        line.mind_holidays = bool(event.value)
        self._desk.changed()

    def _rule(self, line: ScheduleLine, at: str) -> None:
        desk, say = self._desk, self._desk.visit.say
        if line.rule in {"monthly", "yearly"}:
            self._days(line, at)
        if line.rule == "weekly":
            days = {name: say(text) for name, text in policy_lines.WEEKDAYS.items()}
            desk.several(line, "weekdays", say("Days"), days, key=f"{at}.weekdays")
            desk.number(line, "weeks", say("Every so many weeks"), key=f"{at}.weeks")
            if line.weeks != 1 or line.anchor:
                desk.text(line, "anchor", say("A date in a week that counts"), key=f"{at}.anchor")
        if line.rule in {"daily", "weekly", "monthly", "yearly"}:
            desk.text(line, "times", say("At"), key=f"{at}.times",
                      help_text=say("Such as 02:00, or several: 02:00, 14:00"))  # fmt: skip
        if line.rule == "hourly":
            desk.number(line, "minute", say("At minute"), key=f"{at}.minute")
        if line.rule in {"minutes", "rolling"}:
            desk.number(line, "minutes", say("Minutes"), key=f"{at}.minutes")
        if line.rule == "once":
            desk.text(line, "at", say("When"), key=f"{at}.at",
                      help_text=say("Such as 2027-01-31T02:30"))  # fmt: skip

    def _days(self, line: ScheduleLine, at: str) -> None:
        desk, say = self._desk, self._desk.visit.say
        if line.rule == "yearly":
            months = {number: say(text) for number, text in enumerate(policy_lines.MONTHS, 1)}
            desk.choice(line, "month", say("Month"), months, key=f"{at}.month")
        if not line.nths:
            desk.text(line, "days", say("Days of the month"), key=f"{at}.days",
                      help_text=say("Such as 1, 15 or “last”"))  # fmt: skip
        nths = {f"{nth}-{day}": say(ordinal, day=say(name))
                for nth, ordinal in policy_lines.ORDINALS.items()
                for day, name in policy_lines.WEEKDAYS.items()}  # fmt: skip
        made = desk.several(line, "nths", say("Or weekdays of the month"), nths, key=f"{at}.nths")
        made.on_value_change(self._draw_lines)

    # Windows.

    def _draw_windows(self) -> None:
        say = self._desk.visit.say
        self._windows.clear()
        with self._windows:
            ui.label(
                say("A run starts and works within these hours only. Without any, always.")
            ).classes("r-help")
            for number, line in enumerate(self._form.windows):
                with ui.element("section").classes("r-p-line"):
                    self._window(number, line)
            add = ui.button(say("Add a window"), icon="add", on_click=self._add_window)
            add.props("flat no-caps data-test=add-window")

    def _add_window(self) -> None:
        self._form.windows.append(WindowLine())
        self._draw_windows()
        self._desk.changed()

    def _drop_window(self, number: int) -> None:
        del self._form.windows[number]
        self._draw_windows()
        self._desk.changed()

    def _window(self, number: int, line: WindowLine) -> None:
        desk, say, at = self._desk, self._desk.visit.say, f"windows.{number}"
        days = {day: say(text) for day, text in enumerate(policy_lines.WEEKDAYS.values())}
        with ui.element("div").classes("r-line-fields"):
            desk.several(line, "days", say("Days (none: every day)"), days, key=f"{at}.days")
            desk.text(line, "begin", say("From"), key=f"{at}.begin")
            desk.text(line, "end", say("To"), key=f"{at}.end")
            with ui.element("div").classes("r-pair"):
                desk.number(line, "rate", say("At most"), key=f"{at}.rate",
                            help_text=say("0: no limit"))  # fmt: skip
                units = {unit: unit for unit in policy_lines.RATES}
                desk.choice(line, "unit", say("Unit"), units, key=f"{at}.unit")
        drop = ui.button(icon="delete", on_click=functools.partial(self._drop_window, number),
                         color=None)  # fmt: skip
        drop.props(f'flat round aria-label="{say("Remove this window")}"')

    def _show_preview(self) -> None:
        self._preview.clear()
        with self._preview:
            starts = (self._desk.preview or {}).get("starts", ())
            policy_facts.show_starts(self._desk.visit, starts, self._form.zone)
