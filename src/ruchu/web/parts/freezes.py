"""Chains whose retention the anomaly watch froze, and what a person decides."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import NOTHING, later
from ruchu.web.parts import acting, asking, empty, listing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import GOOD, QUIET, WARN, Mark
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
FROZEN = Mark(later("Frozen"), WARN, "ac_unit")
KEPT = Mark(later("Looked at, stays frozen"), QUIET, "ac_unit")
RELEASED = Mark(later("Released"), GOOD, "check_circle")


def mark(freeze: Found) -> Mark:
    """Return how a freeze stands."""
    if not freeze["active"]:
        return RELEASED
    return KEPT if freeze["decision"] else FROZEN


async def freezes(visit: Visit) -> None:
    """List what is frozen, and what was released."""
    say = visit.say
    ui.label(say(
        "The data of these machines changed as if somebody was encrypting it. Retention removes "
        "none of their points until a person has looked and decided."
    )).classes("r-help")  # fmt: skip
    decides = visit.may_everywhere(Right.OPERATE)
    acts = [Act("keep", say("Looked at, keep frozen"), "visibility"),
            Act("release", say("Release"), "lock_open")]  # fmt: skip

    def row(freeze: Found) -> dict[str, Any]:
        return _row(visit, freeze) | {"acts": [each.cell() for each in acts] if decides else []}

    async def on_act(name: str, identity: str) -> None:
        rows = await visit.api.get("/freezes")
        freeze = next((each for each in rows if each["id"] == identity), None)
        if freeze is None:
            await found.refresh()
        elif name == "keep":
            _ask_keep(visit, freeze, found.refresh)
        else:
            await _ask_release(visit, freeze, found.refresh)

    def nothing() -> None:
        empty.empty("verified_user", say("Nothing is frozen."),
                    say("The data of no machine looks as if it was being encrypted."))  # fmt: skip

    fetch = listing.of_list(visit, "/freezes", row)
    found = listing.Listing(visit, _columns(visit), fetch, nothing=nothing,
                            on_act=on_act if decides else None, label=say("Frozen"))  # fmt: skip
    await found.refresh()
    visit.live(found.refresh, "alarm")
    await _released(visit)


async def _released(visit: Visit) -> None:
    if not await visit.api.get("/freezes", released=True):
        return
    title = ui.label(visit.say("Released before")).classes("r-section r-later")
    title.props("role=heading aria-level=2")
    fetch = listing.of_list(visit, "/freezes", lambda each: _row(visit, each), released=True)
    past = listing.Listing(visit, _columns(visit), fetch, label=visit.say("Released before"))
    await past.refresh()


def _columns(visit: Visit) -> list[Column]:
    say = visit.say
    return [Column("subject", say("Machine")), Column("state", say("State")),
            Column("since", say("Since")), Column("why", say("What was seen")),
            Column("decided", say("Decided"))]  # fmt: skip


def _row(visit: Visit, freeze: Found) -> dict[str, Any]:
    language = visit.language
    decided: Any = NOTHING
    if freeze["decided_by"]:
        said = f"{language.moment(freeze['decided_at'])} {freeze['note'] or ''}".strip()
        decided = {"text": freeze["decided_by"], "sub": said}
    return {
        "id": freeze["id"],
        "subject": {"text": freeze["subject"],
                    "link": f"/restore/machine?name={part(freeze['subject'])}"},
        "state": mark(freeze).cell(language),
        "since": language.moment(freeze["since"]),
        "why": freeze["why"],
        "decided": decided,
    }  # fmt: skip


def _ask_keep(visit: Visit, freeze: Found, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    lead = say("Its points stay as they are, and others see that somebody looks after it.")
    with asking.dialog(say("Keep {name} frozen", name=freeze["subject"]), lead=lead) as made:
        note = asking.area(say("Remark"), "note")

        async def go() -> bool:
            return await _decide(visit, freeze, "keep", note.value or "", done)

        asking.actions(visit, made, say("Keep frozen"), go)


async def _ask_release(visit: Visit, freeze: Found, done: Callable[[], Awaitable[None]]) -> None:
    say, name = visit.say, freeze["subject"]
    points = await visit.api.get("/points", name=name, limit=499)
    count = visit.language.number(len(points["items"])) + ("+" if points["next"] else "")
    losses = [
        say("Retention goes on with the next run. What the policy does not keep is removed for "
            "good, out of {count} points of {name}.", count=count, name=name),
        say("Among them may be the last ones from before the change: check first that a newer "
            "point can be restored."),
        say("What was doubted counts as usual from then on: the same change raises no alarm "
            "any more."),
    ]  # fmt: skip
    with asking.dialog(say("Release {name}", name=name)) as made:
        with ui.element("ul").classes("r-losses"):
            for each in losses:
                with ui.element("li"):
                    ui.label(each)
        note = asking.area(say("Remark"), "note")
        typed = asking.field(say("Type {name} to go on:", name=name), "typed-name")

        async def go() -> bool:
            return await _decide(visit, freeze, "release", note.value or "", done)

        button = asking.actions(visit, made, say("Release"), go, tone="negative")
        button.bind_enabled_from(typed, "value", backward=lambda value: value == name)


async def _decide(
    visit: Visit, freeze: Found, decision: str, note: str, done: Callable[[], Awaitable[None]]
) -> bool:
    path = f"/freezes/{part(freeze['chain'])}/decision"
    call = visit.api.post(path, {"decision": decision, "note": note})
    await acting.act(visit, call, visit.say("Decided."))
    await done()
    # A request for a second person is told as such; the dialog has done its part then, too.
    return True
