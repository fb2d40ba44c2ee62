"""What changed on the server, so that pages that are open follow it without asking each time."""

import asyncio
from collections import Counter
from collections.abc import Iterable, Mapping

from ruchu.control.events.stream import Events

# How often the number of the newest event is looked at; that is one comparison.
POLL_S = 0.5
# A page that is further behind than this counts everything as changed.
EVENTS_AT_ONCE = 500


class Feed:
    """Counts what happened by the kind of thing it happened to. Used on the event loop only."""

    def __init__(self, events: Events) -> None:
        self._events = events
        self._counts: Counter[str] = Counter()

    def mark(self, kinds: Iterable[str]) -> Mapping[str, int]:
        """Return a mark: a later one differs if anything happened to one of the kinds.

        Kinds are the words before the dot of events: `run`, `task`, `node`, `platform`,
        `inventory`, `storage`, `points`, `point`, `policy`, `alarm`, `site`, `definitions`.
        """
        return {kind: self._counts[kind] for kind in kinds}

    async def follow(self) -> None:
        """Follow the events until cancelled."""
        number = self._events.last
        while True:
            await asyncio.sleep(POLL_S)
            if self._events.last <= number:
                continue
            for event in await asyncio.to_thread(self._events.after, number):
                number = max(number, event.number)
                self._counts[event.name.partition(".")[0]] += 1
