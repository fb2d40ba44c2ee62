"""The process of one task: `python -m ruchu.nodes.task FOLDER STATE [COMMANDS]`, order on stdin.

It ends by itself, is asked to end by SIGTERM (by its node, or by the kernel when the node died),
and writes down how it ended before it does. What it leaves on a source after a SIGKILL is removed
by the next run.
"""

import ctypes
import json
import os
import signal
import sys
import threading
import traceback
from pathlib import Path
from types import FrameType
from typing import Any

from ruchu import process
from ruchu.clock import SYSTEM, to_text
from ruchu.errors import Cancelled, PartlyFailed, RuchuError
from ruchu.model.tasks import Ending, Order, Outcome
from ruchu.nodes import places
from ruchu.nodes.spool import LINE_BYTES_MAX, Spool
from ruchu.nodes.telling import Teller

_PR_SET_PDEATHSIG = 1
# What an order may take on standard input: a list of machines and secrets.
ORDER_BYTES_MAX = 8 * LINE_BYTES_MAX


class _Stop:
    """Whether somebody wants this process to end."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def __call__(self) -> bool:
        return self._event.is_set()

    def on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        self._event.set()


def main() -> int:
    """Carry out one attempt; the exit status is 0 whenever its ending was written down."""
    process.tune_memory()
    stop = _Stop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, stop.on_signal)
    folder, state = Path(sys.argv[1]), Path(sys.argv[2])
    commands = Path(sys.argv[3]) if len(sys.argv) > 3 and sys.argv[3] else None
    _die_with(os.getppid(), stop)
    order = _order(sys.stdin.buffer.read(ORDER_BYTES_MAX))
    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    spool = Spool(folder)
    with Teller(folder, order, SYSTEM) as teller:
        ending = _carry_out(order, state, commands, teller, stop)
    spool.save_ending(ending)
    return 0


def _die_with(parent: int, stop: _Stop) -> None:
    """Be asked to end when the node dies."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM, 0, 0, 0)
    if os.getppid() != parent:
        stop.on_signal(signal.SIGTERM, None)


def _order(data: bytes) -> Order:
    value = json.loads(data)
    return Order(**value)


def _carry_out(
    order: Order, state: Path, commands: Path | None, teller: Teller, stop: _Stop
) -> Ending:
    """Do the work, and return how it ended; this is the edge of the process."""
    from ruchu.nodes import kinds  # noqa: PLC0415 - signals are taken over before much is loaded
    from ruchu.nodes.work_backup import explain  # noqa: PLC0415
    from ruchu.nodes.work_contract import Work  # noqa: PLC0415

    outcome, result, error = Outcome.SUCCEEDED, {}, None
    try:
        work = kinds.worker(order.kind)
        known = places.known(order, state)
        result = work(Work(order, state, known, teller, stop, commands))
    except PartlyFailed as failure:
        outcome, result, error = Outcome.FAILED, failure.result, explain(failure)
    except Cancelled as failure:
        outcome, error = Outcome.STOPPED, explain(failure)
    except RuchuError as failure:
        outcome, error = Outcome.FAILED, explain(failure)
    except Exception as failure:  # noqa: BLE001 - the edge of this process
        teller.log("error", traceback.format_exc())
        outcome, error = Outcome.FAILED, explain(failure)
    if outcome is Outcome.FAILED and stop():
        outcome = Outcome.STOPPED
    return _ending(order, outcome, result, error)


def _ending(
    order: Order, outcome: Outcome, result: dict[str, Any], error: dict[str, Any] | None
) -> Ending:
    at = to_text(SYSTEM.now())
    return Ending(order.task, order.attempt, at, outcome, result, error)


if __name__ == "__main__":
    sys.exit(main())
