"""Requests that wait for a second person: what exactly would happen, and who says yes or no."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.language import NOTHING, Language, later
from ruchu.web.parts import (
    acting,
    asking,
    empty,
    headings,
    listing,
    loss_words,
    marks,
    run_words,
    tabbing,
)
from ruchu.web.parts.listing import Column
from ruchu.web.parts.marks import BAD, BUSY, GOOD, QUIET, WARN, Mark
from ruchu.web.parts.tabbing import View
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
KINDS: Mapping[str, str] = {
    "delete-points": later("Delete recovery points of {subject}"),
    "remove-storage": later("Remove the storage {subject}"),
    "shorten-retention": later("Keep points of {subject} for a shorter time"),
    "remove-user": later("Remove the account {subject}"),
    "release-protection": later("Release the protection of {subject}"),
    "four-eyes-off": later("Turn four eyes off"),
}
STATES: Mapping[str, Mark] = {
    "waiting": Mark(later("Waits"), WARN, "hourglass_empty"),
    "running": Mark(later("Being carried out"), BUSY, "sync"),
    "done": Mark(later("Carried out"), GOOD, "check_circle"),
    "failed": Mark(later("Failed"), BAD, "cancel"),
    "refused": Mark(later("Refused"), QUIET, "block"),
    "withdrawn": Mark(later("Withdrawn"), QUIET, "undo"),
    "expired": Mark(later("Expired"), QUIET, "timer_off"),
}
# Lines of losses that are read at once; the others unfold.
_LOSSES_SHOWN = 6
# Requests are decided by people; nobody is told by an event when one comes in.
_LOOK_S = 5.0


def title(language: Language, request: Found) -> str:
    """Return what a request asks for."""
    return language.say(KINDS.get(request["kind"], request["kind"]), subject=request["subject"])


@page("/approvals", later("Approvals"))
async def approvals(visit: Visit) -> None:
    """Show what waits, and what was decided."""
    say = visit.say
    on = (await visit.api.get("/four-eyes"))["on"]
    lead = say("Acts that destroy wait here until a second person agrees.")
    with headings.head(say("Approvals"), lead):
        pass
    if not on:
        with ui.element("div").classes("r-note"):
            ui.label(say("Four eyes are off: acts that destroy happen at once."))
            if visit.may_everywhere(Right.CONFIGURE):
                ui.link(say("Turn it on in the settings"), "/settings?tab=security")
    views = [
        View("waiting", say("Waiting"), lambda: _waiting(visit)),
        View("decided", say("Decided"), lambda: _decided(visit)),
    ]
    await tabbing.tabbed(visit, views)


async def _waiting(visit: Visit) -> None:
    place = ui.element("div").classes("r-stack r-wide")
    shown: list[Any] = [None]

    async def refresh() -> None:
        found = await visit.api.get("/approvals", state="waiting", limit=100)
        ids = [each["id"] for each in found["items"]]
        if ids == shown[0]:
            return
        shown[0] = ids
        place.clear()
        with place:
            for request in found["items"]:
                _card(visit, request, refresh)
            if not ids:
                empty.empty("how_to_reg", visit.say("Nothing waits for a decision."))

    await refresh()
    ui.timer(_LOOK_S, lambda: visit.guarded(refresh))


def _card(
    visit: Visit, request: Found, done: Callable[[], Awaitable[None]], *, titled: bool = True
) -> None:
    say, language = visit.say, visit.language
    mine = request["requester_name"] == visit.principal.name
    with headings.card(title(language, request) if titled else "", "r-request r-gap") as card:
        card.props(f"data-test=request-{request['id']}")
        asked = say("{name} asked {time}; it expires {end}.", name=request["requester_name"],
                    time=language.ago(request["requested"], visit.now),
                    end=language.ago(request["expires"], visit.now))  # fmt: skip
        ui.label(asked).classes("r-sub")
        ui.label(say("What will be lost:")).classes("r-trouble")
        losses(visit, request["losses"])
        with ui.element("div").classes("r-dialog-actions"):
            if mine:
                ui.label(say("Somebody else has to decide.")).classes("r-help")
                _button(say("Withdraw"), "undo", "withdraw",
                        lambda: _ask_refuse(visit, request, done))  # fmt: skip
            elif visit.may(Right.APPROVE, request["group"]):
                _button(say("Refuse"), "block", "refuse",
                        lambda: _ask_refuse(visit, request, done))  # fmt: skip
                go = ui.button(say("Approve"), icon="check")
                go.on_click(lambda: _ask_approve(visit, request, done))
                go.props("unelevated no-caps color=negative data-test=approve")


def _button(label: str, icon: str, name: str, go: Callable[[], None]) -> None:
    made = ui.button(label, icon=icon, on_click=go, color=None)
    made.props(f"flat no-caps data-test={name}").classes("r-quiet")


def losses(visit: Visit, lines: list[str]) -> None:
    """Show what will be lost, the first lines at once."""
    with ui.element("ul").classes("r-losses"):
        for each in lines[:_LOSSES_SHOWN]:
            with ui.element("li"):
                ui.label(loss_words.said(visit.language, each))
    more = len(lines) - _LOSSES_SHOWN
    if more > 0:
        name = visit.say("And {count} more", count=more)
        with ui.expansion(name).classes("r-wide").props("dense"):
            rest = [loss_words.said(visit.language, each) for each in lines[_LOSSES_SHOWN:]]
            ui.label("\n".join(rest)).classes("r-code r-pre")


def _ask_approve(visit: Visit, request: Found, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    lead = say("It is carried out at once, and cannot be taken back.")
    with asking.dialog(title(visit.language, request), lead=lead) as made:
        losses(visit, request["losses"])
        remark = asking.field(say("Remark"), "remark", props="maxlength=500")

        async def go() -> bool:
            body = {"digest": request["digest"], "remark": remark.value or ""}
            call = visit.api.post(f"/approvals/{request['id']}/approve", body)
            told = await acting.act(visit, call)
            if told is not None:
                _tell(visit, told)
            await done()
            return told is not None

        asking.actions(visit, made, say("Approve"), go, tone="negative")


def _tell(visit: Visit, request: Found) -> None:
    if request["state"] == "failed":
        text, hint = run_words.problem(visit.language, request["result"] or {})
        ui.notify(f"{text}\n{hint}".strip(), type="negative", position="top", multi_line=True)
    else:
        ui.notify(visit.say("Carried out."), type="positive", position="top")


def _ask_refuse(visit: Visit, request: Found, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    mine = request["requester_name"] == visit.principal.name
    act = say("Withdraw") if mine else say("Refuse")
    with asking.dialog(title(visit.language, request)) as made:
        remark = asking.field(say("Remark"), "remark", props="maxlength=500")

        async def go() -> bool:
            body = {"remark": remark.value or ""}
            call = visit.api.post(f"/approvals/{request['id']}/refuse", body)
            told = await acting.act(visit, call, say("Withdrawn.") if mine else say("Refused."))
            await done()
            return told is not None

        asking.actions(visit, made, act, go)


async def _decided(visit: Visit) -> None:
    say, language = visit.say, visit.language

    def row(request: Found) -> dict[str, Any]:
        state: dict[str, Any] = dict(marks.of(STATES, request["state"]).cell(language))
        if request["state"] == "failed":
            state["sub"] = run_words.problem(language, request["result"] or {})[0]
        return {
            "id": request["id"],
            "what": {"text": title(language, request), "link": f"/approvals/{request['id']}"},
            "state": state,
            "who": {"text": request["requester_name"], "sub": language.moment(request["requested"])},
            "by": {"text": request["decider_name"] or NOTHING,
                   "sub": language.moment(request["decided"])},
            "remark": request["remark"] or NOTHING,
        }  # fmt: skip

    def nothing() -> None:
        empty.empty("history", say("Nothing was decided yet."))

    async def fetch(after: str, limit: int) -> tuple[list[dict[str, Any]], str | None]:
        found = await visit.api.get("/approvals", after=after, limit=limit)
        rows = [row(each) for each in found["items"] if each["state"] != "waiting"]
        return rows, found["next"]

    columns = [Column("what", say("What")), Column("state", say("State")),
               Column("who", say("Asked by")), Column("by", say("Decided by")),
               Column("remark", say("Remark"))]  # fmt: skip
    found = listing.Listing(visit, columns, fetch, nothing=nothing, label=say("Decided"))
    await found.refresh()


@page("/approvals/{wanted}", later("Approval"))
async def one_approval(visit: Visit, wanted: str) -> None:
    """Show a request."""
    say, language = visit.say, visit.language
    found = await visit.api.get(f"/approvals/{part(wanted)}")
    with headings.head(title(language, found), found["id"]):
        pass
    with ui.element("div").classes("r-run-state"):
        marks.show(marks.of(STATES, found["state"]), language)

    async def again() -> None:
        ui.navigate.reload()

    if found["state"] == "waiting":
        _card(visit, found, again, titled=False)
        return
    with headings.card(say("What was asked for"), "r-gap"):
        losses(visit, found["losses"])
        headings.facts({
            say("Asked by"): f"{found['requester_name']}, {language.moment(found['requested'])}",
            say("Decided by"): f"{found['decider_name'] or NOTHING}, "
                               f"{language.moment(found['decided'])}",
            say("Remark"): found["remark"] or NOTHING,
        })  # fmt: skip
