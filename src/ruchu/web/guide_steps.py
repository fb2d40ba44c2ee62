"""The steps of the first-run guide, each of which makes one thing."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web import guiding, policy_facts, policy_form, policy_words
from ruchu.web.calling import part
from ruchu.web.guiding import Standing
from ruchu.web.parts import asking
from ruchu.web.policy_steps.picking import Picker
from ruchu.web.visiting import Visit

FOLDER = "/var/lib/ruchu/storage"
URI = "qemu:///system"
# As the wizard of storages has it.
PASSPHRASE_MIN = 12


@dataclass(slots=True)
class Step:
    """A step: who fills it in, what is called once it is done, and where it says what is wrong."""

    visit: Visit
    done: Callable[[], Awaitable[None]]
    _complaint: Any = None
    _button: Any = None

    def form(self) -> Any:
        """Make the form; what it holds is made within."""
        return ui.element("div").classes("r-form")

    def end(self, text: str, name: str, act: Callable[[], Awaitable[None]]) -> None:
        """Make the place of problems and the button that carries the step out."""
        self._complaint = ui.label("").classes("r-complaint").props("role=alert")
        self._complaint.set_visibility(False)

        async def go() -> None:
            self.complain("")
            self._button.props("loading")
            try:
                await act()
            except Answered as error:
                if error.status == 401:
                    ui.navigate.to("/login")
                language = self.visit.language
                self.complain(f"{language.problem(error)} {language.hint(error)}".strip())
            finally:
                # A step that is done is on the screen no more.
                if not self._button.is_deleted:
                    self._button.props(remove="loading")

        self._button = ui.button(text, on_click=go)
        self._button.props(f"unelevated no-caps color=primary data-test={name}")

    def complain(self, text: str) -> None:
        """Say what is wrong."""
        self._complaint.set_text(text)
        self._complaint.set_visibility(bool(text))


def storage(step: Step) -> None:
    """Ask for the first storage, and let a node make it."""
    say = step.visit.say
    with step.form():
        ui.label(
            say(
                "A folder for the backups, best on disks of its own. It is made if it is not there."
            )
        ).classes("r-help")
        folder = asking.field(say("Folder on this server"), "folder", FOLDER)
        name = asking.field(say("Name of the storage"), "storage-name", "main")
        encrypt = ui.switch(say("Encrypt it with a passphrase"), value=True)
        encrypt.props("data-test=encrypt")
        with ui.element("div").classes("r-stack r-wide") as secret:
            word = asking.secret(say("Passphrase"), "passphrase")
            ui.label(
                say("At least 12 characters. Write it down and keep it somewhere else: if this "
                    "server is lost, nobody reads the backups without it.")
            ).classes("r-note warn")  # fmt: skip
        secret.bind_visibility_from(encrypt, "value")

        async def make() -> None:
            passphrase = (word.value or "") if encrypt.value else None
            if passphrase is not None and len(passphrase) < PASSPHRASE_MIN:
                step.complain(say("The passphrase is too short."))
                return
            body = {"name": (name.value or "").strip(), "location": (folder.value or "").strip(),
                    "passphrase": passphrase}  # fmt: skip
            await step.visit.api.post("/storages", body)
            await step.done()

        step.end(say("Make the storage"), "make-storage", make)
        ui.link(
            say("Another kind of place, or a storage that exists already"), "/storages/new"
        ).classes("r-more-link")


async def platform(step: Step) -> None:
    """Offer the libvirt of this host, or ask for another one."""
    visit, say = step.visit, step.visit.say
    with ui.element("div").classes("r-actions") as looking:
        ui.spinner(size="1.4em").props("aria-hidden=true")
        ui.label(say("Looking for libvirt on this host…")).classes("muted")
    here = await _libvirt_here(visit)
    looking.delete()
    with step.form():
        if here:
            with ui.element("div").classes("r-note"):
                ui.label(say("libvirt was found on this host.")).classes("r-p-strong")
                ui.label(say("Its machines are listed and can be protected at once."))
        else:
            ui.label(say(
                "No libvirt was found on this host. Give the address of a host with KVM; the "
                "server signs in there with its SSH key."
            )).classes("r-note")  # fmt: skip
        with ui.expansion(say("Another address")).classes("r-p-more") as more:
            more.props("data-test=other-address").value = not here
            name = asking.field(say("Name"), "platform-name", "kvm")
            uri = asking.field(say("Address"), "platform-uri", URI if here else "")
            ui.label(say("Such as qemu+ssh://root@kvm1.example.com/system")).classes("r-help")
            scratch = asking.field(say("Folder for scratch files on that host"), "scratch")
            ui.label(say("Empty: beside the files of libvirt.")).classes("r-help")

        async def add() -> None:
            body = {"name": (name.value or "").strip(), "uri": (uri.value or "").strip(),
                    "scratch": (scratch.value or "").strip()}  # fmt: skip
            await _added(visit, body)
            await step.done()

        text = say("Use libvirt on this host") if here else say("Add and test it")
        step.end(text, "add-platform", add)
        ui.link(say("Machines elsewhere: add nodes later"), "/nodes").classes("r-more-link")


async def _libvirt_here(visit: Visit) -> bool:
    """Tell whether the host of the server runs libvirt."""
    try:
        nodes = await visit.api.get("/nodes")
        mine = next(each for each in nodes if each["embedded"] and each["state"] == "online")
        return guiding.libvirt_here(await visit.api.get(f"/nodes/{part(mine['id'])}/doctor"))
    except (Answered, StopIteration):
        return False


async def _added(visit: Visit, body: Mapping[str, Any]) -> None:
    """Add a platform that answers; one that does not is not kept.

    Raises:
        Answered: it cannot be, or does not answer.
    """
    answer = await visit.api.call("POST", "/platforms", body)
    path = f"/platforms/{part(answer.body['id'])}"
    try:
        await visit.api.post(f"{path}/refresh")
    except Answered:
        await visit.api.delete(path, answer.tag)
        raise


async def policy(step: Step, standing: Standing) -> None:
    """Ask what the first policy protects, keep it, and start it."""
    await _FirstPolicy(step, standing).show()


class _FirstPolicy:
    """The form of the first policy."""

    def __init__(self, step: Step, standing: Standing) -> None:
        self._step = step
        self._visit = step.visit
        self._turn = asyncio.Lock()
        self._form = policy_form.fresh(step.visit.language.zone)
        self._form.mode = policy_form.ALL
        self._form.name = step.visit.say("Nightly")
        self._form.platform = (standing.platform or {}).get("name", "")
        self._form.storage = (standing.storage or {}).get("name", "")

    async def show(self) -> None:
        say = self._visit.say
        with self._step.form():
            modes = {policy_form.ALL: say("Every machine, also those that come later"),
                     policy_form.PICK: say("Only these machines")}  # fmt: skip
            mode = ui.radio(modes, value=self._form.mode, on_change=self._chosen)
            mode.props(f'data-test=guide-mode aria-label="{say("What it selects")}"')
            self._body = ui.element("div").classes("r-wide")
            self._selected = ui.label("").classes("r-p-strong").props("aria-live=polite")
            await self._count()
            language = self._visit.language
            with ui.element("ul").classes("r-facts-list"):
                lines = [*policy_words.when(language, policy_form.schedules(self._form)),
                         say("Kept: {rules}", rules=policy_words.keeps(
                             language, policy_form.retention(self._form)))]  # fmt: skip
                for text in lines:
                    with ui.element("li"):
                        ui.label(text)
            self._step.end(say("Protect them and back up now"), "protect", self._keep)
            ui.link(say("More choices"), "/policies/new").classes("r-more-link")

    async def _chosen(self, event: Any) -> None:
        self._form.mode = event.value
        async with self._turn:
            await self._select()
            await self._count()

    async def _select(self) -> None:
        """Show what belongs to the way to select; the caller has the turn."""
        self._body.clear()
        if self._form.mode == policy_form.PICK:
            with self._body:
                picker = Picker(self._visit, self._form.platform, self._form.machines, self._ticked)
                await self._visit.guarded(picker.refresh)

    def _ticked(self) -> None:
        ui.timer(0.01, lambda: self._visit.guarded(self._recount), once=True)

    async def _recount(self) -> None:
        async with self._turn:
            await self._count()

    async def _count(self) -> None:
        asked = {"selection": policy_form.selection(self._form)}
        found = await self._visit.api.post("/policies/preview", asked)
        count = policy_words.machines(self._visit.language, found["count"])
        names = policy_facts.cut(self._visit.language, [each["name"] for each in found["machines"]])
        self._selected.set_text(f"{count}: {names}" if names else count)

    async def _keep(self) -> None:
        if self._form.mode == policy_form.PICK and not self._form.machines:
            self._step.complain(self._visit.say("Choose at least one machine."))
            return
        row = await self._visit.api.post("/policies", policy_form.document(self._form))
        await self._visit.api.post(f"/policies/{row['id']}/run", {"kind": "full"})
        await self._step.done()
