"""The first-run guide: storage, platform, policy, and the first backup to its verified end."""

import asyncio
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web import guide_follow, guide_steps, guiding
from ruchu.web.guide_follow import Follow
from ruchu.web.guide_steps import Step
from ruchu.web.guiding import Standing
from ruchu.web.language import later
from ruchu.web.parts import headings
from ruchu.web.visiting import Visit, page

_TITLES: Mapping[str, str] = {
    guiding.STORAGE: later("Storage: where backups are kept"),
    guiding.PLATFORM: later("Platform: where your machines run"),
    guiding.POLICY: later("Policy: what is backed up, and when"),
    guiding.BACKUP: later("First backup"),
}
_LIVE = ("storage", "platform", "inventory", "policy", "run", "task", "node")


@page("/guide", later("First steps"), need=Right.CONFIGURE)
async def guide(visit: Visit) -> None:
    """Lead a new server to its first verified backup."""
    say = visit.say
    with headings.head(
        say("First steps"), say("Four steps to a first verified backup. It takes two minutes.")
    ):
        skip = ui.button(say("Skip the guide"), on_click=lambda: ui.navigate.to("/"))
        skip.props("flat no-caps data-test=skip")
    await _Guide(visit, skip).show()


class _Guide:
    """The guide: what is done, what comes next, what comes later."""

    def __init__(self, visit: Visit, skip: Any) -> None:
        self._visit = visit
        self._skip = skip
        self._shown = ""
        self._follow: Follow | None = None
        # Whoever ends a step and the live look at the server draw one after the other.
        self._drawing = asyncio.Lock()

    async def show(self) -> None:
        self._body = ui.element("div").classes("r-guide")
        await self._refresh()
        self._visit.live(self._refresh, *_LIVE)

    async def _refresh(self) -> None:
        """Show where things stand; a step that somebody fills in stays as it is."""
        async with self._drawing:
            await self._redraw(await self._standing())

    async def _redraw(self, standing: Standing) -> None:
        if standing.step != self._shown:
            self._shown = standing.step
            self._follow = None
            self._body.clear()
            with self._body:
                await self._draw(standing)
        if self._follow is not None:
            await self._follow.show(standing)

    async def _standing(self) -> Standing:
        api = self._visit.api
        storage = guiding.the_storage(await api.get("/storages"))
        platform = guiding.the_platform(await api.get("/platforms"))
        policy = guiding.the_policy(await api.get("/policies/overview"))
        backup = policy["last"] if policy is not None else None
        if policy is None:
            return Standing(storage, platform)
        checks = (await api.get("/runs", kind="verify", limit=50))["items"]
        check = guiding.the_check(checks, policy, backup)
        clean = None
        if check is not None and check["ended"]:
            clean = guiding.clean(await api.get(f"/runs/{check['id']}/tasks"))
        points = (await api.get("/points", storage=policy["storage"], limit=100))["items"]
        proven = bool(guiding.sound(points))
        return Standing(storage, platform, policy, backup, check, clean, proven)

    async def _draw(self, standing: Standing) -> None:
        self._skip.set_visibility(standing.step != guiding.DONE)
        if standing.step == guiding.DONE:
            await guide_follow.done(self._visit, standing)
            return
        at = guiding.STEPS.index(standing.step)
        body: Any = None
        for number, name in enumerate(guiding.STEPS):
            state = "done" if number < at else "here" if number == at else "later"
            with ui.element("section").classes(f"r-card r-guide-step {state}") as card:
                card.props(f"data-test=guide-{name}-{state}")
                self._title(number, name, state, self._summary(name, standing))
                if number == at:
                    body = ui.element("div").classes("r-guide-body")
        # The last of it: a step may have to ask a node first.
        with body:
            await self._step(standing.step, standing)

    def _title(self, number: int, name: str, state: str, summary: str) -> None:
        with ui.element("div").classes("r-guide-title"):
            with ui.element("span").classes("r-rail-number"):
                if state == "done":
                    ui.icon("check").props(f'role=img aria-label="{self._visit.say("done")}"')
                else:
                    ui.label(str(number + 1))
            heading = ui.label(self._visit.say(_TITLES[name])).classes("r-card-title")
            heading.props("role=heading aria-level=2")
            if state == "done":
                ui.label(summary).classes("muted r-guide-summary")

    def _summary(self, name: str, standing: Standing) -> str:
        """Return what was made in a step that is done."""
        if name == guiding.STORAGE and standing.storage is not None:
            free = self._visit.language.size(standing.storage["free"])
            return self._visit.say("{name}, {free} free", name=standing.storage["name"], free=free)
        thing: Mapping[str, Any] | None = {
            guiding.PLATFORM: standing.platform, guiding.POLICY: standing.policy,
        }.get(name)  # fmt: skip
        return str(thing["name"]) if thing is not None else ""

    async def _step(self, name: str, standing: Standing) -> None:
        step = Step(self._visit, self._refresh)
        match name:
            case guiding.STORAGE:
                guide_steps.storage(step)
            case guiding.PLATFORM:
                await guide_steps.platform(step)
            case guiding.POLICY:
                await guide_steps.policy(step, standing)
            case _:
                self._follow = Follow(self._visit)
