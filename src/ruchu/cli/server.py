"""`ruchu server`: steer nodes, run policies, answer the API."""

from pathlib import Path
from typing import Annotated

import typer

from ruchu.cli import output


def server(
    state: Annotated[Path, typer.Option("--state", help="Directory of this server.")] = Path(
        "/var/lib/ruchu/server"
    ),
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="For browsers and the API.")
    ] = "127.0.0.1:8443",
    nodes: Annotated[
        str, typer.Option("--nodes", metavar="HOST:PORT", help="Where nodes dial in.")
    ] = "127.0.0.1:0",
    name: Annotated[
        list[str] | None,
        typer.Option("--name", help="Name or address that nodes reach us by; may be repeated."),
    ] = None,
    database: Annotated[
        str, typer.Option("--database", metavar="URL", help="postgresql://…; else SQLite.")
    ] = "",
    no_node: Annotated[
        bool, typer.Option("--no-node", help="Bring no embedded node along.")
    ] = False,
    guard: Annotated[
        bool, typer.Option("--guard", help="The embedded node guards storages in directories.")
    ] = False,
    certificate: Annotated[
        Path | None, typer.Option("--certificate", help="For HTTPS; else one of our own.")
    ] = None,
    key: Annotated[Path | None, typer.Option("--key", help="Of the certificate.")] = None,
    no_console: Annotated[bool, typer.Option("--no-console", help="Answer the API alone.")] = False,
    plain: Annotated[
        bool, typer.Option("--plain", help="HTTP although others can reach us: behind a proxy.")
    ] = False,
) -> None:
    """Run until SIGTERM; prints one JSON line when it answers."""
    from ruchu.api import serving
    from ruchu.api.serving import Face
    from ruchu.clock import SYSTEM
    from ruchu.control.server.plane import Settings

    face = Face(serving.address_of(listen), certificate, key, plain)
    at = serving.address_of(nodes)
    names = tuple(name or ()) or (at.host,)
    settings = Settings(state, at, names, database, not no_node, output.note, guard=guard)
    dress = None
    if not no_console:
        from ruchu.web import console

        dress = console.install
    serving.serve(settings, face, SYSTEM, (output.line, output.note), dress)
