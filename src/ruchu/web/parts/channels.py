"""Alarm channels: listed, written, tried out, removed."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import Answered, UsageError
from ruchu.web.calling import part
from ruchu.web.language import LANGUAGES, NOTHING, later
from ruchu.web.parts import (
    acting,
    alarm_words,
    asking,
    channel_fields,
    empty,
    listing,
    marks,
    run_words,
    tabbing,
)
from ruchu.web.parts.channel_fields import FIELDS, KINDS, SECRETS, Field, Sort
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import GOOD, QUIET, Mark
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
ON = Mark(later("On"), GOOD, "check_circle")
OFF = Mark(later("Off"), QUIET, "pause_circle")
_HOURLY = 60
# How often a test looks for what became of its message, and for how long.
_LOOK_S = 0.7
_LOOKS = 90
_OVER = {"sent", "failed", "dropped"}


async def channels(visit: Visit) -> None:
    """List the channels."""
    say = visit.say
    with tabbing.head(say("Channels"), say("Ways to reach people. Rules say what goes where.")):
        new = ui.button(say("New channel"), icon="add")
        new.props("unelevated no-caps color=primary data-test=new-channel")

    def row(channel: Found) -> dict[str, Any]:
        told = channel_fields.told(channel["kind"], channel["settings"])
        return {
            "id": channel["name"],
            "name": {"text": channel["name"], "sub": say(KINDS.get(channel["kind"], channel["kind"]))},
            "to": told or NOTHING,
            "language": LANGUAGES.get(channel["language"], channel["language"]),
            "state": (ON if channel["enabled"] else OFF).cell(visit.language),
            "acts": [
                Act("test", say("Send a test"), "send").cell(),
                Act("edit", say("Change"), "edit").cell(),
                Act("remove", say("Remove"), "delete").cell(),
            ],
        }  # fmt: skip

    async def on_act(name: str, identity: str) -> None:
        if name == "test":
            await _test(visit, identity)
        elif name == "edit":
            rows = await visit.api.get("/alarm-channels")
            await _ask(visit, next(each for each in rows if each["name"] == identity), done)
        else:
            await _remove(visit, identity, done)

    def nothing() -> None:
        empty.empty("campaign", say("There is no channel yet."),
                    say("Without one, alarms are shown in the console only."))  # fmt: skip

    columns = [Column("name", say("Channel")), Column("to", say("Reaches")),
               Column("language", say("Language")), Column("state", say("State"))]  # fmt: skip
    fetch = listing.of_list(visit, "/alarm-channels", row)
    found = listing.Listing(
        visit, columns, fetch, on_act=on_act, nothing=nothing, label=say("Channels")
    )

    async def done() -> None:
        await found.refresh()

    new.on_click(lambda: _ask(visit, None, done))
    await found.refresh()


async def _remove(visit: Visit, name: str, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    losses = [
        say("The settings and the secrets of the channel {name}.", name=name),
        say("Messages that wait for it are dropped; their alarms say so."),
    ]
    title = say("Remove the channel {name}", name=name)
    if await acting.confirmed_by_name(visit, title, losses, say("Remove"), name):
        await acting.act(visit, visit.api.delete(f"/alarm-channels/{part(name)}"), say("Removed."))
        await done()


# ------------------------------------------------------------------------------- a test message


async def _test(visit: Visit, name: str) -> None:
    """Send a test message, and show what becomes of it as it happens."""
    say = visit.say
    sent = await acting.act(visit, visit.api.post(f"/alarm-channels/{part(name)}/test"))
    if sent is None:
        return
    with asking.dialog(say("Test of {name}", name=name)) as made:
        place = (
            ui.element("div").classes("r-stack r-wide").props("role=status data-test=test-state")
        )
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Close"), on_click=made.close).props("flat no-caps")
    looks = [0]
    shown: list[Any] = []

    async def look() -> None:
        looks[0] += 1
        rows = await visit.api.get(f"/alarms/{sent['alarm']}/deliveries")
        if rows != shown:
            shown[:] = rows
            place.clear()
            with place:
                for each in rows:
                    _delivery(visit, each)
        if looks[0] >= _LOOKS or (rows and all(each["state"] in _OVER for each in rows)):
            timer.deactivate()

    with place:
        ui.label(say("It is on its way."))
    timer = ui.timer(_LOOK_S, lambda: visit.guarded(look))
    made.on("hide", timer.deactivate)


def _delivery(visit: Visit, each: Found) -> None:
    marks.show(alarm_words.delivery(each), visit.language)
    if each["state"] == "dropped":
        ui.label(visit.say("The channel is switched off, or was removed."))
    if each["reached"]:
        reached = ", ".join(each["reached"])
        ui.label(visit.say("Reached: {names}", names=reached))
    if each["error"] and each["state"] != "sent":
        ui.label(run_words.reason(visit.language, each["error"])).classes("r-note bad")


# ------------------------------------------------------------------------------------- the form


async def _ask(visit: Visit, channel: Found | None, done: Callable[[], Awaitable[None]]) -> None:
    """Ask for a channel: a new one, or another form of one."""
    form = ChannelForm(visit, channel)
    form.open(done)


class ChannelForm:
    """The form of a channel; its fields are those of its kind."""

    def __init__(self, visit: Visit, channel: Found | None) -> None:
        self._visit = visit
        self._channel = channel
        self._kind = str(channel["kind"]) if channel else "mail"
        self._fields: dict[str, Any] = {}
        self._secrets: dict[str, Any] = {}

    def open(self, done: Callable[[], Awaitable[None]]) -> None:
        """Show it."""
        say, channel = self._visit.say, self._channel
        title = say("Change {name}", name=channel["name"]) if channel else say("New channel")
        with asking.dialog(title) as made:
            if channel is None:
                self._name = asking.field(say("Name"), "name", help_text=say("Such as: duty"))
                kinds = {key: say(name) for key, name in KINDS.items()}
                kind = asking.choice(say("Kind"), "kind", kinds, self._kind)
                kind.on_value_change(lambda event: self._change_kind(event.value))
            self._place = ui.element("div").classes("r-form")
            self._show_fields()
            with ui.element("div").classes("r-two"):
                language = channel["language"] if channel else self._visit.language.code
                self._language = asking.language(say("Language"), language)
                most = channel["hourly_max"] if channel else _HOURLY
                self._most = asking.number(say("Messages an hour"), "hourly", most, least=1,
                                           most=10_000)  # fmt: skip
            enabled = bool(channel["enabled"]) if channel else True
            self._enabled = asking.switch(say("Tells alarms"), "enabled", value=enabled)
            asking.actions(self._visit, made, say("Save"), lambda: self._save(done))

    def _change_kind(self, kind: str) -> None:
        self._kind = kind
        self._show_fields()

    def _show_fields(self) -> None:
        say = self._visit.say
        known = self._channel["settings"] if self._channel else {}
        texts = channel_fields.texts_of(self._kind, known)
        self._fields, self._secrets = {}, {}
        self._place.clear()
        usual = [each for each in FIELDS[self._kind] if not each.rare]
        rare = [each for each in FIELDS[self._kind] if each.rare]
        with self._place:
            for each in usual:
                self._fields[each.name] = _field(self._visit, each, texts[each.name])
            if SECRETS[self._kind]:
                ui.label(say("Secrets are kept sealed and never shown. What is left empty stays "
                             "as it is.")).classes("r-help")  # fmt: skip
            for secret in SECRETS[self._kind]:
                help_text = say(secret.help) if secret.help else ""
                field = asking.secret(
                    say(secret.label), f"secret-{secret.name}", help_text=help_text
                )
                self._secrets[secret.name] = field
            if rare:
                with ui.expansion(say("More settings")).classes("r-wide").props("dense"):
                    for each in rare:
                        self._fields[each.name] = _field(self._visit, each, texts[each.name])

    async def _save(self, done: Callable[[], Awaitable[None]]) -> bool:
        visit = self._visit
        name = str(self._channel["name"]) if self._channel else (self._name.value or "").strip()
        texts = {key: str(field.value or "") for key, field in self._fields.items()}
        try:
            settings = channel_fields.settings_of(self._kind, texts)
        except UsageError as error:
            problem = {"detail": str(error), "hint": error.advice, "status": 422}
            acting.tell_problem(visit, Answered.of(problem))
            return False
        if not name:
            ui.notify(visit.say("Give it a name."), type="warning", position="top")
            return False
        secrets = {key: field.value for key, field in self._secrets.items() if field.value}
        body = {
            "kind": self._kind, "settings": settings, "language": self._language.value,
            "hourly_max": int(self._most.value or _HOURLY), "enabled": self._enabled.value,
            "secrets": secrets,
        }  # fmt: skip
        call = visit.api.put(f"/alarm-channels/{part(name)}", body)
        if await acting.act(visit, call, visit.say("Saved.")) is None:
            return False
        await done()
        return True


def _field(visit: Visit, field: Field, value: str) -> Any:
    say = visit.say
    label = say(field.label) + (" *" if field.needed else "")
    # Examples of addresses are the same in every language.
    help_text = say(field.help) if field.help else ""
    if field.sort is Sort.CHOICE:
        options = {each: each for each in field.options}
        return asking.choice(label, field.name, options, value or field.options[0])
    if field.sort in {Sort.TEXT, Sort.NUMBER}:
        return asking.field(label, field.name, value, help_text=help_text)
    return asking.area(label, field.name, value, help_text=help_text)
