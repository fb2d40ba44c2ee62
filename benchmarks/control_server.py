"""`ruchu server` on a clock that runs faster: for `benchmarks.control`, and for nobody else.

What the server waits for by real seconds is divided by the speed, so that in a simulated second it
does what it does in a second. The lateness of every start is written down, in simulated seconds.
"""

import argparse
import sys
from pathlib import Path

from ruchu.api import serving
from ruchu.api.serving import Face
from ruchu.control.jobs import attempts, starter
from ruchu.control.nodes import dispatch, intake, watching
from ruchu.control.schedules import scheduler
from ruchu.control.schedules.lateness import Lateness
from ruchu.control.server import housekeeping
from ruchu.control.server.plane import Settings
from ruchu.testing.simulated_nodes import ScaledClock
from ruchu.wire.calling import Address

_PACES = [
    (scheduler, "LOOK_S"), (starter, "ROUND_S"), (dispatch, "ROUND_S"), (watching, "ROUND_S"),
    (attempts, "ROUND_S"), (housekeeping, "ROUND_S"), (starter, "GATHER_S"),
    (dispatch, "GATHER_S"), (intake, "EVENTS_S"), (intake, "ENDING_S"),
]  # fmt: skip


class Recorded(Lateness):
    """Writes down each figure."""

    file = None

    def add(self, late_s):
        super().add(late_s)
        print(late_s, file=self.file, flush=True)


def main():
    parser = argparse.ArgumentParser(prog="python -m benchmarks.control_server")
    parser.add_argument("--state", type=Path, required=True)
    parser.add_argument("--speed", type=float, required=True)
    parser.add_argument("--origin", type=float, required=True)
    parser.add_argument("--start", type=float, required=True)
    parser.add_argument("--lateness", type=Path, required=True)
    parser.add_argument("--database", default="")
    options = parser.parse_args()
    for module, name in _PACES:
        setattr(module, name, getattr(module, name) / options.speed)
    anywhere = Address("127.0.0.1", 0)
    settings = Settings(
        options.state, anywhere, ("127.0.0.1",), options.database, embedded=False, tell=note
    )
    with options.lateness.open("w") as Recorded.file:
        scheduler.Lateness = Recorded
        clock = ScaledClock(options.speed, options.origin, options.start)
        serving.serve(settings, Face(anywhere), clock, (line, note))


def line(text):
    print(text, flush=True)


def note(text):
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
