"""A policy as a form and back. Pure: what the form does not show survives, whatever it is.

`document(form_of(policy))` is the document of the policy again. `problems` says what is wrong with
what was filled in, by field, and never says less than the server would.
"""

import shlex
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from ruchu.control.policies import documents
from ruchu.errors import RuchuError
from ruchu.guests import extraction
from ruchu.model.policies import Policy, Retention, Selection
from ruchu.web import policy_lines
from ruchu.web.language import later
from ruchu.web.policy_lines import ScheduleLine, WindowLine

PICK, RULE, ALL = "pick", "rule", "all"
EVERYTHING = "*"
LISTS = ("machines", "patterns", "tags", "folders", "hosts", "excluded")
# What a rule selects by; machines that are named are a rule of their own.
_RULES = ("patterns", "tags", "folders", "hosts")
MINUTES: Mapping[str, int] = {"days": 1440, "hours": 60, "minutes": 1}
SECONDS: Mapping[str, int] = {"hours": 3600, "minutes": 60, "seconds": 1}
RETENTION = tuple(each.name for each in fields(Retention))
LEVEL_MAX = 19
_ATTEMPTS_MAX = 1000
# Fields of the form by the step of the wizard that shows them.
STEPS: Mapping[str, tuple[str, ...]] = {
    "what": ("platform", "machines", "rule", *LISTS),
    "where": ("storage",),
    "when": ("schedules", "windows", "zone", "holidays", "rpo"),
    "keep": ("retention", "grace_days"),
    "how": ("level", "parallel", "priority", "attempts", "first", "most", "before", "after",
            "after_policy", "nodes", "disks"),
    "review": ("name", "group", ""),
}  # fmt: skip


@dataclass(slots=True)
class Span:
    """A length of time: so many of a unit."""

    count: float | None
    unit: str

    @classmethod
    def of(cls, value: int, units: Mapping[str, int], usual: str) -> "Span":
        """Return a span in the largest unit that divides it."""
        unit = next((name for name, size in units.items() if value and value % size == 0), usual)
        return cls(value // units[unit], unit)

    def value(self, units: Mapping[str, int]) -> int:
        """Return it in the smallest unit."""
        return round((self.count or 0) * units[self.unit])


@dataclass(slots=True)
class Form:
    """What is filled in; `None` in an option means that the policy says nothing of it."""

    name: str = ""
    group: str = "default"
    enabled: bool = True
    mode: str = PICK
    platform: str = ""
    machines: list[str] = field(default_factory=list)
    patterns: list[str] = field(default_factory=list)
    tags: list[str] = field(default_factory=list)
    folders: list[str] = field(default_factory=list)
    hosts: list[str] = field(default_factory=list)
    excluded: list[str] = field(default_factory=list)
    storage: str = ""
    schedules: list[ScheduleLine] = field(default_factory=list)
    zone: str = "UTC"
    holidays: list[str] = field(default_factory=list)
    missed: str = "once"
    windows: list[WindowLine] = field(default_factory=list)
    rpo: Span = field(default_factory=lambda: Span(0, "hours"))
    retention: dict[str, int | None] = field(default_factory=lambda: dict.fromkeys(RETENTION, 0))
    grace_days: float | None = None
    level: int | None = None
    snapshots: str | None = None
    quiesce: bool | None = None
    leave_out: str | None = None
    disks: list[str] | None = None
    attempts: int | None = 3
    first: Span = field(default_factory=lambda: Span(1, "minutes"))
    most: Span = field(default_factory=lambda: Span(1, "hours"))
    on_lost_node: str = "wait"
    nodes: list[str] = field(default_factory=list)
    priority: int | None = 5
    parallel: int | None = 2
    before: str = ""
    after: str = ""
    after_policy: str = ""
    rest: dict[str, Any] = field(default_factory=dict)
    rest_options: dict[str, Any] = field(default_factory=dict)
    rest_selection: dict[str, Any] = field(default_factory=dict)


_OPTIONS: Mapping[str, tuple[type, ...]] = {
    "grace_days": (int, float), "level": (int,), "snapshots": (str,), "quiesce": (bool,),
    "leave_out": (str,), "disks": (list,),
}  # fmt: skip
_TAKEN = frozenset(each.name for each in fields(Policy))
_PLAIN = ("name", "group", "enabled", "storage", "zone", "missed", "on_lost_node", "priority",
          "parallel", "after_policy")  # fmt: skip


def form_of(document: Mapping[str, Any]) -> Form:
    """Return the form of a document as `GET /policies/{policy}` answers it."""
    selection = dict(document["selection"])
    options = dict(document["options"])
    known = {key: options.pop(key) for key, kinds in _OPTIONS.items()
             if key in options and _is(options[key], kinds)}  # fmt: skip
    retrying = document["retrying"]
    shown: dict[str, Any] = {**{key: document[key] for key in _PLAIN}, **known,
                             **{key: list(selection.pop(key)) for key in LISTS}}  # fmt: skip
    form = Form(
        **shown,
        platform=selection.pop("platform"),
        schedules=[policy_lines.line_of(each) for each in document["schedules"]],
        windows=[policy_lines.window_line(each) for each in document["windows"]],
        holidays=list(document["holidays"]),
        nodes=list(document["nodes"]),
        rpo=Span.of(document["rpo_minutes"], MINUTES, "hours"),
        retention=dict(document["retention"]),
        attempts=retrying["attempts"],
        first=Span.of(retrying["first_s"], SECONDS, "minutes"),
        most=Span.of(retrying["most_s"], SECONDS, "hours"),
        before=shlex.join(document["before"]),
        after=shlex.join(document["after"]),
        rest={key: value for key, value in document.items() if key not in _TAKEN},
        rest_options=options,
        rest_selection=selection,
    )
    form.mode = mode_of(form)
    return form


def mode_of(form: Form) -> str:
    """Return in which way the lists of a form select."""
    if not any(getattr(form, name) for name in _RULES):
        return PICK
    others = any(getattr(form, name) for name in ("machines", "tags", "folders", "hosts"))
    return ALL if form.patterns == [EVERYTHING] and not others else RULE


def _is(value: Any, kinds: tuple[type, ...]) -> bool:
    if isinstance(value, bool) and bool not in kinds:
        return False
    return isinstance(value, kinds) and (not isinstance(value, list) or all(
        isinstance(each, str) for each in value))  # fmt: skip


def selection(form: Form) -> dict[str, Any]:
    """Return what is selected as a document: by the way that is chosen, not by the others."""
    shown: Mapping[str, tuple[str, ...]] = {
        PICK: ("machines", "excluded"), RULE: LISTS, ALL: ("excluded",),
    }  # fmt: skip
    lists = {name: list(getattr(form, name)) if name in shown[form.mode] else []
             for name in LISTS}  # fmt: skip
    if form.mode == ALL:
        lists["patterns"] = [EVERYTHING]
    return {**form.rest_selection, "platform": form.platform, **lists}


def schedules(form: Form) -> list[dict[str, Any]]:
    """Return the schedules as documents."""
    return [policy_lines.document_of(line) for line in form.schedules]


def retention(form: Form) -> dict[str, int]:
    """Return how long points stay as a document."""
    return {name: int(form.retention.get(name) or 0) for name in RETENTION}


def document(form: Form) -> dict[str, Any]:
    """Return the document of what is filled in, whether it can be or not."""
    known = {key: getattr(form, key) for key in _OPTIONS if getattr(form, key) is not None}
    return {
        **form.rest,
        **{key: getattr(form, key) for key in _PLAIN},
        "selection": selection(form),
        "schedules": schedules(form),
        "holidays": list(form.holidays),
        "windows": [policy_lines.window_document(line) for line in form.windows],
        "retention": retention(form),
        "retrying": {"attempts": form.attempts, "first_s": form.first.value(SECONDS),
                     "most_s": form.most.value(SECONDS)},
        "nodes": list(form.nodes),
        "options": {**form.rest_options, **known},
        "before": _words(form.before),
        "after": _words(form.after),
        "rpo_minutes": form.rpo.value(MINUTES),
    }  # fmt: skip


def _words(text: str) -> list[str]:
    try:
        return shlex.split(text)
    except ValueError:
        return [text]


# ----------------------------------------------------------------------------------- problems


def problems(form: Form) -> dict[str, str]:
    """Return what is wrong, in English, by field; `""` is what belongs to none."""
    found = _selection_problems(form)
    if not form.storage:
        found["storage"] = later("Choose a storage.")
    found |= policy_lines.schedule_problems(form.schedules)
    found |= policy_lines.window_problems(form.windows)
    found |= _number_problems(form)
    found |= _text_problems(form)
    if not found:
        try:
            documents.from_document(document(form))
        except RuchuError as error:
            found[""] = str(error)
    return found


def _selection_problems(form: Form) -> dict[str, str]:
    if not form.platform:
        return {"platform": later("Choose a platform.")}
    if form.mode == PICK and not form.machines:
        return {"machines": later("Choose at least one machine.")}
    if form.mode == RULE and not any(getattr(form, name) for name in ("machines", *_RULES)):
        return {"rule": later("Say at least one rule.")}
    return {}


def _number_problems(form: Form) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, least, most, text in (
        ("parallel", 1, documents.PARALLEL_MAX, later("A whole number from 1 to 64.")),
        ("priority", 1, 9, later("A whole number from 1 to 9.")),
        ("attempts", 0, _ATTEMPTS_MAX, later("A whole number from 0 to 1000.")),
        ("level", 0, LEVEL_MAX, later("A whole number from 0 to 19.")),
        ("grace_days", 0, 365, later("A number of days from 0 to 365.")),
    ):
        value = getattr(form, name)
        if value is None and name in _OPTIONS:
            continue
        whole = value is not None and (name == "grace_days" or value == int(value))
        if not whole or not least <= value <= most:
            found[name] = text
    for name in RETENTION:
        value = form.retention.get(name) or 0
        if value < 0 or value != int(value):
            found[f"retention.{name}"] = later("A whole number; 0 turns the rule off.")
    for name, units, most in (
        ("rpo", MINUTES, documents.RPO_MINUTES_MAX), ("first", SECONDS, 1 << 31),
        ("most", SECONDS, 1 << 31),
    ):  # fmt: skip
        if not 0 <= getattr(form, name).value(units) <= most:
            found[name] = later("That is too long, or less than nothing.")
    return found


def _text_problems(form: Form) -> dict[str, str]:
    found: dict[str, str] = {}
    for name in ("before", "after"):
        try:
            shlex.split(getattr(form, name))
        except ValueError:
            found[name] = later("A quotation mark is not closed.")
    try:
        documents.check_name(form.name)
    except RuchuError:
        found["name"] = later("Up to 100 characters, without slashes.")
    if form.after_policy and form.after_policy == form.name:
        found["after_policy"] = later("A policy cannot wait for itself.")
    for day in form.holidays:
        if not policy_lines.is_date(day):
            found["holidays"] = later("Dates such as 2027-02-06.")
    return found


def reasons(text: str | None) -> list[str]:
    """Return what is left out, such as `free,swap`, as a list; `all` is what it stands for."""
    words = [each.strip() for each in (text or "").split(",") if each.strip()]
    if "all" in words:
        words = [*(set(extraction.REASONS) - {extraction.RECYCLE}), *words]
    return sorted({each for each in words if each not in {"all", "none"}})


def step_of(name: str) -> str:
    """Return the step of the wizard that shows a field."""
    top = name.partition(".")[0]
    return next((step for step, shown in STEPS.items() if top in shown), "review")


# ------------------------------------------------------------------------------------- presets


PRESETS: Mapping[str, str] = {
    "nightly-weekly": later("Nightly incremental, full on Sundays"),
    "nightly": later("Nightly incremental"),
    "hourly": later("Every hour, full on Sundays"),
    "workdays": later("Workdays at noon and at night"),
}


def preset(name: str) -> list[ScheduleLine]:
    """Return the schedules of a preset."""
    nightly = ScheduleLine("incremental", "daily", "02:00")
    sundays = ScheduleLine("full", "weekly", "02:00", ["sun"])
    workdays = ["mon", "tue", "wed", "thu", "fri"]
    return {
        "nightly-weekly": [nightly, sundays],
        "nightly": [nightly],
        "hourly": [ScheduleLine("incremental", "hourly"), sundays],
        "workdays": [ScheduleLine("incremental", "weekly", "12:30, 22:00", workdays)],
    }[name]


# Rules of retention that people choose among, by name.
KEEPING: Mapping[str, tuple[str, Mapping[str, int]]] = {
    "gfs": (later("7 days, 4 weeks, 12 months"), {"daily": 7, "weekly": 4, "monthly": 12}),
    "month": (later("30 days"), {"days": 30}),
    "long": (later("14 days, 8 weeks, 24 months, 10 years"),
             {"daily": 14, "weekly": 8, "monthly": 24, "yearly": 10}),
    "everything": (later("Everything"), {}),
}  # fmt: skip


def keeping(name: str) -> dict[str, int | None]:
    """Return the rules of retention of a preset."""
    return {each: KEEPING[name][1].get(each, 0) for each in RETENTION}


def fresh(zone: str) -> Form:
    """Return the form of a policy that is to be: nightly, and kept for a year."""
    return Form(zone=zone, schedules=preset("nightly-weekly"), retention=keeping("gfs"))


def blank() -> dict[str, Any]:
    """Return the document of a policy that says nothing, to tell what another one says."""
    return documents.to_document(Policy("", Selection(""), ""))
