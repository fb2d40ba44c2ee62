"""The reports: how machines are protected, how full storages are, how jobs end. Also as files."""

from collections.abc import Callable, Mapping
from typing import Any

from nicegui import ui

from ruchu.web.calling import part
from ruchu.web.language import later
from ruchu.web.parts import empty, headings, listing, marks, overview_words, tabbing
from ruchu.web.parts.dashboard_cards import machine_address, report_file
from ruchu.web.parts.filtering import Filters
from ruchu.web.parts.listing import Column
from ruchu.web.parts.marks import BAD, GOOD, QUIET, WARN, Mark
from ruchu.web.parts.tabbing import QUERY, View
from ruchu.web.visiting import Visit, page

Found = Mapping[str, Any]
PROTECTION, CAPACITY, SUCCESS = "protection", "capacity", "success"
STANDINGS: Mapping[str, str] = {
    "protected": later("Protected"),
    "unprotected": later("Without protection"),
    "missed": later("RPO missed"),
}
DAYS: Mapping[str, str] = {
    "1": later("Last 24 hours"),
    "7": later("Last 7 days"),
    "30": later("Last 30 days"),
    "90": later("Last 90 days"),
    "365": later("Last 12 months"),
}
DAYS_FIRST = "30"
_MET = Mark(later("Met"), GOOD, "check_circle")
_MISSED = Mark(later("Missed"), BAD, "history_toggle_off")
_NO_TARGET = Mark(later("No target"), QUIET, "remove")


@page("/reports", later("Reports"))
async def reports(visit: Visit) -> None:
    """Show the three reports."""
    say = visit.say
    lead = say("On screen, as CSV for a spreadsheet, as PDF for the file.")
    with headings.head(say("Reports"), lead):
        pass
    await tabbing.tabbed(visit, [
        View(PROTECTION, say("Protection"), lambda: _protection(visit)),
        View(CAPACITY, say("Capacity"), lambda: _capacity(visit)),
        View(SUCCESS, say("Success"), lambda: _success(visit)),
    ])  # fmt: skip


class _Files:
    """The buttons that fetch a report as a file, as it is narrowed now."""

    def __init__(self, visit: Visit, kind: str, query: Callable[[], Mapping[str, str]]) -> None:
        self._visit, self._kind, self._query = visit, kind, query
        with ui.element("div").classes("ov-files"):
            self._links = {
                each: self._link(each, icon) for each, icon in (("csv", "table_view"),
                                                                ("pdf", "picture_as_pdf"))
            }  # fmt: skip
        self.refresh()

    def _link(self, wanted: str, icon: str) -> Any:
        button = ui.button(wanted.upper(), icon=icon, color=None).classes("r-quiet")
        button.props(f"flat no-caps data-test={wanted}")
        text = self._visit.say("Download as {format}", format=wanted.upper())
        button.props["aria-label"] = text
        return button

    def refresh(self) -> None:
        """Let the buttons lead to the report as it is narrowed now."""
        for wanted, button in self._links.items():
            code = self._visit.language.code
            button.props["href"] = report_file(self._kind, wanted, code, **self._query())
            button.update()


def _tools() -> Any:
    return ui.element("div").classes("ov-tools")


async def _protection(visit: Visit) -> None:
    say = visit.say
    narrowed: dict[str, str] = {}

    async def changed() -> None:
        narrowed.update({"text": filters["text"], "standing": filters["standing"],
                         "platform": filters["platform"]})  # fmt: skip
        files.refresh()
        await found.restart()

    async def fetch(after: str, limit: int) -> tuple[list[Found], str | None]:
        answer = await visit.api.get("/reports/protection", after=after, limit=limit, **narrowed)
        return [_machine(visit, each) for each in answer["items"]], answer["next"]

    platforms = {each["name"]: each["name"] for each in await visit.api.get("/platforms")}
    with _tools():
        filters = Filters(visit, changed, {QUERY: PROTECTION})
        filters.text("text", say("Name of a machine"))
        filters.choice(
            "standing", say("Standing"), {key: say(text) for key, text in STANDINGS.items()}
        )
        filters.choice("platform", say("Platform"), platforms)
        files = _Files(visit, PROTECTION, lambda: narrowed)
    columns = [
        Column("name", say("Machine")),
        Column("policies", say("Policies")),
        Column("newest", say("Newest point"), classes="nowrap"),
        Column("met", say("RPO")),
        Column("points", say("Points"), "right"),
        Column("stored", say("Stored"), "right"),
        Column("disk_size", say("Disks"), "right"),
    ]
    found = listing.Listing(
        visit, columns, fetch, label=say("Protection"),
        nothing=lambda: _nothing(visit, narrowed, "computer",
                                 say("No machine is known yet."), "/platforms"),
    )  # fmt: skip
    await changed()


def _machine(visit: Visit, row: Found) -> dict[str, Any]:
    say, language = visit.say, visit.language
    mark = _NO_TARGET if row["met"] is None else _MET if row["met"] else _MISSED
    met = mark.cell(language)
    if row["target_minutes"]:
        target = overview_words.target(language, row["target_minutes"])
        met["sub"] = say("a point every {target}", target=target)
    policies: Any = ", ".join(row["policies"])
    if not row["protected"]:
        policies = Mark(later("Without protection"), WARN, "gpp_maybe").cell(language)
    newest = {"text": language.moment(row["newest"])}
    if row["newest"]:
        newest["sub"] = language.ago(row["newest"], visit.now)
    return {
        "id": f"{row['platform']}/{row['id']}",
        "name": {"text": row["name"], "link": machine_address(row), "sub": row["platform"]},
        "policies": policies,
        "newest": newest,
        "met": met,
        "points": language.number(row["points"]),
        "stored": language.size(row["stored"]),
        "disk_size": language.size(row["disk_size"]),
    }


async def _capacity(visit: Visit) -> None:
    say = visit.say

    def row(each: Found) -> dict[str, Any]:
        return _storage(visit, each)

    with _tools():
        _Files(visit, CAPACITY, dict)
    columns = [
        Column("name", say("Storage")),
        Column("used", say("Used")),
        Column("size", say("Size"), "right"),
        Column("free", say("Free"), "right"),
        Column("stored", say("By points"), "right"),
        Column("growth", say("Growth a day"), "right"),
        Column("outlook", say("Forecast")),
    ]
    found = listing.Listing(
        visit, columns, listing.of_page(visit, "/reports/capacity", row), label=say("Capacity"),
        nothing=lambda: _nothing(visit, {}, "storage", say("There is no storage yet."),
                                 "/storages"),
    )  # fmt: skip
    await found.refresh()
    visit.live(found.refresh, "storage", every_s=10.0)


def _storage(visit: Visit, row: Found) -> dict[str, Any]:
    language, share = visit.language, row["share"]
    used: dict[str, Any] = {"text": language.size(row["used"])}
    if share is not None:
        tone = BAD if row["problem"] or share >= 0.95 else WARN if share >= 0.8 else QUIET
        used |= {"bar": share, "tone": tone, "sub": language.percent(share, 1)}
    return {
        "id": row["id"],
        "name": {"text": row["name"], "link": f"/storages/{part(row['name'])}"},
        "used": used,
        "size": language.size(row["size"]),
        "free": language.size(row["free"]),
        "stored": language.size(row["stored"]),
        "growth": language.size(row["growth"]) if (row["growth"] or 0) >= 0
        else f"-{language.size(-row['growth'])}",
        "outlook": overview_words.outlook(language, {**row, "growth": row["growth"] or 0}),
    }  # fmt: skip


async def _success(visit: Visit) -> None:
    say = visit.say
    wanted = visit.query.get("days", "")
    narrowed = {"days": wanted if wanted in DAYS else DAYS_FIRST}

    async def changed() -> None:
        narrowed["days"] = period.value
        tabbing.address(visit, {QUERY: SUCCESS, **narrowed})
        files.refresh()
        await visit.guarded(found.restart)

    async def fetch(after: str, limit: int) -> tuple[list[Found], str | None]:
        answer = await visit.api.get("/reports/success", after=after, limit=limit, **narrowed)
        return [_policy(visit, each) for each in answer["items"]], answer["next"]

    with _tools():
        options = {key: say(text) for key, text in DAYS.items()}
        period = ui.select(options, label=say("Period"), value=narrowed["days"])
        period.props("outlined dense options-dense data-test=days").classes("ov-period")
        period.on_value_change(changed)
        files = _Files(visit, SUCCESS, lambda: narrowed)
    columns = [
        Column("name", say("Policy")),
        Column("rate", say("Success")),
        Column("runs", say("Jobs"), "right"),
        Column("partly", say("Partly"), "right"),
        Column("failed", say("Failed"), "right"),
        Column("read", say("Read"), "right"),
        Column("stored", say("Stored"), "right"),
        Column("last", say("Last job")),
        Column("last_failure", say("Last failure")),
    ]
    found = listing.Listing(
        visit, columns, fetch, label=say("Success"),
        nothing=lambda: _nothing(visit, {}, "sync", say("No job has ended in this period."),
                                 "/policies"),
    )  # fmt: skip
    await found.refresh()


def _policy(visit: Visit, row: Found) -> dict[str, Any]:
    language = visit.language
    kind = marks.kind(language, row["kind"])
    name: dict[str, Any] = {"text": row["name"] or visit.say("By hand"), "sub": kind}
    if row["policy"]:
        name["link"] = f"/policies/{part(row['policy'])}"
    rate: dict[str, Any] = {"text": overview_words.rate(language, row["rate"])}
    if row["rate"] is not None:
        rate |= {"bar": row["rate"], "tone": overview_words.rate_tone(row["rate"])}
    return {
        "id": f"{row['policy'] or ''}/{row['kind']}",
        "name": name,
        "rate": rate,
        "runs": language.number(row["runs"]),
        "partly": language.number(row["partly"]),
        "failed": language.number(row["failed"]),
        "read": language.size(row["read"]),
        "stored": language.size(row["stored"]),
        "last": language.moment(row["last"]),
        "last_failure": language.moment(row["last_failure"]),
    }


def _nothing(visit: Visit, narrowed: Mapping[str, str], icon: str, text: str, target: str) -> None:
    """Say why there is nothing: because of what was looked for, or because there is nothing yet."""
    if any(value for key, value in narrowed.items() if key in {"text", "standing", "platform"}):
        empty.empty("search_off", visit.say("Nothing fits what you look for."))
        return
    empty.empty(icon, text, action=visit.say("Open the list"), target=target)
