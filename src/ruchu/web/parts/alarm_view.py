"""One alarm: what it is, what to do, what happened to it, and who was told."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import NOTHING
from ruchu.web.parts import alarm_lists, alarm_words, headings, listing, marks, run_words
from ruchu.web.parts.listing import Column
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]


class AlarmView:
    """The page of an alarm. Made once; `refresh` shows it anew."""

    def __init__(self, visit: Visit, alarm: Found) -> None:
        self._visit = visit
        self._alarm = alarm
        self._shown: Found | None = None
        with headings.head(alarm_words.headline(visit.language, alarm), alarm["code"]):
            self._acts = ui.element("div").classes("r-actions")
        self._body = ui.element("div").classes("r-stack r-wide")
        with headings.card(visit.say("What happened"), "r-gap"):
            self._history = ui.element("div").classes("r-wide")
        title = ui.label(visit.say("Who was told"))
        title.classes("r-section").props("role=heading aria-level=2")
        self._deliveries = self._listing()

    async def refresh(self) -> None:
        """Show the alarm as it is now."""
        alarm = self._alarm = await self._visit.api.get(f"/alarms/{self._alarm['id']}")
        if alarm != self._shown:
            self._shown = alarm
            self._show_acts()
            self._show_body()
            self._show_history(await self._visit.api.get(f"/alarms/{alarm['id']}/history"))
        await self._deliveries.refresh()

    def _show_acts(self) -> None:
        visit, alarm = self._visit, self._alarm
        self._acts.clear()
        able = visit.may(Right.OPERATE, alarm_words.group(alarm))
        if not able or alarm["acknowledged_by"] or alarm["state"] != "open":
            return
        with self._acts:
            ask = ui.button(visit.say("Acknowledge"), icon="how_to_reg", on_click=self._ask)
            ask.props("unelevated no-caps color=primary data-test=acknowledge").mark("acknowledge")

    def _ask(self) -> None:
        alarm_lists.ask_acknowledge(self._visit, self._alarm, self.refresh)

    def _show_body(self) -> None:
        visit, alarm, language = self._visit, self._alarm, self._visit.language
        self._body.clear()
        with self._body:
            with ui.element("div").classes("r-run-state"):
                marks.show(marks.of(marks.SEVERITIES, alarm["severity"]), language)
                if mark := alarm_words.state(alarm):
                    marks.show(mark, language).props("data-test=standing")
            if text := alarm_words.text(language, alarm):
                ui.label(text).classes("r-note bad" if alarm["state"] == "open" else "r-note")
            if hint := alarm_words.hint(language, alarm):
                with ui.element("div").classes("r-note"):
                    ui.label(visit.say("What to do")).classes("r-trouble")
                    ui.label(hint.replace("`", ""))
            with ui.element("div").classes("r-grid"):
                with headings.card(visit.say("About this alarm"), "r-6 r-whole"):
                    headings.facts(self._pairs())
                if alarm["facts"]:
                    with headings.card(visit.say("Details"), "r-6 r-whole"):
                        headings.facts(self._facts())

    def _pairs(self) -> dict[str, Any]:
        alarm, language, say = self._alarm, self._visit.language, self._visit.say
        pairs: dict[str, Any] = {
            say("Object"): alarm["subject"],
            say("Began"): language.moment(alarm["first_at"]),
            say("Last"): language.moment(alarm["last_at"]),
            say("Times"): language.number(alarm["count"]),
        }
        if alarm["cleared_at"]:
            pairs[say("Over")] = language.moment(alarm["cleared_at"])
        if alarm["acknowledged_by"]:
            at = language.moment(alarm["acknowledged_at"])
            pairs[say("Looked after by")] = f"{alarm['acknowledged_by']}, {at}"
        return pairs

    def _facts(self) -> dict[str, Any]:
        found: dict[str, Any] = dict(alarm_words.facts(self._visit.language, self._alarm))
        run = self._alarm["facts"].get("run")
        if isinstance(run, str) and run:
            found[self._visit.say("Job")] = lambda: ui.link(run[:8], f"/runs/{run}")
        return found

    def _show_history(self, entries: list[Found]) -> None:
        language = self._visit.language
        self._history.clear()
        with self._history, ui.element("ol").classes("r-steps"):
            for each in entries:
                what = language.say(alarm_words.HISTORY.get(each["what"], each["what"]))
                with ui.element("li"):
                    ui.label(language.moment(each["at"])).classes("r-steps-at")
                    with ui.element("div"):
                        ui.label(f"{what} · {each['who']}" if each["who"] else what)
                        if each["detail"]:
                            ui.label(run_words.reason(language, each["detail"])).classes("r-sub")

    def _listing(self) -> listing.Listing:
        say = self._visit.say
        columns = [
            Column("channel", say("Channel")),
            Column("why", say("Why")),
            Column("state", say("State")),
            Column("reached", say("Reached")),
            Column("at", say("Sent")),
        ]

        def nothing() -> None:
            ui.label(say("Nobody was told: no rule sends this alarm anywhere.")).classes("r-help")

        path = f"/alarms/{self._alarm['id']}/deliveries"
        fetch = listing.of_list(self._visit, path, lambda each: delivery_row(self._visit, each))
        return listing.Listing(
            self._visit, columns, fetch, nothing=nothing, label=say("Who was told")
        )


def delivery_row(visit: Visit, each: Found) -> dict[str, Any]:
    """Return the row of a delivery."""
    language = visit.language
    state: dict[str, Any] = dict(alarm_words.delivery(each).cell(language))
    if each["error"] and each["state"] != "sent":
        state["sub"] = run_words.reason(language, each["error"])
    return {
        "id": each["id"],
        "channel": {"text": each["channel"]},
        "why": language.say(alarm_words.REASONS.get(each["reason"], each["reason"])),
        "state": state,
        "reached": ", ".join(each["reached"]) or NOTHING,
        "at": language.moment(each["sent_at"]),
    }
