"""Instant restores that run: what they show, how large they grow, and how they end."""

from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web import restore_form
from ruchu.web.calling import PREFIX, part
from ruchu.web.language import later
from ruchu.web.parts import acting, asking, empty, headings, marks, saved_points, waiting
from ruchu.web.parts.marks import BAD, BUSY, GOOD, WARN, Mark
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
# Each look takes a process on every node.
LOOK_S, PICTURE_S = 20.0, 20.0
_SHOWN = "(event) => event.target.parentElement.classList.{act}('ri-there')"
# What the server says of a node that is not there.
_AWAY = later("It is not connected.")
_ACTS = ("migration", "instant-stop")
STATES: Mapping[str, Mark] = {
    "starting": Mark(later("Starting"), BUSY, "hourglass_top"),
    "running": Mark(later("Running"), GOOD, "play_circle"),
    "silent": Mark(later("Not served"), BAD, "error"),
    "moved": Mark(later("In production"), GOOD, "task_alt"),
    "migration": Mark(later("Moving to production"), BUSY, "move_up"),
    "instant-stop": Mark(later("Ending"), WARN, "stop_circle"),
}


def state_of(instant: Found, run: Found | None) -> Mark:
    """Return how an instant restore is: what is done with it now counts most."""
    if run is not None:
        return STATES[run["kind"]]
    if instant["state"] == "running" and instant["export"] != "running":
        return STATES["silent"]
    return marks.of(STATES, instant["state"])


def share_of(tasks: Sequence[Found]) -> tuple[float | None, int, int]:
    """Return how far tasks are (None: no telling), the bytes that are done and all of them."""
    progress = [task["progress"] or {} for task in tasks]
    done = sum(int(each.get("done") or 0) for each in progress)
    total = sum(int(each.get("total") or 0) for each in progress)
    return (min(1.0, done / total) if total else None), done, total


@page("/instants", later("Instant restores"))
async def instants(visit: Visit) -> None:
    """Show all instant restores of all nodes."""
    say = visit.say
    lead = say("Machines that run from a point, until they are moved to production or stopped.")
    with headings.head(say("Instant restores"), lead):
        if visit.may(Right.RESTORE):
            ui.button(say("New instant restore"), icon="bolt",
                      on_click=lambda: ui.navigate.to("/restore")).props(
                "unelevated no-caps color=primary"
            )  # fmt: skip
    board = Board(visit)
    with waiting.waiting(say("Asking the nodes…")):
        await board.refresh()
    visit.live(board.refresh, "run", every_s=2.0)
    visit.live(board.follow, "task")
    ui.timer(LOOK_S, lambda: visit.guarded(board.refresh), immediate=False)


class Board:
    """The cards of all instant restores; a card stays as long as what it shows does."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._silent = ui.element("div").classes("r-wide")
        self._nothing = ui.element("div").classes("r-wide")
        self._list = ui.element("div").classes("ri-list")
        self._cards: dict[str, Card] = {}
        self._groups: dict[str, str] = {}

    async def refresh(self) -> None:
        """Ask the nodes, and show what they say."""
        api = self._visit.api
        self._groups = {each["name"]: each["resource_group"] for each in await api.get("/storages")}
        found = await api.get("/instants")
        self._show_silent(found["silent"])
        shown = {each["instant"]: each for each in found["instants"]}
        # Of a node that does not answer, what was known stays on the page.
        away = {each["node"] for each in found["silent"]}
        for identity, card in list(self._cards.items()):
            if identity not in shown and card.instant["node"] not in away:
                card.element.delete()
                del self._cards[identity]
        for identity, instant in shown.items():
            if identity in self._cards:
                self._cards[identity].update(instant)
                continue
            with self._list:
                group = self._groups.get(instant["storage"])
                able = self._visit.may(Right.RESTORE, group or "")
                self._cards[identity] = Card(self._visit, instant, able=able)
        self._show_nothing(silent=bool(found["silent"]))
        await self.follow()

    async def follow(self) -> None:
        """Show what is done with them now."""
        if not self._cards:
            return
        busy: dict[str, Found] = {}
        for kind in _ACTS:
            page_ = await self._visit.api.get(
                "/runs", kind=kind, state=["queued", "waiting", "running"], limit=100
            )
            for run in page_["items"]:
                whole = await self._visit.api.get(f"/runs/{run['id']}")
                busy[str(whole["body"].get("instant"))] = whole
        for identity, card in list(self._cards.items()):
            run = busy.get(identity)
            tasks = await self._visit.api.get(f"/runs/{run['id']}/tasks") if run else []
            card.follow(run, tasks)

    def _show_silent(self, silent: Sequence[Found]) -> None:
        say = self._visit.say
        self._silent.clear()
        if not silent:
            return
        names = ", ".join(each["name"] for each in silent)
        reasons = dict.fromkeys(each["why"] for each in silent)
        why = " ".join(say(_AWAY) if each == _AWAY else each for each in reasons)
        with self._silent, ui.element("div").classes("rt-notice").props("role=status"):
            ui.icon("link_off").props("aria-hidden=true")
            with ui.element("div"):
                ui.label(say("Did not answer: {names}. What runs there may be missing here.",
                             names=names))  # fmt: skip
                ui.label(why).classes("r-sub")

    def _show_nothing(self, *, silent: bool) -> None:
        say = self._visit.say
        self._nothing.clear()
        if self._cards:
            return
        with self._nothing:
            if silent:
                empty.empty("link_off", say("Nothing is known to run."),
                            say("Nodes that did not answer may run some."))  # fmt: skip
                return
            empty.empty("bolt", say("No instant restore runs."),
                        say("Choose a point of a machine: it runs within seconds, from the"
                            " storage, and can be moved to production later."),
                        action=say("Choose a machine"), target="/restore")  # fmt: skip


class Card:
    """One instant restore."""

    def __init__(self, visit: Visit, instant: Found, *, able: bool) -> None:
        self._visit = visit
        self.instant = instant
        self._able = able
        self._run: Found | None = None
        self._looks = 0
        say = visit.say
        with headings.card(classes="ri-card") as self.element:
            self.element.props(f'data-test="instant-{instant["name"]}"')
            with ui.element("div").classes("ri-top"):
                title = ui.label(instant["name"]).classes("ri-name")
                title.props("role=heading aria-level=2")
                self._state = ui.element("div")
            with ui.element("div").classes("ri-body"):
                self._screen()
                self._facts = ui.element("div").classes("r-wide")
            self._move = ui.element("div").classes("ri-move").props("role=status")
            self._move.set_visibility(False)
            self._acts = ui.element("div").classes("ri-acts")
        with self._acts:
            self._buttons(say)
        self._show()

    def update(self, instant: Found) -> None:
        """Take in what the node says now."""
        if instant != self.instant:
            self.instant = instant
            self._show()

    def follow(self, run: Found | None, tasks: Sequence[Found]) -> None:
        """Show what is done with it now."""
        before, self._run = self._run, run
        if (before or {}).get("id") != (run or {}).get("id"):
            self._show()
        self._acts.set_visibility(run is None and self._able)
        self._move.set_visibility(run is not None)
        if run is None:
            return
        say, language = self._visit.say, self._visit.language
        share, done, total = share_of(tasks)
        self._move.clear()
        with self._move:
            ui.label(marks.kind(language, run["kind"]))
            with ui.element("div").classes("r-bar") as bar:
                bar.props(f'role=progressbar aria-label="{marks.kind(language, run["kind"])}"')
                ui.element("i").style(f"width: {round(100 * (share or 0))}%")
            if total:
                ui.label(say("{done} of {total}", done=language.size(done),
                             total=language.size(total))).classes("r-sub")  # fmt: skip
            ui.link(say("See the job"), f"/runs/{run['id']}")

    # What it shows.

    def _show(self) -> None:
        visit, say, instant = self._visit, self._visit.say, self.instant
        self._state.clear()
        with self._state:
            marks.show(state_of(instant, self._run), visit.language)
        self._facts.clear()
        with self._facts:
            headings.facts({
                say("Point"): lambda: ui.link(instant["point"][:8],
                                              saved_points.point_address(instant["point"])),
                say("Runs for"): visit.language.between(instant["since"], None, visit.now),
                say("Since"): visit.language.moment(instant["since"]),
                say("Platform"): instant["platform"],
                say("Storage"): instant["storage"],
                say("Node"): instant["node_name"],
                say("Disks"): f"{', '.join(instant['disks'])} ({instant['protocol'].upper()})",
                say("Write cache"): visit.language.size(instant["cache_bytes"]),
            })  # fmt: skip

    def _screen(self) -> None:
        say = self._visit.say
        label = say("Console of {name}", name=self.instant["name"])
        with ui.element("div").classes("ri-screen"):
            with ui.element("div").classes("ri-blank"):
                ui.icon("desktop_access_disabled").props("aria-hidden=true size=md")
                ui.label(say("No picture of the console.") if self._able
                         else say("Your role does not allow this."))  # fmt: skip
            if not self._able:
                return
            self._picture = ui.element("img").props(f'alt="{label}" data-test=picture')
            # The browser shows it once it is there; the server need not hear of that.
            self._picture.on("load", js_handler=_SHOWN.format(act="add"))
            self._picture.on("error", js_handler=_SHOWN.format(act="remove"))
            look = ui.button(icon="refresh", on_click=self._look, color=None)
            look.props(f'flat round dense aria-label="{say("Look again")}" data-test=look')
            ui.timer(PICTURE_S, self._look, immediate=True)

    def _look(self) -> None:
        """Let the browser fetch the picture anew."""
        self._looks += 1
        self._picture.props(f'src="{picture_address(self.instant, self._looks)}"')

    # What can be done.

    def _buttons(self, say: Any) -> None:
        ui.button(say("Move to production"), icon="move_up", on_click=self._migrate).props(
            "unelevated no-caps color=primary data-test=migrate"
        )
        ui.button(say("Stop"), icon="stop", on_click=self._stop, color=None).props(
            "flat no-caps data-test=stop"
        ).classes("r-quiet")

    def _migrate(self) -> None:
        visit, say = self._visit, self._visit.say
        lead = say("{name} gets disks of its own while it runs on. After that nothing needs the"
                   " storage or the node any more.", name=self.instant["name"])  # fmt: skip
        with asking.dialog(say("Move to production"), lead=lead) as dialog:
            methods = {
                "hypervisor": say("By the hypervisor: it mirrors the disks, the guest does not"
                                  " notice."),
                "own": say("By Ruchu: copied from the storage; the guest stands still for some"
                           " seconds at the end. Interrupted, it goes on where it was."),
            }  # fmt: skip
            method = ui.radio(methods, value="hypervisor").props("data-test=method")
            directory = asking.field(say("Directory for its disks"), "directory",
                                     help_text=say("Empty: where the disks of the machine were."
                                                   ))  # fmt: skip

            async def go() -> bool:
                more = {"method": method.value, "directory": (directory.value or "").strip()}
                return await self._go_on("migration", more)

            asking.actions(visit, dialog, say("Move"), go)

    def _stop(self) -> None:
        say = self._visit.say
        name = self.instant["name"]
        with asking.dialog(say("Stop {name}?", name=name)) as dialog:
            ways = {
                True: say("Keep what it wrote as a new point. It is shut down first."),
                False: say("Drop what it wrote. It is switched off at once."),
            }
            keep = ui.radio(ways, value=True).props("data-test=keep")

            async def go() -> bool:
                if keep.value:
                    return await self._go_on("instant-stop", {"keep": True})
                dialog.close()
                return await self._drop()

            asking.actions(self._visit, dialog, say("Go on"), go)

    async def _drop(self) -> bool:
        visit, say, name = self._visit, self._visit.say, self.instant["name"]
        losses = restore_form.stopped_losses(visit.language, self.instant)
        title, act = say("Stop {name} and lose what it wrote?", name=name), say("Stop")
        with self._acts:
            if not await acting.confirmed_by_name(visit, title, losses, act, name):
                return False
        return await self._go_on("instant-stop", {"keep": False})

    async def _go_on(self, kind: str, more: Mapping[str, Any]) -> bool:
        body = restore_form.instant_act_body(self.instant, **more)
        new = {"kind": kind, "name": self.instant["name"], "body": body}
        run = await acting.act(self._visit, self._visit.api.post("/runs", new),
                               self._visit.say("Started."))  # fmt: skip
        return run is not None


def picture_address(instant: Found, number: int) -> str:
    """Return where a browser finds the picture of a console; the number makes it ask again."""
    path = f"/nodes/{part(instant['node'])}/instants/{part(instant['instant'])}/picture"
    query = urlencode({"storage": instant["storage"], "at": number})
    return f"{PREFIX}{path}?{query}"
