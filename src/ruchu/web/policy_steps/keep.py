"""How long the points of a policy stay."""

import functools
from typing import Any

from nicegui import ui

from ruchu.web import policy_form, policy_words
from ruchu.web.language import later
from ruchu.web.policy_steps.desk import Desk

_LABELS = {
    "daily": later("Days: the last point of each"),
    "weekly": later("Weeks: the last point of each"),
    "monthly": later("Months: the last point of each"),
    "yearly": later("Years: the last point of each"),
    "hourly": later("Hours: the last point of each"),
    "days": later("Every point for so many days"),
    "count": later("The newest so many points"),
    "chains": later("The newest so many full points, with what builds on them"),
}


async def build(desk: Desk) -> None:
    """Show the step."""
    _Keep(desk).show()


class _Keep:
    """The step, and what it says about itself."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk

    def show(self) -> None:
        desk, say = self._desk, self._desk.visit.say
        with ui.element("div").classes("r-chips").props("role=group") as group:
            group.props(f'aria-label="{say("Usual rules")}"')
            for name, (text, _) in policy_form.KEEPING.items():
                button = ui.button(say(text), on_click=functools.partial(self._preset, name),
                                   color=None)  # fmt: skip
                button.props(f"flat no-caps data-test=keep-{name}").classes("r-quiet")
        ui.label(say("A point stays as long as any rule wants it; 0 turns a rule off.")).classes(
            "r-help"
        )
        self._numbers = ui.element("div").classes("r-numbers")
        self._draw()
        with ui.element("div").classes("r-card r-quiet-card"):
            ui.label(say("What remains")).classes("r-card-title")
            self._words = ui.element("div").classes("r-wide").props("aria-live=polite")
        desk.follow(self._show)
        with ui.element("div").classes("r-two"):
            desk.number(
                desk.form, "grace_days", say("Days in which removed points can be brought back"),
                help_text=say("Their space is freed after that."),
            )  # fmt: skip

    def _draw(self) -> None:
        say, form = self._desk.visit.say, self._desk.form
        self._numbers.clear()
        with self._numbers:
            for name, text in _LABELS.items():
                made = ui.number(say(text), value=form.retention.get(name) or 0, min=0,
                                 on_change=functools.partial(self._set, name))  # fmt: skip
                made.props(f"outlined dense data-test=field-retention-{name}").classes("r-wide")
                self._desk.adopt(f"retention.{name}", made)

    def _set(self, name: str, event: Any) -> None:
        self._desk.form.retention[name] = event.value
        self._desk.changed()
        self._show()

    def _preset(self, name: str) -> None:
        self._desk.form.retention = policy_form.keeping(name)
        self._draw()
        self._desk.changed()
        self._show()

    def _show(self) -> None:
        language, preview = self._desk.visit.language, self._desk.preview
        self._words.clear()
        with self._words:
            with ui.element("ul").classes("r-plain-list"):
                for text in policy_words.stays(language, policy_form.retention(self._desk.form)):
                    with ui.element("li"):
                        ui.label(text)
            if preview is not None and preview["remaining"] is not None:
                ui.label(policy_words.remains(language, preview["remaining"])).classes("r-p-strong")
            more = self._desk.visit.say(
                "The newest point, and points with a star or a lock, stay in any case."
            )
            ui.label(more).classes("r-help")
