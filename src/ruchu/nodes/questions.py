"""Short questions of the server, each answered by a process of its own, with a time limit."""

import json
import shutil
import sys
import tempfile
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ruchu import commands
from ruchu.clock import Clock
from ruchu.errors import RuchuError
from ruchu.model.ids import new_id
from ruchu.model.tasks import Order, Outcome
from ruchu.nodes.spool import Spool
from ruchu.wire.messages import Answer, Ask

# Questions at the same time; each costs a process for a moment.
AT_ONCE = 4
# The list of the points of a storage with 100,000 of them takes minutes.
LIMIT_S = 900.0
_POLL_S = 0.05


class Questions:
    """Answers questions. Safe in several threads."""

    def __init__(self, state: Path, clock: Clock, answer: Callable[[Answer], None]) -> None:
        self._state = state
        self._clock = clock
        self._answer = answer
        self._ended = False
        self._pool = ThreadPoolExecutor(AT_ONCE, "ruchu-question")

    def ask(self, question: Ask) -> None:
        """Answer a question soon."""
        self._pool.submit(self._answered, question)

    def close(self) -> None:
        """Answer no more; what is under way is ended."""
        self._ended = True
        self._pool.shutdown(cancel_futures=True)

    def _answered(self, question: Ask) -> None:
        try:
            value, error = self._ask(question)
        except (RuchuError, OSError, ValueError) as failure:
            value, error = None, _error("question-failed", str(failure))
        self._answer(Answer(question.request, value, error))

    def _ask(self, question: Ask) -> tuple[Any, Mapping[str, Any] | None]:
        body = question.arguments.get("body") or {}
        secrets = question.arguments.get("secrets") or {}
        order = Order(new_id(), new_id(), question.what, 1, body, secrets)
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        scratch = Path(tempfile.mkdtemp(dir=self._state, prefix="ask-"))
        folder = scratch / f"{order.task}.1"
        folder.mkdir()
        try:
            self._run(order, folder)
            ending = Spool(folder).ending()
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
        if ending is None:
            return None, _error("question-died", "The process that should answer died.")
        if ending.outcome is Outcome.SUCCEEDED:
            return dict(ending.result), None
        return None, ending.error or _error("question-stopped", "The question was given up.")

    def _run(self, order: Order, folder: Path) -> None:
        args = [sys.executable, "-m", "ruchu.nodes.task", str(folder), str(self._state / "local")]
        data = json.dumps(asdict(order)).encode()
        process = commands.start_fed(args, data, log=folder / "said.log")
        try:
            limit = self._clock.monotonic() + LIMIT_S
            while process.status() is None:
                if self._ended or self._clock.monotonic() > limit:
                    process.stop(5.0)
                self._clock.sleep(_POLL_S)
        finally:
            process.stop(0)
            process.close()


def _error(code: str, message: str) -> dict[str, Any]:
    return {"code": code, "message": message, "hint": "", "retry": True}
