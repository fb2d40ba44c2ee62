"""The list of policies: what is protected, when, how long it is kept, and how it goes."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web import policy_acts, policy_words
from ruchu.web.language import later
from ruchu.web.parts import empty, headings, listing, marks
from ruchu.web.parts.filtering import Filters
from ruchu.web.parts.listing import Act, Column
from ruchu.web.visiting import Visit, page

# Runs tell of themselves all the time; a list of hundreds need not follow each word.
_LIVE_S = 3.0


@page("/policies", later("Policies"))
async def policies(visit: Visit) -> None:
    """List the policies."""
    say = visit.say
    with headings.head(say("Policies"), say("What is protected, when, and how long it is kept.")):
        if visit.may(Right.OPERATE):
            new = ui.button(say("New policy"), icon="add",
                            on_click=lambda: ui.navigate.to("/policies/new"))  # fmt: skip
            new.props("unelevated no-caps color=primary data-test=new-policy")
    await _List(visit).show()


class _List:
    """The list, and what it is narrowed to."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._filters: Filters
        self._found: listing.Listing
        self._lines: dict[str, Mapping[str, Any]] = {}

    async def show(self) -> None:
        visit, say = self._visit, self._visit.say
        names = sorted(row["name"] for row in await visit.api.get("/storages"))
        self._filters = Filters(visit, self._restart, {})
        self._filters.text("text", say("Search policies"))
        states = {name: say(text) for name, text in policy_words.STATES.items()}
        self._filters.choice("state", say("State"), states)
        self._filters.choice("storage", say("Storage"), {name: name for name in names})
        columns = [
            Column("name", say("Name")),
            Column("selects", say("Protects")),
            Column("when", say("When")),
            Column("keeps", say("Keeps")),
            Column("last", say("Last run"), classes="nowrap"),
            Column("next", say("Next start"), classes="nowrap"),
        ]
        self._found = listing.Listing(
            visit, columns, self._fetch, label=say("Policies"), nothing=self._nothing,
            on_act=self._act if visit.may(Right.OPERATE) else None,
        )  # fmt: skip
        await self._found.refresh()
        visit.live(self._found.refresh, "policy", "run", every_s=_LIVE_S)

    async def _restart(self) -> None:
        await self._found.restart()

    async def _fetch(self, after: str, limit: int) -> tuple[Sequence[listing.Row], str | None]:
        lines = await self._visit.api.get("/policies/overview")
        kept = [line for line in lines if self._kept(line)]
        begin = int(after or 0)
        shown = kept[begin : begin + limit]
        self._lines = {line["id"]: line for line in shown}
        following = begin + limit
        rows = [row(self._visit, line) for line in shown]
        return rows, str(following) if len(kept) > following else None

    def _kept(self, line: Mapping[str, Any]) -> bool:
        text, state = self._filters["text"].casefold(), self._filters["state"]
        storage = self._filters["storage"]
        return (
            (not text or text in _searched(line))
            and (not state or policy_words.state(line) == state)
            and (not storage or line["storage"] == storage)
        )

    async def _act(self, name: str, identity: str) -> None:
        line = self._lines.get(identity)
        if line is None:
            return
        match name:
            case "run":
                policy_acts.ask_kind(self._visit, identity, line["name"])
            case "pause" | "enable":
                await policy_acts.enable(self._visit, identity, enabled=name == "enable")
                await self._found.refresh()
            case "change":
                ui.navigate.to(f"/policies/{identity}/edit")
            case "remove":
                await policy_acts.remove(self._visit, identity)
                await self._found.refresh()
            case _:
                pass  # there is no other act

    def _nothing(self) -> None:
        say = self._visit.say
        if self._filters:
            empty.empty("search_off", say("No policy is like this."), "",
                        action=say("Show all"), target=self._filters.clear)  # fmt: skip
            return
        may = self._visit.may(Right.OPERATE)
        text = say("A policy says what is backed up, where to, when, and how long it is kept.")
        action = say("New policy") if may else ""
        empty.empty("shield", say("Nothing is protected yet."), text, action=action,
                    target="/policies/new")  # fmt: skip


def _searched(line: Mapping[str, Any]) -> str:
    selection = line["selection"]
    lists = [each for name in selection["counts"] for each in selection[name]]
    return " ".join([line["name"], line["storage"], selection["platform"], *lists]).casefold()


def row(visit: Visit, line: Mapping[str, Any]) -> dict[str, Any]:
    """Return the row of a policy."""
    say, language = visit.say, visit.language
    run, following = line["last"], line["next"]
    last = policy_words.last(language, run).cell(language)
    if run is not None:
        kind, ago = marks.kind(language, run["kind"]), language.ago(run["created"], visit.now)
        last["sub"] = policy_words.join(language, [kind, ago])
    return {
        "id": line["id"],
        "name": {"text": line["name"], "link": f"/policies/{line['id']}"},
        "selects": {
            "text": policy_words.selects(language, line["selection"]),
            "sub": say("to {storage}", storage=line["storage"]),
        },
        "when": {
            "text": policy_words.when(language, line["schedules"])[0],
            "sub": policy_words.join(language, policy_words.when(language, line["schedules"])[1:]),
        },
        "keeps": policy_words.keeps(language, line["retention"]),
        "last": last,
        "next": _next(visit, line, following),
        "acts": [act.cell() for act in _acts(visit, line)],
    }


def _next(
    visit: Visit, line: Mapping[str, Any], following: Mapping[str, Any] | None
) -> dict[str, Any]:
    language = visit.language
    if not line["enabled"]:
        return policy_words.OFF.cell(language)
    if following is None:
        return {"text": visit.say("By hand only") if not line["schedules"] else "–"}
    kind = marks.kind(language, following["kind"])
    ago = language.ago(following["at"], visit.now)
    return {"text": language.moment(following["at"]),
            "sub": policy_words.join(language, [kind, ago])}  # fmt: skip


def _acts(visit: Visit, line: Mapping[str, Any]) -> list[Act]:
    say = visit.say
    if not visit.may(Right.OPERATE, line["group"]):
        return []
    toggle = (
        Act("pause", say("Turn off"), "pause")
        if line["enabled"]
        else Act("enable", say("Turn on"), "power_settings_new")
    )
    return [
        Act("run", say("Run now"), "play_arrow"),
        toggle,
        Act("change", say("Change"), "edit"),
        Act("remove", say("Remove"), "delete"),
    ]
