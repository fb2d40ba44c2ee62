"""Reports as PDF, set by typst with the fonts of this host; none is shipped."""

import datetime
import functools
import json
import re
import threading
import zoneinfo
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from typing import Any

import typst

from ruchu import units
from ruchu.clock import from_text
from ruchu.control.reports import columns
from ruchu.control.reports.columns import Column, Shape, Table
from ruchu.errors import ControlError, TooMany

# Forty pages; who wants more wants the figures, and the CSV file has all of them.
ROWS_MAX = 1000
CELL_MAX = 200
# Setting a report takes a second or so, and as much memory as it is long: one at a time.
_WAIT_S = 30.0
_TURN = threading.Lock()
# With Chinese characters, as Debian, Red Hat, Windows servers and macOS have them.
CHINESE_FONTS = (
    "Noto Sans CJK SC", "Source Han Sans SC", "Noto Sans SC", "Source Han Sans CN",
    "WenQuanYi Micro Hei", "WenQuanYi Zen Hei", "Microsoft YaHei", "PingFang SC", "SimHei",
    "Noto Serif CJK SC", "Source Han Serif SC", "SimSun", "AR PL UMing CN",
    "Droid Sans Fallback",
)  # fmt: skip
LATIN_FONTS = ("Noto Sans", "DejaVu Sans", "Liberation Sans", "Arial")
# It is part of typst itself.
LAST_FONT = "Libertinus Serif"
# Characters that steer a terminal, or the direction of a text.
_STEERING = re.compile(r"[\x00-\x1f\x7f-\x9f\u200b-\u200f\u2028-\u202e\u2060-\u2069\ufeff]")
_RIGHT = {Shape.BYTES, Shape.COUNT, Shape.SHARE, Shape.SECONDS, Shape.MINUTES}


@dataclass(frozen=True, slots=True)
class Head:
    """What stands above a report.

    Attributes:
        server: its name.
        at: when it was made.
        zone: of every moment in it.
        days: how many days it covers; 0: it shows how things are.
    """

    server: str
    at: datetime.datetime
    zone: str
    days: int = 0


@functools.cache
def fonts() -> tuple[str, ...]:
    """Return the fonts of this host that reports are set in, the best first."""
    there = set(typst.Fonts().families())
    known = [name for name in (*LATIN_FONTS, *CHINESE_FONTS) if name in there]
    return (*known, LAST_FONT)


def knows_chinese(names: Sequence[str]) -> bool:
    """Tell whether one of some fonts has Chinese characters."""
    return not set(names).isdisjoint(CHINESE_FONTS)


def pdf(
    table: Table, rows: Sequence[Mapping[str, Any]], language: str, head: Head, count: int
) -> bytes:
    """Return a report as PDF; `count` is how many rows there are of which some are set.

    Without a font that has Chinese characters it is in English, and says so.

    Raises:
        TooMany: others are being set.
        ControlError: it could not be set.
    """
    document = content(table, rows, language, head, count)
    if not _TURN.acquire(timeout=_WAIT_S):
        raise TooMany("(reports that are being set)")
    try:
        made = typst.compile(
            _template(), format="pdf", sys_inputs={"data": json.dumps(document)},
            timestamp=head.at.replace(microsecond=0),
        )  # fmt: skip
    except typst.TypstError as error:
        raise ControlError(f"(the report could not be set: {str(error)[:500]})") from None
    finally:
        _TURN.release()
    assert isinstance(made, bytes)
    return made


def _template() -> bytes:
    return (resources.files("ruchu.control.reports") / "report.typ").read_bytes()


def content(
    table: Table, rows: Sequence[Mapping[str, Any]], language: str, head: Head, count: int
) -> dict[str, Any]:
    """Return everything that a report says, as the template takes it."""
    names, notes = fonts(), []
    if not knows_chinese(names):
        language = "en"
        notes.append(columns.WORDS["en"]["no_font"])
    word, zone = columns.words(language), zoneinfo.ZoneInfo(head.zone)
    shown, set_ = columns.COLUMNS[table], rows[:ROWS_MAX]
    if len(set_) < count:
        notes.append(word["cut"].format(shown=len(set_), count=count))
    at = f"{head.at.astimezone(zone):%Y-%m-%d %H:%M}"
    lines = [word["made"].format(at=at, zone=head.zone)]
    lines += [word["days"].format(days=head.days)] if head.days else []
    return {
        "lang": language, "fonts": list(names), "title": word[table.value],
        "server": _clean(head.server), "page": word["page"], "nothing": word["nothing"],
        "lines": [*lines, word["rows"].format(count=count)], "notes": notes,
        "widths": [each.width for each in shown],
        "right": [each.shape in _RIGHT for each in shown],
        "headings": [each.heading(language) for each in shown],
        "rows": [[_clean(_cell(each, row.get(each.key), word, zone)) for each in shown]
                 for row in set_],
    }  # fmt: skip


def _clean(text: str) -> str:
    """Return a text of one line, without characters that are no characters."""
    return _STEERING.sub(" ", text.encode("utf-8", "replace").decode())[:CELL_MAX]


def _cell(column: Column, value: Any, word: Mapping[str, str], zone: zoneinfo.ZoneInfo) -> str:
    if column.shape is Shape.KIND:
        return word.get(str(value), str(value))
    if value in (None, "", []) or (column.shape is Shape.MINUTES and not value):
        return word["by_hand"] if column.key == "name" else word["none"]
    if column.shape is Shape.MOMENT:
        return f"{from_text(value).astimezone(zone):%Y-%m-%d %H:%M}"
    shown = _SHOWN.get(column.shape)
    return shown(value, word) if shown is not None else str(value)


def length(seconds: float, word: Mapping[str, str]) -> str:
    """Return a length of time in its largest unit, rounded down."""
    minutes = int(seconds) // 60
    if minutes >= 2 * 24 * 60:
        return word["d"].format(n=minutes // (24 * 60))
    return word["h"].format(n=minutes // 60) if minutes >= 120 else word["min"].format(n=minutes)


_SHOWN: Mapping[Shape, Callable[[Any, Mapping[str, str]], str]] = {
    Shape.TEXTS: lambda value, _: ", ".join(map(str, value)),
    Shape.SECONDS: length,
    Shape.MINUTES: lambda value, word: length(value * 60, word),
    Shape.BYTES: lambda value, _: units.format_size(value),
    Shape.SHARE: lambda value, _: f"{value:.1%}",
    Shape.FLAG: lambda value, word: word["yes"] if value else word["no"],
}
