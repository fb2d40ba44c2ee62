"""Ctrl-C and SIGTERM: a copy is told to end and cleans up, anything else is interrupted."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType

EXIT_STATUS = 130
_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


class Cancellation:
    """Whether somebody wants this process to end."""

    def __init__(self) -> None:
        self.requested = False
        self._polled = False

    def __call__(self) -> bool:
        """Tell whether to end; what copies ask before each piece."""
        return self.requested

    def install(self) -> None:
        """Take the signals over."""
        for number in _SIGNALS:
            signal.signal(number, self._on_signal)

    @contextlib.contextmanager
    def polled(self) -> Iterator["Cancellation"]:
        """Within, the one who works asks; a second signal interrupts all the same."""
        self._polled = True
        try:
            yield self
        finally:
            self._polled = False

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        del number, frame
        again, self.requested = self.requested, True
        if again or not self._polled:
            raise KeyboardInterrupt


CANCELLATION = Cancellation()
