"""The process in which a guard runs: started by `supervising`, ends with it."""

import contextlib
import multiprocessing
import os
import signal
import sys
from multiprocessing.connection import Connection
from typing import Any

from ruchu.clock import SYSTEM
from ruchu.errors import RuchuError
from ruchu.model.tasks import Severity
from ruchu.storage.guarding.guard import Guard, Settings
from ruchu.storage.guarding.reporting import Report

READY, REPORT, FAILED = "ready", "report", "failed"


def run(settings: Settings, told: Connection, beats: Connection, orders: Connection) -> None:
    """Guard until the other end of `orders` is closed.

    Args:
        settings: what and how.
        told: takes pairs of what it is (`READY`, `REPORT`, `FAILED`) and a value.
        beats: takes a byte now and then while opens are decided upon; never blocks.
        orders: nothing is sent; its end is the order to end.
    """
    for number in (signal.SIGINT, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # a Ctrl-C is for the supervisor
    os.set_blocking(beats.fileno(), False)
    guard = Guard(settings, lambda report: _send(told, REPORT, report), _beater(beats), SYSTEM)
    try:
        facts = guard.open()
    except RuchuError as error:
        _send(told, FAILED, error)
        return
    try:
        _send(told, READY, facts)
        while not orders.poll():
            guard.tick()
        parent = multiprocessing.parent_process()
        if parent is not None and not parent.is_alive():
            # Who forwards alarms is gone; what is left is the log.
            _log(f"the guard of {settings.root} ends without its supervisor")
    finally:
        guard.close()


def _beater(beats: Connection) -> Any:
    descriptor = beats.fileno()

    def beat() -> None:
        # Full, since nobody reads; or nobody is there, which `orders` tells, too.
        with contextlib.suppress(BlockingIOError, BrokenPipeError):
            os.write(descriptor, b".")

    return beat


def _send(told: Connection, kind: str, value: Any) -> None:
    try:
        told.send((kind, value))
    except OSError:
        _log(value.text if isinstance(value, Report) else str(value))


def _log(text: str) -> None:
    print(f"ruchu guard: {text}", file=sys.stderr)  # noqa: T201 - the log of a service


def died(root: str, why: str, code: str) -> Report:
    """Return what is told when a guard has ended and was not asked to."""
    text = f"the guard of {root} {why}; until it is back only the flags protect the storage"
    return Report(code, Severity.CRITICAL, root, text)
