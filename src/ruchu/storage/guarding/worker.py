"""The process in which a guard runs: started by `supervising`, ends with it."""

import contextlib
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
        # The supervisor is gone, and with it whoever forwards alarms: what is left is the log.
        text = value.text if isinstance(value, Report) else str(value)
        print(f"ruchu guard, without its supervisor: {text}", file=sys.stderr)  # noqa: T201


def died(root: str, why: str, code: str) -> Report:
    """Return what is told when a guard has ended and was not asked to."""
    text = f"the guard of {root} {why}; until it is back only the flags protect the storage"
    return Report(code, Severity.CRITICAL, root, text)
