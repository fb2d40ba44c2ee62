"""The command `ruchu`: nouns and verbs, errors as messages, signals as cancellation."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ruchu import __version__, process
from ruchu.cli import (
    audit,
    backup,
    cancelling,
    coercion,
    definitions,
    export,
    files,
    guard,
    host,
    instant,
    mount,
    node,
    output,
    plan,
    platform,
    points,
    remote,
    remote_groups,
    remote_login,
    remote_sites,
    remote_target,
    restore,
    retention,
    run,
    server,
    storage_places,
)
from ruchu.cli.cancelling import CANCELLATION
from ruchu.cli.session import Session, default_directory
from ruchu.errors import RuchuError

app = typer.Typer(
    name="ruchu",
    help="Back up, restore and check machines and disks.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
app.add_typer(storage_places.app, name="storage")
app.add_typer(platform.app, name="platform")
app.command("inventory")(platform.inventory)
app.add_typer(backup.app, name="backup")
app.add_typer(points.app, name="points")
app.add_typer(restore.app, name="restore")
app.add_typer(export.app, name="export")
app.add_typer(files.app, name="files")
app.add_typer(instant.app, name="instant")
app.add_typer(retention.app, name="retention")
app.add_typer(audit.app, name="audit")
app.command("mount")(mount.mount)
app.command("run")(run.run)
app.command("server")(server.server)
app.command("node")(node.node)
app.command("guard")(guard.guard)
app.command("doctor")(host.doctor)
app.command("selftest")(host.selftest)
app.command("login")(remote_login.login)
app.add_typer(remote_groups.policies, name="policy")
app.add_typer(remote_groups.runs, name="runs")
app.add_typer(remote_groups.nodes, name="nodes")
app.add_typer(remote_groups.alarms, name="alarms")
app.add_typer(remote_sites.sites, name="sites")
app.add_typer(definitions.app, name="definitions")
app.command("plan")(plan.plan)
app.command("apply")(plan.apply)
app.command("drift")(plan.drift)
remote.route(app)


def _version(value: bool) -> None:
    if value:
        output.line(f"ruchu {__version__}")
        raise typer.Exit


@app.callback()
def options(
    context: typer.Context,
    state: Annotated[
        Path | None, typer.Option("--state", help="Directory of the local state (RUCHU_STATE).")
    ] = None,
    server: Annotated[
        str | None,
        typer.Option("--server", metavar="URL", help="A server does it (RUCHU_SERVER)."),
    ] = None,
    token_file: Annotated[
        Path | None, typer.Option("--token-file", help="File with a token (RUCHU_TOKEN).")
    ] = None,
    ca_file: Annotated[
        Path | None, typer.Option("--ca-file", help="Certificates that vouch for the server.")
    ] = None,
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Say which.")
    ] = False,
) -> None:
    """Back up, restore and check machines and disks."""
    del version
    directory = state if state is not None else default_directory()
    target = remote_target.target(server, token_file, ca_file, directory)
    remote_target.CHOSEN.target = target
    context.obj = Session(directory, target=target)


def main() -> None:
    """Run a command; the exit status says how it went (docs/operators/commands.md)."""
    process.tune_memory()
    coercion.install()
    CANCELLATION.install()
    try:
        app()
    except RuchuError as error:
        output.error(error)
        if "--json" in sys.argv:
            output.document(output.error_document(error))
        sys.exit(error.exit_status)
    except SystemExit as end:
        # What ended well just before the signal counts as what it is.
        if CANCELLATION.requested and end.code:
            sys.exit(cancelling.EXIT_STATUS)
        raise
