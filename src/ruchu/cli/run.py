"""`ruchu run`: a point runs on this host, in QEMU."""

import json as documents
from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, Point, size_of
from ruchu.errors import UsageError


def run(
    context: typer.Context,
    point: Point,
    console: Annotated[
        str, typer.Option("--console", help="serial (this terminal), vnc (a socket), or none.")
    ] = "",
    vcpus: Annotated[int | None, typer.Option("--vcpus", min=1)] = None,
    memory: Annotated[str | None, typer.Option("--memory", help="Such as 4GiB.")] = None,
    network: Annotated[
        str, typer.Option("--network", help="none, or user: out, never in.")
    ] = "none",
    cache: Annotated[
        Path | None, typer.Option("--cache", help="Directory that keeps what it writes.")
    ] = None,
    accelerator: Annotated[
        str, typer.Option("--accelerator", help="auto, kvm, or tcg (slow, runs everywhere).")
    ] = "auto",
    json: Json = False,
) -> None:
    """Run a point on this host, without a hypervisor; what it writes is forgotten at its end."""
    from ruchu.operations import runs
    from ruchu.recovery import local_run
    from ruchu.recovery.local_machine import Wish

    if accelerator not in {"auto", "kvm", "tcg"}:
        raise UsageError(f"(--accelerator {accelerator!r})", hint="auto, kvm or tcg.")
    kvm = local_run.kvm_is_usable() if accelerator == "auto" else accelerator == "kvm"
    console = console or ("serial" if session.can_ask() and not json else "none")
    wish = Wish(vcpus, size_of(memory) if memory else None, console, network, kvm)
    here = session.of(context)

    def ready(answer: dict[str, Any]) -> None:
        if json:
            output.line(documents.dumps(answer))
        else:
            how = "KVM" if answer["kvm"] else "TCG (no KVM: slow)"
            end = "Ctrl-A X ends it" if console == "serial" else "Ctrl-C ends it"
            output.note(f"point {answer['point'][:8]} runs with {how}; {end}")
            output.note(f"console: {answer['console']}, guest agent: {answer['agent']}")

    with here.cancellation.polled():
        status = runs.run(here.storages, point, wish, cache, ready, here.cancellation)
    if status:
        raise typer.Exit(1)
