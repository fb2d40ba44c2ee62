"""Printing: documents and tables on standard output, everything else on standard error."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

import typer

from ruchu.errors import RuchuError


def document(value: Any) -> None:
    """Print one JSON document."""
    typer.echo(json.dumps(value, indent=2, sort_keys=False, ensure_ascii=False))


def line(text: str) -> None:
    """Print a line of the answer."""
    typer.echo(text)


def note(text: str) -> None:
    """Say something that is no part of the answer."""
    typer.echo(text, err=True)


def table(headings: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows in columns."""
    cells = [list(headings), *([_cell(value) for value in row] for row in rows)]
    widths = [max(len(row[at]) for row in cells) for at in range(len(headings))]
    for row in cells:
        padded = (text.ljust(width) for text, width in zip(row, widths, strict=True))
        typer.echo("  ".join(padded).rstrip())


def error(failure: RuchuError) -> None:
    """Say what went wrong, and what to do about it."""
    note(f"ruchu: {failure}")
    if failure.advice:
        note(f"  {failure.advice}")


def error_document(failure: RuchuError) -> dict[str, Any]:
    """Return what went wrong, as a document."""
    fields = {"code": failure.code, "message": str(failure), "hint": failure.advice}
    return {"error": {**fields, "retry": failure.retry}}


def _cell(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return str(value)
