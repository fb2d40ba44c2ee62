"""`ruchu plan`, `apply` and `drift`: definitions of a server in a file."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.definitions import tell_fields
from ruchu.cli.options import Json
from ruchu.cli.remote import connected
from ruchu.errors import UsageError

# As terraform does: 0 nothing to do, 1 an error, 2 there is something.
SOMETHING = 2
File = Annotated[Path, typer.Argument(help="YAML: see the manual on policies as code.")]
DetailedExitCode = Annotated[
    bool, typer.Option("--detailed-exitcode", help="Status 2 if there is something, 0 if not.")
]
_SIGNS = {"create": "+", "change": "~", "remove": "-", "release": "="}


def plan(
    context: typer.Context,
    file: File,
    detailed_exitcode: DetailedExitCode = False,
    json: Json = False,
) -> None:
    """Say what a file would change on a server; nothing is changed."""
    body = read(file)
    with connected(context) as client:
        found = client.post("/plans", body)
    if json:
        output.document(found)
    else:
        _tell(found["changes"], "Nothing to do: the server is as the file says.")
        _tell_drift(found["drift"])
    if detailed_exitcode and found["changes"]:
        raise typer.Exit(SOMETHING)


def apply(
    context: typer.Context,
    file: File,
    digest: Annotated[
        str, typer.Option("--plan", metavar="DIGEST", help="Only this plan; see plan --json.")
    ] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do not ask.")] = False,
    json: Json = False,
) -> None:
    """Make a server as a file says: exactly the plan that is shown, all of it or nothing."""
    from ruchu.control.sites import client as api

    body = read(file)
    with connected(context, api.LONG_LIMIT_S) as client:
        found = client.post("/plans", body)
        if not json:
            _tell(found["changes"], "Nothing to do: the server is as the file says.")
        wanted = digest or found["digest"]
        sure = yes or digest or not found["changes"]
        if not sure and not (session.can_ask() and typer.confirm("Apply?", err=True)):
            raise UsageError("(nothing was changed)", hint="Say --yes, or --plan DIGEST.")
        done = client.post("/plans/apply", {**body, "digest": wanted})
    if json:
        output.document(done)
    elif done["changes"]:
        output.line(f"applied: {len(done['changes'])} changes")


def drift(
    context: typer.Context,
    file: File,
    detailed_exitcode: DetailedExitCode = False,
    json: Json = False,
) -> None:
    """Say what was changed by hand since a file was applied."""
    body = read(file)
    with connected(context) as client:
        found = client.post("/plans", body)["drift"]
    if json:
        output.document(found)
    else:
        _tell(found, "Nothing was changed by hand.")
    if detailed_exitcode and found:
        raise typer.Exit(SOMETHING)


def read(path: Path) -> dict[str, Any]:
    """Return what a file defines, with the secrets that it names, as the API takes it.

    Raises:
        UsageError: it is no such file, or a secret is not where it should be.
    """
    from ruchu.control.definitions import yaml_files

    def secret(name: Path) -> bytes:
        with (path.parent / name).open("rb") as file:
            return file.read(yaml_files.SECRET_BYTES_MAX + 1)

    try:
        with path.open("rb") as file:
            text = file.read(yaml_files.BYTES_MAX + 1).decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"({path}: {error})") from None
    document, secrets = yaml_files.parted(yaml_files.load(text), os.environ, secret)
    return {"document": document, "secrets": secrets}


def _tell(changes: list[dict[str, Any]], nothing: str) -> None:
    if not changes:
        output.line(nothing)
    for change in changes:
        sign = _SIGNS[change["action"]]
        output.line(f"{sign} {change['action']} {change['kind']} {change['name']}")
        tell_fields(change["fields"])


def _tell_drift(changes: list[dict[str, Any]]) -> None:
    for change in changes:
        fields = ", ".join(each["field"] for each in change["fields"]) or "removed"
        output.note(f"note: by hand: {change['kind']} {change['name']}: {fields}")
