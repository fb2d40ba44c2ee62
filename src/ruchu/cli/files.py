"""`ruchu files`: look into points and fetch files out of them."""

import json as documents
import stat as modes
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ruchu.cli import output, session
from ruchu.cli.options import Json, Point, group, size_of
from ruchu.errors import Damaged, GuestError, GuestIncomplete, RuchuError, UsageError
from ruchu.units import format_size

if TYPE_CHECKING:
    from ruchu.recovery.granular import Fetched

app = group("Files in points: list, read, search, fetch.")
_TYPES = {
    "file": modes.S_IFREG,
    "directory": modes.S_IFDIR,
    "symlink": modes.S_IFLNK,
    "character-device": modes.S_IFCHR,
    "block-device": modes.S_IFBLK,
    "fifo": modes.S_IFIFO,
    "socket": modes.S_IFSOCK,
}
_DAMAGED = {"damaged", "object-missing", "object-short"}


@app.command("ls")
def list_files(
    context: typer.Context,
    point: Point,
    path: Annotated[str, typer.Argument(help="/VOLUME/path; / lists the volumes.")] = "/",
    recursive: Annotated[
        bool, typer.Option("--recursive", help="Also all that lies below.")
    ] = False,
    json: Json = False,
) -> None:
    """List a directory of a point, or its volumes."""
    from ruchu.operations import files

    here = session.of(context)
    found = files.listing(here.storages, point, _bytes(path), recursive=recursive)
    _tell(found, json=json, whole=recursive)


@app.command("cat")
def read_file(
    context: typer.Context,
    point: Point,
    path: Annotated[str, typer.Argument(help="/VOLUME/path of a file.")],
    stream: Annotated[
        str, typer.Option("--stream", help="An alternate data stream (NTFS) of it.")
    ] = "",
    head: Annotated[
        str | None, typer.Option("--head", metavar="BYTES", help="The first bytes, such as 64KiB.")
    ] = None,
    json: Json = False,
) -> None:
    """Write the content of a file to standard output; with --json, a document that holds it."""
    from ruchu.operations import files
    from ruchu.recovery.granular_archives import Output

    here = session.of(context)
    limit = size_of(head) if head is not None else None
    if json:
        output.document(files.document(here.storages, point, _bytes(path), stream, limit))
        return
    with (
        here.cancellation.polled(),
        files.reading(here.storages, point, _bytes(path), stream, here.cancellation) as opened,
    ):
        _, size, pieces = opened
        out = Output(1)
        for piece in files.limited(pieces, size if limit is None else limit):
            out.write(piece)
        out.flush()


@app.command("find")
def find_files(
    context: typer.Context,
    words: Annotated[
        list[str],
        typer.Argument(metavar="[POINT]... PATTERN", help="Such as '*.conf', '/vda1/etc/**/*.db'."),
    ],
    point: Annotated[
        list[str] | None, typer.Option("--point", help="A point to search; may be repeated.")
    ] = None,
    name: Annotated[
        str, typer.Option("--object", help="Search all points of the object of this name.")
    ] = "",
    ignore_case: Annotated[
        bool, typer.Option("--ignore-case", help="Take upper and lower case for the same.")
    ] = False,
    json: Json = False,
) -> None:
    """Find files by name in one or several points."""
    from ruchu.guests.browsing import Pattern
    from ruchu.operations import files

    here = session.of(context)
    prefixes = [*words[:-1], *(point or ())]
    if name:
        prefixes += files.points_of(here.storages, name)
    if not prefixes:
        raise UsageError("(no point is named)", hint="ruchu files find POINT PATTERN")
    pattern = Pattern(words[-1], ignore_case=ignore_case)
    found = files.find(here.storages, list(dict.fromkeys(prefixes)), pattern, output.note)
    _tell(found, json=json, whole=True)


@app.command("get")
def fetch_files(
    context: typer.Context,
    point: Point,
    paths: Annotated[list[str], typer.Argument(metavar="PATH...", help="Files, directories.")],
    directory: Annotated[
        Path | None, typer.Option("--to", help="Directory of this host to write them into.")
    ] = None,
    zip_file: Annotated[
        str, typer.Option("--zip", metavar="FILE", help="A new zip; - is standard output.")
    ] = "",
    tar_file: Annotated[
        str, typer.Option("--tar", metavar="FILE", help="A new tar; - is standard output.")
    ] = "",
    guest: Annotated[
        str, typer.Option("--guest", metavar="MACHINE", help="A running machine with an agent.")
    ] = "",
    guest_path: Annotated[
        str, typer.Option("--guest-path", help="Directory in that machine.")
    ] = "",
    platform: Annotated[
        str | None, typer.Option("--platform", help="Not needed if only one is known.")
    ] = None,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace files that exist.")
    ] = False,
    json: Json = False,
) -> None:
    """Fetch files and directories with all that they are."""
    from ruchu.operations import files

    target = files.Target(
        directory, zip_file, tar_file, guest, guest_path, platform, overwrite=overwrite
    )
    target.check()
    if target.is_stream and json:
        raise UsageError("(standard output takes the archive or the document, not both)")
    here = session.of(context)
    with here.cancellation.polled():
        done = files.fetch(
            here.storages, here.platforms, point, [_bytes(path) for path in paths], target,
            here.cancellation,
        )  # fmt: skip
    _tell_fetched(done, json=json, quiet=target.is_stream)


def _tell_fetched(done: "Fetched", *, json: bool, quiet: bool) -> None:
    from ruchu.guests.browsing import shown
    from ruchu.operations import files

    if json:
        output.document(files.fetched_fields(done))
    for problem in done.problems:
        output.note(f"failed: {shown(problem.path)}: {shown(str(problem.error).encode())}")
    if done.failed > len(done.problems):
        output.note(f"failed: {done.failed - len(done.problems)} more")
    for text, count in done.notes.items():
        output.note(f"note: {text} ({count})")
    counts = [f"{count} {kind.replace('_', ' ')}" for kind, count in done.counts.items()]
    line = f"{', '.join(counts) or 'nothing'}: {format_size(done.size)}"
    if done.failed:
        line += f"; {done.failed} FAILED"
    if not json:
        (output.note if quiet else output.line)(line)
    error = done.error()
    if isinstance(error, GuestError):
        output.error(error)
    if error is not None:
        raise typer.Exit(error.exit_status)


def _bytes(text: str) -> bytes:
    """Return an argument as the bytes that it was typed as."""
    return text.encode("utf-8", "surrogateescape")


def _tell(found: Iterable[dict[str, Any]], *, json: bool, whole: bool) -> None:
    """Print documents as they come; a problem among them becomes the exit status."""
    printer = _Documents() if json else _Lines(whole=whole)
    status = failed = 0
    try:
        for fields in found:
            printer.tell(fields)
            if "problem" in fields:
                failed += 1
                damaged = fields["code"] in _DAMAGED
                status = status or (Damaged if damaged else GuestError).exit_status
    except RuchuError as error:
        if not printer.begun:
            raise
        # What was printed must become a whole document.
        printer.tell({"problem": str(error), "code": error.code})
        status = error.exit_status
    printer.end()
    if failed:
        output.error(GuestIncomplete(f"{failed} entries could not be read"))
    if status:
        raise typer.Exit(status)


class _Documents:
    """Prints one JSON list, piece by piece."""

    def __init__(self) -> None:
        self.begun = False

    def tell(self, fields: dict[str, Any]) -> None:
        text = documents.dumps(fields, ensure_ascii=False)
        output.line(f",\n{text}" if self.begun else f"[\n{text}")
        self.begun = True

    def end(self) -> None:
        output.line("]" if self.begun else "[]")


class _Lines:
    """Prints a line for each file or volume; nothing in a name reaches the terminal raw."""

    def __init__(self, *, whole: bool) -> None:
        self.begun = False
        self._whole = whole
        self._point = ""

    def tell(self, fields: dict[str, Any]) -> None:
        self.begun = True
        if fields.get("point", "") != self._point:
            self._point = fields["point"]
            output.line(f"point {self._point[:8]}:")
        if "problem" in fields:
            from ruchu.guests.browsing import shown

            path = _shown(fields, "path") if "path" in fields else ""
            output.note(f"ruchu: {path}: {shown(fields['problem'].encode())}")
        elif "reason" in fields:
            output.line(_volume_line(fields))
        else:
            output.line(_file_line(fields, whole=self._whole))

    def end(self) -> None:
        """Nothing is left to be printed."""


def _volume_line(fields: dict[str, Any]) -> str:
    from ruchu.guests.browsing import shown

    label, reason = (shown(fields[key].encode()) for key in ("label", "reason"))
    size = format_size(fields["size"])
    line = f"{_shown(fields, 'name'):<20}  {fields['kind']:<10}  {size:>10}  {label:<16}"
    return f"{line}  {reason}".rstrip()


def _file_line(fields: dict[str, Any], *, whole: bool) -> str:
    mode = modes.filemode(_TYPES.get(fields["kind"], 0) | int(fields["mode"], 8))
    size = fields["size"]
    if fields["device"]:
        size = "{}, {}".format(*fields["device"])
    time = (fields["modified"] or "-")[:19]
    line = f"{mode} {fields['owner']:>5} {fields['group']:>5} {size:>12} {time} "
    line += _shown(fields, "path" if whole else "name")
    if fields["target"] is not None:
        line += f" -> {_shown(fields, 'target')}"
    return line


def _shown(fields: dict[str, Any], key: str) -> str:
    import base64

    from ruchu.guests.browsing import shown

    packed = fields.get(f"{key}_base64")
    return shown(base64.b64decode(packed) if packed else fields[key].encode())
