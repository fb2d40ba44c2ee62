"""`ruchu storage`: where backups lie."""

from pathlib import Path
from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Full, Json, KeyFile, PassphraseFile, Sampled, group
from ruchu.cli.reports import tell, verifying
from ruchu.errors import Damaged
from ruchu.units import format_size

app = group("Storages: where backups lie.")
Name = Annotated[str, typer.Argument(help="Name of the storage.")]
Directory = Annotated[Path, typer.Argument(help="Directory of the storage.")]


@app.command()
def add(
    context: typer.Context,
    name: Name,
    directory: Directory,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
    no_encryption: Annotated[
        bool, typer.Option("--no-encryption", help="Whoever reads the disk reads the backups.")
    ] = False,
    role: Annotated[str, typer.Option("--role", help="backup or copy.")] = "backup",
    json: Json = False,
) -> None:
    """Make an empty directory a storage. Encrypted, unless you say otherwise."""
    from ruchu.operations import secrets

    here = session.of(context)
    ask = session.ask if session.can_ask() else None
    source = secrets.choose(passphrase_file, key_file, none=no_encryption, ask=ask)
    entry = here.storages.add(name, directory, source, role)
    _tell(entry.name, entry.id, entry.directory, json=json)
    if source.method != "none":
        output.note("Without its secret nobody opens this storage. Keep a copy of it elsewhere.")


@app.command()
def adopt(
    context: typer.Context,
    name: Name,
    directory: Directory,
    passphrase_file: PassphraseFile = None,
    key_file: KeyFile = None,
    json: Json = False,
) -> None:
    """Use a storage that exists, such as one of a lost host, with all its points."""
    from ruchu.operations import secrets

    given = passphrase_file is not None or key_file is not None
    source = secrets.choose(passphrase_file, key_file, none=False, ask=None) if given else None
    entry = session.of(context).storages.adopt(name, directory, source)
    _tell(entry.name, entry.id, entry.directory, json=json)


def _tell(name: str, storage: str, directory: str, *, json: bool) -> None:
    if json:
        output.document({"name": name, "id": storage, "directory": directory})
    else:
        output.line(f"{name}: storage {storage[:8]} in {directory}")


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
            state.entry.directory,
            state.encrypted,
            state.chains,
            format_size(state.free) if state.free is not None else None,
            state.problem or "ok",
        )
        for state in states
    ]
    output.table(("name", "role", "directory", "encrypted", "chains", "free", "state"), rows)


@app.command()
def show(context: typer.Context, name: Name, json: Json = False) -> None:
    """Show a storage and what it holds."""
    facts = session.of(context).storages.show(name)
    if json:
        output.document(facts)
        return
    for key in ("name", "id", "directory", "role", "encrypted", "problem"):
        if facts[key] not in {None, ""}:
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
