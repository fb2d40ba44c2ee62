"""What a task tells while it works: phases, progress, log lines, alarms."""

import json
import os
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Self

from ruchu.blocks.copying import Progress
from ruchu.clock import Clock, to_text
from ruchu.model.tasks import Order, Severity
from ruchu.nodes.spool import EVENTS, EVENTS_MAX, LINE_BYTES_MAX
from ruchu.operations.meters import Meter

# How often progress is told: often enough for a live page, rarely enough to cost nothing.
INTERVAL_S = 2.0
TEXT_MAX = 4000
# The thread that tells progress is not in the way of the end of the task.
_END_LIMIT_S = 5.0


class Teller:
    """Writes the events of one attempt. Safe in several threads. A context manager."""

    def __init__(self, folder: Path, order: Order, clock: Clock) -> None:
        self._order = order
        self._clock = clock
        self._lock = threading.Lock()
        self._number = 0
        flags = os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC | os.O_NOFOLLOW
        self._file = os.open(folder / EVENTS, flags, 0o600)
        self._meters: list[tuple[str, Meter]] = []
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.set()
        self._thread.join(_END_LIMIT_S)
        self.progress()
        os.close(self._file)

    def phase(self, name: str) -> None:
        """Say what begins now, such as `before`, `copy`, `retention`."""
        self._tell("phase", {"name": name})

    def log(self, level: str, text: str) -> None:
        """Say something for the log of the run."""
        self._tell("log", {"level": level, "text": text[:TEXT_MAX]})

    def alarm(self, code: str, severity: Severity, text: str, facts: Mapping[str, Any]) -> None:
        """Say something that people must hear of."""
        body = {"code": code, "severity": severity.value, "text": text[:TEXT_MAX]}
        self._tell("alarm", {**body, "facts": dict(facts)})

    def watch(self, label: str, progress: Progress) -> None:
        """Tell the progress of this copy from now on."""
        with self._lock:
            self._meters.append((label, Meter(progress, self._clock)))

    def told(self, done: int, total: int) -> None:
        """Tell the progress of something that is no copy."""
        self._tell("progress", {"label": "", "done": done, "total": total, "rate": 0.0})

    def progress(self) -> None:
        """Tell the progress of all copies together."""
        with self._lock:
            readings = [(label, meter.read()) for label, meter in self._meters]
        if not readings:
            return
        running = [label for label, each in readings if each.done < each.total]
        body = {
            "label": ", ".join(running[:3]),
            "done": sum(each.done for _, each in readings),
            "total": sum(each.total for _, each in readings),
            "rate": round(sum(e.rate for _, e in readings if e.done < e.total), 1),
        }
        self._tell("progress", body)

    def _watch(self) -> None:
        while not self._end.wait(INTERVAL_S):
            self.progress()

    def _tell(self, name: str, body: Mapping[str, Any]) -> None:
        with self._lock:
            if self._number >= EVENTS_MAX:
                return
            self._number += 1
            event = {
                "task": self._order.task,
                "attempt": self._order.attempt,
                "number": self._number,
                "at": to_text(self._clock.now()),
                "name": name,
                "body": body,
            }
            line = json.dumps(event, ensure_ascii=False).encode() + b"\n"
            assert len(line) <= LINE_BYTES_MAX
            # One write of a line: a reader sees it whole, or waits for its end.
            os.write(self._file, line)
