"""`ruchu login`: sign in to a server, and keep it for later commands."""

from dataclasses import replace
from typing import Annotated

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json
from ruchu.cli.remote import server_of
from ruchu.errors import CodeNeeded, UsageError


def login(
    context: typer.Context,
    name: Annotated[str, typer.Option("--name", help="Of the account; else it is asked for.")] = "",
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="Of the server's authority: trust it from now on.")
    ] = "",
    end: Annotated[bool, typer.Option("--end", help="Sign out, and forget the server.")] = False,
    json: Json = False,
) -> None:
    """Sign in to the server that --server or RUCHU_SERVER names."""
    from ruchu.cli import remote_logins
    from ruchu.control.sites import client

    target = server_of(context)
    known = remote_logins.find(target)
    if end:
        if known.token:
            with client.Client(client.Server(target.url, known.token, known.trusted)) as asked:
                asked.call("DELETE", "/sessions/current")
        remote_logins.forget(target)
        output.document({"server": target.url}) if json else output.line("signed out")
        return
    trusted = client.authority_of(target.url, fingerprint) if fingerprint else known.trusted
    server = client.Server(target.url, "", trusted)
    if not session.can_ask():
        hint = "For programs: an API token in RUCHU_TOKEN or --token-file."
        raise UsageError("(nobody is there to type a password)", hint=hint)
    name = name or str(typer.prompt("Name", err=True))
    body = {"name": name, "password": session.ask("Password")}
    with client.Client(server) as asked:
        try:
            opened = asked.post("/sessions", body)
        except CodeNeeded:
            opened = asked.post("/sessions", {**body, "code": session.ask("Code")})
    remote_logins.keep(target, replace(known, token=opened["token"], trusted=trusted))
    if json:
        output.document({"server": target.url, "user": opened["user"]})
    else:
        output.line(f"signed in to {target.url} as {name}")
