"""The rest of `ruchu storage`: limits, probing, growing, evacuating, removing."""

from typing import Annotated

import typer

from ruchu.cli import output, session, storage
from ruchu.cli.options import Json
from ruchu.cli.storage import CredentialsFile, Name, Stop, Warn
from ruchu.cli.watching import Watcher
from ruchu.errors import UsageError
from ruchu.units import format_size

app = storage.app


@app.command("set")
def set_up(
    context: typer.Context,
    name: Name,
    warn: Warn = None,
    stop: Stop = None,
    credentials_file: CredentialsFile = None,
    active: Annotated[
        bool, typer.Option("--active", help="Take backups again after an evacuation.")
    ] = False,
    json: Json = False,
) -> None:
    """Change the limits of room or the credentials of a storage."""
    from ruchu.operations import storage_removal

    credentials = str(credentials_file.absolute()) if credentials_file is not None else None
    entry = storage_removal.set_up(
        session.of(context).storages,
        name,
        limits=(warn, stop),
        active=active,
        credentials=credentials,
    )
    if json:
        output.document({"storage": name, "warn": entry.warn, "stop": entry.stop,
                         "state": entry.state or None})  # fmt: skip
    else:
        limits = f"warn below {entry.warn or 'nothing'}, stop below {entry.stop or 'its reserve'}"
        output.line(f"{name}: {limits}{', ' + entry.state if entry.state else ''}")


@app.command()
def probe(context: typer.Context, name: Name, json: Json = False) -> None:
    """Find out what the place of a storage can do."""
    from ruchu.operations import storage_probes

    found = storage_probes.probe(session.of(context).storages, name)
    if json:
        output.document(found)
    else:
        for key, value in found.items():
            output.line(f"{key}: {value}")


@app.command()
def grow(context: typer.Context, name: Name, json: Json = False) -> None:
    """Use all of a device that has become larger; the storage stays in use."""
    storages = session.of(context).storages
    entry = storages.registry.storage(name)
    before, after = storages.places.grow(storages.place_of(entry))
    if json:
        output.document({"storage": name, "bytes_before": before, "bytes_after": after})
    else:
        output.line(f"{name}: {format_size(before)}, now {format_size(after)}")


@app.command()
def evacuate(
    context: typer.Context,
    name: Name,
    other: Annotated[str, typer.Option("--to", help="Storage that takes the points.")],
    json: Json = False,
) -> None:
    """Copy all points to another storage, verified, and give this one up."""
    from ruchu.blocks.copying import Progress
    from ruchu.operations import storage_evacuation

    here = session.of(context)
    progress = Progress()
    with here.cancellation.polled(), Watcher() as watcher:
        watcher.watch("evacuate", progress)
        watch = storage_evacuation.Watch(progress, here.cancellation)
        done = storage_evacuation.evacuate(here.storages, name, other, watch)
    if json:
        output.document(storage_evacuation.fields(done, name, other))
    else:
        output.line(f"{name}: {len(done.chains)} objects with all their points are in {other}")


@app.command()
def remove(
    context: typer.Context,
    name: Name,
    force: Annotated[
        bool, typer.Option("--force", help="Also if it holds points, or cannot be reached.")
    ] = False,
    destroy: Annotated[
        bool, typer.Option("--destroy", help="Delete everything in it; its name is asked for.")
    ] = False,
    confirm: Annotated[
        str | None, typer.Option("--confirm", metavar="NAME", help="Its name, for --destroy.")
    ] = None,
    json: Json = False,
) -> None:
    """Forget a storage. What lies in it stays, unless you destroy it."""
    from ruchu.operations import storage_removal

    typed = None
    if destroy:
        typed = confirm if confirm is not None else _typed(name)
    done = storage_removal.remove(session.of(context).storages, name, force=force, destroy=typed)
    if json:
        output.document(done)
    else:
        output.line(f"{name}: {'destroyed' if destroy else 'forgotten'}")


def _typed(name: str) -> str:
    if not session.can_ask():
        raise UsageError("(--destroy needs the name once more)", hint=f"Give --confirm {name}.")
    return str(typer.prompt(f"Everything in {name} will be deleted. Its name once more", err=True))
