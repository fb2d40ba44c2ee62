"""API tokens of one's own account."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.api.routes_accounts import DAYS_MAX
from ruchu.model.principals import ALL_GROUPS, Right
from ruchu.web.language import NOTHING
from ruchu.web.parts import acting, asking, copying, empty, listing, tabbing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]


async def tokens(visit: Visit) -> None:
    """List the tokens."""
    say, language = visit.say, visit.language
    lead = say("For programs. A token may do no more than you may, and ends with its time.")
    with tabbing.head(say("API tokens"), lead):
        new = ui.button(say("New token"), icon="add")
        new.props("unelevated no-caps color=primary data-test=new-token")
        new.on_click(lambda: _ask(visit, found.refresh))

    def row(token: Found) -> dict[str, Any]:
        rights = ", ".join(say(acting.RIGHTS[Right(each)]) for each in token["rights"])
        everywhere = list(token["groups"]) == [ALL_GROUPS]
        return {
            "id": token["id"],
            "name": {"text": token["name"], "sub": f"{token['prefix']}…"},
            "rights": rights or NOTHING,
            "groups": say("All groups") if everywhere else ", ".join(token["groups"]),
            "expires": language.moment(token["expires"]),
            "used": language.ago(token["used"], visit.now),
            "acts": [Act("revoke", say("Revoke"), "delete").cell()],
        }

    async def on_act(name: str, token: str) -> None:
        del name
        lines = [say("Whatever program uses it is refused at once.")]
        if await acting.confirmed(visit, say("Revoke the token?"), lines, say("Revoke")):
            await acting.act(visit, visit.api.delete(f"/tokens/{token}"), say("Revoked."))
            await found.refresh()

    def nothing() -> None:
        empty.empty("key", say("There is no token."),
                    say("A program signs in with a token, such as a monitoring system."))  # fmt: skip

    columns = [Column("name", say("Token")), Column("rights", say("Rights")),
               Column("groups", say("Groups")), Column("expires", say("Ends")),
               Column("used", say("Last used"))]  # fmt: skip
    fetch = listing.of_list(visit, "/tokens", row)
    found: listing.Listing = listing.Listing(visit, columns, fetch, on_act=on_act, nothing=nothing,
                            label=say("API tokens"))  # fmt: skip
    await found.refresh()


async def _ask(visit: Visit, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    groups = {each["name"]: each["title"] or each["name"] for each in await _groups(visit)}
    mine = {each.value: say(acting.RIGHTS[each]) for each in Right if visit.may(each)}
    with asking.dialog(say("New token")) as made:
        name = asking.field(say("Name"), "name", help_text=say("What uses it: monitoring"))
        rights = asking.several(say("Rights"), "rights", mine, [])
        known = {ALL_GROUPS: say("All groups"), **groups}
        where = asking.several(say("Groups"), "groups", known, [ALL_GROUPS])
        days = asking.number(say("Ends after, in days"), "days", 365, least=1, most=DAYS_MAX)

        async def go() -> bool:
            body = {"name": name.value or "", "rights": rights.value, "groups": where.value,
                    "days": int(days.value or 0)}  # fmt: skip
            told = await acting.act(visit, visit.api.post("/tokens", body))
            if told is None:
                return False
            await done()
            _show(visit, told["token"])
            return True

        asking.actions(visit, made, say("Make it"), go)


async def _groups(visit: Visit) -> list[Found]:
    found: list[Found] = await visit.api.get("/groups") if visit.may(Right.VIEW) else []
    return found


def _show(visit: Visit, word: str) -> None:
    say = visit.say
    lead = say("It is shown once. Put it where the program keeps its secrets.")
    with asking.dialog(say("The new token"), lead=lead) as made:
        copying.copied(visit, word, "token", say("Token"))
        with ui.element("div").classes("r-dialog-actions"):
            ui.button(say("Done"), on_click=made.close).props("unelevated no-caps color=primary")
