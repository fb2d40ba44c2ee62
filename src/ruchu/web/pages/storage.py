"""One storage: how it fills, what it can do; grown, verified, moved out, removed."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import Language, later
from ruchu.web.pages import storages
from ruchu.web.parts import (
    acting,
    asked,
    asking,
    charts,
    headings,
    locating,
    marks,
    reaching,
    resources,
    storage_charts,
)
from ruchu.web.visiting import Visit, page

_DAYS = 90
# What whoever configures a group may change; the rest takes the right everywhere.
_OF_GROUPS = ("writers", "readers", "warn_percent", "stop_percent")
_DEPTHS: Mapping[str, str] = {
    "structural": later("Structure: every list of what there should be, in minutes"),
    "sampled": later("Sample: the structure, and 1,000 records that are read"),
    "full": later("Everything: each byte is read and compared"),
}
_PROBED: Mapping[str, str] = {
    "file_system": later("File system"),
    "immutable": later("Immutable flag: points cannot be changed or removed by others"),
    "conditional_put": later("Decides among writers"),
    "object_lock": later("Object lock"),
    "versioned": later("Keeps versions"),
}


@page("/storages/{storage}", later("Storage"))
async def storage(visit: Visit, storage: str) -> None:
    """Show a storage."""
    say, path = visit.say, f"/storages/{part(storage)}"
    known = await visit.api.get(path)
    with headings.head(known["name"], known["location"]):
        _acts(visit, known)
    problem = ui.element("div").classes("r-wide")
    with ui.element("div").classes("r-grid"):
        figures = _figures(visit)
        with headings.card(say("Use by day")), ui.element("div").classes("r-stack"):
            words = ui.label("").classes("r-lead").props("data-test=forecast")
            chart = charts.chart({}, say("Use of the storage by day"), "280px")
        with headings.card("", "r-6") as facts:
            pass
        with headings.card("", "r-6") as abilities:
            pass

    async def refresh() -> None:
        found = await visit.api.get(path)
        use = await visit.api.get(f"{path}/use", days=_DAYS)
        problem.clear()
        problem.set_visibility(bool(found["problem"]))
        with problem:
            if found["problem"]:
                asked.problem(found["problem"])
        _fill(visit, figures, found, use)
        text = storage_charts.words(visit.language, found, use)
        words.set_text(text)
        chart.options.clear()
        chart.options.update(storage_charts.options(visit.language, found, use))
        chart.props(f'aria-label="{text}"').update()
        await _facts(visit, facts, found)
        _abilities(visit, abilities, found)

    await refresh()
    visit.live(refresh, "storage", "points", "alarm", every_s=3.0)


def _figures(visit: Visit) -> dict[str, tuple[Any, Any]]:
    titles = {"used": visit.say("Used"), "free": visit.say("Free"), "points": visit.say("Points"),
              "reduction": visit.say("Data reduction")}  # fmt: skip
    made = {}
    for name, title in titles.items():
        with headings.card("", "r-3"):
            made[name] = headings.figure(title, "–")
    return made


def _fill(
    visit: Visit, figures: Mapping[str, tuple[Any, Any]], found: Mapping[str, Any],
    use: Mapping[str, Any],
) -> None:  # fmt: skip
    say, language = visit.say, visit.language
    share = resources.used_share(found)
    used = found["size"] - found["free"] if share is not None else use["bytes_stored"]
    texts = {
        "used": (language.size(used), say("{percent} of {size}", percent=language.percent(share),
                                          size=language.size(found["size"]))
                 if share is not None else say("no limit of its own")),
        "free": (language.size(found["free"]), say("backups stop below {percent}",
                                                   percent=language.percent(1 - found["stop_percent"] / 100))),
        "points": (language.number(use["points"]), say("{size} stored", size=language.size(use["bytes_stored"]))),
        "reduction": (resources.reduction_text(language, use),
                      say("{size} were read", size=language.size(use["bytes_read"]))),
    }  # fmt: skip
    for name, (value, below) in texts.items():
        figures[name][0].set_text(value)
        figures[name][1].set_text(below)


async def _facts(visit: Visit, card: Any, known: Mapping[str, Any]) -> None:
    say, language = visit.say, visit.language
    choices = await reaching.choices(visit)
    guard = resources.guard_mark(known, *await storages.watched(visit))
    nodes = [choices.nodes.get(each, each[:8]) for each in known["nodes"]]
    kind = locating.described(known["location"])
    card.clear()
    with card:
        ui.label(say("Storage")).classes("r-card-title").props("role=heading aria-level=2")
        headings.facts({
            say("State"): lambda: marks.show(resources.storage_mark(known), language),
            say("Kind"): say(kind.title) if kind else "–",
            say("It is for"): say("Copies of backups") if known["role"] == "copy" else say("Backups"),
            say("Encryption"): say("with a passphrase") if known["encrypted"] else say("none"),
            say("Guard"): (lambda: marks.show(guard, language)) if guard else say("not for this kind"),
            say("Last seen"): language.ago(known["seen"], visit.now),
            say("Limits"): say("warns at {warn}, stops at {stop}",
                               warn=language.percent(known["warn_percent"] / 100),
                               stop=language.percent(known["stop_percent"] / 100)),
            say("At the same time"): say("{writers} writing, {readers} reading",
                                         writers=known["writers"], readers=known["readers"]),
            say("Nodes that reach it"): ", ".join(nodes) or say("all"),
            say("Resource group"): choices.groups.get(known["resource_group"], known["resource_group"]),
            say("Id"): lambda: ui.label(known["id"]).classes("mono"),
        })  # fmt: skip


def _abilities(visit: Visit, card: Any, known: Mapping[str, Any]) -> None:
    say = visit.say
    card.clear()
    with card:
        ui.label(say("What its place can do")).classes("r-card-title").props(
            "role=heading aria-level=2"
        )
        found = probed(visit.language, known["facts"].get("probe") or {})
        if found:
            headings.facts(found)
        else:
            ui.label(say("It was not probed yet.")).classes("muted")
        if visit.may(Right.CONFIGURE, known["resource_group"]):
            ui.button(say("Probe it"), icon="network_check", color=None,
                      on_click=lambda: _probe(visit, known["name"])
                      ).props("flat no-caps data-test=probe").classes("r-quiet")  # fmt: skip


def probed(language: Language, probe: Mapping[str, Any]) -> dict[str, str]:
    """Return what a probe found, as facts: what is known of by name, and the rest as it is."""
    found = {}
    for name, value in probe.items():
        if name in {"storage", "location"} or isinstance(value, dict | list):
            continue
        title = language.say(_PROBED[name]) if name in _PROBED else name.replace("_", " ")
        if isinstance(value, bool):
            found[title] = language.say("yes") if value else language.say("no")
        else:
            found[title] = str(value) or "–"
    return found


def _acts(visit: Visit, known: Mapping[str, Any]) -> None:
    say, name, group = visit.say, known["name"], known["resource_group"]
    configures, operates = visit.may(Right.CONFIGURE, group), visit.may(Right.OPERATE, group)
    if operates:
        ui.button(say("Verify"), icon="fact_check", on_click=lambda: _verify(visit, name)).props(
            "unelevated no-caps color=primary data-test=verify"
        )
    ui.button(
        say("Read it anew"), icon="sync", on_click=lambda: _read(visit, name), color=None
    ).props("flat no-caps data-test=read").classes("r-quiet")
    if not configures and not operates:
        return
    with ui.button(icon="more_vert", color=None) as more:
        more.props(f'flat round data-test=more-acts aria-label="{say("More")}"')
        with ui.menu():
            if configures:
                ui.menu_item(say("Change limits and reach"), lambda: _change(visit, name)).props(
                    "data-test=change"
                )
            if configures and known["location"].startswith(("device://", "iscsi://")):
                ui.menu_item(say("Use all of a device that became larger"), lambda: _grow(visit, name)
                             ).props("data-test=grow")  # fmt: skip
            if operates:
                ui.menu_item(say("Move everything out"), lambda: _evacuate(visit, known)).props(
                    "data-test=evacuate"
                )
            if configures:
                ui.menu_item(say("Remove it from this server"), lambda: _remove(visit, name)).props(
                    "data-test=remove"
                ).classes("r-danger")


async def _read(visit: Visit, name: str) -> None:
    say = visit.say
    ui.notify(say("Reading {name}…", name=name), position="top")
    found = await acting.act(visit, visit.api.post(f"/storages/{part(name)}/refresh"))
    if found is not None:
        points = visit.language.number(found["points"])
        ui.notify(say("{count} points are on it.", count=points), type="positive", position="top")
        for each in found["problems"][:5]:
            ui.notify(each, type="warning", position="top", timeout=8000)


async def _probe(visit: Visit, name: str) -> None:
    call = visit.api.post(f"/storages/{part(name)}/probe")
    await acting.act(visit, call, visit.say("Probed."))


async def _grow(visit: Visit, name: str) -> None:
    found = await acting.act(visit, visit.api.post(f"/storages/{part(name)}/grow"))
    if found is not None:
        before, after = (visit.language.size(found[key]) for key in ("bytes_before", "bytes_after"))
        text = visit.say("It had {before}, and has {after} now.", before=before, after=after)
        ui.notify(text, type="positive", position="top", timeout=8000)


async def _started(visit: Visit, kind: str, name: str, body: Mapping[str, Any]) -> bool:
    """Start work by hand and go to its page."""
    wanted = {"kind": kind, "name": name, "body": dict(body)}
    run = await acting.act(visit, visit.api.post("/runs", wanted))
    if run is not None:
        ui.navigate.to(f"/runs/{run['id']}")
    return run is not None


async def _verify(visit: Visit, name: str) -> None:
    say = visit.say
    lead = say("Damage is found before somebody needs a point. Backups go on meanwhile.")
    with asking.dialog(say("Verify {name}", name=name), lead=lead) as dialog:
        depths = {key: say(title) for key, title in _DEPTHS.items()}
        depth = ui.radio(depths, value="sampled").classes("r-radio").props("data-test=depth")

        async def go() -> bool:
            return await _started(visit, "verify", name, {"storage": name, "depth": depth.value})

        asking.actions(visit, dialog, say("Verify"), go)


async def _evacuate(visit: Visit, known: Mapping[str, Any]) -> None:
    say, name = visit.say, known["name"]
    others = {
        each["name"]: each["name"] for each in await visit.api.get("/storages")
        if each["name"] != name and each["encrypted"] == known["encrypted"]
    }  # fmt: skip
    if not others:
        ui.notify(say("There is no other storage that is encrypted like this one. Add one first."),
                  position="top", timeout=8000)  # fmt: skip
        return
    lead = say(
        "Every chain is copied to the other storage and compared. Backups to {name} are refused from "
        "its beginning; nothing is deleted. Afterwards let the policies name the other one.", name=name,
    )  # fmt: skip
    with asking.dialog(say("Move everything out of {name}", name=name), lead=lead) as dialog:
        to = asking.choice(say("To the storage"), "to", others, next(iter(others)))

        async def go() -> bool:
            return await _started(visit, "evacuate", name, {"storage": name, "to": to.value})

        asking.actions(visit, dialog, say("Begin"), go)


async def _change(visit: Visit, name: str) -> None:
    say, path = visit.say, f"/storages/{part(name)}"
    answer = await visit.api.call("GET", path)
    known, choices = answer.body, await reaching.choices(visit)
    everywhere = visit.may_everywhere(Right.CONFIGURE)
    with asking.dialog(say("Change {name}", name=name)) as dialog:
        with ui.element("div").classes("r-two"):
            fields = {
                "warn_percent": asking.number(say("Warn when full to, in %"), "warn",
                                              known["warn_percent"], least=1, most=100),
                "stop_percent": asking.number(say("Stop backups when full to, in %"), "stop",
                                              known["stop_percent"], least=1, most=100),
                "writers": asking.number(say("Tasks that write at the same time"), "writers",
                                         known["writers"], least=1, most=1000),
                "readers": asking.number(say("Tasks that read at the same time"), "readers",
                                         known["readers"], least=1, most=1000),
            }  # fmt: skip
        nodes = asking.several(say("Nodes that reach it"), "nodes", choices.nodes, known["nodes"],
                               help_text=say("None chosen: all."))  # fmt: skip
        group = asking.choice(
            say("Resource group"), "group", choices.groups, known["resource_group"]
        )
        for each in (nodes, group):
            each.set_enabled(everywhere)

        async def go() -> bool:
            wanted: dict[str, Any] = {key: int(each.value or 1) for key, each in fields.items()}
            if everywhere:
                wanted |= {"nodes": list(nodes.value or ()), "resource_group": group.value}
            change = visit.api.patch(path, wanted, answer.tag)
            return await acting.act(visit, change, say("Changed.")) is not None

        asking.actions(visit, dialog, say("Change"), go)


async def _remove(visit: Visit, name: str) -> None:
    say, path = visit.say, f"/storages/{part(name)}"
    answer = await visit.api.call("GET", path)
    use = await visit.api.get(f"{path}/use", days=1)
    policies = [each["policy"]["name"] for each in await visit.api.get("/policies")
                if each["policy"]["storage"] == name]  # fmt: skip
    losses = [
        say("This server shows its {count} points no more, and restores nothing from it.",
            count=visit.language.number(use["points"])),
        say("This server forgets its passphrase. Without the passphrase the points are lost for good."),
        say("The points stay where they are: {location}", location=answer.body["location"]),
        say("It can be added again by “Adopt the storage that is there”."),
    ]  # fmt: skip
    if policies:
        losses.insert(0, say("Refused while policies go there: {names}", names=", ".join(policies)))
    title = say("Remove {name} from this server", name=name)
    if await acting.confirmed_by_name(visit, title, losses, say("Remove"), name):
        done = await acting.act(visit, visit.api.delete(path, answer.tag), say("Removed."))
        if done is not None:
            ui.navigate.to("/storages")
