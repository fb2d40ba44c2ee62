"""One platform: what it is, what is on it; changed, cleaned up, removed."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.pages import platforms
from ruchu.web.parts import acting, asked, asking, headings, marks, platform_words, reaching
from ruchu.web.parts.platform_tree import PlatformTree
from ruchu.web.visiting import Visit, page

# What whoever configures a group may change; the rest takes the right everywhere.
_OF_GROUPS = ("parallel", "host_parallel")


@page("/platforms/{platform}", later("Platform"))
async def platform(visit: Visit, platform: str) -> None:
    """Show a platform."""
    say, path = visit.say, f"/platforms/{part(platform)}"
    known = await visit.api.get(path)
    with headings.head(known["name"], known["uri"]):
        _acts(visit, known)
    with ui.element("div").classes("r-grid"):
        with headings.card("", "r-5") as facts:
            pass
        with headings.card(say("Machines"), "r-7"):
            tree = PlatformTree(visit, known["name"])
    seen = [""]

    async def refresh() -> None:
        found = await visit.api.get(path)
        facts.clear()
        with facts:
            await _facts(visit, found)
        # The tree is opened by whoever looks at it: it is made anew only for another listing.
        if found["seen"] != seen[0]:
            seen[0] = found["seen"]
            await tree.refresh()

    await refresh()
    visit.live(refresh, "platform", "inventory", "policy", every_s=2.0)


async def _facts(visit: Visit, known: Mapping[str, Any]) -> None:
    say, language = visit.say, visit.language
    count, safe = await platforms.counted(visit, known["name"])
    choices = await reaching.choices(visit)
    ui.label(say("Platform")).classes("r-card-title").props("role=heading aria-level=2")
    if known["problem"]:
        asked.problem(known["problem"])
    nodes = [choices.nodes.get(each, each[:8]) for each in known["nodes"]]
    headings.facts({
        say("State"): lambda: marks.show(platforms.platform_mark(known), language),
        say("Kind"): say(platform_words.kind(known["uri"])),
        say("Machines"): say("{count}, {safe} of them protected", count=language.number(count),
                             safe=language.number(safe)),
        say("Last seen"): f"{language.ago(known['seen'], visit.now)} ({language.moment(known['seen'])})"
        if known["seen"] else say("never"),
        say("Scratch files"): known["scratch"] or say("the usual place"),
        say("Nodes that reach it"): ", ".join(nodes) or say("all"),
        say("Tasks at the same time"): say("{count}, {each} on one host", count=known["parallel"],
                                           each=known["host_parallel"]),
        say("Resource group"): choices.groups.get(known["resource_group"], known["resource_group"]),
    })  # fmt: skip


def _acts(visit: Visit, known: Mapping[str, Any]) -> None:
    say, name = visit.say, known["name"]
    ui.button(say("List machines anew"), icon="sync",
              on_click=lambda: platforms.list_anew(visit, name)
              ).props("unelevated no-caps color=primary data-test=refresh")  # fmt: skip
    if not visit.may(Right.CONFIGURE, known["resource_group"]):
        return
    ui.button(say("Test"), icon="network_check", on_click=lambda: platforms.test(visit, name),
              color=None).props("flat no-caps data-test=test").classes("r-quiet")  # fmt: skip
    with ui.button(icon="more_vert", color=None) as more:
        more.props(f'flat round data-test=more-acts aria-label="{say("More")}"')
        with ui.menu():
            ui.menu_item(say("Change"), lambda: _change(visit, name)).props("data-test=change")
            ui.menu_item(say("Remove leftovers of dead runs"), lambda: _reap(visit, name)).props(
                "data-test=reap"
            )
            ui.menu_item(say("Remove this platform"), lambda: _remove(visit, name)).props(
                "data-test=remove"
            ).classes("r-danger")


async def _change(visit: Visit, name: str) -> None:
    say, path = visit.say, f"/platforms/{part(name)}"
    answer = await visit.api.call("GET", path)
    choices = await reaching.choices(visit)
    with asking.dialog(say("Change {name}", name=name)) as dialog:
        everywhere = visit.may_everywhere(Right.CONFIGURE)
        uri = asking.field(say("Address"), "uri", answer.body["uri"], props="maxlength=1000")
        uri.set_enabled(everywhere)
        reach = reaching.Reach(visit, choices, answer.body)

        async def go() -> bool:
            wanted = {"uri": (uri.value or "").strip(), **reach.values()}
            kept = wanted if everywhere else {key: wanted[key] for key in _OF_GROUPS}
            change = visit.api.patch(path, kept, answer.tag)
            return await acting.act(visit, change, say("Changed.")) is not None

        asking.actions(visit, dialog, say("Change"), go)


async def _reap(visit: Visit, name: str) -> None:
    say = visit.say
    storages = {each["name"]: each["name"] for each in await visit.api.get("/storages")}
    if not storages:
        ui.notify(say("There is no storage yet, so no run left anything."), position="top")
        return
    lead = say(
        "Snapshots, jobs and scratch files that bear the mark of a run that died are removed. What "
        "a running backup uses stays. Backups do this by themselves, for their own machines."
    )
    with asking.dialog(say("Remove leftovers of dead runs"), lead=lead) as dialog:
        storage = asking.choice(say("Storage that the runs wrote to"), "storage", storages,
                                next(iter(storages)))  # fmt: skip

        async def go() -> bool:
            body = {"storage": storage.value}
            found = await acting.act(visit, visit.api.post(f"/platforms/{part(name)}/reap", body))
            if found is None:
                return False
            cleaned = found["cleaned"]
            text = ", ".join(f"{machine} ({len(each)})" for machine, each in cleaned.items())
            ui.notify(say("Removed on: {machines}", machines=text) if text else say("Nothing was left over."),
                      type="positive", position="top", timeout=8000)  # fmt: skip
            return True

        asking.actions(visit, dialog, say("Remove them"), go)


async def _remove(visit: Visit, name: str) -> None:
    say, path = visit.say, f"/platforms/{part(name)}"
    answer = await visit.api.call("GET", path)
    count, _ = await platforms.counted(visit, name)
    policies = [each["policy"]["name"] for each in await visit.api.get("/policies")
                if each["policy"]["selection"]["platform"] == name]  # fmt: skip
    losses = [say("{count} machines are not listed any more.", count=visit.language.number(count))]
    if policies:
        losses.append(
            say("These policies find no machines any more: {names}", names=", ".join(policies))
        )
    losses.append(say("The machines themselves are not touched."))
    losses.append(
        say("No point is lost: all of them stay on their storages and can be restored elsewhere.")
    )
    title = say("Remove {name}", name=name)
    if await acting.confirmed_by_name(visit, title, losses, say("Remove"), name):
        done = await acting.act(visit, visit.api.delete(path, answer.tag), say("Removed."))
        if done is not None:
            ui.navigate.to("/platforms")
