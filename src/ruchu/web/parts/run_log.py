"""The log of a run: its history in words, followed while it grows."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from nicegui import ui

from ruchu.web.parts import run_words
from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
# Lines that a page holds; the file that can be fetched has all of them.
LINES_MAX = 800
_PAGE = 500
# A run keeps 5,000 events.
_PAGES_MAX = 12
_ALL, _WARNINGS = "all", "warnings"


class RunLog:
    """The log of a run; `refresh` adds what is new."""

    def __init__(self, visit: Visit, run: Found) -> None:
        self._visit = visit
        self._run = run
        self._after = 0
        self._lines: deque[tuple[str, str, str]] = deque()
        self._all = True
        say = visit.say
        with ui.element("section").classes("r-card"):
            with ui.element("div").classes("r-log-head"):
                ui.label(say("Log")).classes("r-card-title").props("role=heading aria-level=2")
                ui.space()
                only = ui.switch(say("Only warnings and errors"), on_change=self._choose)
                only.props("dense data-test=only-warnings")
                fetch = ui.button(icon="download", on_click=self._fetch, color=None)
                fetch.props(f'flat round dense aria-label="{say("Download the log")}"')
            self._log = ui.log(max_lines=LINES_MAX).classes("r-log")
            self._log.props(f'role=log tabindex=0 data-test=log aria-label="{say("Log")}"')

    async def refresh(self, labels: Mapping[str, str]) -> None:
        """Show what happened since; `labels` are what tasks are about, by their id."""
        for _ in range(_PAGES_MAX):
            path = f"/runs/{self._run['id']}/history"
            found = await self._visit.api.get(path, after=self._after, limit=_PAGE)
            for event in found:
                self._after = event["number"]
                level, text = run_words.line(self._visit.language, event, labels)
                self._lines.append((event["at"], level, text))
                self._push(self._lines[-1])
            if len(found) < _PAGE:
                return

    def _push(self, line: tuple[str, str, str]) -> None:
        at, level, text = line
        if self._all or level not in {"info", "debug"}:
            self._log.push(self._said(at, level, text), classes=f"r-log-line {level}")

    def _said(self, at: str, level: str, text: str) -> str:
        word = self._visit.say(run_words.LEVELS.get(level, level))
        begin = "" if level in {"info", "debug"} else f"[{word}] "
        return f"{self._visit.language.time(at)}  {begin}{' '.join(text.split())}"

    def _choose(self, event: Any) -> None:
        self._all = not event.value
        self._log.clear()
        for line in list(self._lines)[-LINES_MAX:]:
            self._push(line)

    def _fetch(self) -> None:
        text = "\n".join(f"{at}  {level:8} {said}" for at, level, said in self._lines)
        ui.download.content(text.encode(), f"run-{self._run['id'][:8]}.log", "text/plain")
