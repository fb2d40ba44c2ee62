"""A call to somebody outside, as long as all is well: if it stays away, they raise the alarm."""

import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Self
from urllib.parse import urlsplit

from ruchu.clock import Clock
from ruchu.control.alarms.channels.http import Http, Request
from ruchu.control.alarms.contract import Alarms
from ruchu.errors import ChannelFailed, UsageError
from ruchu.model.tasks import Severity

CODE = "heartbeat-failed"
# Services of this kind count in minutes; a day is no heartbeat any more.
EVERY_MIN_S, EVERY_MAX_S = 10.0, 86_400.0
# A call that fails once is no news: the services allow for some grace.
ALARM_AFTER = 3

Healthy = Callable[[], Sequence[str]]
"""Returns why the server is not well; empty if it is."""


class Heartbeat:
    """Calls an address every so often. A context manager: within it a thread runs.

    Attributes:
        reasons: why the last call was left out; empty if it was made.
    """

    def __init__(
        self, url: str, every_s: float, healthy: Healthy, alarms: Alarms, http: Http
    ) -> None:
        """Look at the settings.

        Raises:
            UsageError: the address or the interval is none.
        """
        parts = urlsplit(url)
        if parts.scheme not in {"http", "https"} or not parts.hostname:
            raise UsageError("(the heartbeat address)", hint="https://HOST/PATH")
        if not EVERY_MIN_S <= every_s <= EVERY_MAX_S:
            raise UsageError(f"(a heartbeat every {every_s} s)")
        # The path is as good as a password: whoever has it can keep the alarm from being raised.
        self.name = parts.hostname
        self.reasons: Sequence[str] = ()
        self._url, self._every_s = url, every_s
        self._healthy, self._alarms, self._http = healthy, alarms, http
        self._failures = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def beat(self) -> bool:
        """Call if the server is well; tell whether the call was made and answered."""
        try:
            self.reasons = list(self._healthy())
        except Exception as error:  # noqa: BLE001 - whatever it is, that is not healthy
            self.reasons = [f"{type(error).__name__}: {error}"]
        if self.reasons:
            return False
        try:
            self._http.send(Request("GET", self._url))
        except ChannelFailed as error:
            self._failures += 1
            if self._failures >= ALARM_AFTER:
                text = str(error).replace(self._url, self.name)
                self._alarms.raise_alarm(CODE, Severity.WARNING, self.name, text)
            return False
        self._failures = 0
        self._alarms.clear(CODE, self.name)
        return True

    def _run(self) -> None:
        while not self._stopping.is_set():
            try:
                self.beat()
            except Exception as error:  # noqa: BLE001 - the edge of the thread; the silence tells
                self.reasons = [f"{type(error).__name__}: {error}"]
            self._stopping.wait(self._every_s)


def http_for(clock: Clock, ca_file: str | None = None) -> Http:
    """Return what a heartbeat calls with."""
    return Http(clock, ca_file=ca_file)
