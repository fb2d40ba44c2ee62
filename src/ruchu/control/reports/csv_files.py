"""Reports as CSV that a spreadsheet opens, and in which nothing is a formula. Pure."""

import csv
import io
import zoneinfo
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from ruchu.clock import from_text
from ruchu.control.reports import columns
from ruchu.control.reports.columns import Column, Shape, Table

# Without it Excel takes the file for one in the old encoding of its country.
BOM = "\ufeff"
# What makes a spreadsheet calculate (or skip a character, then calculate).
_FORMULAS = ("=", "+", "-", "@", "\t", "\r", "\n", "＝", "＋", "－", "＠")  # noqa: RUF001
_UNITS = {Shape.BYTES: "bytes", Shape.SECONDS: "seconds", Shape.MINUTES: "minutes"}
# Rows that are sent together.
ROWS_AT_ONCE = 500


def lines(
    table: Table, rows: Iterable[Mapping[str, Any]], language: str, zone: str
) -> Iterator[bytes]:
    """Yield a report as CSV, some rows at a time.

    Figures are plain numbers, so that they can be calculated with; moments are in `zone`.
    """
    word, where = columns.words(language), zoneinfo.ZoneInfo(zone)
    shown = columns.COLUMNS[table]
    buffer = io.StringIO()
    writer = csv.writer(buffer)
    buffer.write(BOM)
    writer.writerow([_heading(each, language) for each in shown])
    for number, row in enumerate(rows, 1):
        writer.writerow([safe(_cell(each, row.get(each.key), word, where)) for each in shown])
        if number % ROWS_AT_ONCE == 0:
            yield _taken(buffer)
    yield _taken(buffer)


def _taken(buffer: io.StringIO) -> bytes:
    text = buffer.getvalue()
    buffer.seek(0)
    buffer.truncate()
    return text.encode("utf-8", "replace")


def _heading(column: Column, language: str) -> str:
    unit = _UNITS.get(column.shape)
    return column.heading(language) + (f" ({columns.words(language)[unit]})" if unit else "")


def _cell(
    column: Column, value: Any, word: Mapping[str, str], zone: zoneinfo.ZoneInfo
) -> str | float:
    if column.shape is Shape.KIND:
        return word.get(str(value), str(value))
    if value is None or value == "":
        return word["by_hand"] if column.key == "name" else ""
    if column.shape is Shape.MOMENT:
        return f"{from_text(value).astimezone(zone):%Y-%m-%d %H:%M:%S}"
    if column.shape is Shape.FLAG:
        return word["yes"] if value else word["no"]
    return _FIGURES.get(column.shape, str)(value)


_FIGURES: Mapping[Shape, Callable[[Any], str | float]] = {
    Shape.TEXTS: lambda value: "; ".join(map(str, value)),
    Shape.SHARE: lambda value: round(float(value), 4),
    Shape.SECONDS: round,
    Shape.BYTES: int,
    Shape.COUNT: int,
    Shape.MINUTES: int,
}


def safe(value: str | float) -> str | float:
    """Return a cell that no spreadsheet takes for a formula; numbers stay numbers."""
    if isinstance(value, str) and value.lstrip(" ").startswith(_FORMULAS):
        return f"'{value}"
    return value
