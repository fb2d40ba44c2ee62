"""`ruchu guard`: only Ruchu may change the files of a storage."""

import json as encoding
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.errors import UsageError

if TYPE_CHECKING:
    from ruchu.storage.guarding.guard import Settings
    from ruchu.storage.guarding.reporting import Report


def guard(
    context: typer.Context,
    paths: Annotated[list[Path], typer.Argument(metavar="PATH...", help="Directory of a storage.")],
    reader: Annotated[
        list[str] | None,
        typer.Option("--reader", metavar="PROGRAM", help="May read; nobody else but Ruchu then."),
    ] = None,
    no_readers: Annotated[
        bool, typer.Option("--no-readers", help="Nobody but Ruchu may read.")
    ] = False,
    no_flags: Annotated[
        bool, typer.Option("--no-flags", help="Do not make objects immutable.")
    ] = False,
    no_kernel: Annotated[
        bool, typer.Option("--no-kernel", help="Do not use the BPF LSM, even where it is.")
    ] = False,
    check: Annotated[
        bool, typer.Option("--check", help="Compare with what the guard saw last, and end.")
    ] = False,
    release: Annotated[
        bool, typer.Option("--release", help="Lift the flags that the guard set, and end.")
    ] = False,
    json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """Let nobody but Ruchu change a storage, until Ctrl-C; one line for each alarm."""
    from ruchu.operations import guards

    here = session.of(context)
    if check and release:
        raise UsageError("(--check and --release)")
    readers = frozenset(reader or ()) if reader or no_readers else None
    options = guards.Options(readers, seals=not no_flags, kernel=not no_kernel)
    wanted = guards.settings(here.directory, paths, options)
    if check:
        _check(wanted, json)
    elif release:
        _release(wanted, json)
    else:
        _guard(here, wanted, json)


def _guard(here: session.Session, wanted: "list[Settings]", as_json: bool) -> None:
    from ruchu.operations import guards

    def emit(report: "Report") -> None:
        if as_json:
            output.line(encoding.dumps({"at": _now(), **report.fields()}, ensure_ascii=False))
        else:
            sign = "cleared" if report.clears else str(report.severity)
            output.line(f"{_now()} {sign} {report.code}: {report.text}")

    def ready(settings: "Settings", facts: dict[str, Any]) -> None:
        fields = {"event": "ready", "path": settings.root, **facts}
        if as_json:
            output.line(encoding.dumps({"at": _now(), **fields}, ensure_ascii=False))
        else:
            output.line(f"{_now()} guarding {settings.root}: {_described(facts)}")

    with here.cancellation.polled():
        guards.guard(wanted, emit, ready, here.cancellation)


def _described(facts: dict[str, Any]) -> str:
    seals = "sealed" if facts["sealed"] else "without flags"
    kernel = "BPF LSM" if facts["kernel"] else f"no BPF LSM ({facts['kernel_problem']})"
    return f"{facts['objects']} objects, {seals}, opens watched, {kernel}"


def _check(wanted: "list[Settings]", as_json: bool) -> None:
    from dataclasses import asdict

    from ruchu.operations import guards

    found = {settings.root: guards.check(settings) for settings in wanted}
    if as_json:
        documents = [{"path": root, **asdict(each)} for root, each in found.items()]
        output.document(documents)
    else:
        rows = [
            (root, what, name)
            for root, each in found.items()
            for what, names in asdict(each).items()
            for name in names
        ]
        output.table(("storage", "what", "object"), rows)
    if not all(each.is_clean for each in found.values()):
        raise typer.Exit(7)


def _release(wanted: "list[Settings]", as_json: bool) -> None:
    from ruchu.operations import guards

    counts = {settings.root: guards.release(settings) for settings in wanted}
    if as_json:
        output.document([{"path": root, "released": count} for root, count in counts.items()])
    else:
        output.table(("storage", "released"), counts.items())


def _now() -> str:
    from ruchu import clock

    return clock.to_text(clock.SYSTEM.now())
