"""`ruchu retention`: which points stay."""

from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Grace, Json, StorageOption, group
from ruchu.cli.points import grace_of
from ruchu.units import format_size

app = group("Retention: which points stay.")


def _count(flag: str, text: str) -> object:
    return typer.Option(flag, min=0, metavar="N", help=text)


@app.command()
def apply(
    context: typer.Context,
    storage: StorageOption,
    name: Annotated[str | None, typer.Option("--name", help="Of this object only.")] = None,
    keep_last: Annotated[int, _count("--keep-last", "The newest N points.")] = 0,
    keep_days: Annotated[int, _count("--keep-days", "Points of the last N days.")] = 0,
    keep_chains: Annotated[
        int, _count("--keep-chains", "The newest N fulls and what follows.")
    ] = 0,
    hourly: Annotated[int, _count("--hourly", "The last of each of N hours.")] = 0,
    daily: Annotated[int, _count("--daily", "The last of each of N days.")] = 0,
    weekly: Annotated[int, _count("--weekly", "The last of each of N weeks.")] = 0,
    monthly: Annotated[int, _count("--monthly", "The last of each of N months.")] = 0,
    yearly: Annotated[int, _count("--yearly", "The last of each of N years.")] = 0,
    grace: Grace = "1d",
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Say what would be done.")] = False,
    json: Json = False,
) -> None:
    """Remove the points that no rule wants. The newest, starred and locked ones stay."""
    from ruchu.operations import retentions
    from ruchu.protection.retention import Policy

    policy = Policy(
        keep_last, keep_days, keep_chains, hourly, daily, weekly, monthly, yearly, zone=None
    )
    done = retentions.apply(
        session.of(context).storages, storage, name, policy, grace_of(grace), dry_run=dry_run
    )
    if json:
        output.document(done)
        return
    for each in done:
        for point, reasons in each["keep"].items():
            output.line(f"{each['name']}: keep   {point[:8]}  {', '.join(reasons)}")
        for point in each["remove"]:
            output.line(f"{each['name']}: remove {point[:8]}")
        freed = format_size(each["bytes_freed"])
        output.line(f"{each['name']}: {freed} freed{' (nothing was done)' if dry_run else ''}")
