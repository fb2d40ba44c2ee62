"""The wizard that makes and changes policies: what, where, when, how long, how, review."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qs

from nicegui import ui

from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web import policy_form, shell
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import acting, headings, tabbing
from ruchu.web.policy_form import Form
from ruchu.web.policy_steps import how, keep, review, what, when, where
from ruchu.web.policy_steps.desk import PREVIEW_S, Build, Desk
from ruchu.web.visiting import Visit, page


@dataclass(frozen=True, slots=True)
class _Step:
    """A step: its name in the address, its title, what it is about, and what shows it."""

    name: str
    title: str
    lead: str
    build: Build


_STEPS = (
    _Step("what", later("What"), later("Which machines are protected."), what.build),
    _Step("where", later("Where"), later("Where their points are kept."), where.build),
    _Step("when", later("When"), later("When backups start."), when.build),
    _Step("keep", later("How long"), later("How long points stay."), keep.build),
    _Step("how", later("How"), later("How it is done. As usual fits nearly always."), how.build),
    _Step("review", later("Review"), later("What will happen, before it does."), review.build),
)


@page("/policies/new", later("New policy"), need=Right.OPERATE)
async def new(visit: Visit) -> None:
    """Show the wizard for a new policy; the address may name a platform and machines."""
    form = policy_form.fresh(visit.language.zone)
    query = parse_qs(visit.path.partition("?")[2])
    desk = await _desk(visit, form)
    platforms = [row["name"] for row in desk.platforms]
    wanted = query.get("platform", platforms[:1])
    form.platform = wanted[0] if wanted and wanted[0] in platforms else ""
    form.machines = [each for each in query.get("machine", ()) if each]
    backups = [row["name"] for row in desk.storages if row["role"] == "backup"]
    form.storage = backups[0] if len(backups) == 1 else ""
    await _Wizard(desk, visit.say("New policy")).show()


@page("/policies/{policy}/edit", later("Change a policy"), need=Right.OPERATE)
async def edit(visit: Visit, policy: str) -> None:
    """Show the wizard for a policy that there is."""
    answer = await visit.api.call("GET", f"/policies/{part(policy)}")
    document = answer.body["policy"]
    if not visit.may(Right.OPERATE, document["group"]):
        shell.not_allowed(visit, Right.OPERATE)
        return
    desk = await _desk(visit, policy_form.form_of(document), own_name=document["name"])
    title = visit.say("Change {name}", name=document["name"])
    await _Wizard(desk, title, (answer.body["id"], answer.tag)).show()


async def _desk(visit: Visit, form: Form, own_name: str = "") -> Desk:
    return Desk(
        visit, form,
        platforms=await visit.api.get("/platforms"),
        storages=await visit.api.get("/storages"),
        policies=await visit.api.get("/policies/overview"),
        own_name=own_name,
    )  # fmt: skip


class _Wizard:
    """The steps, one of them on the screen, and what keeps the policy at the end.

    `kept` is the id and the tag of a policy that is changed.
    """

    def __init__(self, desk: Desk, title: str, kept: tuple[str, str] | None = None) -> None:
        self._desk = desk
        self._visit = desk.visit
        self._title = title
        self._kept = kept
        # A step may have to ask the server first: who presses twice goes on by two, one after the
        # other, and no step is drawn into another one.
        self._turn = asyncio.Lock()
        names = [step.name for step in _STEPS]
        wanted = desk.visit.query.get("step", "")
        self._at = names.index(wanted) if wanted in names else 0

    async def show(self) -> None:
        say = self._visit.say
        with headings.head(self._title):
            ui.button(say("Cancel"), on_click=self._leave).props("flat no-caps")
            if self._kept is not None:
                self._save_button(say("Save"), "save-now")
        with ui.element("div").classes("r-wizard"):
            self._rail = ui.element("nav").classes("r-rail")
            self._rail.props(f'aria-label="{say("Steps")}"')
            with ui.element("section").classes("r-card r-wiz"):
                self._heading = (
                    ui.label("").classes("r-wiz-title").props("role=heading aria-level=2")
                )
                self._lead = ui.label("").classes("r-lead")
                self._body = ui.element("div").classes("r-wiz-body")
                with ui.element("div").classes("r-wiz-buttons"):
                    self._back = ui.button(say("Back"), on_click=self._go_back)
                    self._back.props("flat no-caps data-test=back")
                    ui.space()
                    self._on = ui.button(say("Next"), on_click=self._go_on)
                    self._on.props("unelevated no-caps color=primary data-test=next")
                    text = say("Save") if self._kept is not None else say("Create the policy")
                    self._save = self._save_button(text, "save")
        self._desk.drawn = self._draw_rail
        async with self._turn:
            await self._open()
        ui.timer(PREVIEW_S, self._desk.look)

    def _save_button(self, text: str, name: str) -> Any:
        button = ui.button(text, on_click=self._keep)
        return button.props(f"unelevated no-caps color=primary data-test={name}")

    def _leave(self) -> None:
        ui.navigate.to("/policies" if self._kept is None else f"/policies/{self._kept[0]}")

    # Steps.

    async def _go_to(self, at: int) -> None:
        async with self._turn:
            await self._turn_to(at)

    async def _turn_to(self, at: int) -> None:
        """Show a step; the caller has the turn."""
        self._desk.checked.add(_STEPS[self._at].name)
        self._at = at
        tabbing.address(self._visit, {**self._visit.query, "step": _STEPS[at].name})
        await self._open()

    async def _go_back(self) -> None:
        async with self._turn:
            await self._turn_to(max(0, self._at - 1))

    async def _go_on(self) -> None:
        """Show the next step, unless something is wrong in this one."""
        async with self._turn:
            name = _STEPS[self._at].name
            self._desk.checked.add(name)
            if any(policy_form.step_of(each) == name for each in self._desk.problems()):
                self._desk.mark()
                self._draw_rail()
                return
            await self._turn_to(min(len(_STEPS) - 1, self._at + 1))

    async def _open(self) -> None:
        step, last = _STEPS[self._at], self._at == len(_STEPS) - 1
        say = self._visit.say
        self._heading.set_text(say(step.title))
        self._lead.set_text(say(step.lead))
        self._desk.clear()
        self._body.clear()
        with self._body:
            await step.build(self._desk)
        self._desk.mark()
        self._back.set_visibility(self._at > 0)
        self._on.set_visibility(not last)
        self._save.set_visibility(last)
        self._draw_rail()

    def _draw_rail(self) -> None:
        say = self._visit.say
        wrong = {policy_form.step_of(name) for name in self._desk.problems()}
        state = (self._at, frozenset(wrong & self._desk.checked), frozenset(self._desk.checked))
        if getattr(self, "_drawn", None) == state:
            return
        self._drawn = state
        self._rail.clear()
        with self._rail:
            where = say("Step {number} of {count}", number=self._at + 1, count=len(_STEPS))
            ui.label(where).classes("r-rail-where")
            for number, step in enumerate(_STEPS):
                self._rail_step(number, step, wrong)

    def _rail_step(self, number: int, step: _Step, wrong: set[str]) -> None:
        say = self._visit.say
        checked, here = step.name in self._desk.checked, number == self._at
        bad = checked and step.name in wrong
        with ui.element("button").classes("r-rail-step") as button:
            button.props(f"type=button data-test=step-{step.name}")
            with ui.element("span").classes("r-rail-number"):
                if bad or (checked and not here):
                    ui.icon("priority_high" if bad else "check").props("aria-hidden=true")
                else:
                    ui.label(str(number + 1))
            ui.label(say(step.title)).classes("r-rail-title")
        state = say("something is missing") if bad else say("done") if checked else ""
        button.props(f'aria-label="{say(step.title)}{", " if state else ""}{state}"')
        if here:
            button.classes("r-here").props("aria-current=step")
        if bad:
            button.classes("r-bad")
        elif checked:
            button.classes("r-done")
        button.on("click", lambda: self._go_to(number))

    # The end.

    async def _keep(self) -> None:
        """Keep the policy, or show the first step that has a problem."""
        problems = self._desk.problems()
        if problems:
            self._desk.checked |= {step.name for step in _STEPS}
            bad = {policy_form.step_of(name) for name in problems}
            await self._go_to(min(n for n, step in enumerate(_STEPS) if step.name in bad))
            ui.notify(self._visit.say("Something is missing or cannot be. It is marked."),
                      type="warning", position="top")  # fmt: skip
            return
        try:
            row = await self._send(policy_form.document(self._desk.form))
        except Answered as error:
            acting.tell_problem(self._visit, error)
            return
        ui.navigate.to(f"/policies/{row['id']}")

    async def _send(self, document: Mapping[str, Any]) -> Mapping[str, Any]:
        api = self._visit.api
        if self._kept is None:
            made: Mapping[str, Any] = await api.post("/policies", document)
            return made
        identity, tag = self._kept
        changed: Mapping[str, Any] = await api.put(f"/policies/{identity}", document, tag)
        return changed
