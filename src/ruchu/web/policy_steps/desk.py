"""What the steps of the wizard share: the form, its fields, its problems, and a live preview."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web import policy_form, policy_lines
from ruchu.web.language import later
from ruchu.web.policy_form import Form
from ruchu.web.visiting import Visit

# Who types is not asked about each letter.
PREVIEW_S = 0.4
STARTS = 10


@dataclass(slots=True)
class Desk:
    """The form of one wizard, and what is on the screen of it.

    Attributes:
        visit: of whoever fills it in.
        form: what is filled in.
        platforms, storages, policies: that there are.
        preview: what the policy would do, as far as that is known.
        checked: steps whose problems are shown.
        drawn: called when anything was changed.
    """

    visit: Visit
    form: Form
    platforms: Sequence[Mapping[str, Any]] = ()
    storages: Sequence[Mapping[str, Any]] = ()
    policies: Sequence[Mapping[str, Any]] = ()
    own_name: str = ""
    preview: Mapping[str, Any] | None = None
    checked: set[str] = field(default_factory=set)
    drawn: Callable[[], None] = lambda: None
    _fields: dict[str, Any] = field(default_factory=dict)
    _complaints: dict[str, Any] = field(default_factory=dict)
    _followers: list[Callable[[], None]] = field(default_factory=list)
    _dirty: bool = True

    # What is wrong.

    def problems(self) -> dict[str, str]:
        """Return what is wrong, by field."""
        found = policy_form.problems(self.form)
        taken = {each["name"] for each in self.policies} - {self.own_name}
        if self.form.name in taken:
            found["name"] = later("There is a policy of this name.")
        return found

    def changed(self) -> None:
        """Take note that something was filled in."""
        self._dirty = True
        self.mark()
        self.drawn()

    def mark(self) -> None:
        """Show at the fields of this step what is wrong with them."""
        problems = {name: text for name, text in self.problems().items()
                    if policy_form.step_of(name) in self.checked}  # fmt: skip
        say = self.visit.say
        for name, element in self._fields.items():
            element.error = say(problems[name]) if name in problems else None
        for name, label in self._complaints.items():
            label.set_text(say(problems[name]) if name in problems else "")
            label.set_visibility(name in problems)

    # The screen.

    def clear(self) -> None:
        """Forget the fields of the step before."""
        self._fields.clear()
        self._complaints.clear()
        self._followers.clear()

    def complaint(self, name: str) -> None:
        """Make the place where a problem is shown that belongs to no single field."""
        label = ui.label("").classes("r-note bad").props("role=alert")
        label.set_visibility(False)
        self._complaints[name] = label

    def follow(self, show: Callable[[], None]) -> None:
        """Call something now and whenever the preview is another."""
        self._followers.append(show)
        show()

    async def look(self) -> None:
        """Bring the preview up to date if anything was changed."""
        if not self._dirty:
            return
        self._dirty = False
        await self.visit.guarded(self._look)

    async def _look(self) -> None:
        try:
            self.preview = await self.visit.api.post("/policies/preview", self._asked())
        except Answered as error:
            if error.status == 401:
                raise
            self.preview = None  # the fields say what is wrong
        for show in self._followers:
            show()

    def _asked(self) -> dict[str, Any]:
        """Return the parts of the policy that can be previewed by now."""
        form = self.form
        wanted: dict[str, Any] = {"count": STARTS, "storage": form.storage,
                                  "retention": policy_form.retention(form)}  # fmt: skip
        if form.platform:
            wanted["selection"] = policy_form.selection(form)
        if not policy_lines.schedule_problems(form.schedules):
            wanted |= {"schedules": policy_form.schedules(form), "zone": form.zone,
                       "holidays": form.holidays}  # fmt: skip
        return wanted

    # Fields. `of` is the object that holds the value, `key` the name of its problem.

    def text(self, of: Any, name: str, label: str, *, key: str = "", help_text: str = "") -> Any:
        """Make a field of one line."""
        made = ui.input(label, value=getattr(of, name),
                        on_change=lambda event: self._set(of, name, event.value or ""))  # fmt: skip
        return self._dressed(made, key or name, help_text)

    def number(self, of: Any, name: str, label: str, *, key: str = "", help_text: str = "") -> Any:
        """Make a field for a number; whole ones stay whole."""
        made = ui.number(label, value=getattr(of, name), min=0,
                         on_change=lambda event: self._set(of, name, whole(event.value)))  # fmt: skip
        return self._dressed(made, key or name, help_text)

    def choice(
        self, of: Any, name: str, label: str, options: Mapping[Any, str], *, key: str = "",
        act: Callable[[], None] | None = None,
    ) -> Any:  # fmt: skip
        """Make a field that is one of some; one that is set already is an option as well."""
        value = getattr(of, name)
        known = dict(options) if value in options else {value: str(value), **options}

        def chosen(event: Any) -> None:
            self._set(of, name, event.value)
            if act is not None:
                act()

        made = ui.select(known, label=label, value=value, on_change=chosen)
        return self._dressed(made, key or name, "").props("options-dense")

    def several(
        self, of: Any, name: str, label: str, options: Mapping[Any, str], *, key: str = "",
        help_text: str = "",
    ) -> Any:  # fmt: skip
        """Make a field that is any of some; those that are set already are options as well."""
        value = list(getattr(of, name))
        known = {**options, **{each: str(each) for each in value if each not in options}}
        made = ui.select(
            known, label=label, value=value, multiple=True, with_input=len(known) > 12,
            on_change=lambda event: self._set(of, name, list(event.value or ())),
        ).props("use-chips options-dense")  # fmt: skip
        return self._dressed(made, key or name, help_text)

    def chips(self, of: Any, name: str, label: str, *, key: str = "", help_text: str = "") -> Any:
        """Make a field for texts of which there may be several."""
        made = ui.input_chips(
            label, value=list(getattr(of, name)), new_value_mode="add-unique",
            on_change=lambda event: self._set(of, name, [str(each) for each in event.value or ()]),
        )  # fmt: skip
        return self._dressed(made, key or name, help_text)

    def switch(self, label: str, name: str, *, value: bool, act: Callable[[bool], None]) -> Any:
        """Make a switch."""

        def turned(event: Any) -> None:
            act(bool(event.value))
            self.changed()

        return ui.switch(label, value=value, on_change=turned).props(f"data-test={name}")

    def _set(self, of: Any, name: str, value: Any) -> None:
        setattr(of, name, value)
        self.changed()

    def adopt(self, key: str, made: Any) -> None:
        """Show the problem of a field that a step made itself."""
        self._fields[key] = made

    def _dressed(self, made: Any, key: str, help_text: str) -> Any:
        test = key.replace(".", "-")
        made.classes("r-wide").props(f"outlined dense data-test=field-{test}")
        made.props["hide-bottom-space"] = True
        if help_text:
            made.props["hint"] = help_text
        self._fields[key] = made
        return made


def whole(value: float | None) -> float | None:
    """Return a number as a whole one if it is."""
    return int(value) if value is not None and value == int(value) else value


Build = Callable[[Desk], Awaitable[None]]
