"""`ruchu storage`: where backups lie."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Full, Json, KeyFile, PassphraseFile, Sampled, group
from ruchu.cli.reports import tell, verifying
from ruchu.errors import Damaged
from ruchu.units import format_size

if TYPE_CHECKING:
    from ruchu.operations.storages import StorageState

app = group("Storages: where backups lie.")
Name = Annotated[str, typer.Argument(help="Name of the storage.")]
Where = Annotated[
    str,
    typer.Argument(
        metavar="LOCATION",
        help="A directory, or file:// s3:// device:// nfs:// smb:// iscsi://; see the manual.",
    ),
]
CredentialsFile = Annotated[
    Path | None,
    typer.Option("--credentials-file", help="File with the credentials of its server."),
]
Warn = Annotated[
    str | None, typer.Option("--warn", metavar="FREE", help="Say `low` below this: 15%, 200GiB.")
]
Stop = Annotated[
    str | None,
    typer.Option("--stop", metavar="FREE", help="Refuse backups below this much free room."),
]
TakeOver = Annotated[
    bool,
    typer.Option("--take-over", help="On S3 without conditions: this host writes from now on."),
]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    location: Where,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
    no_encryption: Annotated[
        bool, typer.Option("--no-encryption", help="Whoever reads the disk reads the backups.")
    ] = False,
    role: Annotated[str, typer.Option("--role", help="backup or copy.")] = "backup",
    credentials_file: CredentialsFile = None,
    file_system: Annotated[
        str, typer.Option("--format", metavar="FS", help="Make a file system: ext4 or xfs.")
    ] = "",
    erase: Annotated[
        str, typer.Option("--erase", metavar="DEVICE", help="What is on that device may go.")
    ] = "",
    one_writer: Annotated[
        bool, typer.Option("--one-writer", help="On S3 without conditions: no other host writes.")
    ] = False,
    warn: Warn = None,
    stop: Stop = None,
    json: Json = False,
) -> None:
    """Make an empty place a storage. Encrypted, unless you say otherwise."""
    from ruchu.operations import secrets
    from ruchu.operations.storage_places import Preparation
    from ruchu.operations.storages import Setup
    from ruchu.storage import locations

    here = session.of(context)
    ask = session.ask if session.can_ask() else None
    source = secrets.choose(passphrase_file, key_file, none=no_encryption, ask=ask)
    where = locations.parse(location)
    preparation = Preparation(file_system, erase, one_writer)
    credentials = _credentials(credentials_file, where.scheme)
    setup = Setup(role, credentials, warn or "", stop or "", preparation)
    entry = here.storages.add(name, where, source, role, setup)
    _tell(entry.name, entry.id, entry.directory, str(entry.place), json=json)
    if source.method != "none":
        output.note("Without its secret nobody opens this storage. Keep a copy of it elsewhere.")


@app.command()
def adopt(
    context: typer.Context,
    name: Name,
    location: Where,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
    credentials_file: CredentialsFile = None,
    take_over: TakeOver = False,
    json: Json = False,
) -> None:
    """Use a storage that exists, such as one of a lost host, with all its points."""
    from ruchu.operations import secrets
    from ruchu.operations.storage_places import Preparation
    from ruchu.operations.storages import Setup
    from ruchu.storage import locations

    given = passphrase_file is not None or key_file is not None
    source = secrets.choose(passphrase_file, key_file, none=False, ask=None) if given else None
    where = locations.parse(location)
    credentials = _credentials(credentials_file, where.scheme)
    setup = Setup("backup", credentials, preparation=Preparation(take_over=take_over))
    entry = session.of(context).storages.adopt(name, where, source, setup)
    _tell(entry.name, entry.id, entry.directory, str(entry.place), json=json)


def _credentials(file: Path | None, scheme: str) -> str:
    """Return where the credentials of a server come from; on a terminal they are asked for."""
    if file is not None:
        return str(file.absolute())
    return "ask" if scheme == "smb" and session.can_ask() else ""


def _tell(name: str, storage: str, directory: str, location: str, *, json: bool) -> None:
    if json:
        output.document({"name": name, "id": storage, "directory": directory, "location": location})
    else:
        output.line(f"{name}: storage {storage[:8]} in {directory or location}")


@app.command("list")
def list_storages(context: typer.Context, json: Json = False) -> None:
    """List the storages that are known here."""
    states = session.of(context).storages.list()
    if json:
        output.document([state.fields() for state in states])
        return
    rows = [
        (
            state.entry.name,
            state.entry.role,
            state.entry.where,
            state.encrypted,
            state.chains,
            _size(state.room.used if state.room else None),
            _size(state.free),
            _state(state),
        )
        for state in states
    ]
    headings = ("name", "role", "location", "encrypted", "chains", "used", "free", "state")
    output.table(headings, rows)


def _size(value: int | None) -> str | None:
    return format_size(value) if value is not None else None


def _state(state: "StorageState") -> str:
    room = state.room.state if state.room else "ok"
    return state.problem or state.entry.state or room


@app.command()
def show(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show a storage and what it holds."""
    facts = session.of(context).storages.show(name)
    if json:
        output.document(facts)
        return
    for key in ("name", "id", "location", "role", "encrypted", "state", "room", "probe", "problem"):
        if facts[key] not in (None, ""):
            output.line(f"{key}: {facts[key]}")
    rows = [
        (each["chain"][:8], each["kind"], each["name"], each["points"],
         format_size(each["bytes_stored"]), each["locked_by"])
        for each in facts["objects"]
    ]  # fmt: skip
    output.table(("chain", "kind", "name", "points", "stored", "locked by"), rows)


@app.command()
def verify(
    context: typer.Context,
    name: Name,
    full: Full = False,
    sampled: Sampled = None,
    json: Json = False,
) -> None:
    """Verify a storage: structure; with --sampled or --full, its data too."""
    from ruchu.operations import verification

    request = verification.request_of(sampled, full=full)
    here = session.of(context)
    with verifying(here) as watch:
        report = verification.verify_storage(here.storages, name, request, watch)
    tell(report, json=json)


@app.command()
def unlock(
    context: typer.Context,
    name: Name,
    chain: Annotated[str, typer.Argument(help="Id (its beginning) or object of the chain.")],
    json: Json = False,
) -> None:
    """End the lock of a writer on another host, once you are sure that it is dead."""
    held = session.of(context).storages.unlock(name, chain)
    if json:
        output.document({"storage": name, "chain": chain, "released": held})
    else:
        output.line(f"released: {held}" if held else "nobody holds it")


@app.command()
def passphrase(
    context: typer.Context,
    name: Name,
    new_passphrase_file: Annotated[
        Path | None, typer.Option("--new-passphrase-file", help="File whose line is the new one.")
    ] = None,
    json: Json = False,
) -> None:
    """Replace the passphrase of a storage. No backup data is written anew."""
    from ruchu.operations import secrets

    ask = session.ask if session.can_ask() else None
    source = secrets.choose(new_passphrase_file, None, none=False, ask=ask)
    session.of(context).storages.rotate(name, source)
    if json:
        output.document({"storage": name, "secret": source.method})
    else:
        output.line(f"{name}: the new passphrase opens it, the old one does not any more")


@app.command()
def repair(
    context: typer.Context,
    name: Name,
    other: Annotated[str, typer.Option("--from", help="Storage to take from; it is only read.")],
    chain: Annotated[
        str | None, typer.Option("--chain", help="This one only: its id, or its object.")
    ] = None,
    json: Json = False,
) -> None:
    """Verify in full, and repair what is damaged from another storage."""
    from ruchu.operations import repairs

    here = session.of(context)
    with verifying(here) as watch:
        done = repairs.repair(here.storages, name, other, chain, watch)
    if json:
        output.document(done)
    else:
        for each in done:
            counts = f"{len(each['packs'])} packs, {len(each['documents'])} documents repaired"
            output.line(f"{each['name']}: {each['damages']} damages; {counts}")
            for text in each["left"]:
                output.line(f"  left: {text}")
            for point in each["damaged_points"]:
                output.line(f"  point {point[:8]} stays damaged")
    if any(each["left"] or each["damaged_points"] for each in done):
        raise typer.Exit(Damaged.exit_status)
