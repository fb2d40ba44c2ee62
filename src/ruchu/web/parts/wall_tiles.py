"""The tiles of the wall. Each shows its part of what was fetched, and follows it."""

from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.web.parts import alarm_words, drawing, marks, overview_words, resources
from ruchu.web.parts.following import Following
from ruchu.web.parts.marks import BAD, GOOD, QUIET, WARN
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
# What fits on a screen of 1440 by 900 without scrolling.
HOSTS_MAX, STORAGES_MAX, RUNS_MAX, SITES_MAX, STARTS_MAX, ALARMS_MAX = 5, 4, 4, 10, 5, 10
# Fewer alarms stand still.
_STILL_MAX = 2
# A host that is busier than this is marked.
BUSY, FULL = 0.85, 0.95
# So many hosts have more room.
_FEW = 2
# Nodes that nobody has seen yet are not missed.
_NOT_YET = {"enrolled", "expected"}


def _tile(title: str, name: str, classes: str = "") -> Any:
    with ui.element("section").classes(f"w-tile {classes}").props(f"data-test={name}"):
        ui.label(title).classes("w-tile-title").props("role=heading aria-level=2")
        return ui.element("div").classes("w-tile-body")


# ------------------------------------------------------------------------------------- figures


class _Big:
    """A figure that is read from afar, and what stands beside it."""

    def __init__(self, title: str, name: str, *, bar: bool = False) -> None:
        with ui.element("section").classes("w-tile w-big").props(f"data-test={name}") as self._tile:
            ui.label(title).classes("w-tile-title").props("role=heading aria-level=2")
            self._value = ui.label("–").classes("w-value")
            with ui.element("div").classes("w-bar") as around:
                self._bar = ui.element("i")
            if not bar:
                around.style("visibility: hidden")
            self._more = ui.label("").classes("w-more")

    def show(self, value: str, more: str, tone: str, share: float = 0.0) -> None:
        self._value.set_text(value)
        self._more.set_text(more)
        self._tile.classes(replace=f"w-tile w-big {tone}")
        self._bar.style(f"width: {share * 100:.1f}%")


def figures(visit: Visit, following: Following) -> None:
    """Show the five figures at the top."""
    say, language = visit.say, visit.language
    with ui.element("div").classes("w-row w-figures"):
        machines = _Big(say("Protected machines"), "protected", bar=True)
        day = _Big(say("Success in 24 h"), "day", bar=True)
        running_ = _Big(say("Running jobs"), "running-count")
        late = _Big(say("RPO missed"), "missed")
        alarms = _Big(say("Open alarms"), "open-alarms")

    def show_machines(found: Found) -> None:
        of, number = found["machines"], language.number
        bare = of["unprotected"]
        more = (say("{count} without protection", count=number(bare)) if bare
                else say("of {total}", total=number(of["total"])))  # fmt: skip
        machines.show(number(of["protected"]), more, WARN if bare else GOOD,
                      overview_words.standing(of))  # fmt: skip
        more = say("of {count} with a target", count=number(of["targeted"]))
        late.show(number(of["missed"]), more, BAD if of["missed"] else GOOD)

    def show_day(found: Found) -> None:
        of = found["day"]
        text = overview_words.outcomes(language, of)
        day.show(overview_words.rate(language, of["rate"]), text,
                 overview_words.rate_tone(of["rate"]), of["rate"] or 0.0)  # fmt: skip

    def show_running(found: Found) -> None:
        of = found["under_way"]
        more = say("{count} wait", count=language.number(of["waiting"]))
        running_.show(language.number(of["count"]), more, QUIET)

    def show_alarms(found: Found) -> None:
        of, number = found["alarms"], language.number
        bad = of["critical"] + of["error"]
        more = say("{bad} severe, {warning} warnings", bad=number(bad),
                   warning=number(of["warning"]))  # fmt: skip
        tone = BAD if bad else WARN if of["warning"] else GOOD
        alarms.show(number(bad + of["warning"] + of["info"]), more, tone)

    for part, show in (("machines", show_machines), ("day", show_day),
                       ("under_way", show_running), ("alarms", show_alarms)):  # fmt: skip
        following.on((part,), show)


# --------------------------------------------------------------------------------------- hosts


class _Host:
    """A line of a host."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        with ui.element("div").classes("w-host") as self.row:
            with ui.element("div").classes("w-host-name"):
                self._name = ui.label("")
                self._state = ui.label("").classes("w-more")
            self._bars = {name: self._bar(title) for name, title in (
                ("cpu", visit.say("CPU")), ("memory", visit.say("Memory")))}  # fmt: skip
            self._line = ui.html("", sanitize=False).classes("w-spark")
            self._net = self._pair(visit.say("Network"))
            self._disk = self._pair(visit.say("Disk"))

    def _bar(self, title: str) -> tuple[Any, Any, Any]:
        with ui.element("div").classes("w-meter"):
            with ui.element("div").classes("w-meter-words"):
                ui.label(title).classes("w-more")
                shown = ui.label("–")
            with ui.element("div").classes("w-bar") as bar:
                full = ui.element("i")
        return shown, bar, full

    def _pair(self, title: str) -> tuple[Any, Any]:
        with ui.element("div").classes("w-pair"):
            ui.label(title).classes("w-more")
            return ui.label("").classes("w-rate"), ui.label("").classes("w-rate")

    def show(self, host: Found, *, few: bool) -> None:
        """Show how busy a host is; where there are few of them, larger."""
        say, language = self._visit.say, self._visit.language
        samples = host["samples"]
        figures_ = samples[-1]["figures"] if samples else {}
        online = host["state"] == "online"
        self._name.set_text(host["name"])
        self._state.set_text("" if online else say(marks.of(resources.NODES, host["state"]).word))
        self.row.classes(replace=f"w-host {'' if online else BAD} {'few' if few else ''}")
        total = figures_.get("memory")
        shares = {"cpu": figures_.get("cpu"),
                  "memory": figures_["memory_used"] / total if total else None}  # fmt: skip
        for name, (shown, bar, full) in self._bars.items():
            share = shares[name] if online else None
            shown.set_text(language.percent(share) if share is not None else "–")
            tone = BAD if (share or 0) >= FULL else WARN if (share or 0) >= BUSY else QUIET
            bar.classes(replace=f"w-bar {tone}")
            full.style(f"width: {(share or 0.0) * 100:.1f}%")
        cpu = [each["figures"].get("cpu", 0.0) for each in samples]
        self._line.set_content(drawing.line(cpu, 1.0))
        for pair, names in ((self._net, ("received", "sent")), (self._disk, ("read", "written"))):
            for label, arrow, name in zip(pair, "↓↑", names, strict=True):
                rate = figures_.get(name) if online else None
                label.set_text(f"{arrow} {language.rate(rate)}")


def hosts(visit: Visit, following: Following) -> None:
    """Show how busy the server and its nodes are."""
    place = _tile(visit.say("Server and nodes"), "hosts", "w-7")
    with place:
        shown = [_Host(visit) for _ in range(HOSTS_MAX)]
        more = ui.label("").classes("w-more")

    def show(found: Found) -> None:
        load = found["load"]
        if not load:
            return
        all_ = [load["server"], *worst_first(load["nodes"])]
        # The line that counts those that are left out takes the place of one.
        room = HOSTS_MAX if len(all_) <= HOSTS_MAX else HOSTS_MAX - 1
        for at, host in enumerate(shown):
            host.row.set_visibility(at < min(room, len(all_)))
            if at < min(room, len(all_)):
                host.show(all_[at], few=len(all_) <= _FEW)
        left = len(all_) - room
        more.set_visibility(left > 0)
        more.set_text(visit.say("and {count} more", count=left) if left > 0 else "")

    following.on(("load",), show)


def worst_first(nodes: Sequence[Found]) -> list[Found]:
    """Return nodes that have been there, first those that are away, then the busiest."""

    def key(node: Found) -> tuple[bool, float]:
        figures_ = node["samples"][-1]["figures"] if node["samples"] else {}
        return node["state"] == "online", -float(figures_.get("cpu", 0.0))

    return sorted((node for node in nodes if node["state"] not in _NOT_YET), key=key)


def throughput(visit: Visit, following: Following) -> None:
    """Show how many bytes a second all jobs move, and what was read in the last days."""
    say, language = visit.say, visit.language
    place = _tile(say("Throughput of the last ten minutes"), "throughput", "w-5")
    with place:
        value = ui.label("–").classes("w-value w-value-mid")
        line = ui.html("", sanitize=False).classes("w-line")
        with ui.element("div").classes("w-two"):
            total = ui.label("").classes("w-more")
            saved = ui.label("").classes("w-more")

    def show(found: Found) -> None:
        value.set_text(language.rate(found["under_way"]["rate"]))
        samples = found["load"]["server"]["samples"] if found["load"] else []
        rates = [each["figures"].get("rate", 0.0) for each in samples]
        line.set_content(drawing.line([*rates, found["under_way"]["rate"]], 1.0))

    def show_days(found: Found) -> None:
        today = found["days"][-1]
        read = language.size(today["full"] + today["incremental"])
        total.set_text(say("{read} read today", read=read))
        ratio = overview_words.reduction(language, found["reduction"])
        saved.set_text(say("Data reduction {ratio}", ratio=ratio))

    following.on(("load", "under_way"), show)
    following.on(("days", "reduction"), show_days)


# --------------------------------------------------------------------------------------- below


def storages(visit: Visit, following: Following) -> None:
    """Show how full storages are, the fullest first."""
    say, language = visit.say, visit.language
    place = _tile(say("Storages"), "storages", "w-4")

    def show(found: Found) -> None:
        all_ = sorted(found["storages"], key=lambda each: -(overview_words.used_share(each) or 0))
        place.clear()
        with place:
            if not all_:
                ui.label(say("There is no storage yet.")).classes("w-more")
            for each in all_[:STORAGES_MAX]:
                share = overview_words.used_share(each)
                with ui.element("div").classes("w-item"):
                    with ui.element("div").classes("w-two"):
                        ui.label(each["name"]).classes("w-name")
                        ui.label(language.percent(share) if share is not None
                                 else language.size(each["used"])).classes("w-rate")  # fmt: skip
                    with ui.element("div").classes(f"w-bar {overview_words.storage_tone(each)}"):
                        ui.element("i").style(f"width: {(share or 0) * 100:.1f}%")
                    ui.label(_storage_line(visit, each)).classes("w-more w-one")

    following.on(("storages",), show)


def _storage_line(visit: Visit, storage: Found) -> str:
    if storage["problem"]:
        return visit.say("It does not answer.")
    free = visit.say("{free} free", free=visit.language.size(storage["free"]))
    if storage["full_on"]:
        day = overview_words.day(visit.language, storage["full_on"])
        return f"{free} · {visit.say('full about {day}', day=day)}"
    return free


def running(visit: Visit, following: Following) -> None:
    """Show the jobs that run."""
    say, language = visit.say, visit.language
    place = _tile(say("Running jobs"), "running", "w-4")
    with place:
        nothing = ui.label(say("Nothing runs now.")).classes("w-more")
        rows = [_run_row() for _ in range(RUNS_MAX)]

    def show(found: Found) -> None:
        runs = found["under_way"]["runs"]
        nothing.set_visibility(not runs)
        for at, (row, name, rate, bar, more) in enumerate(rows):
            row.set_visibility(at < len(runs))
            if at < len(runs):
                run = runs[at]
                name.set_text(run["name"])
                rate.set_text(language.rate(run["rate"]) if run["rate"] else "")
                bar.style(f"width: {run['share'] * 100:.1f}%")
                kind = marks.kind(language, run["kind"])
                more.set_text(f"{kind} · {overview_words.tasks(language, run)}")

    following.on(("under_way",), show)


def _run_row() -> tuple[Any, Any, Any, Any, Any]:
    with ui.element("div").classes("w-item") as row:
        with ui.element("div").classes("w-two"):
            name = ui.label("").classes("w-name")
            rate = ui.label("").classes("w-rate")
        with ui.element("div").classes("w-bar busy"):
            bar = ui.element("i")
        more = ui.label("").classes("w-more w-one")
    return row, name, rate, bar, more


def sites(visit: Visit, following: Following) -> None:
    """Show the servers below as a map around this one; without any, what starts next."""
    say = visit.say
    with ui.element("section").classes("w-tile w-4").props("data-test=sites"):
        title = ui.label("").classes("w-tile-title").props("role=heading aria-level=2")
        place = ui.element("div").classes("w-tile-body")

    def show(found: Found) -> None:
        place.clear()
        title.set_text(say("Sites") if found["sites"] else say("Next starts"))
        with place:
            if found["sites"]:
                _map(visit, found["sites"][:SITES_MAX])
            else:
                _starts(visit, found["next_starts"])

    following.on(("sites", "next_starts"), show)


def _starts(visit: Visit, found: Sequence[Found]) -> None:
    if not found:
        ui.label(visit.say("No policy starts by itself.")).classes("w-more")
    for each in found[:STARTS_MAX]:
        with ui.element("div").classes("w-item w-two"):
            with ui.element("div").classes("w-words"):
                ui.label(each["name"]).classes("w-name")
                ui.label(marks.kind(visit.language, each["kind"])).classes("w-more w-one")
            ui.label(visit.language.moment(each["at"])).classes("w-rate")


def _map(visit: Visit, found: Sequence[Found]) -> None:
    places = drawing.spokes(len(found))
    lines = "".join(f'<line x1="50" y1="50" x2="{x:g}" y2="{y:g}"/>' for x, y in places)
    with ui.element("div").classes("w-map"):
        ui.html(f'<svg viewBox="0 0 100 100" preserveAspectRatio="none" aria-hidden="true">'
                f"{lines}</svg>", sanitize=False).classes("w-map-lines")  # fmt: skip
        with ui.element("div").classes("w-site here").style("left: 50%; top: 50%"):
            ui.label(visit.say("This server")).classes("w-name")
        for site, (x, y) in zip(found, places, strict=True):
            mark = site_mark(site)
            with ui.element("div").classes(f"w-site {mark}").style(f"left: {x:g}%; top: {y:g}%"):
                with ui.element("span").classes("w-name"):
                    ui.icon({GOOD: "check_circle", WARN: "warning"}.get(mark, "error")).props(
                        "aria-hidden=true"
                    )
                    ui.label(site["name"])
                ui.label(_site_line(visit, site)).classes("w-more")


def site_mark(site: Found) -> str:
    """Return how a site is: away, with severe alarms, or fine."""
    severities = (site["summary"] or {}).get("alarms") or {}
    if site["problem"]:
        return BAD
    return WARN if severities.get("critical") or severities.get("error") else GOOD


def _site_line(visit: Visit, site: Found) -> str:
    say, summary = visit.say, site["summary"] or {}
    if site["problem"]:
        return say("away")
    count = sum((summary.get("alarms") or {}).values())
    machines = say("{count} machines", count=visit.language.number(summary.get("machines", 0)))
    return f"{machines} · {say('{count} alarms', count=count)}" if count else machines


def ticker(visit: Visit, following: Following) -> None:
    """Show the open alarms along the bottom; more than two pass by."""
    # Where nothing shall move it is scrolled, by keys as well.
    place = ui.element("footer").classes("w-ticker").props("data-test=ticker tabindex=0")
    place.props["aria-label"] = visit.say("Open alarms")

    def show(found: Found) -> None:
        alarms = found["alarms"]["first"][:ALARMS_MAX]
        place.clear()
        with place:
            if not alarms:
                with ui.element("div").classes("w-alarm good"):
                    ui.icon("check_circle").props("aria-hidden=true")
                    ui.label(visit.say("Nothing is wrong."))
                return
            moves = len(alarms) > _STILL_MAX
            with ui.element("div").classes("w-belt moves" if moves else "w-belt") as belt:
                belt.style(f"animation-duration: {8 * len(alarms)}s")
                _alarms(visit, alarms)
                if moves:
                    # What follows is the same again, so that the belt has no end.
                    _alarms(visit, alarms).props("aria-hidden=true")

    following.on(("alarms",), show)


def _alarms(visit: Visit, found: Sequence[Found]) -> Any:
    with ui.element("div").classes("w-alarms") as shown:
        for alarm in found:
            mark = marks.of(marks.SEVERITIES, alarm["severity"])
            with ui.element("div").classes(f"w-alarm {mark.tone}"):
                ui.icon(mark.icon).props("aria-hidden=true")
                ui.label(alarm_words.headline(visit.language, alarm))
    return shown
