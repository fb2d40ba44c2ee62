"""The cards of the dashboard. Each shows its part of the overview, and follows it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import urlencode

from nicegui import ui

from ruchu.model.principals import Right
from ruchu.web.calling import part
from ruchu.web.parts import alarm_words, marks, overview_words
from ruchu.web.parts.following import Following
from ruchu.web.parts.marks import BAD, GOOD, QUIET, WARN
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
RUNS_MAX = 6
LIST_MAX = 6
_ICONS = {GOOD: "check_circle", WARN: "warning", BAD: "error"}


def _card(title: str, width: str, name: str, *, more: str = "", more_text: str = "") -> Any:
    """Make a card with a title and a link to all of it; return the place of its content."""
    with ui.element("section").classes(f"r-card {width} ov-card").props(f"data-test={name}"):
        with ui.element("div").classes("ov-card-head"):
            ui.label(title).classes("r-card-title").props("role=heading aria-level=2")
            if more:
                ui.link(more_text, more).classes("ov-more")
        return ui.element("div").classes("ov-card-body")


def _listed(
    following: Following, place: Any, parts: Sequence[str], build: Callable[[Found], None]
) -> None:
    """Build the content of a card anew whenever one of its parts has changed."""

    def show(found: Found) -> None:
        place.clear()
        with place:
            build(found)

    following.on(parts, show)


def _fine(text: str) -> None:
    """Say that there is nothing to be said."""
    with ui.element("div").classes("ov-fine"):
        ui.icon("check_circle").props("aria-hidden=true")
        ui.label(text)


def _line(
    title: str, link: str, below: str, beside: str = "", *, icon: str = "", tone: str = ""
) -> None:
    """Show a line of a list."""
    with ui.element("div").classes("ov-line"):
        if icon:
            ui.icon(icon).classes(f"ov-icon {tone}").props("aria-hidden=true")
        with ui.element("div").classes("ov-line-words"):
            ui.link(title, link)
            if below:
                ui.label(below).classes("r-sub")
        if beside:
            ui.label(beside).classes("ov-beside")


# ------------------------------------------------------------------------------------- figures


@dataclass(frozen=True, slots=True)
class _Figure:
    """A figure, what stands below it, and its icon, which shows how good it is."""

    value: Any
    more: Any
    icon: Any

    def show(self, value: str, more: str, tone: str = QUIET) -> None:
        self.value.set_text(value)
        self.more.set_text(more)
        self.icon.set_name(_ICONS.get(tone, "check_circle"))
        self.icon.classes(replace=f"ov-icon {tone}")
        self.icon.set_visibility(tone != QUIET)


def _figure(name: str, link: str, test: str) -> _Figure:
    with ui.link(target=link).classes("r-card ov-figure").props(f"data-test={test}"):
        ui.label(name).classes("r-figure-name")
        with ui.element("div").classes("ov-figure-head"):
            value = ui.label("–").classes("r-figure-value")
            icon = ui.icon("check_circle").props("aria-hidden=true")
        more = ui.label("").classes("r-figure-more")
    return _Figure(value, more, icon)


def figures(visit: Visit, following: Following) -> None:
    """Show the figures at the top."""
    say = visit.say
    with ui.element("div").classes("ov-figures"):
        machines = _figure(say("Protected machines"), "/reports?tab=protection", "protected")
        day = _figure(say("Success in 24 h"), "/reports?tab=success&days=1", "day")
        week = _figure(say("Success in 7 days"), "/reports?tab=success&days=7", "week")
        saved = _figure(say("Data reduction"), "/reports?tab=success", "reduction")
        late = _figure(say("RPO missed"), "/reports?tab=protection&standing=missed", "missed")
        alarms = _figure(say("Open alarms"), "/alarms", "open-alarms")
    _follow_machines(visit, following, machines, late)
    _follow_success(visit, following, day, week)

    def show_saved(found: Found) -> None:
        of = found["reduction"]
        sizes = {key: visit.language.size(of[key]) for key in ("read", "stored")}
        below = say("{read} read, {stored} stored in 14 days", **sizes)
        saved.show(overview_words.reduction(visit.language, of), below)

    def show_alarms(found: Found) -> None:
        of = found["alarms"]
        bad, number = of["critical"] + of["error"], visit.language.number
        below = say(
            "{bad} severe, {warning} warnings", bad=number(bad), warning=number(of["warning"])
        )
        total = bad + of["warning"] + of["info"]
        alarms.show(number(total), below, BAD if bad else WARN if of["warning"] else GOOD)

    following.on(("reduction",), show_saved)
    following.on(("alarms",), show_alarms)


def _follow_machines(visit: Visit, following: Following, machines: _Figure, late: _Figure) -> None:
    say, number = visit.say, visit.language.number

    def show(found: Found) -> None:
        of = found["machines"]
        bare = of["unprotected"]
        if bare:
            below = say("of {total}; {count} without protection", total=number(of["total"]),
                        count=number(bare))  # fmt: skip
        else:
            below = say("all that are known") if of["total"] else say("no machine is known yet")
        tone = WARN if bare else GOOD if of["total"] else QUIET
        machines.show(number(of["protected"]), below, tone)
        if of["targeted"]:
            below = say("of {count} with a target", count=number(of["targeted"]))
            late.show(number(of["missed"]), below, BAD if of["missed"] else GOOD)
        else:
            late.show("–", say("no policy has a target"))

    following.on(("machines",), show)


def _follow_success(visit: Visit, following: Following, day: _Figure, week: _Figure) -> None:
    def show(found: Found) -> None:
        for figure, of in ((day, found["day"]), (week, found["week"])):
            below = overview_words.outcomes(visit.language, of)
            rate = overview_words.rate(visit.language, of["rate"])
            figure.show(rate, below if of["rate"] is not None else visit.say("nothing has run"),
                        overview_words.rate_tone(of["rate"]))  # fmt: skip

    following.on(("day", "week"), show)


# -------------------------------------------------------------------------------------- charts


def days(visit: Visit, following: Following) -> None:
    """Show what was moved on each of the last days."""
    say = visit.say
    place = _card(say("Data read in the last 14 days"), "r-8", "days")

    def build(found: Found) -> None:
        bars(visit, found["days"])

    _listed(following, place, ("days",), build)


def bars(visit: Visit, found: Sequence[Found]) -> None:
    """Show days as bars: full below, incremental on it; with runs that failed as a mark."""
    say, language = visit.say, visit.language
    top = max((each["full"] + each["incremental"] for each in found), default=0) or 1
    total = sum(each["full"] + each["incremental"] for each in found)
    with ui.element("div").classes("ov-legend"):
        for kind, name in (("incremental", say("Incremental")), ("full", say("Full"))):
            with ui.element("span").classes(f"ov-key {kind}"):
                ui.label(name)
        ui.label(say("{total} in all", total=language.size(total))).classes("ov-beside")
    label = say("Data read by day: {total} in 14 days, {most} at most.",
                total=language.size(total), most=language.size(top if total else 0))  # fmt: skip
    with ui.element("div").classes("ov-bars").props("role=img") as shown:
        shown.props["aria-label"] = label
        for each in found:
            _bar(visit, each, top)


def _bar(visit: Visit, day: Found, top: int) -> None:
    language = visit.language
    read = day["full"] + day["incremental"]
    told = visit.say(
        "{day}: {read} read, {full} of it in full; {failed} failed",
        day=overview_words.day(language, day["day"]), read=language.size(read),
        full=language.size(day["full"]), failed=day["failed"] + day["partly"],
    )  # fmt: skip
    with ui.element("div").classes("ov-day") as element:
        element.props["title"] = told
        with ui.element("div").classes("ov-column"):
            for kind in ("incremental", "full"):
                height = f"{100 * day[kind] / top:.2f}%"
                ui.element("i").classes(kind).style(f"height: {height}")
        failed = " failed" if day["failed"] or day["partly"] else ""
        ui.label(str(int(day["day"][8:]))).classes(f"ov-date{failed}")


# ------------------------------------------------------------------------------------- running


class _Running:
    """The jobs that run, each in its place for as long as it runs."""

    def __init__(self, visit: Visit, place: Any, most: int) -> None:
        self._visit = visit
        self._most = most
        with place:
            self._head = ui.label("").classes("ov-running-head")
            self._list = ui.element("div").classes("r-wide")
            self._more = ui.label("").classes("r-sub")
        self._rows: dict[str, tuple[Any, Any, Any, Any]] = {}

    def show(self, found: Found) -> None:
        """Show the jobs as they are now."""
        of, say, language = found["under_way"], self._visit.say, self._visit.language
        shown = of["runs"][: self._most]
        self._head.set_text(self._headline(of))
        for gone in self._rows.keys() - {run["id"] for run in shown}:
            self._rows.pop(gone)[0].delete()
        for run in shown:
            if run["id"] not in self._rows:
                with self._list:
                    self._rows[run["id"]] = self._made(run)
            _, bar, far, rate = self._rows[run["id"]]
            bar.style(f"width: {run['share'] * 100:.1f}%")
            far.set_text(overview_words.tasks(language, run))
            rate.set_text(language.rate(run["rate"]) if run["rate"] else "")
        left = of["count"] - len(shown)
        self._more.set_text(say("and {count} more", count=left) if left > 0 else "")
        self._more.set_visibility(left > 0)

    def _headline(self, of: Found) -> str:
        say, number = self._visit.say, self._visit.language.number
        if not of["count"]:
            waits = of["waiting"]
            return (
                say("Nothing runs; {count} wait.", count=number(waits))
                if waits
                else say("Nothing runs now.")
            )
        rate = self._visit.language.rate(of["rate"])
        return say("{count} run at {rate}; {waiting} wait.", count=number(of["count"]), rate=rate,
                   waiting=number(of["waiting"]))  # fmt: skip

    def _made(self, run: Found) -> tuple[Any, Any, Any, Any]:
        with ui.element("div").classes("ov-run") as row:
            with ui.element("div").classes("ov-line"):
                with ui.element("div").classes("ov-line-words"):
                    ui.link(run["name"], f"/runs/{part(run['id'])}")
                    ui.label(marks.kind(self._visit.language, run["kind"])).classes("r-sub")
                with ui.element("div").classes("ov-beside"):
                    rate = ui.label("").classes("ov-rate")
                    far = ui.label("").classes("r-sub")
            with ui.element("div").classes("r-bar"):
                bar = ui.element("i")
        return row, bar, far, rate


def running(visit: Visit, following: Following) -> None:
    """Show the jobs that run, with their rates."""
    place = _card(
        visit.say("Running jobs"), "r-4", "running", more="/runs", more_text=visit.say("All jobs")
    )
    following.on(("under_way",), _Running(visit, place, RUNS_MAX).show)


# --------------------------------------------------------------------------------------- lists


def storages(visit: Visit, following: Following) -> None:
    """Show how full storages are, and when they will be full."""
    say = visit.say
    place = _card(say("Storages"), "r-8", "storages", more="/reports?tab=capacity",
                  more_text=say("Capacity report"))  # fmt: skip

    def build(found: Found) -> None:
        if not found["storages"]:
            ui.label(say("There is no storage yet.")).classes("r-sub")
        for each in found["storages"]:
            _storage(visit, each)

    _listed(following, place, ("storages",), build)


def _storage(visit: Visit, storage: Found) -> None:
    language = visit.language
    tone = overview_words.storage_tone(storage)
    share = overview_words.used_share(storage)
    with ui.element("div").classes("ov-storage"):
        with ui.element("div").classes("ov-line"):
            with ui.element("div").classes("ov-line-words"):
                ui.link(storage["name"], f"/storages/{part(storage['name'])}")
            if share is not None:
                ui.label(language.percent(share)).classes("ov-rate")
        if share is not None:
            with ui.element("div").classes(f"r-bar {tone}"):
                ui.element("i").style(f"width: {share * 100:.1f}%")
        ui.label(overview_words.used(language, storage)).classes("r-sub")
        if storage["problem"]:
            ui.label(visit.say("It does not answer.")).classes("ov-said bad")
        else:
            late = overview_words.outlook_tone(storage, visit.now)
            ui.label(overview_words.outlook(language, storage)).classes(f"ov-said {late}")


def next_starts(visit: Visit, following: Following) -> None:
    """Show what starts next."""
    say, language = visit.say, visit.language
    place = _card(say("Next starts"), "r-4", "next-starts", more="/policies",
                  more_text=say("All policies"))  # fmt: skip

    def build(found: Found) -> None:
        if not found["next_starts"]:
            ui.label(say("No policy starts by itself.")).classes("r-sub")
        for each in found["next_starts"][:LIST_MAX]:
            _line(each["name"], f"/policies/{part(each['policy'])}",
                  marks.kind(language, each["kind"]), language.moment(each["at"]))  # fmt: skip

    _listed(following, place, ("next_starts",), build)


def alarms(visit: Visit, following: Following) -> None:
    """Show the worst and latest alarms."""
    say, language = visit.say, visit.language
    place = _card(say("Open alarms"), "r-4", "alarms", more="/alarms", more_text=say("All alarms"))

    def build(found: Found) -> None:
        if not found["alarms"]["first"]:
            _fine(say("Nothing is wrong."))
        for each in found["alarms"]["first"][:LIST_MAX]:
            mark = marks.of(marks.SEVERITIES, each["severity"])
            below = f"{say(mark.word)} · {language.moment(each['last_at'])}"
            _line(alarm_words.headline(language, each), f"/alarms/{part(each['id'])}", below,
                  icon=mark.icon, tone=mark.tone)  # fmt: skip

    _listed(following, place, ("alarms",), build)


def unprotected(visit: Visit, following: Following) -> None:
    """Show machines that no policy selects."""
    say = visit.say
    place = _card(say("Without protection"), "r-4", "unprotected",
                  more="/reports?tab=protection&standing=unprotected",
                  more_text=say("All of them"))  # fmt: skip

    def build(found: Found) -> None:
        shown = found["machines"]["first_unprotected"][:LIST_MAX]
        if not shown:
            _fine(say("Every machine that is known has a policy."))
        for each in shown:
            _line(each["name"], machine_address(each), each["platform"],
                  icon="gpp_maybe", tone=WARN)  # fmt: skip
        if shown and visit.may(Right.OPERATE):
            ui.button(
                say("New policy"), icon="add", color=None,
                on_click=lambda: ui.navigate.to("/policies/new"),
            ).props("flat no-caps").classes("r-quiet")  # fmt: skip

    _listed(following, place, ("machines",), build)


def missed(visit: Visit, following: Following) -> None:
    """Show machines whose newest point is older than their policy allows."""
    say, language = visit.say, visit.language
    place = _card(
        say("RPO missed"), "r-4", "rpo", more="/reports?tab=protection&standing=missed",
        more_text=say("All of them"),
    )  # fmt: skip

    def build(found: Found) -> None:
        if not found["machines"]["first_missed"]:
            _fine(say("No machine is behind its target."))
        for each in found["machines"]["first_missed"][:LIST_MAX]:
            newest = language.ago(each["newest"], visit.now) if each["newest"] else say("never")
            target = overview_words.target(language, each["minutes"])
            below = say("{policy}: a point every {target}", policy=each["policy"], target=target)
            _line(each["name"], machine_address(each), below, newest,
                  icon="history_toggle_off", tone=BAD)  # fmt: skip

    _listed(following, place, ("machines",), build)


def machine_address(machine: Found) -> str:
    """Return the address of the page of a machine."""
    return f"/machines/{part(machine['platform'])}/{part(machine['id'])}"


def report_file(kind: str, wanted: str, language: str, **query: str) -> str:
    """Return the address of a report as a file."""
    pairs = {"format": wanted, "language": language, **query}
    kept = {key: value for key, value in pairs.items() if value}
    return f"/api/v1/reports/{kind}?{urlencode(kept)}"
