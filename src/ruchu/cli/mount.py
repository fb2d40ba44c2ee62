"""`ruchu mount`: a point as a directory: its disks as files, its file systems as trees."""

import json as documents
from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, Point, size_of


def mount(
    context: typer.Context,
    point: Point,
    directory: Annotated[Path, typer.Argument(help="An empty directory.")],
    disk: Annotated[
        list[str] | None,
        typer.Option("--disk", help="Number or name; may be repeated; else all of them."),
    ] = None,
    allow_other: Annotated[
        bool, typer.Option("--allow-other", help="Other users may look, as the modes allow.")
    ] = False,
    memory: Annotated[
        str, typer.Option("--memory", help="For decoded blocks, such as 256MiB.")
    ] = "256MiB",
    json: Json = False,
) -> None:
    """Mount a point read-only (FUSE) until Ctrl-C or `fusermount3 -u DIRECTORY`."""
    from ruchu.operations import exports, mounts

    def ready(answer: dict[str, Any]) -> None:
        if json:
            output.line(documents.dumps(answer))
            return
        for name, why in answer["problems"].items():
            output.note(f"note: {name}: {why}")
        shown = [*answer["disks"], *(f"volumes/{name}" for name in answer["volumes"])]
        output.note(f"{directory}: {', '.join(shown)}")

    here = session.of(context)
    request = exports.Request(point, tuple(disk or ()), None, size_of(memory), None)
    with here.cancellation.polled():
        mounts.mount(
            here.storages, request, directory, ready, here.cancellation, allow_other=allow_other
        )
