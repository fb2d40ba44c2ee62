"""What a policy protects: machines that are ticked, a rule, or everything."""

import asyncio
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web import policy_facts, policy_form, policy_words
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import empty
from ruchu.web.policy_steps.desk import Desk
from ruchu.web.policy_steps.picking import Picker

_MODES: Mapping[str, str] = {
    policy_form.PICK: later("Chosen machines"),
    policy_form.RULE: later("By rule"),
    policy_form.ALL: later("Every machine"),
}
_HELP: Mapping[str, str] = {
    policy_form.PICK: later("These machines, whatever they are called later."),
    policy_form.RULE: later(
        "Every machine that one of the rules takes, also those that come later."
    ),
    policy_form.ALL: later("Every machine of the platform, also those that come later."),
}


async def build(desk: Desk) -> None:
    """Show the step."""
    say = desk.visit.say
    if not desk.platforms:
        empty.empty("dns", say("No platform is known yet."),
                    say("A platform is where machines run, such as a host with KVM."),
                    action=say("Add a platform"), target="/platforms/new")  # fmt: skip
        return
    await _What(desk).show()


class _What:
    """The step, and the part of it that depends on the platform and the way to select."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._form = desk.form
        self._turn = asyncio.Lock()

    async def show(self) -> None:
        desk, say = self._desk, self._desk.visit.say
        names = {row["name"]: row["name"] for row in desk.platforms}
        with ui.element("div").classes("r-two"):
            platform = desk.choice(self._form, "platform", say("Platform"), names)
            platform.on_value_change(self._draw)
        modes = {mode: say(text) for mode, text in _MODES.items()}
        with ui.element("div").classes("r-modes"):
            mode = ui.toggle(modes, value=self._form.mode, on_change=self._chosen)
            mode.props(f'no-caps unelevated data-test=mode aria-label="{say("What it selects")}"')
        self._help = ui.label("").classes("r-help")
        desk.complaint("machines")
        desk.complaint("rule")
        self._body = ui.element("div").classes("r-form-wide")
        with ui.element("div").classes("r-card r-quiet-card"):
            self._preview = ui.element("div").classes("r-wide").props("aria-live=polite")
        await self._draw()
        desk.follow(self._show_preview)

    async def _chosen(self, event: Any) -> None:
        self._form.mode = event.value
        self._desk.changed()
        await self._draw()

    async def _draw(self) -> None:
        """Show what belongs to the way to select; one choice after the other."""
        async with self._turn:
            await self._redraw()

    async def _redraw(self) -> None:
        form, say = self._form, self._desk.visit.say
        self._help.set_text(say(_HELP[form.mode]))
        self._body.clear()
        if not form.platform:
            return
        with self._body:
            if form.mode == policy_form.PICK:
                picker = Picker(self._desk.visit, form.platform, form.machines, self._desk.changed)
                await self._desk.visit.guarded(picker.refresh)
                if form.excluded:
                    self._excluded()
            else:
                await self._desk.visit.guarded(self._rules)

    async def _rules(self) -> None:
        desk, form, say = self._desk, self._form, self._desk.visit.say
        if form.mode == policy_form.RULE:
            places = await self._places()
            desk.chips(
                form, "patterns", say("Names"),
                help_text=say("Such as web-* or db-0?. Press Enter after each."),
            )  # fmt: skip
            with ui.element("div").classes("r-two"):
                desk.several(form, "tags", say("Tags"), self._options(places, "tags"))
                desk.several(form, "hosts", say("Hosts"), self._options(places, "hosts"))
            desk.several(
                form, "folders", say("Folders"), self._options(places, "folders"),
                help_text=say("With everything in them."),
            )  # fmt: skip
            if form.machines:
                desk.chips(form, "machines", say("Machines by name"), key="named")
        self._excluded()

    async def _places(self) -> Mapping[str, Any]:
        try:
            found: Mapping[str, Any] = await self._desk.visit.api.get(
                f"/platforms/{part(self._form.platform)}/places"
            )
        except Answered as error:
            if error.status == 401:
                raise
            return {"tags": (), "hosts": (), "folders": ()}
        return found

    def _options(self, places: Mapping[str, Any], kind: str) -> dict[str, str]:
        language = self._desk.visit.language
        return {each["name"]: f"{each['name']} · {policy_words.machines(language, each['machines'])}"
                for each in places[kind]}  # fmt: skip

    def _excluded(self) -> None:
        say = self._desk.visit.say
        self._desk.chips(
            self._form, "excluded", say("Except"),
            help_text=say("Names, or patterns such as test-*. Press Enter after each."),
        )  # fmt: skip

    def _show_preview(self) -> None:
        visit, preview = self._desk.visit, self._desk.preview
        self._preview.clear()
        with self._preview:
            chosen = preview is not None and (preview["count"] or preview["missing"])
            if preview is None or not chosen:
                empty = self._form.mode == policy_form.PICK or preview is None
                text = (
                    visit.say("Choose what to protect.")
                    if empty
                    else visit.say("It selects no machine now.")
                )
                ui.label(text).classes("muted")
                return
            size = visit.language.size(preview["disk_bytes"])
            count = policy_words.machines(visit.language, preview["count"])
            text = visit.say("Selects {machines} now, {size} of disks.", machines=count, size=size)
            ui.label(text).classes("r-card-title").props("data-test=selected-now")
            names = [each["name"] for each in preview["machines"]]
            if names:
                shown = policy_facts.cut(visit.language, names)
                ui.label(shown).classes("r-sub")
            if preview["missing"]:
                missing = policy_facts.cut(visit.language, preview["missing"])
                ui.label(visit.say("Named, but not there: {names}", names=missing)).classes(
                    "r-note warn"
                )
                if self._form.mode == policy_form.PICK:
                    ui.button(visit.say("Forget those"), on_click=self._forget).props(
                        "flat dense no-caps"
                    )

    async def _forget(self) -> None:
        gone = set((self._desk.preview or {}).get("missing", ()))
        self._form.machines[:] = [each for each in self._form.machines if each not in gone]
        self._desk.changed()
        await self._draw()
