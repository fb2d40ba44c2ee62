"""Takes in what nodes tell of tasks: what comes together is written down together, then acknowledged.

Writing something out for good costs a sync of the disk, however much it is. What hundreds of tasks
tell within a moment is therefore one transaction. Nothing is acknowledged before it is committed:
what is lost until then is told again.
"""

import contextlib
import threading
import traceback
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field

import sqlalchemy as sa

from ruchu.clock import Clock
from ruchu.control.nodes.tasks import News, Tasks, Telling
from ruchu.errors import WireError
from ruchu.model.tasks import Ending, TaskEvent
from ruchu.wire import messages
from ruchu.wire.links import Link

# How long events wait for company: live pages are that late. An end waits less, since work waits
# for it. Progress may wait longest: the next makes it worthless.
EVENTS_S, ENDING_S, PROGRESS_S = 1.0, 0.1, 4.0
# Events that wait to be written; more make their nodes wait.
HELD_MAX = 20_000
# Attempts in one transaction: others who write wait for no longer than that takes.
BATCH = 200
_ROOM_LIMIT_S = 30.0
# A node that does not read is waited for before it is given up; the others must not.
_SENDERS = 4

Heard = Callable[[sa.Connection, Sequence[News]], Callable[[], None]]
"""Writes down what tasks told, in the transaction that takes it in.

Returns what is to be done once it is over.
"""


@dataclass(slots=True)
class _Told:
    """What was told of an attempt since the last time that it was written down."""

    link: Link
    until: float
    events: list[TaskEvent] = field(default_factory=list)
    ending: Ending | None = None

    def waits(self, now: float) -> bool:
        """Tell whether it is nothing but progress, and may wait."""
        return (
            self.ending is None
            and now < self.until
            and all(event.name == "progress" for event in self.events)
        )


class Intake:
    """Takes in for all nodes. Safe in several threads. A thread of its own, between begin and close."""

    def __init__(self, tasks: Tasks, heard: Heard, clock: Clock) -> None:
        self._clock = clock
        self._tasks = tasks
        self._heard = heard
        self._changed = threading.Condition()
        # All under the condition.
        self._waiting: dict[tuple[str, str, int], _Told] = {}
        self._events = 0
        self._urgent = False
        self._ended = False
        self._acknowledging: ThreadPoolExecutor | None = None
        self._thread = threading.Thread(target=self._work, name="ruchu-intake", daemon=True)

    def begin(self) -> None:
        """Write down from now on."""
        self._acknowledging = ThreadPoolExecutor(_SENDERS, "ruchu-acknowledge")
        self._thread.start()

    def close(self) -> None:
        """Write down what is there, and no more."""
        with self._changed:
            self._ended = True
            self._changed.notify_all()
        self._thread.join()
        assert self._acknowledging is not None
        self._acknowledging.shutdown()

    def events(self, link: Link, events: Sequence[TaskEvent]) -> None:
        """Take in events of tasks soon; waits while too many are waiting."""
        with self._changed:
            self._changed.wait_for(lambda: self._events < HELD_MAX or self._ended, _ROOM_LIMIT_S)
            for event in events:
                self._of(link, event.task, event.attempt).events.append(event)
                # People must hear of it.
                self._urgent |= event.name == "alarm"
            self._events += len(events)
            self._changed.notify_all()

    def ending(self, link: Link, ending: Ending) -> None:
        """Take in how an attempt ended, soon."""
        with self._changed:
            self._of(link, ending.task, ending.attempt).ending = ending
            self._urgent = True
            self._changed.notify_all()

    def _of(self, link: Link, task: str, attempt: int) -> _Told:
        key = (link.node, task, attempt)
        found = self._waiting.get(key)
        if found is None:
            until = self._clock.monotonic() + PROGRESS_S
            found = self._waiting[key] = _Told(link, until)
        found.link = link
        return found

    def flush(self, *, everything: bool = True) -> None:
        """Write down what waits, and acknowledge it; progress only when its time has come."""
        waiting = self._taken(everything=everything)
        for at in range(0, len(waiting), BATCH):
            batch = waiting[at : at + BATCH]
            try:
                self._take_in(batch)
            except Exception:  # noqa: BLE001 - the edge of the thread: one that cannot be kept is found
                for each in batch:
                    self._alone(each)

    def _taken(self, *, everything: bool) -> list[_Told]:
        now = self._clock.monotonic()
        with self._changed:
            everything |= self._events >= HELD_MAX
            left = {
                key: told
                for key, told in self._waiting.items()
                if not everything and told.waits(now)
            }
            taken = [told for key, told in self._waiting.items() if key not in left]
            self._waiting, self._urgent = left, False
            self._events = sum(len(told.events) for told in left.values())
            self._changed.notify_all()
        return taken

    def _alone(self, told: _Told) -> None:
        """Take in what one attempt told; if that cannot be, its node comes again and tells anew."""
        try:
            self._take_in([told])
        except Exception:  # noqa: BLE001 - the edge of the thread
            traceback.print_exc()
            told.link.close("the server failed; its log says how")

    def _take_in(self, batch: Sequence[_Told]) -> None:
        afterwards: list[Callable[[], None]] = []

        def within(connection: sa.Connection, news: Sequence[News]) -> None:
            afterwards.append(self._heard(connection, news))

        tellings = [Telling(each.link.node, each.events, each.ending) for each in batch]
        self._tasks.take_in(tellings, within)
        for each in afterwards:
            try:
                each()
            except Exception:  # noqa: BLE001 - the edge of the thread; what is told is committed
                traceback.print_exc()
        by_link: dict[Link, list[_Told]] = {}
        for told in batch:
            by_link.setdefault(told.link, []).append(told)
        for link, mine in by_link.items():
            if self._acknowledging is None:
                _acknowledge(link, mine)
            else:
                self._acknowledging.submit(_acknowledge, link, mine)

    def _work(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._ended)
                self._changed.wait_for(lambda: self._urgent or self._ended, EVENTS_S)
                if not self._ended:
                    self._changed.wait_for(lambda: self._ended, ENDING_S)
                ended = self._ended
            self.flush(everything=ended)
            if ended:
                return


def _acknowledge(link: Link, told: Sequence[_Told]) -> None:
    """Tell a node what is written down; one that is gone says what it has when it comes again."""
    with contextlib.suppress(WireError):
        for each in told:
            last = each.events[-1] if each.events else None
            if last is not None:
                link.send(messages.Acknowledge(last.task, last.attempt, last.number, ended=False))
            if each.ending is not None:
                # The node forgets the whole attempt, whatever the number.
                number = last.number if last is not None else 0
                ending = each.ending
                link.send(messages.Acknowledge(ending.task, ending.attempt, number, ended=True))
