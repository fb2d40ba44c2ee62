"""The settings of the server as forms: its name and zone, mail summaries, heartbeat; four eyes."""

import zoneinfo
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.web.parts import acting, asking, headings
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
_ZONES = sorted(zoneinfo.available_timezones())


def recipients(text: str) -> dict[str, str]:
    """Return addresses with their languages, of lines such as `li@example.com zh`. Pure."""
    found = {}
    for line in asking.lines(text):
        address, _, language = line.partition(" ")
        found[address] = language.strip() or "en"
    return found


def shown(found: Mapping[str, str]) -> str:
    """Return the lines of `recipients`. Pure."""
    return "\n".join(f"{address} {language}" for address, language in found.items())


class SettingsForm:
    """The settings of the server; one document, so one form over two cards."""

    def __init__(self, visit: Visit, settings: Found, tag: str, channels: list[Found]) -> None:
        self._visit = visit
        self._tag = tag
        self._known = settings
        self._fields: dict[str, Any] = {}
        mails = [each["name"] for each in channels if each["kind"] == "mail"]
        with ui.element("div").classes("r-grid"):
            with headings.card(visit.say("Server"), "r-6 r-whole r-gap"):
                self._server()
            with headings.card(visit.say("Heartbeat"), "r-6 r-whole r-gap"):
                self._heartbeat()
            with headings.card(visit.say("Mail summaries"), "r-12 r-gap"):
                self._summaries(mails)
        with ui.element("div").classes("r-save"):
            ui.button(visit.say("Save"), icon="save", on_click=self._save).props(
                "unelevated no-caps color=primary data-test=save-settings"
            )

    def _server(self) -> None:
        say = self._visit.say
        with ui.element("div").classes("r-form"):
            self._fields["server_name"] = asking.field(
                say("Name of the server"), "server-name", self._known["server_name"],
                help_text=say("In reports and messages. Counts at once."),
            )  # fmt: skip
            zone = ui.select(_ZONES, label=say("Time zone"), value=self._zone(), with_input=True)
            zone.props("outlined dense options-dense data-test=zone").classes("r-wide")
            self._fields["zone"] = zone
            ui.label(say("Of the console and of reports. Counts at once; pages that are open show "
                         "it when they are loaded anew.")).classes("r-help")  # fmt: skip

    def _zone(self) -> str:
        zone = str(self._known["zone"])
        return zone if zone in _ZONES else "UTC"

    def _heartbeat(self) -> None:
        say = self._visit.say
        ui.label(say("An address outside is called now and then. Whoever watches it notices when "
                     "this server is dead.")).classes("r-help")  # fmt: skip
        with ui.element("div").classes("r-form r-later"):
            self._fields["heartbeat_minutes"] = asking.number(
                say("Every so many minutes"), "heartbeat-minutes",
                self._known["heartbeat_minutes"], most=1440,
                help_text=say("0: never. Counts after a restart of the server."),
            )  # fmt: skip
            self._fields["heartbeat_url"] = asking.secret(
                say("Address"), "heartbeat-url",
                help_text=say("Never shown; left empty, it stays. Counts after a restart of the "
                              "server."),
            )  # fmt: skip

    def _summaries(self, mails: list[str]) -> None:
        say = self._visit.say
        known = str(self._known["summary_channel"])
        options = {"": say("none"), **{name: name for name in mails}}
        options |= {} if known in options else {known: known}
        with ui.element("div").classes("r-form"):
            self._fields["summary_channel"] = asking.choice(
                say("Mail channel"), "summary-channel", options, known
            )
            if not mails:
                ui.link(say("Make a mail channel first."), "/alarms?tab=channels")
            for name, label in (("summary_daily", say("Every day to")),
                                ("summary_weekly", say("Every week to"))):  # fmt: skip
                self._fields[name] = asking.area(
                    label, name.replace("_", "-"), shown(self._known[name]),
                    help_text=say("One a line, with a language: li@example.com zh"),
                )  # fmt: skip
            ui.label(say("Counts at once.")).classes("r-help")

    async def _save(self) -> None:
        visit = self._visit
        value = {name: field.value for name, field in self._fields.items()}
        body = {
            "server_name": value["server_name"] or "", "zone": value["zone"] or "UTC",
            "summary_channel": value["summary_channel"] or "",
            "summary_daily": recipients(value["summary_daily"] or ""),
            "summary_weekly": recipients(value["summary_weekly"] or ""),
            "heartbeat_minutes": int(value["heartbeat_minutes"] or 0),
            "heartbeat_url": value["heartbeat_url"] or None,
        }  # fmt: skip
        call = visit.api.call("PUT", "/settings", body, tag=self._tag)
        answer = await acting.act(visit, call, visit.say("Saved."))
        if answer is not None:
            self._tag = answer.tag


async def general(visit: Visit) -> None:
    """Show the form of the settings."""
    answer = await visit.api.call("GET", "/settings")
    channels = await visit.api.get("/alarm-channels")
    SettingsForm(visit, answer.body, answer.tag, channels)


async def four_eyes(visit: Visit) -> None:
    """Show the switch of four eyes, and what it means."""
    say = visit.say
    on = (await visit.api.get("/four-eyes"))["on"]
    with headings.card(say("Four eyes"), "r-gap") as card:
        card.props("data-test=four-eyes")
        ui.label(say("Acts that destroy wait for a second person: to delete points, to remove a "
                     "storage, to keep points for a shorter time, to take a star away, to release "
                     "a frozen chain.")).classes("r-help")  # fmt: skip
        with ui.element("div").classes("r-note" if on else "r-note warn"):
            ui.label(say("It is on.") if on else say("It is off: one person alone can delete "
                                                     "backups."))  # fmt: skip

        async def switch() -> None:
            lines = (
                [say("From then on one person alone can delete backups."),
                 say("Turning it off takes a second person, too.")]
                if on
                else [say("It takes two people who may approve."),
                      say("Turning it off again takes a second person.")]
            )  # fmt: skip
            title = say("Turn four eyes off?") if on else say("Turn four eyes on?")
            act = say("Turn it off") if on else say("Turn it on")
            if not await acting.confirmed(visit, title, lines, act):
                return
            told = await acting.act(visit, visit.api.put("/four-eyes", {"on": not on}))
            if told is not None:
                ui.navigate.to("/settings?tab=security")

        with ui.element("div").classes("r-dialog-actions"):
            ui.label(say("Counts at once.")).classes("r-help")
            ui.button(say("Turn it off") if on else say("Turn it on"), on_click=switch).props(
                f"{'flat' if on else 'unelevated color=primary'} no-caps data-test=switch-four-eyes"
            )
