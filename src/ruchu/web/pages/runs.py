"""Jobs: what runs and what ran."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.control.jobs import runs as states
from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import acting, empty, filtering, headings, listing, marks, run_words
from ruchu.web.parts.filtering import Filters
from ruchu.web.parts.listing import Act, Column, Fetch
from ruchu.web.parts.run_view import RunView
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
# Choices of the filter; each stands for one state or several.
STATES: Mapping[str, tuple[str, tuple[str, ...]]] = {
    "open": (later("Under way"), states.OPEN),
    "running": (later("Running"), states.UNDER_WAY),
    "waiting": (later("Queued or waiting"), (states.QUEUED, states.WAITING)),
    "paused": (later("Paused"), (states.PAUSED,)),
    "troubled": (later("Failed or partly"), (states.FAILED, states.PARTLY)),
    "succeeded": (later("Succeeded"), (states.SUCCEEDED,)),
    "failed": (later("Failed"), (states.FAILED,)),
    "partly": (later("Partly"), (states.PARTLY,)),
    "stopped": (later("Stopped"), (states.STOPPED,)),
}  # fmt: skip
_LISTED = ("backup", "restore", "instant", "migration", "instant-stop", "verify", "merge",
           "repair", "evacuate", "delete-points")  # fmt: skip


@page("/runs", later("Jobs"))
async def runs(visit: Visit) -> None:
    """List the runs, the newest first."""
    say = visit.say
    with headings.head(say("Jobs"), say("Everything that runs and ran, the newest first.")):
        pass

    async def restart() -> None:
        await found.restart()

    filters = Filters(visit, restart, {})
    filters.text("text", say("Search by name"))
    filters.choice("state", say("State"), {key: say(each[0]) for key, each in STATES.items()})
    filters.choice(
        "kind", say("Kind"), {each: marks.kind(visit.language, each) for each in _LISTED}
    )
    policies = {each["id"]: each["policy"]["name"] for each in await visit.api.get("/policies")}
    filters.choice("policy", say("Policy"), policies)
    filters.choice("period", say("Period"), filtering.periods(visit.language))
    found = _listing(visit, filters)
    await found.refresh()
    visit.live(found.refresh, "run", "task", every_s=2.0)


def _listing(visit: Visit, filters: Filters) -> listing.Listing:
    say = visit.say
    columns = [
        Column("name", say("Job")),
        Column("state", say("State")),
        Column("started", say("Started"), classes="nowrap"),
        Column("duration", say("Duration"), "right", "nowrap"),
        Column("read", say("Read"), "right", "nowrap"),
        Column("stored", say("Stored"), "right", "nowrap"),
    ]

    async def on_act(name: str, run: str) -> None:
        told = {"stop": say("It is asked to stop."), "pause": say("It is asked to pause."),
                "resume": say("It goes on.")}  # fmt: skip
        await acting.act(visit, visit.api.post(f"/runs/{run}/{name}"), told[name])
        await found.refresh()

    def nothing() -> None:
        if filters:
            empty.empty("search_off", say("No job matches."), say("Look for something else."),
                        action=say("Clear the filters"), target=filters.clear)  # fmt: skip
        elif visit.may(Right.OPERATE):
            empty.empty("sync", say("Nothing has run yet."),
                        say("A policy starts backups by its schedule, or now."),
                        action=say("Policies"), target="/policies")  # fmt: skip
        else:
            empty.empty("sync", say("Nothing has run yet."))

    steers = visit.may(Right.OPERATE) or visit.may(Right.RESTORE)
    found = listing.Listing(
        visit, columns, _fetch(visit, filters), nothing=nothing, label=say("Jobs"),
        on_act=on_act if steers else None,
    )  # fmt: skip
    return found


def _fetch(visit: Visit, filters: Filters) -> Fetch:
    async def fetch(after: str, limit: int) -> tuple[Sequence[dict[str, Any]], str | None]:
        chosen = STATES.get(filters["state"])
        answer = await visit.api.get(
            "/runs", after=after, limit=limit, state=list(chosen[1]) if chosen else None,
            kind=filters["kind"] or None, policy=filters["policy"] or None,
            text=filters["text"] or None, since=filtering.since(filters["period"], visit.now),
        )  # fmt: skip
        progress: dict[str, Found] = {}
        if any(each["state"] in states.UNDER_WAY for each in answer["items"]):
            progress = {each["run"]: each for each in await visit.api.get("/progress")}
        rows = [row(visit, each, progress.get(each["id"])) for each in answer["items"]]
        return rows, answer["next"]

    return fetch


_ACTS = {
    "stop": Act("stop", later("Stop"), "stop"),
    "pause": Act("pause", later("Pause"), "pause"),
    "resume": Act("resume", later("Resume"), "play_arrow"),
}


def row(visit: Visit, run: Found, progress: Found | None) -> dict[str, Any]:
    """Return the row of a run."""
    language, summary = visit.language, run["summary"]
    may = visit.may(run_words.right_of(run), run["resource_group"])
    read, stored = summary.get("bytes_read"), summary.get("bytes_stored")
    steps = run_words.steps(run) if may else ()
    return {
        "id": run["id"],
        "name": {"text": run["name"], "link": f"/runs/{run['id']}",
                 "sub": marks.kind(language, run["kind"])},
        "state": state_cell(visit, run, progress),
        "started": {"text": language.moment(run["started"] or run["created"]),
                    "sub": run_words.started_by(language, run["started_by"])},
        "duration": language.between(run["started"], run["ended"], visit.now),
        "read": language.size(read or None),
        "stored": language.size(stored or None),
        "acts": [{**_ACTS[each].cell(), "label": visit.say(_ACTS[each].label)} for each in steps],
    }  # fmt: skip


def state_cell(visit: Visit, run: Found, progress: Found | None) -> dict[str, Any]:
    """Return the cell of the state of a run: with how far it is, or why it is so."""
    language = visit.language
    cell: dict[str, Any] = dict(marks.of(marks.RUNS, run["state"]).cell(language))
    if progress is not None and run["state"] in states.UNDER_WAY:
        cell["bar"] = progress["share"]
        parts = [language.percent(progress["share"])]
        if progress["rate"]:
            parts.append(language.rate(progress["rate"]))
        parts.append(run_words.phase(language, progress["phase"]))
        cell["sub"] = " · ".join(filter(None, parts))
    elif run["reason"]:
        cell["sub"] = run_words.reason(language, run["reason"])[:200]
    return cell


@page("/runs/{run}", later("Job"))
async def one_run(visit: Visit, run: str) -> None:
    """Show a run: how far it is, what it says, how it ended."""
    found = await visit.api.get(f"/runs/{part(run)}")
    view = RunView(visit, found)
    await view.refresh()
    visit.live(view.refresh, "run", "task", every_s=1.0)
    if found["ended"] is None:
        # A duration grows although nothing is told.
        ui.timer(1.0, view.tick)
