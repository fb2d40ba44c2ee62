"""What an opened point hands out at the moment: each by a handle that nobody can guess."""

import base64
import secrets
import threading
from dataclasses import dataclass, field
from typing import Any

from ruchu.clock import Clock
from ruchu.errors import NotFound, TooMany
from ruchu.operations.point_transfers import Transfer

HANDLES_MAX = 8
"""Each may hold a few megabytes, and a thread."""
IDLE_S = 120.0
"""Who asks for no part for so long is gone: a browser that stalls is cut off sooner."""


@dataclass(slots=True)
class _Handle:
    transfer: Transfer
    used: float
    lock: threading.Lock = field(default_factory=threading.Lock)


class Handles:
    """The transfers of one point. Safe in several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._handles: dict[str, _Handle] = {}

    def add(self, transfer: Transfer) -> str:
        """Return the handle of a transfer.

        Raises:
            TooMany: there are too many; the transfer was closed.
        """
        self.expire()
        with self._lock:
            if len(self._handles) < HANDLES_MAX:
                handle = secrets.token_hex(16)
                self._handles[handle] = _Handle(transfer, self._clock.monotonic())
                return handle
        transfer.close()
        raise TooMany(f"({HANDLES_MAX} downloads of this point are under way)")

    def read(self, handle: str, offset: int, length: int) -> dict[str, Any]:
        """Return a part: `content` (base64), or `zeros` (how many), and whether it is the `end`.

        Raises:
            NotFound: there is no such handle any more.
            RuchuError: it cannot be read; the handle is gone.
        """
        with self._lock:
            found = self._handles.get(handle)
        if found is None:
            raise NotFound("(what was handed out is no longer there)", hint="Fetch it again.")
        with found.lock:
            found.used = self._clock.monotonic()
            try:
                part = found.transfer.read(offset, length)
            except BaseException:
                self.close(handle)
                raise
            found.used = self._clock.monotonic()
        end = len(part) < length or found.transfer.size == offset + len(part)
        if part and part.count(0) == len(part):
            return {"zeros": len(part), "end": end}
        return {"content": base64.b64encode(part).decode(), "end": end}

    def close(self, handle: str) -> None:
        """Forget a handle; it need not be there."""
        with self._lock:
            found = self._handles.pop(handle, None)
        if found is not None:
            found.transfer.close()

    def expire(self) -> None:
        """Close what nobody reads any more."""
        limit = self._clock.monotonic() - IDLE_S
        with self._lock:
            late = [handle for handle, each in self._handles.items() if each.used < limit]
        for handle in late:
            self.close(handle)

    def close_all(self) -> None:
        """Close everything."""
        for handle in list(self._handles):
            self.close(handle)
