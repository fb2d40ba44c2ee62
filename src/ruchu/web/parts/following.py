"""The overview as one open page follows it: fetched when something changed, shown where it did."""

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Any

from nicegui import ui

from ruchu.web.visiting import Visit

Found = Mapping[str, Any]
KINDS = ("run", "task", "policy", "alarm", "storage", "inventory", "platform", "point", "points",
         "node", "site")  # fmt: skip
EVERY_S = 3.0
# What changes by itself, such as ages: it is looked at so often, in looks.
SLOW = 10


class Following:
    """Fetches something again and again, and hands its parts to whoever shows them.

    A part that is as it was is not handed out again. After a change it is fetched twice: what the
    server kept for everybody may be a moment older than the change.
    """

    def __init__(self, visit: Visit, fetch: Callable[[], Awaitable[Found]]) -> None:
        self._visit = visit
        self._fetch = fetch
        self._shown: list[tuple[Sequence[str], Callable[[Found], None], list[Any]]] = []
        self._mark = visit.house.feed.mark(KINDS)
        self._looks = 0
        self._due = 0
        self._slow = SLOW

    def on(self, parts: Sequence[str], show: Callable[[Found], None]) -> None:
        """Call something with all that was fetched, whenever one of some parts of it changed."""
        self._shown.append((parts, show, [None]))

    async def refresh(self) -> None:
        """Fetch, and show what changed."""
        found = await self._fetch()
        for parts, show, before in self._shown:
            now = [found[part] for part in parts]
            if before[0] != now:
                before[0] = now
                show(found)

    def begin(self, slow: int = SLOW) -> None:
        """Follow for as long as the page is open; fetch every so many looks, whatever happens."""
        self._slow = slow
        ui.timer(EVERY_S, self._look, immediate=False)

    async def _look(self) -> None:
        mark = self._visit.house.feed.mark(KINDS)
        self._looks += 1
        if mark != self._mark:
            self._mark, self._due = mark, 2
        elif self._looks % self._slow == 0:
            self._due = max(self._due, 1)
        if self._due:
            self._due -= 1
            await self._visit.guarded(self.refresh)
