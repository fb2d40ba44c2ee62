"""Points that run on this host, in QEMU."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from ruchu.clock import SYSTEM, since_start
from ruchu.operations import points
from ruchu.operations.storages import Storages
from ruchu.recovery import local_run
from ruchu.recovery.local_machine import Wish

Ready = Callable[[dict[str, Any]], None]


def run(
    storages: Storages,
    prefix: str,
    wish: Wish,
    cache: Path | None,
    ready: Ready,
    cancelled: Callable[[], bool],
) -> int:
    """Run a machine of a point until it ends; return QEMU's exit status."""
    found = points.find(storages, prefix)
    terminal = wish.console == "serial"
    with local_run.running(found.chain, found.head, wish, cache, terminal=terminal) as machine:
        directory = machine.directory
        ready(
            {
                "point": found.head.point,
                "pid": machine.process.pid,
                "seconds": round(since_start(), 3),
                "kvm": wish.kvm,
                "qmp": str(directory / "qmp.sock"),
                "agent": str(directory / "agent.sock"),
                "console": {
                    "none": str(directory / "console.log"),
                    "vnc": str(directory / "vnc.sock"),
                    "serial": "terminal",
                }[wish.console],
            }
        )
        return machine.wait(SYSTEM, cancelled)
