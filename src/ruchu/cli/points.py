"""`ruchu points`: what can be restored."""

import datetime
from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Full, Grace, Json, Point, Sampled, group
from ruchu.cli.reports import tell, verifying
from ruchu.errors import UsageError
from ruchu.units import format_size, parse_duration

app = group("Points: what can be restored.")


@app.command("list")
def list_points(
    context: typer.Context,
    storage: Annotated[str | None, typer.Option("--storage", help="Of this one only.")] = None,
    json: Json = False,
) -> None:
    """List the points of one storage, or of all."""
    from ruchu.operations import points

    listing = points.list_points(session.of(context).storages, storage)
    if json:
        output.document(listing.points)
    else:
        rows = [
            (
                each["point"][:8],
                each["time"][:19].replace("T", " "),
                each["kind"],
                each["name"],
                each["storage"],
                format_size(sum(disk["size"] for disk in each["disks"])),
                format_size(each["bytes_stored"] or 0),
                " ".join(filter(None, ("star" if each["starred"] else "", _lock(each)))),
            )
            for each in listing.points
        ]
        heading = ("point", "time (UTC)", "kind", "name", "storage", "size", "stored", "marks")
        output.table(heading, rows)
    for problem in listing.problems:
        output.error(problem)
    if listing.problems:
        output.note("The list is not complete.")
        raise typer.Exit(listing.problems[0].exit_status)


def _lock(point: dict[str, str]) -> str:
    return f"locked until {point['locked_until'][:10]}" if point["locked_until"] else ""


@app.command()
def show(context: typer.Context, point: Point, json: Json = False) -> None:
    """Show everything that a point says of itself."""
    from ruchu.operations import points

    facts = points.show(session.of(context).storages, point)
    if json:
        output.document(facts)
        return
    for key, value in facts.items():
        if key == "disks":
            for disk in value:
                output.line(f"disk {disk['number']}: {disk['name']}, {format_size(disk['size'])}")
        elif key == "facts":
            for fact, content in value.items():
                output.line(f"  {fact}: {content}")
        else:
            output.line(f"{key}: {value}")


@app.command()
def star(
    context: typer.Context,
    point: Point,
    remove: Annotated[bool, typer.Option("--remove", help="Take the star away.")] = False,
    json: Json = False,
) -> None:
    """Star a point: no retention removes it."""
    from ruchu.operations import points

    found = points.star(session.of(context).storages, point, remove=remove)
    if json:
        output.document({"point": found.head.point, "starred": not remove})
    else:
        output.line(f"{found.head.point[:8]}: {'no star any more' if remove else 'starred'}")


@app.command()
def lock(
    context: typer.Context,
    point: Point,
    until: Annotated[str, typer.Argument(help="Date (2027-01-31, UTC) or duration (30d).")],
    json: Json = False,
) -> None:
    """Lock a point: nobody removes it before that moment. A lock cannot be shortened."""
    from ruchu.clock import SYSTEM, to_text
    from ruchu.operations import points

    moment = _moment(until, SYSTEM.now())
    found, done = points.lock(session.of(context).storages, point, moment)
    if json:
        until = to_text(moment)
        enforced = {"enforced": done.enforced, "reason": done.reason}
        output.document({"point": found.head.point, "locked_until": until, **enforced})
    else:
        output.line(f"{found.head.point[:8]}: locked until {moment:%Y-%m-%d %H:%M:%S} UTC")
    if not done.enforced:
        output.note(f"note: Ruchu alone keeps this lock; the file system does not ({done.reason})")


def _moment(text: str, now: datetime.datetime) -> datetime.datetime:
    try:
        moment = now + datetime.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        try:
            moment = datetime.datetime.fromisoformat(text)
        except ValueError:
            raise UsageError(f"({text!r} is neither a date nor a duration)") from None
    if moment.tzinfo is None:
        moment = moment.replace(tzinfo=datetime.UTC)
    # A lock has whole seconds; rounded up, it never ends early.
    return (moment + datetime.timedelta(microseconds=999_999)).replace(microsecond=0)


def grace_of(text: str) -> datetime.timedelta:
    """Return the grace period that a text means.

    Raises:
        UsageError: it is no duration.
    """
    try:
        return datetime.timedelta(seconds=parse_duration(text))
    except (ValueError, OverflowError):
        raise UsageError(f"({text!r} is no duration)", hint="Such as 0d, 12h, 7d.") from None


@app.command()
def delete(
    context: typer.Context,
    points: Annotated[list[str], typer.Argument(metavar="POINT...", help="Points to delete.")],
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    grace: Grace = "1d",
    json: Json = False,
) -> None:
    """Delete points. Their space is free after the grace period; other points stay whole."""
    from ruchu.operations import points as service

    period = grace_of(grace)
    if not yes and not (session.can_ask() and typer.confirm("Delete?", err=True)):
        raise UsageError("(nothing was deleted)", hint="Say --yes.")
    done = service.delete(session.of(context).storages, points, period)
    if json:
        output.document(done)
        return
    for each in done:
        names = ", ".join(point[:8] for point in each["points"])
        freed = format_size(each["bytes_freed"])
        trashed = format_size(each["bytes_trashed"])
        output.line(f"deleted {names}; {freed} freed, {trashed} to be freed in {grace}")


@app.command()
def verify(
    context: typer.Context,
    point: Point,
    full: Full = False,
    sampled: Sampled = None,
    json: Json = False,
) -> None:
    """Verify a point: structure; with --sampled or --full, its data too."""
    from ruchu.operations import verification

    request = verification.request_of(sampled, full=full)
    here = session.of(context)
    with verifying(here) as watch:
        report = verification.verify_point(here.storages, point, request, watch)
    tell(report, json=json)


@app.command()
def diff(
    context: typer.Context,
    one: Point,
    other: Annotated[str, typer.Argument(help="The other point, of the same chain.")],
    json: Json = False,
) -> None:
    """Show where the disks of two points differ, from their maps."""
    from ruchu.operations import points

    found = points.diff(session.of(context).storages, one, other)
    if json:
        output.document(found)
        return
    for disk in found["disks"]:
        count = len(disk["extents"])
        output.line(f"{disk['name']}: {format_size(disk['bytes'])} in {count} extents")
        for start, length in disk["extents"]:
            output.line(f"  {start} {length}")
