"""A run as its page shows it, followed while it runs."""

from collections import deque
from collections.abc import Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.web.language import NOTHING, later
from ruchu.web.parts import acting, charts, headings, listing, marks, run_words
from ruchu.web.parts.listing import Column
from ruchu.web.parts.run_log import RunLog
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
# What the chart of rates remembers while the page is open: ten minutes.
RATES_MAX = 600
# Machines in the chart of what was saved; more are no picture any more.
_BARS_MAX = 12
_STEPS = {
    "stop": (later("Stop"), "stop", later("It is asked to stop.")),
    "pause": (later("Pause"), "pause", later("It is asked to pause.")),
    "resume": (later("Resume"), "play_arrow", later("It goes on.")),
}


class RunView:
    """The page of a run. Made once; `refresh` changes what has changed."""

    def __init__(self, visit: Visit, run: Found) -> None:
        self._visit = visit
        self._run = run
        self._tasks: list[Found] = []
        self._rates: deque[tuple[str, float]] = deque(maxlen=RATES_MAX)
        self._shown: dict[str, Any] = {}
        say = visit.say
        lead = f"{marks.kind(visit.language, run['kind'])} · {run['id'][:8]}"
        with headings.head(run["name"], lead):
            self._acts = ui.element("div").classes("r-actions")
        self._state = ui.element("div").classes("r-run-state").props("role=status")
        self._trouble = ui.element("div").classes("r-wide")
        self._figures_row()
        with ui.element("div").classes("r-grid"):
            with headings.card(classes="r-8") as self._picture:
                ui.label(say("Rate")).classes("r-card-title").props("role=heading aria-level=2")
                self._chart = charts.chart(_rates(visit, []), say("Rate over time"), "220px")
            with headings.card(say("About this job"), "r-4 r-whole"):
                self._facts = ui.element("div").classes("r-wide")
        ui.label(say("Machines and steps")).classes("r-section").props("role=heading aria-level=2")
        self._list = self._listing()
        self._log = RunLog(visit, run)

    def _figures_row(self) -> None:
        say = self._visit.say
        with ui.element("div").classes("r-card r-figures"):
            self._done, self._done_more = headings.figure(say("Done"), NOTHING)
            self._rate, self._rate_more = headings.figure(say("Rate"), NOTHING)
            self._read, _ = headings.figure(say("Read"), NOTHING)
            self._stored, self._stored_more = headings.figure(say("Stored"), NOTHING)
            self._duration, self._duration_more = headings.figure(say("Duration"), NOTHING)
            with ui.element("div").classes("r-bar r-figures-bar").props("role=progressbar") as bar:
                self._fill = ui.element("i")
            self._bar = bar.props(f'aria-label="{say("Done")}" aria-valuemin=0 aria-valuemax=100')

    async def refresh(self) -> None:
        """Show the run as it is now."""
        run = self._run = await self._visit.api.get(f"/runs/{self._run['id']}")
        self._tasks = await self._visit.api.get(f"/runs/{run['id']}/tasks")
        self._once("acts", (run_words.steps(run), run["ended"] is not None), self._show_acts)
        self._once("state", (run["state"], run["reason"]), self._show_state)
        self._once("trouble", (run["state"], run["attempt"], self._errors()), self._show_trouble)
        moments = ("started", "ended", "next_attempt", "attempt")
        self._once("facts", tuple(run[each] for each in moments), self._show_facts)
        self._show_figures()
        self._show_picture()
        await self._list.refresh()
        await self._log.refresh({each["id"]: each["label"] for each in self._tasks})

    def tick(self) -> None:
        """Let the duration grow."""
        run = self._run
        took = self._visit.language.between(run["started"], run["ended"], self._visit.now)
        self._duration.set_text(took)

    def _once(self, name: str, value: Any, show: Any) -> None:
        """Show a part anew if what it shows has changed."""
        if self._shown.get(name) != value:
            self._shown[name] = value
            show()

    # What can be done.

    def _show_acts(self) -> None:
        visit, run = self._visit, self._run
        self._acts.clear()
        if not visit.may(run_words.right_of(run), run["resource_group"]):
            return
        with self._acts:
            for name in run_words.steps(run):
                title, icon, _ = _STEPS[name]
                button = ui.button(visit.say(title), icon=icon, color=None)
                button.on_click(lambda name=name: self._step(name))
                button.props(f"flat no-caps data-test={name}").classes("r-quiet").mark(name)
            if run_words.again(run, self._tasks) is not None:
                again = ui.button(visit.say("Start again"), icon="replay", on_click=self._again)
                again.props("unelevated no-caps color=primary data-test=again").mark("again")

    async def _step(self, name: str) -> None:
        visit = self._visit
        path = f"/runs/{self._run['id']}/{name}"
        await acting.act(visit, visit.api.post(path), visit.say(_STEPS[name][2]))
        await self.refresh()

    async def _again(self) -> None:
        visit = self._visit
        wanted = run_words.again(self._run, self._tasks)
        if wanted is None:
            return
        started = await acting.act(visit, visit.api.post(*wanted), visit.say("Started."))
        if started is not None:
            ui.navigate.to(f"/runs/{started['id']}")

    # How it stands.

    def _show_state(self) -> None:
        self._state.clear()
        with self._state:
            element = marks.show(marks.of(marks.RUNS, self._run["state"]), self._visit.language)
            element.props("data-test=state")
            why = run_words.reason(self._visit.language, self._run["reason"])
            if why and self._run["state"] not in {"failed", "partly"}:
                ui.label(why).classes("r-lead")

    def _errors(self) -> tuple[tuple[str, str, str], ...]:
        """Return what went wrong: about what, what it says, what to do."""
        problems = self._run["summary"].get("problems") or ()
        errors = [(str(each.get("label", "")), each) for each in problems]
        errors += [(each["label"], each["error"]) for each in self._tasks if each["error"]]
        found = ((about, run_words.problem(self._visit.language, each)) for about, each in errors)
        return tuple((about, text, hint) for about, (text, hint) in found)

    def _show_trouble(self) -> None:
        self._trouble.clear()
        errors, state = self._errors(), self._run["state"]
        if not errors and state not in {"failed", "partly"}:
            return
        with self._trouble, ui.element("div").classes("r-note bad").props("data-test=trouble"):
            if not errors:
                ui.label(run_words.reason(self._visit.language, self._run["reason"]))
            for about, text, hint in errors[:3]:
                ui.label(f"{about}: {text}" if about else text).classes("r-trouble")
                if hint:
                    ui.label(hint)
            if len(errors) > 3:
                ui.label(self._visit.say("And {count} more below.", count=len(errors) - 3))

    def _show_facts(self) -> None:
        visit, run, language = self._visit, self._run, self._visit.language
        say = visit.say
        pairs: dict[str, Any] = {}
        if run["policy"]:
            pairs[say("Policy")] = lambda: ui.link(run["name"], f"/policies/{run['policy']}")
        pairs |= {
            say("Started by"): run_words.started_by(language, run["started_by"]),
            say("Entered at"): language.moment(run["created"]),
            say("Began"): language.moment(run["started"]),
        }
        if run["due"]:
            pairs[say("Was due")] = language.moment(run["due"])
        if run["ended"]:
            pairs[say("Ended")] = language.moment(run["ended"])
        if run["attempt"] > 1:
            pairs[say("Attempt")] = language.number(run["attempt"])
        if run["next_attempt"] and not run["ended"]:
            pairs[say("Next attempt")] = language.moment(run["next_attempt"])
        pairs[say("Group")] = run["resource_group"]
        pairs[say("Priority")] = language.number(run["priority"])
        self._facts.clear()
        with self._facts:
            headings.facts(pairs)

    def _show_figures(self) -> None:
        run, language, say = self._run, self._visit.language, self._visit.say
        found, summary = run_words.totals(self._tasks), run["summary"]
        share, over = found["share"], run["ended"] is not None
        outcome = "succeeded" if over else "ended"
        good = sum(outcome in {task["outcome"], task["state"]} for task in self._tasks)
        count = say("{done} of {count}", done=good, count=len(self._tasks))
        self._done.set_text(count if over else language.percent(share))
        self._done_more.set_text(say("succeeded") if over else count if self._tasks else "")
        self._bar.set_visibility(not over)
        self._rate.set_text(NOTHING if over else language.rate(found["rate"]))
        told = f"{language.size(found['done'])} / {language.size(found['total'])}"
        self._rate_more.set_text(told if found["total"] and not over else "")
        read, stored = summary.get("bytes_read"), summary.get("bytes_stored")
        self._read.set_text(language.size(read or None))
        self._stored.set_text(language.size(stored or None))
        ratio = run_words.ratio(read, stored)
        smaller = say("{ratio} : 1", ratio=language.number(ratio, 1)) if ratio else ""
        self._stored_more.set_text(smaller)
        self.tick()
        self._duration_more.set_text(self._left(found))
        self._fill.style(f"width: {round(share * 100)}%")
        self._bar.props(f"aria-valuenow={round(share * 100)}")

    def _left(self, found: Mapping[str, float]) -> str:
        """Return how long what runs will take, by its rate."""
        if self._run["ended"] or not found["rate"] or found["total"] <= found["done"]:
            return ""
        left = (found["total"] - found["done"]) / found["rate"]
        return self._visit.say("{time} left", time=self._visit.language.duration(left))

    # The picture: rates while it runs, what was saved once it is over.

    def _show_picture(self) -> None:
        visit, run = self._visit, self._run
        saved = run_words.saved(self._tasks)
        if run["state"] == "running":
            at = visit.language.time(visit.now)
            self._rates.append((at, run_words.totals(self._tasks)["rate"]))
        if run["ended"] and saved and self._shown.get("picture") != run["attempt"]:
            self._shown["picture"] = run["attempt"]
            title = visit.say("Read and stored by machine, in GiB")
            self._draw(_saved(visit, saved), title)
        elif not run["ended"]:
            self._draw(_rates(visit, self._rates), visit.say("Rate"))
        self._picture.set_visibility(bool(self._rates) or bool(run["ended"] and saved))

    def _draw(self, options: Mapping[str, Any], title: str) -> None:
        self._picture.default_slot.children[0].set_text(title)
        self._chart.options.clear()
        self._chart.options.update(options)
        self._chart.props(f'aria-label="{title}"')
        self._chart.update()

    # What it consists of.

    def _listing(self) -> listing.Listing:
        say = self._visit.say

        async def fetch(after: str, limit: int) -> tuple[Sequence[dict[str, Any]], str | None]:
            begin = int(after or 0)
            ordered = sorted(self._tasks, key=_order)
            rows = [self._row(task) for task in ordered[begin : begin + limit]]
            more = len(self._tasks) > begin + limit
            return rows, str(begin + limit) if more else None

        def nothing() -> None:
            ui.label(say("It is not planned yet.")).classes("r-help")

        columns = [
            Column("label", say("Object")),
            Column("state", say("State")),
            Column("progress", say("Progress")),
            Column("result", say("Result")),
            Column("duration", say("Duration"), "right", "nowrap"),
        ]
        return listing.Listing(self._visit, columns, fetch, nothing=nothing, label=say("Steps"))

    def _row(self, task: Found) -> dict[str, Any]:
        language = self._visit.language
        state: dict[str, Any] = dict(run_words.task_mark(task).cell(language))
        if task["error"]:
            text, hint = run_words.problem(language, task["error"])
            state["sub"] = " ".join(filter(None, (text, hint)))[:400]
        elif task["state"] == "sent":
            state["sub"] = run_words.phase(language, task["phase"])
        return {
            "id": task["id"],
            "label": {"text": task["label"]},
            "state": state,
            "progress": self._progress(task),
            "result": self._result(task),
            "duration": language.between(task["sent"], task["ended"], self._visit.now),
        }

    def _progress(self, task: Found) -> Any:
        language, told = self._visit.language, task["progress"]
        done, total = told.get("done") or 0, told.get("total") or 0
        if not total:
            return NOTHING
        size = f"{language.size(done)} / {language.size(total)}"
        if task["state"] != "sent":
            return size
        parts = [size, language.rate(told["rate"]) if told.get("rate") else ""]
        sub = " · ".join(filter(None, parts))
        return {"text": language.percent(done / total), "bar": min(1.0, done / total), "sub": sub}

    def _result(self, task: Found) -> Any:
        language = self._visit.language
        machines = [each for each in run_words.saved([task]) if each.get("point")]
        if not machines:
            return NOTHING
        stored = sum(each.get("bytes_stored") or 0 for each in machines)
        return {
            "text": marks.kind(language, machines[0].get("kind", "")),
            "link": f"/points/{machines[0]['point']}",
            "sub": self._visit.say("{size} stored", size=language.size(stored)),
        }


def _order(task: Found) -> int:
    """Return where a task stands: what runs, what went wrong, what waits, what is done."""
    if task["state"] == "ended":
        return 3 if task["outcome"] == "succeeded" else 1
    return 0 if task["state"] == "sent" else 2


def _rates(visit: Visit, rates: Sequence[tuple[str, float]]) -> dict[str, Any]:
    series = {"name": visit.say("Rate"), "type": "line", "showSymbol": len(rates) < 3, "smooth": True,
              "areaStyle": {"opacity": 0.16},
              "data": [round(rate / 2**20, 1) for _, rate in rates]}  # fmt: skip
    return charts.options([at for at, _ in rates], [series], "MiB/s")


def _saved(visit: Visit, machines: Sequence[Found]) -> dict[str, Any]:
    most = sorted(machines, key=lambda each: -(each.get("bytes_read") or 0))[:_BARS_MAX]
    series = [
        {"name": visit.say(title), "type": "bar", "barMaxWidth": 26,
         "data": [round((each.get(key) or 0) / 2**30, 2) for each in most]}
        for title, key in ((later("Read"), "bytes_read"), (later("Stored"), "bytes_stored"))
    ]  # fmt: skip
    return charts.options([str(each["machine"]) for each in most], series)
