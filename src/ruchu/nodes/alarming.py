"""Alarms of a node that belong to no task: kept on disk until the server says that it has them.

They are sent in the order in which they were raised, and again after each reconnect, so that one
may come twice; the server counts it then. A server of a release that does not acknowledge alarms
is told all of them at each connection: what is kept is bounded.
"""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from ruchu.clock import Clock, to_text
from ruchu.errors import ProtocolViolation, RuchuError, WireError
from ruchu.model.ids import is_id, new_id
from ruchu.model.tasks import Severity
from ruchu.nodes import spool
from ruchu.wire.message_fields import NAME_LENGTH_MAX
from ruchu.wire.messages import NodeAlarm

# A day of a guard that refuses a dozen programs; a server that is away for longer hears of the
# worst of them, and how many more there were.
KEPT_MAX = 1000
TEXT_MAX = 4000
_RANKS = {each: rank for rank, each in enumerate(Severity)}

Send = Callable[[NodeAlarm], None]


@dataclass(frozen=True, slots=True)
class _Waiting:
    """An alarm that the server has not acknowledged; `over` takes an earlier one back."""

    number: int
    id: str
    alarm: NodeAlarm
    count: int = 1
    over: bool = False

    @property
    def file(self) -> str:
        return f"{self.number:012}.{self.id}.json"

    @property
    def key(self) -> tuple[str, str]:
        return self.alarm.code, self.alarm.subject

    def message(self) -> NodeAlarm:
        facts = {**self.alarm.facts, "id": self.id, "count": self.count}
        return replace(self.alarm, facts={**facts, "over": True} if self.over else facts)

    def fields(self) -> dict[str, Any]:
        alarm = self.alarm
        return {
            "code": alarm.code, "severity": alarm.severity.value, "subject": alarm.subject,
            "text": alarm.text, "facts": dict(alarm.facts), "count": self.count, "over": self.over,
        }  # fmt: skip


class NodeAlarms:
    """The `Alarms` of a node. Safe in several threads. A context manager: sends while it is open.

    Args:
        directory: where they are kept.
        send: sends one to the server, or raises `WireError`.
        clock: for their time.
        tell: hears what cannot be kept.
    """

    def __init__(
        self, directory: Path, send: Send, clock: Clock, tell: Callable[[str], None]
    ) -> None:
        self._directory = directory
        self._send = send
        self._clock = clock
        self._tell = tell
        self._lock = threading.Lock()
        self._waiting: dict[str, _Waiting] = {}
        self._sent: set[str] = set()
        self._number = self._dropped = 0
        self._wake = threading.Event()
        self._ended = False
        self._thread = threading.Thread(target=self._work, name="ruchu-alarms", daemon=True)
        self._load()

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended = True
        self._wake.set()
        self._thread.join()

    def raise_alarm(
        self, code: str, severity: Severity, subject: str, text: str, facts: Mapping[str, Any]
    ) -> None:
        """Tell the server's people, now or when it is there again. Durable when it returns."""
        facts = {**facts, "at": to_text(self._clock.now())}
        if self._dropped:
            facts["dropped"] = self._dropped
        self._add(NodeAlarm(code, severity, _cut(subject), text[:TEXT_MAX], facts), over=False)

    def clear(self, code: str, subject: str) -> None:
        """Say that what an alarm told of is over."""
        self._add(NodeAlarm(code, Severity.INFO, _cut(subject), "", {}), over=True)

    def connected(self) -> None:
        """There is a new connection: everything that waits is sent on it."""
        with self._lock:
            self._sent.clear()
        self._wake.set()

    def acknowledged(self, identity: str) -> bool:
        """Forget an alarm that the server has; False if it is the id of none."""
        with self._lock:
            found = self._waiting.pop(identity, None)
            if found is not None:
                self._forget(found)
        return found is not None

    def waiting(self) -> list[NodeAlarm]:
        """Return what the server does not have yet, the oldest first."""
        with self._lock:
            return [each.message() for each in self._waiting.values()]

    # What is kept.

    def _add(self, alarm: NodeAlarm, *, over: bool) -> None:
        with self._lock:
            self._number += 1
            new = _Waiting(self._number, new_id(), alarm, over=over)
            before = next(
                (each for each in reversed(self._waiting.values()) if each.key == new.key), None
            )
            again = before is not None and before.over == over
            if before is not None and again:
                worst = max(before.alarm.severity, alarm.severity, key=_RANKS.__getitem__)
                new = replace(new, alarm=replace(alarm, severity=worst), count=before.count + 1)
            elif len(self._waiting) >= KEPT_MAX:
                self._make_room()
            self._keep(new)
            self._waiting[new.id] = new
            if before is not None and again:
                self._forget(self._waiting.pop(before.id))
        self._wake.set()

    def _make_room(self) -> None:
        """Give up the oldest of those that matter least."""
        least = min(
            self._waiting.values(), key=lambda each: (_RANKS[each.alarm.severity], each.number)
        )
        self._forget(self._waiting.pop(least.id))
        self._dropped += 1

    def _keep(self, new: _Waiting) -> None:
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            spool.store(self._directory / new.file, new.fields())
        except (RuchuError, OSError) as error:
            # It is sent all the same; only a death of this process would lose it.
            self._tell(f"an alarm could not be kept: {error}: {new.alarm.text}")

    def _forget(self, old: _Waiting) -> None:
        self._sent.discard(old.id)
        try:
            (self._directory / old.file).unlink(missing_ok=True)
        except OSError as error:
            self._tell(f"an alarm could not be forgotten: {error}")

    def _load(self) -> None:
        """Take up what an earlier process of this node left."""
        for path in sorted(self._directory.glob("*.json")):
            try:
                found = _read(path)
            except (RuchuError, ValueError, KeyError, TypeError) as error:
                self._tell(f"{path} is no alarm: {error}")
                continue
            self._waiting[found.id] = found
            self._number = max(self._number, found.number)

    # What is sent.

    def _work(self) -> None:
        while not self._ended:
            self._wake.wait()
            self._wake.clear()
            while (each := self._next()) is not None:
                if not self._deliver(each):
                    break

    def _next(self) -> _Waiting | None:
        with self._lock:
            for each in self._waiting.values():
                if each.id not in self._sent:
                    self._sent.add(each.id)
                    return each
        return None

    def _deliver(self, each: _Waiting) -> bool:
        """Send one; False if there is no connection: the next one begins with it."""
        message = each.message()
        try:
            self._send(message)
        except ProtocolViolation:
            # The facts cannot be said; what happened can.
            self._tell(f"the facts of an alarm cannot be sent: {message.text}")
            with self._lock:
                plain = replace(each, alarm=replace(each.alarm, facts={}))
                if each.alarm.facts and each.id in self._waiting:
                    self._waiting[each.id] = plain
                    self._sent.discard(each.id)
        except WireError:
            with self._lock:
                self._sent.discard(each.id)
            return False
        return True


def _read(path: Path) -> _Waiting:
    number, identity, _ = path.name.split(".")
    if not is_id(identity):
        raise ValueError("its name holds no id")
    value = spool.load(path) or {}
    severity = Severity(value["severity"])
    facts = dict(value["facts"])
    alarm = NodeAlarm(
        str(value["code"]), severity, str(value["subject"]), str(value["text"]), facts
    )
    return _Waiting(int(number), identity, alarm, int(value["count"]), bool(value["over"]))


def _cut(subject: str) -> str:
    """Return a subject that fits into a message."""
    return subject if len(subject) <= NAME_LENGTH_MAX else f"{subject[: NAME_LENGTH_MAX - 1]}…"
