"""Definitions taken along: everything that was set up, as one sealed file, out and in."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.control.definitions import sealing
from ruchu.errors import UsageError
from ruchu.web.language import Language, later
from ruchu.web.parts import acting, asking, headings
from ruchu.web.parts.marks import BUSY, GOOD, QUIET, WARN, Mark
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
ACTIONS: Mapping[str, Mark] = {
    "create": Mark(later("Is made"), GOOD, "add_circle"),
    "change": Mark(later("Is changed"), BUSY, "edit"),
    "remove": Mark(later("Is removed"), WARN, "remove_circle"),
    "release": Mark(later("Belongs to no file any more"), QUIET, "link_off"),
    "same": Mark(later("Is the same"), QUIET, "check"),
    "keep": Mark(later("Differs, and stays"), WARN, "pause_circle"),
}
KINDS: Mapping[str, str] = {
    "groups": later("Group"),
    "platforms": later("Platform"),
    "storages": later("Storage"),
    "policies": later("Policy"),
    "channels": later("Channel"),
    "rules": later("Rule"),
    "users": later("User"),
    "providers": later("Identity provider"),
    "settings": later("Settings"),
    "nodes": later("Node"),
}


def locations(text: str) -> dict[str, str]:
    """Return where storages are now, of lines such as `main = /mnt/rescued`. Pure.

    Raises:
        UsageError: a line says no such thing.
    """
    found = {}
    for line in asking.lines(text):
        name, equals, place = line.partition("=")
        if not equals or not name.strip() or not place.strip():
            raise UsageError(f"({line[:60]!r})", hint="main = /mnt/rescued")
        found[name.strip()] = place.strip()
    return found


def counted(language: Language, changes: Sequence[Found]) -> str:
    """Return in a line what changes come to. Pure."""
    said = []
    for action, mark in ACTIONS.items():
        count = sum(each["action"] == action for each in changes)
        if count:
            word = language.say(mark.word)
            said.append(language.say("{what}: {count}", what=word, count=language.number(count)))
    return " · ".join(said)


async def definitions(visit: Visit) -> None:
    """Show what takes definitions out, and what takes them in."""
    with ui.element("div").classes("r-grid"):
        with headings.card(visit.say("Export"), "r-6 r-whole r-gap"):
            _export(visit)
        with headings.card(visit.say("Import"), "r-6 r-whole r-gap"):
            Importing(visit)


def _export(visit: Visit) -> None:
    say = visit.say
    ui.label(say("Platforms, storages, policies, channels, rules, users and settings as one file. "
                 "It starts another server with the same definitions, or this one after a "
                 "loss.")).classes("r-help")  # fmt: skip
    with ui.element("div").classes("r-form r-later"):
        phrase = asking.secret(say("Passphrase of the file"), "export-passphrase",
                               help_text=say("Seals it. Without it, secrets stay out."))  # fmt: skip
        secrets = asking.switch(
            say("With secrets"), "export-secrets", value=True,
            help_text=say("Passphrases of storages, secrets of channels"),
        )  # fmt: skip
        passwords = asking.switch(
            say("With passwords of people"), "export-passwords", value=False,
            help_text=say("Their hashes, and authenticators"),
        )  # fmt: skip

        async def go() -> None:
            body = {"passphrase": phrase.value or None, "secrets": secrets.value,
                    "passwords": passwords.value}  # fmt: skip
            found = await acting.act(visit, visit.api.post("/definitions/export", body))
            if found is not None:
                # What is sealed is text of age; without a passphrase it is JSON.
                sealed = bool(phrase.value)
                name = "ruchu-definitions.age" if sealed else "ruchu-definitions.json"
                ui.download.content(str(found).encode(), name, "application/octet-stream")

        ui.button(say("Export"), icon="download", on_click=go).props(
            "unelevated no-caps color=primary data-test=export"
        )


class Importing:
    """A file that is taken in: read, planned, and only then carried out."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._file = ""
        say = visit.say
        ui.label(say("What it would do is shown first; nothing changes before you agree.")).classes(
            "r-help"
        )
        with ui.element("div").classes("r-form r-later"):
            upload = ui.upload(auto_upload=True, max_files=1,
                               max_file_size=sealing.BYTES_MAX, on_upload=self._took)  # fmt: skip
            upload.props("data-test=import-file").style("display: none")
            choose = ui.button(say("Choose a file"), icon="upload_file", color=None)
            choose.on("click", js_handler=f"() => getElement({upload.id}).pickFiles()")
            choose.props("flat no-caps data-test=choose-file").classes("r-quiet")
            self._name = ui.label("").classes("r-help").props("role=status")
            self._phrase = asking.secret(say("Passphrase of the file"), "import-passphrase")
            self._replace = asking.switch(
                say("Make what differs like the file"), "import-replace", value=False,
                help_text=say("Otherwise only what is missing is made."),
            )  # fmt: skip
            self._locations = asking.area(
                say("Storages that are elsewhere now"), "import-locations",
                help_text=say("One a line: main = /mnt/rescued"),
            )  # fmt: skip
            plan = ui.button(say("Show the plan"), icon="preview", on_click=self._plan)
            plan.props("unelevated no-caps color=primary data-test=plan")
        self._place = ui.element("div").classes("r-stack r-wide r-later")

    async def _took(self, event: Any) -> None:
        try:
            self._file = await event.file.text()
            self._name.set_text(event.file.name)
        except UnicodeDecodeError:
            self._file = ""
            ui.notify(self._visit.say("This is no file of an export."), type="negative",
                      position="top")  # fmt: skip

    def _body(self, *, dry: bool) -> dict[str, Any] | None:
        say = self._visit.say
        if not self._file:
            ui.notify(say("Choose a file first."), type="warning", position="top")
            return None
        try:
            places = locations(self._locations.value or "")
        except UsageError as error:
            ui.notify(f"{error} {error.advice}", type="warning", position="top")
            return None
        return {
            "file": self._file, "passphrase": self._phrase.value or "",
            "replace": self._replace.value, "dry_run": dry, "locations": places,
        }  # fmt: skip

    async def _plan(self) -> None:
        body = self._body(dry=True)
        if body is None:
            return
        visit = self._visit
        found = await acting.act(visit, visit.api.post("/definitions/import", body))
        self._place.clear()
        if found is None:
            return
        with self._place:
            changes(visit, found["changes"])
            ui.button(visit.say("Carry it out"), icon="play_arrow", on_click=self._apply).props(
                "unelevated no-caps color=primary data-test=apply"
            )

    async def _apply(self) -> None:
        body = self._body(dry=False)
        if body is None:
            return
        visit = self._visit
        call = visit.api.post("/definitions/import", body)
        found = await acting.act(visit, call, visit.say("It is taken in."))
        if found is None:
            return
        self._place.clear()
        with self._place:
            changes(visit, found["changes"])
            for each in found["storages"]:
                text = visit.say("{name}: {count} points read", name=each["name"],
                                 count=each["points"])  # fmt: skip
                problems = "; ".join(each["problems"])
                ui.label(f"{text}. {problems}" if problems else text).classes(
                    "r-note warn" if problems else "r-note"
                )


def changes(visit: Visit, found: Sequence[Found]) -> None:
    """Show changes: what happens to which definition, and which fields differ."""
    language = visit.language
    ui.label(counted(language, found) or visit.say("The file defines nothing.")).classes(
        "r-trouble"
    ).props("data-test=counted")
    with ui.element("ul").classes("r-changes"):
        for each in found:
            mark = ACTIONS.get(each["action"]) or Mark(each["action"], QUIET, "help_outline")
            kind = language.say(KINDS.get(each["kind"], each["kind"]))
            with ui.element("li"):
                with ui.element("span").classes(f"r-state {mark.tone}"):
                    ui.icon(mark.icon).props("aria-hidden=true")
                    ui.label(language.say(mark.word))
                ui.label(f"{kind} {each['name']}")
                if each["fields"]:
                    names = ", ".join(field["field"] for field in each["fields"])
                    ui.label(names).classes("r-sub")
