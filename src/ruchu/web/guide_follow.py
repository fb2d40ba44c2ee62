"""The last step of the first-run guide: the first backup, live, to its verified end."""

from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.errors import Answered
from ruchu.web import guiding, policy_words
from ruchu.web.guiding import Standing
from ruchu.web.language import Language, later
from ruchu.web.parts import acting, marks, run_words
from ruchu.web.visiting import Visit

_LOCK_ICON = "lock"
_NEXT: tuple[tuple[str, str, str, str], ...] = (
    ("mail", later("Alarms by mail"), later("Be told when something fails."),
     "/alarms?tab=channels"),
    ("group_add", later("A second administrator"), later("So that nobody is locked out."),
     "/users"),
    (_LOCK_ICON, later("A copy of the passphrase"),
     later("Keep it where this server is not. Without it nobody reads the backups."), "/storages"),
    ("settings_backup_restore", later("Try a restore"), later("A backup is worth what it restores."),
     "/restore"),
    ("dashboard", later("To the dashboard"), later("Everything at a glance."), "/"),
)  # fmt: skip


class Follow:
    """Shows how far the first backup is, in place."""

    def __init__(self, visit: Visit) -> None:
        self._visit = visit
        self._asked = False
        say = visit.say
        with ui.element("div").classes("r-form"):
            self._backup = _Line(say("Backup"), "backup")
            self._check = _Line(say("Verification"), "check")
            self._problem = ui.label("").classes("r-note bad").props("role=alert")
            self._problem.set_visibility(False)
            with ui.element("div").classes("r-actions"):
                self._again = ui.button(say("Try again"), on_click=self._retry)
                self._again.props("unelevated no-caps color=primary data-test=try-again")
                self._log = ui.button(say("Look at the job"), on_click=self._open)
                self._log.props("flat no-caps")
        self._again.set_visibility(False)
        self._standing = Standing()

    async def show(self, standing: Standing) -> None:
        """Show how far it is now; start the verification once there is something to verify."""
        self._standing = standing
        progress = {each["run"]: each for each in await self._visit.api.get("/progress")}
        language = self._visit.language
        self._backup.show(language, standing.backup, progress)
        self._check.show(language, standing.check, progress)
        never = standing.backup is None
        damaged = standing.clean is False
        text = ""
        if standing.failed and standing.backup is not None:
            text = run_words.reason(language, standing.backup["reason"])
        elif damaged:
            text = self._visit.say("The verification found damage. The job says where.")
        elif standing.backup is not None and standing.backup["state"] == "partly":
            text = run_words.reason(language, standing.backup["reason"])
        self._problem.set_text(text)
        self._problem.set_visibility(bool(text))
        self._again.set_visibility(standing.failed or never or damaged)
        self._log.set_visibility(not never)
        if standing.wants_check and not self._asked:
            self._asked = True
            # The page may be open twice, or be loaded anew in between.
            await self._verify(standing, f"guide-{(standing.backup or {}).get('id', '')}")

    async def _verify(self, standing: Standing, key: str) -> None:
        """Verify the storage of the first backup, all of it; with the same key only once."""
        storage = (standing.policy or {})["storage"]
        body = {"storage": storage, "depth": "full"}
        wanted = {"kind": "verify", "name": storage, "body": body}
        await acting.act(self._visit, self._visit.api.post_once("/runs", wanted, key))

    async def _retry(self) -> None:
        standing = self._standing
        if standing.policy is None:
            return
        if standing.clean is False:
            await self._verify(standing, f"guide-{(standing.check or {}).get('id', '')}")
            return
        call = self._visit.api.post(f"/policies/{standing.policy['id']}/run", {"kind": "full"})
        await acting.act(self._visit, call)

    def _open(self) -> None:
        shown = self._standing.check or self._standing.backup
        if shown is not None:
            ui.navigate.to(f"/runs/{shown['id']}")


class _Line:
    """One run: its state, its bar, and what it does."""

    def __init__(self, title: str, name: str) -> None:
        with ui.element("div").classes("r-guide-run"):
            ui.label(title).classes("r-p-strong")
            self._state = ui.element("span").props(f"data-test=guide-{name}")
            self._more = ui.label("").classes("muted r-guide-more")
            with ui.element("span").classes("r-bar") as bar:
                self._share = ui.element("i")
            bar.props(f'role=progressbar aria-label="{title}" aria-valuemin=0 aria-valuemax=100')
            self._bar = bar

    def show(
        self, language: Language, run: Mapping[str, Any] | None, progress: Mapping[str, Any]
    ) -> None:
        self._state.clear()
        with self._state:
            mark = marks.of(marks.RUNS, run["state"] if run is not None else "queued")
            marks.show(mark, language)
        told = progress.get(run["id"]) if run is not None else None
        share = 1.0 if run is not None and run["ended"] else (told or {}).get("share", 0.0)
        self._share.style(f"width: {round(share * 100)}%")
        self._bar.props(f"aria-valuenow={round(share * 100)}")
        parts = []
        if told is not None:
            parts = [run_words.phase(language, told["phase"]), language.percent(share)]
            if told["rate"]:
                parts.append(language.rate(told["rate"]))
        self._more.set_text(policy_words.join(language, [each for each in parts if each]))


async def done(visit: Visit, standing: Standing) -> None:
    """Show that all is well, and what comes next."""
    say, language = visit.say, visit.language
    with ui.element("section").classes("r-guide-done").props("data-test=guide-done"):
        ui.icon("verified").props("aria-hidden=true")
        ui.label(say("A first backup is verified.")).classes("r-guide-done-title").props(
            "role=heading aria-level=2"
        )
        ui.label(await _saved(visit, standing)).classes("r-guide-done-text")
        following = (standing.policy or {}).get("next")
        if following:
            ui.label(say("The next backup starts {moment}.",
                         moment=language.moment(following["at"]))).classes("r-guide-done-text")  # fmt: skip
    ui.label(say("What to do next")).classes("r-card-title").props("role=heading aria-level=2")
    with ui.element("div").classes("r-choices"):
        for icon, title, text, target in _NEXT:
            if icon == _LOCK_ICON and not (standing.storage or {}).get("encrypted"):
                continue
            with ui.link(target=target).classes("r-choice"):
                with ui.element("span").classes("r-choice-head"):
                    ui.icon(icon).props("aria-hidden=true")
                    ui.label(say(title)).classes("r-choice-name")
                ui.label(say(text)).classes("r-sub")


async def _saved(visit: Visit, standing: Standing) -> str:
    """Return what was saved, in words."""
    storage = (standing.policy or {}).get("storage", "")
    try:
        points = (await visit.api.get("/points", storage=storage, limit=499))["items"]
    except Answered:
        return ""
    points = guiding.sound(points)
    stored = sum(each["bytes_stored"] or 0 for each in points)
    names = {each["object"] for each in points}
    language = visit.language
    return visit.say(
        "{machines} saved, {size} on {storage}, every byte read back and found sound.",
        machines=policy_words.machines(language, len(names)), size=language.size(stored),
        storage=storage,
    )  # fmt: skip
