"""Rules of alarms: which go to which channels, when, and what if nobody answers."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import NOTHING, Language, later
from ruchu.web.parts import acting, alarm_words, asking, empty, listing, marks, tabbing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import GOOD, QUIET, Mark
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
ON = Mark(later("On"), GOOD, "check_circle")
OFF = Mark(later("Off"), QUIET, "pause_circle")
DAYS = (later("Monday"), later("Tuesday"), later("Wednesday"), later("Thursday"),
        later("Friday"), later("Saturday"), later("Sunday"))  # fmt: skip
_STEPS_MAX = 10
_ANY = "*"


async def rules(visit: Visit) -> None:
    """List the rules."""
    say = visit.say
    writes = visit.may_everywhere(Right.CONFIGURE)
    lead = say("Which alarms go to which channels. What no rule wants is shown here only.")
    with tabbing.head(say("Rules"), lead):
        if writes:
            new = ui.button(say("New rule"), icon="add", on_click=lambda: _ask(visit, None, done))
            new.props("unelevated no-caps color=primary data-test=new-rule")
    acts = [
        Act("edit", say("Change"), "edit").cell(),
        Act("remove", say("Remove"), "delete").cell(),
    ]

    def row(rule: Found) -> dict[str, Any]:
        return rule_row(visit, rule) | {"acts": acts if writes else []}

    async def on_act(name: str, identity: str) -> None:
        rule = next(each for each in await visit.api.get("/alarm-rules")
                    if each["name"] == identity)  # fmt: skip
        if name == "edit":
            await _ask(visit, rule, done)
            return
        title = say("Remove the rule {name}?", name=identity)
        lost = [say("What only this rule sends is told to nobody from then on.")]
        if await acting.confirmed(visit, title, lost, say("Remove")):
            await acting.act(visit, visit.api.delete(f"/alarm-rules/{part(identity)}"))
            await done()

    def nothing() -> None:
        empty.empty("rule", say("There is no rule yet."),
                    say("Make a channel first, then a rule that sends alarms to it."))  # fmt: skip

    columns = [Column("name", say("Rule")), Column("what", say("Which alarms")),
               Column("channels", say("Channels")), Column("quiet", say("Quiet hours")),
               Column("steps", say("Escalation")), Column("state", say("State"))]  # fmt: skip
    found = listing.Listing(
        visit, columns, listing.of_list(visit, "/alarm-rules", row), nothing=nothing,
        on_act=on_act if writes else None, label=say("Rules"),
    )  # fmt: skip

    async def done() -> None:
        await found.refresh()

    await found.refresh()


def rule_row(visit: Visit, rule: Found) -> dict[str, Any]:
    """Return the row of a rule."""
    language = visit.language
    severity = marks.of(marks.SEVERITIES, rule["severity"])
    return {
        "id": rule["name"],
        "name": {"text": rule["name"]},
        "what": {"text": visit.say("{severity} and worse", severity=visit.say(severity.word)),
                 "sub": narrowed(language, rule)},
        "channels": ", ".join(rule["channels"]) or NOTHING,
        "quiet": alarm_words.quiet_hours(language, rule["quiet"]),
        "steps": steps(language, rule["steps"]),
        "state": (ON if rule["enabled"] else OFF).cell(language),
    }  # fmt: skip


def narrowed(language: Language, rule: Found) -> str:
    """Return to what a rule is narrowed besides the severity."""
    parts = [] if list(rule["codes"]) == [_ANY] else [", ".join(rule["codes"])]
    if rule["group"]:
        parts.append(language.say("group {name}", name=rule["group"]))
    if rule["subject"] != _ANY:
        parts.append(rule["subject"])
    return " · ".join(parts)


def steps(language: Language, found: Sequence[Found]) -> str:
    """Return the steps of escalation in a line."""
    said = [
        language.say("after {minutes} min: {channels}", minutes=each["after_min"],
                     channels=", ".join(each["channels"]) or NOTHING)
        for each in found
    ]  # fmt: skip
    return "; ".join(said) or NOTHING


# ------------------------------------------------------------------------------------- the form


async def _ask(visit: Visit, rule: Found | None, done: Callable[[], Awaitable[None]]) -> None:
    channels = {each["name"]: each["name"] for each in await visit.api.get("/alarm-channels")}
    groups = {
        each["name"]: each["title"] or each["name"] for each in await visit.api.get("/groups")
    }
    if not channels:
        ui.notify(visit.say("Make a channel first."), type="warning", position="top")
        return
    RuleForm(visit, rule, channels, groups).open(done)


class RuleForm:
    """The form of a rule."""

    def __init__(
        self, visit: Visit, rule: Found | None, channels: Mapping[str, str],
        groups: Mapping[str, str],
    ) -> None:  # fmt: skip
        self._visit = visit
        self._rule = rule
        self._channels = channels
        self._groups = groups
        self._fields: dict[str, Any] = {}
        self._steps: list[dict[str, Any]] = []

    def open(self, done: Callable[[], Awaitable[None]]) -> None:
        """Show it."""
        say, rule = self._visit.say, self._rule
        title = say("Change {name}", name=rule["name"]) if rule else say("New rule")
        with asking.dialog(title) as made:
            if rule is None:
                self._fields["name"] = asking.field(say("Name"), "name")
            self._which()
            self._whom()
            self._quiet()
            self._escalation()
            enabled = bool(rule["enabled"]) if rule else True
            self._fields["enabled"] = asking.switch(say("In force"), "enabled", value=enabled)
            asking.actions(self._visit, made, say("Save"), lambda: self._save(done))

    def _known(self, name: str, otherwise: Any) -> Any:
        return self._rule[name] if self._rule else otherwise

    def _which(self) -> None:
        visit, say = self._visit, self._visit.say
        severities = {key: say(mark.word) for key, mark in marks.SEVERITIES.items()}
        known = self._known("codes", [_ANY])
        codes = {_ANY: say("All alarms"), **alarm_words.known_codes(visit.language)}
        codes |= {each: each for each in known if each not in codes}
        groups = {_ANY: say("All groups"), **self._groups}
        group = self._known("group", None) or _ANY
        groups |= {} if group in groups else {group: group}
        fields = self._fields
        fields["severity"] = asking.choice(say("At least"), "severity", severities,
                                           self._known("severity", "warning"))  # fmt: skip
        fields["codes"] = asking.several(
            say("Alarms"), "codes", codes, known, help_text=say("Patterns such as backup-* can be typed.")
        )  # fmt: skip
        fields["codes"].props("use-input new-value-mode=add-unique input-debounce=0")
        with ui.element("div").classes("r-two"):
            fields["group"] = asking.choice(say("Group"), "group", groups, group)
            fields["subject"] = asking.field(say("Object"), "subject", self._known("subject", _ANY),
                                             help_text=say("A pattern, such as web-*"))  # fmt: skip

    def _whom(self) -> None:
        say, fields = self._visit.say, self._fields
        fields["channels"] = asking.several(say("Channels"), "channels", self._channels,
                                            self._known("channels", []))  # fmt: skip
        fields["repeat"] = asking.number(
            say("Tell again after, in minutes"), "repeat", self._known("repeat_min", None), most=10_080,
            help_text=say("While nobody acknowledged it; empty: never"),
        )  # fmt: skip
        fields["cleared"] = asking.switch(say("Tell when it is over, too"), "cleared",
                                          value=self._known("tells_cleared", True))  # fmt: skip

    def _quiet(self) -> None:
        say, quiet = self._visit.say, self._known("quiet", None)
        fields = self._fields
        fields["quiet"] = asking.switch(
            say("Quiet hours"), "quiet", value=quiet is not None,
            help_text=say("What comes meanwhile is told together at their end."),
        )  # fmt: skip
        with ui.element("div").classes("r-form") as place:
            with ui.element("div").classes("r-two"):
                start, end = (quiet["start"], quiet["end"]) if quiet else ("22:00", "07:00")
                fields["start"] = asking.field(say("From"), "start", start, props="type=time")
                fields["end"] = asking.field(say("To"), "end", end, props="type=time")
            zone = quiet["zone"] if quiet else self._visit.language.zone
            fields["zone"] = asking.field(say("Time zone"), "zone", zone)
            days = {str(number): say(name) for number, name in enumerate(DAYS)}
            chosen = [str(each) for each in (quiet["days"] if quiet else range(7))]
            fields["days"] = asking.several(say("They begin on"), "days", days, chosen)
            passes = quiet["critical_passes"] if quiet else True
            fields["passes"] = asking.switch(say("Critical alarms are told at once"), "passes",
                                             value=passes)  # fmt: skip
        place.bind_visibility_from(fields["quiet"], "value")

    def _escalation(self) -> None:
        say = self._visit.say
        ui.label(say("If nobody acknowledges it")).classes("r-trouble")
        self._place = ui.element("div").classes("r-form")
        for each in self._known("steps", []):
            self._add_step(each)
        add = ui.button(say("Add a step"), icon="add", on_click=lambda: self._add_step(None))
        add.props("flat no-caps data-test=add-step")

    def _add_step(self, step: Found | None) -> None:
        say = self._visit.say
        if len(self._steps) >= _STEPS_MAX:
            return
        severities = {"": say("as it is"), **{key: say(mark.word) for key, mark in
                                              marks.SEVERITIES.items()}}  # fmt: skip
        with self._place, ui.element("div").classes("r-step") as element:
            fields = {
                "after": asking.number(say("After, in minutes"), "after",
                                       step["after_min"] if step else 30, least=1, most=10_080),
                "channels": asking.several(say("Tell"), "step-channels", self._channels,
                                           step["channels"] if step else []),
                "severity": asking.choice(say("Severity becomes"), "step-severity", severities,
                                          (step["severity"] if step else "") or ""),
            }  # fmt: skip
            drop = ui.button(icon="close", color=None)
            drop.props(f'flat round dense aria-label="{say("Remove the step")}"')

        def remove() -> None:
            self._steps.remove(fields)
            self._place.remove(element)

        drop.on_click(remove)
        self._steps.append(fields)

    def document(self) -> dict[str, Any]:
        """Return what the API takes, of what the form says."""
        value = {name: field.value for name, field in self._fields.items()}
        quiet = None
        if value["quiet"]:
            quiet = {
                "zone": value["zone"] or "", "start": value["start"] or "",
                "end": value["end"] or "", "days": sorted(int(each) for each in value["days"]),
                "critical_passes": value["passes"],
            }  # fmt: skip
        found = [
            {"after_min": int(each["after"].value or 0), "channels": each["channels"].value,
             "severity": each["severity"].value or None}
            for each in self._steps
        ]  # fmt: skip
        return {
            "channels": value["channels"], "codes": value["codes"] or [_ANY],
            "severity": value["severity"], "quiet": quiet,
            "group": None if value["group"] == _ANY else value["group"],
            "subject": value["subject"] or _ANY, "enabled": value["enabled"],
            "steps": sorted(found, key=lambda each: int(each["after_min"])),
            "repeat_min": int(value["repeat"]) if value["repeat"] else None,
            "tells_cleared": value["cleared"],
        }  # fmt: skip

    async def _save(self, done: Callable[[], Awaitable[None]]) -> bool:
        visit = self._visit
        name = str(self._rule["name"]) if self._rule else (self._fields["name"].value or "").strip()
        if not name:
            ui.notify(visit.say("Give it a name."), type="warning", position="top")
            return False
        call = visit.api.put(f"/alarm-rules/{part(name)}", self.document())
        if await acting.act(visit, call, visit.say("Saved.")) is None:
            return False
        await done()
        return True
