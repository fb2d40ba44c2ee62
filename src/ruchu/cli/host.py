"""`ruchu doctor` and `ruchu selftest`: what this host can do, and whether it does it."""

from pathlib import Path
from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json


def doctor(
    path: Annotated[
        Path | None, typer.Option("--path", help="Try the immutable flag in this directory.")
    ] = None,
    json: Json = False,
) -> None:
    """Say what this host has and lacks."""
    from ruchu.operations import host_checks

    found = host_checks.all_checks(path)
    if json:
        output.document([check.fields() for check in found])
    else:
        rows = ((check.name, check.state, check.detail) for check in found)
        output.table(("what", "state", "detail"), rows)


def selftest(
    context: typer.Context,
    path: Annotated[Path, typer.Argument(help="Directory to work in; it is cleaned up.")],
    json: Json = False,
) -> None:
    """Back up, damage, restore and merge random images below a directory."""
    from ruchu.operations import selftest as service

    here = session.of(context)
    with here.cancellation.polled():
        found = service.run(path, here.cancellation)
    if json:
        output.document([step.fields() for step in found])
    else:
        rows = ((s.name, "ok" if s.ok else "FAILED", f"{s.seconds:.2f} s", s.detail) for s in found)
        output.table(("step", "result", "took", "detail"), rows)
    if not all(step.ok for step in found):
        raise typer.Exit(1)
