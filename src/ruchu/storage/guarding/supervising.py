"""Keeps guards running: starts each in a process of its own, tells when one ends or hangs.

A guard that hangs would hold up every open in its storage. It is killed, and with its last
descriptor the kernel lets everybody go on; the flags hold without it, too.
"""

import contextlib
import multiprocessing
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from typing import Any

from ruchu.clock import Clock
from ruchu.errors import RuchuError
from ruchu.storage.guarding import worker
from ruchu.storage.guarding.guard import Settings
from ruchu.storage.guarding.reporting import Emit, Report

# Ten times what lies between two beats of a guard that is well, and short enough for those who wait.
HANG_LIMIT_S = 5.0
_ROUND_S = 0.25
# A guard that ends again and again is started again ever more slowly, up to a minute.
_RESTART_FIRST_S, _RESTART_MAX_S = 0.5, 60.0
# Reading flags and comparing takes some 50 µs an object; beats come from its first second on.
_END_LIMIT_S = 10.0
_BEATS_BYTES = 4096

Ready = Callable[[Settings, dict[str, Any]], None]


@dataclass(slots=True)
class _Guarded:
    """One storage and the process that guards it."""

    settings: Settings
    process: BaseProcess | None = None
    told: Connection | None = None
    beats: Connection | None = None
    orders: Connection | None = None
    beat_at: float = 0.0
    start_at: float = 0.0
    pause_s: float = _RESTART_FIRST_S
    is_down: str = ""
    ours: list[Connection] = field(default_factory=list)


class Supervisor:
    """Supervises the guards of some storages. For one thread.

    Args:
        settings: one for each storage.
        emit: where to tell.
        ready: is called when a guard has begun, with what it guards and how.
        clock: for all intervals.
    """

    def __init__(
        self, settings: Sequence[Settings], emit: Emit, ready: Ready, clock: Clock
    ) -> None:
        self._context = multiprocessing.get_context("spawn")
        self._guarded = [_Guarded(each) for each in settings]
        self._emit = emit
        self._ready = ready
        self._clock = clock

    def run(self, cancelled: Callable[[], bool]) -> None:
        """Guard until it is cancelled.

        Raises:
            RuchuError: a guard cannot begin at all, at its first start.
        """
        try:
            for guarded in self._guarded:
                self._start(guarded)
            while not cancelled():
                self._round()
        finally:
            self._stop()

    def _start(self, guarded: _Guarded) -> None:
        told, their_told = self._context.Pipe(duplex=False)
        beats, their_beats = self._context.Pipe(duplex=False)
        their_orders, orders = self._context.Pipe(duplex=False)
        theirs = (their_told, their_beats, their_orders)
        process = self._context.Process(
            target=worker.run, args=(guarded.settings, *theirs), daemon=True
        )
        process.start()
        for each in theirs:
            each.close()
        guarded.process, guarded.told, guarded.beats = process, told, beats
        guarded.orders, guarded.ours = orders, [told, beats, orders]
        guarded.beat_at = 0.0

    def _round(self) -> None:
        now = self._clock.monotonic()
        for guarded in self._guarded:
            if guarded.process is None and now >= guarded.start_at:
                self._start(guarded)
        waiting: list[Any] = [
            each
            for guarded in self._guarded
            if guarded.process is not None
            for each in (guarded.process.sentinel, guarded.told, guarded.beats)
        ]
        connection.wait(waiting, _ROUND_S)
        for guarded in self._guarded:
            if guarded.process is not None:
                self._look_after(guarded)

    def _look_after(self, guarded: _Guarded) -> None:
        assert guarded.process is not None
        ended = not guarded.process.is_alive()
        self._listen(guarded)
        now = self._clock.monotonic()
        if ended:
            status = guarded.process.exitcode
            self._bury(guarded, f"ended by itself (status {status})", "guard-ended")
        elif guarded.beat_at and now - guarded.beat_at > HANG_LIMIT_S:
            guarded.process.kill()
            guarded.process.join()
            self._bury(
                guarded, f"did not answer for {HANG_LIMIT_S:g} s and was killed", "guard-hung"
            )

    def _listen(self, guarded: _Guarded) -> None:
        assert guarded.told is not None
        assert guarded.beats is not None
        # What a dying guard has sent is read to its end.
        with contextlib.suppress(EOFError, OSError):
            while guarded.beats.poll():
                if not os.read(guarded.beats.fileno(), _BEATS_BYTES):
                    break
                guarded.beat_at = self._clock.monotonic()
        with contextlib.suppress(EOFError, OSError):
            while guarded.told.poll():
                self._hear(guarded, *guarded.told.recv())

    def _hear(self, guarded: _Guarded, kind: str, value: Any) -> None:
        if kind == worker.REPORT:
            self._emit(value)
        elif kind == worker.READY:
            guarded.pause_s = _RESTART_FIRST_S
            if guarded.is_down:
                died = worker.died(guarded.settings.root, "", guarded.is_down)
                text = f"the guard of {guarded.settings.root} is back"
                self._emit(Report(died.code, died.severity, died.subject, text, clears=True))
                guarded.is_down = ""
            self._ready(guarded.settings, value)
        elif not guarded.is_down:
            assert isinstance(value, RuchuError)
            raise value

    def _bury(self, guarded: _Guarded, why: str, code: str) -> None:
        self._close(guarded)
        if not guarded.is_down:
            guarded.is_down = code
            self._emit(worker.died(guarded.settings.root, why, code))
        guarded.start_at = self._clock.monotonic() + guarded.pause_s
        guarded.pause_s = min(2 * guarded.pause_s, _RESTART_MAX_S)

    def _close(self, guarded: _Guarded) -> None:
        for each in guarded.ours:
            each.close()
        guarded.ours = []
        guarded.process = None

    def _stop(self) -> None:
        """Ask all guards to end, and see to it that they do."""
        for guarded in self._guarded:
            if guarded.process is not None and guarded.orders is not None:
                guarded.orders.close()
        for guarded in self._guarded:
            if guarded.process is None:
                continue
            guarded.process.join(_END_LIMIT_S)
            if guarded.process.is_alive():
                guarded.process.kill()
                guarded.process.join()
            with contextlib.suppress(RuchuError):
                self._listen(guarded)
            self._close(guarded)
