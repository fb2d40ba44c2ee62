"""`ruchu definitions`: everything that is defined on a server, as a file."""

import os
from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, PassphraseFile, group, pairs_of
from ruchu.cli.remote import connected
from ruchu.errors import UsageError

app = group("Definitions of a server: exported, imported.")
_FILE_BYTES_MAX = 4 << 20


@app.command("export")
def export_definitions(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="New file.")],
    passphrase_file: PassphraseFile = None,
    no_secrets: Annotated[
        bool, typer.Option("--no-secrets", help="Plain JSON, without any secret.")
    ] = False,
    passwords: Annotated[
        bool, typer.Option("--passwords", help="With hashes of passwords, and authenticators.")
    ] = False,
    json: Json = False,
) -> None:
    """Write all definitions of a server into a file that a passphrase seals (age)."""
    if no_secrets and passwords:
        raise UsageError("(--no-secrets and --passwords)")
    body: dict[str, Any] = {"secrets": not no_secrets, "passwords": passwords}
    if not no_secrets:
        body["passphrase"] = _passphrase(passphrase_file, again=True)
    with connected(context) as client:
        text = client.text("POST", "/definitions/export", body=body)
    _write_new(file, text.encode())
    if json:
        output.document({"file": str(file), "bytes": len(text.encode())})
    else:
        output.line(f"{file}: {len(text.encode())} bytes")
    if not no_secrets:
        output.note("Keep it apart from this server, and the passphrase apart from it.")


@app.command("import")
def import_definitions(
    context: typer.Context,
    file: Annotated[Path, typer.Argument(help="What an export wrote.")],
    passphrase_file: PassphraseFile = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Only say what would be done.")
    ] = False,
    replace: Annotated[
        bool, typer.Option("--replace", help="Make what differs like the file.")
    ] = False,
    location: Annotated[
        list[str] | None,
        typer.Option("--location", metavar="STORAGE=PLACE", help="Where a storage is now."),
    ] = None,
    no_points: Annotated[
        bool, typer.Option("--no-points", help="Do not read the points of the storages yet.")
    ] = False,
    json: Json = False,
) -> None:
    """Make what a file defines and a server lacks; what differs is told."""
    from ruchu.control.definitions import sealing
    from ruchu.control.sites import client as api

    text = _text(file)
    body: dict[str, Any] = {
        "file": text, "replace": replace, "dry_run": dry_run, "read": not no_points,
        "locations": pairs_of(location or []),
    }  # fmt: skip
    if text.lstrip().startswith(sealing.BEGIN):
        body["passphrase"] = _passphrase(passphrase_file, again=False)
    with connected(context, api.LONG_LIMIT_S) as client:
        done = client.post("/definitions/import", body)
    if json:
        output.document(done)
        return
    for change in done["changes"]:
        output.line(f"{change['action']}: {change['kind']} {change['name']}")
        if change["action"] in {"keep", "change"}:
            tell_fields(change["fields"])
    for storage in done["storages"]:
        output.line(f"{storage['name']}: {storage['points']} points")
        for problem in storage["problems"]:
            output.note(f"note: {storage['name']}: {problem}")


def tell_fields(fields: list[dict[str, Any]]) -> None:
    """Print fields before and after."""
    for each in fields:
        output.line(f"    {each['field']}: {_shown(each['before'])} -> {_shown(each['after'])}")


def _shown(value: Any) -> str:
    import json

    return "-" if value is None else json.dumps(value, ensure_ascii=False)


def _passphrase(path: Path | None, *, again: bool) -> str:
    if path is not None:
        lines = _text(path).splitlines()
        if not lines or not lines[0]:
            raise UsageError(f"({path} has no first line)")
        return lines[0]
    if not session.can_ask():
        raise UsageError("(no passphrase)", hint="Give --passphrase-file.")
    first = session.ask("Passphrase of the file")
    if again and session.ask("Once more") != first:
        raise UsageError("(the two are not the same)")
    return first


def _text(path: Path) -> str:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_BYTES_MAX + 1)
        text = data.decode()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"({path}: {error})") from None
    if len(data) > _FILE_BYTES_MAX:
        raise UsageError(f"({path} is too large)")
    return text


def _write_new(path: Path, data: bytes) -> None:
    """Write a file that was not there, for this user only, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        if path.exists():
            raise UsageError(f"({path} is there already)", hint="Take a new name.")
        descriptor = os.open(temporary, flags, 0o600)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)
        folder = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    except OSError as error:
        raise UsageError(f"({path}: {error.strerror})") from None
