"""Alarms as lists: those that are open, those that are over; and how one is acknowledged."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.parts import acting, alarm_words, asking, empty, listing, marks
from ruchu.web.parts.listing import Act, Column
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]


async def open_alarms(visit: Visit) -> None:
    """List what is wrong now, the worst first."""
    say, language = visit.say, visit.language
    columns = [
        Column("headline", say("Alarm")),
        Column("severity", say("Severity")),
        Column("since", say("Since"), classes="nowrap"),
        Column("count", say("Times"), "right"),
        Column("state", say("Looked after")),
    ]

    def row(alarm: Found) -> dict[str, Any]:
        may = visit.may(Right.OPERATE, alarm_words.group(alarm)) and not alarm["acknowledged_by"]
        act = Act("acknowledge", say("Acknowledge"), "how_to_reg")
        return {
            **_row(visit, alarm),
            "since": {"text": language.moment(alarm["first_at"]),
                      "sub": language.ago(alarm["last_at"], visit.now)},
            "count": language.number(alarm["count"]),
            "state": _looked_after(visit, alarm),
            "acts": [act.cell()] if may else [],
        }  # fmt: skip

    async def on_act(name: str, alarm: str) -> None:
        del name
        ask_acknowledge(visit, await visit.api.get(f"/alarms/{alarm}"), found.refresh)

    def nothing() -> None:
        empty.empty("verified", say("Nothing is wrong."),
                    say("What goes wrong is shown here, and told over the channels."))  # fmt: skip

    found = listing.Listing(
        visit, columns, listing.of_list(visit, "/alarms", row), nothing=nothing,
        label=say("Open alarms"), on_act=on_act if visit.may(Right.OPERATE) else None,
    )  # fmt: skip
    await found.refresh()
    visit.live(found.refresh, "alarm")


async def past_alarms(visit: Visit) -> None:
    """List what is over, a page at a time."""
    say, language = visit.say, visit.language
    columns = [
        Column("headline", say("Alarm")),
        Column("severity", say("Severity")),
        Column("began", say("Began")),
        Column("over", say("Over")),
        Column("count", say("Times"), "right"),
    ]

    def row(alarm: Found) -> dict[str, Any]:
        return {
            **_row(visit, alarm),
            "began": language.moment(alarm["first_at"]),
            "over": {"text": language.moment(alarm["cleared_at"]),
                     "sub": language.between(alarm["first_at"], alarm["cleared_at"], visit.now)},
            "count": language.number(alarm["count"]),
        }  # fmt: skip

    def nothing() -> None:
        empty.empty("history", say("No alarm is over yet."))

    fetch = listing.of_page(visit, "/alarms/past", row)
    found = listing.Listing(visit, columns, fetch, nothing=nothing, label=say("Past alarms"))
    await found.refresh()


def _row(visit: Visit, alarm: Found) -> dict[str, Any]:
    language = visit.language
    return {
        "id": alarm["id"],
        "headline": {"text": alarm_words.headline(language, alarm),
                     "link": f"/alarms/{alarm['id']}",
                     "sub": alarm_words.text(language, alarm)[:300]},
        "severity": marks.of(marks.SEVERITIES, alarm["severity"]).cell(language),
    }  # fmt: skip


def _looked_after(visit: Visit, alarm: Found) -> Any:
    if not alarm["acknowledged_by"]:
        return visit.say("Nobody yet")
    at = visit.language.moment(alarm["acknowledged_at"])
    return {"text": alarm["acknowledged_by"], "sub": at}


def ask_acknowledge(visit: Visit, alarm: Found, done: Callable[[], Awaitable[None]]) -> None:
    """Ask for a remark, and say that the visitor looks after an alarm."""
    say = visit.say
    lead = say("You say that you look after it: it is neither repeated nor escalated any more.")
    with asking.dialog(say("Acknowledge the alarm"), lead=lead) as made:
        ui.label(alarm_words.headline(visit.language, alarm)).classes("r-trouble")
        remark = asking.field(say("Remark"), "remark", help_text=say("Others see it."))
        remark.props("maxlength=500 autofocus")

        async def go() -> bool:
            call = visit.api.post(f"/alarms/{alarm['id']}/acknowledge", {"remark": remark.value})
            told = await acting.act(visit, call, say("Acknowledged."))
            await done()
            return told is not None

        asking.actions(visit, made, say("Acknowledge"), go)
