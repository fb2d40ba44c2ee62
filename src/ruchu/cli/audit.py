"""`ruchu audit`: whether the audit trail of a server is what was written."""

from pathlib import Path
from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, group

app = group("Audit: whether the trail of a server is what was written.")

# Where `ruchu server` keeps its database unless it is given another.
_DATABASE_NAME = "ruchu.db"


@app.command()
def verify(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option("--state", help="Directory of the state of the server.")
    ] = None,
    database: Annotated[
        str | None, typer.Option("--database", help="Address of its database, if not in there.")
    ] = None,
    json: Json = False,
) -> None:
    """Walk the whole chain of records, and compare it with its anchors."""
    from ruchu.control.audit import verifying
    from ruchu.control.audit.anchors import FILE_NAME, AnchorFile
    from ruchu.control.database.database import Database, sqlite_url
    from ruchu.errors import AuditBroken, NotFound

    directory = state if state is not None else session.of(context).directory
    path = directory / _DATABASE_NAME
    if database is None and not path.is_file():
        hint = "Give the --state of `ruchu server`, or the --database it was given."
        raise NotFound(f"(no database of a server in {directory})", hint=hint)
    anchors = AnchorFile(directory / FILE_NAME)
    with Database(database if database is not None else sqlite_url(path)) as opened:
        verdict = verifying.verify(opened, anchors)
    guarded = anchors.is_append_only()
    if json:
        output.document({**verdict.document(), "anchors_append_only": guarded})
    elif verdict.whole:
        output.line(f"{verdict.records} records are whole; {verdict.anchors} anchors agree")
        output.line(f"newest: {verdict.number} {verdict.hash}")
    if not guarded:
        output.note(f"note: {anchors.path} is not append-only; keep copies of it elsewhere")
    if not verdict.whole:
        output.error(AuditBroken(verdict.reason))
        raise typer.Exit(AuditBroken.exit_status)
