"""The forms that begin a restore: in full, or instantly; and what will happen, in words."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web import restore_form
from ruchu.web.language import later
from ruchu.web.parts import acting, asking, empty, headings, restore_sources, saved_points, waiting
from ruchu.web.parts.restore_sources import Known
from ruchu.web.restore_form import GIB, Wish
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]


@page("/restore/point/{point}/restore", later("Restore"), need=Right.RESTORE)
async def restore(visit: Visit, point: str) -> None:
    """Begin a restore in full."""
    found = await restore_sources.known(visit, point)
    title = visit.say("Restore {name}", name=found.machine.name)
    if _begun(visit, found, title, point):
        FullForm(visit, *await _read(visit, found)).build()


@page("/restore/point/{point}/instant", later("Instant restore"), need=Right.RESTORE)
async def instant(visit: Visit, point: str) -> None:
    """Begin an instant restore."""
    found = await restore_sources.known(visit, point)
    title = visit.say("Instant restore of {name}", name=found.machine.name)
    if _begun(visit, found, title, point):
        InstantForm(visit, *await _read(visit, found)).build()


async def _read(visit: Visit, found: Known) -> tuple[Known, Found]:
    """Read what takes a node, and say so meanwhile."""
    with waiting.waiting(visit.say("Reading the point…")):
        return await restore_sources.read(visit, found)


def _begun(visit: Visit, found: Known, title: str, point: str) -> bool:
    """Make the head of a form; False if there is nothing that could be restored."""
    say = visit.say
    with ui.link(target=saved_points.point_address(point)).classes("rt-crumb"):
        ui.icon("arrow_back").props("aria-hidden=true")
        ui.label(say("Back to the point"))
    at = visit.language.moment(found.copies[0]["time"]) if found.copies else ""
    with headings.head(title, say("As it was on {time}.", time=at) if at else ""):
        pass
    if not found.copies:
        empty.empty("lock", say("You may not restore from the storages that hold this point."))
        return False
    if found.copies[0]["object"] == "image":
        empty.empty("save_alt", say("This point holds an image, and no machine."),
                    say("Export its disk, or browse its files."),
                    action=say("Back to the point"),
                    target=saved_points.point_address(point))  # fmt: skip
        return False
    if not found.platforms:
        empty.empty("dns", say("There is no platform that you may restore to."),
                    say("Add one, or ask for the right to restore on it."),
                    action=say("Platforms"), target="/platforms")  # fmt: skip
        return False
    return True


class Form:
    """What both forms have in common. Every change shows at once what will happen."""

    ending = "restored"

    def __init__(self, visit: Visit, found: Known, offers: Found) -> None:
        self._visit = visit
        self._known = found
        self._offers = offers
        self._machine = found.machine
        first = found.copies[0]
        name = restore_form.free_name(found.machine.name, self.ending, list(found.taken))
        self.wish = Wish(
            first["id"], first["storage"], found.platform, name,
            directory=found.machine.directory, vcpus=found.machine.vcpus,
            memory=found.machine.memory, disks=tuple(found.machine.disks),
        )  # fmt: skip
        self._taken = dict(found.taken)
        self._networks: dict[str, Any] = {}

    def build(self) -> None:
        """Make the form and its review."""
        with ui.element("div").classes("rt-wizard"):
            with ui.element("div").classes("rt-parts"):
                self._unread()
                self._parts()
            with ui.element("aside").classes("rt-review r-card").props("aria-live=polite"):
                self._review = ui.element("div").classes("r-wide")
                self._go = ui.button(self._go_name(), on_click=self._begin)
                self._go.props("unelevated no-caps color=primary data-test=begin").classes("r-wide")
        self._show()

    def change(self, **values: Any) -> None:
        """Take in what was filled in, and show what it means."""
        self.wish = replace(self.wish, **values)
        self._show()

    # What the two differ in.

    def _parts(self) -> None:
        raise NotImplementedError

    def _go_name(self) -> str:
        raise NotImplementedError

    def _steps(self) -> list[str]:
        raise NotImplementedError

    async def _begin(self) -> None:
        raise NotImplementedError

    def _warnings(self) -> list[str]:
        return []

    # Parts.

    def _unread(self) -> None:
        if not self._known.unread:
            return
        say = self._visit.say
        with ui.element("div").classes("rt-notice").props("role=status"):
            ui.icon("info").props("aria-hidden=true")
            with ui.element("div"):
                ui.label(say("The point could not be read just now, so its hardware and networks"
                             " are not shown. They stay as they were."))  # fmt: skip
                ui.label(self._known.unread).classes("r-sub")

    def _source(self) -> None:
        """Ask for the platform, and for the storage if there are several."""
        say, visit = self._visit.say, self._visit
        with ui.element("div").classes("r-two"):
            names = {each: each for each in self._known.platforms}

            async def moved(event: Any) -> None:
                self._taken = await restore_sources.names_on(visit, event.value)
                self.change(platform=event.value)
                self._offers = await restore_sources.offers(visit, event.value)
                self._offered()

            field = asking.choice(say("Platform"), "platform", names, self.wish.platform)
            field.on_value_change(moved)
            storages = {each["storage"]: each["storage"] for each in self._known.copies}
            field = asking.choice(say("Read from the storage"), "storage", storages,
                                  self.wish.storage)  # fmt: skip
            field.on_value_change(lambda event: self.change(storage=event.value))
            field.set_enabled(len(storages) > 1)

    def _name(self) -> Any:
        field = asking.field(self._visit.say("Name of the machine"), "name", self.wish.name,
                             props="maxlength=100 debounce=200")  # fmt: skip
        field.on_value_change(lambda event: self.change(name=(event.value or "").strip()))
        return field

    def _hardware(self) -> None:
        say, machine = self._visit.say, self._machine
        if machine.vcpus is None or machine.memory is None:
            return
        with headings.card(say("Hardware")):
            with ui.element("div").classes("r-two"):
                count = asking.number(say("Processors"), "vcpus", machine.vcpus, least=1,
                                      most=restore_form.VCPUS_MAX)  # fmt: skip
                count.on_value_change(
                    lambda event: self.change(vcpus=int(event.value) if event.value else 0)
                )
                memory = ui.number(say("Memory (GiB)"), value=round(machine.memory / GIB, 3),
                                   min=0.0625, step=0.5).classes("r-wide")  # fmt: skip
                memory.props("outlined dense data-test=memory")
                memory.on_value_change(lambda event: self.change(memory=self._bytes(event.value)))
            if len(machine.disks) > 1:
                self._disks()

    def _bytes(self, gib: float | None) -> int | None:
        """Return a size that was typed in; the one that was shown rounded is the old one."""
        saved = self._machine.memory
        if saved is not None and gib == round(saved / GIB, 3):
            return saved
        return int((gib or 0) * GIB)

    def _disks(self) -> None:
        say, language = self._visit.say, self._visit.language
        boxes: dict[str, Any] = {}

        def changed() -> None:
            chosen = tuple(key for key, box in boxes.items() if box.value)
            for key, box in boxes.items():
                # The last one stays: a machine without a disk is none of ours.
                box.set_enabled(chosen != (key,))
            self.change(disks=chosen)

        with ui.element("div").classes("rt-disks").props("role=group").props(
            f'aria-label="{say("Disks")}"'
        ):  # fmt: skip
            ui.label(say("Disks")).classes("r-sub")
            for key, size in self._machine.disks.items():
                boxes[key] = ui.checkbox(f"{key} · {language.size(size)}", value=True)
                boxes[key].props(f"data-test=disk-{key}").on_value_change(changed)

    def _cards(self, more: Callable[[], None] | None = None) -> None:
        say = self._visit.say
        with headings.card(say("Networks")):
            for old in self._machine.networks:
                with ui.element("div").classes("rt-map"):
                    ui.label(old)
                    ui.icon("arrow_forward").props("aria-hidden=true")
                    self._networks[old] = self._network(old)
            if more is not None:
                more()
            macs = asking.switch(
                say("New MAC addresses"), "macs", value=False,
                help_text=say("Needed where the old machine runs in the same network."),
            )  # fmt: skip
            macs.on_value_change(lambda event: self.change(new_macs=bool(event.value)))

    def _network(self, old: str) -> Any:
        say = self._visit.say
        field = ui.select(self._network_names(old), value=old, with_input=True,
                          label=say("Network {name} becomes", name=old),
                          new_value_mode="add-unique").classes("r-wide")  # fmt: skip
        field.props(f"outlined dense options-dense data-test=network-{old}")

        def changed(event: Any) -> None:
            wanted = {**self.wish.networks, old: str(event.value or "")}
            self.change(networks=wanted)

        field.on_value_change(changed)
        return field

    def _network_names(self, old: str) -> list[str]:
        return list(dict.fromkeys([old, *self._offers["networks"]]))

    def _offered(self) -> None:
        """Offer what another platform has."""
        for old, field in self._networks.items():
            field.set_options(self._network_names(old), value=field.value)

    # What will happen.

    def _show(self) -> None:
        say = self._visit.say
        faults = restore_form.faults(self._visit.language, self.wish, list(self._taken))
        self._review.clear()
        with self._review:
            ui.label(say("What will happen")).classes("r-card-title").props(
                "role=heading aria-level=2"
            )
            with ui.element("ol").props("data-test=steps"):
                for each in self._steps():
                    with ui.element("li"):
                        ui.label(each)
            for each in [*self._warnings(), *faults]:
                with ui.element("div").classes("rt-fault").props("role=alert"):
                    ui.icon("error_outline").props("aria-hidden=true")
                    ui.label(each)
        self._go.set_enabled(not faults)

    async def _start(self, kind: str, body: Mapping[str, Any]) -> None:
        name = self._machine.name if self.wish.replace else self.wish.name
        new = {"kind": kind, "name": name, "body": body}
        run = await acting.act(self._visit, self._visit.api.post("/runs", new))
        if run is not None:
            ui.navigate.to(f"/runs/{run['id']}")


class FullForm(Form):
    """A restore in full."""

    def _go_name(self) -> str:
        return self._visit.say("Restore")

    def _parts(self) -> None:
        say = self._visit.say
        with headings.card(say("Where to")):
            self._mode()
            self._source()
            self._beside = ui.element("div").classes("r-two")
            with self._beside:
                self._name()
                self._directory()
            formats = {"": say("As it was")} | {each: each for each in restore_form.FORMATS}
            field = asking.choice(say("Format of the images"), "format", formats, "")
            field.on_value_change(lambda event: self.change(format=event.value or ""))
        self._hardware()
        self._cards()
        with headings.card(say("Afterwards")):
            start = asking.switch(say("Switch it on"), "start", value=False,
                                  help_text=say("Not while the old machine runs with the same"
                                                " addresses in the same network."))  # fmt: skip
            start.on_value_change(lambda event: self.change(start=bool(event.value)))

    def _mode(self) -> None:
        say = self._visit.say
        group = say("What to do with the machine")
        with ui.element("div").classes("rt-mode").props(f'role=radiogroup aria-label="{group}"'):
            self._modes = {
                False: _choice("add_circle_outline", "new", say("As another machine"),
                               say("What is there now stays untouched."),
                               lambda: self._choose(over=False)),
                True: _choice("published_with_changes", "over", say("Over the original"),
                              say("The machine becomes what it was. It must be off."),
                              lambda: self._choose(over=True)),
            }  # fmt: skip
        self._mark()

    def _choose(self, *, over: bool) -> None:
        self.wish = replace(self.wish, replace=over)
        self._mark()
        self._beside.set_visibility(not over)
        self._show()

    def _mark(self) -> None:
        for over, element in self._modes.items():
            element.props(f"aria-checked={str(over == self.wish.replace).lower()}")

    def _directory(self) -> None:
        say = self._visit.say
        self._place = ui.select(self._places(), value=self.wish.directory, with_input=True,
                                label=say("Directory for its disks"),
                                new_value_mode="add-unique").classes("r-wide")  # fmt: skip
        self._place.props("outlined dense options-dense data-test=directory")
        self._place.on_value_change(
            lambda event: self.change(directory=str(event.value or "").strip())
        )

    def _places(self) -> dict[str, str]:
        language = self._visit.language
        found = {self.wish.directory: self.wish.directory} if self.wish.directory else {}
        for each in self._offers["places"]:
            path = str(each["path"])
            found[path] = self._visit.say("{path} · {free} free ({name})", path=path,
                                          free=language.size(each["free"]),
                                          name=each["name"])  # fmt: skip
        return found or {"": self._visit.say("Where they were")}

    def _offered(self) -> None:
        super()._offered()
        self._place.set_options(self._places(), value=self.wish.directory)

    def _steps(self) -> list[str]:
        return restore_form.restore_steps(self._visit.language, self.wish, self._machine)

    def _warnings(self) -> list[str]:
        state = self._taken.get(self._machine.name)
        if self.wish.replace and state is not None and state != "off":
            return [self._visit.say("{name} is on. Switch it off first, or the restore is refused.",
                                    name=self._machine.name)]  # fmt: skip
        return []

    async def _begin(self) -> None:
        visit, say = self._visit, self._visit.say
        if self.wish.replace:
            name, at = self._machine.name, self._known.copies[0]["time"]
            losses = restore_form.replaced_losses(
                visit.language, self._machine, at, self.wish.platform
            )
            title = say("Overwrite {name}?", name=name)
            if not await acting.confirmed_by_name(visit, title, losses, say("Overwrite"), name):
                return
        await self._start("restore", restore_form.restore_body(self.wish, self._machine))


class InstantForm(Form):
    """An instant restore."""

    ending = "instant"

    def _go_name(self) -> str:
        return self._visit.say("Start now")

    def _parts(self) -> None:
        say = self._visit.say
        with headings.card(say("Where to")):
            self._source()
            self._name()
        self._hardware()
        self._cards(self._isolation)
        with ui.expansion(say("More")).classes("r-wide r-card").props("data-test=more"):
            self._more()

    def _isolation(self) -> None:
        say = self._visit.say
        beside = self._machine.name in self._taken
        self.wish = replace(self.wish, isolated=beside)
        field = asking.switch(say("Unplug the network cables"), "isolated", value=beside,
                              help_text=say("So that it cannot disturb the old machine."
                                            ))  # fmt: skip
        field.on_value_change(lambda event: self.change(isolated=bool(event.value)))

    def _more(self) -> None:
        say = self._visit.say
        with ui.element("div").classes("r-form"):
            wait = asking.switch(say("Wait for the guest agent"), "wait", value=False,
                                 help_text=say("The job ends once the machine has started up."
                                               ))  # fmt: skip
            wait.on_value_change(lambda event: self.change(wait=bool(event.value)))
            cache = asking.field(say("Directory of the write cache, on the node"), "cache",
                                 help_text=say("Empty: in the state of the node. It grows with"
                                               " what the machine writes."),
                                 props="debounce=200")  # fmt: skip
            cache.on_value_change(lambda event: self.change(cache=(event.value or "").strip()))
            protocols = {"nbd": say("NBD: node and platform are one host"),
                         "nfs": say("NFS: the platform is another host")}  # fmt: skip
            field = asking.choice(say("How the platform reads"), "protocol", protocols, "nbd")
            nfs = ui.element("div").classes("r-two")
            nfs.set_visibility(False)

            def chosen(event: Any) -> None:
                nfs.set_visibility(event.value == "nfs")
                self.change(protocol=event.value)

            field.on_value_change(chosen)
            with nfs:
                address = asking.field(say("Address of the node"), "address",
                                       props="debounce=200")  # fmt: skip
                address.on_value_change(
                    lambda event: self.change(address=(event.value or "").strip())
                )
                clients = asking.field(say("Networks that may connect"), "clients",
                                       props="debounce=200")  # fmt: skip
                clients.on_value_change(
                    lambda event: self.change(clients=tuple(asking.lines(event.value)))
                )

    def _steps(self) -> list[str]:
        return restore_form.instant_steps(self._visit.language, self.wish, self._machine)

    async def _begin(self) -> None:
        body = restore_form.instant_body(replace(self.wish, directory=""), self._machine)
        await self._start("instant", body)


def _choice(icon: str, name: str, title: str, text: str, choose: Callable[[], None]) -> Any:
    """Make one of the choices that exclude one another."""
    with ui.element("button").classes("rt-choice") as made:
        made.props(f"type=button role=radio data-test=mode-{name}").on("click", choose)
        ui.icon(icon).props("aria-hidden=true")
        with ui.element("span"):
            ui.label(title).classes("rt-choice-title")
            ui.label(text).classes("rt-choice-text")
    return made
