"""A process with simulated nodes, for `benchmarks.control`: told by a document on standard input.

It prints a line when all are enrolled, and ends when standard input does.
"""

import contextlib
import json
import random
import sys
from pathlib import Path

from ruchu.control.nodes.states import HEARTBEAT_S
from ruchu.testing import simulated_nodes
from ruchu.testing.simulated_nodes import Beats, Park, ScaledClock, SimulatedNode, Stage


def main():
    wanted = json.loads(sys.stdin.readline())
    clock = ScaledClock(wanted["speed"], wanted["origin"], wanted["start"])
    rng = random.Random(wanted["seed"])
    home = Path(wanted["home"])
    with contextlib.ExitStack() as stack:
        stage = stack.enter_context(Stage(Park(wanted["machines"], rng), clock, rng))
        nodes = []
        for number, url in enumerate(wanted["urls"]):
            path = home / f"{number}" / "identity.json"
            simulated_nodes.enrol(url, path, {"host": f"simulated-{number}"})
            node = SimulatedNode(path, stage, tuple(wanted["backup_s"]))
            nodes.append(stack.enter_context(node))
        stack.enter_context(Beats(nodes, clock, HEARTBEAT_S))
        print("enrolled", flush=True)
        sys.stdin.readline()


if __name__ == "__main__":
    main()
