"""`ruchu export`: serve disks of a point to a hypervisor or another program."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Point, group, size_of
from ruchu.errors import UsageError

app = group("Serve disks of a point: NBD, NFS, iSCSI.")
Disks = Annotated[
    list[str] | None,
    typer.Option("--disk", help="Number or name; may be repeated; else all of them."),
]
Writable = Annotated[
    Path | None,
    typer.Option(
        "--writable",
        metavar="CACHE",
        help="Take writes into this file (a directory for several disks); the point stays.",
    ),
]
Memory = Annotated[str, typer.Option("--memory", help="For decoded blocks, such as 256MiB.")]
Control = Annotated[Path | None, typer.Option("--control", help="Socket to ask and end it by.")]
Allow = Annotated[
    list[str] | None,
    typer.Option("--allow", metavar="NETWORK", help="Clients from there; may be repeated."),
]


@app.command()
def nbd(
    context: typer.Context,
    point: Point,
    disk: Disks = None,
    socket: Annotated[
        Path | None, typer.Option("--socket", help="Unix socket to serve on.")
    ] = None,
    socket_owner: Annotated[
        str, typer.Option("--socket-owner", help="User who may connect, such as libvirt-qemu.")
    ] = "",
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="TCP address instead.")
    ] = "",
    allow: Allow = None,
    tls_certificate: Annotated[Path | None, typer.Option("--tls-certificate")] = None,
    tls_key: Annotated[Path | None, typer.Option("--tls-key")] = None,
    tls_clients: Annotated[
        Path | None, typer.Option("--tls-clients", help="Who signs the clients' certificates.")
    ] = None,
    writable: Writable = None,
    memory: Memory = "256MiB",
    control: Control = None,
) -> None:
    """Serve disks over NBD until Ctrl-C; prints one JSON line when it answers."""
    from ruchu.operations import exports

    here = session.of(context)
    request = exports.Request(point, tuple(disk or ()), writable, size_of(memory), control)
    files = [tls_certificate, tls_key, tls_clients]
    tls = None
    if any(files):
        certificate, key, clients = (_given(path) for path in files)
        tls = exports.TlsFiles(certificate, key, clients)
    if (socket is None) == (not listen):
        raise UsageError("(either --socket or --listen)")
    with here.cancellation.polled():
        if socket is not None:
            exports.serve_nbd_socket(
                here.storages, request, socket, socket_owner, _ready, here.cancellation
            )
        else:
            access = (tls, tuple(allow or ()))
            address = exports.address_of(listen)
            exports.serve_nbd_tcp(
                here.storages, request, address, access, _ready, here.cancellation
            )


@app.command()
def nfs(
    context: typer.Context,
    point: Point,
    listen: Annotated[
        str, typer.Option("--listen", metavar="HOST:PORT", help="TCP address; port 0: any.")
    ],
    disk: Disks = None,
    allow: Allow = None,
    path: Annotated[
        str, typer.Option("--path", help="What clients mount; else one that nobody guesses.")
    ] = "",
    portmapper: Annotated[
        bool, typer.Option("--portmapper", help="Answer on port 111 as well (QEMU, ESXi).")
    ] = False,
    image_format: Annotated[
        str, typer.Option("--format", help="Show the disks as raw, vmdk, vhd, vhdx or qcow2.")
    ] = "raw",
    nbd_socket: Annotated[
        Path | None, typer.Option("--nbd-socket", help="Serve over NBD, too, for a migration.")
    ] = None,
    socket_owner: Annotated[str, typer.Option("--socket-owner", help="Who may connect.")] = "",
    writable: Writable = None,
    memory: Memory = "256MiB",
    control: Control = None,
) -> None:
    """Serve disks over NFS until Ctrl-C; prints one JSON line when it answers."""
    from ruchu.operations import exports, nfs_exports

    here = session.of(context)
    request = exports.Request(point, tuple(disk or ()), writable, size_of(memory), control)
    host, port = exports.address_of(listen)
    place = nfs_exports.Place(
        host, port, path, tuple(allow or ()), portmapper, image_format, nbd_socket, socket_owner
    )
    with here.cancellation.polled():
        nfs_exports.serve_nfs(here.storages, request, place, _ready, here.cancellation)


@app.command()
def iscsi(
    context: typer.Context,
    point: Point,
    listen: Annotated[str, typer.Option("--listen", metavar="HOST:PORT", help="The portal.")],
    user: Annotated[str, typer.Option("--user", help="Name of the initiators, for CHAP.")],
    password_file: Annotated[
        Path, typer.Option("--password-file", help="File whose line is their password.")
    ],
    disk: Disks = None,
    allow: Allow = None,
    writable: Writable = None,
    memory: Memory = "256MiB",
    control: Control = None,
) -> None:
    """Serve disks over iSCSI by tgt until Ctrl-C; prints one JSON line when it answers."""
    from ruchu.operations import exports, mounts

    here = session.of(context)
    request = exports.Request(point, tuple(disk or ()), writable, size_of(memory), control)
    host, port = exports.address_of(listen)
    password = mounts.secret_of(password_file)
    target = mounts.Target(host, port, user, password, tuple(allow or (host,)))
    with here.cancellation.polled():
        mounts.serve_iscsi(here.storages, request, target, _ready, here.cancellation)


@app.command(hidden=True)
def awaiting(
    context: typer.Context,
    point: Point,
    instant: Annotated[str, typer.Option("--instant", help="Whose export it becomes.")],
) -> None:
    """Prepare to serve a point, and be told on the standard input what of it, and where."""
    from ruchu.operations import exports, standby

    del instant
    here = session.of(context)
    opened = session.Opened(here.directory, here.storages)
    exports.prepare(opened.storages, point)
    args = standby.awaited()
    if args is None:
        return
    command = typer.main.get_command(app)
    with command.make_context("export", args, obj=opened) as inner:
        command.invoke(inner)


def _given(path: Path | None) -> Path:
    if path is None:
        hint = "TLS needs all of --tls-certificate, --tls-key and --tls-clients."
        raise UsageError("(TLS)", hint=hint)
    return path


def _ready(answer: dict[str, Any]) -> None:
    output.line(json.dumps(answer))
