"""Adding a storage: the kind of place, where it is, its encryption, its name."""

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import UsageError
from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import acting, asking, headings, locating, reaching
from ruchu.web.parts.reaching import Choices
from ruchu.web.visiting import Visit, page

# Guessing a passphrase of fewer characters is a matter of days for whoever has the storage.
PASSPHRASE_MIN = 12
NEW, ADOPT = "new", "adopt"
_ICONS = {
    "kind": "category",
    "place": "place",
    "secret": "lock",
    "name": "badge",
    "review": "checklist",
}


@page("/storages/new", later("Add a storage"), need=Right.CONFIGURE)
async def new_storage(visit: Visit) -> None:
    """Make a storage, or adopt one, step by step."""
    say = visit.say
    with headings.head(
        say("Add a storage"), say("A node makes it, or adopts one with all its points.")
    ):
        ui.button(say("Back"), on_click=lambda: ui.navigate.to("/storages")).props("flat no-caps")
    wizard = Wizard(visit, await reaching.choices(visit))
    wizard.show()


class Wizard:
    """What was answered so far, and the steps that ask."""

    def __init__(self, visit: Visit, choices: Choices) -> None:
        self._visit = visit
        self._choices = choices
        self._kind = locating.KINDS[0].name
        self._fields: dict[str, Any] = {}
        self._complaint: dict[str, Any] = {}
        self._location = ""

    def show(self) -> None:
        """Show the steps."""
        say = self._visit.say
        with ui.stepper().props("vertical flat animated=false").classes("r-steps") as self._steps:
            self._step("kind", say("What kind of place?"), self._ask_kind, None)
            self._step("place", say("Where is it?"), self._ask_place, self._check_place)
            self._step("secret", say("Encryption"), self._ask_secret, self._check_secret)
            self._step("name", say("Name and nodes"), self._ask_name, self._check_name)
            self._step("review", say("Review"), self._ask_review, None)

    def _step(
        self, name: str, title: str, build: Callable[[], None], check: Callable[[], str] | None
    ) -> None:
        say, last = self._visit.say, name == "review"
        with (
            ui.step(name, title, icon=_ICONS[name]) as step,
            ui.element("div").classes("r-form r-stack"),
        ):
            step.props(f"active-icon={_ICONS[name]} done-icon=done")
            build()
            self._complaint[name] = ui.label("").classes("r-complaint").props("role=alert")
            self._complaint[name].set_visibility(False)

            def on() -> None:
                if not self._complain(name, check() if check is not None else ""):
                    self._go_to(name, 1)

            with ui.element("div").classes("r-actions"):
                go = self._make if last else on
                text = say("Add the storage") if last else say("Go on")
                button = ui.button(text, on_click=go)
                button.props(f"unelevated no-caps color=primary data-test=on-{name}")
                if last:
                    self._button = button
                if name != "kind":
                    ui.button(say("Back"), on_click=lambda: self._go_to(name, -1)).props(
                        "flat no-caps"
                    )

    def _complain(self, step: str, text: str) -> bool:
        self._complaint[step].set_text(text)
        self._complaint[step].set_visibility(bool(text))
        return bool(text)

    def _go_to(self, step: str, away: int) -> None:
        """Go on or back; bring the step up to date with what was answered before it."""
        names = list(_ICONS)
        step = names[names.index(step) + away]
        self._steps.set_value(step)
        if step == "secret":
            self._secret_changed()
        if step == "review":
            self._review.clear()
            with self._review:
                headings.facts(self._summary())

    # What kind, where.

    def _ask_kind(self) -> None:
        say = self._visit.say
        chosen = reaching.tiles(self._visit, locating.KINDS, self._kind)
        hint = ui.label(say(locating.KINDS[0].help)).classes("r-help")
        choice = {
            NEW: say("Make a new storage there"),
            ADOPT: say("Adopt the storage that is there"),
        }
        self._way = ui.radio(choice, value=NEW).props("data-test=way").classes("r-radio")
        ui.label(say(
            "Adopting takes in a storage that Ruchu made before, with all its points: of another "
            "server, or of one that was lost."
        )).classes("r-help")  # fmt: skip

        def changed(name: str) -> None:
            self._kind = name
            hint.set_text(say(locating.kind(name).help))
            self._show_fields()

        chosen.on_change(changed)

    def _ask_place(self) -> None:
        say = self._visit.say
        nodes = {"": say("Any"), **self._choices.nodes}
        self._node = asking.choice(say("Node that makes it"), "node", nodes, "")
        self._place = ui.element("div").classes("r-stack r-wide")
        self._show_fields()

    def _show_fields(self) -> None:
        if not hasattr(self, "_place"):
            return
        say = self._visit.say
        self._fields.clear()
        self._place.clear()
        with self._place:
            for each in locating.kind(self._kind).fields:
                label, hint = say(each.label), say(each.help) if each.help else ""
                if each.options:
                    titles = {key: say(title) for key, title in each.options.items()}
                    made = asking.choice(label, each.name, titles, each.default)
                elif each.hidden:
                    made = asking.secret(label, each.name, help_text=hint)
                else:
                    made = asking.field(label, each.name, each.default, help_text=hint,
                                        props="maxlength=1000 autocomplete=off")  # fmt: skip
                self._fields[each.name] = made

    def _values(self) -> dict[str, str]:
        return {name: str(made.value or "") for name, made in self._fields.items()}

    def _check_place(self) -> str:
        try:
            values = self._values()
            self._location = locating.location(self._kind, values)
            locating.credentials(self._kind, values)
            locating.extras(values, self._location)
        except UsageError as error:
            return self._visit.language.problem(error)
        return ""

    # Encryption.

    def _ask_secret(self) -> None:
        say = self._visit.say
        self._encrypt = asking.switch(say("Encrypt everything on it"), "encrypt", value=True)
        self._secret = ui.element("div").classes("r-stack r-wide")
        with self._secret:
            self._warning = ui.element("div").classes("r-note warn")
            with self._warning:
                ui.label(say("Keep the passphrase where this server is not.")).classes("r-strong")
                ui.label(say(
                    "Without it nobody can read a single point, and nobody can bring it back. The server keeps it for "
                    "the backups; if the server is lost, what you wrote down is all there is."
                ))  # fmt: skip
            self._first = asking.secret(say("Passphrase"), "passphrase", help_text=say(
                "At least {count} characters; several words are easy to write down.",
                count=PASSPHRASE_MIN,
            ))  # fmt: skip
            self._again = asking.secret(say("Passphrase again"), "passphrase-again")
            self._kept = ui.checkbox(say("I have written the passphrase down and keep it safe."))
            self._kept.props("data-test=kept").classes("r-checkbox")
        self._plain = ui.label(say(
            "Whoever gets at the place can read what is on it. Choose this only if the place is "
            "encrypted itself."
        )).classes("r-note warn")  # fmt: skip
        self._encrypt.on_value_change(self._secret_changed)
        self._secret_changed()

    def _secret_changed(self) -> None:
        adopts, encrypts = self._way.value == ADOPT, bool(self._encrypt.value)
        self._secret.set_visibility(encrypts)
        for each in (self._warning, self._again, self._kept):
            each.set_visibility(not adopts)
        self._plain.set_visibility(not encrypts and not adopts)
        text = (
            self._visit.say("It is encrypted")
            if adopts
            else self._visit.say("Encrypt everything on it")
        )
        self._encrypt.set_text(text)

    def _check_secret(self) -> str:
        if not self._encrypt.value:
            return ""
        adopts = self._way.value == ADOPT
        given = secret_complaint(self._first.value or "", self._again.value or "",
                                 kept=bool(self._kept.value), adopts=adopts)  # fmt: skip
        return self._visit.say(given, count=PASSPHRASE_MIN) if given else ""

    # Name, nodes, review.

    def _ask_name(self) -> None:
        say = self._visit.say
        self._name = asking.field(say("Name"), "name", help_text=say("Such as main; policies name it."),
                                  props="maxlength=64")  # fmt: skip
        roles = {"backup": say("Backups"), "copy": say("Copies of backups")}
        self._role = asking.choice(say("It is for"), "role", roles, "backup")
        self._nodes = asking.several(say("Nodes that reach it"), "nodes", self._choices.nodes, (),
                                     help_text=say("None chosen: all."))  # fmt: skip
        self._group = asking.choice(say("Resource group"), "group", self._choices.groups, "default")

    def _check_name(self) -> str:
        return "" if (self._name.value or "").strip() else self._visit.say("It needs a name.")

    def _ask_review(self) -> None:
        self._review = ui.element("div").classes("r-wide")

    def _summary(self) -> Mapping[str, Any]:
        say = self._visit.say
        adopts, encrypts = self._way.value == ADOPT, bool(self._encrypt.value)
        nodes = [self._choices.nodes.get(each, "") for each in self._nodes.value or ()]
        values = self._values()
        found: dict[str, Any] = {
            say("What happens"): say("The storage there is adopted.") if adopts
            else say("A new storage is made."),
            say("Name"): self._name.value,
            say("Location"): lambda: ui.label(self._location).classes("mono"),
            say("Encryption"): say("with a passphrase") if encrypts else say("none"),
            say("Nodes that reach it"): ", ".join(nodes) or say("all"),
        }  # fmt: skip
        if values.get("file_system"):
            found[say("File system")] = say("{name} is made.", name=values["file_system"])
        if values.get("erase"):
            found[say("What is lost")] = say(
                "Everything that is on {device} now.", device=values["erase"]
            )
        return found

    def _body(self) -> dict[str, Any]:
        """Return what the API takes."""
        values = self._values()
        body = {
            "name": (self._name.value or "").strip(), "location": self._location,
            "role": self._role.value, "adopt": self._way.value == ADOPT,
            "node": self._node.value or "", "nodes": list(self._nodes.value or ()),
            "resource_group": self._group.value or "default",
            "credentials": locating.credentials(self._kind, values),
            "passphrase": self._first.value if self._encrypt.value else None,
            **locating.extras(values, self._location),
        }  # fmt: skip
        return {key: value for key, value in body.items() if value is not None}

    async def _make(self) -> None:
        say = self._visit.say
        if self._values().get("erase") and not await self._agreed():
            return
        self._button.props("loading")
        made = await acting.act(self._visit, self._visit.api.post("/storages", self._body()))
        self._button.props(remove="loading")
        if made is None:
            return
        for each in made["problems"]:
            ui.notify(each, type="warning", position="top", timeout=8000)
        points = self._visit.language.number(made["points"])
        text = (
            say("Adopted, with {count} points.", count=points) if made["points"] else say("Added.")
        )
        ui.notify(text, type="positive", position="top")
        ui.navigate.to(f"/storages/{part(made['storage']['name'])}")

    async def _agreed(self) -> bool:
        say, device = self._visit.say, self._values()["erase"].strip()
        return await acting.confirmed_by_name(
            self._visit, say("Erase {device}", device=device),
            [say("Everything that is on {device} now is lost at once.", device=device),
             say("A new file system is made on it.")],
            say("Erase and add"), device,
        )  # fmt: skip


def secret_complaint(first: str, again: str, *, kept: bool, adopts: bool) -> str:
    """Return what is wrong with a passphrase, in English; empty if nothing is."""
    if adopts:
        return "" if first else later("Type the passphrase of the storage.")
    if len(first) < PASSPHRASE_MIN:
        return later("The passphrase needs at least {count} characters.")
    if first != again:
        return later("The two passphrases differ.")
    if not kept:
        return later("Write the passphrase down first, and say so.")
    return ""
