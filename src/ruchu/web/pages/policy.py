"""One policy: what it says in words, what it will do, what it did, and itself as code."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web import policy_acts, policy_facts, policy_words
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import copying, empty, headings, listing, marks, run_words
from ruchu.web.parts.listing import Column
from ruchu.web.visiting import Visit, page

_STARTS = 8
_RUNS = 8
_MACHINES = 10


@page("/policies/{policy}", later("Policy"))
async def policy(visit: Visit, policy: str) -> None:
    """Show a policy."""
    await _Page(visit, policy).show()


class _Page:
    """The page of a policy."""

    def __init__(self, visit: Visit, policy: str) -> None:
        self._visit = visit
        self._path = f"/policies/{part(policy)}"
        self._row: Mapping[str, Any] = {}
        self._dry: Mapping[str, Any] = {}
        self._runs: Sequence[Mapping[str, Any]] = ()

    async def show(self) -> None:
        await self._fetch()
        visit = self._visit
        self._head = ui.element("div").classes("r-wide")
        with ui.element("div").classes("r-grid"):
            with headings.card(visit.say("What it does"), "r-7"):
                self._facts = ui.element("div").classes("r-wide")
            with headings.card(visit.say("Next starts"), "r-5"):
                self._starts = ui.element("div").classes("r-wide")
        with headings.card(visit.say("Machines that it selects now")):
            self._missing = ui.element("div").classes("r-wide")
            columns = [Column("name", visit.say("Name")), Column("host", visit.say("Host")),
                       Column("folder", visit.say("Folder")), Column("tags", visit.say("Tags"))]  # fmt: skip
            self._machines = listing.Listing(
                visit, columns, self._page_of_machines, nothing=self._no_machine,
                label=visit.say("Machines"),
            )  # fmt: skip
        with headings.card(visit.say("Recent runs")):
            self._recent = ui.element("div").classes("r-wide")
        with headings.card(visit.say("As code")):
            ui.label(visit.say("For a file that “ruchu apply” reads.")).classes("r-help")
            self._code = ui.element("div").classes("r-wide")
        await self._fill()
        visit.live(self._refresh, "policy", "run", "inventory", every_s=2.0)

    async def _fetch(self) -> None:
        api = self._visit.api
        self._row = await api.get(self._path)
        identity = self._row["id"]
        self._dry = await api.get(f"{self._path}/dry-run", count=_STARTS)
        self._runs = (await api.get("/runs", policy=identity, limit=_RUNS))["items"]

    async def _refresh(self) -> None:
        await self._fetch()
        await self._fill()

    async def _fill(self) -> None:
        document = self._row["policy"]
        for place, fill in (
            (self._head, self._fill_head), (self._facts, self._fill_facts),
            (self._starts, self._fill_starts), (self._missing, self._fill_missing),
            (self._recent, self._fill_runs),
        ):  # fmt: skip
            place.clear()
            with place:
                fill()
        self._code.clear()
        with self._code:
            copying.copied(self._visit, policy_words.as_code(document), "policy-code",
                           self._visit.say("As code"))  # fmt: skip
        await self._machines.refresh()

    def _fill_head(self) -> None:
        visit, say, document = self._visit, self._visit.say, self._row["policy"]
        mark = policy_words.ON if document["schedules"] else policy_words.BY_HAND
        if not document["enabled"]:
            mark = policy_words.OFF
        with headings.head(document["name"]):
            marks.show(mark, visit.language)
            self._button(say("History"), "history", "history", self._go_history)
            if not visit.may(Right.OPERATE, document["group"]):
                return
            if document["enabled"]:
                self._button(say("Turn off"), "pause", "pause", self._toggle)
            else:
                self._button(say("Turn on"), "power_settings_new", "enable", self._toggle)
            self._button(say("Change"), "edit", "edit", self._go_edit)
            self._button(say("Remove"), "delete", "remove", self._remove)
            run = ui.button(say("Run now"), icon="play_arrow", on_click=self._run)
            run.props("unelevated no-caps color=primary data-test=run-now")

    def _button(self, text: str, icon: str, name: str, act: Any) -> None:
        button = ui.button(text, icon=icon, on_click=act, color=None).classes("r-quiet")
        button.props(f"flat no-caps data-test={name}")

    def _run(self) -> None:
        policy_acts.ask_kind(self._visit, self._row["id"], self._row["policy"]["name"])

    def _go_history(self) -> None:
        ui.navigate.to(policy_acts.history(self._row))

    def _go_edit(self) -> None:
        ui.navigate.to(f"/policies/{self._row['id']}/edit")

    async def _toggle(self) -> None:
        enabled = not self._row["policy"]["enabled"]
        await policy_acts.enable(self._visit, self._row["id"], enabled=enabled)

    async def _remove(self) -> None:
        if await policy_acts.remove(self._visit, self._row["id"]):
            ui.navigate.to("/policies")

    def _fill_facts(self) -> None:
        headings.facts(policy_facts.facts(self._visit.language, self._row["policy"]))

    def _fill_starts(self) -> None:
        document = self._row["policy"]
        if not document["enabled"]:
            text = self._visit.say("It is off: nothing starts until it is turned on.")
            ui.label(text).classes("r-note warn")
        policy_facts.show_starts(self._visit, self._dry["starts"], document["zone"])

    def _fill_missing(self) -> None:
        missing = self._dry["missing"]
        if missing:
            text = self._visit.say(
                "Named, but not there: {names}",
                names=policy_facts.cut(self._visit.language, missing),
            )
            ui.label(text).classes("r-note warn")

    async def _page_of_machines(
        self, after: str, limit: int
    ) -> tuple[Sequence[listing.Row], str | None]:
        del limit
        begin = int(after or 0)
        following = begin + _MACHINES
        found = self._dry["machines"]
        rows = [self._machine(each) for each in found[begin:following]]
        return rows, str(following) if len(found) > following else None

    def _machine(self, machine: Mapping[str, Any]) -> dict[str, Any]:
        link = f"/machines/{part(machine['platform'])}/{part(machine['id'])}"
        tags = policy_words.join(self._visit.language, machine["tags"])
        return {"id": machine["id"], "name": {"text": machine["name"], "link": link},
                "host": machine["host"] or "–", "folder": machine["folder"] or "–",
                "tags": tags or "–"}  # fmt: skip

    def _no_machine(self) -> None:
        say = self._visit.say
        empty.empty("computer", say("It selects no machine."),
                    say("Change what it selects, or look whether its platform answers."))  # fmt: skip

    def _fill_runs(self) -> None:
        visit = self._visit
        if not self._runs:
            ui.label(visit.say("It never ran.")).classes("muted")
            return
        for run in self._runs:
            with ui.link(target=f"/runs/{run['id']}").classes("r-run-line"):
                marks.show(marks.of(marks.RUNS, run["state"]), visit.language)
                ui.label(visit.language.moment(run["created"])).classes("r-run-when")
                ui.label(_took(visit, run)).classes("muted")
                ui.label(run_words.reason(visit.language, run["reason"])).classes(
                    "muted r-run-reason"
                )


def _took(visit: Visit, run: Mapping[str, Any]) -> str:
    if not run["started"]:
        return ""
    return visit.language.between(run["started"], run["ended"], visit.now)
