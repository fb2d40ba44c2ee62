"""Nodes: the hosts that move the bytes; enrolled with one command."""

import ipaddress
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import Language, later
from ruchu.web.parts import (
    acting,
    asked,
    asking,
    check_words,
    copying,
    empty,
    headings,
    listing,
    marks,
    resources,
    run_words,
)
from ruchu.web.parts.listing import Column
from ruchu.web.visiting import Visit, page

# Nodes beat every ten seconds; the page follows what changes at once, and the load like this.
_LOAD_S = 10.0
_LIMIT_S = 5.0
_CHECKS: Mapping[str, marks.Mark] = {
    "ok": marks.Mark(later("Fine"), marks.GOOD, "check_circle"),
    "missing": marks.Mark(later("Missing"), marks.WARN, "warning"),
    "unknown": marks.Mark(later("Not known"), marks.QUIET, "help_outline"),
}


@page("/nodes", later("Nodes"))
async def nodes(visit: Visit) -> None:
    """List the nodes."""
    say = visit.say
    with headings.head(
        say("Nodes"), say("The hosts that move data between platforms and storages.")
    ):
        if visit.may_everywhere(Right.CONFIGURE):
            ui.button(say("Add a node"), icon="add", on_click=lambda: ui.navigate.to("/nodes/new")
                      ).props("unelevated no-caps color=primary data-test=add-node")  # fmt: skip

    def row(node: Mapping[str, Any]) -> dict[str, Any]:
        return node_row(visit.language, node, visit.now)

    def nothing() -> None:
        empty.empty("hub", say("There is no node yet."),
                    say("A server brings one along; it appears here once it has started."))  # fmt: skip

    columns = [
        Column("name", say("Name")),
        Column("state", say("State")),
        Column("tasks", say("Tasks")),
        Column("processors", say("Processors")),
        Column("memory", say("Memory")),
        Column("release", say("Release")),
        Column("seen", say("Last seen")),
        Column("guard", say("Guard")),
    ]
    keep = _shown if visit.query.get("revoked") != "1" else _every
    fetch = listing.of_list(visit, "/nodes", row, keep)
    found = listing.Listing(visit, columns, fetch, nothing=nothing, label=say("Nodes"))
    await found.refresh()
    gone = [each for each in await visit.api.get("/nodes") if each["state"] == "revoked"]
    if gone and keep is _shown:
        ui.link(say("Show {count} revoked nodes", count=len(gone)), "/nodes?revoked=1")
    visit.live(found.refresh, "node", "task", every_s=3.0)
    ui.timer(_LOAD_S, lambda: visit.guarded(found.refresh))


def _shown(node: Mapping[str, Any]) -> bool:
    return bool(node["state"] != "revoked")


def _every(node: Mapping[str, Any]) -> bool:
    del node
    return True


def node_row(language: Language, node: Mapping[str, Any], now: datetime) -> dict[str, Any]:
    """Return a node as a row of a table."""
    busy, used = resources.node_load(node)
    tasks = int(node["load"].get("tasks") or 0)
    alive = node["state"] in {"online", "late"}
    text = language.say("{count} of {most}", count=tasks, most=node["parallel"])
    guarded = node["load"].get("guarded")
    about = [node["facts"].get("host") or "", language.say("of this server") * node["embedded"]]
    return {
        "id": node["id"],
        "name": {"text": node["name"], "link": f"/nodes/{part(node['name'])}",
                 "sub": " · ".join(filter(None, about))},
        "state": resources.node_mark(node).cell(language),
        "tasks": {"text": text, "bar": min(tasks / node["parallel"], 1.0)} if alive else "–",
        "processors": resources.share_cell(language, busy) if alive and busy is not None else "–",
        "memory": resources.share_cell(language, used) if alive and used is not None else "–",
        "release": node["release"] or "–",
        "seen": language.ago(node["last_seen"], now),
        "guard": guard_text(language, guarded) if alive else "–",
    }  # fmt: skip


def guard_text(language: Language, guarded: Sequence[str] | None) -> str:
    """Return whether a node guards storages."""
    if guarded is None:
        return language.say("off")
    return language.say("{count} storages", count=len(guarded))


@page("/nodes/new", later("Add a node"), need=Right.CONFIGURE)
async def new_node(visit: Visit) -> None:
    """Make a one-time token, show the command to copy, and wait for the node."""
    say = visit.say
    about = await visit.api.get("/about")
    with headings.head(say("Add a node"), say(
        "A node is a host that reaches platforms and storages quickly. It dials out to this server; "
        "nothing has to be opened on its side."
    )):  # fmt: skip
        ui.button(say("Back"), on_click=lambda: ui.navigate.to("/nodes")).props("flat no-caps")
    title = say("1. What it is called, and how it reaches us")
    with headings.card(title) as card, ui.element("div").classes("r-form r-stack"):
        name = asking.field(say("Name of the node"), "name", help_text=say("Such as node-2."),
                            props="maxlength=64")  # fmt: skip
        address = asking.field(
            say("Address of this server"), "address", reached_as(about["nodes_at"]),
            help_text=say("A host name or an address that the new host can reach."),
            props="maxlength=255",
        )  # fmt: skip
        go = ui.button(say("Show the command")).props(
            "unelevated no-caps color=primary data-test=make-token"
        )
    place = ui.element("div").classes("r-wide r-stack")

    async def make() -> None:
        wanted = {"name": (name.value or "").strip(), "address": (address.value or "").strip()}
        made = await acting.act(visit, visit.api.post("/nodes/tokens", wanted))
        if made is not None:
            card.set_visibility(False)
            with place:
                _command(visit, wanted["name"], made["command"])

    go.on_click(make)
    if not address.value:
        ui.timer(0.1, lambda: _guess(address), once=True)


def reached_as(nodes_at: str) -> str:
    """Return the host by which nodes reach the server; empty if only the server itself does."""
    host = (nodes_at or "").rpartition(":")[0].strip("[]")
    try:
        known = ipaddress.ip_address(host)
    except ValueError:
        return host
    return "" if known.is_loopback or known.is_unspecified else host


async def _guess(address: Any) -> None:
    """Take the name by which this browser reaches the server."""
    found = await ui.run_javascript("return location.hostname", timeout=_LIMIT_S)
    if not address.value:
        address.set_value(str(found))


def _command(visit: Visit, name: str, command: str) -> None:
    say = visit.say
    title = say("2. Run this command on the new host, as root")
    with headings.card(title), ui.element("div").classes("r-stack"):
        copying.copied(visit, command, "node-command", say("Command that enrols the node"))
        ui.label(say(
            "Ruchu has to be installed there. The command works once, within a day. Whoever has "
            "it can enrol a node: send it on a safe way."
        )).classes("r-help")  # fmt: skip
    with headings.card(say("3. The node comes in")) as card:
        place = ui.element("div").classes("r-stack")
    with place, ui.element("div").classes("r-waiting").props("role=status data-test=node-waits"):
        ui.spinner(size="1.4em")
        ui.label(say("Waiting for {name}…", name=name))
    there = [False]

    async def look() -> None:
        found = [each for each in await visit.api.get("/nodes")
                 if each["name"] == name and each["state"] == "online"]  # fmt: skip
        if found and not there[0]:
            there[0] = True
            place.clear()
            with place:
                _arrived(visit, found[0])

    with card:
        visit.live(look, "node")


def _arrived(visit: Visit, node: Mapping[str, Any]) -> None:
    say = visit.say
    with ui.element("div").classes("r-note good").props("role=status data-test=node-there"):
        ui.label(say("{name} is connected from host {host}.", name=node["name"],
                     host=node["facts"].get("host") or "–"))  # fmt: skip
    with ui.element("div").classes("r-actions"):
        target = f"/nodes/{part(node['name'])}"
        ui.button(say("See what it has and lacks"), on_click=lambda: ui.navigate.to(target)).props(
            "unelevated no-caps color=primary"
        )
        ui.button(say("All nodes"), on_click=lambda: ui.navigate.to("/nodes")).props("flat no-caps")


@page("/nodes/{node}", later("Node"))
async def node(visit: Visit, node: str) -> None:
    """Show a node: its state, its tasks, what its host has and lacks."""
    say, path = visit.say, f"/nodes/{part(node)}"
    known = await visit.api.get(path)
    with headings.head(known["name"], known["facts"].get("host") or ""):
        if visit.may_everywhere(Right.CONFIGURE) and known["state"] != "revoked":
            _acts(visit, known, path)
    with ui.element("div").classes("r-grid"):
        with headings.card("", "r-6") as facts:
            pass
        with headings.card(say("Load"), "r-6"):
            load = ui.element("div").classes("r-stack")

    async def refresh() -> None:
        found = await visit.api.get(path)
        facts.clear()
        with facts:
            _facts(visit, found)
        load.clear()
        with load:
            _load(visit, found)

    await refresh()
    ui.label(say("Running tasks")).classes("r-section").props("role=heading aria-level=2")
    tasks = _tasks(visit, path)
    await tasks.refresh()
    if known["state"] != "revoked":
        with headings.card(say("What the host has and lacks")):
            _doctor(visit, path)

    async def both() -> None:
        await refresh()
        await tasks.refresh()

    visit.live(both, "node", "task", every_s=2.0)
    ui.timer(_LOAD_S, lambda: visit.guarded(refresh))


def _facts(visit: Visit, known: Mapping[str, Any]) -> None:
    say, language, facts = visit.say, visit.language, known["facts"]
    ui.label(say("Node")).classes("r-card-title").props("role=heading aria-level=2")
    root = say("root") if facts.get("root") else say("not root: it cannot mount or guard storages")
    headings.facts({
        say("State"): lambda: marks.show(resources.node_mark(known), language),
        say("Last seen"): language.ago(known["last_seen"], visit.now),
        say("Enrolled"): language.moment(known["enrolled"]),
        say("Kind"): say("brought along by this server") if known["embedded"] else say("on a host of its own"),
        say("Release"): known["release"] or "–",
        say("System"): facts.get("system") or "–",
        say("Runs as"): root if facts else "–",
        say("Tasks at the same time"): language.number(known["parallel"]),
        say("Guards"): ", ".join(known["load"].get("guarded") or ()) or say("nothing"),
    })  # fmt: skip


def _load(visit: Visit, known: Mapping[str, Any]) -> None:
    say, language = visit.say, visit.language
    busy, used = resources.node_load(known)
    if busy is None or used is None:
        ui.label(say("It has not told its load yet.")).classes("muted")
        return
    facts, load = known["facts"], known["load"]
    tasks = int(load.get("tasks") or 0)
    taken = language.size(facts["memory"] - load["memory_available"])
    for title, share, text in (
        (say("Tasks"), tasks / known["parallel"],
         say("{count} of {most}", count=tasks, most=known["parallel"])),
        (say("Processors"), busy, say("load {load} on {cores} cores",
                                      load=language.number(load["load_1"], 2), cores=facts["cores"])),
        (say("Memory"), used, say("{used} of {size}", used=taken, size=language.size(facts["memory"]))),
    ):  # fmt: skip
        bar(title, min(share, 1.0), text, str(resources.share_cell(language, share)["tone"]))


def bar(title: str, share: float, text: str, tone: str = "") -> None:
    """Show a share of something as a bar, with its words."""
    with ui.element("div").classes("r-meter"):
        with ui.element("div").classes("r-meter-words"):
            ui.label(title)
            ui.label(text).classes("muted")
        with ui.element("div").classes(f"r-bar {tone}").props("aria-hidden=true"):
            ui.element("i").style(f"width: {round(share * 100)}%")


def _tasks(visit: Visit, path: str) -> listing.Listing:
    say = visit.say

    def row(task: Mapping[str, Any]) -> dict[str, Any]:
        progress = task["progress"]
        total = int(progress.get("total") or 0)
        done = int(progress.get("done") or 0)
        cell: Any = (
            {"text": visit.language.percent(done / total), "bar": done / total} if total else "–"
        )
        return {
            "id": task["id"], "name": {"text": task["label"] or task["kind"], "link": f"/runs/{task['run']}"},
            "kind": marks.kind(visit.language, task["kind"]), "phase": run_words.phase(visit.language, task["phase"]) or "–",
            "progress": cell, "since": visit.language.ago(task["sent"], visit.now),
        }  # fmt: skip

    def nothing() -> None:
        ui.label(say("It does nothing at the moment.")).classes("muted")

    columns = [
        Column("name", say("Task")),
        Column("kind", say("Kind")),
        Column("phase", say("Phase")),
        Column("progress", say("Progress")),
        Column("since", say("Begun")),
    ]
    fetch = listing.of_list(visit, f"{path}/tasks", row)
    return listing.Listing(visit, columns, fetch, nothing=nothing, label=say("Running tasks"))


def _doctor(visit: Visit, path: str) -> None:
    say = visit.say

    def show(found: Sequence[Mapping[str, Any]]) -> None:
        order = {"missing": 0, "unknown": 1}
        rows = [
            {"id": each["name"], "name": {"text": check_words.name(visit.language, each["name"])},
             "state": marks.of(_CHECKS, each["state"]).cell(visit.language),
             "detail": check_words.detail(visit.language, each["detail"]) or "–"}
            for each in sorted(found, key=lambda each: order.get(each["state"], 2))
        ]  # fmt: skip
        columns = [
            Column("name", say("Checked")),
            Column("state", say("State")),
            Column("detail", say("Details")),
        ]
        table = listing.Listing(
            visit, columns, asked.of_rows(rows), label=say("What the host has and lacks")
        )
        ui.timer(0.0, table.refresh, once=True)

    asked.later_in(visit, say("Asking the node…"), lambda: visit.api.get(f"{path}/doctor"), show)


def _acts(visit: Visit, known: Mapping[str, Any], path: str) -> None:
    say = visit.say

    async def maintain() -> None:
        answer = await visit.api.call("GET", path)
        on = not answer.body["maintenance"]
        change = visit.api.patch(path, {"maintenance": on}, answer.tag)
        done = say("It gets no new tasks from now on.") if on else say("It gets tasks again.")
        if await acting.act(visit, change, done) is not None:
            button.set_text(say("End maintenance") if on else say("Begin maintenance"))

    text = say("End maintenance") if known["maintenance"] else say("Begin maintenance")
    button = ui.button(text, icon="build", on_click=maintain, color=None)
    button.props("flat no-caps data-test=maintenance").classes("r-quiet")
    ui.button(say("Change"), icon="tune", on_click=lambda: _change(visit, path), color=None).props(
        "flat no-caps data-test=change"
    ).classes("r-quiet")
    if not known["embedded"]:
        ui.button(say("Revoke"), icon="block", on_click=lambda: _revoke(visit, known, path)).props(
            "flat no-caps color=negative data-test=revoke"
        )


async def _change(visit: Visit, path: str) -> None:
    say = visit.say
    answer = await visit.api.call("GET", path)
    with asking.dialog(say("Change {name}", name=answer.body["name"])) as dialog:
        parallel = asking.number(
            say("Tasks at the same time"), "parallel", answer.body["parallel"], least=1, most=64,
            help_text=say("Each task is a process of its own and reads or writes several disks."),
        )  # fmt: skip

        async def go() -> bool:
            change = visit.api.patch(path, {"parallel": int(parallel.value or 1)}, answer.tag)
            return await acting.act(visit, change, say("Changed.")) is not None

        asking.actions(visit, dialog, say("Change"), go)


async def _revoke(visit: Visit, known: Mapping[str, Any], path: str) -> None:
    say, name = visit.say, known["name"]
    losses = [
        say("Its line is cut at once, and it never comes in again with its certificate."),
        say("Tasks that it does now end as failed; others may take them up."),
        say("Instant restores that run on it are not served on by another node."),
        say("Points and storages stay. To use the host again, enrol it anew."),
    ]
    title = say("Revoke {name}", name=name)
    if await acting.confirmed_by_name(visit, title, losses, say("Revoke"), name):
        done = await acting.act(visit, visit.api.delete(path), say("Revoked."))
        if done is not None:
            ui.navigate.to("/nodes")
