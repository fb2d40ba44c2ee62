"""What runs, their tasks and their history are called; what can be done with a run. Pure."""

import datetime
import re
from collections.abc import Mapping, Sequence
from typing import Any

from ruchu.api import reach
from ruchu.api.routes_runs import BY_HAND
from ruchu.control.jobs import runs
from ruchu.errors import Answered
from ruchu.model.principals import Right
from ruchu.web.language import Language, later
from ruchu.web.parts import marks
from ruchu.web.parts.marks import Mark

Found = Mapping[str, Any]

PHASES: Mapping[str, str] = {
    "before": later("Program before"),
    "after": later("Program after"),
    "copy": later("Copying"),
    "retention": later("Retention"),
    "verify": later("Verifying"),
    "repair": later("Repairing"),
    "evacuate": later("Evacuating"),
    "restore": later("Restoring"),
    "start": later("Starting"),
    "keep": later("Keeping as a point"),
    "stop": later("Ending"),
    "migrate": later("Migrating"),
}
# What else happens in the history of a run: states are called as everywhere.
EVENTS: Mapping[str, str] = {
    "repeated": later("What failed is tried again"),
    "stop asked for": later("Stop asked for"),
    "pause asked for": later("Pause asked for"),
    "resume asked for": later("Resume asked for"),
}
LEVELS: Mapping[str, str] = {
    "debug": later("Detail"),
    "info": later("Info"),
    "warning": later("Warning"),
    "error": later("Error"),
}
# Fixed reasons of states, as the engine writes them.
REASONS: Mapping[str, str] = {
    "stop asked for": later("Stop asked for"),
    "pause asked for": later("Pause asked for"),
    "stopped": later("Stopped by hand"),
    "its window closed": later("Its backup window closed"),
    "there was nothing to do": later("There was nothing to do"),
}
# Reasons with something in them, as the engine writes them.
_PATTERNS = (
    (re.compile(r"attempt (?P<number>\d+) follows"), later("Attempt {number} follows")),
    (re.compile(r"run (?P<run>\w+) of (?:this policy|(?P<policy>.+)) has not ended"),
     later("An earlier run has not ended: {run}")),
    (re.compile(r"attempt (?P<number>\d+) ended with its node"),
     later("Attempt {number} ended with its node")),
)  # fmt: skip
_OPENS = re.compile(r"its window opens at (\d{4}-\d\d-\d\d \d\d:\d\d) UTC")
_FAILED = re.compile(r"attempt (?P<number>\d+) failed: (?P<why>.*)", re.DOTALL)
_MOMENT = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{6}Z")
_MORE = re.compile(r"(?P<first>.*) \(and (?P<count>\d+) more\)", re.DOTALL)


def phase(language: Language, name: str) -> str:
    """Return what a phase is called."""
    return language.say(PHASES.get(name, name)) if name else ""


def reason(language: Language, text: str) -> str:
    """Return why a run is in its state; moments within are shown as everywhere."""
    return moments(language, _reason(language, text))


def moments(language: Language, text: str) -> str:
    """Return a text with its moments shown as everywhere."""
    return _MOMENT.sub(lambda found: language.moment(found[0]), text)


def _reason(language: Language, text: str) -> str:
    if not text or text in REASONS:
        return language.say(REASONS[text]) if text else ""
    if opens := _OPENS.fullmatch(text):
        at = datetime.datetime.strptime(opens[1], "%Y-%m-%d %H:%M").replace(tzinfo=datetime.UTC)
        return language.say("Its backup window opens: {time}", time=language.moment(at))
    if failed := _FAILED.fullmatch(text):
        why = _reason(language, failed["why"])
        return language.say("Attempt {number} failed: {why}", number=failed["number"], why=why)
    for pattern, words in _PATTERNS:
        if found := pattern.fullmatch(text):
            return language.say(words, **found.groupdict())
    return _cause(language, text)


def _cause(language: Language, text: str) -> str:
    """Return what an error says, which may stand behind what it is about."""
    if more := _MORE.fullmatch(text):
        first = _cause(language, more["first"])
        return language.say("{first} (and {count} more)", first=first, count=more["count"])
    about, colon, said = text.partition(": ")
    whole = language.problem(Answered.of({"detail": text}))
    if whole != text or not colon:
        return whole
    return f"{about}: {language.problem(Answered.of({'detail': said}))}"


def started_by(language: Language, name: str) -> str:
    """Return who started a run."""
    return language.say("Schedule") if name == "schedule" else name


def task_mark(task: Found) -> Mark:
    """Return how the state of a task is shown."""
    name = {"waiting": "waiting", "sent": "running"}.get(task["state"]) or task["outcome"] or ""
    return marks.of(marks.RUNS, name)


def problem(language: Language, error: Found) -> tuple[str, str]:
    """Return what an error of a task says, and what to do about it."""
    told = Answered.of({"detail": error.get("message"), "hint": error.get("hint") or ""})
    return language.problem(told), language.hint(told)


def line(language: Language, event: Found, labels: Mapping[str, str]) -> tuple[str, str]:
    """Return the level of an event of a history, and its words.

    `labels` are what tasks are about, by their id.
    """
    body, name = event["body"], event["name"]
    about = labels.get(event["task"] or "", "")
    begin = f"{about}: " if about else ""
    if name == "log":
        return str(body.get("level", "info")), f"{begin}{body.get('text', '')}"
    if name == "phase":
        return "info", f"{begin}{phase(language, str(body.get('name', '')))}"
    if name == "alarm":
        return str(body.get("severity", "warning")), f"{begin}{body.get('text', '')}"
    if name == "problem":
        text, hint = problem(language, body)
        return "error", " ".join(filter(None, (f"{body.get('label', '')}: {text}", hint)))
    known = EVENTS.get(name)
    said = language.say(known) if known else language.say(marks.of(marks.RUNS, name).word)
    why = reason(language, str(body.get("reason", "")))
    level = "error" if name == runs.FAILED else "warning" if name == runs.PARTLY else "info"
    return level, f"{said}: {why}" if why else said


def failed_machines(tasks: Sequence[Found]) -> list[str]:
    """Return the names of the machines that a backup did not save."""
    found: list[str] = []
    for task in tasks:
        if task["outcome"] in {None, "succeeded"}:
            continue
        machines = (task["result"] or {}).get("machines") or ()
        known = task["body"].get("names") or {}
        saved = {each["machine"] for each in machines if each.get("ok")}
        names = list(known.values()) or [task["label"]]
        found += [name for name in names if name not in saved and name not in found]
    return found


def again(run: Found, tasks: Sequence[Found]) -> tuple[str, dict[str, Any]] | None:
    """Return the request that does once more what a run was to do; None if there is none.

    Of a backup only the machines are taken again that it did not save; all, if it saved all.
    """
    if run["ended"] is None:
        return None
    if run["kind"] == "backup":
        if not run["policy"]:
            return None
        body = {"kind": run["body"].get("kind", "incremental"), "machines": failed_machines(tasks)}
        return f"/policies/{run['policy']}/run", body
    if run["kind"] not in BY_HAND:
        return None
    wanted = {key: run[key] for key in ("kind", "name", "body", "priority")}
    return "/runs", wanted


def right_of(run: Found) -> Right:
    """Return the right that steering a run takes."""
    return reach.right_of(run["kind"])


def steps(run: Found) -> tuple[str, ...]:
    """Return what can be asked of a run now: `stop`, `pause`, `resume`."""
    if run["ended"] is not None:
        return ()
    pausing = run["state"] == runs.PAUSED or run["pause"]
    found = ["resume" if pausing else "pause"] if not run["stop"] else []
    return (*found, *(() if run["stop"] else ("stop",)))


def ratio(read: float | None, stored: float | None) -> float | None:
    """Return how much smaller what was stored is than what was read."""
    return read / stored if read and stored else None


def totals(tasks: Sequence[Found]) -> dict[str, float]:
    """Return how far a run is by its tasks: `share`, `done`, `total`, `rate`."""
    share = done = total = rate = 0.0
    for task in tasks:
        told = task["progress"] if task["state"] == "sent" else {}
        part_done, part_total = told.get("done") or 0, told.get("total") or 0
        done, total, rate = done + part_done, total + part_total, rate + (told.get("rate") or 0)
        part = min(1.0, part_done / part_total) if part_total else 0.0
        share += 1.0 if task["state"] == "ended" else part
    return {"share": share / len(tasks) if tasks else 0.0, "done": done, "total": total,
            "rate": rate}  # fmt: skip


def saved(tasks: Sequence[Found]) -> list[Found]:
    """Return what backups saved, a machine each."""
    every = [each for task in tasks for each in (task["result"] or {}).get("machines") or ()]
    return [each for each in every if each.get("ok")]
