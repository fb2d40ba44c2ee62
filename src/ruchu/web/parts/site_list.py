"""Servers below this one: attached, looked at, detached."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.language import NOTHING, later
from ruchu.web.parts import acting, asking, empty, listing, run_words, tabbing
from ruchu.web.parts.listing import Act, Column
from ruchu.web.parts.marks import BAD, GOOD, Mark
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
THERE = Mark(later("Answers"), GOOD, "link")
AWAY = Mark(later("Does not answer"), BAD, "link_off")


async def sites(visit: Visit) -> None:
    """List the servers below."""
    say = visit.say
    lead = say("Other servers that this one shows and steers. Nothing changes over there.")
    with tabbing.head(say("Sites"), lead):
        new = ui.button(say("Attach a site"), icon="add_link")
        new.props("unelevated no-caps color=primary data-test=attach-site")
        new.on_click(lambda: _ask(visit, found.refresh))

    async def on_act(name: str, site: str) -> None:
        if name == "refresh":
            await acting.act(visit, visit.api.post(f"/sites/{site}/refresh"))
            await found.refresh()
            return
        row = await visit.api.get(f"/sites/{site}")
        losses = [say("{name} is shown and steered here no more, and its token is forgotten.",
                      name=row["name"]),
                  say("Over there everything stays as it is.")]  # fmt: skip
        title = say("Detach {name}", name=row["name"])
        if await acting.confirmed_by_name(visit, title, losses, say("Detach"), row["name"]):
            await acting.act(visit, visit.api.delete(f"/sites/{site}"), say("Detached."))
            await found.refresh()

    def nothing() -> None:
        empty.empty("lan", say("No site is attached."),
                    say("Branches with a server of their own can be seen and steered from here."))  # fmt: skip

    columns = [Column("name", say("Site")), Column("state", say("State")),
               Column("machines", say("Machines"), "right"),
               Column("alarms", say("Open alarms"), "right"),
               Column("version", say("Version")),
               Column("seen", say("Last seen"))]  # fmt: skip
    fetch = listing.of_list(visit, "/sites", lambda each: site_row(visit, each))
    found: listing.Listing = listing.Listing(visit, columns, fetch, on_act=on_act, nothing=nothing,
                            label=say("Sites"))  # fmt: skip
    await found.refresh()
    visit.live(found.refresh, "site")


def site_row(visit: Visit, site: Found) -> dict[str, Any]:
    """Return the row of a site."""
    say, language, known = visit.say, visit.language, site["summary"]
    state: dict[str, Any] = dict((AWAY if site["problem"] else THERE).cell(language))
    if site["problem"]:
        state["sub"] = run_words.reason(language, site["problem"])
    acts = [Act("refresh", say("Look now"), "refresh").cell()]
    if visit.may_everywhere(Right.CONFIGURE):
        acts.append(Act("detach", say("Detach"), "link_off").cell())
    bare = [say("{count} not protected", count=language.number(known["unprotected"]))]
    return {
        "id": site["id"],
        "name": {"text": site["name"], "link": site["url"], "sub": site["url"]},
        "state": state,
        "machines": {"text": language.number(known["machines"]),
                     "sub": bare[0] if known["unprotected"] else ""},
        "alarms": language.number(sum(known["alarms"].values())),
        "version": known.get("version") or NOTHING,
        "seen": language.ago(site["seen"], visit.now),
        "acts": acts,
    }  # fmt: skip


async def _ask(visit: Visit, done: Callable[[], Awaitable[None]]) -> None:
    say = visit.say
    lead = say("Make an API token at that server first; its rights are the limit of what can be "
               "done from here.")  # fmt: skip
    with asking.dialog(say("Attach a site"), lead=lead) as made:
        name = asking.field(say("Name"), "name", help_text=say("Such as: beijing"))
        url = asking.field(say("Address"), "url", help_text="https://backup.example.com:8443")
        token = asking.secret(say("API token"), "token")
        fingerprint = asking.field(
            say("Fingerprint of its authority"), "fingerprint",
            help_text=say("Over there under Settings, Access and security. Empty: it has a public "
                          "certificate."),
        )  # fmt: skip

        async def go() -> bool:
            body = {
                "name": (name.value or "").strip(), "url": (url.value or "").strip(),
                "token": token.value or "",
                "fingerprint": (fingerprint.value or "").replace(" ", ""),
            }  # fmt: skip
            told = await acting.act(visit, visit.api.post("/sites", body), say("Attached."))
            if told is not None:
                await done()
            return told is not None

        asking.actions(visit, made, say("Attach"), go)
