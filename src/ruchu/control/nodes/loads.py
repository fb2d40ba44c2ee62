"""How busy the server and its nodes were over the last minutes; kept in memory only."""

import threading
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ruchu.clock import Clock, to_text
from ruchu.control.nodes.states import HEARTBEAT_S
from ruchu.host import LoadMeter

# What a chart of the last minutes shows: ten of them, at the pace of heartbeats.
KEPT = 60
# Nodes are a few dozen; what was revoked long ago must not stay for ever.
NODES_MAX = 1000
FIGURES = ("cpu", "memory", "memory_used", "received", "sent", "read", "written", "rate")
_SERVER = ""


@dataclass(frozen=True, slots=True)
class Sample:
    """How busy a host was.

    Attributes:
        at: RFC 3339.
        figures: by the names in `FIGURES`, as `ruchu.host.LoadMeter` tells them; `rate`, of the
            server only, is how many bytes a second all runs move.
    """

    at: str
    figures: Mapping[str, float]


class Loads:
    """The newest samples of each host. Safe in several threads."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._samples: dict[str, deque[Sample]] = {}

    def heard(self, node: str, load: Mapping[str, Any]) -> None:
        """Take in what a node tells with a heartbeat; what is no figure is left out."""
        figures = {name: float(load[name]) for name in FIGURES if _is_figure(load.get(name))}
        if not figures:
            return
        sample = Sample(to_text(self._clock.now()), figures)
        with self._lock:
            while node not in self._samples and len(self._samples) >= NODES_MAX:
                del self._samples[next(iter(self._samples))]
            self._samples.setdefault(node, deque(maxlen=KEPT)).append(sample)

    def of_node(self, node: str) -> Sequence[Sample]:
        """Return the samples of a node, the oldest first."""
        with self._lock:
            return tuple(self._samples.get(node, ()))

    def of_server(self) -> Sequence[Sample]:
        """Return the samples of the host of the server, the oldest first."""
        return self.of_node(_SERVER)

    def saw_server(self, figures: Mapping[str, float]) -> None:
        """Take in how busy the host of the server is."""
        self.heard(_SERVER, figures)


def _is_figure(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 1e18


class LoadWatch:
    """A thread that looks at the host of the server, at the pace of heartbeats."""

    def __init__(
        self, loads: Loads, clock: Clock, rate: Callable[[], float], tell: Callable[[str], None]
    ) -> None:
        """Take what returns how many bytes a second all runs move, and who hears of failures."""
        self._loads = loads
        self._tell = tell
        self._rate = rate
        self._meter = LoadMeter(clock.monotonic)
        self._end = threading.Event()
        self._thread = threading.Thread(target=self._work, name="ruchu-load", daemon=True)

    def begin(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self) -> None:
        """Look no more."""
        self._end.set()
        self._thread.join()

    def _work(self) -> None:
        while not self._end.wait(HEARTBEAT_S):
            try:
                self._loads.saw_server({**self._meter.look(), "rate": self._rate()})
            except Exception as error:  # noqa: BLE001 - the edge of the thread: it is told
                self._tell(f"load: {error!r}")
