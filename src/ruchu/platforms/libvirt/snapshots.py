"""Opens points of several machines: one after the other, at the same time, or behind a barrier.

    serial    prepare, freeze, begin, thaw of one machine, then of the next
    parallel  the same in one thread for each machine
    barrier   prepare all; freeze all; begin all; thaw all

A machine that fails is left out; the others go on. Whatever was frozen is thawed.
"""

import contextlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from ruchu.errors import UsageError
from ruchu.model.sources import SnapshotOrder
from ruchu.platforms.contract import SourcePoint
from ruchu.platforms.libvirt.capture import Capture

# Threads only wait for libvirt; more machines than this wait for each other.
THREADS_MAX = 32

T = TypeVar("T")
Prepared = Capture | BaseException
Opened = SourcePoint | BaseException


@contextlib.contextmanager
def opened(
    prepared: Sequence[Prepared], order: str, created: Callable[[SourcePoint, Capture], None]
) -> Iterator[list[Opened]]:
    """Open points; on exit everything is ended again.

    Args:
        prepared: a capture for each machine, or why there is none.
        order: `serial`, `parallel` or `barrier`.
        created: told which capture a point belongs to.

    Raises:
        UsageError: an unknown order.
    """
    try:
        chosen = SnapshotOrder(order)
    except ValueError as error:
        raise UsageError(f"order {order!r}: serial, parallel or barrier") from error
    captures = [one for one in prepared if not isinstance(one, BaseException)]
    with contextlib.ExitStack() as stack:
        for capture in captures:
            stack.callback(capture.close)
        failed = _take(captures, chosen)
        results: list[Opened] = []
        for one in prepared:
            if isinstance(one, BaseException):
                results.append(one)
            elif one in failed:
                results.append(failed[one])
            else:
                point = _attempt(one.connect)
                if isinstance(point, SourcePoint):
                    created(point, one)
                results.append(point)
        yield results


Failures = dict[Capture, BaseException]


def _take(captures: Sequence[Capture], order: SnapshotOrder) -> Failures:
    if order is SnapshotOrder.BARRIER:
        return _take_behind_barrier(captures)
    threads = 1 if order is SnapshotOrder.SERIAL else THREADS_MAX
    return _for_all(captures, _take_one, threads)


def _take_one(capture: Capture) -> None:
    capture.prepare()
    try:
        capture.freeze()
        capture.begin()
    finally:
        capture.thaw()


def _take_behind_barrier(captures: Sequence[Capture]) -> Failures:
    failed = _for_all(captures, lambda one: one.prepare())
    try:
        failed |= _for_all(_rest(captures, failed), lambda one: one.freeze())
        failed |= _for_all(_rest(captures, failed), lambda one: one.begin())
    finally:
        # Also those that failed: a freeze may have been done in part.
        unthawed = _for_all(captures, lambda one: one.thaw())
    return unthawed | failed


def _rest(captures: Sequence[Capture], failed: Failures) -> list[Capture]:
    return [capture for capture in captures if capture not in failed]


def _for_all(
    captures: Sequence[Capture], step: Callable[[Capture], None], threads: int = THREADS_MAX
) -> Failures:
    """Do one step for all machines at the same time; return what failed."""
    if not captures:
        return {}
    if threads == 1:
        outcomes = [_attempt(step, capture) for capture in captures]
    else:
        with ThreadPoolExecutor(min(threads, len(captures))) as pool:
            outcomes = list(pool.map(lambda one: _attempt(step, one), captures))
    return {
        capture: outcome
        for capture, outcome in zip(captures, outcomes, strict=True)
        if isinstance(outcome, BaseException)
    }


def _attempt(step: Callable[..., T], *args: Capture) -> T | Exception:
    """Return what a step returns, or raises: one machine must not stop the others."""
    try:
        return step(*args)
    except Exception as error:  # noqa: BLE001 - handed to the caller in the machine's place
        return error
