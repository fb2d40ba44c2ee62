"""The points that a node has open: a process for each, asked by the server, ended when idle."""

import json
import secrets
import shutil
import sys
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from ruchu import commands
from ruchu.clock import Clock
from ruchu.errors import NodeFailed, RuchuError, TooMany
from ruchu.model.ids import new_id
from ruchu.model.tasks import Order
from ruchu.nodes import places, point_socket
from ruchu.nodes.point_process import FAILED, SOCKET
from ruchu.wire.messages import Answer, Ask

KINDS = frozenset({
    "files-volumes", "files-list", "files-find", "files-fetch", "files-read", "files-close",
})  # fmt: skip
"""Questions that go to an opened point; `kinds.POINT_QUESTIONS` answers them, in its process."""
POINTS_MAX = 4
"""Each is a process with up to 128 MiB of decoded blocks."""
IDLE_S = 300.0
"""A person who reads a page comes back within minutes; a lease must not stay for hours."""
AT_ONCE = 16
"""Questions at the same time, most of them parts of downloads."""
OPEN_LIMIT_S = 180.0
ANSWER_LIMIT_S = 150.0
"""A search takes a minute at most; a process that takes longer hangs, and is ended."""
_POLL_S = 0.02
_LOOK_S = 5.0
_END_LIMIT_S = 10.0


@dataclass(slots=True)
class _Opened:
    """A process that has a point open, or is opening it."""

    folder: Path
    process: commands.Process | None = None
    busy: int = 0
    used: float = 0.0
    opening: threading.Lock = field(default_factory=threading.Lock)
    ready: bool = False

    @property
    def dead(self) -> bool:
        return self.process is not None and self.process.status() is not None


class PointReaders:
    """Answers questions to points. Safe in several threads."""

    def __init__(self, state: Path, clock: Clock, answer: Callable[[Answer], None]) -> None:
        self._state = state
        self._clock = clock
        self._answer = answer
        self._lock = threading.Lock()
        self._opened: dict[str, _Opened] = {}
        self._ended = threading.Event()
        # The kernel ends a process with the thread that started it; these live until the end.
        self._pool = ThreadPoolExecutor(AT_ONCE, "ruchu-point")
        self._watcher = threading.Thread(target=self._watch, name="ruchu-points", daemon=True)
        self._watcher.start()

    def ask(self, question: Ask) -> None:
        """Answer a question soon."""
        self._pool.submit(self._answered, question)

    def close(self) -> None:
        """Answer no more, and end every process."""
        self._ended.set()
        with self._lock:
            found = list(self._opened.values())
            self._opened.clear()
        for each in found:
            _end(each)
        self._pool.shutdown(cancel_futures=True)
        self._watcher.join()

    def _answered(self, question: Ask) -> None:
        value: Any = None
        error: Mapping[str, Any] | None = None
        try:
            answer = self._ask(question)
            value, error = answer.get("value"), answer.get("error")
        except RuchuError as failure:
            error = {"code": failure.code, "message": str(failure), "hint": failure.advice,
                     "retry": failure.retry}  # fmt: skip
        except (OSError, ValueError) as failure:
            error = {"code": "question-failed", "message": str(failure), "hint": "", "retry": True}
        self._answer(Answer(question.request, value, error))

    def _ask(self, question: Ask) -> dict[str, Any]:
        body = dict(question.arguments.get("body") or {})
        secret = dict(question.arguments.get("secrets") or {})
        key = f"{body.get('storage')} {body.get('point')}"
        opened = self._taken(key)
        try:
            failed = self._open(opened, key, body, secret)
            if failed is not None:
                return {"error": failed}
            asked = {"what": question.what, "body": body}
            try:
                return point_socket.ask(opened.folder / SOCKET, asked, ANSWER_LIMIT_S)
            except NodeFailed:
                self._forget(key, opened)
                raise
        finally:
            with self._lock:
                opened.busy -= 1
                opened.used = self._clock.monotonic()

    def _taken(self, key: str) -> _Opened:
        """Return the process of a point, which is busy now; make room for it first.

        Raises:
            TooMany: all that are open are busy.
        """
        late: list[_Opened] = []
        with self._lock:
            found = self._opened.get(key)
            if found is not None and found.dead:
                late.append(self._opened.pop(key))
                found = None
            if found is None:
                if len(self._opened) >= POINTS_MAX:
                    late.append(self._least_used())
                folder = places.memory_folder() / f"point-{secrets.token_hex(8)}"
                found = self._opened[key] = _Opened(folder)
            found.busy += 1
        for each in late:
            _end(each)
        return found

    def _least_used(self) -> _Opened:
        idle = [(each.used, key) for key, each in self._opened.items() if not each.busy]
        if not idle:
            raise TooMany(f"(this node has {POINTS_MAX} points open, all of them busy)")
        return self._opened.pop(min(idle)[1])

    def _open(
        self, opened: _Opened, key: str, body: Mapping[str, Any], secret: Mapping[str, str]
    ) -> Mapping[str, Any] | None:
        """Start the process, unless it runs; the first who asks does, the others wait.

        Returns why the point cannot be opened; None if it is open.

        Raises:
            NodeFailed: the process died or hangs.
        """
        with opened.opening:
            if opened.ready:
                return None
            try:
                failed = self._start(opened, body, secret)
            except BaseException:
                self._forget(key, opened)
                raise
            opened.ready = failed is None
        if failed is not None:
            self._forget(key, opened)
        return failed

    def _start(
        self, opened: _Opened, body: Mapping[str, Any], secret: Mapping[str, str]
    ) -> Mapping[str, Any] | None:
        known = {name: body[name] for name in ("point", "storages") if name in body}
        order = Order(new_id(), new_id(), "point", 1, known, secret)
        folder = opened.folder
        folder.mkdir(mode=0o700)
        module = "ruchu.nodes.point_process"
        args = [sys.executable, "-m", module, str(folder), str(self._state / "local")]
        data = json.dumps(asdict(order)).encode()
        opened.process = commands.start_fed(args, data, log=folder / "said.log")
        limit = self._clock.monotonic() + OPEN_LIMIT_S
        while not (folder / SOCKET).exists():
            status = opened.process.status()
            if (folder / FAILED).exists() and status is not None:
                failed: Mapping[str, Any] = json.loads((folder / FAILED).read_text())
                return failed
            if status is not None:
                said = opened.process.said()[-500:]
                raise NodeFailed(f"(the process that opens the point died: {status} {said})")
            if self._ended.is_set() or self._clock.monotonic() > limit:
                raise NodeFailed(f"(the point was not open after {OPEN_LIMIT_S:.0f} s)")
            self._clock.sleep(_POLL_S)
        return None

    def _forget(self, key: str, opened: _Opened) -> None:
        with self._lock:
            if self._opened.get(key) is opened:
                del self._opened[key]
        _end(opened)

    def _watch(self) -> None:
        while not self._ended.wait(_LOOK_S):
            limit = self._clock.monotonic() - IDLE_S
            with self._lock:
                late = [
                    key for key, each in self._opened.items()
                    if not each.busy and (each.used < limit or each.dead)
                ]  # fmt: skip
                found = [self._opened.pop(key) for key in late]
            for each in found:
                _end(each)


def _end(opened: _Opened) -> None:
    if opened.process is not None:
        opened.process.stop(_END_LIMIT_S)
        opened.process.close()
    shutil.rmtree(opened.folder, ignore_errors=True)
