"""`ruchu --server URL`: commands that a server carries out, through its API.

A command that this host knows is led to its remote form; one that has none says so. Groups such as
`ruchu policy` are there for servers only.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import typer

from ruchu.cli import remote_target, session
from ruchu.cli.remote_target import Target
from ruchu.errors import UsageError

if TYPE_CHECKING:
    from ruchu.control.sites.client import Client

# Remote forms of what this host does as well: module and function in `ruchu.cli`.
FORMS: Mapping[str, str] = {
    "storage list": "remote_places:storage_list",
    "platform list": "remote_places:platform_list",
    "inventory": "remote_places:inventory",
    "points list": "remote_places:points_list",
    "points show": "remote_places:points_show",
    "points star": "remote_places:points_star",
    "backup vm": "remote_work:backup_vm",
    "restore vm": "remote_work:restore_vm",
    "instant start": "remote_instants:start",
    "instant list": "remote_instants:list_instants",
    "instant stop": "remote_instants:stop",
    "instant migrate": "remote_instants:migrate",
}
# What there is for servers only.
OF_SERVERS = ("policy", "runs", "nodes", "alarms", "sites", "definitions", "plan", "apply", "drift",
              "login")  # fmt: skip
# What is about this host, whatever RUCHU_SERVER says.
OF_THIS_HOST = ("server", "node", "export", "guard", "doctor", "selftest", "audit")


def server_of(context: typer.Context) -> Target:
    """Return the server that a command is for.

    Raises:
        UsageError: none is named.
    """
    found = session.of(context).target
    if found is None:
        raise UsageError("(no server is named)", hint="ruchu --server URL …, or set RUCHU_SERVER.")
    return found


def connected(context: typer.Context, limit_s: float | None = None) -> "Client":
    """Return a client of the server that a command is for; a context manager.

    Raises:
        UsageError: none is named, or we have no token for it.
    """
    from ruchu.cli import remote_logins
    from ruchu.control.sites import client

    wanted = server_of(context)
    login = remote_logins.find(wanted)
    if not login.token:
        hint = "`ruchu login`, or give a token: RUCHU_TOKEN or --token-file."
        raise UsageError("(nobody is signed in there)", hint=hint)
    server = client.Server(wanted.url, login.token, login.trusted)
    return client.Client(server, client.CALL_LIMIT_S if limit_s is None else limit_s)


def route(app: typer.Typer) -> None:
    """Let every command of this host go to a server, if one is named."""
    for path, info in _commands(app, ""):
        if info.callback is not None and path.partition(" ")[0] not in OF_SERVERS:
            info.callback = _either(path, info.callback)


def _commands(app: typer.Typer, before: str) -> Iterator[tuple[str, Any]]:
    for command in app.registered_commands:
        assert command.callback is not None
        name = command.name or command.callback.__name__.replace("_", "-")
        yield f"{before}{name}", command
    for group in app.registered_groups:
        if group.typer_instance is not None:
            yield from _commands(group.typer_instance, f"{before}{group.name} ")


def _either(path: str, local: Callable[..., Any]) -> Callable[..., Any]:
    @functools.wraps(local)
    def either(**named: Any) -> Any:
        found = remote_target.CHOSEN.target
        if found is None or (path.partition(" ")[0] in OF_THIS_HOST and not found.named):
            return local(**named)
        if path not in FORMS:
            hint = "Leave --server and RUCHU_SERVER away; see the manual for what a server does."
            raise UsageError(f"(`ruchu {path}` works on this host only)", hint=hint)
        module, _, name = FORMS[path].partition(":")
        form = getattr(importlib.import_module(f"ruchu.cli.{module}"), name)
        options = {key: value for key, value in named.items() if key != "context"}
        return form(named["context"], **_meant(path, local, form, options))

    return either


def _meant(
    path: str, local: Callable[..., Any], form: Callable[..., Any], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the options that the remote form takes.

    Raises:
        UsageError: one was given that it does not take.
    """
    taken = set(inspect.signature(form).parameters)
    defaults = inspect.signature(local).parameters
    for key, value in options.items():
        if key not in taken and value != defaults[key].default and value not in (None, [], ()):
            flag = f"--{key.replace('_', '-')}"
            hint = "Leave it away: the server and its policies decide on that."
            raise UsageError(f"(`ruchu {path}` on a server takes no {flag})", hint=hint)
    return {key: value for key, value in options.items() if key in taken}
