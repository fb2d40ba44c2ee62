"""Connections of a loop that end: in good manners if possible, and in any case."""

import asyncio
import contextlib
import socket
from collections.abc import Coroutine, Iterable
from typing import Any, Final

_CLOSE_LIMIT_S: Final = 5.0
_CLOSE_POLL_S: Final = 0.005


async def politely(work: Coroutine[Any, Any, object], limit_s: float) -> None:
    """Try to close in good manners; whoever calls closes in any case."""
    try:
        async with asyncio.timeout(limit_s):
            await work
    except (OSError, TimeoutError):
        pass
    except asyncio.CancelledError:
        # A send that was cancelled leaves behind what cancels the next one: an error of the
        # library, and not a wish of anybody's.
        if is_wanted():
            raise


def is_wanted() -> bool:
    """Tell whether a `CancelledError` in this task comes from who cancelled this task."""
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def all_closed(sockets: Iterable[socket.socket]) -> None:
    """Wait until the loop has closed sockets that it was handed, or close them."""
    waiting = list(sockets)
    for each in waiting:
        with contextlib.suppress(OSError):
            each.shutdown(socket.SHUT_RDWR)
    for _ in range(round(_CLOSE_LIMIT_S / _CLOSE_POLL_S)):
        waiting = [each for each in waiting if each.fileno() >= 0]
        if not waiting:
            return
        await asyncio.sleep(_CLOSE_POLL_S)
    for each in waiting:
        each.close()
