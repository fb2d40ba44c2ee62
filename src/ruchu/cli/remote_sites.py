"""`ruchu sites`: servers below a server, shown and steered from there."""

from pathlib import Path
from typing import Annotated

import typer

from ruchu.cli import output
from ruchu.cli.options import Json, group
from ruchu.cli.remote import connected
from ruchu.cli.remote_logins import first_line
from ruchu.cli.remote_places import part_of_path

sites = group("Sites: servers below a server, shown and steered from there.")
Site = Annotated[str, typer.Argument(help="Name of the site.")]


@sites.command("list")
def list_sites(context: typer.Context, json: Json = False) -> None:
    """List the servers below as they were seen last."""
    with connected(context) as client:
        found = client.get("/sites")
    if json:
        output.document(found)
        return
    rows = [
        (
            e["name"], e["url"], "away" if e["problem"] else "ok",
            (e["seen"] or "")[:19].replace("T", " ") or None,
            sum(e["summary"].get("nodes", {}).values()), e["summary"].get("machines"),
            sum(e["summary"].get("alarms", {}).values()),
        )
        for e in found
    ]  # fmt: skip
    output.table(("name", "url", "state", "seen (UTC)", "nodes", "machines", "alarms"), rows)


@sites.command()
def attach(
    context: typer.Context,
    site: Site,
    url: Annotated[str, typer.Argument(help="Address of that server.")],
    site_token_file: Annotated[
        Path, typer.Option("--site-token-file", help="File with an API token of that server.")
    ],
    fingerprint: Annotated[
        str, typer.Option("--fingerprint", help="Of its authority; else a public certificate.")
    ] = "",
    json: Json = False,
) -> None:
    """Show and steer a server from now on."""
    body = {"name": site, "url": url, "token": first_line(site_token_file),
            "fingerprint": fingerprint}  # fmt: skip
    with connected(context) as client:
        made = client.post("/sites", body)
    if json:
        output.document(made)
    else:
        output.line(f"{made['name']}: {made['url']}, release {made['summary']['version']}")


@sites.command()
def detach(context: typer.Context, site: Site, json: Json = False) -> None:
    """Show a server no more; nothing changes over there."""
    with connected(context) as client:
        gone = client.call("DELETE", f"/sites/{part_of_path(site)}")
    if json:
        output.document(gone)
    else:
        output.line(f"{gone['name']}: detached")
