"""`ruchu node`: carry out the work of a server on this host."""

import json as jsons
import random
import signal
from pathlib import Path
from typing import Annotated

import typer

from ruchu import process
from ruchu.cli import output

COMMANDS = Path("/etc/ruchu/commands")


def node(
    state: Annotated[Path, typer.Option("--state", help="Directory of this node.")] = Path(
        "/var/lib/ruchu/node"
    ),
    join: Annotated[
        str, typer.Option("--join", metavar="TOKEN_URL", help="Enrol with this token first.")
    ] = "",
    programs: Annotated[
        Path, typer.Option("--commands", help="Programs that policies may run on this node.")
    ] = COMMANDS,
    guard: Annotated[
        bool, typer.Option("--guard", help="Let only Ruchu change storages in directories.")
    ] = False,
) -> None:
    """Run until SIGTERM; prints one JSON line when it begins, then what happens."""
    from ruchu.clock import SYSTEM
    from ruchu.nodes import node as nodes
    from ruchu.nodes.identity import Layout
    from ruchu.nodes.node import Node, Settings

    state.mkdir(mode=0o700, parents=True, exist_ok=True)
    with process.only_one(Layout(state).lock):
        if join:
            nodes.join(join, state, SYSTEM)
        folder = programs if programs.is_dir() else None
        settings = Settings(state, folder, output.note, guard=guard)
        worker = Node(settings, SYSTEM, random.SystemRandom())
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: worker.stop())
        output.line(jsons.dumps({"node": worker.id, "state": str(state)}))
        worker.run()
